"""From examples to batches: the graph of tf.data, with augmentation and prefetch.

Everything random is a function of (seed, pass over the data, position in the pass), see `order`,
so the number of threads changes nothing and a resumed run goes on exactly where it stopped.

A data set fetches ahead in threads of its own. One that is inside a Python function at the moment
the interpreter shuts down never gets the interpreter lock again, and the shutdown waits for it
without end: any script that leaves an iterator open would hang after its last line. So calls are
counted, and before the shutdown begins those under way are waited for. New ones are given a
stand-in; an error would make TensorFlow print its traceback.
"""

import atexit
import threading
import time
from collections.abc import Callable

import tensorflow as tf

from fcos_tf.data.input import augment
from fcos_tf.data.input.examples import ExampleMapper
from fcos_tf.image_size import MULTIPLE

# Part of the seed of each kind of random number, so that no two kinds are tied together.
_COLOURS, _MOSAIC = 1, 2

_QUIET_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0


def batches(mapper: ExampleMapper, augmentations: tuple[str, ...]) -> tf.data.Dataset:
    """Makes a data set of (images, targets), as `fcos_tf.data.load` describes them.

    Args:
        mapper: Reads single examples, in its order.
        augmentations: Out of `augment.AUGMENTATIONS`; "scale_jitter" is the mapper's.

    Raises:
        ValueError: Too few images, see `Order.num_steps`.
    """
    order = mapper.order
    steps = order.num_steps()
    whole = order.training or order.repeat
    load = _loader(mapper, augmentations)
    # All images of a batch have one size from the start, or get that of the largest.
    one_size = mapper.image_size.canvas is not None or order.portrait is not None
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


def _loader(mapper: ExampleMapper, augmentations: tuple[str, ...]) -> Callable:
    """The function from an element of the order to an image and its targets."""
    has_colours = bool(set(augmentations) - {"mosaic", "scale_jitter"})
    recolour = augment.augment_image(augmentations) if has_colours else None

    def load(element):
        image, targets = _call(mapper, element)
        if recolour is not None:
            height, width = tf.unstack(tf.cast(targets["image_sizes"], tf.int32))
            canvas = tf.shape(image)
            changed = recolour(image[:height, :width], _key(mapper.order.seed, _COLOURS, element))
            padded = tf.image.pad_to_bounding_box(changed, 0, 0, canvas[0], canvas[1])
            image = tf.ensure_shape(padded, image.shape)
        if "mosaic" in augmentations:
            targets = {**targets, "key": _key(mapper.order.seed, _MOSAIC, element)}
        return image, targets

    return load


# Autograph would take the Python functions for parts of the graph, and run slow copies of them.
@tf.autograph.experimental.do_not_convert
def _call(mapper: ExampleMapper, element: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Calls the mapper from the graph, in several threads, for an element of the order, int64 [3].

    It must not call TensorFlow: with every thread of the pool in it, none is left for the work.

    Raises:
        tf.errors.InvalidArgumentError: More bad images than tolerated; names one.
    """

    def flat(image, targets, complaint):
        return [image, *targets.values(), complaint]

    def call(element):
        if not _CALLS.begin():
            return flat(*mapper.filler())
        try:
            return flat(*mapper(*element.tolist()))
        finally:
            _CALLS.end()

    # A row without an image has the dtypes of all rows, and targets of the same shapes.
    blank, padded, _ = mapper.filler()
    dtypes = [value.dtype for value in (blank, *padded.values())]
    image, *values, complaint = tf.numpy_function(
        call, [element], [*dtypes, tf.string], stateful=False
    )
    # The complaint is handed back rather than raised in there, which would wrap it in a traceback
    # of TensorFlow's inside.
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(complaint, ""), [complaint])]):
        image = tf.ensure_shape(image, [*(mapper.image_size.canvas or [None, None]), 3])
    shaped = zip(padded.items(), values, strict=True)
    return image, {name: tf.ensure_shape(value, row.shape) for (name, row), value in shaped}


class _Calls:
    """The Python calls under way, over all data sets."""

    def __init__(self):
        self.lock = threading.Lock()
        self.under_way = 0
        self.last = 0.0
        self.closed = False

    def begin(self) -> bool:
        """Whether a call may start."""
        with self.lock:
            self.last = time.monotonic()
            self.under_way += not self.closed
            return not self.closed

    def end(self) -> None:
        with self.lock:
            self.last = time.monotonic()
            self.under_way -= 1

    def close(self) -> None:
        """Lets no call start, and returns when none is under way and none has come for a while."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        with self.lock:
            self.closed = True
        while time.monotonic() < give_up:
            with self.lock:
                quiet = time.monotonic() - self.last > _QUIET_SECONDS
                if quiet and not self.under_way:
                    return
            time.sleep(_QUIET_SECONDS / 10)


_CALLS = _Calls()
atexit.register(_CALLS.close)


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
