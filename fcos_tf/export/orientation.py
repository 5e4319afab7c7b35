"""The EXIF orientation of image files, inside a graph of stock TensorFlow ops.

As `fcos_tf.data.images.orientation_of` reads it from JPEG, PNG and WebP; orientations that only XMP
states are not read. Sources: JPEG (ITU T.81 B.1), Exif 2.3 (4.7.2), PNG (third edition, 11.3.4.5),
the WebP container, TIFF 6.0 (section 2, and tag 274).
"""

import tensorflow as tf

_TAG, _SHORT, _LONG = 0x0112, 3, 4
_EXIF = b"Exif\0\0"
_MOST_PARTS, _MOST_ENTRIES = 128, 1024  # looked at: of a file, and of its EXIF data


def read_orientations(image_bytes: tf.Tensor) -> tf.Tensor:
    """Contents of image files [B] -> EXIF orientation, int32 [B] of 1 to 8; 1 where none is."""
    return tf.map_fn(_orientation, image_bytes, fn_output_signature=tf.int32)


def turned(sizes: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
    """(height, width) [B, 2] of images after `turn_upright`."""
    return tf.where(orientations[:, None] > 4, sizes[:, ::-1], sizes)


def turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Pixels [h, w, 3] as viewers show them, as `fcos_tf.data.images.turn_upright`."""

    def one_of(*values):
        return tf.reduce_any(orientation == values)

    def when(condition, change, x):
        return tf.cond(condition, lambda: change(x), lambda: x)

    shape = [None, None, 3]
    pixels = when(orientation > 4, lambda x: tf.transpose(x, [1, 0, 2]), pixels)
    pixels = when(one_of(3, 4, 7, 8), lambda x: x[::-1], tf.ensure_shape(pixels, shape))
    return tf.ensure_shape(when(one_of(2, 3, 6, 7), lambda x: x[:, ::-1], pixels), shape)


def _orientation(data):
    """Of one file: scalar int32."""
    start = tf.case(
        [
            (_read(data, 0, 2) == b"\xff\xd8", lambda: _find_in_jpeg(data)),
            (_read(data, 0, 4) == b"\x89PNG", lambda: _find_in_png(data)),
            (_read(data, 8, 8) == b"WEBPVP8X", lambda: _find_in_webp(data)),
        ],
        default=lambda: tf.constant(-1),
    )
    return tf.cond(start < 0, lambda: 1, lambda: _tiff_orientation(data, start))


def _find(first, step):
    """Where the TIFF data begin, -1 if nowhere.

    `step` takes the offset of a part, and gives that of the next, where TIFF data begin in this
    one, or -1, and whether this part ends the search.
    """
    keep = lambda count, at, found, done: (found < 0) & ~done & (count < _MOST_PARTS)  # noqa: E731
    body = lambda count, at, found, done: (count + 1, *step(at))  # noqa: E731
    state = (tf.constant(0), tf.constant(first), tf.constant(-1), tf.constant(False))
    return tf.while_loop(keep, body, state)[2]


def _find_in_jpeg(data):
    def segment(at):
        marker = _read(data, at, 2)
        length = _number(data, at + 2, 2)
        is_exif = (marker == b"\xff\xe1") & (_read(data, at + 4, 6) == _EXIF)
        is_fill = marker == b"\xff\xff"
        # Past the start of the scan, or without a marker, there is nothing to find.
        is_last = (marker == b"\xff\xda") | (_read(data, at, 1) != b"\xff") | (length < 2)
        following = tf.where(is_fill, at + 1, at + 2 + length)
        return following, tf.where(is_exif, at + 10, -1), is_last & ~is_fill

    return _find(2, segment)


def _find_in_png(data):
    def chunk(at):
        length, kind = _number(data, at, 4), _read(data, at + 4, 4)
        is_last = (kind == b"IDAT") | (kind == b"") | (length < 0)
        return at + 12 + length, tf.where(kind == b"eXIf", at + 8, -1), is_last

    return _find(8, chunk)


def _find_in_webp(data):
    def chunk(at):
        length, kind = _number(data, at + 4, 4, little=True), _read(data, at, 4)
        has_prefix = _read(data, at + 8, 6) == _EXIF
        start = at + 8 + tf.where(has_prefix, 6, 0)
        following = at + 8 + length + length % 2
        return following, tf.where(kind == b"EXIF", start, -1), (kind == b"") | (length < 0)

    return _find(12, chunk)


def _tiff_orientation(data, start):
    """The orientation in TIFF data: the first such entry of the first directory."""
    little = _read(data, start, 2) == b"II"
    first = start + _number(data, start + 4, 4, little=little)
    count = tf.minimum(_number(data, first, 2, little=little), _MOST_ENTRIES)
    places = first + 2 + 12 * tf.range(count)
    is_it = tf.map_fn(
        lambda at: _number(data, at, 2, little=little) == _TAG, places, fn_output_signature=tf.bool
    )
    at = tf.reduce_min(tf.where(is_it, places, tf.int32.max))
    kind = _number(data, at + 2, 2, little=little)
    size = tf.where(kind == _SHORT, 2, 4)
    value = _number(data, at + 8, size, little=little)
    is_right = (kind == _SHORT) | (kind == _LONG)
    is_right &= tf.reduce_any(is_it) & (value >= 1) & (value <= 8)
    return tf.where(is_right, value, 1)


def _read(data, at, count):
    """Up to `count` bytes from an offset on; none from outside the file."""
    length = tf.strings.length(data)
    at = tf.where((at < 0) | (at > length), length, at)
    return tf.strings.substr(data, at, count)


def _number(data, at, count, *, little=False):
    """The whole number in `count` bytes, int32; bytes past the end of the file are 0."""
    digits = tf.io.decode_raw(_read(data, at, count), tf.uint8, fixed_length=count)
    digits = tf.cast(digits, tf.int32)
    order = tf.where(little, tf.range(count), tf.range(count)[::-1])
    return tf.reduce_sum(tf.bitwise.left_shift(digits, 8 * order))
