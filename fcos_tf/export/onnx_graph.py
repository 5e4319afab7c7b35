"""Writes a traced TensorFlow function as an ONNX graph, operation by operation.

    operations in the order of their trace -> nodes by `onnx_operations`, constants where TensorFlow
    knows the values -> without the nodes that no output needs

Integers keep their types; float64 becomes float32, as TensorRT has no other.
"""

import hashlib

import numpy as np
import tensorflow as tf

from fcos_tf.export.onnx_operations import FORMS, suppress
from fcos_tf.export.signatures import is_suppression

# 18: the reductions take their axes as inputs; every runtime since 2023 has it.
OPSET, IR_VERSION = 18, 8


class GraphWriter:
    """Collects nodes. A value is known by its name; constants also by their array.

    Args:
        num_labels: the number of labels that a suppression tells apart, at most.

    Example:
        >>> writer = GraphWriter(num_labels=3)
        >>> writer.known(writer.constant([2, 3]))
        array([2, 3])
    """

    def __init__(self, num_labels: int):
        self.num_labels = num_labels
        self.nodes = []
        self.producers = {}  # name of a value -> node
        self._constants: dict[str, np.ndarray] = {}
        self._names: dict[tuple, str] = {}  # type, shape, digest -> name
        self._as_int64: dict[str, str] = {}

    def constant(self, values) -> str:
        """The name of a constant; equal ones are stored once, such as a head's on each level."""
        values = np.asarray(values)
        content = hashlib.sha256(values.tobytes()).digest()
        key = values.dtype.str, values.shape, content
        name = self._names.setdefault(key, f"constant_{len(self._names)}")
        self._constants[name] = values
        return name

    def known(self, name: str) -> np.ndarray | None:
        """The array of a constant; None: not one."""
        return self._constants.get(name)

    def add(self, kind: str, *inputs, outputs: int = 1, **attributes):
        """Adds a node; its inputs are names, or arrays. Returns its output's name, or a list."""
        import onnx

        inputs = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        names = [f"{kind}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, inputs, names, **attributes))
        self.producers |= dict.fromkeys(names, self.nodes[-1])
        return names[0] if outputs == 1 else names

    def cast(self, x, dtype) -> str:
        """Adds a cast to a TensorFlow or NumPy type."""
        return self.add("Cast", x, to=onnx_type(dtype))

    def int64(self, x: str) -> str:
        """The same integers as int64, which shapes and indices have in ONNX."""
        if x not in self._as_int64:
            known = self.known(x)
            made = self.cast(x, np.int64) if known is None else self.constant(known.astype(int))
            self._as_int64[x] = made
        return self._as_int64[x]

    def write(self, function) -> dict[str, str]:
        """Adds the graph of a concrete function with a dict of outputs: their names here.

        Inputs have the names of the function's arguments.

        Raises:
            ValueError: an operation without a form in ONNX.
        """
        captured = function.captured_inputs
        count = len(function.inputs) - len(captured)
        values = {x.ref(): x.op.name for x in function.inputs[:count]}
        variables = {id(each.handle): each for each in function.variables}
        for inner, outer in zip(function.inputs[count:], captured, strict=True):
            values[inner.ref()] = self.constant(variables.get(id(outer), outer).numpy())
        for operation in function.graph.get_operations():
            if operation.type not in ("Placeholder", "NoOp"):
                names = self._operation(operation, [values[x.ref()] for x in operation.inputs])
                values |= {x.ref(): y for x, y in zip(operation.outputs, names, strict=True)}
        outputs = sorted(function.structured_outputs)  # as they are flattened
        return {name: values[x.ref()] for name, x in zip(outputs, function.outputs, strict=True)}

    def _operation(self, operation, inputs: list[str]) -> list[str]:
        if operation.type == "ReadVariableOp":
            return inputs
        static = [tf.get_static_value(x) for x in operation.outputs]
        if all(each is not None for each in static):
            return [self.constant(each) for each in static]
        form = suppress if is_suppression(operation) else FORMS.get(operation.type)
        if form is None:
            raise ValueError(f"no ONNX form of TensorFlow's operation {operation.type} is known")
        made = form(self, operation, *inputs)
        return [made] if isinstance(made, str) else made

    def model(self, inputs, outputs: dict[str, str], shapes: dict):
        """The ONNX model.

        Args:
            inputs: names and shapes of float32 inputs; a word in a shape is a free size.
            outputs: names in the model -> names here.
            shapes: names of outputs -> (type, shape).
        """
        from onnx import helper, numpy_helper

        nodes = [helper.make_node("Identity", [x], [name]) for name, x in outputs.items()]
        needed = set(outputs.values())
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        constants = [
            numpy_helper.from_array(_narrow(array), name)
            for name, array in self._constants.items()
            if name in needed
        ]
        graph = helper.make_graph(
            nodes[::-1],
            "fcos_tf",
            [helper.make_tensor_value_info(x, onnx_type(np.float32), y) for x, y in inputs.items()],
            [
                helper.make_tensor_value_info(name, onnx_type(dtype), shape)
                for name, (dtype, shape) in shapes.items()
            ],
            constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fcos_tf"
        )


def onnx_type(dtype) -> int:
    """ONNX's number of a TensorFlow or NumPy type."""
    import onnx

    dtype = np.dtype(dtype.as_numpy_dtype if isinstance(dtype, tf.DType) else dtype)
    return onnx.helper.np_dtype_to_tensor_dtype(_narrow(np.zeros((), dtype)).dtype)


def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array
