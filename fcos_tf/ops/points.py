"""Points of a feature pyramid, and boxes as distances from them (FCOS, section 3.1).

Shape shorthand: B images, N points over all levels, L levels.

    points       [N, 2] (x, y) in pixels of the image
    ltrb         [..., N, 4] distances from a point to the left, top, right and bottom side of a
                 box, in units of the point's stride
"""

from collections.abc import Sequence

from keras import ops

from fcos_tf.ops.boxes import EPSILON


def grid_sizes(height, width, strides: Sequence[int]) -> list:
    """Height and width of each feature map: the image's, divided by the stride, rounded up.

    A chain of stride-2 convolutions with padding 1 gives these, for even and odd sizes.

    Args:
        height: image height in pixels, a Python int or a scalar int tensor.
        width: image width in pixels, likewise.
        strides: L strides in pixels.

    Returns:
        L pairs (rows, columns), of the same type.
    """
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def pyramid_points(grids, strides: Sequence[int], *, offset: float = 0.5, image_size=None):
    """The point of every cell of every level, row by row, level after level.

    The cell in column i and row j of a level of stride s stands for the image point
    (i * s + s / 2, j * s + s / 2), as in section 3.1 of the paper.

    Args:
        grids: L pairs (rows, columns), see `grid_sizes`.
        strides: L strides in pixels.
        offset: position of the point in its cell: 0.5 the middle, 0 the upper left corner.
        image_size: (height, width); cells then measure image side // grid side, as in torchvision,
            in place of a stride. None: a stride.

    Returns:
        points: [N, 2] float32, (x, y) in pixels.
        point_strides: [N] float32, the stride of each point's level.
    """
    points, point_strides = [], []
    for grid, stride in zip(grids, strides, strict=True):
        cells = (stride, stride)
        if image_size is not None:
            cells = [side // count for side, count in zip(image_size, grid, strict=True)]
        y, x = (
            (ops.arange(count, dtype="float32") + offset) * ops.cast(cell, "float32")
            for count, cell in zip(grid, cells, strict=True)
        )
        grid_x, grid_y = ops.meshgrid(x, y)  # [rows, columns]
        level = ops.reshape(ops.stack([grid_x, grid_y], axis=-1), [-1, 2])
        points.append(level)
        point_strides.append(ops.full_like(level[:, 0], stride))
    return ops.concatenate(points, axis=0), ops.concatenate(point_strides, axis=0)


def encode_ltrb(points, point_strides, boxes):
    """Distances from points to the sides of boxes, in strides; the inverse of `decode_ltrb`.

    Args:
        points: [N, 2] float, pixels.
        point_strides: [N] float, pixels.
        boxes: [..., N, 4] float, xyxy pixels, one box for each point.

    Returns:
        [..., N, 4] float. Negative where the point lies outside its box.
    """
    distances = ops.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
    return distances / point_strides[:, None]


def decode_ltrb(points, point_strides, ltrb):
    """Boxes from distances in strides.

    Args:
        points: [..., N, 2] float, pixels.
        point_strides: [..., N] float, pixels.
        ltrb: [..., N, 4] float, in strides.

    Returns:
        [..., N, 4] float, xyxy pixels.
    """
    strides = point_strides[..., None]
    # Slices come before products: in 8 bits OpenVINO 2026.4 slices the strides, too, which have one
    # column only.
    left_top, right_bottom = ltrb[..., :2] * strides, ltrb[..., 2:] * strides
    return ops.concatenate([points - left_top, points + right_bottom], axis=-1)


def centerness(ltrb):
    """Centerness of a point in its box: 1 in the middle, 0 on a side (equation 3).

        sqrt( min(l, r) / max(l, r) * min(t, b) / max(t, b) )

    Args:
        ltrb: [..., 4] float, distances in any one unit.

    Returns:
        [...] float in [0, 1]; 0, and never NaN, for points outside their box.
    """
    left_top, right_bottom = ops.maximum(ltrb[..., :2], 0), ops.maximum(ltrb[..., 2:], 0)
    larger = ops.maximum(ops.maximum(left_top, right_bottom), EPSILON)
    ratios = ops.minimum(left_top, right_bottom) / larger  # [..., 2]
    return ops.sqrt(ratios[..., 0] * ratios[..., 1])
