"""A detector in a .tflite file, as an `OpenedModel`."""

import os
import warnings
import zipfile
from pathlib import Path

import numpy as np

from fcos_tf.detecting.exported import DESCRIPTION_FILE
from fcos_tf.detecting.resized import ResizedModel, opening

_MOST_BYTES = 1 << 24  # of the description; the file need not be trusted


class LiteRtModel(ResizedModel):
    """A .tflite file that `export_litert` wrote; runs on the CPU, image by image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of such an export.
    """

    runtime = "LiteRT"

    def __init__(self, file: str | Path):
        file = Path(file)
        with opening("--litert", file):
            with zipfile.ZipFile(file) as archive:
                if archive.getinfo(DESCRIPTION_FILE).file_size > _MOST_BYTES:
                    raise ValueError(f"expected a description of at most {_MOST_BYTES} bytes")
                super().__init__(archive.read(DESCRIPTION_FILE).decode(), file)
            self._run = open_interpreter(model_path=str(file)).get_signature_runner()
            shape = tuple(self._run.get_input_details()["images"]["shape"])
            if shape != (1, *(self._size.canvas or ()), 3):
                raise ValueError(f"expected images of the size {self._size.canvas}, got {shape}")

    def run(self, inputs):
        """See `ResizedModel`."""
        found = [
            self._run(**{name: x[i : i + 1] for name, x in inputs.items()})
            for i in range(len(inputs["images"]))
        ]
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def open_interpreter(**source):
    """An interpreter of `model_path` or `model_content`: that of the package ai-edge-litert.

    Where it is not installed, that of TensorFlow, which is deprecated.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        from tensorflow import lite as interpreter
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*tf\.lite\.Interpreter is deprecated")
        return interpreter.Interpreter(**source, num_threads=os.cpu_count())
