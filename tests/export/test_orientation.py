"""EXIF orientation in a graph, beside Pillow's reading of the same files."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.data import images
from fcos_tf.export import orientation

SHORT, LONG = 3, 4
read = tf.function(
    orientation.read_orientations,
    input_signature=[tf.TensorSpec([None], tf.string)],
    autograph=False,
)


def tiff(order, *entries):
    """TIFF data of one directory with entries (tag, type, count, value)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    data = mark + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack(order + "HHI", tag, kind, count)
        data += struct.pack(order + ("HH" if kind == SHORT else "I"), *[value, 0][: 5 - kind])
    return data + b"\0\0\0\0"


def image_file(form, exif=b""):
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, form, exif=exif)
    return stream.getvalue()


def by_pillow(data):
    return images.orientation_of(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_it_reads_what_pillow_reads(form, order):
    make = (0x010F, SHORT, 1, 5)
    directories = [
        *([make, (0x0112, SHORT, 1, value)] for value in range(11)),
        [(0x0112, LONG, 1, 6)],
        [(0x0112, SHORT, 2, 6)],
        [(0x0112, SHORT, 1, 6), (0x0112, SHORT, 1, 3)],
        [make],
        [],
    ]
    files = [image_file(form, b"Exif\0\0" + tiff(order, *entries)) for entries in directories]
    files.append(image_file(form))
    expected = [by_pillow(data) for data in files]
    assert set(range(1, 9)) <= set(expected)
    assert read(files).numpy().tolist() == expected


def test_other_segments_may_come_first():
    data = image_file("JPEG", b"Exif\0\0" + tiff("<", (0x0112, SHORT, 1, 8)))
    comment = b"\xff\xfe\x00\x07hello"
    assert read([data[:2] + comment + data[2:]]).numpy().tolist() == [8]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8" + b"\xff" * 10_000,
        b"\xff\xd8" + b"\xff\xe2\x00\x02" * 10_000,
        b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\x7f",
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\x08\0\0\0\xff\xff",
        b"\x89PNG" + b"\xff" * 100,
        b"RIFF\0\0\0\0WEBPVP8X" + b"\xff" * 100,
    ],
)
def test_hostile_headers_end_without_one(data):
    assert read([data]).numpy().tolist() == [1]


def test_pixels_are_turned_as_when_training():
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for number in range(1, 9):
        expected = images.turn_upright(pixels, number)
        turned = orientation.turn_upright(tf.constant(pixels), tf.constant(number))
        np.testing.assert_array_equal(turned, expected)
        sizes = orientation.turned(tf.constant([[4, 6]]), tf.constant([number]))
        assert sizes.numpy().tolist() == [list(expected.shape[:2])]
