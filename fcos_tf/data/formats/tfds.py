"""Data sets prepared by TensorFlow Datasets (TFDS), without TFDS on the way of the images.

A prepared data set is a folder with `dataset_info.json`, `features.json` and TFRecord shards. The
shards are gone through once to get all annotations and the byte range of every encoded image.
After that images can be read in any order, which TFDS' own way does not offer.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from fcos_tf.data.annotations import Annotations, Fault, ReadResult, check_annotations
from fcos_tf.data.formats.tfds_features import find_detection_features
from fcos_tf.data.formats.tfds_folders import find_builder_dir
from fcos_tf.data.formats.tfds_shards import Columns, Part, read_parts


def read_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    include_difficult: bool = False,
    limit: int | None = None,
) -> ReadResult:
    """Reads the annotations of a split of a prepared TFDS data set. Downloads nothing.

    Which features are used, see `find_detection_features`. Objects with a true `is_crowd`,
    `is_difficult` or `is_group_of` (or `iscrowd`, `crowd`, `difficult`) are ignored. Boxes are
    scaled by the size that is stored in the image itself; where it cannot be read, the size is 0
    and the boxes stay normalised.

    `image_id` is the feature `image/id`, or the file name as a number where every one consists of
    digits; where neither is there and different for all images, the position from 1.

    Two published data sets have boxes that are off, and are put right: those of voc keep VOC's
    one-based corners, and in kitti the y axis points up.

    Args:
        name: As for `tfds.load`: "voc/2007", "coco/2017:1.1.0".
        split: As for `tfds.load`: "train", "train[:80%]", "train+validation". The order is that of
            the files.
        data_dir: As for `tfds.load`; may be a URL such as gs://bucket/folder.
        class_names: Name of each label: some of the data set's classes, in any order. Objects of
            the others are left out. Default: all.
        include_difficult: Use objects with a true `is_difficult` like others.
        limit: Only the first `limit` images.

    Returns:
        A `ReadResult`, the annotations with `ranges`.

    Raises:
        FileNotFoundError: No such data set has been prepared there, or a shard is missing.
        ValueError: No such split or class name, features without boxes, or a broken shard.

    Example:
        >>> result = read_tfds("voc/2007", "train+validation", data_dir="~/tensorflow_datasets")
    """
    builder = _open_builder(name, data_dir)
    info, where = builder.info, os.fspath(builder.data_dir)
    features = find_detection_features(info.features, where)
    if include_difficult:
        ignored = tuple(n for n in features.ignored if not n.endswith("difficult"))
        features = replace(features, ignored=ignored)
    parts = _parts(info, split, limit, where)
    columns = read_parts(parts, features)

    files = [part.file for part in parts for _ in range(part.take)]
    owners = np.repeat(np.arange(len(files)), columns.counts)
    image_ids, faults = _image_ids(columns, where)
    origins = [f"{file} image {number}" for file, number in zip(files, image_ids, strict=True)]
    annotations = Annotations(
        files=files,
        image_ids=image_ids,
        sizes=columns.sizes,
        owners=owners,
        boxes=_to_pixels(columns.boxes, columns.sizes[owners], info),
        labels=columns.labels,
        areas=columns.areas,
        ignored=columns.ignored,
        numbers=columns.numbers,
        class_names=features.class_names,
        category_ids=_category_ids(info, len(features.class_names)),
        ranges=columns.ranges,
    )
    annotations, unknown = _drop_unknown_labels(annotations, origins)
    annotations, other_classes = _choose_classes(annotations, class_names, where)
    annotations, bad_boxes = check_annotations(annotations, origins, "object")
    return ReadResult(annotations, faults + unknown + bad_boxes, other_classes)


def _open_builder(name: str, data_dir: str | os.PathLike | None):
    """A TFDS builder, made from the files alone."""
    import tensorflow_datasets as tfds

    folder = find_builder_dir(name, data_dir)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # of JSON, protobuf and TFDS
        raise ValueError(f"{folder}: not a readable TFDS data set: {error}") from error
    stored_as = builder.info.file_format
    if stored_as is not None and stored_as.value != "tfrecord":
        raise ValueError(
            f"{folder}: expected TFRecord files, got {stored_as.value}, in which an image does not "
            "lie by itself; prepare the data set in another folder with "
            f"tfds.load({name!r}, builder_kwargs={{'file_format': 'tfrecord'}}, data_dir=...)"
        )
    return builder


def _parts(info, split: str, limit: int | None, where: str) -> list[Part]:
    """The shards of a split, or of a slice or sum of splits, in order."""
    try:
        instructions = info.splits[split].file_instructions
    except Exception as error:  # AssertionError, KeyError and ValueError, with long messages
        raise ValueError(
            f"{where}: no split {split!r}; there are: {', '.join(sorted(info.splits)) or 'none'}"
        ) from error
    parts, left = [], sum(i.take for i in instructions) if limit is None else limit
    for instruction in instructions:
        take = min(instruction.take, left)
        left -= take
        if take:
            file = os.fspath(instruction.filename)
            parts.append(Part(file, instruction.skip, take, instruction.examples_in_shard))
    if not parts:
        raise ValueError(f"{where}: split {split!r} has no images")
    return parts


def _to_pixels(boxes: np.ndarray, sizes: np.ndarray, info) -> np.ndarray:
    """Normalised (ymin, xmin, ymax, xmax) to xyxy in pixels.

    Args:
        boxes: float64 [T, 4].
        sizes: int32 [T, 2], (height, width) of each box's image.
        info: Of the data set.

    Returns:
        float64 [T, 4].
    """
    ymin, xmin, ymax, xmax = boxes.T
    if _prepared_by(info, "kitti"):
        ymin, ymax = 1.0 - ymax, 1.0 - ymin
    height, width = np.where(sizes > 0, sizes, 1).T.astype(np.float64)
    boxes = np.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=1)
    if _prepared_by(info, "voc"):
        # As in `voc_files`: corners that coincide are faults, no boxes of one pixel.
        shifted = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (sizes > 0).all(axis=1)
        boxes[shifted, :2] -= 1.0
    return boxes


def _prepared_by(info, builder: str) -> bool:
    """Whether TFDS' own builder of that name made a data set, and not another of the same name."""
    if info.module_name in ("", "tensorflow_datasets.core.read_only_builder"):
        return info.name == builder and bool(info.citation)  # from before TFDS noted the module
    package, *modules = info.module_name.split(".")
    return package == "tensorflow_datasets" and builder in modules


