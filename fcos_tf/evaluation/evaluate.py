"""Model + data set -> detections in the original frame -> metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_tf.evaluation.coco import coco_metrics
from fcos_tf.evaluation.records import (
    default_category_ids,
    detections_to_records,
    ground_truth_to_coco,
)


@dataclass(frozen=True)
class Records:
    """What was there and what was found, both in pixels of the original images.

    Attributes:
        ground_truth: a COCO dictionary (`images`, `annotations`, `categories`).
        detections: COCO result records.
    """

    ground_truth: dict[str, list]
    detections: list[dict[str, Any]]


# name -> function of Records; further protocols join here.
METRICS: dict[str, Callable[[Records], dict[str, float]]] = {
    "coco": lambda records: coco_metrics(records.ground_truth, records.detections),
}

# (images [B,H,W,3], image_sizes [B,2]) -> detections
DetectFunction = Callable[[Any, Any], Mapping[str, Any]]


def evaluate(
    model: Any,
    dataset: Iterable,
    metrics: Sequence[str] = ("coco",),
    *,
    detect: DetectFunction | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Runs a detector over a data set and scores it.

    Args:
        model: a detector with `detect(images, image_sizes)`.
        dataset: finite batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        metrics: names out of `METRICS`.
        detect: what `compile_detect(model)` returned before, so that repeated evaluations of one
            model do not trace it again.
        progress: called after every batch with the number of images done so far.

    Returns:
        The numbers of all metrics in one dictionary, e.g. `AP`, `AP50`.

    Raises:
        ValueError: an unknown metric, an image id that occurs twice, an endless or empty data
            set, labels that the data set has no class for.

    Example:
        val = fcos_tf.data.load("voc", data_dir=folder, split="val", batch_size=8)
        print(fcos_tf.evaluation.evaluate(model, val)["AP50"])
    """
    _check_metrics(metrics)  # before the long run, not after it
    return score_records(run_detector(model, dataset, detect=detect, progress=progress), metrics)


def score_records(records: Records, metrics: Sequence[str] = ("coco",)) -> dict[str, float]:
    """Returns the numbers of all `metrics` (names out of `METRICS`) in one dictionary.

    Raises:
        ValueError: an unknown metric, or records that do not fit together.
    """
    scores = {}
    for name in _check_metrics(metrics):
        scores.update(METRICS[name](records))
    return scores


def run_detector(
    model: Any,
    dataset: Iterable,
    *,
    detect: DetectFunction | None = None,
    progress: Callable[[int], None] | None = None,
) -> Records:
    """Runs a detector over a data set, batch by batch.

    Class names and category ids come from the attributes `class_names` and `category_ids` of the
    data set where it has them (a mapped or shortened one loses them), else from the model; else
    classes are numbered, and category ids are 1..C.

    Args, Raises: see `evaluate`.

    Returns:
        Ground truth and detections, in pixels of the original images.
    """
    _check_finite(dataset)
    detect = detect or compile_detect(model)
    images_done: list[dict[str, Any]] = []
    seen: set[int] = set()
    full_batch = 0
    for images, targets in dataset:
        targets = {key: np.asarray(value) for key, value in targets.items()}
        num_images = len(targets["image_ids"])
        full_batch = max(full_batch, num_images)
        detections = _detect_batch(detect, images, targets["image_sizes"], full_batch)
        for image in _to_original_frame(targets, detections):
            if image["id"] in seen:
                raise ValueError(f"image id {image['id']} occurs twice in the data set")
            seen.add(image["id"])
            images_done.append(image)
        if progress is not None:
            progress(len(images_done))
    if not images_done:
        raise ValueError("the data set has no batch to evaluate on")
    return _to_records(images_done, *_classes(model, dataset, images_done))


def compile_detect(model: Any) -> DetectFunction:
    """Returns `model.detect` as one compiled function of `(images, image_sizes)`.

    On TensorFlow it is traced once per canvas at most; the trace holds thresholds and whatever
    else is a plain attribute of the model, but reads the weights afresh on every call.
    """
    # Imported here so that scoring bare result files does not wait for TensorFlow.
    import keras

    if keras.config.backend() != "tensorflow":
        return lambda images, image_sizes: model.detect(np.asarray(images), image_sizes)
    import tensorflow as tf

    # There is no Python control flow on tensors to convert, and tracing is faster without.
    return tf.function(
        lambda images, image_sizes: model.detect(images, image_sizes),
        reduce_retracing=True,
        autograph=False,
    )


def _detect_batch(
    detect: DetectFunction, images: Any, image_sizes: np.ndarray, full_batch: int
) -> dict[str, np.ndarray]:
    """Detects on a batch; a smaller one is filled up so that it needs no trace of its own."""
    num_images = len(image_sizes)
    if num_images < full_batch:
        # Copies of the last image, as zeros could be a case the model has never met.
        rows = np.minimum(np.arange(full_batch), num_images - 1)
        images, image_sizes = np.asarray(images)[rows], image_sizes[rows]
    detections = detect(images, np.asarray(image_sizes, np.float32))
    return {key: np.asarray(detections[key])[:num_images] for key in ("boxes", "scores", "labels")}


def _to_original_frame(
    targets: Mapping[str, np.ndarray], detections: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Returns for each image its id and size, and its boxes in pixels of the original."""
    original = targets["original_sizes"].astype(np.float64)  # [B, 2] (height, width)
    scale = original / targets["image_sizes"].astype(np.float64)
    scale = np.tile(scale[:, ::-1], 2)[:, None]  # [B, 1, 4] to x, y, x, y
    limit = np.tile(original[:, ::-1], 2)[:, None]  # [B, 1, 4]
    truth_boxes = targets["boxes"] * scale
    boxes = np.clip(detections["boxes"] * scale, 0.0, limit)
    return [
        {
            "id": int(targets["image_ids"][i]),
            "size": original[i],
            "truth_boxes": truth_boxes[i],
            "truth_labels": targets["labels"][i],
            "boxes": boxes[i],
            "scores": detections["scores"][i],
            "labels": detections["labels"][i],
        }
        for i in range(len(original))
    ]


def _classes(
    model: Any, dataset: Iterable, images: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns class names and category ids, from the best source there is."""
    names = getattr(dataset, "class_names", None) or getattr(model, "class_names", None)
    ids = getattr(dataset, "category_ids", None)
    if not names:
        labels = [image[key] for image in images for key in ("truth_labels", "labels")]
        largest = max((int(part.max()) for part in labels if part.size), default=-1)
        num_classes = len(ids) if ids else getattr(model, "num_classes", None) or largest + 1
        names = tuple(str(label) for label in range(max(num_classes, 1)))
    return tuple(names), default_category_ids(names, ids)


def _to_records(
    images: Sequence[Mapping[str, Any]], class_names: Sequence[str], category_ids: Sequence[int]
) -> Records:
    def column(key):
        return [image[key] for image in images]

    ground_truth = ground_truth_to_coco(
        column("id"),
        column("size"),
        column("truth_boxes"),
        column("truth_labels"),
        class_names,
        category_ids,
    )
    detections = detections_to_records(
        column("id"), column("boxes"), column("scores"), column("labels"), category_ids
    )
    return Records(ground_truth, detections)


def _check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; there are: {', '.join(sorted(METRICS))}")
    return names


def _check_finite(dataset: Iterable) -> None:
    """A repeating data set would be evaluated for ever; tf.data gives -1 for its cardinality."""
    cardinality = getattr(dataset, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:
        raise ValueError("the data set never ends; load it with repeat=False to evaluate on it")
