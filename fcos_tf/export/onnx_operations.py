"""The ONNX form of each TensorFlow operation in a detector's graph.

A form is a function of the `GraphWriter`, the operation and the names of its inputs; it returns the
name of the output, or a list of several. Forms cover what the models of this package are traced to.
Of the suppression, which is a function of its own in the graph, the form is ONNX's operator.

B images, K candidates, C labels, D detections.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from fcos_tf.export.onnx_slices import plain_slice, strided_slice

_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # channels


def _same(kind: str, **attributes) -> Callable:
    """The form of an operation that ONNX has."""
    return lambda writer, operation, *inputs: writer.add(kind, *inputs, **attributes)


def _with_int64(kind: str) -> Callable:
    """The form of an operation that ONNX has, with sizes or indices as its second input."""
    return lambda writer, operation, x, numbers: writer.add(kind, x, writer.int64(numbers))


def _channels_first(function: Callable) -> Callable:
    """A form with channels first made of one of the values so transposed."""

    def form(writer, operation, x, *inputs):
        x = writer.add("Transpose", x, perm=_FIRST)
        return writer.add("Transpose", function(writer, operation, x, *inputs), perm=_LAST)

    return form


def _window(operation, size: Sequence[int], dilations: Sequence[int] = (1, 1)) -> dict:
    """Attributes of ONNX' convolutions and pools, for a window of this size."""
    found = {"strides": operation.get_attr("strides")[1:3]}
    padding = operation.get_attr("padding").decode()
    if padding == "EXPLICIT":
        _, _, top, bottom, left, right, *_ = operation.get_attr("explicit_paddings")
        return found | {"pads": [top, left, bottom, right]}
    if padding == "SAME" and found["strides"] == [1, 1]:  # of any image size
        sums = [(side - 1) * step for side, step in zip(size, dilations, strict=True)]
        return found | {"pads": [n // 2 for n in sums] + [n - n // 2 for n in sums]}
    return found | {"auto_pad": {"SAME": "SAME_UPPER", "VALID": "VALID"}[padding]}


@_channels_first
def _convolution(writer, operation, x, kernel):
    weights = writer.known(kernel)  # [h, w, in of a group, out]
    if weights is None:
        raise ValueError(f"{operation.name}: expected a constant kernel")
    channels = operation.inputs[0].shape[-1]
    if operation.type == "DepthwiseConv2dNative":
        groups, weights = channels, weights.reshape(*weights.shape[:2], 1, -1)
    else:
        groups = channels // weights.shape[2]
    dilations = operation.get_attr("dilations")[1:3]
    return writer.add(
        "Conv",
        x,
        np.ascontiguousarray(weights.transpose(3, 2, 0, 1)),
        group=groups,
        dilations=dilations,
        **_window(operation, weights.shape[:2], dilations),
    )


def _bias(writer, operation, x, bias):
    """The third input of a convolution just before, which nothing else reads; or a sum."""
    transposed = writer.producers.get(x)
    convolved = transposed and writer.producers.get(transposed.input[0])
    if (
        len(operation.inputs[0].consumers()) == 1
        and writer.known(bias) is not None
        and convolved
        and convolved.op_type == "Conv"
        and len(convolved.input) == 2
    ):
        convolved.input.append(bias)
        return x
    return writer.add("Add", x, bias)


@_channels_first
def _pool(writer, operation, x):
    kind = {"MaxPool": "MaxPool", "AvgPool": "AveragePool"}[operation.type]
    size = operation.get_attr("ksize")[1:3]
    return writer.add(kind, x, kernel_shape=size, **_window(operation, size))


@_channels_first
def _resize(writer, operation, x, size):
    fixed = writer.add("Slice", writer.add("Shape", x), np.array([0]), np.array([2]))
    sizes = writer.add("Concat", fixed, writer.int64(size), axis=0)
    grid = "asymmetric"
    if operation.get_attr("align_corners"):
        grid = "align_corners"
    elif operation.get_attr("half_pixel_centers"):
        grid = "half_pixel"
    mode = {"mode": "linear"}
    if operation.type == "ResizeNearestNeighbor":
        nearest = "round_prefer_ceil" if grid == "half_pixel" else "floor"
        mode = {"mode": "nearest", "nearest_mode": nearest}
    return writer.add("Resize", x, "", "", sizes, coordinate_transformation_mode=grid, **mode)


def _pad(writer, operation, x, paddings, value=None):
    known = writer.known(paddings)  # [rank, 2]
    if known is None:
        pairs = writer.add("Transpose", writer.int64(paddings), perm=[1, 0])
        befores_then_afters = writer.add("Reshape", pairs, np.array([-1]))
    else:
        befores_then_afters = known.T.reshape(-1).astype(int)
    return writer.add("Pad", x, befores_then_afters, *([] if value is None else [value]))


def _reshape(writer, operation, x, shape):
    sizes = operation.outputs[0].shape
    if sizes.rank is not None and list(sizes).count(None) < 2:  # one size is inferred
        return writer.add("Reshape", x, np.array([-1 if n is None else n for n in sizes], int))
    return writer.add("Reshape", x, writer.int64(shape))


def _squeeze(writer, operation, x):
    shape = operation.inputs[0].shape
    axes = operation.get_attr("squeeze_dims") or [i for i, n in enumerate(shape) if n == 1]
    return writer.add("Squeeze", x, np.array(axes))


def _expand_dims(writer, operation, x, axis):
    return writer.add("Unsqueeze", x, writer.known(axis).reshape(1).astype(int))


def _pack(writer, operation, *inputs):
    axis = operation.get_attr("axis")
    parts = [writer.add("Unsqueeze", x, np.array([axis])) for x in inputs]
    return writer.add("Concat", *parts, axis=axis)


def _unpack(writer, operation, x):
    axis, count = operation.get_attr("axis"), operation.get_attr("num")
    return [writer.add("Gather", x, np.array(i), axis=axis) for i in range(count)]


def _concat(writer, operation, *inputs):
    *parts, axis = inputs
    return writer.add("Concat", *parts, axis=int(writer.known(axis)))


def _shape(writer, operation, x):
    return writer.cast(writer.add(operation.type, x), operation.outputs[0].dtype)


def _cast(writer, operation, x):
    return writer.cast(x, operation.outputs[0].dtype)


def _transpose(writer, operation, x, order):
    return writer.add("Transpose", x, perm=writer.known(order).tolist())


def _reduce(kind: str) -> Callable:
    def form(writer, operation, x, axes):
        dtype = operation.inputs[0].dtype
        is_bool = dtype == tf.bool
        x = writer.cast(x, np.int32) if is_bool else x
        axes = writer.known(axes).reshape(-1).astype(int)
        x = writer.add(kind, x, axes, keepdims=int(operation.get_attr("keep_dims")))
        return writer.cast(x, np.bool_) if is_bool else x

    return form


def _top_k(writer, operation, x, k):
    k = writer.add("Reshape", writer.int64(k), np.array([1]))
    best, index = writer.add("TopK", x, k, outputs=2)
    return [best, writer.cast(index, operation.outputs[1].dtype)]


def _gather(writer, operation, x, index, axis):
    axis, batch = int(writer.known(axis)), operation.get_attr("batch_dims")
    if not batch:
        return writer.add("Gather", x, index, axis=axis)
    if axis != batch:
        raise ValueError(f"{operation.name}: expected axis {batch} of a gather, got {axis}")
    index = writer.add("Unsqueeze", writer.int64(index), np.array([-1]))
    return writer.add("GatherND", x, index, batch_dims=batch)


def _floor_divide(writer, operation, x, y):
    """ONNX rounds quotients of integers to 0."""
    if operation.inputs[0].dtype.is_floating:
        return writer.add("Floor", writer.add("Div", x, y))
    return writer.add("Div", writer.add("Sub", x, writer.add("Mod", x, y)), y)


def _matmul(writer, operation, x, y):
    names = ("transpose_a", "transpose_b")
    if operation.type != "MatMul":
        names = ("adj_x", "adj_y")
    rank = operation.inputs[0].shape.rank
    order = [*range(rank - 2), rank - 1, rank - 2]
    x, y = (
        writer.add("Transpose", each, perm=order) if operation.get_attr(name) else each
        for each, name in zip((x, y), names, strict=True)
    )
    return writer.add("MatMul", x, y)


def suppress(writer, operation, boxes, scores, labels, iou_threshold):
    """Indices [B, D] and validity [B, D], see `ops.nms`.

    ONNX suppresses within each row of [B, C, K] scores; a candidate counts in that of its label. Of
    equal scores the first is better, in the operator and in `TopK`.
    """
    most = operation.outputs[0].shape[1]  # D
    classes = np.arange(writer.num_labels, dtype=np.int32)[:, None]
    is_own = writer.add("Equal", writer.add("Unsqueeze", labels, np.array([1])), classes)
    by_class = writer.add(
        "Where", is_own, writer.add("Unsqueeze", scores, np.array([1])), np.float32(0)
    )  # [B, C, K]
    chosen = writer.add(
        "NonMaxSuppression", boxes, by_class, np.array([most]),
        writer.known(iou_threshold).reshape(1), np.zeros(1, np.float32),
    )  # fmt: skip
    chosen = writer.add("Gather", chosen, np.array([0, 2]), axis=1)  # (image, candidate)
    count = writer.add("Slice", writer.add("Shape", chosen), np.array([0]), np.array([1]))
    nothing = writer.add("Mul", scores, np.float32(0))
    kept = writer.add("ScatterND", nothing, chosen, writer.add("Expand", np.float32(1), count))
    kept = writer.add("Mul", scores, kept)
    kept = writer.add("Pad", kept, np.array([0, 0, 0, most]))  # at least D
    best, index = writer.add("TopK", kept, np.array([most]), outputs=2)
    valid = writer.add("Greater", best, np.float32(0))
    index = writer.add("Where", valid, index, np.array(0))
    return [writer.cast(index, np.int32), valid]


FORMS: dict[str, Callable] = {
    **{
        name: _same(kind)
        for name, kind in {
            "AddV2": "Add", "RealDiv": "Div", "Maximum": "Max", "Minimum": "Min",
            "LessEqual": "LessOrEqual", "GreaterEqual": "GreaterOrEqual", "LogicalAnd": "And",
            "LogicalOr": "Or", "LogicalNot": "Not", "SelectV2": "Where",
            "StopGradient": "Identity", "FloorMod": "Mod",
        }.items()
    },
    **{
        name: _same(name)
        for name in (
            "Sub", "Mul", "Pow", "Neg", "Abs", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Round",
            "Sigmoid", "Tanh", "Relu", "Softplus", "Equal", "Less", "Greater", "Identity", "Range",
        )
    },
    "Relu6": lambda writer, _, x: writer.add("Clip", x, np.float32(0), np.float32(6)),
    "Square": lambda writer, _, x: writer.add("Mul", x, x),
    "Rsqrt": lambda writer, _, x: writer.add("Reciprocal", writer.add("Sqrt", x)),
    "NotEqual": lambda writer, _, x, y: writer.add("Not", writer.add("Equal", x, y)),
    "Softmax": _same("Softmax", axis=-1),
    "FloorDiv": _floor_divide,
    "Conv2D": _convolution, "DepthwiseConv2dNative": _convolution, "BiasAdd": _bias,
    "MaxPool": _pool, "AvgPool": _pool,
    "ResizeBilinear": _resize, "ResizeNearestNeighbor": _resize,
    "MatMul": _matmul, "BatchMatMulV2": _matmul,
    "Pad": _pad, "PadV2": _pad, "Reshape": _reshape, "Squeeze": _squeeze,
    "ExpandDims": _expand_dims, "Pack": _pack, "Unpack": _unpack, "ConcatV2": _concat,
    "Tile": _with_int64("Tile"), "BroadcastTo": _with_int64("Expand"),
    "Fill": lambda writer, _, shape, x: writer.add("Expand", x, writer.int64(shape)),
    "Shape": _shape, "Size": _shape, "Cast": _cast, "Transpose": _transpose,
    "Sum": _reduce("ReduceSum"), "Mean": _reduce("ReduceMean"), "Max": _reduce("ReduceMax"),
    "Min": _reduce("ReduceMin"), "All": _reduce("ReduceMin"), "Any": _reduce("ReduceMax"),
    "TopKV2": _top_k, "GatherV2": _gather, "GatherNd": _with_int64("GatherND"),
    "Slice": plain_slice, "StridedSlice": strided_slice,
}  # fmt: skip
