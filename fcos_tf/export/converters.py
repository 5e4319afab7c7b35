"""Detectors for LiteRT (TFLite): one file, without the suppression.

It takes one image on a canvas of H x W pixels and gives all N candidates:

    images       float32 [1, H, W, 3], RGB 0-255, resized to fit and padded with zeros
    image_sizes  float32 [1, 2], (height, width) of the resized image
    boxes        float32 [1, N, 4], xyxy in pixels of `images`
    scores       float32 [1, N, C], see `Detector.candidates`

Class-wise non-maximum suppression is left to the caller, so detectors with a suppression inside, of
proposals, are refused.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from fcos_tf.atomic_files import replacing
from fcos_tf.export.checks import compare, whole_float32
from fcos_tf.image_size import parse_image_size
from fcos_tf.models.detector import Detector
from fcos_tf.models.folding import inference_copy
from fcos_tf.ops.boxes import clip_boxes

# Of scores, and of boxes relative to the long side of the canvas.
_TOLERANCE = {"float32": 1e-4, "float16": 0.05}


def export_litert(
    model: Detector,
    file: str | Path,
    *,
    image_size: str | tuple[int, int] | None = None,
    precision: str = "float32",
) -> Path:
    """Writes a `.tflite` file and checks its outputs.

    Args:
        model: a detector, left unchanged.
        file: path of a new file.
        image_size: the canvas, "HEIGHTxWIDTH"; None: `model.image_size`.
        precision: of the weights, "float32" or "float16".

    Returns:
        The file.

    Raises:
        ValueError: a wrong argument, a model with proposals, or a file that disagrees with `model`.
        FileExistsError: the file exists.
    """
    if precision not in _TOLERANCE:
        raise ValueError(f"precision: expected {' or '.join(_TOLERANCE)}; got {precision!r}")
    file, canvas = _check_arguments(model, file, ".tflite", image_size)
    function = _candidate_function(inference_copy(model), canvas)
    module = tf.Module()
    module.weights = list(function.get_concrete_function().variables)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*tf\.lite\.Interpreter is deprecated")
        interpreter = _litert_interpreter()(model_content=content)
    _check(interpreter.get_signature_runner(), model, canvas, file, _TOLERANCE[precision])
    return _write(file, content)


def _check_arguments(model, file: str | Path, suffix: str, size) -> tuple[Path, tuple[int, int]]:
    """The path and the canvas."""
    file = new_file(model, file, suffix)
    if model.chosen_outputs:
        raise ValueError(
            f"a {suffix} file has no suppression inside: expected a detector without "
            f"{' and '.join(model.chosen_outputs)}, such as an FCOS, got a {type(model).__name__}; "
            "export a SavedModel"
        )
    size = size or model.image_size
    canvas = None if size is None else parse_image_size(size).canvas
    if canvas is None:
        raise ValueError(f"image_size: expected HEIGHTxWIDTH for a {suffix} file; got {size!r}")
    return file, canvas


def new_file(model, file: str | Path, suffix: str) -> Path:
    """The path of a new file for a detector; refuses other models, endings and existing files."""
    if not hasattr(model, "candidates"):
        raise ValueError(f"expected a detector, got a {type(model).__name__}; export a SavedModel")
    file = Path(file)
    if file.suffix != suffix:
        raise ValueError(f"expected a file that ends in {suffix}; got {file}")
    if file.exists():
        raise FileExistsError(f"expected a new file; got {file}, which exists")
    return file


@whole_float32()
def _check(run: Callable, model: Detector, canvas: tuple[int, int], file: Path, tolerance: float):
    """Compares the outputs with those of the source model, on noise."""
    images = np.random.default_rng(0).uniform(0, 255, (1, *canvas, 3)).astype(np.float32)
    inputs = {"images": images, "image_sizes": np.array([canvas], np.float32)}
    found, expected = run(**inputs), _candidate_function(model, canvas)(**inputs)
    for name, scale in (("scores", 1), ("boxes", max(canvas))):
        values, wanted = found[name] / scale, expected[name].numpy() / scale
        compare(f"{file.suffix} {name}", values, wanted, tolerance)


def _write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_bytes(content)
    return file


def _candidate_function(model: Detector, canvas: tuple[int, int]):
    """The function of the module docstring, to be traced."""

    def predict(images, image_sizes):
        inputs = {"images": images, "image_sizes": image_sizes}
        raw = model.predict_raw(inputs, jit_compile=True)  # operations that LiteRT has
        found = model.candidates(raw, canvas)
        return {**found, "boxes": clip_boxes(found["boxes"], image_sizes)}

    specs = [
        tf.TensorSpec([1, *canvas, 3], tf.float32, name="images"),
        tf.TensorSpec([1, 2], tf.float32, name="image_sizes"),
    ]
    return tf.function(predict, input_signature=specs, autograph=False)


def _litert_interpreter():
    """LiteRT's own package where installed: TensorFlow's copy is deprecated."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        return tf.lite.Interpreter
    return Interpreter
