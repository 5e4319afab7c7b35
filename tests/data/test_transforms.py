"""Resize, flip and pad keep image and boxes together."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fcos_tf.data import transforms
from fcos_tf.data.transforms import ImageSize, parse_image_size


def new_size(height, width, text):
    return transforms.resized_size(height, width, parse_image_size(text)).numpy().tolist()


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [
        ("512x640", ImageSize(canvas=(512, 640))),
        (" 240X320 ", ImageSize(canvas=(240, 320))),
        ((240, 320), ImageSize(canvas=(240, 320))),
        ([240, 320], ImageSize(canvas=(240, 320))),
        ("800,1333", ImageSize(sides=(800, 1333))),
        ("800, 1333", ImageSize(sides=(800, 1333))),
        (ImageSize(sides=(1, 2)), ImageSize(sides=(1, 2))),
    ],
)
def test_parse_image_size(given_size, expected):
    assert parse_image_size(given_size) == expected


@pytest.mark.parametrize(
    "bad",
    ["", "512", "512*512", "axb", "0x5", "-1x5", "1333,800", (512,), (0, 5), (1.5, 2), 5, None,
     (True, 5)],
)  # fmt: skip
def test_parse_image_size_refuses(bad):
    with pytest.raises(ValueError, match=r"image_size: expected .* got"):
        parse_image_size(bad)


def test_resized_size_by_hand():
    # min(512/375, 512/500) = 1.024: 375 * 1.024 = 384
    assert new_size(375, 500, "512x512") == [384, 512]
    # min(240/480, 320/640) = 0.5
    assert new_size(480, 640, "240x320") == [240, 320]
    # min(100/50, 300/50) = 2: the height decides
    assert new_size(50, 50, "100x300") == [100, 100]
    # min(800/480, 1333/640) = 1.6667: 640 * 1.6667 = 1066.67, floored
    assert new_size(480, 640, "800,1333") == [800, 1066]
    # min(800/400, 1333/1600) = 0.833125: 400 * 0.833125 = 333.25, floored
    assert new_size(400, 1600, "800,1333") == [333, 1333]
    # 1 * min(32/1, 32/3200) = 0.01 would vanish
    assert new_size(1, 3200, "32x32") == [1, 32]


def test_resized_size_rounds_as_python_does():
    # float64: 800 / 322 * 322 = 799.9999999999999
    assert 800 / 322 * 322 < 800
    assert new_size(322, 400, "800,1333") == [799, 993]  # 400 * 2.484 = 993.8


def test_resize_is_bilinear_with_half_pixel_centres():
    image = tf.constant([[[0] * 3, [100] * 3]], tf.uint8)  # [1, 2, 3]
    boxes = tf.constant([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
    # Scale 2. Columns 0..3 look at (j + .5) / 2 - .5 = -.25, .25, .75, 1.25 of the source.
    resized, moved = transforms.resize(image, boxes, ImageSize(canvas=(2, 4)))
    assert resized.dtype == tf.uint8
    np.testing.assert_array_equal(resized[..., 0], [[0, 25, 75, 100]] * 2)
    np.testing.assert_array_equal(moved, [[0, 0, 2, 2], [2, 0, 4, 2]])


def test_boxes_follow_the_whole_pixel_size_of_each_axis():
    # 480x640 -> 800x1066: y by 800/480 = 1.66667, x by 1066/640 = 1.665625
    image = tf.zeros([480, 640, 3], tf.uint8)
    _, boxes = transforms.resize(
        image, tf.constant([[64.0, 48.0, 640.0, 480.0]]), ImageSize(sides=(800, 1333))
    )
    np.testing.assert_allclose(boxes, [[106.6, 80.0, 1066.0, 800.0]], rtol=1e-6)


def test_flip_by_hand_and_twice():
    image = tf.reshape(tf.range(18, dtype=tf.int32), [2, 3, 3])
    boxes = tf.constant([[0.0, 0.0, 1.0, 2.0], [0.5, 1.0, 3.0, 2.0]])
    flipped, moved = transforms.flip_horizontal(image, boxes)
    np.testing.assert_array_equal(flipped[0, :, 0], [6, 3, 0])
    # Width 3: (0, 1) -> (3 - 1, 3 - 0); (.5, 3) -> (0, 2.5)
    np.testing.assert_array_equal(moved, [[2, 0, 3, 2], [0, 1, 2.5, 2]])
    again, back = transforms.flip_horizontal(flipped, moved)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back, boxes)


def test_pad_is_right_and_bottom_with_zeros():
    image = tf.ones([2, 3, 3], tf.uint8)
    padded = transforms.pad_image(image, 4, 5).numpy()
    assert padded.shape == (4, 5, 3)
    assert padded[:2, :3].min() == 1 and padded.sum() == 2 * 3 * 3
    batch = transforms.pad_image(image[None], tf.constant(4), tf.constant(5)).numpy()
    np.testing.assert_array_equal(batch[0], padded)


def test_pad_boxes():
    boxes, labels = transforms.pad_boxes(tf.constant([[1.0, 2, 3, 4]]), tf.constant([6]), 3)
    np.testing.assert_array_equal(boxes, [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert labels.numpy().tolist() == [6, -1, -1]
    boxes, labels = transforms.pad_boxes(tf.zeros([0, 4]), tf.zeros([0], tf.int32), 2)
    assert labels.numpy().tolist() == [-1, -1] and not boxes.numpy().any()


def chain(image, boxes, image_size, flip, height, width):
    image, boxes = transforms.resize(image, boxes, image_size)
    if flip:
        image, boxes = transforms.flip_horizontal(image, boxes)
    return transforms.pad_image(image, height, width), boxes


SIZES = st.sampled_from(["64x64", "48x96", "96x40", "32,80", "64,100", "90,91"])


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(12, 70),
    width=st.integers(12, 70),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    text=SIZES,
    flip=st.booleans(),
)
def test_boxes_stay_on_their_pixels(height, width, corners, text, flip):
    """Draw a white rectangle, transform, and find it again in the pixels."""
    x1, x2 = sorted(round(c * width) for c in corners[:2])
    y1, y2 = sorted(round(c * height) for c in corners[2:])
    assume(x2 - x1 >= 4 and y2 - y1 >= 4)
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255

    image, boxes = chain(
        tf.constant(image),
        tf.constant([[x1, y1, x2, y2]], tf.float32),
        parse_image_size(text),
        flip,
        256,
        256,
    )
    white = image.numpy()[..., 0] >= 128
    columns, rows = np.flatnonzero(white.any(0)), np.flatnonzero(white.any(1))
    box = boxes.numpy()[0]
    assume(min(box[2] - box[0], box[3] - box[1]) >= 1)
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    # The half-way grey of an interpolated edge lies on the edge, so a pixel is white when its
    # centre is inside: the found edge is within half a pixel.
    np.testing.assert_allclose(found, box, atol=0.5 + 1e-3)


@pytest.mark.parametrize("text", ["64x64", "48,80"])
def test_eager_and_tf_data_agree(text):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [6, 37, 53, 3], dtype=np.uint8)
    boxes = random.uniform(0, 37, [6, 5, 4]).astype(np.float32)

    def both(image, box):
        return chain(image, box, parse_image_size(text), True, 80, 80)

    dataset = tf.data.Dataset.from_tensor_slices((images, boxes)).map(both)
    for (image, box), (graph_image, graph_box) in zip(
        map(both, images, boxes), dataset, strict=True
    ):
        np.testing.assert_array_equal(image, graph_image)
        np.testing.assert_array_equal(box, graph_box)
