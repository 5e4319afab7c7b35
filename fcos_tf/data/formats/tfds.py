"""Data sets prepared by TensorFlow Datasets (TFDS).

A data set is a folder, DATA_DIR/NAME/VERSION or DATA_DIR/NAME/CONFIG/VERSION, of JSON files and
TFRecord shards. One pass over the shards gives all annotations and the byte range of every encoded
image. Images can then be read in any order, which TFDS itself does not offer.
"""

import glob
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow as tf

from fcos_tf.data.annotations import Annotations, Fault, ReadResult, check_annotations
from fcos_tf.data.formats.records import STORED, Frame


def read_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    include_difficult: bool = False,
    limit: int | None = None,
    frame: Frame = STORED,
) -> ReadResult:
    """Reads the annotations of a split of a prepared TFDS data set. Downloads nothing.

    `find_detection_features` chooses the features; objects with a true `is_crowd`, `is_difficult`
    or `is_group_of` (or `iscrowd`, `crowd`, `difficult`) are ignored. Boxes are scaled by the size
    of the stored image; where that cannot be read, the size is 0 and boxes stay normalised. Image
    ids are the feature `image/id`, or the file names where all are numbers; where these are not
    all different, positions from 1. Boxes of two published data sets are corrected: those of voc
    are VOC's one-based corners, and in kitti the y axis points up.

    Args:
        name: NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION, for example "voc/2007" or
            "coco/2017:1.*.*"; default: the newest version. Several configs require CONFIG.
        split: As for `tfds.load`: "train[:80%]", "train+validation"; in the order of the files.
        data_dir: As for `tfds.load`; may be a URL such as gs://bucket/folder.
        class_names: Name of each label; objects of other classes are left out. Default: all.
        include_difficult: As for `fcos_tf.data.load`.
        limit: As for `fcos_tf.data.load`.
        frame: What to do where boxes are not in stored pixels; they have no scale of their own.

    Returns:
        A `ReadResult`, the annotations with `ranges`.

    Raises:
        FileNotFoundError: No such data set has been prepared there, or a shard is missing.
        ValueError: No such split or class, several configs, no boxes, or a corrupt shard.

    Example:
        >>> result = read_tfds("voc/2007", "train+validation", data_dir="~/tensorflow_datasets")
    """
    if frame.scale_boxes:
        raise ValueError("--scale_boxes: expected none with TFDS, whose boxes are fractions")
    folder = _find_folder(name, data_dir)
    info, shards = _open(folder, split, limit)
    # Imported here: both import TFDS, which takes seconds.
    from fcos_tf.data.formats.tfds_features import find_detection_features
    from fcos_tf.data.formats.tfds_shards import read_shards

    features = find_detection_features(info.features, folder)
    if include_difficult:
        ignored = tuple(n for n in features.ignored if not n.endswith("difficult"))
        features = features._replace(ignored=ignored)
    columns = read_shards(shards, features, apply_exif=frame.apply_exif)
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
    origins = [f"{file} image {n}" for file, n in zip(stored.files, image_ids, strict=True)]
    kept, bad_labels, other_classes = _choose_classes(stored, class_names, origins, folder)
    annotations, bad_boxes = check_annotations(kept, origins, "object")
    return ReadResult(annotations, faults + bad_labels + bad_boxes, other_classes)


def _find_folder(name: str, data_dir: str | os.PathLike | None) -> str:
    """The folder of a data set; TFDS' own search does not find a `voc` that has no configs."""
    if data_dir is None:
        from tensorflow_datasets.core.constants import DATA_DIR as data_dir  # noqa: N811
    root = os.path.expanduser(os.fspath(data_dir)).rstrip("/")
    wanted, _, pattern = name.partition(":")
    found = [p for p in _prepared(root, wanted) if wanted and fnmatch(p[1], pattern or "*")]
    found = [p for p in found if p[0] == wanted] or found
    there = ", ".join(map(":".join, found or _prepared(root, "*"))) or "none"
    if not found:
        raise FileNotFoundError(
            f"no prepared TFDS data set {name!r} in {root}; there are: {there}. TFDS prepares its "
            f"own: import tensorflow_datasets as tfds; tfds.load({name!r}, data_dir={root!r})"
        )
    if len({full_name for full_name, _ in found}) > 1:
        raise ValueError(f"tfds: {name!r} has several configs in {root}, expected one of: {there}")
    return "/".join([root, *max(found, key=lambda p: [int(n) for n in p[1].split(".")])])


def _prepared(root: str, name: str) -> list[tuple[str, str]]:
    """(NAME or NAME/CONFIG, VERSION) of the prepared data sets of a name."""
    folder = f"{glob.escape(root)}/{name}"
    files = tf.io.gfile.glob([f"{folder}/*/features.json", f"{folder}/*/*/features.json"])
    found = [file.removeprefix(f"{root}/").rsplit("/", 2)[:2] for file in sorted(files)]
    return [tuple(p) for p in found if re.fullmatch(r"\d+\.\d+\.\d+", p[1])]


