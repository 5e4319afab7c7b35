"""Data sets prepared by TensorFlow Datasets (TFDS), without TFDS on the way of the images.

A prepared data set is a folder with `dataset_info.json`, `features.json` and TFRecord shards. The
shards are gone through once to get all annotations and the byte range of every encoded image.
After that images can be read in any order, which TFDS' own way does not offer.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from fcos_tf.data.annotations import Annotations, Fault, ReadResult, check_annotations
from fcos_tf.data.formats.tfds_features import find_detection_features
from fcos_tf.data.formats.tfds_folders import find_builder_dir
from fcos_tf.data.formats.tfds_shards import read_shards


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
    folder = find_builder_dir(name, data_dir)
    info = _read_info(folder)
    features = find_detection_features(info.features, folder)
    if include_difficult:
        ignored = tuple(n for n in features.ignored if not n.endswith("difficult"))
        features = replace(features, ignored=ignored)
    shards = _shards(info, split, limit, folder)
    columns = read_shards(shards, features)

    counts = columns.pop("counts")
    owners = np.repeat(np.arange(len(counts)), counts)
    image_ids, faults = _image_ids(columns.pop("ids"), columns.pop("names"), folder)
    columns["boxes"] = _to_pixels(columns["boxes"], columns["sizes"][owners], info)
    stored = Annotations(
        files=[shard.filename for shard in shards for _ in range(shard.take)],
        image_ids=image_ids,
        owners=owners,
        class_names=features.class_names,
        category_ids=_category_ids(info, len(features.class_names), folder),
        **columns,
    )
    origins = [
        f"{file} image {number}" for file, number in zip(stored.files, image_ids, strict=True)
    ]
    kept, bad_labels, other_classes = _choose_classes(stored, class_names, origins, folder)
    annotations, bad_boxes = check_annotations(kept, origins, "object")
    return ReadResult(annotations, faults + bad_labels + bad_boxes, other_classes)


def _read_info(folder: str) -> Any:
    """The `DatasetInfo` of TFDS, from the files alone."""
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(folder).info
    except Exception as error:  # of JSON, protobuf and TFDS
        raise ValueError(f"{folder}: not a readable TFDS data set: {error}") from error
    if info.file_format is not None and info.file_format.value != "tfrecord":
        raise ValueError(
            f"{folder}: expected TFRecord files, got {info.file_format.value}; prepare it in "
            "another folder: tfds.load(..., builder_kwargs={'file_format': 'tfrecord'})"
        )
    return info


def _shards(info: Any, split: str, limit: int | None, where: str) -> list:
    """TFDS' `FileInstruction`s for a split, or for a slice or sum of splits, in order."""
    try:
        instructions = info.splits[split].file_instructions
    except Exception as error:  # AssertionError, KeyError and ValueError, with long messages
        there = ", ".join(sorted(info.splits)) or "none"
        raise ValueError(f"{where}: no split {split!r}; there are: {there}") from error
    shards, left = [], sum(shard.take for shard in instructions) if limit is None else limit
    for shard in instructions:
        take = min(shard.take, left)
        left -= take
        shards += [replace(shard, take=take)] if take else []
    if not shards:
        raise ValueError(f"{where}: split {split!r} has no images")
    return shards


def _to_pixels(boxes: np.ndarray, sizes: np.ndarray, info: Any) -> np.ndarray:
    """Normalised (ymin, xmin, ymax, xmax) [T, 4] to xyxy in pixels of images of `sizes` [T, 2]."""
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


def _prepared_by(info: Any, builder: str) -> bool:
    """Whether TFDS' own builder of that name made a data set, and not another of the same name."""
    if info.module_name in ("", "tensorflow_datasets.core.read_only_builder"):
        return info.name == builder and bool(info.citation)  # from before TFDS noted the module
    package, *modules = info.module_name.split(".")
    return package == "tensorflow_datasets" and builder in modules


def _image_ids(
    ids: np.ndarray, file_names: np.ndarray, where: str
) -> tuple[np.ndarray, list[Fault]]:
    """See `read_tfds`; a fault where the data set's own ids are of no use."""
    faults = []
    if (ids >= 0).any():
        what = "image ids are negative or not all different: images are numbered from 1 instead"
        faults = [Fault(where, "", what, kept=True)]
    else:
        stems = [PurePath(name).stem for name in file_names]
        numbers = [int(stem) if stem.isdecimal() else -1 for stem in stems]
        ids = np.array([number if number < 2**63 else -1 for number in numbers], np.int64)
    if (ids >= 0).all() and len(np.unique(ids)) == len(ids):
        return ids, []
    return np.arange(1, len(ids) + 1), faults


def _category_ids(info: Any, num_classes: int, folder: str) -> tuple[int, ...]:
    """The labels themselves, unless `write_tfds` has stored what they were before."""
    if not info.module_name.startswith("fcos_tf."):
        return tuple(range(num_classes))
    file = f"{folder}/metadata.json"
    try:
        stored = info.metadata["category_ids"]
    except Exception as error:  # of JSON, or of its content
        raise ValueError(f"{file}: expected category_ids: {error!r}") from error
    if len(stored) != num_classes:
        raise ValueError(f"{file}: expected {num_classes} category_ids, got {len(stored)}")
    return tuple(stored)


def _choose_classes(
    stored: Annotations, class_names: Sequence[str] | None, origins: Sequence[str], where: str
) -> tuple[Annotations, list[Fault], dict[str, int]]:
    """Keeps the objects of some classes; labels of no class, and the objects of other classes."""
    names, labels = stored.class_names, stored.labels
    unknown = ", ".join(repr(name) for name in class_names or () if name not in names)
    if unknown:
        raise ValueError(f"{where}: classes: no class {unknown}; there are: {', '.join(names)}")
    known = (labels >= 0) & (labels < len(names))
    faults = [
        Fault(
            origins[stored.owners[row]],
            f"object {stored.numbers[row]}",
            f"expected a label from 0 to {len(names) - 1}, got {labels[row]}",
        )
        for row in np.flatnonzero(~known)
    ]
    chosen = [names.index(name) for name in class_names or names]
    new_label = np.full(len(names), -1, np.int32)
    new_label[chosen] = np.arange(len(chosen))
    new_labels = new_label[np.where(known, labels, 0)]
    others = np.bincount(labels[known & (new_labels < 0)], minlength=len(names))
    kept = replace(
        stored,
        labels=new_labels,
        class_names=tuple(names[label] for label in chosen),
        category_ids=tuple(stored.category_ids[label] for label in chosen),
    ).rows(known & (new_labels >= 0))
    return kept, faults, {name: int(n) for name, n in zip(names, others, strict=True) if n}
