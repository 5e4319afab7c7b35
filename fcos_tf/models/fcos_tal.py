"""Task-aligned assignment of boxes to points (TOOD, arXiv:2108.07755, section 3.3).

The alignment of a point with a box is score * IoU^6, of its predicted class score and box. The
candidates of a box are its 13 best aligned points of all levels. Their score targets are their
alignment over the largest of the box, times the largest IoU of the box.

TOOD's own head and its first four epochs with ATSS are left out: an untrained head with boxes of 8
strides aligns by their IoU, see `layers.heads.INITIAL_DISTANCE`.

Shape shorthand: B images, N points over all levels, M padded boxes, C classes, K candidates.
"""

from keras import ops

from fcos_tf.ops.boxes import pairwise_iou
from fcos_tf.ops.matching import largest, match_candidates
from fcos_tf.ops.points import decode_ltrb

CANDIDATES = 13


def match_tal(levels, boxes, labels, *, predictions, **unused):
    """The box that each point learns; arguments as of `fcos_training.match_points`.

    Sources: mmdetection (task_aligned_assigner.py, tood_head.py). Of several boxes that of the
    largest IoU wins.

    Returns:
        [B, N] int32, index into the M boxes or -1; and [B, N] float32, the score targets.
    """
    logits, ltrb = (ops.stop_gradient(predictions[name]) for name in ("class_logits", "ltrb"))
    logits = ops.take_along_axis(logits, ops.maximum(labels, 0)[:, None], axis=-1)  # [B, N, M]
    iou = pairwise_iou(boxes, decode_ltrb(levels.points, levels.strides, ltrb))  # [B, M, N]
    alignment = ops.sigmoid(ops.transpose(logits, (0, 2, 1))) * iou**6
    alignment = ops.where((labels >= 0)[..., None], alignment, 0.0)
    best, index = largest(alignment, CANDIDATES)  # [B, M, K]
    overlap = ops.where(best > 0, ops.take_along_axis(iou, index, axis=-1), 0.0)
    matched = match_candidates(levels.points, boxes, index, overlap)  # [B, N]

    learns = matched[:, None] == ops.arange(ops.shape(boxes)[1], dtype="int32")[:, None]
    most, most_iou = (
        ops.max(ops.where(learns, x, 0.0), axis=-1, keepdims=True) for x in (alignment, iou)
    )  # [B, M, 1]
    targets = alignment / ops.where(most > 0, most, 1.0) * most_iou
    return matched, ops.sum(ops.where(learns, targets, 0.0), axis=1)
