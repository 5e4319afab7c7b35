"""From the objects of single images, as annotation files state them, to the columns of a split.

Boxes drawn before a photo was resized, or in a viewer that turns it upright by its EXIF
orientation, are wrong in its stored pixels; the annotated size of the image tells (`Frame`).
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fcos_tf.data.annotations import (
    OVERHANG,
    Annotations,
    Fault,
    ReadResult,
    check_annotations,
)
from fcos_tf.data.images import read_header, size_mismatch
from fcos_tf.image_files import ImageIndex


class Frame(NamedTuple):
    """What to do where boxes are not in stored pixels.

    Attributes:
        apply_exif: Turn images upright by their EXIF orientation.
        scale_boxes: Scale boxes by the ratio of the size of the image to the annotated one.
    """

    apply_exif: bool = False
    scale_boxes: bool = False


STORED = Frame()


class ObjectRecord(NamedTuple):
    """An object of an image.

    Attributes:
        name: Its class.
        difficult: Whether it is marked as hard to recognise.
        box: (x1, y1, x2, y2), continuous edges; pixels, or fractions of the sides of the image.
    """

    name: str
    difficult: bool
    box: tuple[float, ...]


class ImageRecord(NamedTuple):
    """An image and its objects, as stated.

    Attributes:
        origin: The annotation file.
        file: The image; empty: the record cannot be used, and `faults` say why.
        size: (height, width) as annotated; None: not annotated.
        objects: By number in the annotation file.
        faults: What is wrong with the record.
        unread: The class, if it can be read, and the fault of each object that cannot be used.
        in_fractions: Whether boxes are fractions of the sides.
    """

    origin: str
    file: str = ""
    size: tuple[int, int] | None = None
    objects: Mapping[int, ObjectRecord] = MappingProxyType({})
    faults: Sequence[Fault] = ()
    unread: Sequence[tuple[str, Fault]] = ()
    in_fractions: bool = False


def with_image(record: ImageRecord, index: ImageIndex, stem: str, stated: str) -> ImageRecord:
    """The record with the image of its annotation file, see `ImageIndex.find`, or a fault."""
    try:
        return record._replace(file=index.path(index.find(stem, stated)))
    except ValueError as error:
        return record._replace(faults=[Fault(record.origin, "", str(error)), *record.faults])


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """A (height, width) in pixels from numbers or texts; None: they are no size."""
    try:
        height, width = int(float(height)), int(float(width))
    except (TypeError, ValueError, OverflowError):
        return None
    return (height, width) if 0 < min(height, width) <= max(height, width) < 2**31 else None


def read_result(
    records: Sequence[ImageRecord],
    image_ids: Sequence[int],
    class_names: Sequence[str],
    *,
    where: str,
    item: str,
    include_difficult: bool,
    frame: Frame,
) -> ReadResult:
    """Makes the columns of a split from the records of its images, and checks them.

    The size of an image comes from its header, or else from the annotation; where they disagree,
    see `fit_to_images`. An image with several records is dropped: each names the other's file.

    Objects of other classes than `class_names` are left out and counted. In messages `where` is the
    split, and `item` an object.

    Raises:
        ValueError: No image is left, or boxes cannot be scaled.
    """
    class_names = tuple(class_names)
    found, stored = _drop_repeated_images(records), []
    with warnings.catch_warnings():  # of large images; but nothing is decoded here
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for place, record in enumerate(found):
            is_jpeg = record.file.lower().endswith((".jpg", ".jpeg"))  # others are read whole
            wanted = frame.apply_exif or record.in_fractions or (is_jpeg and record.objects)
            header = record.file and read_header(record.file, with_exif=wanted)
            size, orientation = header or ((0, 0), 1)
            if frame.apply_exif:
                size, orientation = size[:: -1 if orientation > 4 else 1], 1
            if record.file and record.in_fractions:
                found[place] = _in_pixels(record, size, orientation)
            elif _may_be_turned(record, size, orientation):
                found[place] = _with_orientation(record, orientation)
            stored.append(size)
    used = [place for place, record in enumerate(found) if record.file]
    faults_of: dict[str, list[Fault]] = {}  # of each annotation file
    for record in found:
        unread = [fault for name, fault in record.unread if not name or name in class_names]
        faults_of.setdefault(record.origin, []).extend([*record.faults, *unread])
    kept = [found[place] for place in used]
    names = [name for record in kept for name in names_in(record) if name not in class_names]
    read = Annotations(
        image_ids=np.array(image_ids, np.int64)[used],
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        **_columns(kept, class_names, include_difficult),
    )
    sizes = np.array(stored).reshape(-1, 2)[used]
    origins = [record.origin for record in kept]
    read, dropped = fit_to_images(read, sizes, frame, origins, "size")
    for fault in dropped:
        faults_of[fault.file].append(fault)
    if not read.num_images:
        first = next((f"; the first fault: {f[0]}" for f in faults_of.values() if f), "")
        raise ValueError(f"{where}: none of {len(records)} images is left{first}")
    origin_of = {record.file: record.origin for record in kept}
    clean, dropped = check_annotations(read, [origin_of[file] for file in read.files], item)
    for fault in dropped:
        faults_of[fault.file].append(fault)

    def number(fault: Fault) -> int:
        """The place of the object in its file; 0: before all objects."""
        kind, _, text = fault.item.partition(" ")
        return int(text) if kind == item else 0

    faults = [fault for mine in faults_of.values() for fault in sorted(mine, key=number)]
    return ReadResult(clean, faults, dict(Counter(names)))


def names_in(record: ImageRecord) -> list[str]:
    """The class of each object of a record that has one, also of those that cannot be used."""
    return [
        *(each.name for each in record.objects.values()),
        *(name for name, _ in record.unread if name),
    ]


def _drop_repeated_images(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    origins: dict[str, list[str]] = {}
    for record in records:
        if record.file:
            origins.setdefault(record.file, []).append(record.origin)
    found = []
    for record in records:
        if record.file and len(origins[record.file]) > 1:
            others = ", ".join(sorted({*origins[record.file]} - {record.origin})[:3])
            what = f"has image {record.file}, which {others or 'it'} has too"
            found.append(ImageRecord(record.origin, faults=[Fault(record.origin, "", what)]))
        else:
            found.append(record)
    return found


def _in_pixels(record: ImageRecord, size: tuple[int, int], orientation: int) -> ImageRecord:
    """A record in fractions of an image of that (height, width), not turned yet, with pixels."""
    faults = list(record.faults)
    height, width = size
    if not height:
        what = "cannot be read; its size is needed for its boxes"
        return ImageRecord(record.origin, faults=[*faults, Fault(record.file, "", what)])
    if orientation > 1 and record.objects:
        faults = _with_orientation(record, orientation).faults
    scale = np.array([width, height, width, height], float)
    objects = {
        number: each._replace(box=tuple((scale * each.box).tolist()))
        for number, each in record.objects.items()
    }
    return record._replace(objects=objects, size=size, faults=faults)


def _may_be_turned(record: ImageRecord, size: tuple[int, int], orientation: int) -> bool:
    """Whether EXIF turns an image of that (height, width), and the frame of its boxes is unknown.

    Where a turn exchanges the sides, the annotated size or a box tells it.
    """
    if orientation == 1 or not record.objects or record.size not in (None, size):
        return False
    height, width = size
    boxes = [each.box for each in record.objects.values()]
    fits = all(x2 <= height and y2 <= width for *_, x2, y2 in boxes)
    return orientation < 5 or (record.size is None and fits)


def _with_orientation(record: ImageRecord, orientation: int) -> ImageRecord:
    """The record, with a fault that tells of an EXIF orientation."""
    what = f"has EXIF orientation {orientation}, which other programs apply; --apply_exif does"
    fault = Fault(record.origin, "", what, kept=True)
    return record._replace(faults=[*record.faults, fault])


def _columns(
    records: Sequence[ImageRecord], class_names: tuple[str, ...], with_difficult: bool
) -> dict:
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = [
        (owner, number, label_of[each.name], each.difficult and not with_difficult, each.box)
        for owner, record in enumerate(records)
        for number, each in record.objects.items()
        if each.name in label_of
    ]
    owners, numbers, labels, ignored, boxes = zip(*rows, strict=True) if rows else [()] * 5
    return {
        "files": [record.file for record in records],
        "sizes": np.array([record.size or (0, 0) for record in records], np.int32).reshape(-1, 2),
        "owners": np.array(owners, np.int64),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "labels": np.array(labels, np.int32),
        "areas": np.full(len(rows), np.nan),
        "ignored": np.array(ignored, bool),
        "numbers": np.array(numbers, np.int64),
    }


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
    if not len(sizes):  # all images are missing
        return read
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
    notes = () if (ratio == 1).all() else (note,)  # as of boxes that are fractions
    return replace(
        read,
        sizes=sizes,
        boxes=read.boxes * np.tile(factors[:, ::-1], 2),
        areas=read.areas * factors.prod(axis=1),
        notes=read.notes + notes,
    )
