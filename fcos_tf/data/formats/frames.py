"""The frame of the boxes: the pixels of the images as they are now, or others.

Boxes drawn before a photo was resized, or in a viewer that turns it upright by its EXIF
orientation, are wrong in its stored pixels. The annotated size of the image tells.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fcos_tf.data.annotations import OVERHANG, Annotations, Fault
from fcos_tf.data.images import read_header


class Frame(NamedTuple):
    """What to do where boxes are not in stored pixels.

    Attributes:
        apply_exif: Turn images upright by their EXIF orientation.
        scale_boxes: Scale boxes by the ratio of the size of the image to the annotated one.
    """

    apply_exif: bool = False
    scale_boxes: bool = False


STORED = Frame()


def size_mismatch(
    annotated: tuple[int, int], stored: tuple[int, int], image: str | io.BytesIO
) -> str:
    """The message about an image whose (height, width) is not the annotated one."""
    text = "expected an image of {1}x{0} pixels, as annotated, got {3}x{2}"
    text = text.format(*annotated, *stored)
    _, orientation = read_header(image) or ((), 1)
    if orientation > 4 and stored == annotated[::-1]:
        return f"{text}; viewers turn it by EXIF orientation {orientation}, as --apply_exif does"
    return f"{text}; for photos resized after annotation there is --scale_boxes"


def fit_to_images(
    read: Annotations, stored: np.ndarray, frame: Frame, origins: Sequence[str], item: str
) -> tuple[Annotations, list[Fault]]:
    """Brings boxes and sizes to the pixels of the images.

    Without `scale_boxes`, an image of another size than annotated is dropped: nobody knows the
    frame of its boxes. It stays where these show that only the annotated size is wrong: one passes
    it, and all lie in the image.

    Args:
        read: With the annotated sizes.
        stored: int [n, 2], (height, width) of the images; 0 where unknown.
        frame: What to do.
        origins: The file of each image, for messages.
        item: Its part, for messages.

    Returns:
        The annotations with the sizes of the images, and a fault for each that differs.

    Raises:
        ValueError: Boxes to be scaled of an image that has no size in the annotations, or one of
            another aspect ratio.
    """
    known = (stored > 0).all(axis=1)
    sizes = np.where(known[:, None], stored, read.sizes).astype(np.int32)
    if frame.scale_boxes:
        return _scaled(read, sizes, origins), []
    differ = known & (read.sizes > 0).all(axis=1) & (read.sizes != sizes).any(axis=1)
    keep, faults = np.ones(len(known), bool), []
    for index in np.flatnonzero(differ):
        boxes = read.boxes[slice(*np.searchsorted(read.owners, [index, index + 1]))]
        annotated, actual = (tuple(each[index].tolist()) for each in (read.sizes, sizes))
        keep[index] = not len(boxes) or (_pass(boxes, annotated) and not _pass(boxes, actual))
        what = size_mismatch(annotated, actual, read.files[index])
        faults.append(Fault(origins[index], item, what, kept=bool(keep[index])))
    return replace(read, sizes=sizes).images(keep), faults


def _pass(boxes: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a box reaches over an image of that (height, width)."""
    with np.errstate(invalid="ignore"):
        return bool((boxes[:, 2:] > np.array(size[::-1]) + OVERHANG).any())


def _scaled(read: Annotations, sizes: np.ndarray, origins: Sequence[str]) -> Annotations:
    """The annotations in pixels of images of these sizes."""
    ratio = sizes / np.maximum(read.sizes, 1)  # [n, 2]
    # The sides of a resized image are whole pixels.
    scale = np.take_along_axis(ratio, read.sizes.argmax(axis=1)[:, None], axis=1)
    wrong = (np.abs(read.sizes * scale - sizes) > 1).any(axis=1) | (read.sizes <= 0).any(axis=1)
    wrong &= (sizes > 0).all(axis=1)  # else the image cannot be read
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        annotated, actual = ("{1}x{0}".format(*each[first]) for each in (read.sizes, sizes))
        raise ValueError(
            f"--scale_boxes: expected images of the annotated aspect ratio, got {wrong.sum()} of "
            f"{len(wrong)} others; the first: {origins[first]}: annotated "
            f"{annotated if read.sizes[first].all() else 'no size'}, the image has {actual} pixels"
        )
    factors = ratio[read.owners]  # [T, 2]
    note = f"boxes scaled by {ratio.min():.4g} to {ratio.max():.4g}"
    return replace(
        read,
        sizes=sizes,
        boxes=read.boxes * np.tile(factors[:, ::-1], 2),
        areas=read.areas * factors.prod(axis=1),
        notes=(*read.notes, note),
    )
