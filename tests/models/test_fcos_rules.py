"""What the rules of other implementations change, each on numbers small enough to do by hand."""

import dataclasses

import numpy as np
import pytest

from fcos_tf import FCOS
from fcos_tf.models.fcos_detections import fcos_detections
from fcos_tf.models.fcos_rules import RULES
from fcos_tf.models.fcos_training import level_size_ranges, match_points, point_levels
from fcos_tf.ops import losses
from fcos_tf.ops.nms import class_wise_nms

OURS = RULES["fcos_tf"]


def matched(boxes, *, point=(50, 50), stride=8, size_range=(0, 64), **changes):
    result, _ = match_points(
        point_levels(np.float32([point]), np.float32([stride]), [size_range], [(1, 1)]),
        np.float32([boxes]),
        np.zeros((1, len(boxes)), "int32"),
        center_sampling_radius=None,
        rules=dataclasses.replace(OURS, **changes),
    )
    return int(np.asarray(result)[0, 0])


@pytest.mark.parametrize("limits", [(64, 128), (32, 64)])
def test_limits_of_size_ranges(limits):
    box = [[50 - 64, 40, 60, 60]]  # the largest distance is 64
    assert matched(box, size_range=limits, inclusive_ranges=True) == 0
    assert matched(box, size_range=limits, inclusive_ranges=False) == -1


def test_which_box_is_the_smallest():
    # 40 x 1 = 40 against 6 x 7 = 42; with sides one longer 41 x 2 = 82 against 7 x 8 = 56.
    boxes = [[30, 49.5, 70, 50.5], [47, 46, 53, 53]]
    assert matched(boxes) == 0
    assert matched(boxes, tie_area="plus_one") == 1
    # Near 1e8 neighbours in float32 are 8 apart: areas of 98 and 96 become one, and the first
    # box wins; of 106 and 96 they stay two.
    smaller = [45, 45, 55, 54.6]
    assert matched([[45, 45, 55, 54.8], smaller]) == 1
    assert matched([[45, 45, 55, 54.8], smaller], tie_area="float32") == 0
    assert matched([[45, 45, 55, 55.6], smaller], tie_area="float32") == 1


def test_size_ranges_of_fewer_levels_have_no_end():
    assert level_size_ranges(3) == ((0, 64), (64, 128), (128, 1e8))
    assert level_size_ranges(5)[-1] == (512, 1e8)
    assert level_size_ranges(3, [(0, 1), (1, 2), (2, 3)]) == ((0, 1), (1, 2), (2, 3))
    with pytest.raises(ValueError, match="expected 3 size_ranges; got 2"):
        level_size_ranges(3, [(0, 1), (1, 2)])
    for levels in (0, 2, 6):
        with pytest.raises(ValueError, match=f"fpn_levels: expected 3 to 5, got {levels}"):
            FCOS(3, fpn_levels=levels)


