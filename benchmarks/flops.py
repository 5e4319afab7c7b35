"""Floating-point operations of a step: those of its convolutions and matrix products.

A multiply-add counts 2; biases, norms, activations, losses and the suppression do not count.
PyTorch's counter has the same rule. Products in the body of a loop count once.
"""

import math
from collections.abc import Callable

# Operation -> its kernel and the map whose every value takes a product with the kernel.
_CONVOLUTIONS: dict[str, Callable] = {
    "Conv2D": lambda op: (op.inputs[1], op.outputs[0]),
    "Conv2DBackpropInput": lambda op: (op.inputs[1], op.inputs[2]),
    "Conv2DBackpropFilter": lambda op: (op.outputs[0], op.inputs[2]),
}
_DEPTHWISE = {
    "DepthwiseConv2dNative": lambda op: (op.inputs[1], op.outputs[0]),
    "DepthwiseConv2dNativeBackpropInput": lambda op: (op.inputs[1], op.inputs[2]),
    "DepthwiseConv2dNativeBackpropFilter": lambda op: (op.outputs[0], op.inputs[2]),
}
_TRANSPOSED = {"MatMul": "transpose_a", "BatchMatMul": "adj_x", "BatchMatMulV2": "adj_x"}


def count_flops(graph) -> int | None:
    """Operations of a graph of TensorFlow, functions that it calls included.

    Args:
        graph: of a concrete function.

    Returns:
        The number; None where a shape is not static.
    """
    total = 0
    for op in _used(graph):
        try:
            total += _of_operation(op)
        except (TypeError, ValueError):  # an unknown size, an unknown rank
            return None
        for function in _called(op):
            inner = count_flops(graph._get_function(function).graph)
            if inner is None:
                return None
            total += inner
    return total


def _used(graph) -> set:
    """The operations that outputs and changes of state need: TensorFlow removes the others.

    One of them is the gradient of the first convolution for its images.
    """
    found, new = set(), [x.op for x in graph.outputs] + list(graph.control_outputs)
    while new:
        op = new.pop()
        if op not in found:
            found.add(op)
            new += [x.op for x in op.inputs] + list(op.control_inputs)
    return found


def _of_operation(op) -> int:
    if op.type in _CONVOLUTIONS:
        kernel, maps = (x.shape.as_list() for x in _CONVOLUTIONS[op.type](op))
        return 2 * math.prod(maps) * math.prod(kernel[:3])  # the last is that of the maps
    if op.type in _DEPTHWISE:
        kernel, maps = (x.shape.as_list() for x in _DEPTHWISE[op.type](op))
        return 2 * math.prod(maps) * math.prod(kernel[:2])
    if op.type in _TRANSPOSED:
        left = op.inputs[0].shape.as_list()
        inner = left[-2] if op.get_attr(_TRANSPOSED[op.type]) else left[-1]
        return 2 * math.prod(op.outputs[0].shape.as_list()) * inner
    return 0


def _called(op) -> list[str]:
    """Names of the functions that an operation calls; of branches, all."""
    found = []
    for name in op.node_def.attr:
        value = op.node_def.attr[name]
        found += [value.func.name] if value.HasField("func") else []
        found += [each.name for each in value.list.func]
    return found
