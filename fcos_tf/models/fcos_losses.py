"""The three losses of FCOS, normalised (FCOS, equation 2 and section 3.4).

Shape shorthand: B images, N points over all levels, C classes.
"""

from keras import ops

from fcos_tf.models.detector import sum_over_replicas
from fcos_tf.models.fcos_rules import RULES, FCOSRules
from fcos_tf.ops import losses

BOX_LOSSES = {"giou": losses.giou_loss, "iou": losses.iou_loss, "l1": losses.l1_loss}
QUALITIES = ("centerness", "iou")


def fcos_losses(
    predictions: dict,
    learnt: dict,
    point_strides,
    *,
    quality: str = "centerness",
    box_loss: str = "giou",
    box_loss_weight: float = 1.0,
    rules: FCOSRules = RULES["fcos_tf"],
) -> dict:
    """Focal, box and centerness loss of a batch.

    Args:
        predictions: `class_logits` [B, N, C], `ltrb` [B, N, 4] in strides, `centerness_logits`
            [B, N], float32.
        learnt: what `fcos_targets` returns.
        point_strides: [N] float32, pixels.
        quality: what the third output learns, one of `QUALITIES`.
        box_loss: a key of `BOX_LOSSES`.
        box_loss_weight: factor of the box loss.
        rules: how overlaps are counted and whether boxes are weighted.

    Returns:
        dict of float32 scalars: `classification_loss`, `box_loss`, `centerness_loss`, each this
        replica's sum over the normaliser of all replicas, and `num_positives`, the number of
        positive points on all replicas, at least 1.
    """
    positive = learnt["positive_mask"]
    ltrb, ltrb_targets = predictions["ltrb"], learnt["ltrb_targets"]
    num_positives = ops.sum(ops.cast(positive, "float32"))
    num_positives = ops.maximum(sum_over_replicas(num_positives), 1.0)

    plus_one = rules.iou_plus_one is not None
    if rules.iou_plus_one == "pixels":
        ltrb, ltrb_targets = (x * point_strides[:, None] for x in (ltrb, ltrb_targets))
    if quality == "iou":
        iou = losses.ltrb_iou(ltrb, ltrb_targets, plus_one=plus_one)
        quality_targets = ops.stop_gradient(iou)
    else:
        quality_targets = learnt["centerness_targets"]
    if quality == "centerness" and rules.weight_boxes:
        box_weights = quality_targets
        box_normaliser = sum_over_replicas(ops.sum(box_weights))
        # Few or no positives: keep the quotient finite, as the official code does.
        box_normaliser = ops.maximum(box_normaliser, 1e-6)
    else:
        box_weights, box_normaliser = 1.0, num_positives

    classification = losses.sigmoid_focal_loss(predictions["class_logits"], learnt["class_targets"])
    options = {} if box_loss == "l1" else {"plus_one": plus_one}
    box = BOX_LOSSES[box_loss](ltrb, ltrb_targets, **options) * box_weights
    centerness = losses.binary_cross_entropy(predictions["centerness_logits"], quality_targets)
    return {
        "classification_loss": ops.sum(classification) / num_positives,
        "box_loss": box_loss_weight * ops.sum(ops.where(positive, box, 0.0)) / box_normaliser,
        "centerness_loss": ops.sum(ops.where(positive, centerness, 0.0)) / num_positives,
        "num_positives": num_positives,
    }
