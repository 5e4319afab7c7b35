"""Resize, flip and pad: image and boxes together, in TensorFlow graph operations.

h, w: the size of one image. H, W: the size of the canvas it is padded to. M boxes.
Every function is pure and gives the same result eagerly and inside tf.data.
"""

import re
from dataclasses import dataclass

import tensorflow as tf

IMAGE_SIZE_HELP = (
    '"HEIGHTxWIDTH" or a tuple (height, width) for a fixed canvas such as "512x512", '
    'or "SHORT,LONG" such as "800,1333" for the limits of the short and the long side'
)


@dataclass(frozen=True)
class ImageSize:
    """To what size images are brought; the aspect ratio is always kept.

    Exactly one of the two is set.

    Args:
        canvas: (height, width) that every image is resized to fit and padded to.
        sides: (short, long): resize until the short side has `short` pixels, or less where the
            long side would pass `long`.
    """

    canvas: tuple[int, int] | None = None
    sides: tuple[int, int] | None = None


def parse_image_size(image_size: str | tuple[int, int] | ImageSize) -> ImageSize:
    """Reads an image size option.

    Args:
        image_size: "512x640" (height x width), (512, 640), or "800,1333" (short, long side).

    Returns:
        An `ImageSize`.

    Raises:
        ValueError: Anything else, a size under 1, or a short side over the long one.

    Example:
        >>> parse_image_size("800,1333").sides
        (800, 1333)
    """
    if isinstance(image_size, ImageSize):
        return image_size
    canvas = sides = None
    if isinstance(image_size, str):
        match = re.fullmatch(r"\s*(\d+)\s*([xX,])\s*(\d+)\s*", image_size)
        if match:
            pair = (int(match[1]), int(match[3]))
            canvas, sides = (None, pair) if match[2] == "," else (pair, None)
    elif isinstance(image_size, tuple | list) and [type(n) for n in image_size] == [int, int]:
        canvas = tuple(image_size)
    pair = canvas or sides
    if pair is None or min(pair) < 1 or (sides and sides[0] > sides[1]):
        raise ValueError(f"image_size: expected {IMAGE_SIZE_HELP}, got {image_size!r}")
    return ImageSize(canvas, sides)


def resized_size(height: tf.Tensor, width: tf.Tensor, image_size: ImageSize) -> tf.Tensor:
    """The size an image gets: both sides by one scale, floored.

    scale = min(short / min(h, w), long / max(h, w)), or min(H / h, W / w) for a canvas, in
    float64 and in this order of operations, as Python would compute it, rounding included: at
    "800,1333" a short side of 322 becomes 799, because 800 / 322 * 322 is a bit less than 800.

    Args:
        height: Integer scalar.
        width: Integer scalar.
        image_size: An `ImageSize`.

    Returns:
        int32 [2]: (height, width), each at least 1.
    """
    size = tf.cast(tf.stack([height, width]), tf.float64)
    if image_size.canvas is not None:
        scale = tf.reduce_min(tf.constant(image_size.canvas, tf.float64) / size)
    else:
        short, long = image_size.sides
        scale = tf.minimum(short / tf.reduce_min(size), long / tf.reduce_max(size))
    return tf.maximum(tf.cast(tf.floor(size * scale), tf.int32), 1)


def resize(
    image: tf.Tensor, boxes: tf.Tensor, image_size: ImageSize
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes an image and its boxes, keeping the aspect ratio.

    Bilinear, half-pixel centres, no antialiasing. Sides are whole pixels, so boxes are scaled by
    the ratio of the sizes of each axis, not by the one scale aimed at.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.
        image_size: An `ImageSize`.

    Returns:
        uint8 [h', w', 3] and float32 [M, 4] in pixels of it.
    """
    before = tf.shape(image)[:2]
    after = resized_size(before[0], before[1], image_size)
    resized = tf.image.resize(image, after, method="bilinear", antialias=False)
    resized = tf.saturate_cast(tf.round(resized), tf.uint8)
    ratio = tf.cast(after, tf.float32) / tf.cast(before, tf.float32)  # (y, x)
    return resized, boxes * tf.gather(ratio, [1, 0, 1, 0])


def flip_horizontal(image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors an image that is not padded yet: x becomes w - x, so x1 and x2 change places.

    Args:
        image: [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.

    Returns:
        The mirrored image and boxes.
    """
    width = tf.cast(tf.shape(image)[1], boxes.dtype)
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    return tf.reverse(image, axis=[1]), tf.stack([width - x2, y1, width - x1, y2], axis=-1)


def pad_image(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Pads images with zeros, right and bottom; boxes keep their coordinates.

    Args:
        image: [h, w, 3] or [B, h, w, 3], no larger than the canvas.
        height: Rows of the canvas.
        width: Columns of the canvas.

    Returns:
        [(B,) height, width, 3]; a static shape where height and width are Python integers.
    """
    shape = tf.shape(image)
    missing = [[0, height - shape[-3]], [0, width - shape[-2]], [0, 0]]
    padded = tf.pad(image, [[0, 0]] * (image.shape.rank - 3) + missing)
    static = [n if isinstance(n, int) else None for n in (height, width)]
    padded.set_shape([*image.shape[:-3], *static, image.shape[-1]])
    return padded


def pad_boxes(boxes: tf.Tensor, labels: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings ground truth to a fixed length.

    Args:
        boxes: float32 [M, 4], M <= count.
        labels: int32 [M].
        count: The length to pad to.

    Returns:
        float32 [count, 4] padded with 0 and int32 [count] padded with -1.
    """
    missing = count - tf.shape(labels)[0]
    boxes = tf.ensure_shape(tf.pad(boxes, [[0, missing], [0, 0]]), [count, 4])
    labels = tf.ensure_shape(tf.pad(labels, [[0, missing]], constant_values=-1), [count])
    return boxes, labels
