"""Packages that only some formats need; this file does not import TensorFlow."""

import importlib

# What needs a package, and the extra of fcos_tf that has it.
_PACKAGES = {
    "onnx": ("an .onnx file needs", "onnx"),
    "onnxruntime": ("an .onnx file needs", "onnx"),
    "openvino": ("an OpenVINO file needs", "openvino"),
    "nncf": ("calibration: 8 bits need", "openvino"),
}


def import_package(name: str):
    """One of the `_PACKAGES`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        needs, extra = _PACKAGES[name]
        raise ValueError(
            f"{needs} the package {name}: pip install 'fcos_tf[{extra}]' ({error})"
        ) from error
