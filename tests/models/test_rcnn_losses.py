"""The four losses by hand."""

import dataclasses
import math

import numpy as np
import pytest

from fcos_tf.models.rcnn_losses import rcnn_losses
from fcos_tf.models.rcnn_rules import RULES
from fcos_tf.ops.losses import smooth_l1_loss


def scene():
    """Four anchors: positive, negative twice, left out. Regions: class 1, background, none."""
    first = {
        "objectness_logits": np.zeros((1, 4), "float32"),
        "anchor_deltas": np.float32([[[0.5, 0, 0, 0], [9, 9, 9, 9], [9] * 4, [9] * 4]]),
    }
    anchors = {
        "positive_mask": np.array([[True, False, False, False]]),
        "negative_mask": np.array([[False, True, True, False]]),
        "delta_targets": np.zeros((1, 4, 4), "float32"),
    }
    deltas = np.full((1, 3, 2, 4), 7, "float32")
    deltas[0, 0, 1] = [0.1, 0.3, 0, 0]  # of class 1, the only ones to count
    second = {"class_logits": np.zeros((1, 3, 3), "float32"), "box_deltas": deltas}
    regions = {
        "class_targets": np.int32([[1, 2, 2]]),
        "delta_targets": np.zeros((1, 3, 4), "float32"),
        "valid": np.array([[True, True, False]]),
        "positive_mask": np.array([[True, False, False]]),
    }
    return first, anchors, second, regions


def losses(rules, parts, **changes):
    found = rcnn_losses(*parts, rules=dataclasses.replace(RULES[rules], **changes))
    return {name: float(value) for name, value in found.items()}


def test_smooth_l1_by_hand():
    # .1 is below 1/9: .01 / 2 * 9 = .045; .5 above: .5 - 1/18.
    values, targets = np.float32([[0.1, 0.5], [2, 2]]), np.float32([[0, 0], [2, 1]])
    found = smooth_l1_loss(values, targets, beta=1 / 9)
    np.testing.assert_allclose(found, [0.045 + 0.5 - 1 / 18, 1 - 1 / 18], rtol=1e-6)
    np.testing.assert_allclose(smooth_l1_loss(values, targets, beta=0), [0.6, 1], rtol=1e-6)


def test_torchvision():
    found = losses("torchvision", scene())
    assert found == pytest.approx({
        "rpn_objectness_loss": math.log(2),  # of each of three
        "rpn_box_loss": (0.5 - 1 / 18) / 3,
        "classification_loss": math.log(3),  # of each of two
        "box_loss": (0.045 + 0.3 - 1 / 18) / 2,
        "num_positive_anchors": 1,
        "num_positive_regions": 1,
    }, rel=1e-6)  # fmt: skip


def test_detectron2_divides_the_rpn_by_a_constant():
    found = losses("detectron2", scene(), anchors_per_image=8)
    assert found["rpn_objectness_loss"] == pytest.approx(3 * math.log(2) / 8, rel=1e-6)
    assert found["rpn_box_loss"] == pytest.approx(0.5 / 8, rel=1e-6)
    assert found["box_loss"] == pytest.approx(0.4 / 2, rel=1e-6)


def test_one_set_of_deltas_for_all_classes_and_none():
    first, anchors, second, regions = scene()
    agnostic = {**second, "box_deltas": second["box_deltas"][:, :, 1:]}
    whole = losses("torchvision", scene())
    assert losses("torchvision", (first, anchors, agnostic, regions)) == pytest.approx(whole)
    without = losses(
        "torchvision", (first, anchors, {"class_logits": second["class_logits"]}, regions)
    )
    assert without == pytest.approx({**whole, "box_loss": 0})


def test_an_empty_sample_has_no_loss():
    first, anchors, second, regions = scene()
    none = {"positive_mask": np.zeros((1, 4), bool), "negative_mask": np.zeros((1, 4), bool)}
    nothing = {"valid": np.zeros((1, 3), bool), "positive_mask": np.zeros((1, 3), bool)}
    found = losses("torchvision", (first, {**anchors, **none}, second, {**regions, **nothing}))
    assert set(found.values()) == {0.0}


def test_a_confident_answer_costs_what_it_should():
    first, anchors, second, regions = scene()
    first = {**first, "objectness_logits": np.float32([[2, -3, 1, 50]])}
    second = {**second, "class_logits": np.float32([[[0, 2, 0], [1, 0, 0], [90, 0, 0]]])}
    found = losses("torchvision", (first, anchors, second, regions))
    # -ln sigmoid(2) - ln sigmoid(3) - ln(1 - sigmoid(1))
    objectness = np.log1p(np.exp([-2, -3, 1])).sum() / 3
    assert found["rpn_objectness_loss"] == pytest.approx(objectness, rel=1e-6)
    classes = (math.log(math.e**2 + 2) - 2 + math.log(math.e + 2)) / 2
    assert found["classification_loss"] == pytest.approx(classes, rel=1e-6)
