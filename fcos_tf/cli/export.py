"""Exports a trained detector for use without this package.

    python tools/export.py --weights=fcos.keras --output_dir=export/fcos/1
    python tools/export.py --model_dir=runs/digits --output_dir=export/digits/1 --image_size=512x512
    python tools/export.py --weights=fcos.keras --litert=fcos.tflite --image_size=512x512

Writes a SavedModel, whose signatures take image files or pixels and give detections in pixels of
the original images. TensorFlow Serving and plain tf.saved_model.load run it. Nothing is written
unless it gives what the model gives, and no version is overwritten.

Of the flags below, --image_size and those of "Detections" count, if they are given: how the
exported model is to work in place of what it was trained with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_tf.cli import command_line, run_files
from fcos_tf.config import Config

_OPTIONS = {
    "weights": "A .keras file; default: the newest checkpoint in --model_dir, or model.keras there",
    "output_dir": "The SavedModel to write; its name is a version, a whole number, as in EXPORT/1",
    "export_precision": "float32, bfloat16 or float16: weights and activations of the exported "
    "model; default float32",
    "fold_batch_norms": "true, or false to keep batch norms, and with them every bit of the "
    "predictions; default true",
    "sample": "An image to compare the exported model and the model on; default: a photo",
    "litert": "A .tflite file to write: for one canvas, without suppression",
    "onnx": "An .onnx file to write, likewise; needs tf2onnx, onnx and onnxruntime",
}
_OUTPUTS = ("output_dir", "litert", "onnx")
_THRESHOLDS = ("score_threshold", "nms_threshold", "topk_per_level", "max_detections")


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_export, __doc__, argv, options=_OPTIONS)


def _export(config: Config, flags) -> None:
    outputs = {name: flags[name].value for name in _OUTPUTS if flags[name].value}
    if not outputs:
        raise ValueError("--output_dir, --litert or --onnx: expected one of them, got none")
    fold = flags["fold_batch_norms"].value or "true"
    if fold not in ("true", "false"):
        raise ValueError(f"--fold_batch_norms: expected true or false, got {fold!r}")
    thresholds = {name: getattr(config, name) for name in _THRESHOLDS if flags[name].present}
    command_line.load_tensorflow()
    weights = run_files.find_weights(config.model_dir, flags["weights"].value)
    export(
        weights,
        outputs,
        image_size=config.image_size if flags["image_size"].present else None,
        precision=flags["export_precision"].value or "float32",
        fold=fold == "true",
        sample=flags["sample"].value,
        **thresholds,
    )


def export(
    weights: str | Path,
    outputs: Mapping[str, str | Path],
    *,
    image_size: str | None = None,
    precision: str = "float32",
    **options: Any,
) -> None:
    """Exports a `.keras` file in one or several forms, and prints what was written.

    Args:
        weights: The file.
        outputs: What to write: "output_dir" a SavedModel, "litert" and "onnx" a file each.
        image_size: To what size images are brought; None: the model's.
        precision: "float32", "bfloat16" or "float16"; ONNX files are float32.
        **options: Of `fcos_tf.export.export_saved_model`, which have no meaning for the others.

    Raises:
        ValueError: If an option is wrong, or what was exported differs from the model.
        FileNotFoundError: If there is no such file.
        FileExistsError: If one of the outputs is there.
    """
    from fcos_tf import export
    from fcos_tf.models.weights import load_model

    model = load_model(weights)
    if "output_dir" in outputs:
        folder = export.export_saved_model(
            model, outputs["output_dir"], image_size=image_size, precision=precision, **options
        )
        print(folder, flush=True)
    if "litert" in outputs:
        print(
            export.export_litert(
                model, outputs["litert"], image_size=image_size, precision=precision
            ),
            flush=True,
        )
    if "onnx" in outputs:
        print(export.export_onnx(model, outputs["onnx"], image_size=image_size), flush=True)


if __name__ == "__main__":
    main()
