"""Scale, crop, flip and pad keep image, boxes and labels together."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fcos_tf.data import images
from fcos_tf.image_size import ImageSize, parse_image_size


def test_boxes_follow_the_whole_pixel_size_of_each_axis():
    # 480x640 -> 800x1066: y by 800/480 = 1.66667, x by 1066/640 = 1.665625
    boxes = np.float32([[64, 48, 640, 480]])
    scaled = images.scale_boxes(boxes, (480, 640), (800, 1066))
    np.testing.assert_allclose(scaled, [[106.6, 80.0, 1066.0, 800.0]], rtol=1e-6)


def test_scaled_boxes_end_where_the_image_ends():
    # Exactly, for all sizes: else a box would reach over the border by a rounding error.
    for before in range(1, 40):
        for after in (1, 7, 32, 333, 1333):
            boxes = np.float32([[0, 0, before, before]])
            scaled = images.scale_boxes(boxes, (before, before), (after, after))
            np.testing.assert_array_equal(scaled, [[0, 0, after, after]])


def test_crop_by_hand():
    image = np.arange(5 * 6 * 3).reshape(5, 6, 3)
    boxes = np.float32(
        [
            [0.0, 0.0, 6.0, 5.0],  # all of it: the window
            [3.0, 1.0, 4.5, 2.5],  # inside
            [0.0, 0.0, 2.0, 5.0],  # left of the window, which begins at x = 2
            [0.0, 0.0, 3.0, 1.5],  # reaches in: x 2..3, y 1..1.5, half a pixel high
            [5.0, 3.0, 6.0, 5.0],  # right of it, x ends at 2 + 3 = 5
            [4.0, 0.0, 6.0, 2.0],  # x 4..5, y 1..2: exactly one pixel
        ]
    )
    # 4 places along y and x each: .25 is the second row, .5 the third column.
    window, left, labels = images.crop_to_canvas(image, boxes, np.arange(6), (2, 3), (0.25, 0.5))
    np.testing.assert_array_equal(window, image[1:3, 2:5])
    # Minus (2, 1), clipped to 3x2.
    np.testing.assert_array_equal(left, [[0, 0, 3, 2], [1, 0, 2.5, 1.5], [2, 0, 3, 1]])
    np.testing.assert_array_equal(labels, [0, 1, 5])


def test_crop_without_boxes():
    none = np.zeros([0, 4]), np.zeros(0, int)
    _, boxes, labels = images.crop_to_canvas(np.zeros([5, 6, 3]), *none, (2, 2), (0.25, 0.25))
    assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_crop_to_canvas_reaches_every_place():
    # 5x6 into 3x4: 3 places along y, 3 along x; each third of [0, 1) is one of them.
    image = np.arange(5 * 6 * 3).reshape(5, 6, 3)
    none = np.zeros([0, 4]), np.zeros(0, int)
    for chance, place in [(0.0, 0), (0.33, 0), (0.34, 1), (0.66, 1), (0.67, 2), (0.9999999, 2)]:
        down, *_ = images.crop_to_canvas(image, *none, (3, 4), (chance, 0.0))
        np.testing.assert_array_equal(down, image[place : place + 3, :4])
        across, *_ = images.crop_to_canvas(image, *none, (3, 4), (0.0, chance))
        np.testing.assert_array_equal(across, image[:3, place : place + 4])


def test_crop_to_canvas_leaves_what_fits():
    image = np.arange(2 * 9 * 3).reshape(2, 9, 3)
    box = np.float32([[0, 0, 9, 2]])
    cropped, boxes, _ = images.crop_to_canvas(image, box, np.array([0]), (4, 9), (0.9, 0.9))
    np.testing.assert_array_equal(cropped, image)
    np.testing.assert_array_equal(boxes, box)


def test_flip_by_hand_and_twice():
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    boxes = np.float32([[0, 0, 1, 2], [0.5, 1, 3, 2]])
    flipped, moved = images.flip_horizontal(image, boxes)
    np.testing.assert_array_equal(flipped[0, :, 0], [6, 3, 0])
    # Width 3: (0, 1) -> (3 - 1, 3 - 0); (.5, 3) -> (0, 2.5)
    np.testing.assert_array_equal(moved, [[2, 0, 3, 2], [0, 1, 2.5, 2]])
    again, back = images.flip_horizontal(flipped, moved)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back, boxes)


def test_pad_is_right_and_bottom_with_zeros():
    image = np.ones([2, 3, 3], np.uint8)
    padded = images.pad_image(image, 4, 5)
    assert padded.shape == (4, 5, 3) and padded.dtype == np.uint8
    assert padded[:2, :3].min() == 1 and padded.sum() == 2 * 3 * 3
    np.testing.assert_array_equal(images.pad_image(image[:, ::-1], 2, 3), image)


def test_pad_rows():
    boxes = images.pad_rows(np.float32([[1, 2, 3, 4]]), 3)
    np.testing.assert_array_equal(boxes, [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]])
    labels = images.pad_rows(np.int32([6]), 3, -1)
    assert labels.tolist() == [6, -1, -1]
    assert (boxes.dtype, labels.dtype) == (np.float32, np.int32)
    assert images.pad_rows(np.zeros(0, np.int32), 2, -1).tolist() == [-1, -1]


# Boxes found again in the pixels.

RULES = {
    "fixed canvas": parse_image_size("64x64"),
    "wide canvas": parse_image_size("48x96"),
    "two canvases": parse_image_size("32,80"),
    "two canvases, larger": parse_image_size("90,150"),
    "multi-scale": parse_image_size("20-50,90"),
    "scale jitter": ImageSize(canvas=(48, 64), scale_jitter=(0.1, 2.0)),
    "scale jitter, only larger": ImageSize(canvas=(64, 48), scale_jitter=(1.0, 4.0)),
}


def chain(image, boxes, labels, rule, chance, chances, flip):
    """What the pipeline does to a training example: image and size of its valid part, targets."""
    before = image.shape[:2]
    after = rule.resized(*before, chance)
    image = images.resize_image(image, *after)
    boxes = images.scale_boxes(np.array(boxes, np.float32), before, after)
    labels = np.array(labels, np.int32)
    if rule.scale_jitter is not None:
        image, boxes, labels = images.crop_to_canvas(image, boxes, labels, rule.canvas, chances)
    if flip:
        image, boxes = images.flip_horizontal(image, boxes)
    size = tuple(image.shape[:2])
    canvas = rule.canvases()[before[0] > before[1]]
    return images.pad_image(image, *canvas), size, boxes, labels


@st.composite
def scenes(draw):
    """An image's (height, width) and a box of whole pixels in it."""
    sides = st.integers(1, 70)
    long = st.integers(150, 300)
    size = draw(
        st.one_of(
            st.tuples(sides, sides),
            st.just((1, 1)),
            st.tuples(st.integers(1, 3), long),
            st.tuples(long, st.integers(1, 3)),
        )
    )

    def edges(length):
        low = draw(st.integers(0, length - 1))
        return low, draw(st.integers(low + 1, length))

    (y1, y2), (x1, x2) = edges(size[0]), edges(size[1])
    return size, (x1, y1, x2, y2)


