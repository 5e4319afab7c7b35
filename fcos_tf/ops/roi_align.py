"""RoIAlign: features of boxes by bilinear sampling (Mask R-CNN, section 3), from a pyramid.

A box is divided into S x S bins, each bin is the mean over a grid of samples, each sample the
bilinear interpolation of four cells. Rows and columns separate: a bin is a weighted sum of T x T
cells, with T weights for rows and T for columns.

Shape shorthand: B images, R boxes, C channels, L levels, S bins, T cells of a bin along an axis,
N cells of an image over all levels.
"""

import math
from collections.abc import Sequence

import keras
from keras import ops

from fcos_tf.ops.boxes import box_area
from fcos_tf.ops.dtypes import at_least_float32

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

# Added to the side before its logarithm, and to the level afterwards.
LEVEL_EPSILONS = {"torchvision": (0.0, 1e-6), "detectron2": (1e-8, 0.0), "none": (0.0, 0.0)}
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4
MAX_SAMPLES = 6  # 42 cells, such as a box of 1333 pixels at stride 32


def multilevel_roi_align(
    features: Sequence,
    boxes,
    scales: Sequence[float],
    *,
    output_size: int = 7,
    sampling_ratio: int = 2,
    aligned: bool = False,
    level_epsilon: str = "torchvision",
    jit_compile: bool = True,
):
    """Features of boxes, each from the level of its size, as in torchvision and detectron2.

    A sample outside the map by more than one cell counts 0; up to one cell outside it takes the
    value of the border. The gradient reaches the features alone.

    Beside the result and one copy of the maps, TensorFlow on a CPU needs about 70 bytes for each of
    the S * S * T * T weights of a box: 55 MB for 1000 boxes at a sampling ratio of 2, where T is 4.
    XLA fuses gathering and summing. TensorFlow alone on a GPU holds two times S * S * T * T * C
    numbers, 1.6 MB a box at 256 channels.

    Args:
        features: L maps [B, Hl, Wl, C] float, finest first.
        boxes: [B, R, 4] float, xyxy pixels, finite, R static.
        scales: of each level, cells per pixel: 1 / stride.
        output_size: S.
        sampling_ratio: samples of a bin along each axis; 0: as many as the bin measures in cells,
            rounded up, at most `MAX_SAMPLES`.
        aligned: whether the centre of the first cell lies at half a cell (detectron2), in place
            of 0; otherwise a box measures at least one cell (torchvision).
        level_epsilon: rounding of levels, see `box_levels`.
        jit_compile: whether XLA may compile the caller, or another system takes over its graph.
            False is faster on a CPU.

    Returns:
        [B, R, S, S, C] of the features' dtype.
    """
    sizes = [ops.shape(x)[1:3] for x in features]
    channels = features[0].shape[-1]
    batch = ops.shape(boxes)[0]
    cells = ops.concatenate([ops.reshape(x, (batch, -1, channels)) for x in features], axis=1)
    num_cells = ops.shape(cells)[1]
    cells = ops.reshape(cells, (-1, channels))  # [B * N, C]

    level = box_levels(boxes, scales, epsilon=level_epsilon)  # [B, R]
    offsets = [0]
    for rows, columns in sizes[:-1]:
        offsets.append(offsets[-1] + rows * columns)
    image = ops.arange(batch, dtype="int32")[:, None] * num_cells  # [B, 1]
    first = image + _of_level(offsets, level, "int32")
    rows, columns = (_of_level([size[k] for size in sizes], level, "int32") for k in (0, 1))
    dtype = at_least_float32(cells.dtype)
    boxes = ops.cast(ops.stop_gradient(boxes), dtype)
    boxes = boxes * _of_level(scales, level, dtype)[..., None] - (0.5 if aligned else 0.0)

    def axis(low, high, size):
        return _axis_cells(low, high, size, output_size, sampling_ratio, aligned)  # [B, R, S, T]

    y, y_weights = axis(boxes[..., 1], boxes[..., 3], rows)
    x, x_weights = axis(boxes[..., 0], boxes[..., 2], columns)
    y = first[..., None, None] + y * columns[..., None, None]

    index = y[:, :, :, None, :, None] + x[:, :, None, :, None, :]  # [B, R, S, S, T, T]
    weights = y_weights[:, :, :, None, :, None] * x_weights[:, :, None, :, None, :]
    taps = weights.shape[-1] ** 2
    index, weights = (ops.reshape(z, (-1, taps)) for z in (index, weights))
    add = _sparse_sum if not jit_compile and _is_tensorflow_on_cpu() else _portable_sum
    pooled = ops.cast(add(cells, index, weights), cells.dtype)  # [B * R * S * S, C]
    return ops.reshape(pooled, (batch, -1, output_size, output_size, channels))


