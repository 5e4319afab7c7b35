"""A detector over a whole data set: detections and ground truth in the original frame.

Shape shorthand: N images of a data set, B of a batch, D detections of an image (of all its views,
until they are merged).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fcos_tf.evaluation.frames import boxes_to_original, original_scale
from fcos_tf.evaluation.records import (
    Records,
    default_category_ids,
    detections_to_records,
    ground_truth_to_coco,
)

# (images [B, H, W, 3], image_sizes [B, 2]) -> detections
DetectFunction = Callable[[Any, Any], Mapping[str, Any]]

_FOUND = ("boxes", "scores", "labels")
_IGNORED = ("ignored_boxes", "ignored_labels")


def compile_detect(model: Any, class_names: Sequence[str] | None = None) -> DetectFunction:
    """Returns `model.detect` as one compiled function of `(images, image_sizes)`.

    On TensorFlow it is traced once per canvas at most; the trace holds thresholds and whatever
    else is a plain attribute of the model, but reads the weights afresh on every call.

    Args:
        model: a detector.
        class_names: the classes of a data set. Where the model's are others, or in another order,
            its labels are brought to those of the data set by name; what the data set has no class
            for becomes padding, label -1.

    Raises:
        ValueError: the data set has a class that the model does not know.
    """
    table = _label_table(getattr(model, "class_names", None), class_names)
    if table is None:
        return compiled(lambda images, image_sizes: model.detect(images, image_sizes))

    def detect(images, image_sizes):
        from keras import ops

        found = model.detect(images, image_sizes)
        return {**found, "labels": ops.take(ops.convert_to_tensor(table), found["labels"] + 1)}

    return compiled(detect)


def _label_table(
    model_names: Sequence[str] | None, class_names: Sequence[str] | None
) -> np.ndarray | None:
    """A data set's label for the model's labels from -1 on, int32 [C + 1]; None: the same."""
    if not model_names or not class_names or tuple(model_names) == tuple(class_names):
        return None
    unknown = [name for name in class_names if name not in model_names]
    if unknown:
        raise ValueError(
            f"expected a model of the data set's classes; it does not know {', '.join(unknown)}"
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    return np.array([-1, *(label_of.get(name, -1) for name in model_names)], np.int32)


def compiled(function: Callable) -> Callable:
    """Returns a function of tensors as a graph, where TensorFlow is the backend.

    It is traced again for new shapes only.
    """
    # Imported here so that scoring bare result files does not wait for TensorFlow.
    import keras

    if keras.config.backend() != "tensorflow":
        return lambda *inputs: function(*(np.asarray(each) for each in inputs))
    import tensorflow as tf

    # There is no Python control flow on tensors to convert, and tracing is faster without.
    return tf.function(function, reduce_retracing=True, autograph=False)


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
    data set where it has them (a mapped or shortened one loses them), else from the model; else
    classes are numbered, and category ids are 1..C. Rows with a negative image id fill up batches
    and are no images.

    Where there are several views of an image, their detections are merged with the model's
    `nms_threshold` and `max_detections`.

    Args, Raises: see `evaluate`.

    Returns:
        Ground truth and detections, in pixels of the original images.
    """
    datasets = (dataset, *views)
    for each in datasets:
        check_finite(each)
    detect = detect or compile_detect(model, getattr(dataset, "class_names", None))
    if flip:
        detect = _mirrored_too(detect)
    inclusive = getattr(model, "inclusive_pixels", False)
    runs: list[_Run] = []
    for each in datasets:
        images_before = sum(len(run.image_ids) for run in runs)
        runs.append(_run_over(each, detect, progress, images_before, inclusive))
    first = runs[0]
    found = _merge(model, runs) if flip or views else first.columns
    return _to_records(first, found, *_classes(model, dataset, first.columns))


class _Run(NamedTuple):
    """What came of one pass over one data set, in pixels of the original images.

    Attributes:
        image_ids: N ids, all different.
        columns: name -> N arrays: `boxes`, `scores`, `labels` of what was found; `sizes` of the
            images; `true_boxes`, `true_labels`, and of the ground truth also what the data set has
            of `areas`, `ignored_boxes`, `ignored_labels`.
    """

    image_ids: list[int]
    columns: dict[str, list[np.ndarray]]


def _run_over(
    dataset: Iterable,
    detect: DetectFunction,
    progress: Callable[[int], None] | None,
    images_before: int,
    inclusive_pixels: bool,
) -> _Run:
    image_ids: dict[int, None] = {}
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    full_batch = num_rows = 0
    for images, targets in dataset:
        targets = {key: np.asarray(value) for key, value in targets.items()}
        real = targets["image_ids"] >= 0
        full_batch = max(full_batch, len(real))
        num_rows += len(real)
        found = _detect_batch(detect, images, targets["image_sizes"], full_batch)
        targets, found = (
            {key: value[real] for key, value in each.items()} for each in (targets, found)
        )
        for image_id in targets["image_ids"].tolist():
            if image_id in image_ids:
                raise ValueError(f"image id {image_id} occurs twice in the data set")
            image_ids[image_id] = None
        for name, rows in _to_original_frame(targets, found, inclusive_pixels).items():
            columns[name].extend(rows)
        if progress is not None:
            progress(images_before + len(image_ids))
    if not image_ids:
        raise ValueError(_without_images(dataset, num_rows))
    return _Run(list(image_ids), columns)


