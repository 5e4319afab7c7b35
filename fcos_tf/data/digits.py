"""The embedded data set: scenes of handwritten digits on photo crops, made on the fly.

The glyphs are scikit-learn's `load_digits` (1797 handwritten digits of 8x8 cells), the backgrounds
crops of its two sample photos. Nothing is downloaded and nothing is stored: a scene is a function
of (seed, split, index), see `digit_scenes`. No glyph of val occurs in train.
"""

import os
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from fcos_tf.data.digit_scenes import (
    MOST_GLYPHS,
    SCENE_SIZE,
    Scene,
    draw_scene,
    glyph_masks,
    photos,
)
from fcos_tf.data.example import Source
from fcos_tf.data.python_calls import call_python

CLASS_NAMES = tuple("0123456789")
SPLIT_SIZES = {"train": 8192, "val": 256}


def make_scene(index: int, split: str, seed: int = 0) -> Scene:
    """Draws scene `index` of a split.

    Args:
        index: From 0; the split's own are under SPLIT_SIZES[split].
        split: "train" or "val".
        seed: Another seed is another data set.

    Returns:
        A `Scene`.

    Raises:
        ValueError: An unknown split.
    """
    check_split(split)
    return draw_scene(split_glyphs(split), [seed, list(SPLIT_SIZES).index(split), index])


def digits_source(split: str, *, limit: int | None = None, seed: int = 0) -> Source:
    """A split of the digits for `pipeline.batches`.

    `image_id` is the scene's index + 1. `load`'s seed shuffles and flips; the scenes have a seed
    of their own, so that `val` is the same for everybody.

    Args:
        split: "train" or "val".
        limit: Only the first `limit` scenes.
        seed: Another seed is another data set.

    Raises:
        ValueError: An unknown split.
    """
    check_split(split)
    glyph_masks(), photos()  # here rather than in the first training step

    def draw(index):
        scene = make_scene(int(index), split, seed)
        return scene.image, scene.boxes, scene.labels

    def read(index):
        image, boxes, labels = call_python(draw, [index], [tf.uint8, tf.float32, tf.int32])
        return {
            "image": tf.ensure_shape(image, [SCENE_SIZE, SCENE_SIZE, 3]),
            "boxes": tf.ensure_shape(boxes, [None, 4]),
            "labels": tf.ensure_shape(labels, [None]),
            "image_id": index + 1,
        }

    size = SPLIT_SIZES[split]
    return Source(
        read=read,
        num_images=size if limit is None else min(limit, size),
        most_boxes=MOST_GLYPHS,
        class_names=CLASS_NAMES,
        category_ids=tuple(range(1, len(CLASS_NAMES) + 1)),
        can_flip=False,  # a mirrored 2 is not a 2
    )


def check_split(split: str) -> None:
    """Raises ValueError for a split that the digits do not have."""
    if split not in SPLIT_SIZES:
        raise ValueError(f"no split {split!r} in digits; there are: {', '.join(SPLIT_SIZES)}")


@cache
def split_glyphs(split: str) -> np.ndarray:
    """The glyphs of a split: every fifth of each class is val's, the others are train's.

    Returns:
        int [G], ascending indices into `load_digits`.
    """
    labels = glyph_masks()[1]
    rank = np.zeros(len(labels), np.int64)  # how many of its class come before it
    for label in range(len(CLASS_NAMES)):
        mine = labels == label
        rank[mine] = np.arange(mine.sum())
    return np.flatnonzero((rank % 5 == 0) == (split == "val"))


def write_voc(data_dir: str | os.PathLike, split: str, num_images: int, *, seed: int = 0) -> None:
    """Writes the first scenes of a split as a VOC tree, with PNG images.

    Splits of one tree may be written one after the other.

    Args:
        data_dir: The folder to make, see `voc`.
        split: "train" or "val".
        num_images: How many scenes.
        seed: As for `make_scene`.
    """
    check_split(split)
    root = Path(data_dir)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = [f"{split}_{index:05d}" for index in range(num_images)]
    for index, stem in enumerate(stems):
        scene = make_scene(index, split, seed)
        image_file = root / "JPEGImages" / f"{stem}.png"
        if not cv2.imwrite(str(image_file), scene.image[..., ::-1]):  # OpenCV writes BGR
            raise OSError(f"cannot write {image_file}")
        tree = ElementTree.Element("annotation")
        _add(tree, "filename", image_file.name)
        size = ElementTree.SubElement(tree, "size")
        for name, value in zip(("height", "width", "depth"), scene.image.shape, strict=True):
            _add(size, name, value)
        for box, label in zip(scene.boxes.astype(int), scene.labels, strict=True):
            element = ElementTree.SubElement(tree, "object")
            _add(element, "name", CLASS_NAMES[label])
            corners = ElementTree.SubElement(element, "bndbox")
            x1, y1, x2, y2 = box
            for name, value in zip(
                ("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True
            ):
                _add(corners, name, value)
        ElementTree.indent(tree)
        ElementTree.ElementTree(tree).write(root / "Annotations" / f"{stem}.xml")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
