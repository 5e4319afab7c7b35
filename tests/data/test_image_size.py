"""To what size images are brought, and the pixels that they get."""

import numpy as np
import pytest

from fcos_tf.data.image_size import ImageSize, parse_image_size
from fcos_tf.data.images import resize_image


def new_size(height, width, text, chance=0.0):
    return parse_image_size(text).resized(height, width, chance)


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [
        ("512x640", ImageSize(canvas=(512, 640))),
        (" 240X320 ", ImageSize(canvas=(240, 320))),
        ((240, 320), ImageSize(canvas=(240, 320))),
        ([240, 320], ImageSize(canvas=(240, 320))),
        ("800,1333", ImageSize(sides=(800, 800, 1333))),
        ("800, 1333", ImageSize(sides=(800, 800, 1333))),
        ("640-800,1333", ImageSize(sides=(640, 800, 1333))),
        (ImageSize(sides=(1, 1, 2)), ImageSize(sides=(1, 1, 2))),
    ],
)
def test_parse_image_size(given_size, expected):
    assert parse_image_size(given_size) == expected


@pytest.mark.parametrize(
    "bad",
    ["", "512", "512*512", "axb", "0x5", "-1x5", "1333,800", "800-640,1333", "640-1400,1333",
     "640-,1333", (512,), (0, 5), (1.5, 2), 5, None, (True, 5)],
)  # fmt: skip
def test_parse_image_size_refuses(bad):
    with pytest.raises(ValueError, match=r"image_size: expected .* got"):
        parse_image_size(bad)


def test_resized_by_hand():
    # min(512/375, 512/500) = 1.024: 375 * 1.024 = 384
    assert new_size(375, 500, "512x512") == (384, 512)
    # min(240/480, 320/640) = 0.5
    assert new_size(480, 640, "240x320") == (240, 320)
    # min(100/50, 300/50) = 2: the height decides
    assert new_size(50, 50, "100x300") == (100, 100)
    # min(800/480, 1333/640) = 1.6667: 640 * 1.6667 = 1066.67, floored
    assert new_size(480, 640, "800,1333") == (800, 1066)
    # min(800/400, 1333/1600) = 0.833125: 400 * 0.833125 = 333.25, floored
    assert new_size(400, 1600, "800,1333") == (333, 1333)
    # 1 * min(32/1, 32/3200) = 0.01 would vanish
    assert new_size(1, 3200, "32x32") == (1, 32)


def test_resized_rounds_in_float64():
    # 800 / 322 * 322 = 799.9999999999999; 400 * 2.484 = 993.8
    assert 800 / 322 * 322 < 800
    assert new_size(322, 400, "800,1333") == (799, 993)


def test_multi_scale_draws_every_short_side_alike():
    # 20 to 23: chance [0, 1/4) gives 20, [1/4, 1/2) gives 21 and so on. 40x80: twice as wide.
    size = parse_image_size("20-23,1000")
    drawn = [size.resized(40, 80, chance) for chance in (0.0, 0.24, 0.25, 0.74, 0.75, 0.999)]
    assert drawn == [(20, 40), (20, 40), (21, 42), (22, 44), (23, 46), (23, 46)]
    # The long side still limits: min(23/40, 30/80) = 0.375
    assert parse_image_size("20-23,30").resized(40, 80, 0.999) == (15, 30)
    assert size.is_random and not size.fixed().is_random
    assert size.fixed().resized(40, 80) == (23, 46)


def test_scale_jitter_by_hand():
    size = ImageSize(canvas=(100, 100), scale_jitter=(0.1, 2.1))
    # 50x100 fits at scale 1; chance 0, 0.5, 0.75: times 0.1, 1.1, 1.6
    assert [size.resized(50, 100, c) for c in (0.0, 0.5, 0.75)] == [(5, 10), (55, 110), (80, 160)]
    assert size.fixed().resized(50, 100, 0.75) == (50, 100)


def test_two_canvases_by_orientation():
    # 800 = 25 * 32; 1333 is padded to 42 * 32 = 1344
    assert parse_image_size("640-800,1333").canvases() == ((800, 1344), (1344, 800))
    assert parse_image_size("500x600").canvases() == ((500, 600), (500, 600))


def test_resize_is_bilinear_with_half_pixel_centres():
    image = np.array([[[0] * 3, [100] * 3]], np.uint8)  # [1, 2, 3]
    # Scale 2. Columns 0..3 look at (j + .5) / 2 - .5 = -.25, .25, .75, 1.25 of the source.
    resized = resize_image(image, 2, 4)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[..., 0], [[0, 25, 75, 100]] * 2)


def test_resize_does_not_smooth_what_it_leaves_out():
    image = np.repeat(np.array([[0, 255, 0, 0, 0, 255]], np.uint8)[..., None], 3, axis=-1)
    # Scale 1/3. Columns 0 and 1 look at (j + .5) * 3 - .5 = 1 and 4: exactly those pixels.
    np.testing.assert_array_equal(resize_image(image, 1, 2)[..., 0], [[255, 0]])