UNIT = st.floats(0, 1, exclude_max=True, width=32)


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(scenes(), st.sampled_from(sorted(RULES)), UNIT, st.tuples(UNIT, UNIT), st.booleans())
@example(((50, 30), (20, 5, 30, 9)), "fixed canvas", 0.0, (0.0, 0.0), True)  # at the border
@example(((40, 60), (0, 0, 60, 40)), "scale jitter", 0.99, (0.5, 0.5), False)  # larger than all
@example(((40, 60), (0, 0, 5, 5)), "scale jitter", 0.99, (0.9, 0.9), True)  # cropped away
def test_boxes_stay_on_their_pixels(scene, rule, chance, chances, flip):
    """Draw a box, transform image and box, and find the box again in the pixels.

    The box is where a red stripe, as wide as it, crosses a green one, as high as it. Along its
    axis a stripe is a step, whose half-way value bilinear interpolation puts exactly on the edge,
    at every scale. So a pixel must be red when, and only when, its centre lies between the box's
    left and right side; those sides are found to half a pixel. The interpolation's weights have 8
    bits and its results too, so edges may be off by 1/256 + 1/512 of a source pixel and a bit.
    """
    (height, width), box = scene
    x1, y1, x2, y2 = box
    image = np.zeros((height, width, 3), np.uint8)
    image[:, x1:x2, 0] = 255
    image[y1:y2, :, 1] = 255
    rule = RULES[rule]

    padded, size, boxes, labels = chain(image, [box], [7], rule, chance, chances, flip)

    after = rule.resized(height, width, chance)
    assert not padded[size[0] :].any() and not padded[:, size[1] :].any()
    valid = padded[: size[0], : size[1]]
    red, green = (valid[..., 0] >= 128).all(axis=0), (valid[..., 1] >= 128).all(axis=1)
    tolerance = np.array([after[1] / width, after[0] / height]) / 128 + 1e-3  # (x, y)
    if len(labels) == 0:  # less than a pixel was left, so at most one centre, or two at its ends
        assert rule.scale_jitter is not None
        assert min(red.sum(), green.sum()) <= 2
        return
    assert labels.tolist() == [7]
    left, top, right, bottom = boxes[0]
    assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
    for seen, low, high, error in (
        (red, left, right, tolerance[0]),
        (green, top, bottom, tolerance[1]),
    ):
        centres = np.arange(len(seen)) + 0.5
        must = (centres > low + error) & (centres < high - error)
        may = (centres > low - error) & (centres < high + error)
        assert seen[must].all() and not seen[~may].any()