def _image_ids(columns: Columns, where: str) -> tuple[np.ndarray, list[Fault]]:
    """See `read_tfds`; a fault where the data set's own ids are of no use."""
    count = len(columns.ids)
    positions = np.arange(1, count + 1)
    if (columns.ids >= 0).any():
        if (columns.ids >= 0).all() and len(np.unique(columns.ids)) == count:
            return columns.ids, []
        what = "image ids are negative or not all different: images are numbered from 1 instead"
        return positions, [Fault(where, "", what, kept=True)]
    stems = [PurePath(name).stem for name in columns.names]
    if all(stem.isdecimal() and int(stem) < 2**63 for stem in stems):
        ids = np.array([int(stem) for stem in stems], np.int64)
        if len(np.unique(ids)) == count:
            return ids, []
    return positions, []


def _category_ids(info, num_classes: int) -> tuple[int, ...]:
    """The labels themselves, unless `write_tfds` has stored what they were before."""
    if not info.module_name.startswith("fcos_tf."):
        return tuple(range(num_classes))
    file = f"{info.data_dir}/metadata.json"
    try:
        stored = info.metadata["category_ids"]
    except Exception as error:  # of JSON, or of its content
        raise ValueError(f"{file}: expected category_ids: {error!r}") from error
    if len(stored) != num_classes:
        raise ValueError(f"{file}: expected {num_classes} category_ids, got {len(stored)}")
    return tuple(stored)


def _drop_unknown_labels(
    annotations: Annotations, origins: Sequence[str]
) -> tuple[Annotations, list[Fault]]:
    last = len(annotations.class_names) - 1
    known = (annotations.labels >= 0) & (annotations.labels <= last)
    faults = [
        Fault(
            origins[annotations.owners[row]],
            f"object {annotations.numbers[row]}",
            f"expected a label from 0 to {last}, got {annotations.labels[row]}",
        )
        for row in np.flatnonzero(~known)
    ]
    return annotations.rows(known), faults


def _choose_classes(
    annotations: Annotations, class_names: Sequence[str] | None, where: str
) -> tuple[Annotations, dict[str, int]]:
    """Keeps the objects of some classes; how many there were of the others."""
    stored = annotations.class_names
    if class_names is None:
        return annotations, {}
    unknown = [name for name in class_names if name not in stored]
    if unknown:
        raise ValueError(
            f"{where}: classes: no class {', '.join(map(repr, unknown))}; "
            f"there are: {', '.join(stored)}"
        )
    chosen = [stored.index(name) for name in class_names]
    new_label = np.full(len(stored), -1, np.int32)
    new_label[chosen] = np.arange(len(chosen))
    labels = new_label[annotations.labels]
    counts = np.bincount(annotations.labels[labels < 0], minlength=len(stored))
    annotations = replace(
        annotations,
        labels=labels,
        class_names=tuple(class_names),
        category_ids=tuple(annotations.category_ids[label] for label in chosen),
    ).rows(labels >= 0)
    return annotations, {stored[label]: int(counts[label]) for label in np.flatnonzero(counts)}
