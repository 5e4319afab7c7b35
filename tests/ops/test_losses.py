"""Losses against values worked out by hand, and at the ends of the number range."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.ops import losses


def test_focal_loss_by_hand():
    # p = 0.5: 0.25 * 0.5^2 * ln 2 for a one, 0.75 * 0.5^2 * ln 2 for a zero.
    # p = 0.8 (logit ln 4): 0.25 * 0.2^2 * -ln 0.8 and 0.75 * 0.8^2 * -ln 0.2.
    logits = np.array([0, 0, math.log(4), math.log(4)], "float32")
    targets = np.array([1, 0, 1, 0], "float32")
    expected = [
        0.0625 * math.log(2),
        0.1875 * math.log(2),
        0.01 * -math.log(0.8),
        0.48 * -math.log(0.2),
    ]
    np.testing.assert_allclose(losses.sigmoid_focal_loss(logits, targets), expected, rtol=1e-6)


def test_focal_loss_with_gamma_zero_is_weighted_cross_entropy():
    logits, targets = np.array([1.5, -0.5], "float32"), np.array([1, 0], "float32")
    expected = 0.5 * np.asarray(losses.binary_cross_entropy(logits, targets))
    value = losses.sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_binary_cross_entropy_of_soft_target():
    # t = 0.25 at p = 0.5: ln 2. At p = t it is the entropy of t.
    logit = math.log(0.25 / 0.75)
    value = losses.binary_cross_entropy(np.array([0, logit], "float32"), np.float32(0.25))
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    np.testing.assert_allclose(value, [math.log(2), entropy], rtol=1e-6)


def test_quality_focal_loss_by_hand():
    # p = 0.8: (0.3 - 0.8)^2 of the cross-entropy; the target itself; and 0.8^2 * -ln 0.2.
    logits, targets = np.full(3, math.log(4), "float32"), np.float32([0.3, 0.8, 0])
    entropy = -0.3 * math.log(0.8) - 0.7 * math.log(0.2)
    expected = [0.25 * entropy, 0, -0.64 * math.log(0.2)]
    value = losses.quality_focal_loss(logits, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "loss", [losses.sigmoid_focal_loss, losses.binary_cross_entropy, losses.quality_focal_loss]
)
def test_extreme_logits_are_finite_with_gradients(loss):
    logits = tf.constant([-1e4, 1e4, -1e4, 1e4])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits, tf.constant([0.0, 1.0, 1.0, 0.0]))
    gradient = tape.gradient(value, logits)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    np.testing.assert_allclose(value[:2], [0, 0], atol=1e-6)


# From a common point: a 2x2 box and one that is 4 wide, 2 high, sharing its left part.
SMALL = np.array([[1, 1, 1, 1]], "float32")
WIDE = np.array([[1, 1, 3, 1]], "float32")
# A corner case: upper left against lower right, touching in the point only.
UPPER = np.array([[2, 2, 0, 0]], "float32")
LOWER = np.array([[0, 0, 2, 2]], "float32")


def test_iou_losses_by_hand():
    # Intersection 4, union 8, hull 8.
    np.testing.assert_allclose(losses.ltrb_iou(SMALL, WIDE), [0.5], rtol=1e-6)
    np.testing.assert_allclose(losses.iou_loss(SMALL, WIDE), [math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(losses.giou_loss(SMALL, WIDE), [0.5], rtol=1e-6)
    # Intersection 0, union 8, hull 4x4: GIoU = 0 - (16 - 8) / 16.
    np.testing.assert_allclose(losses.giou_loss(UPPER, LOWER), [1.5], rtol=1e-6)
    np.testing.assert_allclose(losses.l1_loss(SMALL, WIDE), [2.0])


def test_giou_equals_the_box_definition():
    # The same from corners in float64: maximum and minimum instead of sums of distances.
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 9, (2, 100, 4))
    x1, y1 = np.maximum(-a[:, :2], -b[:, :2]).T
    x2, y2 = np.minimum(a[:, 2:], b[:, 2:]).T
    intersection = (x2 - x1) * (y2 - y1)
    area = lambda v: (v[:, 0] + v[:, 2]) * (v[:, 1] + v[:, 3])  # noqa: E731
    union = area(a) + area(b) - intersection
    hull_low, hull_high = np.minimum(-a[:, :2], -b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])
    hull = np.prod(hull_high - hull_low, axis=1)
    expected = 1 - intersection / union + (hull - union) / hull
    np.testing.assert_allclose(losses.giou_loss(a, b), expected, rtol=1e-4)


@pytest.mark.parametrize("loss", [losses.iou_loss, losses.giou_loss, losses.l1_loss])
def test_boxes_without_area_give_finite_loss_and_gradient(loss):
    zero = tf.zeros((1, 4))
    with tf.GradientTape() as tape:
        tape.watch(zero)
        value = loss(zero, tf.zeros((1, 4))) + loss(zero, tf.constant(WIDE))
    assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, zero)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    logits = keras.ops.convert_to_tensor([2.0], dtype=dtype)
    loss = losses.sigmoid_focal_loss(logits, keras.ops.ones(1, dtype=dtype))
    expected = losses.sigmoid_focal_loss(np.float32([2.0]), np.float32([1.0]))
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_array_equal(loss, expected)
