"""detectron2's rules of Faster R-CNN in NumPy, as its own code has them, without fcos_tf.

Written from detectron2 (modeling: anchor_generator.py, matcher.py, box_regression.py,
proposal_generator/proposal_utils.py, roi_heads/fast_rcnn.py, postprocessing.py). All in float64.

Shapes: A anchors over all levels, R proposals, M boxes of an image, C classes. Boxes are xyxy
pixels, deltas (dx, dy, dw, dh).
"""

import numpy as np

from tests.parity.references import clip, grids, suppress

STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)  # height / width
RPN_WEIGHTS, BOX_WEIGHTS = np.array([1, 1, 1, 1]), np.array([10, 10, 5, 5])
LARGEST = np.log(1000 / 16)  # dw and dh


def anchors(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """[A, 4], and the level of each, [A]: sides of 32 on P2 to 512 on P6, the cell's corner."""
    found, levels = [], []
    sizes = grids(height, width, first=2)
    for level, ((rows, columns), s) in enumerate(zip(sizes, STRIDES, strict=True)):
        w = np.sqrt((8 * s) ** 2 / np.array(RATIOS))
        h = w * RATIOS
        cell = np.stack([-w, -h, w, h], axis=1) / 2
        y, x = np.meshgrid(np.arange(rows) * s, np.arange(columns) * s, indexing="ij")
        corner = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        found.append((corner + cell).reshape(-1, 4))
        levels += [level] * len(found[-1])
    return np.concatenate(found), np.array(levels)


def overlaps(some: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU [A, M]."""
    low = np.maximum(some[:, None, :2], boxes[None, :, :2])
    high = np.minimum(some[:, None, 2:], boxes[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (some, boxes)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def match(iou: np.ndarray, *, low: float, high: float, low_quality: bool) -> np.ndarray:
    """The box that each row learns: its index, -1 background, -2 ignored: [A].

    A box that overlaps nothing would make all rows positive here; scenes have none.
    """
    if not iou.shape[1]:
        return np.full(len(iou), -1)
    best, index = iou.max(axis=1), iou.argmax(axis=1)
    learns = best >= high
    if low_quality:
        learns |= (iou == iou.max(axis=0)).any(axis=1)
    return np.where(learns, index, np.where(best < low, -1, -2))


def encode(some: np.ndarray, boxes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    sides, own = some[:, 2:] - some[:, :2], boxes[:, 2:] - boxes[:, :2]
    moved = (boxes[:, :2] + boxes[:, 2:] - some[:, :2] - some[:, 2:]) / 2 / sides
    return np.concatenate([moved, np.log(own / sides)], axis=1) * weights


def decode(some: np.ndarray, deltas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    deltas = deltas / weights
    sides = some[:, 2:] - some[:, :2]
    center = (some[:, :2] + some[:, 2:]) / 2 + deltas[:, :2] * sides
    half = np.exp(np.minimum(deltas[:, 2:], LARGEST)) * sides / 2
    return np.concatenate([center - half, center + half], axis=1)


def proposals(logits, deltas, size, image_size, *, per_level: int, count: int):
    """Of one image: boxes [R, 4], best first, and their logits [R].

    Args:
        logits: [A].
        deltas: [A, 4].
        size: (height, width) of the canvas.
        image_size: (height, width) of the image on it.
        per_level: candidates of a level.
        count: R at most.
    """
    places, levels = anchors(*size)
    chosen = []
    for level in range(len(STRIDES)):
        own = np.flatnonzero(levels == level)
        chosen.append(own[np.argsort(-logits[own], kind="stable")[:per_level]])
    chosen = np.concatenate(chosen)
    boxes = clip(decode(places[chosen], deltas[chosen], RPN_WEIGHTS), *image_size)
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, logits, levels = boxes[real], logits[chosen[real]], levels[chosen[real]]
    kept = suppress(boxes, logits, levels, threshold=0.7, plus=0)[:count]
    return boxes[kept], logits[kept]


def detections(logits, deltas, boxes, image_size) -> dict:
    """Of one image: `boxes` [D, 4], `scores` [D] descending and `labels` [D], D <= 100.

    Args:
        logits: [R, C + 1], the last of background.
        deltas: [R, C, 4].
        boxes: proposals [R, 4].
        image_size: (height, width) of the image.
    """
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (odds / odds.sum(axis=1, keepdims=True))[:, :-1]
    row, label = np.nonzero(scores > 0.05)
    scores = scores[row, label]
    boxes = clip(decode(boxes[row], deltas[row, label], BOX_WEIGHTS), *image_size)
    kept = suppress(boxes, scores, label, threshold=0.5, plus=0)[:100]
    # Those without area were among the best 100.
    kept = [k for k in kept if (boxes[k, 2:] > boxes[k, :2]).all()]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": label[kept]}
