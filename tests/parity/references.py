"""The rules of the published FCOS implementations in NumPy, each as its own code has them.

Written from tianzhi0549/FCOS (fcos_core/modeling/rpn/fcos: loss.py, inference.py, fcos.py;
fcos_core/layers/iou_loss.py; BoxList of maskrcnn-benchmark), aim-uofa/AdelaiDet
(adet/modeling/fcos/fcos_outputs.py), torchvision 0.28 (models/detection/fcos.py) and detectron2
(modeling/meta_arch/fcos.py, dense_detector.py, postprocessing.py); nothing of fcos_tf is used.

Shapes: N points over all levels, M boxes of an image, C classes. Boxes are xyxy pixels, distances
(ltrb) are in strides, as our head gives them. What two implementations share is written once.
"""

import numpy as np

STRIDES = (8, 16, 32, 64, 128)
LIMITS = (64, 128, 256, 512)
INF = 1e8


def grids(height: int, width: int, first: int = 3) -> list[tuple[int, int]]:
    """Rows and columns of five levels, P3 to P7: halved and rounded up, again and again."""
    sizes = [(height, width)]
    for _ in range(first + 4):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes[first:]


def points(height: int, width: int, implementation: str) -> tuple[np.ndarray, np.ndarray]:
    """[N, 2] float32 (x, y), and the level of each, [N]."""
    places, levels = [], []
    for level, ((rows, columns), s) in enumerate(zip(grids(height, width), STRIDES, strict=True)):
        if implementation == "torchvision":
            y, x = np.arange(rows) * (height // rows), np.arange(columns) * (width // columns)
        elif implementation == "detectron2":
            y, x = (np.arange(rows) + 0.5) * s, (np.arange(columns) + 0.5) * s
        else:
            y, x = np.arange(rows) * s + s // 2, np.arange(columns) * s + s // 2
        places += [(i, j) for j in y for i in x]
        levels += [level] * (rows * columns)
    return np.array(places, np.float32), np.array(levels)


def distances(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Pixels from every point to the sides of every box: [N, M, 4]."""
    return np.concatenate(
        [places[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - places[:, None]], axis=-1
    )


def match_by_area(places, levels, boxes, *, radius, extra) -> np.ndarray:
    """Official and AdelaiDet: the index of the box that each point learns, -1 for none: [N].

    Args:
        radius: in strides; None: anywhere in the box.
        extra: 1 where sides count one longer in the area (`BoxList.area`), 0 where not.
    """
    if not len(boxes):
        return np.full(len(places), -1)
    ltrb = distances(places, boxes)
    zones = np.broadcast_to(boxes[None], (len(places), *boxes.shape))
    if radius is not None:
        reach = radius * np.array(STRIDES, np.float32)[levels][:, None, None]
        centers = ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
        zones = np.concatenate(
            [
                np.maximum(centers - reach, zones[..., :2]),
                np.minimum(centers + reach, zones[..., 2:]),
            ],
            axis=-1,
        )
    inside = np.concatenate(
        [places[:, None] - zones[..., :2], zones[..., 2:] - places[:, None]], -1
    )
    low, high = np.array([-1, *LIMITS])[levels], np.array([*LIMITS, INF])[levels]
    farthest = ltrb.max(axis=-1)
    cared = (farthest >= low[:, None]) & (farthest <= high[:, None])
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(extra)
    areas = np.where((inside.min(axis=-1) > 0) & cared, sides[:, 0] * sides[:, 1], INF)
    return np.where(areas.min(axis=1) == INF, -1, areas.argmin(axis=1))


def match_by_quality(places, levels, boxes, *, radius) -> np.ndarray:
    """torchvision and detectron2, which wrote it: as `match_by_area`."""
    if not len(boxes):
        return np.full(len(places), -1)
    strides = np.array(STRIDES, np.float32)[levels]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    match = np.abs(places[:, None] - centers[None]).max(axis=-1) < radius * strides[:, None]
    ltrb = distances(places, boxes)
    match &= ltrb.min(axis=-1) > 0
    lower, upper = np.where(levels == 0, 0, 4 * strides), np.where(levels == 4, INF, 8 * strides)
    farthest = ltrb.max(axis=-1)
    match &= (farthest > lower[:, None]) & (farthest < upper[:, None])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    quality = match.astype(np.float32) * (np.float32(INF) - areas)[None]
    return np.where(quality.max(axis=1) < 1e-5, -1, quality.argmax(axis=1))


def match(implementation: str, places, levels, boxes) -> np.ndarray:
    """Under the published settings of an implementation: [N]."""
    if implementation in ("torchvision", "detectron2"):
        return match_by_quality(places, levels, boxes, radius=1.5)
    radius = None if implementation == "official" else 1.5
    extra = 0 if implementation == "adelaidet" else 1
    return match_by_area(places, levels, boxes, radius=radius, extra=extra)


def centerness(ltrb: np.ndarray) -> np.ndarray:
    """[n, 4] to [n]."""
    pairs = np.stack([ltrb[:, [0, 2]], ltrb[:, [1, 3]]], axis=1)
    return np.sqrt(np.prod(pairs.min(axis=-1) / pairs.max(axis=-1), axis=-1))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def focal_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum, alpha .25 and gamma 2."""
    p = sigmoid(logits)
    positive = 0.25 * (1 - p) ** 2 * -np.log(p)
    negative = 0.75 * p**2 * -np.log1p(-p)
    return np.where(targets == 1, positive, negative).sum()


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum over elements, of logits."""
    p = sigmoid(logits)
    return -(targets * np.log(p) + (1 - targets) * np.log1p(-p)).sum()


def ltrb_overlap(ltrb: np.ndarray, other: np.ndarray, plus: float) -> tuple:
    """IoU with `plus` added to both of its parts, and GIoU: [n] each."""
    smaller, larger = np.minimum(ltrb, other), np.maximum(ltrb, other)

    def area(d):
        return (d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3])

    intersection, hull = area(smaller), area(larger) + 1e-7
    union = area(ltrb) + area(other) - intersection
    iou = (intersection + plus) / (union + plus)
    return iou, iou - (hull - union) / hull


def losses(implementation: str, predictions: dict, truth: list, size: tuple, *, quality=None):
    """Classification, box and centerness loss of a batch on one device, and the positives.

    Args:
        predictions: `class_logits` [B, N, C], `ltrb` [B, N, 4], `centerness_logits` [B, N].
        truth: boxes [M, 4] and labels [M] of each image.
        size: (height, width) of the canvas.
        quality: "iou" for AdelaiDet's BOX_QUALITY of that name.
    """
    places, levels = points(*size, implementation)
    strides = np.array(STRIDES, np.float64)[levels][:, None]
    targets = np.zeros(predictions["class_logits"].shape)
    ltrb, wanted, logits = [], [], []
    for image, (boxes, labels) in enumerate(truth):
        matched = match(implementation, places, levels, boxes)
        positive = np.flatnonzero(matched >= 0)
        targets[image, positive, labels[matched[positive]]] = 1
        own = boxes[matched[positive]].astype(np.float64)
        sides = np.concatenate(
            [places[positive] - own[:, :2], own[:, 2:] - places[positive]], axis=1
        )
        unit = strides[positive]
        pixels = implementation in ("official", "torchvision", "detectron2")
        ltrb.append(predictions["ltrb"][image, positive] * (unit if pixels else 1))
        wanted.append(sides if pixels else sides / unit)
        logits.append(predictions["centerness_logits"][image, positive])
    ltrb, wanted, logits = (np.concatenate(parts) for parts in (ltrb, wanted, logits))
    count = len(logits)
    classification = focal_loss(predictions["class_logits"], targets) / max(count, 1)
    if not count:
        return classification, 0.0, 0.0, 0
    plus = 0 if implementation in ("torchvision", "detectron2") else 1
    iou, giou = ltrb_overlap(ltrb, wanted, plus)
    box = -np.log(iou) if implementation == "official" else 1 - giou
    central = centerness(wanted)
    if quality == "iou":
        return classification, box.sum() / count, cross_entropy(logits, iou) / count, count
    if implementation in ("torchvision", "detectron2"):
        # detectron2 divides all three by a moving average of the positives instead.
        box = box.sum() / count
    else:
        box = (box * central).sum() / central.sum()
    return classification, box, cross_entropy(logits, central) / count, count


def clip(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def suppress(boxes, scores, labels, *, threshold: float, plus: float) -> list[int]:
    """Greedy and class by class; the kept ones by descending score."""
    sides = boxes[:, 2:] - boxes[:, :2] + plus
    areas = sides[:, 0] * sides[:, 1]
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        overlap = np.minimum(boxes[best, 2:], boxes[order, 2:])
        overlap = overlap - np.maximum(boxes[best, :2], boxes[order, :2]) + plus
        intersection = np.prod(np.maximum(overlap, 0), axis=1)
        union = areas[best] + areas[order] - intersection
        # Two boxes without area have no IoU, and stay.
        same = (labels[order] == labels[best]) & (intersection > threshold * union)
        order = order[~same]
    return kept


def detections(implementation: str, predictions: dict, size: tuple, image_size: tuple) -> dict:
    """Of one image: `boxes` [D, 4], `scores` [D] descending and `labels` [D], D <= 100.

    Args:
        predictions: `class_logits` [N, C], `ltrb` [N, 4], `centerness_logits` [N].
        size: (height, width) of the canvas.
        image_size: (height, width) of the image on it.
    """
    places, levels = points(*size, implementation)
    probability = sigmoid(predictions["class_logits"])
    scores = np.sqrt(probability * sigmoid(predictions["centerness_logits"])[:, None])
    if implementation in ("torchvision", "detectron2"):
        candidate = scores > 0.2
    else:
        candidate = probability > 0.05
    place, label = [], []
    for level in range(5):
        p, c = np.nonzero(candidate & (levels == level)[:, None])
        best = np.argsort(-scores[p, c], kind="stable")[:1000]
        place, label = np.append(place, p[best]), np.append(label, c[best])
    place, label = place.astype(int), label.astype(int)
    scores = scores[place, label]
    pixels = predictions["ltrb"][place] * np.array(STRIDES, np.float32)[levels[place]][:, None]
    boxes = np.concatenate([places[place] - pixels[:, :2], places[place] + pixels[:, 2:]], axis=1)
    plus = 1 if implementation.startswith("official") else 0
    late = implementation in ("adelaidet", "detectron2")
    limit = (image_size[0] - plus, image_size[1] - plus)
    if not late:
        boxes = clip(boxes, *limit)
    kept = suppress(boxes, scores, label, threshold=0.6, plus=plus)[:100]
    boxes, scores, label = boxes[kept], scores[kept], label[kept]
    if late:
        boxes = clip(boxes, *limit)
        real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores, label = boxes[real], scores[real], label[real]
    return {"boxes": boxes, "scores": scores, "labels": label}
