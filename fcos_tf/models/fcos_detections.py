"""From raw predictions to detections (FCOS, sections 3.1 and 3.3).

Shape shorthand: B images, N points over all levels, n points of one level, C classes, K candidates,
D detections.
"""

from collections.abc import Sequence

from keras import ops

from fcos_tf.ops.boxes import clip_boxes
from fcos_tf.ops.nms import class_wise_nms
from fcos_tf.ops.points import decode_ltrb, grid_sizes, pyramid_points


def fcos_detections(
    predictions: dict,
    image_size,
    image_sizes=None,
    *,
    strides: Sequence[int],
    score_threshold: float,
    nms_threshold: float,
    topk_per_level: int,
    max_detections: int,
    jit_compile: bool = False,
) -> dict:
    """The best candidates of each level, as boxes, after class-wise suppression.

    The score is sqrt(class probability * centerness). A candidate's class probability must be
    above the threshold before that.

    Args:
        predictions: `class_logits` [B, N, C], `ltrb` [B, N, 4] in strides, `centerness_logits`
            [B, N], float32.
        image_size: (height, width) of the padded images.
        image_sizes: [B, 2] float, (height, width) to clip the boxes to; None: the padded size.
        strides: L strides in pixels.
        score_threshold: least class probability, exclusive.
        nms_threshold: IoU above which the weaker of two boxes of a class goes.
        topk_per_level: most candidates of a level that reach the suppression.
        max_detections: D.
        jit_compile: whether the caller is being compiled by XLA.

    Returns:
        dict: `boxes` [B, D, 4] float32 xyxy in pixels of the images, `scores` [B, D] float32 in
        descending order, `labels` [B, D] int32, `num_detections` [B] int32; see `class_wise_nms`.
    """
    grids = grid_sizes(*image_size, strides)
    points, point_strides = pyramid_points(grids, strides)
    probability = ops.sigmoid(predictions["class_logits"])  # [B, N, C]
    quality = ops.sigmoid(predictions["centerness_logits"])[..., None]  # [B, N, 1]
    scores = ops.where(probability > score_threshold, ops.sqrt(probability * quality), 0.0)

    start, candidates = 0, []
    for rows, columns in grids:
        level = slice(start, start + rows * columns)
        start = level.stop
        best, labels, index = top_candidates(scores[:, level], topk_per_level)
        ltrb = ops.take_along_axis(predictions["ltrb"][:, level], index[..., None], axis=1)
        boxes = decode_ltrb(
            ops.take(points[level], index, axis=0),  # [B, K, 2]
            ops.take(point_strides[level], index, axis=0),  # [B, K]
            ltrb,
        )
        candidates.append((boxes, best, labels))
    boxes, best, labels = (
        ops.concatenate(parts, axis=1) for parts in zip(*candidates, strict=True)
    )

    if image_sizes is None:
        image_sizes = ops.cast(ops.stack(image_size), "float32")[None]  # [1, 2]
    return class_wise_nms(
        clip_boxes(boxes, image_sizes),
        best,
        labels,
        iou_threshold=nms_threshold,
        max_detections=max_detections,
        jit_compile=jit_compile,
    )


def top_candidates(scores, limit: int):
    """The best (point, class) pairs of a level.

    Args:
        scores: [B, n, C] float.
        limit: most candidates.

    Returns:
        (scores, labels, points), each [B, K] with K = min(limit, n * C), best first; labels and
        points are int32 indices.
    """
    batch, num_points, num_classes = ops.shape(scores)
    count = num_points * num_classes
    k = min(limit, count) if isinstance(count, int) else ops.minimum(limit, count)
    best, index = ops.top_k(ops.reshape(scores, (batch, count)), k)
    index = ops.cast(index, "int32")
    return best, index % num_classes, index // num_classes