def test_iou_with_one_added():
    # 2x2 inside 2x4 from a common corner point: (4 + 1) / (8 + 1); the hull is the union.
    small, large = np.float32([1, 1, 1, 1]), np.float32([1, 1, 1, 3])
    iou = 5 / 9
    np.testing.assert_allclose(losses.ltrb_iou(small, large, plus_one=True), iou, rtol=1e-6)
    np.testing.assert_allclose(losses.iou_loss(small, large, plus_one=True), -np.log(iou), 1e-6)
    np.testing.assert_allclose(losses.giou_loss(small, large, plus_one=True), 1 - iou, rtol=1e-6)
    # 4x2 and 2x4: intersection 4, union 12, hull 16; the second term has no 1.
    wide, tall = np.float32([2, 1, 2, 1]), np.float32([1, 2, 1, 2])
    expected = 1 - 5 / 13 + 4 / 16
    np.testing.assert_allclose(losses.giou_loss(wide, tall, plus_one=True), expected, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_suppression_of_inclusive_pixels(jit_compile):
    # Boxes of 10 x 10 that are 3 apart: 70 / 130 = .538; with a pixel more 88 / 154 = .571.
    boxes = np.float32([[[0, 0, 10, 10], [3, 0, 13, 10]]])
    scores, labels = np.float32([[0.9, 0.8]]), np.zeros((1, 2), "int32")
    options = {"iou_threshold": 0.55, "max_detections": 2, "jit_compile": jit_compile}
    found = class_wise_nms(boxes, scores, labels, **options)
    assert found["num_detections"][0] == 2
    found = class_wise_nms(boxes, scores, labels, plus_one=True, **options)
    assert found["num_detections"][0] == 1
    np.testing.assert_array_equal(found["boxes"][0, 0], [0, 0, 10, 10])


def logit(p):
    return np.log(p / (1 - p))


def detections(candidates, *, size=(32, 32), score_threshold=0.2, nms_threshold=0.6, **changes):
    """Detections of one class from {cell: (class probability, centerness, ltrb in strides)}."""
    class_logits, ltrb = np.full((1, 16, 1), -20, "float32"), np.zeros((1, 16, 4), "float32")
    centerness = np.full((1, 16), -20, "float32")
    for cell, (probability, quality, distances) in candidates.items():
        class_logits[0, cell] = logit(probability)
        centerness[0, cell], ltrb[0, cell] = logit(quality), distances
    found = fcos_detections(
        {"class_logits": class_logits, "ltrb": ltrb, "centerness_logits": centerness},
        size,
        strides=(8,),
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        topk_per_level=10,
        max_detections=3,
        rules=dataclasses.replace(OURS, **changes),
    )
    return {name: np.asarray(value)[0] for name, value in found.items()}


def test_what_the_threshold_is_for():
    # Scores: sqrt(.15 * .9) = .367 and sqrt(.25 * .1) = .158. Boxes of cells 0 and 15 are apart.
    two = {0: (0.15, 0.9, [0.25] * 4), 15: (0.25, 0.1, [0.25] * 4)}
    by_class = detections(two)
    assert by_class["num_detections"] == 1
    np.testing.assert_allclose(by_class["scores"][0], np.sqrt(0.025), rtol=1e-4)
    by_score = detections(two, threshold_on="score")
    assert by_score["num_detections"] == 1
    np.testing.assert_allclose(by_score["scores"][0], np.sqrt(0.135), rtol=1e-4)


def test_where_points_lie():
    one = {5: (0.9, 0.9, [0.5] * 4)}  # row 1, column 1
    np.testing.assert_allclose(detections(one)["boxes"][0], [8, 8, 16, 16])
    np.testing.assert_allclose(detections(one, point_offset=0.0)["boxes"][0], [4, 4, 12, 12])
    # 26 pixels in 4 cells: 6 apart, while distances are in strides of 8.
    found = detections(one, size=(26, 26), point_offset=0.0, point_spacing="canvas")
    np.testing.assert_allclose(found["boxes"][0], [2, 2, 10, 10])


def test_clipping_before_or_after_the_suppression():
    # Both reach over the left border. As they are: x from -20 to 8 and from -12 to 8, IoU 20 / 28
    # = .71. On the image they are one box.
    # The point of cell 0 is (4, 4), of cell 4 (4, 12); the heights are the same, y from 4 to 12.
    two = {0: (0.9, 0.9, [3, 0, 0.5, 1]), 4: (0.8, 0.8, [2, 1, 0.5, 0])}
    clipped = detections(two, nms_threshold=0.8)
    assert clipped["num_detections"] == 1
    np.testing.assert_allclose(clipped["boxes"][0], [0, 4, 8, 12])
    whole = detections(two, nms_threshold=0.8, clip_before_nms=False)
    assert whole["num_detections"] == 2
    np.testing.assert_allclose(whole["boxes"][:2], [[0, 4, 8, 12]] * 2)


def test_what_lies_outside_the_image_goes_after_the_suppression():
    found = {}
    for clip_first in (True, False):
        # Cell 15, at (28, 28), is on the padding of an image of 24 x 24 and does not reach it.
        candidates = {15: (0.9, 0.9, [0.25] * 4), 5: (0.5, 0.5, [0.5] * 4)}
        class_logits, ltrb = np.full((1, 16, 1), -20, "float32"), np.zeros((1, 16, 4), "float32")
        centerness = np.zeros((1, 16), "float32")
        for cell, (probability, quality, distances) in candidates.items():
            class_logits[0, cell] = logit(probability)
            centerness[0, cell], ltrb[0, cell] = logit(quality), distances
        result = fcos_detections(
            {"class_logits": class_logits, "ltrb": ltrb, "centerness_logits": centerness},
            (32, 32),
            np.float32([[24, 24]]),
            strides=(8,),
            score_threshold=0.2,
            nms_threshold=0.6,
            topk_per_level=10,
            max_detections=3,
            rules=dataclasses.replace(OURS, clip_before_nms=clip_first),
        )
        found[clip_first] = {name: np.asarray(value)[0] for name, value in result.items()}
    assert found[True]["num_detections"] == 2
    assert found[False]["num_detections"] == 1
    np.testing.assert_allclose(found[False]["boxes"], [[8, 8, 16, 16], [0] * 4, [0] * 4])
    np.testing.assert_allclose(found[False]["scores"], [0.5, 0, 0], rtol=1e-5)
    assert found[False]["labels"].tolist() == [0, -1, -1]


def test_inclusive_pixels_end_at_the_last_one():
    found = detections({0: (0.9, 0.9, [9] * 4)}, inclusive_pixels=True)
    np.testing.assert_allclose(found["boxes"][0], [0, 0, 31, 31])
