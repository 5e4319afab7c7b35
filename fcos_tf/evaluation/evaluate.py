"""Model + data set -> detections in the original frame -> metrics. N images, B per batch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fcos_tf.detecting.batches import (
    COLUMNS,
    DetectFunction,
    compile_detect,
    complete_targets,
    detect_batch,
    original_scale,
)
from fcos_tf.evaluation.classification import run_classifier
from fcos_tf.evaluation.coco import COCO_DEFINITIONS, coco_evaluation
from fcos_tf.evaluation.records import (
    Records,
    Scores,
    default_category_ids,
    detections_to_records,
    ground_truth_to_coco,
)
from fcos_tf.evaluation.voc import voc_evaluation
from fcos_tf.models.input_checks import check_labels

# name -> function of (ground truth, detections).
METRICS: dict[str, Callable[..., Scores]] = {
    "coco": coco_evaluation,
    "voc07": partial(voc_evaluation, points="voc07"),
    "voc12": partial(voc_evaluation, points="voc12"),
}
_OPTIONAL = ("areas", "ignored_boxes", "ignored_labels")  # targets of a batch
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
    """Runs a model over a data set and scores it.

    Args:
        model: a detector with `detect(images, image_sizes)`; a classifier, which is evaluated by
            `classification_evaluation`; or another model without `protocols` of `METRICS`, which
            is evaluated by its mean losses.
        dataset: finite batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        metrics: names out of `METRICS`: "coco", "voc07", "voc12", for a model with `protocols`.
        flip: also detect on the mirrored images, and merge the detections.
        views: the same split loaded with other image sizes, to merge the detections of.
        detect: result of `compile_detect(model, dataset.class_names)`, or of
            `compile_classify(model)`, to trace a model only once.
        progress: called after every batch with the number of images done, including `views`.

    Returns:
        All metrics in one dictionary, e.g. `AP`, `AP50`, `mAP_voc07`; `mAP_all` and `mAP_11` of a
        classifier, `accuracy` of one class an image; or `loss` and its parts.

    Raises:
        ValueError: an unknown metric, a duplicate image id, an endless or empty data set, labels
            outside the data set's classes, views of other images.

    Example:
        val = fcos_tf.data.load("voc", data_dir=folder, split="val", batch_size=8)
        print(fcos_tf.evaluation.evaluate(model, val)["AP50"])
    """
    if not getattr(model, "protocols", METRICS):
        if flip or len(views):
            what = f"as {type(model).__name__} is evaluated by numbers of its own"
            raise ValueError(
                f"flip and views: expected none, {what}; got flip={flip}, {len(views)} views"
            )
        refuse_endless(dataset)
        if getattr(dataset, "num_hosts", 1) > 1:
            raise ValueError(
                f"expected one host to evaluate a {type(model).__name__}, got {dataset.num_hosts}"
            )
        if hasattr(model, "classify"):
            run = run_classifier(model, dataset, classify=detect, progress=progress)
            return run.scores().metrics
        losses = model.evaluate(dataset, return_dict=True, verbose=0)
        return {name: float(value) for name, value in losses.items()}
    _check_metrics(metrics)  # before the long run
    records = run_detector(model, dataset, flip=flip, views=views, detect=detect, progress=progress)
    return score_records(records, metrics).metrics


def run_detector(
    model: Any,
    dataset: Iterable,
    *,
    flip: bool = False,
    views: Sequence[Iterable] = (),
    detect: DetectFunction | None = None,
    progress: Callable[[int], None] | None = None,
) -> Records:
    """Runs a detector over a data set, batch by batch.

    Class names and category ids come from the attributes `class_names` and `category_ids` of the
    data set (`map` and `take` lose them), else from the model; else classes are numbered, and
    category ids are 1..C. Rows with a negative image id are padding.

    With shares of a data set (`load(..., num_hosts=..., host=...)`) every host runs over its own;
    then all get the results of all, in the order of a run on one host.

    Detections of several views are merged with the model's `nms_threshold` and `max_detections`.

    Args, Raises: see `evaluate`.

    Returns:
        Ground truth and detections, in pixels of the original images.
    """
    datasets = (dataset, *views)
    for each in datasets:
        refuse_endless(each)
        check_labels(model, each)
    class_names = class_names_of(model, dataset)
    detect = detect or compile_detect(model, class_names)
    if flip or views:
        from fcos_tf.evaluation import tta

        inclusive_pixels = getattr(model, "inclusive_pixels", False)
        detect = tta.mirrored_too(detect, inclusive_pixels) if flip else detect
    runs: list[_Run] = []
    for each in datasets:
        images_before = sum(len(run.columns["image_ids"]) for run in runs)
        run = _run_over(each, model, detect, progress, images_before)
        if getattr(each, "num_hosts", 1) > 1:
            from fcos_tf.evaluation.distributed import join_hosts

            run = _Run(*join_hosts(*run, host=each.host, strategy=model.distribute_strategy))
        if not len(run.columns["image_ids"]):
            raise ValueError(_without_images(each, run.num_rows))
        runs.append(run)
    first = found = runs[0].columns
    if flip or views:
        found = tta.merge_runs(
            [run.columns for run in runs],
            iou_threshold=model.nms_threshold,
            max_detections=model.max_detections,
        )
    names, ids = _classes(model, dataset, class_names, first)
    ground_truth = ground_truth_to_coco(
        first["image_ids"],
        first["sizes"],
        first["true_boxes"],
        first["true_labels"],
        names,
        ids,
        **{name: first[name] for name in _OPTIONAL if name in first},
    )
    columns = (found[name] for name in COLUMNS)
    return Records(ground_truth, detections_to_records(first["image_ids"], *columns, ids))


def score_records(records: Records, metrics: Sequence[str] = ("coco",)) -> Scores:
    """Scores records by several protocols at once.

    Args:
        records: ground truth and detections.
        metrics: names out of `METRICS`.

    Returns:
        All metrics, over all classes and per class.

    Raises:
        ValueError: an unknown metric, or records that do not match.
    """
    together = Scores({}, {})
    for name in _check_metrics(metrics):
        scores = METRICS[name](records.ground_truth, records.detections)
        together.metrics.update(scores.metrics)
        for class_name, numbers in scores.per_class.items():
            together.per_class.setdefault(class_name, {}).update(numbers)
    return together


def metric_names(metrics: Sequence[str] = ("coco",)) -> tuple[str, ...]:
    """Returns the keys of the result of `evaluate` for these metrics.

    Example:
        >>> metric_names(("voc07",))
        ('mAP_voc07',)
    """
    return tuple(number for name in _check_metrics(metrics) for number in _NUMBERS[name])


def refuse_endless(dataset: Iterable) -> None:
    """Refuses an endless `tf.data.Dataset`.

    Raises:
        ValueError: the data set is endless.
    """
    cardinality = getattr(dataset, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise ValueError("the data set never ends; load it with repeat=False to evaluate on it")


class _Run(NamedTuple):
    """The results of one pass over one data set, in pixels of the original images.

    Attributes:
        num_rows: Rows of all batches, including padding rows.
        columns: name -> a row for each of N images: `image_ids`, all different; `batches`, the
            index of its batch; `boxes`, `scores`, `labels` of the detections; `sizes` of the
            images; the ground truth's `true_boxes` and `true_labels`, and where the data set has
            them `areas`, `ignored_boxes`, `ignored_labels`.
    """

    num_rows: int
    columns: Mapping[str, Sequence]


def _run_over(
    dataset: Iterable,
    model: Any,
    detect: DetectFunction,
    progress: Callable[[int], None] | None,
    images_before: int,
) -> _Run:
    columns: dict[str, list] = defaultdict(list)
    image_ids: set[int] = set()
    inclusive_pixels = getattr(model, "inclusive_pixels", False)
    full_batch = num_rows = 0
    for number, (images, targets) in enumerate(dataset):
        targets = complete_targets(targets, num_rows, images)
        real = targets["image_ids"] >= 0
        full_batch = max(full_batch, len(real))
        num_rows += len(real)
        found = detect_batch(
            detect, images, targets, inclusive_pixels=inclusive_pixels, full_batch=full_batch
        )
        for image_id in targets["image_ids"][real].tolist():
            if image_id in image_ids:
                raise ValueError(f"image id {image_id} occurs twice in the data set")
            image_ids.add(image_id)
        found["batches"] = np.full(len(real), number)
        for name, rows in {**found, **_ground_truth(targets)}.items():
            columns[name].extend(rows[real])
        if progress is not None:
            progress(images_before + len(image_ids))
    return _Run(num_rows, columns)


def _ground_truth(targets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of `_Run`, [B, ...] each, from the targets of a batch."""
    columns = {
        "image_ids": targets["image_ids"],
        "sizes": targets["original_sizes"].astype(np.float64),
        "true_boxes": _original_boxes(targets, "boxes"),
        "true_labels": targets["labels"],
        **{name: targets[name] for name in _OPTIONAL if name in targets},
    }
    if "ignored_boxes" in targets:
        columns["ignored_boxes"] = _original_boxes(targets, "ignored_boxes")
    return columns


