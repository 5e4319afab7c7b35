"""The two selections of Faster R-CNN: from anchors to proposals, from proposals to detections.

Shape shorthand: B images, A anchors over all levels, R proposals, K candidates, C classes, D
detections.
"""

from collections.abc import Sequence

from keras import ops

from fcos_tf.models.rcnn_rules import RCNNRules
from fcos_tf.ops.anchors import cell_anchors, decode_deltas, pyramid_anchors
from fcos_tf.ops.boxes import clip_boxes
from fcos_tf.ops.nms import class_wise_nms, drop_empty, top_candidates
from fcos_tf.ops.points import grid_sizes

RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors of a cell
RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
RPN_NMS_THRESHOLD = 0.7
LARGEST_LOGIT = 80.0  # whose exponential is finite
MOST_CANDIDATES = 5000  # of an image, (proposal, class) pairs by score, that reach the last NMS


def place_anchors(image_size, strides: Sequence[int], *, scale: float, rules: RCNNRules):
    """The anchors of all levels, of one size a level.

    Args:
        image_size: (height, width) of the padded images.
        strides: L strides in pixels.
        scale: root of an anchor's area, in strides.
        rules: position and rounding.

    Returns:
        anchors [A, 4] float32 xyxy pixels, and the number of each anchor's level, [A] int32.
    """
    cells = [
        cell_anchors(scale * stride, RATIOS, rounded=rules.rounded_anchors) for stride in strides
    ]
    return pyramid_anchors(
        grid_sizes(*image_size, strides),
        strides,
        cells,
        offset=rules.anchor_offset,
        image_size=image_size if rules.anchor_spacing == "canvas" else None,
    )


def propose(
    predictions: dict,
    anchors,
    grids,
    image_sizes,
    *,
    per_level: int,
    num_proposals: int,
    rules: RCNNRules,
    jit_compile: bool = False,
) -> dict:
    """The best boxes of the RPN after suppression within each level; no gradient passes.

    Args:
        predictions: `objectness_logits` [B, A] and `anchor_deltas` [B, A, 4].
        anchors: [A, 4] float32, see `place_anchors`.
        grids: L pairs (rows, columns).
        image_sizes: [B or 1, 2] float32, (height, width) to clip to.
        per_level: candidates of a level that reach NMS.
        num_proposals: R.
        rules: order, least side and limit of the deltas.
        jit_compile: see `Detector.detect`.

    Returns:
        dict: `proposals` [B, R, 4] float32 xyxy pixels, best first, padding 0, and their
        probability `proposal_scores` [B, R], padding 0.
    """
    logits, deltas = (
        ops.stop_gradient(predictions[name]) for name in ("objectness_logits", "anchor_deltas")
    )
    start, candidates = 0, []
    for level, (rows, columns) in enumerate(grids):
        part = slice(start, start + rows * columns * len(RATIOS))
        start = part.stop
        best, _, index = top_candidates(logits[:, part, None], per_level)  # [B, K]
        chosen = ops.take_along_axis(deltas[:, part], index[..., None], axis=1)
        boxes = decode_deltas(
            ops.take(anchors[part], index, axis=0),
            chosen,
            weights=RPN_WEIGHTS,
            limit=rules.delta_limit,
        )
        candidates.append((boxes, best, ops.full_like(index, level)))
    boxes, best, levels = (ops.concatenate(x, axis=1) for x in zip(*candidates, strict=True))
    boxes = clip_boxes(boxes, image_sizes)
    # The odds p / (1 - p) are as positive as probabilities, and keep the order of logits.
    by_logit = rules.order_by == "logit"
    scores = ops.exp(ops.minimum(best, LARGEST_LOGIT)) if by_logit else ops.sigmoid(best)
    scores = ops.where(_has_sides(boxes, rules.least_side), scores, 0.0)
    found = class_wise_nms(
        boxes,
        scores,
        levels,
        iou_threshold=RPN_NMS_THRESHOLD,
        max_detections=num_proposals,
        jit_compile=jit_compile,
    )
    scores = found["scores"]
    scores = scores / (1 + scores) if by_logit else scores
    return {"proposals": found["boxes"], "proposal_scores": scores}


def rcnn_detections(
    raw: dict,
    image_sizes,
    *,
    score_threshold,
    nms_threshold: float,
    max_detections: int,
    rules: RCNNRules,
    jit_compile: bool = False,
) -> dict:
    """The best (proposal, class) pairs after class-wise suppression.

    Args:
        raw: outputs of `FasterRCNN.call`.
        image_sizes: [B or 1, 2] float32, (height, width) to clip to.
        score_threshold: exclusive lower limit of the class probability; a scalar or [B].
        nms_threshold: IoU above which the weaker of two boxes of a class is dropped.
        max_detections: D.
        rules: weights and limit of the deltas, least side, choice of classes.
        jit_compile: see `Detector.detect`.

    Returns:
        dict, see `class_wise_nms`.
    """
    probability = ops.softmax(raw["class_logits"])  # [B, R, C + 1]
    scores = probability[..., :-1]
    counts = (raw["proposal_scores"] > 0)[..., None]
    if rules.best_class_only:
        counts &= scores == ops.max(probability, axis=-1, keepdims=True)
    threshold = ops.reshape(ops.convert_to_tensor(score_threshold, scores.dtype), (-1, 1, 1))
    scores = ops.where(counts & (scores > threshold), scores, 0.0)
    best, labels, index = top_candidates(scores, MOST_CANDIDATES)
    boxes = ops.take_along_axis(raw["proposals"], index[..., None], axis=1)  # [B, K, 4]
    if "box_deltas" in raw:
        deltas = raw["box_deltas"]  # [B, R, C or 1, 4]
        batch, _, kinds, _ = ops.shape(deltas)
        flat = ops.reshape(deltas, (batch, -1, 4))
        index = index * kinds + ops.minimum(labels, kinds - 1)
        boxes = decode_deltas(
            boxes,
            ops.take_along_axis(flat, index[..., None], axis=1),
            weights=rules.box_weights,
            limit=rules.delta_limit,
        )
    boxes = clip_boxes(boxes, image_sizes)
    found = class_wise_nms(
        boxes,
        ops.where(_has_sides(boxes, rules.least_detection_side), best, 0.0),
        labels,
        iou_threshold=nms_threshold,
        max_detections=max_detections,
        jit_compile=jit_compile,
    )
    return found if rules.least_detection_side else drop_empty(found)


def _has_sides(boxes, least: float):
    """Whether both sides of [..., 4] boxes are `least` or more."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width >= least) & (height >= least)
