"""docker/runtime_model.py reads and resizes images as fcos_tf does."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from fcos_tf.data.images import decode_image
from fcos_tf.data.prepare import prepare_batch
from tests.export.encoded import READABLE, UNREADABLE, picture, save
from tests.serving.docker_files import DOCKER

spec = importlib.util.spec_from_file_location("runtime_model", DOCKER / "runtime_model.py")
runtime_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runtime_model)

MANY = 1 << 20
SERVED = ("jpeg", "png")


@pytest.mark.parametrize("name", [name for name in READABLE if name.startswith(SERVED)])
def test_pixels_are_those_of_the_package(name):
    for apply_exif in (False, True):
        pixels = runtime_model.decode(READABLE[name], apply_exif, MANY)
        expected, _ = decode_image(READABLE[name], name, lambda *size: size, apply_exif)
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    "name", [name for name in (*READABLE, *UNREADABLE) if not name.startswith(SERVED)]
)
def test_other_formats_are_refused(name):
    data = READABLE.get(name) or UNREADABLE[name][0]
    with pytest.raises(ValueError, match=r"expected the bytes of a JPEG or PNG file|cannot decode"):
        runtime_model.decode(data, False, MANY)


@pytest.mark.parametrize("name", [name for name in UNREADABLE if name.startswith(SERVED)])
def test_broken_files_are_refused(name):
    with pytest.raises(ValueError, match=r"^(expected|cannot decode) .*"):
        runtime_model.decode(UNREADABLE[name][0], False, MANY)


def test_an_image_is_measured_before_it_is_decoded():
    data = save(Image.new("L", (1000, 101)), "PNG")
    assert runtime_model.decode(data, False, 101_000).shape == (101, 1000, 3)
    cut_off = data[:60]
    with pytest.raises(runtime_model.TooManyPixelsError, match="at most 100999 pixels, got 1000 x"):
        runtime_model.decode(cut_off, False, 100_999)


def test_a_jpeg_of_many_scans_is_refused():
    data = save(picture(99, 99), "JPEG", progressive=True)
    assert len(runtime_model.decode(data, False, MANY)) == 99
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    with pytest.raises(ValueError, match="at most 100 scans"):
        runtime_model.decode(data + scan * 100, False, MANY)


@pytest.mark.parametrize(
    "size, rule",
    [
        ((75, 51), "64x96"), ((1, 500), "64x96"), ((500, 1), "96,160"), ((333, 500), "96,160"),
        ((40, 30), "96,160"), ((322, 400), "800,1333"), ((427, 640), "640-800,1333"),
        ((64, 96), "64x96"),
    ],
)  # fmt: skip
def test_inputs_are_those_of_the_package(size, rule):
    pixels = picture(*size)
    inputs, expected = runtime_model.prepare(pixels, rule), prepare_batch([pixels], rule)
    assert inputs.keys() == expected.keys()
    for name, x in expected.items():
        assert inputs[name].dtype == np.float32
        # Rounding, of a place near 500 by 3e-5 of a pixel at most.
        np.testing.assert_allclose(inputs[name], x, rtol=0, atol=0.01, err_msg=name)
