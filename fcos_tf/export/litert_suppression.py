"""The suppression of `ops.nms` as LiteRT's own operation, in a SavedModel to be converted.

K candidates, D detections.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from fcos_tf.export.signatures import is_suppression


def replace_suppression(folder: Path, function, num_labels: int) -> None:
    """Replaces the body of each suppression in a SavedModel.

    Args:
        folder: the SavedModel, changed in place.
        function: the concrete function that it was saved from.
        num_labels: of the suppression, at most.
    """
    bodies = {}
    for call in function.graph.get_operations():
        if is_suppression(call):
            shapes = [x.shape for x in call.inputs]
            bodies[call.get_attr("f").name] = _body(shapes, call.outputs[0].shape[1], num_labels)
    if not bodies:
        raise ValueError("expected a call of portable_nms in the graph, got none")
    file = folder / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    for each in saved.meta_graphs[0].graph_def.library.function:
        if body := bodies.get(name := each.signature.name):
            each.ParseFromString(body.SerializeToString())
            each.signature.name = name
    file.write_bytes(saved.SerializeToString())


def _body(shapes, most: int, num_labels: int):
    """The graph of `_suppress` for shapes of its arguments and D."""

    def suppress(*inputs):
        return _suppress(*inputs, most=most, num_labels=num_labels)

    types = (tf.float32, tf.float32, tf.int32, tf.float32)
    specs = [tf.TensorSpec(*each) for each in zip(shapes, types, strict=True)]
    traced = tf.function(suppress, input_signature=specs, autograph=False)
    return traced.get_concrete_function().function_def


def _suppress(boxes, scores, labels, iou_threshold, *, most: int, num_labels: int):
    """Indices [1, D] and validity [1, D], as `ops.nms` gives them.

    The operation knows no labels: each label gets a cell of a grid of its own, in which boxes are
    rounded to 2 ** -24 of the grid's side. Unlike `ops.nms` it
    - suppresses at equality, so the threshold is the next number;
    - orders equal scores in any way, so it gets ranks;
    - gives a box that does not suppress itself again and again: one without area, or any at a
      threshold of 1. A square apart from all others takes its place.
    """
    scores = scores[0]
    size = tf.shape(scores)[0]
    ordered, order = tf.math.top_k(scores, size)
    boxes, labels = tf.gather(boxes[0], order), tf.gather(labels[0], order)  # [K, 4], [K]
    rank = tf.range(size)
    ranked = tf.where(ordered > 0, tf.cast(size - rank, tf.float32), 0.0)

    # What is no candidate must not widen the grid.
    boxes = tf.where((ordered > 0)[:, None] & tf.math.is_finite(boxes), boxes, 0.0)
    least = tf.reduce_min(boxes)
    side = tf.reduce_max(boxes) - least + 1
    columns = int(np.ceil(num_labels**0.5))
    cell = tf.cast(tf.stack([labels % columns, labels // columns] * 2, axis=-1), tf.float32)
    boxes = boxes - least + cell * side  # [K, 4], 0 or more
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    x = -2.0 * tf.cast(rank + 1, tf.float32)
    square = tf.stack([x, tf.zeros_like(x), x + 1, tf.ones_like(x)], axis=-1)
    boxes = tf.where(solid[:, None] & (iou_threshold < 1), boxes, square)

    keep, count = tf.raw_ops.NonMaxSuppressionV4(
        boxes=boxes,
        scores=ranked,
        max_output_size=most,
        iou_threshold=tf.clip_by_value(iou_threshold * (1 + 2**-23), 1e-30, 1),
        score_threshold=0.0,
        pad_to_max_output_size=True,
    )
    valid = tf.range(most) < count
    keep = tf.gather(order, tf.where(valid, keep, 0))
    return keep[None], valid[None]
