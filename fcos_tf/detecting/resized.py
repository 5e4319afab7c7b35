"""Detectors in files that take resized pixels, OpenVINO's, ONNX and LiteRT's, as `OpenedModel`s.

They run on the CPU.
"""

import contextlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.exported import DESCRIPTION_FILE, parse_description, to_labels
from fcos_tf.detecting.models import MOST_PIXELS, OpenedModel
from fcos_tf.detecting.packages import import_package
from fcos_tf.image_size import parse_image_size
from fcos_tf.keras_files import first_lines

# Of the description in an .onnx file's metadata, and in an .xml file's run-time information.
DESCRIPTION_KEY = "fcos_tf"
# Precision of an export -> that of OpenVINO, which by itself would take a lower one.
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_MOST_BYTES = 1 << 24  # of the description in a .tflite file, which need not be trusted


class ResizedModel(OpenedModel):
    """Base of `OpenVinoModel`, `OnnxModel` and `LiteRtModel`, which give `run` and `runtime`.

    Args:
        text: the description in the file.
        file: for messages.

    Raises:
        ValueError, TypeError, KeyError or OverflowError: the description is not of such an export.
    """

    runtime: str  # its name, for messages

    def __init__(self, text: str, file: Path):
        super().__init__(*parse_description(text, file))
        read = json.loads(text)
        self._size = parse_image_size(read["image_size"]).fixed()
        self.score_threshold = float(read["score_threshold"])  # never one for each class
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"expected a score_threshold, got {self.score_threshold}")
        if max(height * width for height, width in self._size.canvases()) > MOST_PIXELS:
            raise ValueError(f"expected images of at most {MOST_PIXELS} pixels")

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the file, see `export.openvino`."""
        raise NotImplementedError

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        inputs = prepare_batch([picture.pixels for picture in pictures], self._size)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        inputs["score_threshold"] = np.full(len(pictures), threshold, np.float32)
        try:
            found = self.run(inputs)
        except Exception as error:  # those of the runtimes have no common class but this one
            raise ValueError(f"model: {self.runtime} fails: {first_lines(error)}") from error
        return to_labels(found, self.category_ids, len(pictures))


class OpenVinoModel(ResizedModel):
    """An .xml file that `export_openvino` wrote; its .bin lies beside it.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: the package openvino is missing, or the files are not of such an export.
    """

    runtime = "OpenVINO"

    def __init__(self, file: str | Path):
        openvino, file = import_package("openvino"), Path(file)
        with _opening("--openvino", file, file.with_suffix(".bin")):
            graph = openvino.Core().read_model(file)
            text = graph.get_rt_info(DESCRIPTION_KEY).astype(str)
            super().__init__(text, file)
            options = {"INFERENCE_PRECISION_HINT": HINTS[json.loads(text)["precision"]]}
            self._run = openvino.compile_model(graph, "CPU", options)

    def run(self, inputs):
        """See `ResizedModel`."""
        found = self._run(inputs).to_dict()
        return {name: x for port, x in found.items() for name in port.get_names()}


class OnnxModel(ResizedModel):
    """An .onnx file that `export_onnx` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the package onnxruntime is missing, or the file is not of such an export.
    """

    runtime = "ONNX Runtime"

    def __init__(self, file: str | Path):
        import_package("onnxruntime")
        file = Path(file)
        with _opening("--onnx", file):
            self._session = open_session(str(file))
            about = self._session.get_modelmeta().custom_metadata_map
            super().__init__(about[DESCRIPTION_KEY], file)

    def run(self, inputs):
        """See `ResizedModel`."""
        return run_session(self._session, inputs)


class LiteRtModel(ResizedModel):
    """A .tflite file that `export_litert` wrote; runs image by image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of such an export.
    """

    runtime = "LiteRT"

    def __init__(self, file: str | Path):
        file = Path(file)
        with _opening("--litert", file):
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


@contextlib.contextmanager
def _opening(flag: str, *files: Path) -> Iterator[None]:
    """Refuses missing files, and any error while the first is opened: it is of another origin.

    `flag` is that of tools/export.py for such files.
    """
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"model: no file {file}")
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"model: expected a file of tools/export.py {flag}, got {files[0]}: "
            f"{first_lines(error)}"
        ) from error
