"""Colour jitter and RandAugment, with keras_cv's operations on pixels, and mosaic.

Every function depends on its arguments alone, the random `key` among them, so a run that is
resumed goes on with exactly the pictures that it would have seen. keras_cv's layers cannot do that
when they are called, because they draw from generators that keep a state. So numbers are drawn
here, and `augment_images`, the method by which a layer of keras_cv is defined, applies them.

B images, H, W: their canvas; h, w: the size of one image without padding; M padded boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from fcos_tf.data.images import LEAST_SIDE
from fcos_tf.image_size import ImageSize
from fcos_tf.keras_cv_import import import_keras_cv

AUGMENTATIONS = ("color_jitter", "rand_augment", "mosaic", "scale_jitter")

# RandAugment: keras_cv's own values.
OPERATIONS_PER_IMAGE = 3
MAGNITUDE = 0.5
MAGNITUDE_STDDEV = 0.15

# Where the four images of a mosaic meet, as a fraction of the canvas: keras_cv's own values.
MOSAIC_CENTRE = (0.25, 0.75)

# Whether the image of a quadrant ends there along (y, x), or begins there; top left, top right,
# bottom left, bottom right.
_ENDS_AT_CENTRE = ((1, 1), (1, 0), (0, 1), (0, 0))

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # image float32 [h, w, 3], key -> image


def check_augmentations(
    names: Sequence[str], size: ImageSize, scale_jitter: tuple[float, float]
) -> ImageSize:
    """Checks the augmentations of a caller; the image size, with the jitter if it is asked for.

    Raises:
        ValueError: An unknown name, a range that is none, or jitter without a fixed canvas.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augment: expected some of {', '.join(AUGMENTATIONS)}, got {name!r}")
    if "scale_jitter" not in names:
        return size
    if np.shape(scale_jitter) != (2,) or not 0 < scale_jitter[0] <= scale_jitter[1]:
        raise ValueError(f"scale_jitter: expected 0 < low <= high, got {scale_jitter!r}")
    if size.canvas is None:
        raise ValueError("augment: scale_jitter needs an image_size like 512x512")
    return replace(size, scale_jitter=tuple(map(float, scale_jitter)))


