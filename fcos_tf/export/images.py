"""From the bytes of image files to a detector's input, inside a graph of stock TensorFlow ops.

The pixels are those of `fcos_tf.data.images`: for the formats below decoding gives the same grey
levels, and resizing the same float32 numbers. EXIF orientation is not applied.

    JPEG    baseline, progressive, grey, CMYK; accurate DCT
    PNG     1 to 16 bits, grey, palette, with or without alpha
    GIF     the first picture
    BMP     8 bits with palette, 24 and 32 bits, uncompressed
    WebP    lossy, lossless, with or without alpha; of an animation the first picture

h, w: the size of an image. H, W: the size of a canvas that B images are padded to.
"""

import tensorflow as tf

from fcos_tf.data.image_size import MULTIPLE, ImageSize

FORMATS = "JPEG, PNG, GIF, BMP or WebP"
# What files begin with.
_JPEG, _BMP, _WEBP = b"\xff\xd8\xff", b"BM", b"RIFF"
_OTHERS = (b"\x89PNG", b"GIF8")
# The byte 20 of an extended WebP file.
_WEBP_ANIMATION, _WEBP_ANIMATION_WITH_ALPHA = 0x02, b"\x12"
_BMP_HEADER = 14  # bytes before the header whose length is in the header
_WINDOWS_HEADERS = (40, 124)  # the least and the largest length of it; older ones are OS/2's