def _original_boxes(targets: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Boxes in pixels of the original images; a user's own batches may have only the resized."""
    original = targets.get(f"original_{name}")
    if original is not None:
        return original
    return targets[name] * original_scale(targets["image_sizes"], targets["original_sizes"])


def _without_images(dataset: Iterable, num_rows: int) -> str:
    """The message for a data set without a readable image."""
    if not num_rows:
        return "the data set has no batch to evaluate on"
    skipped = getattr(getattr(dataset, "image_faults", None), "skipped", ())
    first = f"; the first: {skipped[0]}" if skipped else ""
    return f"the data set has no image to evaluate on: {num_rows} could not be read{first}"


def _known(which: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and category ids of a model or a data set, empty if unknown."""
    return tuple(tuple(getattr(which, n, None) or ()) for n in ("class_names", "category_ids"))


def class_names_of(model: Any, dataset: Iterable) -> tuple[str, ...]:
    """The names of the data set's labels; empty if neither it nor the model has any."""
    names, ids = _known(dataset)
    model_names, model_ids = _known(model)
    if names or not model_names:
        return names
    name_of = dict(zip(model_ids, model_names, strict=False))
    # Without names but with ids, its labels may be in another order than the model's.
    return tuple(name_of[key] for key in ids) if ids and set(ids) <= set(name_of) else model_names


def _classes(
    model: Any, dataset: Iterable, names: tuple[str, ...], columns: Mapping[str, Sequence]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and category ids of the data set's labels, from the best available source."""
    _, ids = _known(dataset)
    model_names, model_ids = _known(model)
    if not names:
        labels = [*columns["true_labels"], *columns["labels"]]
        largest = max((int(part.max()) for part in labels if part.size), default=-1)
        num_classes = len(ids or model_ids) or getattr(model, "num_classes", None) or largest + 1
        names = tuple(str(label) for label in range(max(num_classes, 1)))
    if not ids and model_names:
        id_of = dict(zip(model_names, model_ids, strict=False))
        ids = tuple(id_of[name] for name in names) if set(names) <= set(id_of) else ()
    elif not ids and len(model_ids) == len(names):
        ids = model_ids
    return names, default_category_ids(names, ids or None)


def _check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not names:
        raise ValueError(f"expected at least one metric of: {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; there are: {', '.join(METRICS)}")
    return names
