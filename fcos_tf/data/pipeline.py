"""From a source to batches: order, reading, transforms, padding, prefetch.

Everything random is a function of (seed, pass over the data, position in the pass), see `order`,
so the number of threads changes nothing and a resumed run goes on exactly where it stopped.

M padded boxes, K padded ignored boxes; H, W the size of a batch's images.
"""

from dataclasses import dataclass

import tensorflow as tf

from fcos_tf.data import augment, transforms
from fcos_tf.data.image_size import MULTIPLE, ImageSize
from fcos_tf.data.order import Order
from fcos_tf.data.reading import FOR_TRAINING, Reader

# Part of the seed of each kind of random number, so that no two kinds are tied together.
_FLIP, _SIZE, _CROP_Y, _CROP_X, _AUGMENT, _MOSAIC = range(1, 7)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """What is done to the examples of a split.

    Args:
        reader: Reads and resizes them.
        order: Which image comes where.
        image_size: The rule that `reader` resizes by.
        horizontal_flip: Mirror every other image, at random.
        augmentations: Out of `augment.AUGMENTATIONS`.
        most_boxes: M; mosaics have four times as many.
        most_ignored: K.
    """

    reader: Reader
    order: Order
    image_size: ImageSize
    horizontal_flip: bool
    augmentations: tuple[str, ...]
    most_boxes: int
    most_ignored: int

    def batches(self) -> tf.data.Dataset:
        """A data set of (images, targets), as `fcos_tf.data.load` describes them."""
        steps = self.order.num_steps()
        whole = self.order.training or self.order.repeat
        batch_size = self.order.host_batch_size
        # All images of a batch have one size from the start, or get that of the largest.
        one_size = self.image_size.canvas is not None or self.order.portrait is not None
        result = None
        for stream in self.order.streams():
            part = stream.map(self._load, num_parallel_calls=tf.data.AUTOTUNE)
            if one_size:
                part = part.batch(batch_size, drop_remainder=whole)
            else:
                part = part.padded_batch(batch_size, drop_remainder=whole)
                part = part.map(_pad_to_multiple, num_parallel_calls=tf.data.AUTOTUNE)
            result = part if result is None else result.concatenate(part)
        if "mosaic" in self.augmentations:
            result = result.map(self._mosaic, num_parallel_calls=tf.data.AUTOTUNE)
        if whole:  # tf.data does not count what comes out of a stream of batches by itself
            cardinality = tf.data.INFINITE_CARDINALITY if steps is None else steps
            result = result.apply(tf.data.experimental.assert_cardinality(cardinality))
        options = tf.data.Options()
        options.deterministic = True
        if self.order.num_hosts > 1:
            off = tf.data.experimental.AutoShardPolicy.OFF
            options.experimental_distribute.auto_shard_policy = off
        return result.prefetch(tf.data.AUTOTUNE).with_options(options)

    def _load(self, element: tf.Tensor):
        """One example, ready to be batched.

        Args:
            element: int64 [3], image index, pass and position.

        Returns:
            Image [H, W, 3] uint8 (or its own size) and targets.
        """
        training = self.order.training
        index, place = element[0], element[1:]
        chance = self._uniform(_SIZE, place) if self.image_size.is_random else 0.0
        example = self.reader(index, chance, *((FOR_TRAINING,) if training else ()))
        image, labels = example["image"], example["labels"]
        before, after = example["original_size"], tf.shape(image)[:2]
        boxes = transforms.scale_boxes(example["boxes"], before, after)
        if self.image_size.scale_jitter is not None:
            chances = tf.stack([self._uniform(_CROP_Y, place), self._uniform(_CROP_X, place)])
            image, boxes, labels = transforms.crop_to_canvas(
                image, boxes, labels, self.image_size.canvas, chances
            )
        if self.horizontal_flip:
            image, boxes = tf.cond(
                self._uniform(_FLIP, place) < 0.5,
                lambda: transforms.flip_horizontal(image, boxes),
                lambda: (image, boxes),
            )
        if self.augmentations:
            image = augment.augment_image(self.augmentations)(image, self._key(_AUGMENT, place))
        targets = {
            "image_sizes": tf.cast(tf.shape(image)[:2], tf.float32),  # [2]
            "original_sizes": tf.cast(before, tf.float32),  # [2]
            "image_ids": example["image_id"],
        }
        boxes, labels = transforms.pad_boxes(boxes, labels, self.most_boxes)
        targets |= {"boxes": boxes, "labels": labels}  # [M, 4], [M]
        if not training:
            ignored = transforms.scale_boxes(example["ignored_boxes"], before, after)
            targets["ignored_boxes"], targets["ignored_labels"] = transforms.pad_boxes(
                ignored, example["ignored_labels"], self.most_ignored
            )  # [K, 4], [K]
            areas = example["areas"]
            missing = self.most_boxes - tf.shape(areas)[0]
            targets["areas"] = tf.ensure_shape(tf.pad(areas, [[0, missing]]), [self.most_boxes])
        if "mosaic" in self.augmentations:
            targets["key"] = self._key(_MOSAIC, place)
        return self._pad(image, index), targets

    def _pad(self, image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """To the canvas, where one is known before the batch is."""
        if self.image_size.canvas is not None:
            return transforms.pad_image(image, *self.image_size.canvas)
        if self.order.portrait is not None:
            canvases = tf.constant(self.image_size.canvases())
            portrait = tf.gather(tf.constant(self.order.portrait), index)
            canvas = canvases[tf.cast(portrait, tf.int32)]
            return transforms.pad_image(image, canvas[0], canvas[1])
        return image

    def _mosaic(self, images: tf.Tensor, targets: dict):
        targets = dict(targets)
        keys = targets.pop("key")
        return augment.mosaic(images, targets, keys[0])

    def _key(self, stream: int, place: tf.Tensor) -> tf.Tensor:
        """int64 [2] that belongs to this seed, kind, pass and position alone."""
        key = tf.constant([self.order.seed, stream], tf.int64)
        for i in range(2):
            key = tf.random.fold_in(key, place[i], alg="philox")
        return key

    def _uniform(self, stream: int, place: tf.Tensor) -> tf.Tensor:
        """A number in [0, 1) that belongs to this seed, kind, pass and position alone."""
        return tf.random.stateless_uniform([], self._key(stream, place), alg="philox")


def _pad_to_multiple(images, targets):
    """Pads a batch, [B, h, w, 3], to the smallest multiple of MULTIPLE that holds it."""
    shape = tf.shape(images)
    height, width = (-(-shape[axis] // MULTIPLE) * MULTIPLE for axis in (1, 2))
    return transforms.pad_image(images, height, width), targets
