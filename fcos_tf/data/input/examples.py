"""Examples of a split: from a file and its annotations to a padded image and its targets.

Python and NumPy only: this runs in threads of tf.data, see `pipeline`. An image has M boxes that
can be learned and K that are ignored.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fcos_tf.data import images
from fcos_tf.data.annotations import Annotations, ImageFaults
from fcos_tf.data.input.order import FILLER, Order
from fcos_tf.image_size import ImageSize

FILLER_ID = -1  # image id of a row that holds no image


class Example(NamedTuple):
    """One image, resized, and what is in it; NumPy arrays.

    Attributes:
        image: uint8 [h, w, 3] RGB.
        original_size: int32 [2], (height, width) of the stored image.
        image_id: int.
        boxes: float64 [M, 4], xyxy in pixels of the stored image.
        labels: int32 [M].
        areas: float64 [M], in pixels of the stored image.
        ignored_boxes: float64 [K, 4].
        ignored_labels: int32 [K].
    """

    image: np.ndarray
    original_size: np.ndarray
    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ignored_boxes: np.ndarray = np.zeros([0, 4])
    ignored_labels: np.ndarray = np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Source:
    """The images of one split.

    Args:
        read: Index in [0, num_images) and the size that the image shall get -> `Example`. Called
            from several threads; must not call TensorFlow. Raises `ImageError`.
        num_images: n.
        most_boxes: The largest M that `read` returns.
        most_ignored: The largest K, at least 1: `unbatch` of TensorFlow 2.21 crashes on [1, 0, 4].
        class_names: Name of each label.
        category_ids: The data set's own id of each label.
        portrait: bool [n], whether an image is higher than wide; None: nobody knows.
        can_flip: Whether a mirrored image is still a fair example (mirrored digits are not).
    """

    read: Callable[[int, images.SizeRule], Example]
    num_images: int
    most_boxes: int
    most_ignored: int
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    portrait: np.ndarray | None = None
    can_flip: bool = True


def make_source(annotations: Annotations, note: Callable[[list[str]], None]) -> Source:
    """The images that annotations name, as a `Source`.

    Args:
        annotations: In the order of evaluation.
        note: Takes messages about images that are not as their annotations say.
    """
    areas = annotations.known_areas()
    # Image i owns the rows starts[i] to starts[i + 1].
    starts = np.searchsorted(annotations.owners, np.arange(annotations.num_images + 1))

    def read(index: int, size_for: images.SizeRule) -> Example:
        file, offset, num_bytes = annotations.place_of(index)
        name = file if num_bytes is None else f"{file}, {num_bytes} bytes from {offset} on"
        data = images.read_bytes(file, offset, num_bytes)
        image, stored = images.decode_image(data, name, size_for, annotations.apply_exif)
        rows = slice(starts[index], starts[index + 1])
        boxes = annotations.boxes[rows]
        annotated = tuple(annotations.sizes[index].tolist())
        if stored != annotated:
            if min(annotated) > 0 and len(boxes):  # nobody knows the frame of the boxes
                what = images.size_mismatch(annotated, stored, io.BytesIO(data))
                raise images.ImageError(f"{name}: {what}")
            inside = _inside(annotations, rows, stored, name, note)
            rows = np.arange(rows.start, rows.stop)[inside]
            boxes = np.clip(boxes[inside], 0, [stored[1], stored[0]] * 2)
        labels, ignored = annotations.labels[rows], annotations.ignored[rows]
        return Example(
            image=image,
            original_size=np.array(stored, np.int32),
            image_id=int(annotations.image_ids[index]),
            boxes=boxes[~ignored],
            labels=labels[~ignored],
            areas=areas[rows][~ignored],
            ignored_boxes=boxes[ignored],
            ignored_labels=labels[ignored],
        )

    def most(rows: np.ndarray) -> int:
        return int(np.bincount(annotations.owners[rows], minlength=1).max())

    known = (annotations.sizes > 0).all()
    return Source(
        read=read,
        num_images=annotations.num_images,
        most_boxes=most(~annotations.ignored),
        most_ignored=max(1, most(annotations.ignored)),
        class_names=annotations.class_names,
        category_ids=annotations.category_ids,
        portrait=annotations.sizes[:, 0] > annotations.sizes[:, 1] if known else None,
    )


def _inside(annotations, rows, stored, name, note) -> np.ndarray:
    """Which boxes reach into an image of unknown size; notes the others."""
    height, width = stored
    messages = []
    corners, numbers = annotations.boxes[rows], annotations.numbers[rows]
    inside = (corners[:, :2] < (width, height)).all(axis=1) & (corners[:, 2:] > 0).all(axis=1)
    for box, number in zip(corners[~inside], numbers[~inside], strict=True):
        text = f"box {number} ({', '.join(f'{value:g}' for value in box)})"
        messages.append(f"{name}: left out {text}, outside the image of {width}x{height} pixels")
    note(messages)
    return inside


class _Chances(NamedTuple):
    """Numbers in [0, 1) that belong to one seed, pass and position alone."""

    size: float
    crop_y: float
    crop_x: float
    flip: float


@dataclass(eq=False)
class ExampleMapper:
    """Maps an element of the order to a padded image and its targets; copes with bad images.

    In training the next image of the split stands in for a bad one, in evaluation a filler: a black
    image of one pixel, without boxes, whose id is FILLER_ID. For evaluation images are also resized
    exactly, in float32, as the published detectors do; for training to whole grey levels, which
    takes less time and memory. Where batches hold one orientation, images are fitted to its canvas,
    and replaced by others of it.

    Args:
        source: The split.
        image_size: To what size images are brought.
        order: Which image comes where; its seed is that of everything random.
        faults: Counts bad images and says when they are too many.
        most_boxes: What M boxes are padded to.
        horizontal_flip: Mirror every other image, at random.
        cache: Keep every example in memory, resized, once it has been read.
    """

    source: Source
    image_size: ImageSize
    order: Order
    faults: ImageFaults
    most_boxes: int
    horizontal_flip: bool = False
    cache: bool = False
    _cached: dict[int, Example] = field(default_factory=dict)

    def __call__(self, index: int, pass_number: int, position: int):
        """One row of a batch, by an element of the order; see `Order.streams`.

        Returns:
            Image, [H, W, 3], uint8 in training and float32 in evaluation, padded where the canvas
            is known before the batch is; targets, as `fcos_tf.data.load` has them in a batch; and
            what to stop with, empty unless more images are bad than tolerated.
        """
        chances = self._chances(pass_number, position)
        if index <= FILLER:
            return *self._finish(FILLER - index, _filler(), chances), ""
        example, complaint = self._read(index, chances)
        return *self._finish(index, example, chances), complaint

    def filler(self):
        """A row without an image, in the form of a call's."""
        return self(FILLER, 0, 0)

    def _chances(self, pass_number: int, position: int) -> _Chances:
        counter = [0, 0, position, pass_number]
        philox = np.random.Philox(key=[self.order.seed, 0], counter=counter)
        return _Chances(*np.random.Generator(philox).random(4).tolist())

    def _read(self, index: int, chances: _Chances) -> tuple[Example, str]:
        """The example, and what to stop with if it had better not be used."""
        if index in self._cached:
            return self._cached[index], ""
        fit = None if self.order.portrait is None else self._canvas(index)
        current = index
        while True:
            try:
                example = self._read_resized(
                    current, lambda h, w: self.image_size.resized(h, w, chances.size, fit)
                )
                break
            except images.ImageError as error:
                complaint = self.faults.skip(str(error))
                if complaint or not self.order.training:
                    return _filler(), complaint
                current = self._next(current)
                if current == index:
                    return _filler(), f"no image of the split can be read; the last: {error}"
        if self.cache:
            self._cached[index] = example
        return example, ""

    def _read_resized(self, index: int, size_for: images.SizeRule) -> Example:
        if self.order.training:
            return self.source.read(index, size_for)
        example = self.source.read(index, lambda h, w: (h, w))
        pixels = example.image.astype(np.float32)
        return example._replace(image=images.resize_image(pixels, *size_for(*pixels.shape[:2])))

    def _finish(self, index: int, example: Example, chances: _Chances):
        """Crops, flips and pads; returns the image and its targets."""
        image, labels = example.image, example.labels
        before, after = tuple(example.original_size.tolist()), image.shape[:2]
        boxes = images.scale_boxes(example.boxes, before, after)
        if self.image_size.scale_jitter is not None:
            image, boxes, labels = images.crop_to_canvas(
                image, boxes, labels, self.image_size.canvas, (chances.crop_y, chances.crop_x)
            )
        flipped = self.horizontal_flip and chances.flip < 0.5
        if flipped:
            image, boxes = images.flip_horizontal(image, boxes)
        targets = {
            "boxes": images.pad_rows(boxes.astype(np.float32), self.most_boxes),  # [M, 4]
            "labels": images.pad_rows(labels.astype(np.int32), self.most_boxes, -1),  # [M]
            "image_sizes": np.array(image.shape[:2], np.float32),
            "original_sizes": example.original_size.astype(np.float32),
            "image_ids": np.int64(example.image_id),
        }
        most_ignored = self.source.most_ignored
        # Classifiers leave their classes out.
        targets["ignored_labels"] = images.pad_rows(example.ignored_labels, most_ignored, -1)  # [K]
        if not self.order.training:
            ignored = images.scale_boxes(example.ignored_boxes, before, after)
            originals = [example.boxes, example.ignored_boxes]
            if flipped:
                ignored = images.flip_boxes(ignored, image.shape[1])
                originals = [images.flip_boxes(found, before[1]) for found in originals]
            targets["ignored_boxes"] = images.pad_rows(ignored.astype(np.float32), most_ignored)
            targets["original_boxes"] = images.pad_rows(originals[0], self.most_boxes)
            targets["original_ignored_boxes"] = images.pad_rows(originals[1], most_ignored)
            targets["areas"] = images.pad_rows(example.areas, self.most_boxes)
        canvas = self._canvas(index) or image.shape[:2]
        image = image.astype(np.uint8 if self.order.training else np.float32, copy=False)
        return images.pad_image(image, *canvas), targets

    def _canvas(self, index: int) -> tuple[int, int] | None:
        """(H, W) of the batch that an image will be in, where that is known before."""
        if self.order.portrait is None:
            return self.image_size.canvas
        return self.image_size.canvases()[int(self.order.portrait[index])]

    def _next(self, index: int) -> int:
        """The next image of the split, in a circle, that may stand in for this one."""
        others = np.roll(np.arange(self.source.num_images), -1 - index)
        if self.order.portrait is not None:
            others = others[self.order.portrait[others] == self.order.portrait[index]]
        return int(others[0])


def _filler() -> Example:
    return Example(
        image=np.zeros([1, 1, 3], np.uint8),
        original_size=np.ones(2, np.int32),
        image_id=FILLER_ID,
        boxes=np.zeros([0, 4]),
        labels=np.zeros(0, np.int32),
        areas=np.zeros(0),
    )
