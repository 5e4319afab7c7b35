"""From resized images back to the originals."""

import numpy as np

from fcos_tf.evaluation.frames import boxes_to_original, original_scale

RESIZED = np.array([[50, 100], [30, 30]], np.float32)
ORIGINAL = np.array([[100, 300], [60, 45]], np.float32)


def test_each_axis_has_its_own_scale():
    # x: 300 / 100 and 45 / 30; y: 100 / 50 and 60 / 30.
    assert original_scale(RESIZED, ORIGINAL).tolist() == [[[3, 2, 3, 2]], [[1.5, 2, 1.5, 2]]]


def test_boxes_go_back_and_are_clipped():
    boxes = np.array([[[10, 5, 40, 30], [-1, 0, 101, 51]], [[2, 3, 4, 5], [0, 0, 30, 30]]])
    found = boxes_to_original(boxes.astype(np.float32), RESIZED, ORIGINAL)
    assert found.dtype == np.float64
    assert found.tolist() == [
        [[30, 10, 120, 60], [0, 0, 300, 100]],
        [[3, 6, 6, 10], [0, 0, 45, 60]],
    ]


def test_an_inclusive_box_gains_a_pixel_of_the_original():
    boxes = np.array([[[10, 5, 40, 30]], [[0, 0, 30, 29]]], np.float32)
    found = boxes_to_original(boxes, RESIZED, ORIGINAL, inclusive_pixels=True)
    # 40 * 3 + 1 and 30 * 2 + 1; 45 + 1 is over the border.
    assert found.tolist() == [[[30, 10, 121, 61]], [[0, 0, 45, 59]]]
