"""The Python side of a data set: examples from the file to the canvas, in threads of tf.data."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fcos_tf.data.annotations import Example, ImageError, SizeRule, Source
from fcos_tf.data.faults import ImageFaults
from fcos_tf.data.image_size import ImageSize
from fcos_tf.data.images import resize_image
from fcos_tf.data.input import transforms
from fcos_tf.data.input.order import FILLER
from fcos_tf.data.python_calls import call_python

FILLER_ID = -1  # image id of a row that holds no image

# What an example is called in a batch, and what it is there without the axis of the batch.
_TARGETS = {
    "boxes": tf.float32,
    "labels": tf.int32,
    "image_sizes": tf.float32,
    "original_sizes": tf.float32,
    "image_ids": tf.int64,
}
_EVALUATION_TARGETS = {
    "areas": tf.float32,
    "ignored_boxes": tf.float32,
    "ignored_labels": tf.int32,
}


class _Chances(NamedTuple):
    """Numbers in [0, 1) that belong to one seed, pass and position alone."""

    size: float
    crop_y: float
    crop_x: float
    flip: float


@dataclass(eq=False)
class Reader:
    """Reads examples of a source; knows what to do with images that cannot be read.

    Args:
        source: The split.
        image_size: To what size images are brought.
        faults: Counts bad images and says when they are too many.
        training: Take the next image of the split in place of a bad one. In evaluation a filler
            stands there: a black image of one pixel, without boxes, whose id is FILLER_ID. For
            evaluation images are also resized exactly, in float32, as the published detectors do;
            for training to whole grey levels, which takes less time and memory.
        seed: In [0, 2^31), of everything random.
        most_boxes: M, what boxes are padded to.
        horizontal_flip: Mirror every other image, at random.
        portrait: bool [n] where batches hold one orientation; images are then fitted to its
            canvas, and replaced by others of it.
        cache: Keep every example in memory, resized, once it has been read.
    """

    source: Source
    image_size: ImageSize
    faults: ImageFaults
    training: bool
    seed: int
    most_boxes: int
    horizontal_flip: bool = False
    portrait: np.ndarray | None = None
    cache: bool = False
    _cached: dict[int, Example] = field(default_factory=dict)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, element: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Graph function.

        Args:
            element: int64 [3]: image index, pass, position in the pass.

        Returns:
            Image, [H, W, 3], uint8 in training and float32 in evaluation, padded where the canvas
            is known before the batch is, and targets, as `fcos_tf.data.load` has them in a batch.

        Raises:
            tf.errors.InvalidArgumentError: More bad images than tolerated; names one.
        """
        names = _TARGETS | ({} if self.training else _EVALUATION_TARGETS)

        def read(element):
            index, *place = element.tolist()
            chances = self._chances(*place)
            if index <= FILLER:
                index, example, complaint = FILLER - index, _filler(), ""
            else:
                example, complaint = self._read(index, chances)
            image, targets = self._finish(index, example, chances)
            return [image, *(targets[name] for name in names), complaint]

        def stand_in():
            image, targets = self._finish(0, _filler(), self._chances(0, 0))
            return [image, *(targets[name] for name in names), ""]

        image, *values, complaint = call_python(
            read, [element], [self._image_type(), *names.values(), tf.string], stand_in
        )
        # The complaint is handed back rather than raised in there, which would wrap it in a
        # traceback of TensorFlow's inside.
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(complaint, ""), [complaint])]):
            image = tf.ensure_shape(image, [*(self.image_size.canvas or [None, None]), 3])
        targets = dict(zip(names, values, strict=True))
        rows, ignored = self.most_boxes, self.source.most_ignored
        shapes = {
            "boxes": [rows, 4], "labels": [rows], "image_sizes": [2], "original_sizes": [2],
            "image_ids": [], "areas": [rows], "ignored_boxes": [ignored, 4],
            "ignored_labels": [ignored],
        }  # fmt: skip
        return image, {name: tf.ensure_shape(v, shapes[name]) for name, v in targets.items()}

    def _image_type(self) -> tf.DType:
        return tf.uint8 if self.training else tf.float32

    def _chances(self, pass_number: int, position: int) -> _Chances:
        counter = [0, 0, position, pass_number]
        philox = np.random.Philox(key=[self.seed, 0], counter=counter)
        return _Chances(*np.random.Generator(philox).random(4).tolist())

    def _read(self, index: int, chances: _Chances) -> tuple[Example, str]:
        """The example, and what to stop with if it had better not be used."""
        if index in self._cached:
            return self._cached[index], ""
        fit = None if self.portrait is None else self._canvas(index)
        current = index
        while True:
            try:
                example = self._read_resized(
                    current, lambda h, w: self.image_size.resized(h, w, chances.size, fit)
                )
                break
            except ImageError as error:
                complaint = self.faults.skip(str(error))
                if complaint or not self.training:
                    return _filler(), complaint
                current = self._next(current)
                if current == index:
                    return _filler(), f"no image of the split can be read; the last: {error}"
        if self.cache:
            self._cached[index] = example
        return example, ""

    def _read_resized(self, index: int, size_for: SizeRule) -> Example:
        if self.training:
            return self.source.read(index, size_for)
        example = self.source.read(index, lambda h, w: (h, w))
        pixels = example.image.astype(np.float32)
        return example._replace(image=resize_image(pixels, *size_for(*pixels.shape[:2])))

    def _finish(self, index: int, example: Example, chances: _Chances):
        """Crops, flips and pads; returns the image and its targets."""
        image, labels = example.image, example.labels
        before, after = tuple(example.original_size.tolist()), image.shape[:2]
        boxes = transforms.scale_boxes(example.boxes, before, after)
        if self.image_size.scale_jitter is not None:
            image, boxes, labels = transforms.crop_to_canvas(
                image, boxes, labels, self.image_size.canvas, (chances.crop_y, chances.crop_x)
            )
        flipped = self.horizontal_flip and chances.flip < 0.5
        if flipped:
            image, boxes = transforms.flip_horizontal(image, boxes)
        boxes, labels = transforms.pad_boxes(boxes, labels, self.most_boxes)
        targets = {
            "boxes": boxes,  # [M, 4]
            "labels": labels,  # [M]
            "image_sizes": np.array(image.shape[:2], np.float32),
            "original_sizes": example.original_size.astype(np.float32),
            "image_ids": np.int64(example.image_id),
        }
        if not self.training:
            ignored = transforms.scale_boxes(example.ignored_boxes, before, after)
            if flipped:
                ignored = transforms.flip_boxes(ignored, image.shape[1])
            targets["ignored_boxes"], targets["ignored_labels"] = transforms.pad_boxes(
                ignored, example.ignored_labels, self.source.most_ignored
            )  # [K, 4], [K]
            targets["areas"] = np.zeros(self.most_boxes, np.float32)
            targets["areas"][: len(example.areas)] = example.areas
        canvas = self._canvas(index) or image.shape[:2]
        image = image.astype(self._image_type().as_numpy_dtype, copy=False)  # a filler is uint8
        return transforms.pad_image(image, *canvas), targets

    def _canvas(self, index: int) -> tuple[int, int] | None:
        """(H, W) of the batch that an image will be in, where that is known before."""
        if self.portrait is None:
            return self.image_size.canvas
        return self.image_size.canvases()[int(self.portrait[index])]

    def _next(self, index: int) -> int:
        """The next image of the split, in a circle, that may stand in for this one."""
        others = np.roll(np.arange(self.source.num_images), -1 - index)
        if self.portrait is not None:
            others = others[self.portrait[others] == self.portrait[index]]
        return int(others[0])


def _filler() -> Example:
    return Example(
        image=np.zeros([1, 1, 3], np.uint8),
        original_size=np.ones(2, np.int32),
        image_id=FILLER_ID,
        boxes=np.zeros([0, 4], np.float32),
        labels=np.zeros(0, np.int32),
        areas=np.zeros(0, np.float32),
        ignored_boxes=np.zeros([0, 4], np.float32),
        ignored_labels=np.zeros(0, np.int32),
    )