def decode_batch(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch of images of different sizes.

    Args:
        image_bytes: string [B].

    Returns:
        pixels: string [B], each a serialised uint8 [h, w, 3]: they have no common shape.
        original_sizes: int32 [B, 2], (h, w).
    """

    def decode(element):
        index, data = element
        pixels = decode_image(data, name=tf.strings.join(["image_bytes[", index, "]"]))
        return tf.io.serialize_tensor(pixels), tf.shape(pixels)[:2]

    count = tf.shape(image_bytes)[0]
    message = "image_bytes: expected at least one image"
    with tf.control_dependencies([tf.debugging.Assert(count > 0, [message])]):
        indices = tf.strings.as_string(tf.range(count))
    return tf.map_fn(
        decode,
        (indices, image_bytes),
        fn_output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32)),
    )


def decode_image(data: tf.Tensor, *, name: tf.Tensor | str = "image") -> tf.Tensor:
    """Decodes one image; alpha is left out, 16 bits become 8.

    Args:
        data: scalar string, the content of an image file.
        name: what messages call it.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        tf.errors.InvalidArgumentError: it is of another format, or broken.
    """

    def begins_with(*magics):
        return tf.reduce_any([tf.strings.substr(data, 0, len(m)) == m for m in magics])

    is_known = begins_with(_JPEG, _BMP, _WEBP, *_OTHERS)
    message = tf.strings.join(
        [name, f": expected {FORMATS}, got ", tf.strings.as_string(tf.strings.length(data)),
         " bytes of something else"]
    )  # fmt: skip
    with tf.control_dependencies([tf.debugging.Assert(is_known, [message])]):
        data = tf.identity(data)
    return tf.case(
        [
            (begins_with(_JPEG), lambda: _decode_jpeg(data)),
            (begins_with(_BMP), lambda: _decode_bmp(data, name)),
            (begins_with(_WEBP), lambda: _decode_any(_with_alpha_if_animated(data))),
        ],
        default=lambda: _decode_any(data),
    )


def _decode_jpeg(data):
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_any(data):
    # With the channels it has: WebP with alpha cannot be asked for three.
    pixels = tf.io.decode_image(data, channels=0, expand_animations=False)
    return _to_rgb(tf.ensure_shape(pixels, [None, None, None]))


def _to_rgb(pixels):
    """[h, w, 1 to 4] to [h, w, 3]: grey, grey and alpha, RGB, RGB and alpha."""
    is_grey = tf.shape(pixels)[-1] < 3
    return tf.cond(is_grey, lambda: tf.repeat(pixels[..., :1], 3, axis=-1), lambda: pixels[..., :3])


def _with_alpha_if_animated(data):
    """Says in the header of an animated WebP that it has alpha.

    TensorFlow's decoder (2.21) writes four channels of an animation into memory for three unless
    the file says that it has alpha, which ends the process.
    """
    start = tf.strings.substr(tf.strings.join([data, b"\0" * 21]), 0, 21)
    flags = tf.io.decode_raw(tf.strings.substr(start, 20, 1), tf.uint8)[0]
    is_extended = tf.strings.substr(start, 8, 8) == b"WEBPVP8X"
    is_animated = is_extended & (tf.bitwise.bitwise_and(flags, _WEBP_ANIMATION) != 0)

    def change():
        rest = tf.strings.substr(data, 21, tf.strings.length(data))
        return tf.strings.join([tf.strings.substr(data, 0, 20), _WEBP_ANIMATION_WITH_ALPHA, rest])

    return tf.cond(is_animated, change, lambda: data)


def _decode_bmp(data, name):
    """Looks palettes up, which TensorFlow does not, and refuses what it would read wrongly."""
    least, largest = _WINDOWS_HEADERS
    header = tf.strings.substr(tf.strings.join([data, b"\0" * 2048]), 0, 2048)

    def number(at, dtype):
        field = tf.strings.substr(header, at, dtype.size)
        return tf.cast(tf.io.decode_raw(field, dtype)[0], tf.int32)

    length, bits, compression = number(14, tf.int32), number(28, tf.uint16), number(30, tf.int32)
    is_plain = (compression == 0) | ((compression == 3) & (bits == 32))
    can_read = (length >= least) & (length <= largest) & (bits >= 8) & is_plain
    message = tf.strings.join([name, ": expected a BMP of 8, 24 or 32 bits without compression"])
    with tf.control_dependencies([tf.debugging.Assert(can_read, [message])]):
        pixels = tf.io.decode_image(data, channels=0, expand_animations=False)
        pixels = tf.ensure_shape(pixels, [None, None, None])

    def look_up():
        entries = tf.strings.substr(header, _BMP_HEADER + length, 4 * 256)
        bgr = tf.reshape(tf.io.decode_raw(entries, tf.uint8), [256, 4])
        return tf.gather(bgr[:, 2::-1], tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(bits == 8, look_up, lambda: _to_rgb(pixels))


def resized_sizes(original_sizes: tf.Tensor, rule: ImageSize) -> tf.Tensor:
    """The sizes that images get, by the arithmetic of `ImageSize.resized`.

    Args:
        original_sizes: int32 [B, 2], (h, w).
        rule: a fixed one, see `ImageSize.fixed`.

    Returns:
        int32 [B, 2], each at least 1.
    """
    sizes = tf.cast(original_sizes, tf.float64)
    if rule.canvas is not None:
        scale = tf.reduce_min(tf.constant(rule.canvas, tf.float64) / sizes, axis=1)
    else:
        _, short, long = rule.sides
        least, most = tf.reduce_min(sizes, axis=1), tf.reduce_max(sizes, axis=1)
        scale = tf.minimum(short / least, long / most)
    return tf.maximum(tf.cast(tf.floor(sizes * scale[:, None]), tf.int32), 1)


def canvas_of(image_sizes: tf.Tensor, rule: ImageSize) -> tuple:
    """(H, W) that a batch is padded to: the rule's, or the least multiple of 32 that holds all.

    Args:
        image_sizes: int32 [B, 2].
        rule: the same as in `resized_sizes`.

    Returns:
        Two Python ints, or two scalar int32 tensors.
    """
    if rule.canvas is not None:
        return rule.canvas
    largest = tf.reduce_max(image_sizes, axis=0)
    return tuple(tf.unstack(-(-largest // MULTIPLE) * MULTIPLE))


def resize_and_pad(images: tf.Tensor, size: tf.Tensor, canvas: tuple) -> tf.Tensor:
    """Resizes images of one size to one size, and pads them with zeros right and bottom.

    Bilinear, half-pixel centres, no antialiasing; the same float32 numbers as OpenCV 5 gives.
    `tf.image.resize` computes in float32 where to interpolate, which is off by up to 0.013 grey
    levels, and scores then by 4e-5.

    Args:
        images: uint8 [..., h, w, 3].
        size: int32 [2], (height, width) to resize to.
        canvas: (H, W).

    Returns:
        float32 [..., H, W, 3].
    """
    images = _interpolate(_interpolate(images, size[1], axis=-2), size[0], axis=-3)
    missing = tf.stack(canvas) - size
    padding = tf.stack([[0, missing[0]], [0, missing[1]], [0, 0]])
    batch = tf.zeros([tf.rank(images) - 3, 2], tf.int32)
    padded = tf.pad(images, tf.concat([batch, padding], axis=0))
    static = [side if isinstance(side, int) else None for side in canvas]
    return tf.ensure_shape(padded, [*images.shape[:-3], *static, 3])


def _interpolate(images, count, *, axis):
    """Linear interpolation along an axis to `count` places."""
    length = tf.shape(images)[axis]
    step = tf.cast(length, tf.float64) / tf.cast(count, tf.float64)
    place = (tf.range(tf.cast(count, tf.float64), dtype=tf.float64) + 0.5) * step - 0.5
    place = tf.clip_by_value(place, 0, tf.cast(length - 1, tf.float64))
    before = tf.floor(place)
    part = tf.cast(tf.cast(place - before, tf.float32), tf.float64)
    part = tf.reshape(part, [-1] + [1] * (-1 - axis))
    before = tf.cast(before, tf.int32)
    first, second = (
        tf.cast(tf.gather(images, index, axis=axis), tf.float32)
        for index in (before, tf.minimum(before + 1, length - 1))
    )
    # OpenCV rounds once, by a fused multiply-add; so does this.
    change = tf.cast(second - first, tf.float64) * part
    return tf.cast(tf.cast(first, tf.float64) + change, tf.float32)
