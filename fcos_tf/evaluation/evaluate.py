"""Model + data set -> detections in the original frame -> metrics."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from fcos_tf.evaluation.coco import COCO_DEFINITIONS, coco_evaluation
from fcos_tf.evaluation.detect_function import DetectFunction
from fcos_tf.evaluation.inference import run_detector
from fcos_tf.evaluation.records import Records, Scores
from fcos_tf.evaluation.voc import voc_evaluation

# name -> function of (ground truth, detections); further protocols join here.
METRICS: dict[str, Callable[..., Scores]] = {
    "coco": coco_evaluation,
    "voc07": partial(voc_evaluation, points="voc07"),
    "voc12": partial(voc_evaluation, points="voc12"),
}
_NUMBERS = {"coco": tuple(COCO_DEFINITIONS), "voc07": ("mAP_voc07",), "voc12": ("mAP_voc12",)}


def evaluate(
    model: Any,
    dataset: Iterable,
    metrics: Sequence[str] = ("coco",),
    *,
    flip: bool = False,
    views: Sequence[Iterable] = (),
    detect: DetectFunction | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Runs a detector over a data set and scores it.

    Args:
        model: a detector with `detect(images, image_sizes)`.
        dataset: finite batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        metrics: names out of `METRICS`: "coco", "voc07", "voc12".
        flip: also detect on the mirrored images, and merge what both views find.
        views: the same split loaded with other image sizes; what they find is merged in too.
        detect: what `compile_detect(model)` returned before, so that repeated evaluations of one
            model do not trace it again.
        progress: called after every batch with the number of images done so far, those of `views`
            included.

    Returns:
        The numbers of all metrics in one dictionary, e.g. `AP`, `AP50`, `mAP_voc07`.

    Raises:
        ValueError: an unknown metric, an image id that occurs twice, an endless or empty data
            set, labels that the data set has no class for, views of other images.

    Example:
        val = fcos_tf.data.load("voc", data_dir=folder, split="val", batch_size=8)
        print(fcos_tf.evaluation.evaluate(model, val)["AP50"])
    """
    _check_metrics(metrics)  # before the long run, not after it
    records = run_detector(model, dataset, flip=flip, views=views, detect=detect, progress=progress)
    return score_records(records, metrics).metrics


def score_records(records: Records, metrics: Sequence[str] = ("coco",)) -> Scores:
    """Scores records by several protocols at once.

    Args:
        records: what was there and what was found.
        metrics: names out of `METRICS`.

    Returns:
        The numbers of all metrics, over all classes and per class.

    Raises:
        ValueError: an unknown metric, or records that do not fit together.
    """
    together = Scores({}, {})
    for name in _check_metrics(metrics):
        scores = METRICS[name](records.ground_truth, records.detections)
        together.metrics.update(scores.metrics)
        for class_name, numbers in scores.per_class.items():
            together.per_class.setdefault(class_name, {}).update(numbers)
    return together


def metric_names(metrics: Sequence[str] = ("coco",)) -> tuple[str, ...]:
    """Returns the names of the numbers that `evaluate` gives for these metrics.

    Example:
        >>> metric_names(("voc07",))
        ('mAP_voc07',)
    """
    return tuple(number for name in _check_metrics(metrics) for number in _NUMBERS[name])


def _check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not names:
        raise ValueError(f"expected at least one metric of: {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; there are: {', '.join(METRICS)}")
    return names