def augment_image(names: Sequence[str]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the function that changes the colours of an image; boxes stay where they are.

    It takes an image, uint8 [h, w, 3] without padding, and a key, int64 [2], and returns the
    image, changed by those of the names that are of colours.

    Raises:
        ImportError: keras_cv, which a colour augmentation needs, is missing or broken.

    Example:
        >>> change = augment_image(["color_jitter"])
        >>> image = change(image, tf.constant([seed, position], tf.int64))
    """
    makers = {"color_jitter": _color_jitter, "rand_augment": _rand_augment}
    # Numbered, so that what one of them draws does not depend on whether the other is there.
    steps = [(i, make()) for i, (name, make) in enumerate(makers.items()) if name in names]

    def change(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        for number, step in steps:
            changed = step(tf.cast(image, tf.float32), _fold(key, number))
            image = tf.saturate_cast(tf.round(changed), tf.uint8)
        return image

    return change


def _color_jitter() -> Operation:
    """Brightness, contrast, saturation and hue, as strong as SSD's (arXiv:1512.02325).

    There: +-32 of 256 grey levels, contrast and saturation by 0.5 to 1.5, hue +-18 degrees.
    """
    layers = import_keras_cv().layers
    operations = (
        _operation(layers.RandomBrightness, _uniform(-32, 32), factor=0),
        _operation(layers.RandomContrast, _uniform(0.5, 1.5), factor=0, value_range=(0, 255)),
        # The layer multiplies by x / (1 - x): 1/3 gives 0.5, 3/5 gives 1.5.
        _operation(layers.RandomSaturation, _uniform(1 / 3, 3 / 5), factor=0),
        # In turns: 18 / 360 = 0.05.
        _operation(layers.RandomHue, _uniform(-0.05, 0.05), factor=0, value_range=(0, 255)),
    )

    def change(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        for number, operation in enumerate(operations):
            image = operation(image, _fold(key, number))
        return image

    return change


def _rand_augment() -> Operation:
    """RandAugment (arXiv:1909.13719) without the operations that move pixels.

    The operations and their strengths are those of `keras_cv.layers.RandAugment(geometric=False)`;
    one more does nothing, as in the paper, where keras_cv has a rate of doing nothing.
    """
    layers = import_keras_cv().layers
    mean, stddev = MAGNITUDE, MAGNITUDE_STDDEV
    addition = _normal(110 * mean, 110 * stddev, 110)
    threshold = _normal(255 * (1 - mean), 255 * stddev, 255)

    def solarization(key: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"additions": addition(_fold(key, 0)), "thresholds": threshold(_fold(key, 1))}

    grey_levels = {"value_range": (0, 255)}
    operations = (
        lambda image, key: image,
        _operation(layers.AutoContrast, lambda key: None, **grey_levels),
        _operation(layers.Equalization, lambda key: None, **grey_levels),
        _operation(layers.Solarization, solarization, **grey_levels),
        _operation(layers.RandomColorDegeneration, _normal(mean, stddev, 1), factor=0),
        _operation(layers.RandomContrast, _uniform(1 - mean, 1 + mean), factor=0, **grey_levels),
        _operation(layers.RandomBrightness, _uniform(-255 * mean, 255 * mean), factor=0),
    )

    def change(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        for number in range(OPERATIONS_PER_IMAGE):
            which, strength = _fold(key, 2 * number), _fold(key, 2 * number + 1)
            chosen = tf.cast(_uniform(0, len(operations))(which), tf.int32)
            image = tf.switch_case(chosen, [partial(op, image, strength) for op in operations])
        return image

    return change


def _operation(layer_class: Any, draw: Callable[[tf.Tensor], Any], **options: Any) -> Operation:
    """A layer of keras_cv as a pure function.

    Args:
        layer_class: One of `keras_cv.layers`.
        draw: Makes from a key what the layer calls `transformations`; scalars, for one image.
        options: What the layer must be given. Where that is a range of strengths (`factor`), any
            will do, since nothing is drawn from it.
    """
    # bfloat16, which a global policy may ask for, does not hold 256 grey levels.
    layer = layer_class(dtype="float32", **options)

    def change(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        changed = layer.augment_images(image[tf.newaxis], transformations=draw(key))
        return tf.ensure_shape(changed[0], image.shape)

    return change


def mosaic(
    images: tf.Tensor, targets: dict[str, tf.Tensor], key: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Makes every image of a batch a mosaic: parts of four images that meet in a random point.

    One of the four is the image itself, in a random quadrant; the others are drawn from the batch,
    with replacement, so any batch size will do. The images are moved, not scaled, so that the
    corner of each (without its padding) lies in the meeting point. Where an image is smaller than
    its quadrant, the rest of the quadrant is black, at the outer side.

    Args:
        images: uint8 [B, H, W, 3], padded.
        targets: `boxes` float32 [B, M, 4], `labels` int32 [B, M] and `image_sizes` float32 [B, 2];
            others are passed on.
        key: int64 [2].

    Returns:
        The mosaics, uint8 [B, H, W, 3], and the targets: `boxes` [B, 4M, 4] and `labels` [B, 4M],
        padding last, and the whole canvas as `image_sizes`. Boxes are cut at the canvas' border;
        those of which less than a pixel is left are gone.
    """
    # keras_cv.layers.Mosaic is not used: it stretches the images by W / (W - 1), which takes them
    # up to a pixel off their boxes, it needs static sizes, and it fills much of the mosaic with
    # the images' padding.
    shape = tf.shape(images)
    canvas = shape[1:3]
    sources, centres = _draw_mosaics(shape[0], canvas, _fold(key, 0))
    sizes = tf.gather(tf.cast(targets["image_sizes"], tf.int32), sources)  # [B, 4, 2]

    pixels = tf.map_fn(
        lambda one: _put_together(images, *one),
        (sources, sizes, centres),
        fn_output_signature=tf.TensorSpec(images.shape[1:], images.dtype),
    )

    shift = tf.cast(centres[:, tf.newaxis] - _ENDS_AT_CENTRE * sizes, tf.float32)  # [B, 4, 2]
    shift = tf.gather(shift, [1, 0, 1, 0], axis=-1)[:, :, tf.newaxis]  # [B, 4, 1, 4]
    limit = tf.cast(tf.gather(canvas, [1, 0, 1, 0]), tf.float32)
    boxes = tf.clip_by_value(tf.gather(targets["boxes"], sources) + shift, 0.0, limit)
    labels = tf.gather(targets["labels"], sources)  # [B, 4, M]
    large = tf.reduce_all(boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE, axis=-1)
    seen = large & (labels >= 0)

    if "ignored_labels" in targets:
        of_parts = tf.gather(targets["ignored_labels"], sources)  # [B, 4, K]
        of_parts = tf.reshape(of_parts, [shape[0], 4 * of_parts.shape[-1]])
        targets = {**targets, "ignored_labels": of_parts}
    most = 4 * tf.shape(labels)[-1]
    first = tf.argsort(tf.reshape(tf.cast(~seen, tf.int32), [-1, most]), stable=True)  # [B, 4M]
    boxes = tf.where(seen[..., tf.newaxis], boxes, 0.0)
    labels = tf.where(seen, labels, -1)
    return pixels, {
        **targets,
        "boxes": tf.gather(tf.reshape(boxes, [-1, most, 4]), first, batch_dims=1),
        "labels": tf.gather(tf.reshape(labels, [-1, most]), first, batch_dims=1),
        "image_sizes": tf.ones_like(targets["image_sizes"]) * tf.cast(canvas, tf.float32),
    }


def _draw_mosaics(
    num_images: tf.Tensor, canvas: tf.Tensor, key: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which images go into each mosaic, int32 [B, 4], and where they meet, int32 [B, 2] (y, x)."""
    others = tf.random.stateless_uniform(
        [num_images, 4], _fold(key, 0), 0, num_images, tf.int32, alg="philox"
    )
    own = tf.random.stateless_uniform([num_images], _fold(key, 1), 0, 4, tf.int32, alg="philox")
    sources = tf.where(
        tf.one_hot(own, 4, on_value=True, off_value=False),
        tf.range(num_images)[:, tf.newaxis],
        others,
    )
    share = tf.random.stateless_uniform(
        [num_images, 2], _fold(key, 2), *MOSAIC_CENTRE, alg="philox"
    )
    return sources, tf.cast(share * tf.cast(canvas, tf.float32), tf.int32)


def _put_together(
    images: tf.Tensor, sources: tf.Tensor, sizes: tf.Tensor, centre: tf.Tensor
) -> tf.Tensor:
    """One mosaic, [H, W, 3], of the images numbered `sources` [4] with `sizes` [4, 2]."""
    quadrants = []
    for number, ends_at_centre in enumerate(_ENDS_AT_CENTRE):
        ends = tf.constant(ends_at_centre)
        room = ends * centre + (1 - ends) * (tf.shape(images)[1:3] - centre)
        cut = tf.minimum(sizes[number], room)
        begin = tf.concat([[sources[number]], ends * (sizes[number] - cut), [0]], axis=0)
        part = tf.slice(images, begin, tf.concat([[1], cut, [3]], axis=0))[0]
        missing = room - cut
        padding = tf.stack([ends * missing, (1 - ends) * missing], axis=1)  # [2, 2]
        quadrants.append(tf.pad(part, tf.concat([padding, [[0, 0]]], axis=0)))
    top, bottom = (tf.concat(quadrants[i : i + 2], axis=1) for i in (0, 2))
    return tf.concat([top, bottom], axis=0)


def _fold(key: tf.Tensor, number: int) -> tf.Tensor:
    """Another key, int64 [2], that belongs to the key and the number."""
    return tf.random.fold_in(key, number, alg="philox")


def _uniform(low: float, high: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Draws from [low, high)."""
    return lambda key: tf.random.stateless_uniform([], key, low, high, alg="philox")


def _normal(mean: float, stddev: float, high: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Draws from a normal distribution, clipped to [0, high]."""
    return lambda key: tf.clip_by_value(
        tf.random.stateless_normal([], key, mean, stddev, alg="philox"), 0.0, high
    )
