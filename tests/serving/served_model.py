"""An exported model as TensorFlow Serving runs it: JSON in, JSON out.

Forms and messages follow tensorflow/serving's g3doc/api_rest.md and util/json_tensor.cc. As there,
the model is loaded into a graph without Python and run by a session, from what saved_model.pb alone
says.
"""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format


class RequestError(Exception):
    """What is answered with an HTTP status that is not 200."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class ServedModel:
    """The newest version of a model.

    Args:
        name: what it is called in addresses.
        base_path: the folder that holds the versions.
    """

    def __init__(self, name: str, base_path: Path):
        self.name = name
        self.version = max(int(p.name) for p in base_path.iterdir() if p.name.isdecimal())
        with tf.Graph().as_default() as graph:
            self._session = tf.compat.v1.Session(graph=graph)
            folder = str(base_path / str(self.version))
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], folder)
        self._signatures = meta_graph.signature_def

    def status(self) -> dict:
        """GET /v1/models/NAME."""
        status = {"error_code": "OK", "error_message": ""}
        version = {"version": str(self.version), "state": "AVAILABLE", "status": status}
        return {"model_version_status": [version]}

    def metadata(self) -> dict:
        """GET /v1/models/NAME/metadata."""
        signatures = {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, signature in self._signatures.items()
        }
        return {
            "model_spec": {
                "name": self.name,
                "signature_name": "",
                "version": str(self.version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}},
        }

    def predict(self, request: Any) -> dict:
        """POST /v1/models/NAME:predict.

        Raises:
            RequestError: the request is not of that form.
            tf.errors.OpError: the model refuses it.
        """
        if not isinstance(request, dict):
            raise RequestError(f"JSON Value: {_short(request)} Is not object")
        name = request.get("signature_name", "serving_default")
        if not isinstance(name, str):
            raise RequestError("'signature_name' key must be a string value.")
        if name not in self._signatures:
            raise RequestError(f'Serving signature name: "{name}" not found in signature def')
        signature = self._signatures[name]
        form = [key for key in ("instances", "inputs") if key in request]
        if not form:
            raise RequestError("Missing 'inputs' or 'instances' key")
        if len(form) == 2:
            raise RequestError("expecting only one of 'inputs' or 'instances' keys to exist")
        by_row = form == ["instances"]
        columns = (_columns_of_rows if by_row else _columns)(request[form[0]], signature.inputs)
        feed = {}
        for key, info in signature.inputs.items():
            array = to_array(columns[key], tf.as_dtype(info.dtype), key)
            expected = tf.TensorShape(info.tensor_shape)
            if not expected.is_compatible_with(array.shape):
                raise RequestError(f"{key}: expected shape {expected}, got {list(array.shape)}")
            feed[info.name] = array
        fetches = {key: info.name for key, info in signature.outputs.items()}
        found = self._session.run(fetches, feed)
        outputs = {key: _to_json(key, value) for key, value in found.items()}
        if by_row:
            if len({len(value) for value in outputs.values()}) > 1:
                raise RequestError("outputs have inconsistent batch sizes")
            rows = [
                dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)
            ]
            return {"predictions": rows if len(outputs) > 1 else next(iter(outputs.values()))}
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}


def _is_bytes(value):
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_object(value):
    return isinstance(value, dict) and not _is_bytes(value)


def _columns_of_rows(rows, inputs):
    """The input tensors, nested lists by name, of "instances"."""
    if not isinstance(rows, list) or not rows:
        raise RequestError("Excepting 'instances' to be an list/array with values")
    if not _is_object(rows[0]):
        if len(inputs) > 1:
            raise RequestError(
                "instances is a plain list, but expecting list of objects as multiple input "
                "tensors required as per tensorinfo_map"
            )
        if any(map(_is_object, rows)):
            raise RequestError("Expecting value/list but got object in input list")
        return dict.fromkeys(inputs, rows)
    for i, row in enumerate(rows):
        if not _is_object(row):
            raise RequestError(f"Expecting object but got list at item {i} of input list")
        if row.keys() != set(inputs):
            raise RequestError(
                f"Failed to process element: {i} of 'instances' list. JSON object: {_short(row)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {name: [row[name] for row in rows] for name in inputs}


def _columns(values, inputs):
    """The input tensors, nested lists by name, of "inputs"."""
    if not _is_object(values):
        if len(inputs) > 1:
            raise RequestError("inputs is a plain value/list, but expecting an object")
        return dict.fromkeys(inputs, values)
    for name in inputs:
        if name not in values:
            raise RequestError(f"Missing named input: {name} in 'inputs' object.")
    return values


def to_array(value: Any, dtype: tf.DType, name: str) -> np.ndarray:
    """An array of nested lists of one depth, whose elements are of one kind.

    Raises:
        RequestError: they are not; names the input.
    """
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    elements = [value]
    for size in shape:
        for element in elements:
            if not isinstance(element, list) or len(element) != size:
                got = len(element) if isinstance(element, list) else _short(element)
                raise RequestError(
                    f"{name}: Encountered list at unexpected size: {got} expected size: {size}"
                )
        elements = [inner for element in elements for inner in element]
    kinds = {tf.bool: (bool,), tf.string: (str, dict)}.get(
        dtype, (int,) if dtype.is_integer else (int, float)
    )
    for element in elements:
        if type(element) not in kinds:
            raise RequestError(
                f"{name}: JSON Value: {_short(element)} is not of expected type: {dtype.name}"
            )
    if dtype == tf.string:
        elements = [_to_bytes(element, name) for element in elements]
    try:
        return np.array(elements, dtype.as_numpy_dtype).reshape(shape)
    except OverflowError as error:
        raise RequestError(f"{name}: {error}") from error


def _to_bytes(element, name):
    if isinstance(element, str):
        return element.encode()
    if not _is_bytes(element):
        raise RequestError(f"{name}: not formatted correctly for base64 data")
    try:
        return base64.b64decode(element["b64"], validate=True)
    except ValueError as error:
        raise RequestError(f"{name}: Unable to base64 decode") from error


def _to_json(name, value):
    """Lists of a tensor; of strings, those named _bytes become base64."""
    if value.dtype != object:
        return value.tolist()
    encode = (
        (lambda text: {"b64": base64.b64encode(text).decode()})
        if name.endswith("_bytes")
        else bytes.decode
    )
    return np.vectorize(encode, otypes=[object])(value).tolist()


def _short(value):
    text = str(value)
    return text if len(text) < 100 else f"{text[:100]}..."
