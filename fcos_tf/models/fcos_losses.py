"""The three losses of FCOS, normalised (FCOS, equation 2 and section 3.4).

"joint" quality is that of Generalized Focal Loss (arXiv:2006.04388) without its box distribution:
quality focal loss over the number of positives; the box loss weighted by the best class score, or
both weighted as in TOOD, by the score targets of the assigner, and divided by their sum.

Shape shorthand: B images, N points over all levels, L levels, C classes.
"""

from collections.abc import Sequence

from keras import ops

from fcos_tf.models.fcos_rules import RULES, FCOSRules
from fcos_tf.models.image_model import sum_over_replicas
from fcos_tf.ops import losses

BOX_LOSSES = {"giou": losses.giou_loss, "iou": losses.iou_loss, "l1": losses.l1_loss}
QUALITIES = ("centerness", "iou", "joint")  # the last without a third output


def fcos_losses(
    predictions: dict,
    learnt: dict,
    point_strides,
    *,
    strides: Sequence[int],
    quality: str = "centerness",
    box_loss: str = "giou",
    box_loss_weight: float = 1.0,
    rules: FCOSRules = RULES["fcos_tf"],
    totals=None,
) -> dict:
    """Focal, box and centerness loss of a batch.

    Args:
        predictions: outputs of `FCOSHead.call`.
        learnt: outputs of `fcos_targets`.
        point_strides: [N] float32, pixels.
        strides: L strides in pixels, the values in `point_strides`.
        quality: target of the third output, "centerness" or "iou"; "joint": there is none, and the
            class scores learn the IoU, or the `score_targets` of the assigner.
        box_loss: a key of `BOX_LOSSES`.
        box_loss_weight: factor of the box loss.
        rules: unit of the overlaps, weighting of the boxes.
        totals: [L + 1] float32, `loss_totals` summed over all replicas and all parts of the batch;
            None: the images are this replica's whole batch.

    Returns:
        dict of float32 scalars: `classification_loss`, `box_loss` and, but for "joint",
        `centerness_loss`, each this replica's sum divided by the normaliser of all replicas; and
        `count_names`, of all replicas: the positive points, of all levels and of each. The
        normaliser is at least 1.
    """
    positive = learnt["positive_mask"]
    ltrb, ltrb_targets = predictions["ltrb"], learnt["ltrb_targets"]
    plus_one = rules.iou_plus_one is not None
    if rules.iou_plus_one == "pixels":
        ltrb, ltrb_targets = (x * point_strides[:, None] for x in (ltrb, ltrb_targets))
    quality_targets = learnt["centerness_targets"]
    if quality != "centerness":
        iou = losses.ltrb_iou(ltrb, ltrb_targets, plus_one=plus_one)
        quality_targets = ops.stop_gradient(iou)
    joint, scores = quality == "joint", learnt.get("score_targets")
    weight_boxes = joint or (quality == "centerness" and rules.weight_boxes)
    box_weights = quality_targets if weight_boxes else 1.0
    class_logits, class_targets = predictions["class_logits"], learnt["class_targets"]
    if joint:
        class_targets = class_targets * (quality_targets if scores is None else scores)[..., None]
        best = ops.stop_gradient(ops.max(ops.sigmoid(class_logits), axis=-1))
        box_weights = ops.where(positive, best, 0.0) if scores is None else scores
    if totals is None:
        of_weights = box_weights if joint else None
        totals = sum_over_replicas(loss_totals(learnt, point_strides, strides, of_weights))
    level_counts = [totals[level] for level in range(len(strides))]
    num_positives = sum(level_counts)
    # Few or no positives: a finite quotient, as in the official code.
    normaliser = ops.maximum(num_positives, 1.0)
    least = 1.0 if joint else 1e-6
    box_normaliser = ops.maximum(totals[-1], least) if weight_boxes else normaliser
    class_normaliser = box_normaliser if joint and scores is not None else normaliser

    class_loss = losses.quality_focal_loss if joint else losses.sigmoid_focal_loss
    classification = class_loss(class_logits, class_targets)
    options = {} if box_loss == "l1" else {"plus_one": plus_one}
    box = BOX_LOSSES[box_loss](ltrb, ltrb_targets, **options) * box_weights
    parts = {
        "classification_loss": ops.sum(classification) / class_normaliser,
        "box_loss": box_loss_weight * ops.sum(ops.where(positive, box, 0.0)) / box_normaliser,
    }
    if not joint:
        centerness = losses.binary_cross_entropy(predictions["centerness_logits"], quality_targets)
        parts["centerness_loss"] = ops.sum(ops.where(positive, centerness, 0.0)) / normaliser
    counts = zip(count_names(len(strides)), (num_positives, *level_counts), strict=True)
    return {**parts, **dict(counts)}


def count_names(levels: int) -> dict[str, str]:
    """Name -> meaning of the counts of positive points: of all levels, then of each from P3 on."""
    of_levels = {f"num_positives_p{k}": f"positive points on P{k}" for k in range(3, 3 + levels)}
    return {"num_positives": "positive points on all levels", **of_levels}


def loss_totals(learnt: dict, point_strides, strides: Sequence[int], box_weights=None):
    """The loss normalisers, to be summed over the parts of a batch and over replicas.

    The arguments are those of `fcos_losses`, and the weights [B, N] of the box loss; None: the
    centerness.

    Returns:
        [L + 1] float32: the number of positive points on each level; the sum of their weights.
    """
    at_point = ops.sum(ops.cast(learnt["positive_mask"], "float32"), axis=0)  # [N]
    counts = [ops.sum(ops.where(point_strides == s, at_point, 0.0)) for s in strides]
    weights = learnt["centerness_targets"] if box_weights is None else box_weights
    return ops.stack([*counts, ops.sum(weights)])
