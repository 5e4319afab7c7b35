"""Overlaps of boxes (x, y, width, height), float64 [..., 4], which broadcast. NumPy only."""

import numpy as np


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Common square pixels, [...]."""
    corner = np.maximum(a[..., :2], b[..., :2])
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - corner
    return np.prod(np.maximum(sides, 0.0), axis=-1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union, [...]; 0 for boxes without area."""
    common = intersections(a, b)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - common
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def covered(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The part of each box inside a region, 0 to 1, [...]; 0 for boxes without area."""
    common = intersections(boxes, regions)
    areas = np.broadcast_to(np.prod(boxes[..., 2:], axis=-1), common.shape)
    return np.divide(common, areas, out=np.zeros_like(common), where=areas > 0)
