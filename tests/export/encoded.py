"""Small image files of every kind that the tests decode."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 21, 34


def picture(height=HEIGHT, width=WIDTH, *, channels=3, seed=0):
    """uint8 [height, width, channels], blocks of random colour: sharp edges, yet no noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels), dtype=np.uint8)
    return np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)[:height, :width]


def save(image, kind, **options):
    """The bytes of an array or a picture of Pillow, as a file of a kind."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(height, width, seed=0):
    return save(picture(height, width, seed=seed), "JPEG", quality=90)


def _png16(channels):
    wide = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, channels))
    return cv2.imencode(".png", wide.astype(np.uint16))[1].tobytes()


def _readable():
    rgb, other = Image.fromarray(picture()), Image.fromarray(picture(seed=1))
    rgba = Image.fromarray(picture(channels=4))
    palette = rgb.convert("P")
    rotated = rgb.getexif()
    rotated[0x0112] = 6  # orientation: to be turned by 90 degrees
    frames = {"save_all": True, "append_images": [other]}
    return {
        "jpeg": save(rgb, "JPEG"),
        "jpeg progressive 4:4:4": save(rgb, "JPEG", progressive=True, subsampling=0),
        "jpeg grey": save(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": save(rgb.convert("CMYK"), "JPEG"),
        "jpeg rotated by exif": save(rgb, "JPEG", exif=rotated),
        "png": save(rgb, "PNG"),
        "png rgba": save(rgba, "PNG"),
        "png grey": save(rgb.convert("L"), "PNG"),
        "png grey with alpha": save(rgba.convert("LA"), "PNG"),
        "png palette": save(palette, "PNG"),
        "png palette with alpha": save(palette, "PNG", transparency=3),
        "png one bit": save(rgb.convert("1"), "PNG"),
        "png 16-bit grey": _png16(1),
        "png 16-bit rgb": _png16(3),
        "png 16-bit rgba": _png16(4),
        "bmp": save(rgb, "BMP"),
        "bmp grey": save(rgb.convert("L"), "BMP"),
        "bmp palette": save(palette, "BMP"),
        "bmp rgba": save(rgba, "BMP"),
        "png with four texts": with_texts(save(rgb, "PNG"), 4, 1000),
        "webp": save(rgb, "WEBP"),
        "webp lossless": save(rgb, "WEBP", lossless=True),
        "webp rgba": save(rgba, "WEBP", lossless=True, exact=True),
        "webp animated": save(rgb, "WEBP", lossless=True, **frames),
        "webp animated rgba": save(rgba, "WEBP", lossless=True, exact=True, **frames),
    }


def with_texts(png, count, length=7_000_000):
    """A PNG with compressed texts that expand to a length each; libpng takes up to 8 MB."""
    text = zlib.compress(bytes(length), 9)

    def chunk(key):
        body = b"zTXt" + key + b"\0\0" + text
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = 8 + 25  # signature and IHDR
    texts = b"".join(chunk(b"%d" % i) for i in range(count))
    return png[:header] + texts + png[header:]


def _claiming(data, at, sides):
    """A file whose header is changed from a byte on."""
    return data[:at] + sides + data[at + len(sides) :]


READABLE = _readable()
_SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
# What of each the error says. Sizes: 60000 = 0xEA60, so 60000 x 60000.
_SIDE = 0xEA60
UNREADABLE = {
    "no bytes": (b"", r"image_bytes\[1\]: expected JPEG, PNG, BMP or WebP, got 0 bytes"),
    "text": (b"<html></html>", r"image_bytes\[1\]: expected JPEG, .*, got 13 bytes"),
    "tiff": (save(picture(), "TIFF"), r"image_bytes\[1\]: expected JPEG"),
    "jpeg cut off": (READABLE["jpeg"][:-100], "Invalid JPEG data"),
    "jpeg of many scans": (
        READABLE["jpeg"] + _SCAN * 100,
        r"image_bytes\[1\]: expected a JPEG of at most 100 scans",
    ),
    "jpeg header alone": (READABLE["jpeg"][:12], "Invalid JPEG data"),
    "jpeg of 60000 x 60000": (
        # The frame header: marker, length, bits, height, width.
        _claiming(
            READABLE["jpeg"],
            READABLE["jpeg"].index(b"\xff\xc0") + 5,
            _SIDE.to_bytes(2, "big") * 2,
        ),
        "got 34 x 21, 60000 x 60000",
    ),
    "png cut off": (READABLE["png"][:-50], "Invalid PNG data"),
    "bmp one bit": (
        save(Image.fromarray(picture()).convert("1"), "BMP"),
        r"image_bytes\[1\]: expected a BMP of 8, 24 or 32 bits",
    ),
    # A screen of 1 x 1 with a frame of 34 x 21, which TensorFlow decodes.
    "gif": (
        _claiming(save(picture(), "GIF"), 6, b"\1\0\1\0"),
        r"image_bytes\[1\]: expected JPEG, PNG, BMP or WebP, got \d+ bytes",
    ),
    "png with five texts": (
        with_texts(READABLE["png"], 5),
        r"image_bytes\[1\]: expected a PNG with at most four compressed texts, got more",
    ),
    "webp without a chunk": (
        READABLE["webp"][:12] + READABLE["webp"][20:],
        r"image_bytes\[1\]: expected JPEG, PNG, BMP or WebP, got",
    ),
    "png of no width": (_claiming(READABLE["png"], 16, bytes(4)), "got 34 x 21, 0 x 21"),
    "png of 60000 x 60000": (
        _claiming(READABLE["png"], 16, _SIDE.to_bytes(4, "big") * 2),
        "image_bytes: expected 1 to 67108864 pixels in all images together, got 34 x 21, "
        "60000 x 60000",
    ),
    "bmp of 60000 x 60000": (
        _claiming(READABLE["bmp"], 18, _SIDE.to_bytes(4, "little") * 2),
        "got 34 x 21, 60000 x 60000",
    ),
    "extended webp of 60000 x 60000": (
        _claiming(READABLE["webp animated"], 24, (_SIDE - 1).to_bytes(3, "little") * 2),
        "got 34 x 21, 60000 x 60000",
    ),
    # 2 x 2^31 x 2^31 = 2^63 would be negative as a whole number.
    "two bmps of 2^31 x 2^31": (
        _claiming(READABLE["bmp"], 18, b"\0\0\0\x80" * 2),
        "got 34 x 21, 2147483648 x 2147483648",
    ),
    # 14 bits each, less one: all ones are 16384.
    "lossless webp of 16384 x 16384": (
        _claiming(READABLE["webp lossless"], 21, (2**28 - 1).to_bytes(4, "little")),
        "got 34 x 21, 16384 x 16384",
    ),
    "lossy webp of 16383 x 16383": (
        _claiming(READABLE["webp"], 26, (2**14 - 1).to_bytes(2, "little") * 2),
        "got 34 x 21, 16383 x 16383",
    ),
}
