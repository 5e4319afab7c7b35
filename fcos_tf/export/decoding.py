"""Image files to pixels, inside a graph of stock TensorFlow ops.

The pixels equal those of `fcos_tf.data.images.decode_image` bit by bit. EXIF orientation is not
applied, alpha is dropped, 16 bits become 8, and an animation is its first frame.

    JPEG    baseline and progressive; colour, grey, CMYK; accurate DCT
    PNG     1 to 16 bits; colour, grey, palette; with or without alpha
    GIF
    BMP     8 bits with palette, 24 and 32 bits; not compressed
    WebP    lossy and lossless; with or without alpha

h, w: the size of an image.
"""

import tensorflow as tf

FORMATS = "JPEG, PNG, GIF, BMP or WebP"
# Pillow's limit. A few corrupt bytes can claim any size, for which decoders would allocate memory.
MOST_PIXELS = 178_956_970

# First bytes of the files.
_JPEG, _PNG, _GIF, _BMP, _WEBP = b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF"
_HEADER = 2048  # bytes; all header fields read here lie within them
# BMP: bytes before the second header, and the range of its length (OS/2's are shorter).
_BMP_FIRST_HEADER, _BMP_HEADERS = 14, (40, 124)
# Byte 20 of an extended WebP file.
_WEBP_ANIMATION, _WEBP_ANIMATION_WITH_ALPHA = 0x02, b"\x12"


def decode_batch(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch of images of different sizes.

    Args:
        image_bytes: string [B].

    Returns:
        pixels: string [B], each a serialised uint8 [h, w, 3], as the shapes differ.
        original_sizes: int32 [B, 2], (h, w).

    Raises:
        tf.errors.InvalidArgumentError: an empty batch, or an image that cannot be decoded.
    """

    def decode(element):
        index, data = element
        pixels = decode_image(data, name=tf.strings.join(["image_bytes[", index, "]"]))
        return tf.io.serialize_tensor(pixels), tf.shape(pixels)[:2]

    count = tf.shape(image_bytes)[0]
    count = checked(count, count > 0, "image_bytes: expected at least one image")
    return tf.map_fn(
        decode,
        (tf.strings.as_string(tf.range(count)), image_bytes),
        fn_output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32)),
    )


def decode_image(data: tf.Tensor, *, name: tf.Tensor | str = "image") -> tf.Tensor:
    """Decodes one image.

    Args:
        data: scalar string, the content of an image file.
        name: of the image in messages.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        tf.errors.InvalidArgumentError: another format, a broken or a too large image.
    """
    header = tf.strings.substr(tf.strings.join([data, b"\0" * _HEADER]), 0, _HEADER)

    def begins_with(*magics):
        return tf.reduce_any([tf.strings.substr(header, 0, len(m)) == m for m in magics])

    is_known = begins_with(_JPEG, _PNG, _GIF, _BMP, _WEBP)
    got = tf.strings.as_string(tf.strings.length(data))
    message = (name, f": expected {FORMATS}, got ", got, " bytes of something else")
    header = checked(header, is_known, *message)
    sides = tf.case(
        [
            (begins_with(_JPEG), lambda: tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64)),
            (begins_with(_PNG), lambda: _numbers(header, 16, tf.int32, count=2, big_endian=True)),
            (begins_with(_GIF), lambda: _numbers(header, 6, tf.uint16, count=2)),
            (begins_with(_BMP), lambda: _numbers(header, 18, tf.int32, count=2)),
        ],
        default=lambda: _webp_sides(header),
    )
    is_small = tf.reduce_prod(tf.abs(sides)) <= MOST_PIXELS
    got = tf.strings.reduce_join(tf.strings.as_string(sides), separator=" x ")
    data = checked(data, is_small, name, f": expected at most {MOST_PIXELS} pixels, got ", got)
    return tf.case(
        [
            (begins_with(_JPEG), lambda: _decode_jpeg(data)),
            (begins_with(_BMP), lambda: _decode_bmp(data, header, name)),
            (begins_with(_WEBP), lambda: _decode_any(_with_alpha_if_animated(data, header))),
        ],
        default=lambda: _decode_any(data),
    )


def checked(value: tf.Tensor, condition: tf.Tensor, *message: tf.Tensor | str) -> tf.Tensor:
    """The value; an error of the graph with the joined message unless the condition is true."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [tf.strings.join(message)])]):
        return tf.identity(value)


def _numbers(header, at, dtype, *, count=1, big_endian=False):
    """int64 [count], the integers at a byte offset of a header."""
    field = tf.strings.substr(header, at, count * dtype.size)
    return tf.cast(tf.io.decode_raw(field, dtype, little_endian=not big_endian), tf.int64)


def _webp_sides(header):
    """(w, h) of the extended, the lossless or the lossy form."""
    kind = tf.strings.substr(header, 12, 4)

    def lossless():
        bits = _numbers(header, 21, tf.int32)[0]
        return tf.stack([bits & 0x3FFF, tf.bitwise.right_shift(bits, 14) & 0x3FFF]) + 1

    def extended():
        digits = tf.reshape(_numbers(header, 24, tf.uint8, count=6), [2, 3])
        return tf.linalg.matvec(digits, tf.constant([1, 256, 65536], tf.int64)) + 1

    def lossy():
        return _numbers(header, 26, tf.uint16, count=2) & 0x3FFF

    return tf.case([(kind == b"VP8X", extended), (kind == b"VP8L", lossless)], default=lossy)


def _decode_jpeg(data):
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_any(data):
    return _to_rgb(_decode_channels(data))


def _decode_channels(data):
    # channels=0 keeps the file's: WebP with alpha does not decode to three.
    pixels = tf.io.decode_image(data, channels=0, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, None])


