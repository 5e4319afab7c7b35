"""Class-wise non-maximum suppression with padded output.

Shape shorthand: B images, K candidates, D detections kept.
"""

import math

import keras
from keras import ops

from fcos_tf.ops.boxes import paired_iou

# Scaled sides lie in 2 ** -60 .. 2 ** 60. So areas, their sums and their least share that counts
# are normal float32 numbers, of which the least is 2 ** -126.
_MOST = 60
_LEAST_THRESHOLD = 2**-6


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
    if not boxes.shape[1]:  # none, or perhaps none: there is a first candidate to point at
        boxes, scores, labels = (
            ops.pad(x, [[0, 0], [0, 1], [0, 0]][: len(x.shape)]) for x in (boxes, scores, labels)
        )
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

    The kernel knows no classes: those that occur are scaled apart, as many as there is room for,
    and the others are left to further calls. The best of all calls are kept.
    """
    import tensorflow as tf

    def one_image(inputs):
        boxes, scores, labels = inputs
        scaled, call_of, num_calls = _scale_apart(boxes, scores, labels, iou_threshold)

        def keep_by(call):
            return tf.image.non_max_suppression(
                scaled,
                tf.where(call_of == call, scores, 0.0),
                max_detections,
                iou_threshold,
                score_threshold=0.0,
            )

        def keep_more(call, keep):
            both = tf.sort(tf.concat([keep, keep_by(call)], axis=0))  # the earlier of equals first
            count = tf.minimum(max_detections, tf.size(both))
            return call + 1, tf.gather(both, tf.math.top_k(tf.gather(scores, both), count).indices)

        _, keep = tf.while_loop(
            lambda call, _: call < num_calls,
            keep_more,
            (1, keep_by(0)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
        )
        count = tf.size(keep)
        return tf.pad(keep, [[0, max_detections - count]]), tf.range(max_detections) < count

    return tf.map_fn(
        one_image,
        (boxes, scores, labels),
        fn_output_signature=(
            tf.TensorSpec([max_detections], tf.int32),
            tf.TensorSpec([max_detections], tf.bool),
        ),
    )


def _scale_apart(boxes, scores, labels, iou_threshold):
    """Boxes of which two classes do not overlap too much, with the IoUs of each class as they were.

    A factor that is a power of two changes no digit, so it changes no IoU, not even in the last
    digit; a shift would. Of two boxes one of which is more than 1 / `iou_threshold` times as wide
    (or as high), the IoU is below `iou_threshold`, wherever they lie. So the classes take places in
    a grid: from one column to the next widths grow by one factor, from one row to the next heights.

    Args:
        boxes: [K, 4] float32.
        scores: [K] float32.
        labels: [K] int32.
        iou_threshold: float.

    Returns:
        The scaled boxes [K, 4]; the number of a grid for each [K] int32, since one has few places
        where sides differ much; and how many grids there are.
    """
    import tensorflow as tf

    left, top, right, bottom = tf.unstack(boxes, axis=1)
    width, height = right - left, bottom - top  # [K]
    # All others overlap nothing: they become points, of a class of their own.
    solid = (width > 0) & (height > 0) & (width * height < float("inf")) & (scores > 0)
    classes, place = tf.unique(tf.where(solid, labels, tf.int32.min))

    # All sides are at least 2 ** low and less than 2 ** high.
    low = _exponent(tf.reduce_min(tf.where(solid, tf.minimum(width, height), float("inf"))))
    high = _exponent(tf.reduce_max(tf.where(solid, tf.maximum(width, height), 0.0))) + 1
    can_scale = (low >= -_MOST) & (high <= _MOST) & (iou_threshold >= _LEAST_THRESHOLD)
    step = high - low + 1 + math.ceil(max(0.0, -math.log2(max(iou_threshold, _LEAST_THRESHOLD))))
    columns = tf.where(can_scale, 1 + (2 * _MOST - (high - low)) // step, 1)

    index = tf.range(tf.size(classes))
    position = tf.stack([index % columns, index // columns % columns], axis=1)  # [classes, 2]
    factors = _power_of_two(tf.where(can_scale, position * step - low - _MOST, 0))
    factors = tf.where((classes > tf.int32.min)[:, None], factors, 0.0)
    scaled = tf.math.multiply_no_nan(boxes, tf.gather(tf.tile(factors, [1, 2]), place))
    num_places = columns * columns
    return scaled, place // num_places, -(-tf.size(classes) // num_places)


def _exponent(x):
    """The whole e with 2 ** e <= x < 2 ** (e + 1), for a normal float32 x > 0."""
    import tensorflow as tf

    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def _power_of_two(exponent):
    """2 ** exponent, exactly, in float32; int32 in -126..127."""
    import tensorflow as tf

    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


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
