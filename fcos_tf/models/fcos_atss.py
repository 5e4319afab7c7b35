"""Adaptive assignment of boxes to points (ATSS, arXiv:1912.02424, algorithm 1).

Each point has a square anchor of 8 strides. The candidates of a box are, on each level, the nine
points nearest to its centre; those learn it whose anchors have an IoU with it of at least the mean
plus the standard deviation of all its candidates. There are no size ranges, nor centre sampling.

Shape shorthand: B images, N points over all levels, n of a level, M padded boxes, K candidates.
"""

from keras import ops

from fcos_tf.ops.boxes import paired_iou
from fcos_tf.ops.matching import largest, match_candidates

ANCHOR_SIDE = 8  # strides
CANDIDATES = 9  # of a level


def match_atss(levels, boxes, labels, **unused):
    """The box that each point learns, and None; arguments as of `fcos_training.match_points`.

    Sources: ATSS (atss_core/modeling/rpn/atss/loss.py), mmdetection (atss_assigner.py). Of equally
    near points the first are candidates; of several boxes that of the largest IoU wins.
    """
    x, y = ((boxes[..., None, k] + boxes[..., None, k + 2]) / 2 for k in range(2))  # [B, M, 1]
    start, parts = 0, []
    for count in levels.counts:
        at = levels.points[start : start + count]  # [n, 2]
        distance = ops.square(at[:, 0] - x) + ops.square(at[:, 1] - y)  # [B, M, n]
        parts.append(largest(-distance, CANDIDATES)[1] + start)
        start = start + count
    index = ops.concatenate(parts, axis=-1)  # [B, M, K]
    at = ops.take(levels.points, index, axis=0)
    half = ops.take(levels.strides, index)[..., None] * (ANCHOR_SIDE / 2)
    iou = paired_iou(ops.concatenate([at - half, at + half], axis=-1), boxes[:, :, None])
    mean = ops.mean(iou, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(iou - mean), axis=-1, keepdims=True)
    variance = variance / ops.cast(ops.shape(iou)[-1] - 1, variance.dtype)  # K >= L >= 3
    positive = (iou >= mean + ops.sqrt(variance)) & (labels >= 0)[..., None]
    return match_candidates(levels.points, boxes, index, ops.where(positive, iou, 0.0)), None
