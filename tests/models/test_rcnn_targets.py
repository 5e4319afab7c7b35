"""Which anchors and proposals learn which box, on scenes small enough to do by hand."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.models import rcnn_targets
from fcos_tf.models.rcnn_rules import RULES
from fcos_tf.models.rcnn_targets import (
    ANCHORS,
    REGIONS,
    image_seeds,
    match_anchors,
    roi_targets,
    rpn_targets,
)

# Two boxes and padding. IoU with the first: 1, .8, .5, 0, 0, 0; with the second .4 of the last two.
BOXES = np.float32([[[0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]])
LABELS = np.int32([[2, 1, -1]])
BOXES_OF_ANCHORS = np.float32(
    [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [20, 20, 30, 30], [40, 40, 50, 44],
     [40, 46, 50, 50]]
)  # fmt: skip
SEEDS = np.uint32([[7, 0]])


def numpy(found):
    return {name: np.asarray(value) for name, value in found.items()}


def with_samples(name="torchvision", **sizes):
    return dataclasses.replace(RULES[name], **sizes)


def test_limits_and_ties():
    # The last two tie for the best IoU of the second box, so both learn it.
    matched = match_anchors(BOXES_OF_ANCHORS, BOXES, LABELS, RULES["torchvision"])
    np.testing.assert_array_equal(matched, [[0, 0, -2, -1, 1, 1]])
    # Without low-quality matches .4 is between the limits.
    matched = match_anchors(BOXES_OF_ANCHORS, BOXES, LABELS, RULES["course"])
    np.testing.assert_array_equal(matched, [[0, 0, -2, -1, -2, -2]])


@pytest.mark.parametrize(
    ("rules", "expected"), [("torchvision", [0, -2, -1]), ("course", [0, -1, -1])]
)
def test_an_iou_on_a_limit(rules, expected):
    # The first anchor makes ties irrelevant. 3 / 10 of the box: torchvision's background ends
    # below .3, the course's ends on it.
    anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 3], [0, 0, 10, 2]])
    matched = np.asarray(match_anchors(anchors, BOXES[:, :1], LABELS[:, :1], RULES[rules]))[0]
    np.testing.assert_array_equal(matched, expected)


def test_padding_and_boxes_that_overlap_nothing_are_learnt_by_no_anchor():
    outside = np.float32([[[100, 100, 110, 110], [0, 0, 0, 0]]])
    for labels in ([[1, -1]], [[1, 1]], [[-1, -1]]):
        matched = match_anchors(BOXES_OF_ANCHORS, outside, np.int32(labels), RULES["torchvision"])
        np.testing.assert_array_equal(matched, [[-1] * 6])


@pytest.mark.parametrize("rules", ["torchvision", "course"])
@pytest.mark.parametrize("shape", [(2, 7), (None, None)])
def test_boxes_in_parts_are_matched_as_all_at_once(monkeypatch, rules, shape):
    # Whole coordinates tie often, and the fifth box is the first once more.
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 8, (2, 7, 2))
    boxes = np.float32(np.concatenate([corners, corners + rng.integers(0, 6, (2, 7, 2))], axis=-1))
    boxes[:, 4] = boxes[:, 0]
    labels = np.int32([[0, 1, 2, 0, 1, -1, -1], [0, -1, 1, 1, 1, 1, 1]])
    corners = rng.integers(0, 8, (50, 2))
    anchors = np.float32(np.concatenate([corners, corners + rng.integers(1, 6, (50, 2))], axis=-1))
    whole = match_anchors(anchors, boxes, labels, RULES[rules])
    assert {-1, -2, 0} < set(np.unique(whole))
    for count in (1, 3, 6):
        monkeypatch.setattr(rcnn_targets, "BOXES_AT_ONCE", count)
        if shape[0] is None and keras.backend.backend() == "tensorflow":
            signature = [tf.TensorSpec([*shape, 4]), tf.TensorSpec(shape, tf.int32)]
            match = tf.function(lambda *x: match_anchors(anchors, *x, RULES[rules]), signature)
            parts = match(boxes, labels)
        else:
            parts = match_anchors(anchors, boxes, labels, RULES[rules])
        np.testing.assert_array_equal(parts, whole)


def test_the_rpn_learns_half_positives_at_most():
    # 60 anchors on the box, 40 elsewhere.
    anchors = np.repeat(BOXES_OF_ANCHORS[[1, 3]], [60, 40], axis=0)
    rules = with_samples(anchors_per_image=20)
    found = numpy(rpn_targets(anchors, BOXES[:, :1], LABELS[:, :1], rules=rules, seeds=SEEDS))
    positive, negative = found["positive_mask"][0], found["negative_mask"][0]
    assert positive[:60].sum() == positive.sum() == 10
    assert negative[60:].sum() == negative.sum() == 10
    # From (0, 0, 10, 8), centre (5, 4): dy (5 - 4) / 8, dh ln(10 / 8).
    expected = np.float32([0, 1 / 8, 0, math.log(10 / 8)])
    np.testing.assert_allclose(found["delta_targets"][0][positive], [expected] * 10, rtol=1e-6)
    assert not found["delta_targets"][0][~positive].any()
    again = numpy(rpn_targets(anchors, BOXES[:, :1], LABELS[:, :1], rules=rules, seeds=SEEDS))
    other = numpy(rpn_targets(anchors, BOXES[:, :1], LABELS[:, :1], rules=rules, seeds=SEEDS + 1))
    np.testing.assert_array_equal(again["positive_mask"][0], positive)
    assert (other["positive_mask"][0] != positive).any()


@pytest.mark.parametrize("boxes", [0, 2])
def test_an_image_without_boxes_has_negatives_only(boxes):
    anchors = np.repeat(BOXES_OF_ANCHORS, 10, axis=0)
    empty = {"boxes": np.zeros((1, boxes, 4), "float32"), "labels": -np.ones((1, boxes), "int32")}
    found = numpy(rpn_targets(anchors, **empty, rules=RULES["torchvision"], seeds=SEEDS))
    assert found["negative_mask"].all() and not found["positive_mask"].any()
    assert not found["delta_targets"].any()
    first = {"proposals": anchors[None, :6], "proposal_scores": np.float32([[1, 1, 1, 0, 0, 0]])}
    rules = with_samples(rois_per_image=8)
    found = numpy(roi_targets(first, **empty, num_classes=3, rules=rules, seeds=SEEDS))
    assert found["valid"].sum() == 3 and not found["positive_mask"].any()
    np.testing.assert_array_equal(found["class_targets"], [[3] * 8])
    assert np.isfinite(found["delta_targets"]).all()


def regions(rules, proposals, scores=None, **sizes):
    first = {
        "proposals": np.float32([proposals]),
        "proposal_scores": np.float32([scores or [0.5] * len(proposals)]),
    }
    rules = with_samples(rules, **sizes)
    found = roi_targets(first, BOXES, LABELS, num_classes=3, rules=rules, seeds=SEEDS)
    return {name: value[0] for name, value in numpy(found).items()}


def test_regions_are_proposals_and_true_boxes():
    # IoU .5 with the first box; elsewhere; padding that lies on the first box.
    proposals = [[0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 10, 10]]
    found = regions("torchvision", proposals, [0.9, 0.1, 0], rois_per_image=16)
    count = found["valid"].sum()
    assert count == 4 and found["valid"][:4].all()  # two proposals and two boxes
    order = np.lexsort(found["rois"][:4].T[::-1])
    np.testing.assert_array_equal(
        found["rois"][:4][order], [proposals[0], BOXES[0, 0], proposals[1], BOXES[0, 1]]
    )
    np.testing.assert_array_equal(found["class_targets"][:4][order], [2, 2, 3, 1])
    np.testing.assert_array_equal(found["positive_mask"][:4][order], [1, 1, 0, 1])
    # Centre 2.5 to 5 of height 5, height 5 to 10; the weights are 10 and 5. A box itself has 0.
    expected = np.float32([0, 10 * 2.5 / 5, 0, 5 * math.log(2)])
    np.testing.assert_allclose(found["delta_targets"][:4][order][0], expected, rtol=1e-6)
    np.testing.assert_allclose(found["delta_targets"][:4][order][1:], np.zeros((3, 4)), atol=1e-6)
    # The course asks for more than .5.
    found = regions("course", proposals, [0.9, 0.1, 0], rois_per_image=16)
    assert sorted(found["class_targets"][found["valid"]]) == [1, 2, 3, 3]


def test_a_quarter_of_the_regions_is_positive_at_most():
    proposals = [[0, 0, 10, 9]] * 30 + [[20, 20, 30, 30]] * 30
    found = regions("torchvision", proposals, rois_per_image=16)
    assert found["valid"].all() and found["positive_mask"].sum() == 4
    assert (found["class_targets"] == 3).sum() == 12
    few = regions("torchvision", proposals[:30], rois_per_image=64)
    assert few["positive_mask"].sum() == few["valid"].sum() == 16  # no negatives to fill up with


def test_a_row_of_a_batch_has_its_own_seed_wherever_it_is(monkeypatch):
    state = np.int64([123456789, 3])
    whole = np.asarray(image_seeds(state, 4, ANCHORS))
    monkeypatch.setattr(rcnn_targets, "replica_index", lambda: 1)
    np.testing.assert_array_equal(image_seeds(state, 2, ANCHORS), whole[2:])
    kinds = np.concatenate([whole[2:], np.asarray(image_seeds(state, 2, REGIONS))])
    after = np.asarray(image_seeds(np.int64([123456789, 4]), 2, ANCHORS))
    assert len({tuple(row) for row in (*whole[:2], *kinds, *after)}) == 8
