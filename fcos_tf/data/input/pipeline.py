"""From examples to batches: order, reading, augmentation, prefetch.

Everything random is a function of (seed, pass over the data, position in the pass), see `order`,
so the number of threads changes nothing and a resumed run goes on exactly where it stopped.
"""

from collections.abc import Callable

import tensorflow as tf

from fcos_tf.data.image_size import MULTIPLE
from fcos_tf.data.input import augment
from fcos_tf.data.input.examples import Reader
from fcos_tf.data.input.order import Order

# Part of the seed of each kind of random number, so that no two kinds are tied together.
_COLOURS, _MOSAIC = 1, 2


def batches(reader: Reader, order: Order, augmentations: tuple[str, ...]) -> tf.data.Dataset:
    """Makes a data set of (images, targets), as `fcos_tf.data.load` describes them.

    Args:
        reader: Reads single examples.
        order: Which image comes where.
        augmentations: Out of `augment.AUGMENTATIONS`; "scale_jitter" is the reader's.

    Raises:
        ValueError: Too few images, see `Order.num_steps`.
    """
    steps = order.num_steps()
    whole = order.training or order.repeat
    load = _loader(reader, order.seed, augmentations)
    # All images of a batch have one size from the start, or get that of the largest.
    one_size = reader.image_size.canvas is not None or order.portrait is not None
    result = None
    for stream in order.streams():
        part = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        if one_size:
            part = part.batch(order.host_batch_size, drop_remainder=whole)
        else:
            part = part.padded_batch(order.host_batch_size, drop_remainder=whole)
            part = part.map(_pad_to_multiple, num_parallel_calls=tf.data.AUTOTUNE)
        result = part if result is None else result.concatenate(part)
    if "mosaic" in augmentations:
        result = result.map(_mosaic, num_parallel_calls=tf.data.AUTOTUNE)
    if whole:  # tf.data does not count what comes out of a stream of batches by itself
        cardinality = tf.data.INFINITE_CARDINALITY if steps is None else steps
        result = result.apply(tf.data.experimental.assert_cardinality(cardinality))
    options = tf.data.Options()
    options.deterministic = True
    if order.num_hosts > 1:
        off = tf.data.experimental.AutoShardPolicy.OFF
        options.experimental_distribute.auto_shard_policy = off
    return result.prefetch(tf.data.AUTOTUNE).with_options(options)


def _loader(reader: Reader, seed: int, augmentations: tuple[str, ...]) -> Callable:
    """The function from an element of the order to an example."""
    recolour = augment.augment_image(augmentations)
    has_colours = bool(set(augmentations) - {"mosaic", "scale_jitter"})

    def load(element):
        image, targets = reader(element)
        if has_colours:
            height, width = tf.unstack(tf.cast(targets["image_sizes"], tf.int32))
            canvas = tf.shape(image)
            changed = recolour(image[:height, :width], _key(seed, _COLOURS, element))
            padded = tf.image.pad_to_bounding_box(changed, 0, 0, canvas[0], canvas[1])
            image = tf.ensure_shape(padded, image.shape)
        if "mosaic" in augmentations:
            targets = {**targets, "key": _key(seed, _MOSAIC, element)}
        return image, targets

    return load


def _mosaic(images: tf.Tensor, targets: dict[str, tf.Tensor]):
    targets = dict(targets)
    keys = targets.pop("key")
    return augment.mosaic(images, targets, keys[0])


def _key(seed: int, stream: int, element: tf.Tensor) -> tf.Tensor:
    """int64 [2] that belongs to this seed, kind, pass and position alone."""
    key = tf.constant([seed, stream], tf.int64)
    for i in (1, 2):
        key = tf.random.fold_in(key, element[i], alg="philox")
    return key


def _pad_to_multiple(images: tf.Tensor, targets: dict[str, tf.Tensor]):
    """Pads a batch, [B, h, w, 3], to the smallest multiple of MULTIPLE that holds it."""
    shape = tf.shape(images)
    height, width = (-(-shape[axis] // MULTIPLE) * MULTIPLE for axis in (1, 2))
    padding = [[0, 0], [0, height - shape[1]], [0, width - shape[2]], [0, 0]]
    return tf.ensure_shape(tf.pad(images, padding), [None, None, None, 3]), targets
