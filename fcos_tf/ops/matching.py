"""Which ground truth an anchor or a proposal learns, and which of them enter the loss.

Shape shorthand: K anchors or proposals, M padded ground truths; `...` any leading dimensions.

    matched_gt_index   [..., K] int32: index of a ground truth, BACKGROUND, or IGNORED
"""

from keras import ops

BACKGROUND = -1
IGNORED = -2


def pad_with_background(boxes, labels, dtype):
    """Boxes [B, M, 4], labels [B, M] and one more of padding: an index exists for M = 0 too."""
    boxes = ops.pad(ops.cast(boxes, dtype), [[0, 0], [0, 1], [0, 0]])
    return boxes, ops.pad(ops.cast(labels, "int32"), [[0, 0], [0, 1]], constant_values=-1)


def match_by_iou(iou, valid, *, high: float, low: float, low_quality: bool):
    """The ground truth of largest IoU for each box (Faster R-CNN, section 3.1.2).

    Args:
        iou: [..., K, M] float, M at least 1, see `boxes.pairwise_iou`.
        valid: [..., M] bool; False is padding.
        high: a box learns its ground truth from this IoU on.
        low: a box is background below this IoU, and ignored between the two.
        low_quality: whether boxes of the largest IoU that a ground truth has with any, ties
            included, learn at a lower IoU too: each the ground truth that *it* overlaps most. A
            ground truth that overlaps no box, such as one without area, gets none.

    Returns:
        [..., K] int32 in [0, M), the first of equal IoU; -1 background; -2 ignored.
    """
    best = best_by_iou(iou, valid, low_quality=low_quality)
    return match_by_best(*best, high=high, low=low)


def best_by_iou(iou, valid, *, low_quality: bool):
    """What `match_by_iou` needs of the ground truths, or of a part of them.

    Returns:
        The largest IoU of each box, [..., K]; its index, the first of equals, [..., K] int32; and
        whether the box has the largest IoU of a ground truth, [..., K] bool, False without
        `low_quality`.
    """
    iou = ops.where(valid[..., None, :], iou, -1.0)  # [..., K, M]
    best = ops.max(iou, axis=-1)  # [..., K]
    index = ops.cast(ops.argmax(iou, axis=-1), "int32")
    if not low_quality:
        return best, index, ops.zeros_like(best, dtype="bool")
    best_of_gt = ops.max(iou, axis=-2, keepdims=True)  # [..., 1, M]
    return best, index, ops.any((iou == best_of_gt) & (best_of_gt > 0), axis=-1)


def match_by_best(best, index, is_best_of_gt, *, high: float, low: float):
    """The result of `match_by_iou` from that of `best_by_iou`."""
    rest = ops.where(best < low, BACKGROUND, IGNORED)
    return ops.where((best >= high) | is_best_of_gt, index, ops.cast(rest, "int32"))


def match_candidates(points, boxes, index, overlap):
    """The box that each point learns, of boxes with candidates among the points (ATSS, TOOD).

    A candidate learns the box if it lies inside, more than 0.01 px from all sides; of several
    boxes that of the largest overlap.

    Args:
        points: [N, 2] float32, (x, y) pixels.
        boxes: [B, M, 4] float32, xyxy pixels.
        index: [B, M, K] int32 in [0, N), K different candidates of each box.
        overlap: [B, M, K] float32; candidates of 0 learn nothing.

    Returns:
        [B, N] int32 in [0, M), the first of equal overlap; -1 background.
    """
    at = ops.take(points, index, axis=0)  # [B, M, K, 2]
    corners = boxes[:, :, None]
    sides = ops.minimum(at - corners[..., :2], corners[..., 2:] - at)
    overlap = ops.where(ops.min(sides, axis=-1) > 0.01, overlap, 0.0)
    batch, num_boxes, _ = shape = ops.shape(index)
    image = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None, None], shape)
    box = ops.broadcast_to(ops.arange(num_boxes, dtype="int32")[:, None], shape)
    place = ops.reshape(ops.stack([image, index, box], axis=-1), [-1, 3])
    spread = (batch, ops.shape(points)[0], num_boxes)
    overlap = ops.scatter(place, ops.reshape(overlap, [-1]), spread)  # [B, N, M]
    matched = ops.cast(ops.argmax(overlap, axis=-1), "int32")
    return ops.where(ops.max(overlap, axis=-1) > 0, matched, BACKGROUND)


