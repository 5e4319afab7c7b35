"""Anchors of a feature pyramid, and boxes as deltas from them (Faster R-CNN, section 3.1).

Shape shorthand: A anchors over all levels, L levels, K anchors of a cell.

    anchors      [A, 4] xyxy pixels of the image
    deltas       [..., 4] (dx, dy, dw, dh): centre moved by sides, logarithm of the ratio of sides
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from fcos_tf.ops.boxes import EPSILON
from fcos_tf.ops.points import pyramid_points


def cell_anchors(size: float, ratios: Sequence[float], *, rounded: bool) -> np.ndarray:
    """The anchors of a cell, of one area, around (0, 0).

    Args:
        size: square root of the area, in pixels.
        ratios: height / width of each.
        rounded: whether sides lie on whole pixels, half to even, as in torchvision.

    Returns:
        [len(ratios), 4] float32, xyxy pixels.
    """
    height = size * np.sqrt(np.asarray(ratios, "float32"))
    width = np.float32(size) ** 2 / height
    anchors = np.stack([-width, -height, width, height], axis=-1) / 2
    return (anchors.round() if rounded else anchors).astype("float32")


def pyramid_anchors(grids, strides: Sequence[int], cells, *, offset: float = 0.0, image_size=None):
    """The anchors of every cell of every level, in the order level, row, column, anchor.

    Args:
        grids: L pairs (rows, columns), see `points.grid_sizes`.
        strides: L strides in pixels.
        cells: L arrays [K, 4] float32, see `cell_anchors`.
        offset: position of the centre in the cell: 0 the upper left corner, 0.5 the middle.
        image_size: (height, width); spaces anchors as in torchvision, see `points.pyramid_points`.

    Returns:
        anchors: [A, 4] float32, xyxy pixels.
        anchor_levels: [A] int32, 0 to L - 1.
    """
    anchors, anchor_levels = [], []
    for level, (grid, stride, cell) in enumerate(zip(grids, strides, cells, strict=True)):
        points, _ = pyramid_points([grid], [stride], offset=offset, image_size=image_size)
        centers = ops.concatenate([points, points], axis=-1)[:, None]  # [rows * columns, 1, 4]
        anchors.append(ops.reshape(centers + ops.convert_to_tensor(cell), (-1, 4)))
        anchor_levels.append(ops.full_like(anchors[-1][:, 0], level, dtype="int32"))
    return ops.concatenate(anchors, axis=0), ops.concatenate(anchor_levels, axis=0)


def encode_deltas(anchors, boxes, *, weights: Sequence[float] = (1, 1, 1, 1)):
    """Deltas that move anchors onto boxes; the inverse of `decode_deltas`.

    Args:
        anchors: [..., 4] float, xyxy pixels.
        boxes: [..., 4] float, xyxy pixels, one for each anchor (broadcasting).
        weights: factors of dx, dy, dw and dh.

    Returns:
        [..., 4] float; finite also for anchors and boxes without area.
    """
    center, side = _center_side(anchors)
    box_center, box_side = _center_side(boxes)
    side, box_side = ops.maximum(side, EPSILON), ops.maximum(box_side, EPSILON)
    moved = (box_center - center) / side
    deltas = ops.concatenate([moved, ops.log(box_side / side)], axis=-1)
    return deltas * ops.convert_to_tensor(weights, dtype=deltas.dtype)


def decode_deltas(anchors, deltas, *, weights: Sequence[float] = (1, 1, 1, 1), limit: float):
    """Boxes from anchors and deltas.

    Args:
        anchors: [..., 4] float, xyxy pixels.
        deltas: [..., 4] float (broadcasting).
        weights: factors of dx, dy, dw and dh.
        limit: largest dw and dh after division by the weights; log(1000 / 16) in the references.

    Returns:
        [..., 4] float, xyxy pixels.
    """
    center, side = _center_side(anchors)
    deltas = deltas / ops.convert_to_tensor(weights, dtype=deltas.dtype)
    center = center + deltas[..., :2] * side
    half = 0.5 * (ops.exp(ops.minimum(deltas[..., 2:], limit)) * side)
    return ops.concatenate([center - half, center + half], axis=-1)


def _center_side(boxes):
    """Centres and sides of boxes, each [..., 2] (x, y)."""
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side
