"""Scale, crop, flip and pad: image and boxes together, in TensorFlow graph operations.

h, w: the size of one image. H, W: the size of the canvas it is padded to. M boxes.
Every function is pure, chance included (it is an argument), and gives the same result eagerly
and inside tf.data. Pixels are resized where they are decoded, see `images`.
"""

import tensorflow as tf

LEAST_SIDE = 1.0  # pixels; of a box that a crop cuts to less there is nothing left to learn


def scale_boxes(boxes: tf.Tensor, before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Brings boxes from the pixels of an image to those of the resized one.

    The sizes are whole pixels, so each axis has its own ratio, which is a little off the one scale
    that was aimed at.

    Args:
        boxes: float32 [M, 4], xyxy in pixels of the image before.
        before: [2], its (height, width).
        after: [2], (height, width) that it was resized to.

    Returns:
        float32 [M, 4] in pixels of the resized image.
    """
    before, after = (
        tf.gather(tf.cast(size, boxes.dtype), [1, 0, 1, 0]) for size in (before, after)
    )  # (w, h, w, h)
    # Multiplied first: a box that ends at the border, at w, ends exactly at w * w' / w = w'.
    return boxes * after / before


def crop(
    image: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor, corner: tf.Tensor, size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts a window out of an image; where it reaches over the border it is smaller.

    Args:
        image: [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.
        labels: int32 [M].
        corner: int32 [2], (first row, first column) of the window, inside the image.
        size: (rows, columns) of the window.

    Returns:
        The window, and the boxes and labels of what is seen in it: boxes are cut at its border,
        and those of which less than `LEAST_SIDE` is left are gone.
    """
    top, left = tf.unstack(tf.cast(corner, tf.int32))
    image = image[top : top + size[0], left : left + size[1]]
    shift = tf.cast(tf.stack([left, top, left, top]), boxes.dtype)
    boxes, seen = cut_boxes(boxes - shift, tf.shape(image)[:2])
    return image, tf.boolean_mask(boxes, seen), tf.boolean_mask(labels, seen)


def crop_to_canvas(
    image: tf.Tensor,
    boxes: tf.Tensor,
    labels: tf.Tensor,
    canvas: tuple[int, int],
    chances: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts a random window of at most a canvas out of an image; the second half of scale jitter.

    Large-scale jitter (arXiv:2012.07177): the image was resized to a random size, larger or
    smaller than the canvas. Every place of the window is equally likely.

    Args:
        image: [h, w, 3].
        boxes: float32 [M, 4], xyxy in pixels of `image`.
        labels: int32 [M].
        canvas: (H, W).
        chances: float32 [2] in [0, 1), for the place along (y, x).

    Returns:
        What `crop` returns, at most (H, W); an image that fits is returned whole.
    """
    free = tf.maximum(tf.shape(image)[:2] - tf.constant(canvas, tf.int32), 0)
    corner = tf.cast(chances * tf.cast(free + 1, chances.dtype), tf.int32)
    return crop(image, boxes, labels, corner, canvas)


def cut_boxes(boxes: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Clips boxes to an image and says which are still worth learning.

    Args:
        boxes: float32 [..., 4], xyxy, of which parts lie outside the image.
        size: [2], (height, width) of the image.

    Returns:
        float32 [..., 4], inside the image, and bool [...], whether at least `LEAST_SIDE` is left
        in width and in height.
    """
    boxes = tf.clip_by_value(boxes, 0.0, tf.gather(tf.cast(size, boxes.dtype), [1, 0, 1, 0]))
    return boxes, tf.reduce_all(boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE, axis=-1)


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
