"""Boxes as four numbers (x1, y1, x2, y2): areas, overlaps, clipping.

Edges are continuous: width = x2 - x1, without the "+1" of pixel-index conventions.

Shape shorthand: M, K numbers of boxes; `...` any leading dimensions.
"""

from keras import ops

EPSILON = 1e-7


def box_area(boxes):
    """Area of each box; 0 where a side would be negative.

    Args:
        boxes: [..., 4] float, xyxy.

    Returns:
        [...] float, in squared units of `boxes`.
    """
    width = ops.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = ops.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def paired_iou(boxes_a, boxes_b):
    """Intersection over union of the boxes at equal positions (broadcasting).

    Args:
        boxes_a: [..., 4] float, xyxy.
        boxes_b: [..., 4] float, xyxy.

    Returns:
        [...] float in [0, 1]; 0 for two boxes without area.
    """
    a, b = boxes_a, boxes_b
    width = ops.minimum(a[..., 2], b[..., 2]) - ops.maximum(a[..., 0], b[..., 0])
    height = ops.minimum(a[..., 3], b[..., 3]) - ops.maximum(a[..., 1], b[..., 1])
    intersection = ops.maximum(width, 0) * ops.maximum(height, 0)
    union = box_area(a) + box_area(b) - intersection
    return intersection / ops.where(union == 0, 1.0, union)


def pairwise_iou(boxes_a, boxes_b):
    """Intersection over union of every box of one set with every box of another.

    Args:
        boxes_a: [..., K, 4] float, xyxy.
        boxes_b: [..., M, 4] float, xyxy.

    Returns:
        [..., K, M] float in [0, 1]; 0 for two boxes without area.
    """
    return paired_iou(boxes_a[..., :, None, :], boxes_b[..., None, :, :])


def clip_boxes(boxes, image_sizes):
    """Clips boxes to their images.

    Args:
        boxes: [B, ..., 4] float, xyxy pixels.
        image_sizes: [B, 2] float, (height, width) of each image.

    Returns:
        [B, ..., 4] float, every x in [0, width] and every y in [0, height].
    """
    sizes = ops.cast(image_sizes, boxes.dtype)
    limits = ops.stack([sizes[:, 1], sizes[:, 0], sizes[:, 1], sizes[:, 0]], axis=-1)  # [B, 4]
    for _ in range(len(boxes.shape) - 2):
        limits = ops.expand_dims(limits, 1)  # [B, 1..., 4]
    return ops.minimum(ops.maximum(boxes, 0), limits)
