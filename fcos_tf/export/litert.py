"""Detectors for LiteRT (TFLite): one file, suppression inside, also in 8 bits.

Inputs and outputs are those of `export.openvino`, for one image (B = 1) on a canvas of H x W
pixels. The suppression is LiteRT's own operation (`litert_suppression`). The description is a zip
archive behind the model, as LiteRT allows: `zipfile.ZipFile(file).read("description.json")`.
"""

import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from fcos_tf.atomic_files import replacing
from fcos_tf.data.prepare import ImageSource
from fcos_tf.detecting.exported import DESCRIPTION_FILE, OUTPUTS
from fcos_tf.detecting.resized import open_interpreter
from fcos_tf.export import checks, signatures
from fcos_tf.export.calibration import CalibrationImages
from fcos_tf.export.litert_int8 import quantise
from fcos_tf.export.litert_suppression import replace_suppression
from fcos_tf.export.saved_model import check_options, describe, new_file
from fcos_tf.models.detector import Detector
from fcos_tf.models.folding import inference_copy

_PRECISIONS = ("float32", "float16")


def export_litert(
    model: Detector,
    file: str | Path,
    *,
    image_size: str | tuple[int, int] | None = None,
    precision: str = "float32",
    calibration: Sequence[ImageSource] = (),
    accept: Callable[[Path, dict], None] | None = None,
    **thresholds: float,
) -> Path:
    """Writes a `.tflite` file and checks its outputs.

    Args:
        model: a detector without proposals, left unchanged.
        file: path of a new file.
        image_size: the canvas, "HEIGHTxWIDTH"; None: `model.image_size`.
        precision: of the weights, "float32" or "float16".
        calibration: images to quantise the network on, to 8 bits, see `litert_int8`.
        accept: called with the written file and its description before it is renamed; an error
            refuses it. See `AccuracyGate`.
        **thresholds: replace those of the model, see `Detector.thresholds`.

    Returns:
        The file.

    Raises:
        ValueError: a wrong argument, a model with proposals, images without contrast, or a file
            that disagrees with `model`.
        FileExistsError: the file exists.
    """
    file = new_file(model, file, ".tflite")
    if precision not in _PRECISIONS:
        raise ValueError(
            f"precision: expected {' or '.join(_PRECISIONS)} for a .tflite file; got {precision!r}"
        )
    if len(calibration) and precision != "float32":
        raise ValueError(
            f"precision: expected float32 with calibration, to 8 bits; got {precision!r}"
        )
    if model.chosen_outputs:
        raise ValueError(
            f"a .tflite file has one suppression: expected a detector without "
            f"{' and '.join(model.chosen_outputs)}, such as an FCOS, got a {type(model).__name__}; "
            "export a SavedModel, ONNX or OpenVINO"
        )
    size, rule = check_options(model, image_size, thresholds, ".tflite")
    if rule.canvas is None:
        raise ValueError(f"image_size: expected HEIGHTxWIDTH for a .tflite file; got {size!r}")
    images = CalibrationImages(calibration, rule, model.apply_exif) if len(calibration) else None

    copy = inference_copy(model, **thresholds)
    whole, content = _convert(copy, rule.canvas, precision, images)
    sample = checks.sample_batch(rule)
    _check(whole, model, copy, sample, precision)
    if content is not whole:
        _check_steps(_run(content, sample), copy, sample)
    description = describe(model, copy, precision, image_size=size, traced={})
    description["int8"] = images is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_bytes(_without_raw_outputs(content))
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(DESCRIPTION_FILE, json.dumps(description))
        if accept:
            accept(temporary, description)
    return file


def _convert(model: Detector, canvas, precision: str, images) -> tuple[bytes, bytes]:
    """The file with raw outputs before any quantisation to 8 bits, and after it."""
    function = signatures.trace_detector(model, canvas, batch=1, dtype=tf.float32)
    module = tf.Module()
    module.weights = list(function.variables)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*tf\.lite\.Interpreter is deprecated")
        tf.saved_model.save(module, folder, signatures=function)
        replace_suppression(Path(folder), function, model.num_classes)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if images is not None:
            threshold = {"score_threshold": np.zeros(1, np.float32)}
            return quantise(converter, (batch | threshold for batch in images))
        if precision == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
        return content, content


def _run(content: bytes, batch: dict) -> dict[str, np.ndarray]:
    return open_interpreter(model_content=content).get_signature_runner()(**batch)


@checks.whole_float32()
def _check(content: bytes, model: Detector, copy: Detector, batch: dict, precision: str) -> None:
    """Compares the file with the source model, on a photo."""
    found = _run(content, batch)
    checks.check_raw(found, model, batch, precision)
    _check_steps(found, copy, batch)


def _check_steps(found: dict, copy: Detector, batch: dict) -> None:
    """Compares detections with those of the raw outputs beside them."""
    raw = {name: found[name] for name in copy.raw_outputs if name in found}
    if not all(np.isfinite(x).all() for x in raw.values()):
        raise ValueError(".tflite: expected finite outputs for a photo, got others")
    checks.compare_file(".tflite", found, checks.expected_detections(copy, raw, batch))


def _without_raw_outputs(content: bytes) -> bytes:
    """The file with detections as its only outputs."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (signature,) = model.signatureDefs
    signature.outputs = [x for x in signature.outputs if x.name.decode() in OUTPUTS]
    model.subgraphs[0].outputs = [x.tensorIndex for x in signature.outputs]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
