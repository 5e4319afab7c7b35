"""A detector over a whole data set: detections and ground truth in the original frame.

Shape shorthand: N images of a data set, B of a batch, D detections of an image (of all its views,
until they are merged).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fcos_tf.evaluation.detect_function import DetectFunction, compile_detect, compiled
from fcos_tf.evaluation.frames import boxes_to_original, original_scale
from fcos_tf.evaluation.records import (
    Records,
    default_category_ids,
    detections_to_records,
    ground_truth_to_coco,
)

_FOUND = ("boxes", "scores", "labels")
_IGNORED = ("ignored_boxes", "ignored_labels")


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

    Of a data set that is one host's share (`load(..., num_hosts=..., host=...)`) every host runs
    over its own; then all get the images of all, in the order in which one alone would have them.

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
        run = _run_over(each, detect, progress, images_before, inclusive)
        if getattr(each, "num_hosts", 1) > 1:
            run = _of_all_hosts(run, each.host, model)
        if not run.image_ids:
            raise ValueError(_without_images(each, run.num_rows))
        runs.append(run)
    first = runs[0]
    found = _merge(model, runs) if flip or views else first.columns
    return _to_records(first, found, *_classes(model, dataset, first.columns))


class _Run(NamedTuple):
    """What came of one pass over one data set, in pixels of the original images.

    Attributes:
        image_ids: N ids, all different.
        batches: N numbers of the batch that an image came in.
        num_rows: Rows of all batches, those without an image included.
        columns: name -> N arrays: `boxes`, `scores`, `labels` of what was found; `sizes` of the
            images; `true_boxes`, `true_labels`, and of the ground truth also what the data set has
            of `areas`, `ignored_boxes`, `ignored_labels`.
    """

    image_ids: list[int]
    batches: list[int]
    num_rows: int
    columns: dict[str, list[np.ndarray]]


def _run_over(
    dataset: Iterable,
    detect: DetectFunction,
    progress: Callable[[int], None] | None,
    images_before: int,
    inclusive_pixels: bool,
) -> _Run:
    image_ids: dict[int, int] = {}  # to their batches
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    full_batch = num_rows = 0
    for batch, (images, targets) in enumerate(dataset):
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
            image_ids[image_id] = batch
        for name, rows in _to_original_frame(targets, found, inclusive_pixels).items():
            columns[name].extend(rows)
        if progress is not None:
            progress(images_before + len(image_ids))
    return _Run(list(image_ids), list(image_ids.values()), num_rows, columns)


def _of_all_hosts(run: _Run, host: int, model: Any) -> _Run:
    """Joins the runs of all hosts over their shares of one data set."""
    from fcos_tf.evaluation.distributed import gather_arrays

    arrays = {
        **{name: np.stack(rows) for name, rows in run.columns.items()},
        "image_ids": np.array(run.image_ids, np.int64),
        "batches": np.array(run.batches, np.int64),
        "hosts": np.full(len(run.image_ids), host),
        "num_rows": np.int64(run.num_rows),
    }
    parts = gather_arrays(arrays, model.distribute_strategy)
    num_rows = int(sum(part.pop("num_rows") for part in parts))
    parts = [part for part in parts if part["image_ids"].size]
    if not parts:
        return run._replace(num_rows=num_rows)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Each batch holds the images of host 0, then those of host 1 ...
    order = np.lexsort((joined.pop("hosts"), joined["batches"]))
    columns = {name: rows[order] for name, rows in joined.items()}
    image_ids, batches = (columns.pop(name).tolist() for name in ("image_ids", "batches"))
    if len(set(image_ids)) < len(image_ids):
        raise ValueError("images of a host are those of another, too; expected different shares")
    return _Run(image_ids, batches, num_rows, columns)


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
