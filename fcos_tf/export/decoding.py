"""Image files to pixels, inside a graph of stock TensorFlow ops.

The pixels equal those of `fcos_tf.data.images.decode_image` bit by bit. Alpha is dropped, 16 bits
become 8, and an animation is its first frame; EXIF orientation is left to `export.orientation`.
Sizes are read from the headers and checked against `Limits` before anything is decoded.

    JPEG    baseline and progressive; colour, grey, CMYK; accurate DCT
    PNG     1 to 16 bits; colour, grey, palette; with or without alpha
    BMP     8 bits with palette, 24 and 32 bits; not compressed
    WebP    lossy and lossless; with or without alpha

GIF is refused: its header does not bound the size of its frames.

h, w: the size of an image.
"""

from typing import NamedTuple

import tensorflow as tf

FORMATS = "JPEG, PNG, BMP or WebP"


class Limits(NamedTuple):
    """Limits of one request.

    Attributes:
        images: most images.
        pixels: most pixels of all images together, as their headers state them.
    """

    images: int = 8
    pixels: int = 1 << 26


LIMITS = Limits()

# First bytes of the files.
_JPEG, _PNG, _BMP, _WEBP = b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF"
MAX_SCANS = 100  # of a progressive JPEG: each costs the time of the whole image
_SCAN = b"\xff\xda\x00"  # the marker, and the first byte of a length of at most 14
_HEADER = 2048  # bytes; all header fields read here lie within them
# BMP: bytes before the second header, and the range of its length (OS/2's are shorter).
_BMP_FIRST_HEADER, _BMP_HEADERS = 14, (40, 124)
# Byte 20 of an extended WebP file.
_WEBP_ANIMATION, _WEBP_ANIMATION_WITH_ALPHA = 0x02, b"\x12"
# libpng expands each compressed text of a PNG to up to 8 MB: a file with more than four is refused.
_MANY_TEXTS = r"(\C*[zi]TXt){5}\C*"  # \C: any byte


def read_sizes(image_bytes: tf.Tensor, limits: Limits = LIMITS) -> tf.Tensor:
    """Reads the sizes of images from the headers of their files.

    Args:
        image_bytes: string [B], contents of image files.
        limits: of B and of the pixels of all images.

    Returns:
        int32 [B, 2], (h, w).

    Raises:
        tf.errors.InvalidArgumentError: another format, or a request beyond the limits.
    """
    count = tf.shape(image_bytes)[0]
    names = tf.strings.join(["image_bytes[", tf.strings.as_string(tf.range(count)), "]"])
    image_bytes = check_count(image_bytes, limits, "image_bytes")
    sizes = tf.map_fn(
        lambda element: _read_size(*element),
        (names, image_bytes),
        fn_output_signature=tf.TensorSpec([2], tf.int64),
    )
    return check_pixels(sizes, limits, "image_bytes")


def check_count(images: tf.Tensor, limits: Limits, name: str) -> tf.Tensor:
    """The images [B, ...]; an error of the graph unless B is 1 to `limits.images`."""
    count = tf.shape(images)[0]
    is_right = (count > 0) & (count <= limits.images)
    expected = f"{name}: expected 1 to {limits.images} images, got "
    return checked(images, is_right, expected, tf.strings.as_string(count))


def check_pixels(sizes: tf.Tensor, limits: Limits, name: str) -> tf.Tensor:
    """The sizes [B, 2] as int32; an error of the graph unless they are within the limits."""
    # Of hostile headers the products could overflow whole numbers.
    total = tf.reduce_sum(tf.reduce_prod(tf.cast(sizes, tf.float64), axis=1))
    is_right = tf.reduce_all(sizes > 0) & (total <= limits.pixels)
    each = tf.strings.reduce_join(tf.strings.as_string(sizes[:, ::-1]), axis=1, separator=" x ")
    expected = f"{name}: expected 1 to {limits.pixels} pixels in all images together, got "
    got = tf.strings.reduce_join(each, separator=", ")
    return tf.cast(checked(sizes, is_right, expected, got), tf.int32)


