"""Data sets as `tf.data` batches of images and padded ground truth."""

import os
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from fcos_tf.data import digits, pipeline, transforms, voc
from fcos_tf.data.example import Source, limit_boxes, log_left_out

__all__ = ["DATASETS", "load"]

DATASETS = ("digits", "voc")


def load(
    dataset: str,
    *,
    split: str,
    batch_size: int,
    data_dir: str | os.PathLike | None = None,
    image_size: str | tuple[int, int] = (512, 512),
    training: bool = False,
    seed: int = 0,
    repeat: bool = False,
    start_step: int = 0,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    horizontal_flip: bool | None = None,
    max_boxes: int | None = None,
) -> tf.data.Dataset:
    """Loads a split of a data set as batches `(images, targets)`.

    `images` is uint8 [B, H, W, 3] RGB, resized, padded with zeros right and bottom. `targets` is a
    dict: `boxes` float32 [B, M, 4], xyxy in pixels of `images`, padding 0; `labels` int32 [B, M],
    padding -1; `image_sizes` float32 [B, 2], (height, width) of the part that is not padding;
    `original_sizes` float32 [B, 2], (height, width) on disk; `image_ids` int64 [B].

    Evaluation (`training=False`) keeps the order of the split; its last batch may be smaller.
    Training shuffles; without `repeat` every iteration has a new order and drops the images that
    do not fill a last batch. The same seed gives the same sequence.

    Args:
        dataset: "digits" (embedded, no files needed) or "voc" (a PASCAL VOC tree).
        split: "train" or "val" of the digits; a file name in ImageSets/Main of a VOC tree.
        batch_size: B, over all devices.
        data_dir: For "voc", the folder with JPEGImages, Annotations and ImageSets.
        image_size: "512x512" or (512, 512) for a fixed canvas, height first; "800,1333" for the
            limits of the short and the long side, where H and W are the smallest multiples of 32
            that hold the batch. The aspect ratio is always kept.
        training: Shuffle and flip.
        seed: Of the order and the flips.
        repeat: Go on for ever.
        start_step: Skip so many batches, at no cost: the data set continues exactly as one that
            was not interrupted.
        limit: Use only the first `limit` images of the split.
        class_names: Name of each label, for "voc". Default: the names in the annotations, sorted.
        horizontal_flip: Mirror every other image, at random. Default: when training, unless the
            data set does not stand it (digits).
        max_boxes: M. Default: the most boxes of an image, at least 1. In training, boxes over it
            are left out; in evaluation that is an error.

    Returns:
        A `tf.data.Dataset` that has, besides: `class_names` (tuple of str), `num_images` (int),
        `category_ids` (tuple of int, the data set's own id of each label) and `dropped` (list of
        str, each thing that was left out, named).

    Raises:
        ValueError: An argument that cannot be met, or a file that cannot be read; says which.
        FileNotFoundError: A folder or file of the data set is missing; says which.

    Example:
        >>> val = fcos_tf.data.load("digits", split="val", batch_size=8, image_size=(128, 128))
        >>> images, targets = next(iter(val))
    """
    size = transforms.parse_image_size(image_size)
    at_least = {"batch_size": (batch_size, 1), "start_step": (start_step, 0)}
    at_least |= {"limit": (limit, 1), "max_boxes": (max_boxes, 1)}
    for name, (value, least) in at_least.items():
        if value is not None and value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if class_names is not None and (isinstance(class_names, str) or not class_names):
        raise ValueError(f"class_names: expected a sequence of names, got {class_names!r}")
    for name in class_names or ():
        if list(class_names).count(name) > 1:
            raise ValueError(f"class_names: {name!r} is there more than once")

    if dataset == "digits":
        if class_names is not None and tuple(class_names) != digits.CLASS_NAMES:
            raise ValueError(
                f"class_names: digits has {digits.CLASS_NAMES}, got {tuple(class_names)}"
            )
        source = digits.digits_source(split, limit=limit)
    elif dataset == "voc":
        source = _voc_source(data_dir, split, limit, class_names, max_boxes if training else None)
    else:
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")

    if horizontal_flip is None:
        horizontal_flip = training and source.can_flip
    result = pipeline.batches(
        source,
        batch_size=batch_size,
        image_size=size,
        training=training,
        seed=seed,
        repeat=repeat,
        start_step=start_step,
        horizontal_flip=horizontal_flip,
        max_boxes=max_boxes,
    )
    result.class_names = source.class_names
    result.num_images = source.num_images
    result.category_ids = source.category_ids
    result.dropped = list(source.dropped)
    return result


def _voc_source(
    data_dir: str | os.PathLike | None,
    split: str,
    limit: int | None,
    class_names: Sequence[str] | None,
    max_boxes: int | None,
) -> Source:
    """Reads a split of a VOC tree and says what had to be left out."""
    if data_dir is None:
        raise ValueError(f"dataset voc needs data_dir, the folder with {', '.join(voc.FOLDERS)}")
    found = voc.read_voc(data_dir, split, class_names=class_names, limit=limit)
    examples, surplus = found.examples, []
    if max_boxes is not None:
        examples, surplus = limit_boxes(examples, max_boxes)
    where = f"of voc {split}"
    log_left_out(f"boxes {where} that cannot be learned", found.dropped)
    log_left_out(f"objects {where} marked difficult", found.difficult, logging.INFO)
    log_left_out(f"boxes {where} over max_boxes", surplus)
    return pipeline.file_source(
        examples,
        class_names=found.class_names,
        category_ids=range(1, len(found.class_names) + 1),
        dropped=[*found.dropped, *found.difficult, *surplus],
    )