def _to_rgb(pixels):
    """[h, w, 1 to 4] to [h, w, 3]: grey, grey and alpha, RGB, RGB and alpha."""
    is_grey = tf.shape(pixels)[-1] < 3
    return tf.cond(is_grey, lambda: tf.repeat(pixels[..., :1], 3, axis=-1), lambda: pixels[..., :3])


def _with_alpha_if_animated(data, header):
    """Sets the alpha bit in the header of an animated WebP.

    Without it TensorFlow's decoder (2.21) writes four channels into memory for three and crashes.
    """
    is_extended = tf.strings.substr(header, 8, 8) == b"WEBPVP8X"
    is_animated = is_extended & (_numbers(header, 20, tf.uint8)[0] & _WEBP_ANIMATION != 0)

    def change():
        rest = tf.strings.substr(data, 21, tf.strings.length(data))
        return tf.strings.join([tf.strings.substr(data, 0, 20), _WEBP_ANIMATION_WITH_ALPHA, rest])

    return tf.cond(is_animated, change, lambda: data)


def _decode_bmp(data, header, name):
    """Applies palettes, which TensorFlow ignores; refuses variants that it decodes wrongly."""
    least, largest = _BMP_HEADERS
    length = _numbers(header, 14, tf.int32)[0]
    bits = _numbers(header, 28, tf.uint16)[0]
    compression = _numbers(header, 30, tf.int32)[0]
    is_plain = (compression == 0) | ((compression == 3) & (bits == 32))
    can_read = (length >= least) & (length <= largest) & (bits >= 8) & is_plain
    message = ": expected a BMP of 8, 24 or 32 bits without compression"
    pixels = _decode_channels(checked(data, can_read, name, message))

    def look_up():
        entries = tf.strings.substr(header, _BMP_FIRST_HEADER + length, 4 * 256)
        palette = tf.reshape(tf.io.decode_raw(entries, tf.uint8), [256, 4])  # blue, green, red, -
        return tf.gather(palette[:, 2::-1], tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(bits == 8, look_up, lambda: _to_rgb(pixels))
