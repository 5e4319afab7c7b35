"""From examples to batches: order, reading, transforms, padding, prefetch.

Everything random is a function of (seed, pass over the data, position in the pass). So a stream
that starts at step k gives exactly what the uninterrupted one gives from step k on, and the number
of threads changes nothing.

B images, M padded boxes; H, W the size of a batch's images.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from fcos_tf.data import transforms
from fcos_tf.data.example import Example, Source
from fcos_tf.data.python_calls import call_python

MULTIPLE = 32  # canvases of image_size "SHORT,LONG" are padded to a multiple of it

# The second half of the seed of each kind of random number, so that no two kinds are tied together.
_FLIP_STREAM = 1


def file_source(
    examples: Sequence[Example],
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    dropped: Sequence[str] = (),
) -> Source:
    """Makes a split of image files readable for `batches`.

    Args:
        examples: In the order of evaluation.
        class_names: Name of each label.
        category_ids: The data set's own id of each label.
        dropped: Every thing that was left out, named.

    Returns:
        A `Source`.
    """
    counts = [len(example.labels) for example in examples]
    files = tf.constant([example.file for example in examples])
    image_ids = tf.constant([example.image_id for example in examples], tf.int64)
    # All boxes in one table, where example i owns rows starts[i] to starts[i + 1].
    starts = tf.constant(np.concatenate([[0], np.cumsum(counts)]), tf.int64)
    boxes = tf.constant(np.concatenate([example.boxes for example in examples]), tf.float32)
    labels = tf.constant(np.concatenate([example.labels for example in examples]), tf.int32)

    def read(index):
        rows = slice(starts[index], starts[index + 1])
        return {
            "image": read_image(files[index]),
            "boxes": boxes[rows],
            "labels": labels[rows],
            "image_id": image_ids[index],
        }

    return Source(
        read=read,
        num_images=len(examples),
        most_boxes=max(counts),
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        dropped=tuple(dropped),
    )


def read_image(file: tf.Tensor) -> tf.Tensor:
    """Reads and decodes an image file, in graph or eagerly.

    Pillow decodes JPEG with the accurate DCT, as OpenCV and PyTorch's loaders do (TensorFlow's
    default differs by up to 18 grey levels). The pixels are those stored: EXIF orientation does
    not count, as the boxes of COCO and VOC mean it.

    Args:
        file: Scalar string.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        tf.errors.InvalidArgumentError: The file cannot be decoded; the message names it.
    """
    # TensorFlow's decoders do not say which file they failed on. The complaint is handed back
    # rather than raised there, which would wrap it in a traceback of TensorFlow's inside.
    image, complaint = call_python(_decode, [file], [tf.uint8, tf.string])
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(complaint, ""), [complaint])]):
        return tf.ensure_shape(image, [None, None, 3])


def _decode(file: bytes | np.ndarray) -> tuple[np.ndarray, str]:
    """The image, or one without pixels and what is wrong with the file."""
    name = tf.compat.as_str(np.asarray(file).item())  # an array of one when run eagerly
    try:
        with Image.open(name) as image:  # the interpreter lock is free while pixels are decoded
            return np.array(image.convert("RGB")), ""
    except FileNotFoundError:
        complaint = f"no image file {name}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        complaint = f"cannot decode image {name}: {error}"
    return np.zeros([0, 0, 3], np.uint8), complaint


def batches(
    source: Source,
    *,
    batch_size: int,
    image_size: transforms.ImageSize,
    training: bool,
    seed: int,
    repeat: bool,
    start_step: int,
    horizontal_flip: bool,
    max_boxes: int | None,
) -> tf.data.Dataset:
    """Batches of a split; the arguments are those of `fcos_tf.data.load`.

    Returns:
        A data set of (images, targets) as `load` describes them.

    Raises:
        ValueError: `max_boxes` is less than an example has, or the split has too few images for
            `batch_size` or `start_step`.
    """
    most_boxes = max(1, source.most_boxes)
    if max_boxes is not None:
        if max_boxes < source.most_boxes:
            raise ValueError(
                f"max_boxes={max_boxes}, but an image of this split has {source.most_boxes} boxes"
            )
        most_boxes = max_boxes
    drop_remainder = training or repeat
    if repeat:
        steps = tf.data.INFINITE_CARDINALITY
    else:
        whole = source.num_images // batch_size
        steps = whole if training else -(-source.num_images // batch_size)
        if steps == 0:
            raise ValueError(
                f"batch_size={batch_size} is more than the {source.num_images} images of the "
                f"split, so a training pass has no whole batch; use a smaller one, or repeat=True"
            )
        if start_step >= steps:
            raise ValueError(f"start_step={start_step}, but a pass has {steps} steps")
        steps -= start_step

    seed = seed % 2**31

    def load_one(pass_number, position):
        """The example at a position of a pass: image [H, W, 3] (or its own size) and targets."""
        index = position
        if training:
            index = tf.random.experimental.index_shuffle(
                position, [seed, pass_number], max_index=source.num_images - 1
            )
        record = source.read(index)
        original_size = tf.shape(record["image"])[:2]
        image, boxes = transforms.resize(record["image"], record["boxes"], image_size)
        if horizontal_flip:
            chance = _uniform(seed, _FLIP_STREAM, pass_number, position)
            image, boxes = tf.cond(
                chance < 0.5,
                lambda: transforms.flip_horizontal(image, boxes),
                lambda: (image, boxes),
            )
        size = tf.shape(image)[:2]
        if image_size.canvas is not None:
            image = transforms.pad_image(image, *image_size.canvas)
        boxes, labels = transforms.pad_boxes(boxes, record["labels"], most_boxes)
        return image, {
            "boxes": boxes,  # [M, 4]
            "labels": labels,  # [M]
            "image_sizes": tf.cast(size, tf.float32),  # [2]
            "original_sizes": tf.cast(original_size, tf.float32),  # [2]
            "image_ids": record["image_id"],
        }

    dataset = _positions(
        source.num_images,
        start=start_step * batch_size,
        repeat=repeat,
        seed=seed if training else None,
    )
    dataset = dataset.map(load_one, num_parallel_calls=tf.data.AUTOTUNE)
    if image_size.canvas is not None:
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    else:
        dataset = dataset.padded_batch(batch_size, drop_remainder=drop_remainder)
        dataset = dataset.map(_pad_to_multiple, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _positions(num_images: int, *, start: int, repeat: bool, seed: int | None) -> tf.data.Dataset:
    """Where to be, one element per image: int64 (pass over the data, position in the pass).

    Args:
        num_images: Length of a pass.
        start: How many elements to skip.
        repeat: Go on for ever, passes counted from 0; else one pass.
        seed: Without `repeat`: give the pass another number, drawn from this seed, each time the
            data set is iterated, so that its order is new. None: always 0.
    """
    if repeat:
        return tf.data.Dataset.counter(start, dtype=tf.int64).map(
            lambda i: (i // num_images, i % num_images)
        )
    positions = tf.data.Dataset.range(start, num_images)
    if seed is None:
        return positions.map(lambda i: (tf.zeros([], tf.int64), i))
    pass_numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
    return pass_numbers.flat_map(lambda number: positions.map(lambda i: (number, i)))


def _uniform(seed: int, stream: int, pass_number: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """A number in [0, 1) that belongs to this seed, kind, pass and position alone."""
    key = tf.constant([seed, stream], tf.int64)
    for number in (pass_number, position):
        key = tf.random.fold_in(key, number, alg="philox")
    return tf.random.stateless_uniform([], key, alg="philox")


def _pad_to_multiple(images, targets):
    """Pads a batch, [B, h, w, 3], to the smallest multiple of MULTIPLE that holds it."""
    shape = tf.shape(images)
    height, width = (-(-shape[axis] // MULTIPLE) * MULTIPLE for axis in (1, 2))
    return transforms.pad_image(images, height, width), targets
