"""The network of a LiteRT file in 8 bits: which operations, and the converter's calls for it.

Convolutions are quantised, and what lies between them and only moves, adds or clips numbers. All
else stays float32:

- the last convolutions, as 8 bits of a distance are pixels of a large box;
- norms: the variance of a group needs more than 256 values;
- the steps after the network.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_BETWEEN = {
    "ADD", "AVERAGE_POOL_2D", "BROADCAST_TO", "CONCATENATION", "MAX_POOL_2D", "PAD", "RELU",
    "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "STRIDED_SLICE", "TILE",
    "TRANSPOSE",
}  # fmt: skip


def quantise(
    converter: tf.lite.TFLiteConverter, batches: Iterable[Mapping[str, np.ndarray]]
) -> tuple[bytes, bytes]:
    """Converts to a file with 8 bits in the network.

    Args:
        converter: of a SavedModel, without optimizations.
        batches: inputs of the model to calibrate on, by name.

    Returns:
        The file in float32, which was calibrated, and in 8 bits.
    """
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(batches)
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter)
    whole = debugger.calibrated_model
    debugger.calibrated_model, names = _choose(whole)
    debugger.options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=names,
        denylisted_ops=["TOPK_V2"],  # two outputs, so no name that is looked for
    )
    return whole, debugger.get_nondebug_quantized_model()


def _choose(content: bytes) -> tuple[bytes, list[str]]:
    """Chooses the operations of a calibrated file that stay float32.

    Returns:
        The file without the calibrated ranges of what only such operations read: the converter
        rounds a tensor with a range to 8 bits even between two of them. And the names of their
        outputs.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    quantised = _quantised(model)
    read = {i for k in quantised for i in graph.operators[k].inputs}
    names = []
    for k, operation in enumerate(graph.operators):
        if k not in quantised:
            names += [graph.tensors[i].name.decode() for i in operation.outputs]
            for i in set(operation.outputs) - read:
                graph.tensors[i].quantization = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), names


def _quantised(model) -> set[int]:
    """The places, in the order of a file, of its operations to quantise."""
    graph = model.subgraphs[0]
    kinds = [flatbuffer_utils.opcode_to_name(model, x.opcodeIndex) for x in graph.operators]

    def inputs(operation):
        return {i for i in operation.inputs if i >= 0 and not is_constant(graph.tensors[i])}

    def is_constant(tensor):
        data = model.buffers[tensor.buffer].data
        return data is not None and len(data) > 0

    into_convolutions: set[int] = set()  # tensors, over any operations
    last = []
    for kind, operation in zip(reversed(kinds), reversed(graph.operators), strict=True):
        last.append(into_convolutions.isdisjoint(operation.outputs))
        if kind in _CONVOLUTIONS or not last[-1]:
            into_convolutions |= inputs(operation)

    places: set[int] = set()
    tensors: set[int] = set()
    for k, (kind, operation) in enumerate(zip(kinds, graph.operators, strict=True)):
        given = inputs(operation)
        between = kind in _BETWEEN and given and given <= tensors
        if not last[-1 - k] and (kind in _CONVOLUTIONS or between):
            places.add(k)
            tensors |= set(operation.outputs)
    return places