def decode_image(data: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Decodes one image.

    Args:
        data: scalar string, the content of an image file.
        size: int32 [2], (h, w) as `read_sizes` gives it.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        tf.errors.InvalidArgumentError: a broken image.
    """
    with tf.control_dependencies([size]):  # nothing is decoded before the sizes are checked
        header = _header_of(data)
    pixels = tf.case(
        [
            (_begins_with(header, _JPEG), lambda: _decode_jpeg(data)),
            (_begins_with(header, _BMP), lambda: _decode_bmp(data, header)),
            (
                _begins_with(header, _WEBP),
                lambda: _decode_any(_with_alpha_if_animated(data, header)),
            ),
        ],
        default=lambda: _decode_any(data),
    )
    is_right = tf.reduce_all(tf.shape(pixels)[:2] == size)
    return checked(pixels, is_right, "expected an image of the size in its header, got another")


def _header_of(data):
    return tf.strings.substr(tf.strings.join([data, b"\0" * _HEADER]), 0, _HEADER)


def _begins_with(header, magic):
    return tf.strings.substr(header, 0, len(magic)) == magic


def _read_size(name, data):
    """int64 [2], (h, w) in the header of a file of a known format."""
    header = _header_of(data)
    is_jpeg, is_png, is_bmp = (_begins_with(header, magic) for magic in (_JPEG, _PNG, _BMP))
    kind = tf.strings.substr(header, 8, 8)
    # The decoder also reads a WebP without such a chunk, whose size is elsewhere.
    chunks = [kind == b"WEBP" + chunk for chunk in (b"VP8X", b"VP8L", b"VP8 ")]
    is_webp = _begins_with(header, _WEBP) & tf.reduce_any(chunks)
    is_known = is_jpeg | is_png | is_bmp | is_webp
    got = tf.strings.as_string(tf.strings.length(data))
    message = (name, f": expected {FORMATS}, got ", got, " bytes of something else")
    header = checked(header, is_known, *message)

    def jpeg():
        size = tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64)
        is_right = tf.size(tf.strings.split(data, _SCAN, maxsplit=MAX_SCANS + 1)) <= MAX_SCANS + 1
        return checked(size, is_right, name, f": expected a JPEG of at most {MAX_SCANS} scans")

    def png():
        is_right = ~tf.strings.regex_full_match(data, _MANY_TEXTS)
        message = ": expected a PNG with at most four compressed texts, got more"
        size = _numbers(header, 16, tf.int32, count=2, big_endian=True)[::-1]
        return checked(size, is_right, name, message)

    def bmp():
        return tf.abs(_numbers(_checked_bmp(header, name), 18, tf.int32, count=2)[::-1])

    return tf.case(
        [(is_jpeg, jpeg), (is_png, png), (is_bmp, bmp)],
        default=lambda: _webp_sides(header)[::-1],
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


def _checked_bmp(header, name):
    """The header of a BMP; refuses variants that TensorFlow decodes wrongly."""
    least, largest = _BMP_HEADERS
    length = _numbers(header, 14, tf.int32)[0]
    bits = _numbers(header, 28, tf.uint16)[0]
    compression = _numbers(header, 30, tf.int32)[0]
    is_plain = (compression == 0) | ((compression == 3) & (bits == 32))
    can_read = (length >= least) & (length <= largest) & (bits >= 8) & is_plain
    message = ": expected a BMP of 8, 24 or 32 bits without compression"
    return checked(header, can_read, name, message)


def _decode_bmp(data, header):
    """Applies palettes, which TensorFlow ignores."""
    pixels = _decode_channels(data)

    def look_up():
        start = _BMP_FIRST_HEADER + _numbers(header, 14, tf.int32)[0]
        entries = tf.strings.substr(header, start, 4 * 256)
        palette = tf.reshape(tf.io.decode_raw(entries, tf.uint8), [256, 4])  # blue, green, red, -
        return tf.gather(palette[:, 2::-1], tf.cast(pixels[..., 0], tf.int32))

    bits = _numbers(header, 28, tf.uint16)[0]
    return tf.cond(bits == 8, look_up, lambda: _to_rgb(pixels))
