"""Images for `predict`, brought to size as evaluation does it."""

import io

import numpy as np
import pytest
from PIL import Image

from fcos_tf import data
from fcos_tf.data.images import ImageError
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.image_size import parse_image_size
from tests.digit_files import write_digits


def pixels(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 10, y * 10, x + y], -1).astype(np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_path_bytes_and_pixels_are_the_same_image(tmp_path):
    image = pixels(10, 20)
    (tmp_path / "a.png").write_bytes(png(image))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), png(image), image):
        found = prepare_batch([source], "10x20")
        assert found["images"].dtype == np.float32
        assert found["original_sizes"].tolist() == [[10, 20]]
        np.testing.assert_array_equal(found["images"][0], image)


def test_resizing_is_not_rounded_to_grey_levels():
    # Two columns 0 and 1 at twice the width: centres of the new columns lie at -0.25, 0.25, 0.75
    # and 1.25 of the old ones, so the values are 0, 0.25, 0.75 and 1.
    image = np.zeros([2, 2, 3], np.uint8)
    image[:, 1] = 1
    found = prepare_batch([image], "4x4")["images"][0]
    np.testing.assert_array_equal(found[..., 0], [[0, 0.25, 0.75, 1]] * 4)


def test_a_random_size_is_the_largest():
    # Short side 10 -> 40, the most of "20-40": scale 4.
    found = prepare_batch([pixels(10, 20)], "20-40,200")
    assert found["image_sizes"].tolist() == [[40, 80]]


@pytest.mark.parametrize(
    ("rule", "canvas", "sizes"),
    [
        # Scales 64 / 10 by the short side, and 64 / 30: 64 x 128 and 64 x 64, padded to 32s.
        ("64,1000", (64, 128), [[64, 128], [64, 64]]),
        # Scales 2 and 4/3 (the limit is the height of 40): 20 x 40 and 40 x 40 -> 64 x 64.
        ("40,40", (64, 64), [[20, 40], [40, 40]]),
        # min(50 / 10, 70 / 20) = 3.5 and min(50 / 30, 70 / 30) = 5/3: 35 x 70 and 50 x 50.
        ("50x70", (50, 70), [[35, 70], [50, 50]]),
    ],
)
def test_a_batch_has_the_smallest_canvas(rule, canvas, sizes):
    images = [pixels(10, 20), pixels(30, 30)]
    batch = prepare_batch(images, rule)
    assert batch["images"].shape == (2, *canvas, 3)
    np.testing.assert_array_equal(batch["image_sizes"], sizes)
    np.testing.assert_array_equal(batch["original_sizes"], [[10, 20], [30, 30]])
    assert {value.dtype for value in batch.values()} == {np.dtype(np.float32)}
    for source, padded, (height, width) in zip(images, batch["images"], sizes, strict=True):
        alone = prepare_batch([source], rule)["images"][0]
        np.testing.assert_array_equal(padded[:height, :width], alone[:height, :width])
        assert not padded[height:].any() and not padded[:, width:].any()


@pytest.mark.parametrize("rule", ["64x96", "64,96"])
def test_a_batch_is_that_of_evaluation(tmp_path, rule):
    write_digits("coco", tmp_path, {"val": 3})
    dataset = data.load("coco", data_dir=tmp_path, split="val", batch_size=3, image_size=rule)
    ((images, targets),) = list(dataset)
    batch = prepare_batch(sorted((tmp_path / "val").iterdir()), parse_image_size(rule))
    np.testing.assert_array_equal(batch["images"], images)
    for name in ("image_sizes", "original_sizes"):
        np.testing.assert_array_equal(batch[name], targets[name])


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    good = pixels(4, 4)
    with pytest.raises(ImageError, match=r"cannot decode image \S+text\.jpg"):
        prepare_batch([good, tmp_path / "text.jpg"], "64x64")
    with pytest.raises(ImageError, match=r"no image file \S+gone\.jpg"):
        prepare_batch([str(tmp_path / "gone.jpg")], "64x64")
    with pytest.raises(ImageError, match="cannot decode image 1 of the batch: the file is empty"):
        prepare_batch([good, b""], "64x64")


def test_what_is_no_image_is_named():
    with pytest.raises(ValueError, match=r"image 1 .*uint8 \[h, w, 3\], got float32 \[4, 4, 3\]"):
        prepare_batch([pixels(4, 4), np.zeros([4, 4, 3], np.float32)], "64x64")
    with pytest.raises(ValueError, match=r"got uint8 \[4, 4\]"):
        prepare_batch([np.zeros([4, 4], np.uint8)], "64x64")
    with pytest.raises(ValueError, match="at least one image, got none"):
        prepare_batch([], "64x64")