def _open(folder: str, split: str, limit: int | None) -> tuple[Any, list[Any]]:
    """TFDS' `DatasetInfo`, and its `FileInstruction`s for the first images of a split, in order."""
    import tensorflow_datasets as tfds

    try:
        with tf.io.gfile.GFile(f"{folder}/features.json") as file:
            _check_features(json.loads(file.read()))
        info = tfds.builder_from_directory(folder).info
    except Exception as error:  # of JSON, protobuf and TFDS
        raise ValueError(f"{folder}: not a readable TFDS data set: {error}") from error
    if info.file_format is not None and info.file_format.value != "tfrecord":
        raise ValueError(
            f"{folder}: expected TFRecord files, got {info.file_format.value}; prepare it in "
            "another folder: tfds.load(..., builder_kwargs={'file_format': 'tfrecord'})"
        )
    try:
        instructions = info.splits[split].file_instructions
    except Exception as error:  # AssertionError, KeyError and ValueError, with long messages
        there = ", ".join(sorted(info.splits)) or "none"
        raise ValueError(f"{folder}: no split {split!r}; there are: {there}") from error
    shards, left = [], math.inf if limit is None else limit
    for shard in instructions:
        if take := min(shard.take, left):
            shards.append(replace(shard, take=take))
        left -= take
    if not shards:
        raise ValueError(f"{folder}: split {split!r} has no images")
    return info, shards


def _check_features(value: Any) -> None:
    """Refuses features of other modules than TFDS' own, which TFDS would import."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        # A feature may be called "type", too.
        is_class = key in ("pythonClassName", "python_class_name", "type")
        is_class &= not isinstance(inner, dict)
        if is_class and not str(inner).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"expected features of TFDS' own, got {inner}: not imported")
        _check_features(inner)


def _to_pixels(boxes: np.ndarray, sizes: np.ndarray, info: Any) -> np.ndarray:
    """Normalised (ymin, xmin, ymax, xmax) [T, 4] to xyxy in pixels of images of `sizes` [T, 2]."""
    boxes = boxes[:, [1, 0, 3, 2]]
    if _prepared_by(info, "kitti"):
        boxes[:, [1, 3]] = 1.0 - boxes[:, [3, 1]]
    boxes *= np.tile(np.where(sizes > 0, sizes, 1)[:, ::-1], 2)
    if _prepared_by(info, "voc"):
        # As in `voc_xml`: corners that coincide are faults, no boxes of one pixel.
        shifted = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (sizes > 0).all(axis=1)
        boxes[shifted, :2] -= 1.0
    return boxes


def _prepared_by(info: Any, builder: str) -> bool:
    """Whether TFDS' own builder of that name made a data set, and not another of the same name."""
    if info.module_name in ("", "tensorflow_datasets.core.read_only_builder"):
        return info.name == builder and bool(info.citation)  # from before TFDS noted the module
    package, *modules = info.module_name.split(".")
    return package == "tensorflow_datasets" and builder in modules


def _image_ids(ids: np.ndarray, names: np.ndarray, where: str) -> tuple[np.ndarray, list[Fault]]:
    """See `read_tfds`; a fault where the data set's own ids are not used."""
    if not (has_ids := (ids >= 0).any()):
        stems = (PurePath(name).stem for name in names)
        numbers = [int(stem) if stem.isdecimal() else -1 for stem in stems]
        ids = np.array([number if number < 2**63 else -1 for number in numbers], np.int64)
    if (ids >= 0).all() and len(np.unique(ids)) == len(ids):
        return ids, []
    what = "image ids are negative or not all different: images are numbered from 1 instead"
    return np.arange(1, len(ids) + 1), [Fault(where, "", what, kept=True)] if has_ids else []


def _category_ids(info: Any, num_classes: int, folder: str) -> tuple[int, ...]:
    """Those that `write_tfds` has stored, else the labels."""
    if not info.module_name.startswith("fcos_tf."):
        return tuple(range(num_classes))
    where = f"{folder}/metadata.json: expected {num_classes} category_ids"
    try:
        stored = tuple(info.metadata["category_ids"])
    except Exception as error:  # of JSON, or of its content
        raise ValueError(f"{where}: {error!r}") from error
    if len(stored) != num_classes:
        raise ValueError(f"{where}, got {len(stored)}")
    return stored


def _choose_classes(
    stored: Annotations, class_names: Sequence[str] | None, origins: Sequence[str], where: str
) -> tuple[Annotations, list[Fault], dict[str, int]]:
    """The objects of some classes; a fault for each label of no class; counts of other classes."""
    names, labels = stored.class_names, stored.labels
    if unknown := ", ".join(repr(name) for name in class_names or () if name not in names):
        raise ValueError(f"{where}: classes: no class {unknown}; there are: {', '.join(names)}")
    known = (labels >= 0) & (labels < len(names))
    faults = []
    for row in np.flatnonzero(~known):
        what = f"expected a label from 0 to {len(names) - 1}, got {labels[row]}"
        faults.append(Fault(origins[stored.owners[row]], f"object {stored.numbers[row]}", what))
    chosen = [names.index(name) for name in class_names or names]
    new_label = np.full(len(names) + 1, -1, np.int32)  # the last: of labels of no class
    new_label[chosen] = np.arange(len(chosen))
    new_labels = new_label[np.where(known, labels, -1)]
    others = np.bincount(labels[known & (new_labels < 0)], minlength=len(names))
    kept = replace(
        stored,
        labels=new_labels,
        class_names=tuple(names[label] for label in chosen),
        category_ids=tuple(stored.category_ids[label] for label in chosen),
    ).rows(new_labels >= 0)
    return kept, faults, {name: int(n) for name, n in zip(names, others, strict=True) if n}
