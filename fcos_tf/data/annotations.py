"""The annotations of a split as columns, their faults, and the images that cannot be read.

n images, T boxes of all of them together. Boxes are xyxy in pixels of the image on disk, with
continuous edges: width = x2 - x1. A fault is an error of the annotations.
"""

import contextlib
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from absl import logging

from fcos_tf.tensorflow_words import escaped

# Thousandths of a pixel: (x, y, width, height) and TFDS' normalised float32 give back the numbers
# that were written.
COORDINATE_DECIMALS = 3
OVERHANG = 1.0  # pixels that a box may reach over its image without a fault
MAX_LISTED = 10  # faults in a message


class Fault(NamedTuple):
    """One error in the annotations.

    Attributes:
        file: The file with the error.
        item: Its part, for example "annotation 17" or "object 3"; empty: the file as a whole.
        what: The error: what is wrong, or expected and got.
        kept: Whether the item is used all the same, else it counts as dropped.
    """

    file: str
    item: str
    what: str
    kept: bool = False

    def __str__(self) -> str:
        return escaped(f"{self.file}: {self.item}{self.item and ' '}{self.what}")


@dataclass(frozen=True, eq=False)
class Annotations:
    """All that is known of a split before its images are opened, as columns.

    Args:
        files: n paths of files that hold the images.
        image_ids: int64 [n], the data set's own numbering, all different.
        sizes: int32 [n, 2], (height, width) of the stored image; 0 where unknown.
        owners: int64 [T], the image of each box, ascending.
        boxes: float64 [T, 4].
        labels: int32 [T], 0..C-1.
        areas: float64 [T], pixels of the object as the data set counts them (COCO: of its
            segmentation, see `evaluation`); NaN = that of the box.
        ignored: bool [T], not learned, and neither right nor wrong to detect: COCO's crowds,
            VOC's difficult objects.
        numbers: int64 [T], the number of the box in messages: its annotation's id, or its place
            in its file.
        class_names: Name of each label.
        category_ids: The data set's own id of each label.
        ranges: int64 [n, 2], (offset, length) in bytes of the image within its file; None: images
            are whole files.
        apply_exif: Whether sizes and boxes are those of the images turned upright by EXIF.
        single_label: Whether an image has one class, and no box but one around the whole of it.
        notes: What a run says of the split: how it was made, what a reader decided.
    """

    files: Sequence[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    numbers: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    ranges: np.ndarray | None = None
    apply_exif: bool = False
    single_label: bool = False
    notes: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """The number of images, n."""
        return len(self.files)

    def place_of(self, index: int) -> tuple[str, int, int | None]:
        """The (file, offset, length in bytes) of an image; length None = up to the end."""
        offset, length = (0, None) if self.ranges is None else map(int, self.ranges[index])
        return self.files[index], offset, length

    def fingerprint(self) -> list[str]:
        """A line for each image: a checksum of its length in bytes and its objects; its name.

        The name has no folder, so that moved data has the same lines. No pixel is read.
        """
        columns = (self.boxes, self.labels, self.areas, self.ignored)
        rows = np.column_stack([column.astype("<f8") for column in columns])  # [T, 7]
        ends = np.searchsorted(self.owners, np.arange(self.num_images + 1))
        lines = []
        for index in range(self.num_images):
            file, offset, length = self.place_of(index)
            if length is None:
                with contextlib.suppress(OSError):  # missing, or a URL
                    length = os.stat(file).st_size
            objects = rows[ends[index] : ends[index + 1]].tobytes()
            checksum = zlib.crc32(objects, zlib.crc32(str(length).encode()))
            name = os.path.basename(file) + (f" at byte {offset}" if offset else "")
            lines.append(f"{checksum:08x} {ascii(name)[1:-1]}")
        return lines

    def known_areas(self) -> np.ndarray:
        """float64 [T], `areas`; that of the box where the data set has none."""
        box_areas = np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1)
        return np.where(np.isnan(self.areas), box_areas, self.areas)

    def rows(self, keep: np.ndarray) -> "Annotations":
        """The same images with only some of the boxes; `keep` is bool [T] or indices."""
        names = ("owners", "boxes", "labels", "areas", "ignored", "numbers")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def images(self, keep: np.ndarray) -> "Annotations":
        """Only some of the images, in the same order, with their boxes; `keep` is bool [n]."""
        new_index = np.cumsum(keep) - 1
        kept = self.rows(keep[self.owners])
        return replace(
            kept,
            files=[file for file, use in zip(self.files, keep, strict=True) if use],
            image_ids=self.image_ids[keep],
            sizes=self.sizes[keep],
            owners=new_index[kept.owners],
            ranges=None if self.ranges is None else self.ranges[keep],
        )


class ReadResult(NamedTuple):
    """The annotations of a split, as read.

    Attributes:
        annotations: The split, clean: items with faults are dropped or corrected.
        faults: Errors of the annotations, in the order of the files.
        other_classes: Name -> number of objects of classes that were not asked for.
    """

    annotations: Annotations
    faults: list[Fault]
    other_classes: dict[str, int]