def sample_balanced(matched_gt_index, num: int, positive_fraction: float, seed):
    """Draws positives and negatives for the loss (Faster R-CNN, section 3.1.3).

    At most int(num * positive_fraction) positives are drawn, and negatives up to `num` in all. The
    draw depends on the arguments alone: neither on the backend nor on the other rows of a batch.

    Args:
        matched_gt_index: [..., K] int32, see `match_by_iou`.
        num: number to draw from each row.
        positive_fraction: largest share of positives.
        seed: [..., 2] int32, a pair for each row, such as the step and the number of the image in
            the global batch; one pair [2] gives all rows the same random numbers.

    Returns:
        positive_mask, negative_mask: [..., K] bool.
    """
    positive, negative = matched_gt_index >= 0, matched_gt_index == BACKGROUND
    keys = _random_keys(seed, ops.shape(matched_gt_index)[-1])  # [..., K]
    num_positives = ops.minimum(_count(positive), int(num * positive_fraction))  # [..., 1]
    num_negatives = ops.minimum(_count(negative), num - num_positives)
    return _draw(positive, keys, num_positives, num), _draw(negative, keys, num_negatives, num)


def sample_indices(positive_mask, negative_mask, num: int):
    """The places of a sample, positives first, each kind in order.

    Args:
        positive_mask: [..., K] bool.
        negative_mask: [..., K] bool.
        num: length of the list; what is beyond it is left out.

    Returns:
        index: [..., num] int32, places in K; 0 where not valid.
        valid: [..., num] bool.
    """
    order = ops.where(positive_mask, 2.0, ops.where(negative_mask, 1.0, 0.0))
    count = ops.shape(order)[-1]  # a tensor where not static
    missing = max(0, num - count) if isinstance(count, int) else ops.maximum(0, num - count)
    order = ops.pad(order, [[0, 0]] * (len(order.shape) - 1) + [[0, missing]])
    value, index = ops.top_k(order, num)
    valid = value > 0
    return ops.where(valid, ops.cast(index, "int32"), 0), valid


def largest(x, limit: int):
    """The `limit` largest numbers of the last axis, or all of fewer, and their places, int32."""
    count = ops.shape(x)[-1]  # a tensor where not static
    k = min(limit, count) if isinstance(count, int) else ops.minimum(limit, count)
    values, places = ops.top_k(x, k)
    return values, ops.cast(places, "int32")


def _count(mask):
    return ops.sum(ops.cast(mask, "int32"), axis=-1, keepdims=True)


def _draw(mask, keys, count, most: int):
    """The `count` [..., 1] places of `mask` with the largest keys, of equal keys the first."""
    keys = ops.where(mask, keys, -1.0)
    values, places = largest(keys, most)
    last = ops.maximum(count - 1, 0)
    value = ops.take_along_axis(values, last, axis=-1)  # [..., 1]
    place = ops.take_along_axis(places, last, axis=-1)
    first = ops.arange(ops.shape(keys)[-1], dtype="int32") <= place
    return mask & (count > 0) & ((keys > value) | ((keys == value) & first))


def _random_keys(seed, count: int):
    """Random whole numbers in [0, 2 ** 24), float32: seeds [..., 2] to [..., count].

    A hash of seed and place, since `keras.random` takes no seed that is a tensor, and draws
    numbers that depend on the backend and on the other rows of a batch.
    """
    seed = ops.cast(seed, "uint32")[..., None]
    row = _hash(_hash(seed[..., 0, :]) + seed[..., 1, :])  # [..., 1]
    place = _hash(ops.cast(ops.arange(count, dtype="int32"), "uint32"))
    return ops.cast(ops.bitwise_right_shift(_hash(ops.bitwise_xor(place, row)), 8), "float32")


def _hash(x):
    """The finaliser of MurmurHash3 on uint32, a bijection that changes half of all bits."""
    x = x + ops.convert_to_tensor(0x9E3779B9, dtype="uint32")  # 0 is a fixed point otherwise
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, shift))
        x = x * ops.convert_to_tensor(factor, dtype="uint32")
    return x