def _without_images(dataset: Iterable, num_rows: int) -> str:
    """What to say of a data set none of whose rows was an image."""
    if not num_rows:
        return "the data set has no batch to evaluate on"
    skipped = getattr(getattr(dataset, "image_faults", None), "skipped", ())
    first = f"; the first: {skipped[0]}" if skipped else ""
    return f"the data set has no image to evaluate on: {num_rows} could not be read{first}"


def _merge(model: Any, runs: Sequence[_Run]) -> dict[str, np.ndarray]:
    """Merges what all runs have found, in the order of the images of the first."""
    from fcos_tf.evaluation.tta import merge_views

    image_ids = runs[0].image_ids
    parts = defaultdict(list)
    for run in runs:
        row_of = {image_id: row for row, image_id in enumerate(run.image_ids)}
        odd = row_of.keys() ^ set(image_ids)
        if odd:
            raise ValueError(f"all views must have the same images; not all have id {min(odd)}")
        rows = [row_of[image_id] for image_id in image_ids]
        for name in _FOUND:
            parts[name].append(np.stack(run.columns[name])[rows])
    return merge_views(
        {name: np.concatenate(arrays, axis=1) for name, arrays in parts.items()},
        iou_threshold=model.nms_threshold,
        max_detections=model.max_detections,
    )


def _mirrored_too(detect: DetectFunction) -> DetectFunction:
    """Returns a function that detects on images and on their mirror images: [B, 2 D, ...]."""
    from fcos_tf.evaluation.tta import mirror_boxes, mirror_images

    mirror = compiled(mirror_images)

    def detect_twice(images, image_sizes):
        straight, mirrored = (
            {name: np.asarray(found[name]) for name in _FOUND}
            for found in (
                detect(images, image_sizes),
                detect(mirror(images, image_sizes), image_sizes),
            )
        )
        mirrored["boxes"] = mirror_boxes(mirrored["boxes"], image_sizes)
        return {name: np.concatenate([straight[name], mirrored[name]], axis=1) for name in _FOUND}

    return detect_twice


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
    return {name: np.asarray(detections[name])[:num_images] for name in _FOUND}


def _to_original_frame(
    targets: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], inclusive_pixels: bool
) -> dict[str, np.ndarray]:
    """Returns the columns of `_Run` for a batch, [B, ...] each.

    Args:
        targets: of the batch.
        found: detections in pixels of the resized images.
        inclusive_pixels: whether x2 and y2 of those name the last pixel inside.
    """
    sizes = targets["image_sizes"], targets["original_sizes"]
    scale = original_scale(*sizes)
    columns = {
        **found,
        "boxes": boxes_to_original(found["boxes"], *sizes, inclusive_pixels=inclusive_pixels),
        "sizes": targets["original_sizes"].astype(np.float64),
        "true_boxes": targets["boxes"] * scale,
        "true_labels": targets["labels"],
    }
    if "areas" in targets:
        columns["areas"] = targets["areas"]
    if "ignored_boxes" in targets:
        columns["ignored_boxes"] = targets["ignored_boxes"] * scale
        columns["ignored_labels"] = targets["ignored_labels"]
    return columns


def _classes(
    model: Any, dataset: Iterable, columns: Mapping[str, Sequence[np.ndarray]]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns class names and category ids, from the best source there is."""
    names = getattr(dataset, "class_names", None) or getattr(model, "class_names", None)
    ids = getattr(dataset, "category_ids", None)
    if not names:
        labels = [*columns["true_labels"], *columns["labels"]]
        largest = max((int(part.max()) for part in labels if part.size), default=-1)
        num_classes = len(ids) if ids else getattr(model, "num_classes", None) or largest + 1
        names = tuple(str(label) for label in range(max(num_classes, 1)))
    return tuple(names), default_category_ids(names, ids)


def _to_records(
    run: _Run,
    found: Mapping[str, Sequence[np.ndarray]],
    class_names: Sequence[str],
    category_ids: Sequence[int],
) -> Records:
    truth = run.columns
    ground_truth = ground_truth_to_coco(
        run.image_ids,
        truth["sizes"],
        truth["true_boxes"],
        truth["true_labels"],
        class_names,
        category_ids,
        **{name: truth[name] for name in ("areas", *_IGNORED) if name in truth},
    )
    detections = detections_to_records(
        run.image_ids, *(found[name] for name in _FOUND), category_ids
    )
    return Records(ground_truth, detections)


def check_finite(dataset: Iterable) -> None:
    """Refuses a `tf.data.Dataset` that repeats, as it would be evaluated for ever.

    Raises:
        ValueError: the data set has no end.
    """
    # tf.data gives -1 for endless.
    cardinality = getattr(dataset, "cardinality", None)
    if callable(cardinality) and int(cardinality()) == -1:
        raise ValueError("the data set never ends; load it with repeat=False to evaluate on it")
