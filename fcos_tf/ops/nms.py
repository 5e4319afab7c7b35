"""Class-wise non-maximum suppression with padded output.

Shape shorthand: B images, K candidates, D detections kept.
"""

import keras
from keras import ops

from fcos_tf.ops.boxes import paired_iou


def class_wise_nms(
    boxes,
    scores,
    labels,
    *,
    iou_threshold: float,
    max_detections: int,
    plus_one: bool = False,
    jit_compile: bool = False,
):
    """Keeps the best-scored boxes that no better box of the same class overlaps too much.

    Greedy: the best remaining candidate is kept, and every candidate of its class whose IoU with
    it is above `iou_threshold` is dropped, until `max_detections` are kept or none remains. Among
    equal scores the earlier candidate wins.

    Args:
        boxes: [B, K, 4] float32, xyxy.
        scores: [B, K] float32; a candidate with score <= 0 is padding.
        labels: [B, K] int32.
        iou_threshold: the IoU above which the weaker of two boxes goes.
        max_detections: D.
        plus_one: whether the IoU is of boxes whose sides are one longer (inclusive pixels).
        jit_compile: under TensorFlow, whether the caller is being compiled by XLA, which has no
            kernel for the native operation.

    Returns:
        dict: `boxes` [B, D, 4], `scores` [B, D] in descending order, `labels` [B, D] int32 and
        `num_detections` [B] int32. Padding is 0 in `boxes` and `scores`, -1 in `labels`.
    """
    native = keras.backend.backend() == "tensorflow" and not jit_compile
    keep, valid = (_native_nms if native else _portable_nms)(
        boxes + ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0]) if plus_one else boxes,
        scores,
        labels,
        iou_threshold,
        max_detections,
    )
    kept_boxes = ops.take_along_axis(boxes, keep[..., None], axis=1)  # [B, D, 4]
    kept_scores = ops.take_along_axis(scores, keep, axis=1)
    kept_labels = ops.take_along_axis(labels, keep, axis=1)
    return {
        "boxes": ops.where(valid[..., None], kept_boxes, 0.0),
        "scores": ops.where(valid, kept_scores, 0.0),
        "labels": ops.where(valid, kept_labels, -1),
        "num_detections": ops.sum(ops.cast(valid, "int32"), axis=1),
    }


def _native_nms(boxes, scores, labels, iou_threshold, max_detections):
    """Indices [B, D] and validity [B, D] by TensorFlow's kernel, image by image inside the graph.

    The kernel knows no classes, so the classes that occur are laid out side by side on a square
    grid of places. A grid and not a row, because a large shift costs float32 digits.
    """
    import tensorflow as tf

    def one_image(inputs):
        boxes, scores, labels = inputs
        low = tf.reduce_min(boxes)
        extent = tf.reduce_max(boxes) - low + 1.0
        classes, place = tf.unique(labels)
        columns = tf.cast(tf.math.ceil(tf.sqrt(tf.cast(tf.size(classes), tf.float32))), tf.int32)
        cell = tf.cast(tf.stack([place % columns, place // columns], axis=-1), boxes.dtype)
        shifted = boxes - low + tf.tile(cell * extent, [1, 2])  # [K, 4]
        keep = tf.image.non_max_suppression(
            shifted, scores, max_detections, iou_threshold, score_threshold=0.0
        )
        count = tf.shape(keep)[0]
        keep = tf.pad(keep, [[0, max_detections - count]])
        return keep, tf.range(max_detections) < count

    return tf.map_fn(
        one_image,
        (boxes, scores, labels),
        fn_output_signature=(
            tf.TensorSpec([max_detections], tf.int32),
            tf.TensorSpec([max_detections], tf.bool),
        ),
    )


def _portable_nms(boxes, scores, labels, iou_threshold, max_detections):
    """The same in keras.ops: D rounds, each over all images and candidates at once."""
    batch, num_candidates = ops.shape(scores)

    def one_round(step, state):
        remaining, keep, valid = state
        best = ops.argmax(remaining, axis=1)  # [B]
        best_score = ops.max(remaining, axis=1)
        best_box = ops.take_along_axis(boxes, best[:, None, None], axis=1)  # [B, 1, 4]
        best_label = ops.take_along_axis(labels, best[:, None], axis=1)  # [B, 1]
        overlaps = paired_iou(boxes, best_box) > iou_threshold  # [B, K]
        # The chosen one goes by its index: a box without area does not overlap itself.
        chosen = ops.arange(num_candidates, dtype="int32")[None] == ops.cast(best[:, None], "int32")
        drop = (overlaps & (labels == best_label)) | chosen
        column = ops.arange(max_detections)[None] == step  # [1, D]
        keep = ops.where(column, ops.cast(best[:, None], "int32"), keep)
        valid = ops.where(column, best_score[:, None] > 0, valid)
        return ops.where(drop, 0.0, remaining), keep, valid

    keep = ops.zeros((batch, max_detections), dtype="int32")
    valid = ops.zeros((batch, max_detections), dtype="bool")
    state = (ops.maximum(scores, 0.0), keep, valid)
    _, keep, valid = ops.fori_loop(0, max_detections, one_round, state)
    return keep, valid