def check_annotations(
    annotations: Annotations, origins: Sequence[str] | str, item: str
) -> tuple[Annotations, list[Fault]]:
    """Drops boxes that no detector can learn and clips the others to their image.

    Dropped are boxes with a value that is not finite, without area (x2 <= x1 or y2 <= y1), or
    outside an image of known size; also those that reach over it and have less than a pixel in it.
    Cutting off more than `OVERHANG` is a fault, too, though the rest is kept; less is usual (COCO's
    own boxes reach over by hundredths). Kept boxes are rounded to thousandths of a pixel.

    Args:
        annotations: As read.
        origins: The annotation file of each image, or of all, for messages.
        item: The noun for a box in messages, for example "annotation".

    Returns:
        The clean annotations, and a fault for each box that is dropped or cut.
    """
    boxes, sizes = annotations.boxes, annotations.sizes[annotations.owners]  # [T, 4], [T, 2]
    known = (sizes > 0).all(axis=1, keepdims=True)
    limits = np.where(known, np.tile(sizes[:, ::-1], 2), np.inf)  # [T, 4]
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):
        clipped = np.where(known, np.clip(boxes, 0.0, limits), boxes).round(COORDINATE_DECIMALS)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        left = (clipped[:, 2:] - clipped[:, :2]).min(axis=1)  # the shorter side
        cut = np.abs(clipped - boxes).max(axis=1) > OVERHANG
    used = finite & has_area & np.where(cut, left >= 1.0, left > 0.0)
    faults = []
    for row in np.flatnonzero(~used | cut & finite & has_area):
        image = "the image of {1}x{0} pixels".format(*sizes[row])
        if not finite[row]:
            what = "is not finite"
        elif not has_area[row] or (left[row] <= 0 and not known[row]):
            what = "has no area"  # or less than a thousandth of a pixel
        elif used[row]:
            what = f"reaches over {image} and is cut"
        elif left[row] <= 0:
            what = f"lies outside {image}"
        else:
            what = f"lies outside {image}, but for a strip of {left[row]:g} pixels"
        origin = origins if isinstance(origins, str) else origins[annotations.owners[row]]
        what = f"box ({', '.join(f'{value:g}' for value in boxes[row])}) {what}"
        faults.append(Fault(origin, f"{item} {annotations.numbers[row]}", what, bool(used[row])))
    return replace(annotations, boxes=clipped).rows(used), faults


def select(
    annotations: Annotations, where: str, *, skip_empty: bool, max_boxes: int | None
) -> tuple[Annotations, list[str]]:
    """Leaves out images and boxes that the caller does not want; also returns their names."""
    left_out = {}
    if max_boxes is not None:
        learned = np.cumsum(~annotations.ignored)
        first = np.searchsorted(annotations.owners, annotations.owners)  # of the image's rows
        before = learned[first] - ~annotations.ignored[first]
        surplus = ~annotations.ignored & (learned - before > max_boxes)
        left_out[f"boxes over max_boxes={max_boxes}"] = [
            f"{annotations.files[annotations.owners[row]]}: box {annotations.numbers[row]} is over "
            f"max_boxes={max_boxes}"
            for row in np.flatnonzero(surplus)
        ]
        annotations = annotations.rows(~surplus)
    if skip_empty:
        full = np.zeros(annotations.num_images, bool)
        full[annotations.owners[~annotations.ignored]] = True
        left_out["images without boxes"] = [
            f"{annotations.files[i]}: image without boxes" for i in np.flatnonzero(~full)
        ]
        annotations = annotations.images(full)
    for what, names in left_out.items():
        if names:
            logging.warning("%s: left out %d %s, all in dataset.dropped", where, len(names), what)
    return annotations, [name for names in left_out.values() for name in names]


def report_faults(
    where: str, faults: Sequence[Fault], other_classes: Mapping[str, int], max_faults: int
) -> None:
    """Logs what is in a `ReadResult` beside the annotations; `where` is the split ("voc train").

    Raises:
        ValueError: More than `max_faults` were dropped.
    """
    if other_classes:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(other_classes.items()))
        logging.warning("%s: left out objects of other classes: %s", where, escaped(counts))
    if not faults:
        return
    dropped = sum(not fault.kept for fault in faults)
    text = f"{where}: {len(faults)} faults in the annotations, {dropped} of them dropped"
    for fault in sorted(faults, key=lambda fault: fault.kept)[:MAX_LISTED]:  # dropped ones first
        text += f"\n  {fault} ({'kept' if fault.kept else 'dropped'})"
    if len(faults) > MAX_LISTED:
        more = len(faults) - MAX_LISTED
        text += f"\n  ... and {more} more, in dataset.faults and by tools/dataset.py"
    if dropped > max_faults:
        raise ValueError(f"{text}\nexpected at most max_faults={max_faults} dropped")
    logging.warning("%s", text)


class ImageFaults:
    """Messages about images, filled while they are read, from several threads.

    Args:
        max_bad_images: How many different images may be skipped.

    Attributes:
        skipped: A message for each image that cannot be read, once for each image.
        notes: Messages about images that are used, but are not as annotated.
    """

    def __init__(self, max_bad_images: int):
        self.max_bad_images = max_bad_images
        self.skipped: list[str] = []
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._seen: set[str] = set()

    def skip(self, message: str) -> str:
        """Counts an image that cannot be read; the message to stop with, empty while tolerated."""
        most = self.max_bad_images
        with self._lock:
            if is_new := self._is_new(message):
                self.skipped.append(message)
            count = len(self.skipped)
        if is_new and count <= most:
            logging.warning("skipped bad image %d of at most %d: %s", count, most, message)
        if count <= most:
            return ""
        many = f"{count} images cannot be read, more than max_bad_images={most}; the last: "
        return message if count == 1 else many + message

    def note(self, messages: Sequence[str]) -> None:
        """Adds messages about images that are used all the same."""
        with self._lock:
            for message in filter(self._is_new, messages):
                self.notes.append(message)
                if len(self.notes) <= MAX_LISTED:
                    logging.warning("%s", message)
                elif len(self.notes) == MAX_LISTED + 1:
                    logging.warning("further notes on images are in dataset.image_faults.notes")

    def _is_new(self, message: str) -> bool:
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new
