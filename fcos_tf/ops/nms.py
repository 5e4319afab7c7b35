"""Class-wise non-maximum suppression with padded output.

Shape shorthand: B images, K candidates, D detections kept.
"""

import math

import keras
from keras import ops

from fcos_tf.ops.boxes import box_area, paired_iou
from fcos_tf.ops.matching import largest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

# Scaled sides lie in 2 ** -60 .. 2 ** 60, so that areas, their sums and the smallest relevant
# fraction of them are normal float32 numbers (at least 2 ** -126).
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
    """Greedy suppression of boxes that overlap a better box of the same class.

    The best remaining candidate, of equal scores the first, is kept and suppresses those of its
    class with an IoU above `iou_threshold`, until `max_detections` are kept or none remains.

    Proposals are suppressed within their level: the level is the label. Their scores are odds,
    exp(logit), which are positive and, unlike the sigmoid, tell large logits apart.

    Args:
        boxes: [B, K, 4] float32, xyxy.
        scores: [B, K] float32; a candidate with score <= 0 is padding.
        labels: [B, K] int32.
        iou_threshold: IoU above which the weaker of two boxes is dropped.
        max_detections: D.
        plus_one: whether the IoU takes sides as one longer (inclusive pixels).
        jit_compile: whether XLA compiles the caller; it has no kernel for TensorFlow's operation.

    Returns:
        dict: `boxes` [B, D, 4], `scores` [B, D] in descending order, `labels` [B, D] int32 and
        `num_detections` [B] int32. Padding is 0 in `boxes` and `scores`, -1 in `labels`.
    """
    if not boxes.shape[1]:  # 0 or unknown: one padding candidate for the indices below
        boxes, scores, labels = (
            ops.pad(x, [[0, 0], [0, 1], [0, 0]][: len(x.shape)]) for x in (boxes, scores, labels)
        )
    native = keras.backend.backend() == "tensorflow" and not jit_compile
    native = native and boxes.dtype != "float64"  # for which TensorFlow has no kernel
    suppress = _native_nms if native else _portable_nms
    if not native and keras.backend.backend() == "tensorflow" and tf.inside_function():
        # One call in the graph, which the ONNX export replaces; see `export.onnx_operations`.
        suppress = tf.function(_portable_nms, autograph=False)
        iou_threshold = tf.constant(iou_threshold, boxes.dtype)
    keep, valid = suppress(
        boxes + ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0], boxes.dtype) if plus_one else boxes,
        scores,
        labels,
        iou_threshold,
        max_detections,
    )
    return select_detections(boxes, scores, labels, keep, valid)


def select_detections(boxes, scores, labels, index, valid) -> dict:
    """The candidates at `index` [B, D] where `valid` [B, D], padded as by `class_wise_nms`."""
    boxes = ops.take_along_axis(boxes, index[..., None], axis=1)  # [B, D, 4]
    scores, labels = (ops.take_along_axis(x, index, axis=1) for x in (scores, labels))
    return {
        "boxes": ops.where(valid[..., None], boxes, 0.0),
        "scores": ops.where(valid, scores, 0.0),
        "labels": ops.where(valid, labels, -1),
        "num_detections": ops.sum(ops.cast(valid, "int32"), axis=1),
    }


def drop_empty(detections: dict) -> dict:
    """Detections [B, D] without those whose boxes have no area, see `keep_valid`."""
    return keep_valid(detections, box_area(detections["boxes"]) > 0)


def keep_valid(detections: dict, valid) -> dict:
    """Detections [B, D] with those that are not `valid` [B, D] at the end, as padding."""
    order = ops.argsort(ops.where(valid, 0, 1), axis=1)
    valid = ops.take_along_axis(valid, order, axis=1)
    boxes, scores, labels = (detections[name] for name in ("boxes", "scores", "labels"))
    return select_detections(boxes, scores, labels, order, valid)


def top_candidates(scores, limit: int):
    """The best (point, class) pairs of [B, n, C] scores, at most `limit`, best first.

    Returns:
        (scores, int32 labels, int32 points), each [B, K], K = min(limit, n * C).
    """
    batch, num_points, num_classes = ops.shape(scores)
    best, index = largest(ops.reshape(scores, (batch, num_points * num_classes)), limit)
    return best, index % num_classes, index // num_classes


def _native_nms(boxes, scores, labels, iou_threshold, max_detections):
    """Indices [B, D] and validity [B, D] by TensorFlow's kernel, image by image inside the graph.

    The kernel knows no classes: boxes of different classes are scaled apart. Classes beyond the
    capacity of a grid go to further calls, and the best of all calls are kept.
    """

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
            both = tf.sort(tf.concat([keep, keep_by(call)], axis=0))  # earlier candidates first
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
    """Scales boxes so that classes do not suppress each other and IoUs within a class stay exact.

    A power of two as factor keeps every digit, so every IoU; a shift would not. The IoU of two
    boxes is below `iou_threshold` if one is more than 1 / `iou_threshold` times as wide (or high),
    wherever they lie. So each class gets a cell of a grid: widths grow by a factor from column to
    column, heights from row to row.

    Returns the scaled boxes [K, 4]; the grid of each [K] int32, as a grid has few cells where sides
    differ much; the number of grids.
    """
    left, top, right, bottom = tf.unstack(boxes, axis=1)
    width, height = right - left, bottom - top  # [K]
    # All others overlap nothing and become points of a separate class.
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
    """The integer e with 2 ** e <= x < 2 ** (e + 1), for a normal float32 x > 0."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - 127


def _power_of_two(exponent):
    """2 ** exponent, exactly, in float32; int32 in -126..127."""
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


def _portable_nms(boxes, scores, labels, iou_threshold, max_detections):
    """`_native_nms` in keras.ops: up to D rounds, each over all images and candidates at once."""
    batch, num_candidates = ops.shape(scores)
    index = ops.arange(num_candidates, dtype="int32")[None]  # [1, K]

    def is_unfinished(step, remaining, keep, valid):
        return ops.logical_and(step < max_detections, ops.any(remaining > 0))

    def one_round(step, remaining, keep, valid):
        best_score = ops.max(remaining, axis=1, keepdims=True)  # [B, 1]
        # The first; `argmax` is made of operations that other runtimes lack.
        first = ops.where(remaining == best_score, index, num_candidates - 1)
        best = ops.min(first, axis=1, keepdims=True)
        best_box = ops.take_along_axis(boxes, best[..., None], axis=1)  # [B, 1, 4]
        best_label = ops.take_along_axis(labels, best, axis=1)  # [B, 1]
        overlaps = paired_iou(boxes, best_box) > iou_threshold  # [B, K]
        # The chosen one by its index: a box without area does not overlap itself.
        drop = (overlaps & (labels == best_label)) | (index == best)
        column = ops.arange(max_detections)[None] == step  # [1, D]
        keep = ops.where(column, best, keep)
        valid = ops.where(column, best_score > 0, valid)
        return step + 1, ops.where(drop, 0.0, remaining), keep, valid

    keep = ops.zeros((batch, max_detections), dtype="int32")
    valid = ops.zeros((batch, max_detections), dtype="bool")
    step = ops.zeros((), dtype="int32")
    state = (step, ops.maximum(scores, 0.0), keep, valid)
    _, _, keep, valid = ops.while_loop(is_unfinished, one_round, state)
    return keep, valid
