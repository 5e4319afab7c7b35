"""A detector in an .onnx file, as an `OpenedModel`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fcos_tf.detecting.packages import import_package
from fcos_tf.detecting.resized import ResizedModel, opening

DESCRIPTION_KEY = "fcos_tf"  # of the file's metadata


class OnnxModel(ResizedModel):
    """An .onnx file that `export_onnx` wrote; runs on the CPU by ONNX Runtime.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the package onnxruntime is missing, or the file is not of such an export.
    """

    runtime = "ONNX Runtime"

    def __init__(self, file: str | Path):
        import_package("onnxruntime")
        file = Path(file)
        with opening("--onnx", file):
            self._session = open_session(str(file))
            about = self._session.get_modelmeta().custom_metadata_map
            super().__init__(about[DESCRIPTION_KEY], file)

    def run(self, inputs):
        """See `ResizedModel`."""
        return run_session(self._session, inputs)


def open_session(model: str | bytes):
    """An `InferenceSession` on the CPU, from the path or the content of an .onnx file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of an `InferenceSession`."""
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
