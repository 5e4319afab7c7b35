"""Unreduced losses, computed in float32, or in float64 if the predictions are in it.

Models sum and normalise them.
"""

from keras import ops

from fcos_tf.ops.boxes import EPSILON
from fcos_tf.ops.dtypes import at_least_float32


def sigmoid_focal_loss(logits, targets, *, alpha: float = 0.25, gamma: float = 2.0):
    """Focal loss on independent sigmoids (Lin et al., Focal Loss, equation 5).

        -alpha_t (1 - p_t)^gamma log(p_t)

    Args:
        logits: [...] float.
        targets: [...] float, exactly 1 (of the class) or 0.
        alpha: weight of the ones; the zeros have 1 - alpha.
        gamma: exponent of the modulating factor.

    Returns:
        [...] float32, unreduced.
    """
    logits, targets = _at_least_float32(logits, targets)
    # With z = -x for a one and x for a zero: 1 - p_t = sigmoid(z) and -log(p_t) = softplus(z),
    # without overflow or loss of digits for any logit.
    z = (1 - 2 * targets) * logits
    alpha_t = (1 - alpha) + (2 * alpha - 1) * targets
    return alpha_t * ops.sigmoid(z) ** gamma * ops.softplus(z)


def binary_cross_entropy(logits, targets):
    """Binary cross-entropy on logits; `targets` may be any number in [0, 1].

    Args:
        logits: [...] float.
        targets: [...] float.

    Returns:
        [...] float32, unreduced. For a target t its least value is the entropy of t, not 0.
    """
    logits, targets = _at_least_float32(logits, targets)
    return ops.softplus(logits) - logits * targets


def quality_focal_loss(logits, targets):
    """Focal loss for targets between 0 and 1 (Generalized Focal Loss, arXiv:2006.04388, eq. 2).

        (t - p)^2 * binary cross-entropy of p and t

    Args:
        logits: [...] float.
        targets: [...] float in [0, 1].

    Returns:
        [...] float32, unreduced; 0 at p = t.
    """
    logits, targets = _at_least_float32(logits, targets)
    return ops.square(targets - ops.sigmoid(logits)) * binary_cross_entropy(logits, targets)


def varifocal_loss(logits, targets):
    """Focal loss whose positives weigh as much as their targets (VarifocalNet, 2008.13367, eq. 2).

        t * binary cross-entropy of p and t, where t > 0; elsewhere 3/4 p^2 times it

    The arguments and the result are those of `quality_focal_loss`, but it is not 0 at p = t.
    """
    logits, targets = _at_least_float32(logits, targets)
    weights = ops.where(targets > 0, targets, 0.75 * ops.square(ops.sigmoid(logits)))
    return weights * binary_cross_entropy(logits, targets)


def ltrb_iou(ltrb, ltrb_targets, *, plus_one: bool = False):
    """IoU of two boxes as distances from a common point.

    Args:
        ltrb: [..., 4] float >= 0, distances to the sides, in any one unit.
        ltrb_targets: [..., 4] float >= 0, likewise.
        plus_one: (intersection + 1) / (union + 1), as in the paper's code.

    Returns:
        [...] float32 in [0, 1].
    """
    intersection, union, _ = _overlap(ltrb, ltrb_targets)
    return _iou(intersection, union, plus_one)


def iou_loss(ltrb, ltrb_targets, *, plus_one: bool = False):
    """-ln IoU (UnitBox; FCOS, equation 2) on distances from a common point.

    The arguments are those of `ltrb_iou`.

    Returns:
        [...] float32, unreduced, finite also for boxes that do not overlap.
    """
    return -ops.log(ops.maximum(ltrb_iou(ltrb, ltrb_targets, plus_one=plus_one), EPSILON))


def giou_loss(ltrb, ltrb_targets, *, plus_one: bool = False):
    """1 - GIoU (Rezatofighi et al., Generalized IoU) on distances from a common point.

        GIoU = IoU - (hull - union) / hull

    The arguments are those of `ltrb_iou`; `plus_one` does not change the second term.

    Returns:
        [...] float32 in [0, 2], unreduced.
    """
    intersection, union, hull = _overlap(ltrb, ltrb_targets)
    iou = _iou(intersection, union, plus_one)
    return 1 - iou + (hull - union) / ops.maximum(hull, EPSILON)


def l1_loss(ltrb, ltrb_targets):
    """Sum over the four sides of the absolute difference.

    The arguments are those of `ltrb_iou`.

    Returns:
        [...] float32, unreduced.
    """
    ltrb, ltrb_targets = _at_least_float32(ltrb, ltrb_targets)
    return ops.sum(ops.abs(ltrb - ltrb_targets), axis=-1)


def smooth_l1_loss(values, targets, *, beta: float):
    """Sum over the last axis of the absolute difference, quadratic below `beta` (Fast R-CNN).

        d < beta: d ** 2 / (2 beta), else d - beta / 2

    Args:
        values: [..., n] float.
        targets: [..., n] float.
        beta: limit of the quadratic part; 0: the absolute difference.

    Returns:
        [...] float32, unreduced.
    """
    values, targets = _at_least_float32(values, targets)
    difference = ops.abs(values - targets)
    if beta:
        square = 0.5 / beta * ops.square(difference)
        difference = ops.where(difference < beta, square, difference - beta / 2)
    return ops.sum(difference, axis=-1)


def _at_least_float32(predictions, targets):
    dtype = at_least_float32(predictions.dtype)
    return ops.cast(predictions, dtype), ops.cast(targets, dtype)


def _overlap(ltrb, ltrb_targets):
    """Intersection, union and area of the smallest enclosing box, each [...] float32."""
    a, b = _at_least_float32(ltrb, ltrb_targets)
    # The boxes share a point, so the overlap along an axis is a sum of two smaller distances.
    intersection = _area(ops.minimum(a, b))
    union = _area(a) + _area(b) - intersection
    return intersection, union, _area(ops.maximum(a, b))


def _iou(intersection, union, plus_one):
    if plus_one:
        return (intersection + 1) / (union + 1)
    return intersection / ops.maximum(union, EPSILON)


def _area(ltrb):
    return (ltrb[..., 0] + ltrb[..., 2]) * (ltrb[..., 1] + ltrb[..., 3])
