"""Areas, overlaps and point grids, from numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_tf.ops import boxes as box_ops
from fcos_tf.ops import points as point_ops


def test_area_is_zero_for_inverted_boxes():
    areas = box_ops.box_area(np.array([[1, 2, 4, 8], [4, 2, 1, 8], [3, 3, 3, 9]], "float32"))
    # 3 * 6; width -3 counts as 0; no width
    np.testing.assert_array_equal(areas, [18, 0, 0])


def test_paired_iou():
    a = np.array([[0, 0, 4, 4]], "float32")
    b = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [0, 0, 0, 0]], "float32")
    # Second pair: 2x2 shared of 16 + 16 - 4; third: a common side has no area.
    np.testing.assert_allclose(box_ops.paired_iou(a, b), [1, 4 / 28, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(box_ops.paired_iou(b[3:], b[3:]), [0])


def test_clip_uses_height_for_y_and_width_for_x():
    boxes = np.array([[[-5, -6, 50, 60]], [[-5, -6, 50, 60]]], "float32")
    clipped = box_ops.clip_boxes(boxes, np.array([[10, 20], [100, 30]], "float32"))
    np.testing.assert_array_equal(clipped, [[[0, 0, 20, 10]], [[0, 0, 30, 60]]])


def test_grid_sizes_round_up():
    # 800 / 128 = 6.25 -> 7; 1333 / 8 = 166.6 -> 167
    assert point_ops.grid_sizes(800, 1333, (8, 16, 32, 64, 128)) == [
        (100, 167),
        (50, 84),
        (25, 42),
        (13, 21),
        (7, 11),
    ]


def test_points_are_cell_times_stride_plus_half():
    points, strides = point_ops.pyramid_points([(1, 3), (2, 1)], (8, 16))
    np.testing.assert_array_equal(points, [[4, 4], [12, 4], [20, 4], [8, 8], [8, 24]])
    np.testing.assert_array_equal(strides, [8, 8, 8, 16, 16])


def test_points_without_offset_that_divide_the_canvas():
    # torchvision at a side of 800: 7 cells of 800 // 7 = 114 pixels, though the stride is 128.
    points, strides = point_ops.pyramid_points([(7, 2)], (128,), offset=0.0, image_size=(800, 200))
    np.testing.assert_array_equal(points[:3], [[0, 0], [100, 0], [0, 114]])
    np.testing.assert_array_equal(points[-1], [100, 6 * 114])
    np.testing.assert_array_equal(strides, [128] * 14)


def test_encode_ltrb():
    points, strides = np.array([[12, 20]], "float32"), np.array([8], "float32")
    box = np.array([[4, 4, 28, 36]], "float32")
    # (12-4, 20-4, 28-12, 36-20) / 8
    np.testing.assert_array_equal(point_ops.encode_ltrb(points, strides, box), [[1, 2, 2, 2]])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-500, 1500, width=32), min_size=4, max_size=4),
    st.sampled_from([8, 16, 32, 64, 128]),
)
def test_decode_inverts_encode(box, stride):
    points, strides = np.array([[100, 200]], "float32"), np.array([stride], "float32")
    box = np.array([box], "float32")
    ltrb = point_ops.encode_ltrb(points, strides, box)
    np.testing.assert_allclose(point_ops.decode_ltrb(points, strides, ltrb), box, atol=1e-3)


@pytest.mark.parametrize(
    ("ltrb", "expected"),
    [
        ([2, 3, 2, 3], 1.0),  # the middle
        ([1, 1, 3, 1], 3**-0.5),  # sqrt(1/3 * 1)
        ([1, 2, 4, 8], 0.25),  # sqrt(1/4 * 1/4)
        ([0, 2, 4, 2], 0.0),  # on a side
        ([-1, 2, 4, 2], 0.0),  # outside: not NaN
        ([0, 0, 0, 0], 0.0),
    ],
)
def test_centerness(ltrb, expected):
    value = point_ops.centerness(np.array([ltrb], "float32"))
    np.testing.assert_allclose(value, [expected], rtol=1e-6)
