"""The Python side of a data set: reads examples, in threads of tf.data."""

from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from fcos_tf.data.example import Example, ImageError, Source
from fcos_tf.data.faults import ImageFaults
from fcos_tf.data.image_size import ImageSize
from fcos_tf.data.python_calls import call_python

FILLER_ID = -1  # image id of a row that holds no image

_DTYPES = {
    "image": tf.uint8,
    "original_size": tf.int32,
    "image_id": tf.int64,
    "boxes": tf.float32,
    "labels": tf.int32,
    "areas": tf.float32,
    "ignored_boxes": tf.float32,
    "ignored_labels": tf.int32,
}
_SHAPES = {
    "image": [None, None, 3],
    "original_size": [2],
    "image_id": [],
    "boxes": [None, 4],
    "labels": [None],
    "areas": [None],
    "ignored_boxes": [None, 4],
    "ignored_labels": [None],
}
FOR_TRAINING = ("image", "original_size", "image_id", "boxes", "labels")


@dataclass(eq=False)
class Reader:
    """Reads examples of a source, resized; knows what to do with images that cannot be read.

    Args:
        source: The split.
        image_size: To what size images are brought.
        faults: Counts bad images and says when they are too many.
        replace_bad: Take the next image of the split in place of a bad one, else a filler: a
            black image of one pixel, without boxes, whose id is FILLER_ID.
        portrait: bool [n] where batches hold one orientation; images are then fitted to its
            canvas, and replaced by others of it.
        cache: Keep every example in memory, resized, once it has been read.
    """

    source: Source
    image_size: ImageSize
    faults: ImageFaults
    replace_bad: bool
    portrait: np.ndarray | None = None
    cache: bool = False
    _cached: dict[int, Example] = field(default_factory=dict)

    def __call__(
        self, index: tf.Tensor, chance: tf.Tensor, names: tuple[str, ...] = tuple(_DTYPES)
    ) -> dict[str, tf.Tensor]:
        """Graph function.

        Args:
            index: int64 scalar.
            chance: float32 scalar in [0, 1), see `ImageSize.resized`.
            names: Which parts of an `Example`.

        Returns:
            Name -> tensor.

        Raises:
            tf.errors.InvalidArgumentError: More bad images than tolerated; names one.
        """

        def read(index, chance):
            example, complaint = self._read(int(index), float(chance))
            return [getattr(example, name) for name in names] + [complaint]

        dtypes = [_DTYPES[name] for name in names]
        *parts, complaint = call_python(read, [index, chance], [*dtypes, tf.string])
        # The complaint is handed back rather than raised in there, which would wrap it in a
        # traceback of TensorFlow's inside.
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(complaint, ""), [complaint])]):
            return {
                name: tf.ensure_shape(part, _SHAPES[name])
                for name, part in zip(names, parts, strict=True)
            }

    def _read(self, index: int, chance: float) -> tuple[Example, str]:
        """The example, and what to stop with if it had better not be used."""
        if index in self._cached:
            return self._cached[index], ""
        fit = (
            None if self.portrait is None else self.image_size.canvases()[int(self.portrait[index])]
        )
        current = index
        while True:
            try:
                example = self.source.read(
                    current, lambda h, w: self.image_size.resized(h, w, chance, fit)
                )
                break
            except ImageError as error:
                complaint = self.faults.skip(str(error))
                example = _filler()
                if complaint or not self.replace_bad:
                    return example, complaint
                current = self._next(current)
                if current == index:
                    return example, f"no image of the split can be read; the last: {error}"
        if self.cache:
            self._cached[index] = example
        return example, ""

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