def _portable_sum(cells, index, weights):
    """Weighted sums of rows of cells: [N, C], [P, T * T] and [P, T * T] to [P, C]."""
    gathered = ops.cast(ops.take(cells, index, axis=0), weights.dtype)  # [P, T * T, C]
    return ops.sum(gathered * weights[..., None], axis=1)


def _sparse_sum(cells, index, weights):
    """`_portable_sum` by TensorFlow's product with a matrix in CSR form. This gathers nothing.

    It runs on all cores. The gradient is a product with the transposed matrix, in which each cell
    belongs to one thread: no copies of the maps, and always the same order of a sum.
    """
    used = tf.where(weights != 0.0)  # [n, 2], place and number of a weight
    places = tf.stack([used[:, 0], tf.cast(tf.gather_nd(index, used), tf.int64)], axis=-1)
    values = tf.stop_gradient(tf.gather_nd(weights, used))
    shape = tf.cast([tf.shape(index)[0], tf.shape(cells)[0]], tf.int64)

    # Made twice: neither a SavedModel nor a tape outside of the graph takes a CSR matrix from the
    # forward pass to the gradient.
    def matrix():
        return tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=places, values=values, dense_shape=shape
        )

    @tf.custom_gradient
    def product(cells):
        def gradient(upstream):
            transposed = tf.raw_ops.SparseMatrixTranspose(input=matrix(), type=upstream.dtype)
            return tf.raw_ops.SparseMatrixMatMul(a=transposed, b=upstream)

        return tf.raw_ops.SparseMatrixMatMul(a=matrix(), b=cells), gradient

    return product(tf.cast(cells, weights.dtype))


def _is_tensorflow_on_cpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    return not any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))


def box_levels(boxes, scales: Sequence[float], *, epsilon: str = "torchvision"):
    """The level of each box by its size: 4 for 224 pixels, one more for twice as much (FPN, eq. 1).

    Args:
        boxes: [..., 4] float, xyxy pixels.
        scales: of L consecutive levels, 1 / stride, from level -log2(scale) on.
        epsilon: "torchvision" adds 1e-6 to the level before rounding down, "detectron2" 1e-8 to
            the relative size, "none" nothing.

    Returns:
        [...] int32, index of the level, 0 to L - 1.
    """
    inside, outside = LEVEL_EPSILONS[epsilon]
    size = ops.sqrt(box_area(boxes)) / CANONICAL_SIZE
    level = ops.floor(CANONICAL_LEVEL + ops.log2(size + inside) + outside)
    lowest = round(-math.log2(scales[0]))
    return ops.cast(ops.clip(level - lowest, 0, len(scales) - 1), "int32")


def _of_level(values, level, dtype):
    """The value of each box's level: L numbers and [B, R] to [B, R]."""
    values = ops.stack([ops.cast(value, dtype) for value in values])
    return ops.take(values, level, axis=0)


def _axis_cells(low, high, size, output_size, sampling_ratio, aligned):
    """Cells of each bin along an axis, and their weights, of sides [B, R] in cells of a map.

    Returns:
        index [B, R, S, T] int32 and weights [B, R, S, T] float, T twice the number of samples.
    """
    length = high - low
    if not aligned:
        length = ops.maximum(length, 1.0)
    length = (length / output_size)[..., None, None]  # [B, R, 1, 1], of a bin
    count, most = ops.convert_to_tensor(sampling_ratio, low.dtype), sampling_ratio or MAX_SAMPLES
    if not sampling_ratio:
        count = ops.clip(ops.ceil(length), 0.0, MAX_SAMPLES)
    sample = ops.arange(most, dtype=low.dtype)
    step = length / ops.maximum(count, 1.0)
    bins = ops.arange(output_size, dtype=low.dtype)[:, None]
    position = low[..., None, None] + bins * length + (sample + 0.5) * step  # [B, R, S, samples]
    size = size[..., None, None]
    limit = ops.cast(size, low.dtype)
    counts = (position >= -1.0) & (position <= limit) & (sample < count)
    position = ops.clip(position, 0.0, limit - 1.0)
    index = ops.cast(position, "int32")
    part = position - ops.cast(index, low.dtype)
    share = ops.where(counts, 1.0 / ops.maximum(count, 1.0), 0.0)
    index = ops.concatenate([index, ops.minimum(index + 1, size - 1)], axis=-1)
    return index, ops.concatenate([share * (1.0 - part), share * part], axis=-1)
