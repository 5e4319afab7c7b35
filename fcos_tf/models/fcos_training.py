"""What FCOS learns: boxes assigned to points, targets, and the three losses of them.

By the paper's assigner (FCOS, sections 3.1 and 3.2), a point learns a box if it lies inside it
(near its centre, under centre sampling) and the largest of its four distances to the sides is in
the size range of its level. Among several boxes the one with the smallest area wins.

The losses are those of equation 2 and section 3.4. "joint" quality is that of Generalized Focal
Loss (arXiv:2006.04388) without its box distribution: quality focal loss over the number of
positives; the box loss weighted by the best class score. "varifocal" is the
varifocal loss (2008.13367) over the number of positives; the box loss keeps the weights of the
centerness: those of VarifocalNet, the IoU, are small where boxes are bad, and boxes of a rare small
class stayed so. With score targets of the assigner both losses are weighted as in TOOD, by them,
and divided by their sum.

Shape shorthand: B images, N points over all levels, L levels, M padded boxes, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from fcos_tf.models.fcos_atss import match_atss
from fcos_tf.models.fcos_rules import RULES, FCOSRules
from fcos_tf.models.fcos_tal import match_tal
from fcos_tf.models.image_model import sum_over_replicas
from fcos_tf.ops import losses
from fcos_tf.ops.boxes import box_area
from fcos_tf.ops.matching import pad_with_background
from fcos_tf.ops.points import centerness, encode_ltrb

BOX_LOSSES = {"giou": losses.giou_loss, "iou": losses.iou_loss, "l1": losses.l1_loss}
# Losses of class scores that learn the quality, without a third output.
JOINT_LOSSES = {"joint": losses.quality_focal_loss, "varifocal": losses.varifocal_loss}
QUALITIES = ("centerness", "iou", *JOINT_LOSSES)

INFINITY = 1e8
SIZE_RANGES = ((0, 64), (64, 128), (128, 256), (256, 512), (512, INFINITY))


def level_size_ranges(levels: int, size_ranges=None) -> tuple[tuple[float, float], ...]:
    """The size range of each level of a pyramid.

    Args:
        levels: L.
        size_ranges: L pairs (smallest, largest) in pixels; None: the paper's, the last one open.

    Raises:
        ValueError: for another number of levels than the pyramid can have, or of pairs.
    """
    if levels not in range(3, len(SIZE_RANGES) + 1):
        raise ValueError(f"fpn_levels: expected 3 to {len(SIZE_RANGES)}, got {levels!r}")
    if size_ranges is None:
        size_ranges = (*SIZE_RANGES[: levels - 1], (SIZE_RANGES[levels - 1][0], INFINITY))
    if len(size_ranges) != levels:
        raise ValueError(f"expected {levels} size_ranges; got {len(size_ranges)}")
    if not all(low < high for low, high in size_ranges):
        raise ValueError(f"size_ranges: expected pairs (smallest, largest), got {size_ranges}")
    return tuple((float(low), float(high)) for low, high in size_ranges)


class PointLevels(NamedTuple):
    """The points of a pyramid, level after level.

    Attributes:
        points: [N, 2] float32, (x, y) pixels.
        strides: [N] float32, pixels.
        size_ranges: [N, 2] float32, (smallest, largest) ltrb distance, pixels.
        counts: L numbers of points.
    """

    points: Any
    strides: Any
    size_ranges: Any
    counts: list


def point_levels(points, point_strides, size_ranges: Sequence[tuple[float, float]], grids):
    """Points with the size range of their level.

    Args:
        points: [N, 2] float32, (x, y) pixels.
        point_strides: [N] float32, pixels.
        size_ranges: L pairs (smallest, largest) in pixels, both inclusive.
        grids: L pairs (rows, columns), as `ops.points.grid_sizes` gives.
    """
    counts = [rows * columns for rows, columns in grids]
    ranges = [
        ops.broadcast_to(ops.convert_to_tensor([limits], dtype=points.dtype), (count, 2))
        for limits, count in zip(size_ranges, counts, strict=True)
    ]
    return PointLevels(points, point_strides, ops.concatenate(ranges, axis=0), counts)


def match_points(
    levels: PointLevels,
    boxes,
    labels,
    *,
    center_sampling_radius: float | None,
    rules: FCOSRules = RULES["fcos_tf"],
    predictions: dict | None = None,
):
    """The ground-truth box that each point learns.

    Args:
        levels: all points. Size ranges include, by default, both limits, as in the official code:
            a distance on a limit is learnt on both levels.
        boxes: [B, M, 4] float32, xyxy pixels, M at least 1; padding 0.
        labels: [B, M] int32, 0..C-1; padding -1.
        center_sampling_radius: half the side, in strides, of the square around a box's centre with
            its points, clipped to the box. None or 0: the whole box. A border is outside.
        rules: limits of size ranges, area of ties.
        predictions: unused; for other assigners.

    Returns:
        [B, N] int32, index into the M boxes, the first of equal area; -1 for background. And None:
        no score targets, which other assigners may give.
    """
    del predictions
    x, y = (levels.points[None, :, None, k] for k in range(2))  # [1, N, 1]
    x1, y1, x2, y2 = (boxes[:, None, :, k] for k in range(4))  # [B, 1, M]
    # Differences to the sides themselves, not to centre and half width: exact on borders.
    # Few [B, N, M] arrays live at a time: 1000 boxes on 22,300 points are 89 MB each.
    largest = ops.maximum(ops.maximum(x - x1, x2 - x), ops.maximum(y - y1, y2 - y))
    low, high = (levels.size_ranges[None, :, None, k] for k in range(2))
    if rules.inclusive_ranges:
        candidate = (low <= largest) & (largest <= high)
    else:
        candidate = (low < largest) & (largest < high)
    if center_sampling_radius:
        reach = center_sampling_radius * levels.strides[None, :, None]
        center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
        x1, x2 = ops.maximum(x1, center_x - reach), ops.minimum(x2, center_x + reach)
        y1, y2 = ops.maximum(y1, center_y - reach), ops.minimum(y2, center_y + reach)
    candidate = candidate & (x > x1) & (x < x2) & (y > y1) & (y < y2)
    candidate = candidate & (labels >= 0)[:, None, :]  # [B, N, M]

    area = ops.where(candidate, _tie_area(boxes, rules.tie_area)[:, None, :], float("inf"))
    matched = ops.cast(ops.argmin(area, axis=-1), "int32")  # [B, N]
    return ops.where(ops.any(candidate, axis=-1), matched, -1), None


def _tie_area(boxes, kind: str):
    """The area by which the smallest of several boxes wins: [B, M, 4] to [B, M]."""
    if kind == "plus_one":
        return box_area(boxes + ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], boxes.dtype))
    if kind == "float32":  # torchvision: areas that differ by less than its rounding are equal
        return box_area(ops.cast(boxes, "float32")) - INFINITY
    return box_area(boxes)


class Assigner(NamedTuple):
    """A rule that assigns boxes to points.

    Attributes:
        match: a function with the arguments of `match_points`. It returns the box of each point
            and, or None, [B, N] float32 score targets, 0 for background, in place of the IoU.
        uses_predictions: whether it, and so the loss normalisers, needs the forward pass.
    """

    match: Callable
    uses_predictions: bool = False


ASSIGNERS = {
    "fcos": Assigner(match_points),
    "atss": Assigner(match_atss),
    "tal": Assigner(match_tal, uses_predictions=True),
}


def fcos_targets(
    levels: PointLevels,
    boxes,
    labels,
    *,
    num_classes: int,
    center_sampling_radius: float | None = 1.5,
    rules: FCOSRules = RULES["fcos_tf"],
    assigner: str = "fcos",
    predictions: dict | None = None,
) -> dict:
    """The training targets of all points for a batch.

    Args:
        levels: all points.
        boxes: [B, M, 4] float32, xyxy pixels; padding 0.
        labels: [B, M] int32, 0..C-1; padding -1.
        num_classes: C.
        center_sampling_radius: see `match_points`.
        rules: see `match_points`.
        assigner: a key of `ASSIGNERS`.
        predictions: outputs of the head, for assigners that use them.

    Returns:
        dict: `matched_gt_index` [B, N] int32, -1 = background; `positive_mask` [B, N] bool;
        `class_targets` [B, N, C] float32 one-hot, a zero row is background; `ltrb_targets`
        [B, N, 4] float32 in strides and `centerness_targets` [B, N] float32, both 0 for
        background; `score_targets` [B, N] float32, if the assigner gives them.
    """
    boxes, labels = pad_with_background(boxes, labels, levels.points.dtype)
    matched, score_targets = ASSIGNERS[assigner].match(
        levels,
        boxes,
        labels,
        center_sampling_radius=center_sampling_radius,
        rules=rules,
        predictions=predictions,
    )
    positive = matched >= 0
    index = ops.where(positive, matched, ops.shape(labels)[1] - 1)
    matched_boxes = ops.take_along_axis(boxes, index[..., None], axis=1)  # [B, N, 4]
    matched_labels = ops.take_along_axis(labels, index, axis=1)  # [B, N]
    ltrb = encode_ltrb(levels.points, levels.strides, matched_boxes)
    ltrb = ops.where(positive[..., None], ltrb, 0.0)
    learnt = {
        "matched_gt_index": matched,
        "positive_mask": positive,
        "class_targets": ops.one_hot(matched_labels, num_classes, dtype=ltrb.dtype),
        "ltrb_targets": ltrb,
        "centerness_targets": centerness(ltrb),
    }
    return learnt if score_targets is None else learnt | {"score_targets": score_targets}


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
        quality: target of the third output, "centerness" or "iou"; a key of `JOINT_LOSSES`: there
            is none, and the class scores learn the IoU, or the `score_targets` of the assigner.
        box_loss: a key of `BOX_LOSSES`.
        box_loss_weight: factor of the box loss.
        rules: unit of the overlaps, weighting of the boxes.
        totals: [L + 1] float32, `loss_totals` summed over all replicas and all parts of the batch;
            None: the images are this replica's whole batch.

    Returns:
        dict of float32 scalars: `classification_loss`, `box_loss` and, but for the
        `JOINT_LOSSES`, `centerness_loss`, each this replica's sum divided by the normaliser of all
        replicas; and `count_names`, of all replicas: the positive points, of all levels and of
        each. The normaliser is at least 1.
    """
    positive = learnt["positive_mask"]
    ltrb, ltrb_targets = predictions["ltrb"], learnt["ltrb_targets"]
    plus_one = rules.iou_plus_one is not None
    if rules.iou_plus_one == "pixels":
        ltrb, ltrb_targets = (x * point_strides[:, None] for x in (ltrb, ltrb_targets))
    quality_targets = learnt["centerness_targets"]
    if quality != "centerness":
        iou = losses.ltrb_iou(ltrb, ltrb_targets, plus_one=plus_one)
        # To the varifocal loss a target of 0 is background; mmdetection has 1e-6, too.
        quality_targets = ops.stop_gradient(ops.maximum(iou, 1e-6))
    joint, scores = quality in JOINT_LOSSES, learnt.get("score_targets")
    weight_boxes = joint or (quality == "centerness" and rules.weight_boxes)
    box_weights = quality_targets if weight_boxes else 1.0
    class_logits, class_targets = predictions["class_logits"], learnt["class_targets"]
    if joint:
        class_targets = class_targets * (quality_targets if scores is None else scores)[..., None]
        box_weights = scores
        if scores is None and quality == "joint":
            best = ops.stop_gradient(ops.max(ops.sigmoid(class_logits), axis=-1))
            box_weights = ops.where(positive, best, 0.0)
        elif scores is None:
            box_weights = learnt["centerness_targets"]
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

    class_loss = JOINT_LOSSES.get(quality, losses.sigmoid_focal_loss)
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
