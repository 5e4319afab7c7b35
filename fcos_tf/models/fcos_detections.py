"""From raw predictions to detections (FCOS, sections 3.1 and 3.3).

Shape shorthand: B images, N points in all, n of a level, C classes, K candidates, D detections.
"""

from collections.abc import Sequence

from keras import ops

from fcos_tf.models.fcos_rules import RULES, FCOSRules
from fcos_tf.ops.boxes import clip_boxes
from fcos_tf.ops.nms import class_wise_nms, drop_empty, top_candidates
from fcos_tf.ops.points import decode_ltrb, grid_sizes, pyramid_points


def fcos_detections(
    predictions: dict,
    image_size,
    image_sizes=None,
    *,
    strides: Sequence[int],
    score_threshold,
    nms_threshold: float,
    topk_per_level: int,
    max_detections: int,
    rules: FCOSRules = RULES["fcos_tf"],
    jit_compile: bool = False,
) -> dict:
    """The best candidates of each level after class-wise suppression.

    The score is sqrt(class probability * centerness), or the former of a head without the latter.

    Args:
        predictions: outputs of `FCOSHead.call`.
        image_size: (height, width) of the padded images.
        image_sizes: [B, 2] float, (height, width) to clip the boxes to; None: the padded size.
        strides: L strides in pixels.
        score_threshold: exclusive lower limit of the class probability or the score, as the rules
            say. A scalar, or [B], one an image.
        nms_threshold: IoU above which the weaker of two boxes of a class is dropped.
        topk_per_level: most candidates of a level that reach the suppression.
        max_detections: D.
        rules: position of points, meaning of the threshold, clipping and suppression of boxes.
        jit_compile: whether XLA compiles the caller.

    Returns:
        dict: `boxes` [B, D, 4] float32 xyxy in pixels of the images, `scores` [B, D] float32 in
        descending order, `labels` [B, D] int32, `num_detections` [B] int32; see `class_wise_nms`.
    """
    all_boxes, scores, probability = decode_points(predictions, image_size, strides, rules)
    compared = scores if rules.threshold_on == "score" else probability
    threshold = ops.reshape(ops.convert_to_tensor(score_threshold, scores.dtype), (-1, 1, 1))
    scores = ops.where(compared > threshold, scores, 0.0)

    start, candidates = 0, []
    for rows, columns in grid_sizes(*image_size, strides):
        level = slice(start, start + rows * columns)
        start = level.stop
        best, labels, index = top_candidates(scores[:, level], topk_per_level)
        boxes = ops.take_along_axis(all_boxes[:, level], index[..., None], axis=1)  # [B, K, 4]
        candidates.append((boxes, best, labels))
    boxes, best, labels = (
        ops.concatenate(parts, axis=1) for parts in zip(*candidates, strict=True)
    )

    sizes = ops.stack(image_size)[None] if image_sizes is None else image_sizes  # [1 or B, 2]
    limits = ops.cast(sizes, "float32") - (1 if rules.inclusive_pixels else 0)
    if rules.clip_before_nms:
        boxes = clip_boxes(boxes, limits)
    detections = class_wise_nms(
        boxes,
        best,
        labels,
        iou_threshold=nms_threshold,
        max_detections=max_detections,
        plus_one=rules.inclusive_pixels,
        jit_compile=jit_compile,
    )
    if rules.clip_before_nms:
        return detections
    return drop_empty({**detections, "boxes": clip_boxes(detections["boxes"], limits)})


def decode_points(predictions: dict, image_size, strides: Sequence[int], rules: FCOSRules):
    """Boxes and scores of all points, before any selection.

    Args:
        predictions: as in `fcos_detections`.
        image_size: (height, width) of the padded images.
        strides: L strides in pixels.
        rules: position of points.

    Returns:
        boxes [B, N, 4] float32 xyxy pixels, not clipped; scores and class probabilities, [B, N, C].
    """
    grids = grid_sizes(*image_size, strides)
    ltrb = predictions["ltrb"]
    at = (ops.cast(x, ltrb.dtype) for x in place_points(grids, strides, image_size, rules))
    boxes = decode_ltrb(*at, ltrb)
    probability = ops.sigmoid(predictions["class_logits"])
    if "centerness_logits" not in predictions:
        return boxes, probability, probability
    quality = ops.sigmoid(predictions["centerness_logits"])[..., None]  # [B, N, 1]
    return boxes, ops.sqrt(probability * quality), probability


def place_points(grids, strides: Sequence[int], image_size, rules: FCOSRules):
    """`ops.points.pyramid_points` under the rules of an implementation.

    Args:
        grids: L pairs (rows, columns).
        strides: L strides in pixels.
        image_size: (height, width) of the padded images.
        rules: position of points.

    Returns:
        points [N, 2] float32, (x, y) pixels, and point_strides [N] float32.
    """
    canvas = image_size if rules.point_spacing == "canvas" else None
    return pyramid_points(grids, strides, offset=rules.point_offset, image_size=canvas)
