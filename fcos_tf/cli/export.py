r"""Exports a trained detector or classifier as files that run without this package.

    python tools/export.py --weights=fcos.keras --output_dir=export/fcos/1
    python tools/export.py --model_dir=runs/digits --output_dir=export/digits/1 --image_size=512x512
    python tools/export.py --weights=fcos.keras --litert=fcos.tflite --image_size=512x512
    python tools/export.py --weights=fcos.keras --litert=fcos.tflite --calibration_images=photos
    python tools/export.py --weights=fcos.keras --onnx=fcos.onnx
    python tools/export.py --weights=fcos.keras --openvino=fcos.xml --calibration_images=photos
    python tools/export.py --weights=fcos.keras --openvino=fcos.xml --calibration_images=photos \
        --data_dir=VOC2007 --val_images=300 --report=exports

Writes a SavedModel for TensorFlow Serving and tf.saved_model.load. Its signatures take image files
or pixels and give detections in pixels of the original images; of a classifier, they take image
files and give class probabilities, and there is no --litert, --onnx or --openvino. The exported
model is compared with the source model before it is renamed into place; no version is overwritten.
--val_images also measures both on a validation set, and refuses an export that loses AP.

If given, --image_size and the options of "Detections" replace those of the source model; defaults
in a flag file do not count.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config, DataOptions, DetectionOptions
from fcos_tf.detecting.packages import import_package
from fcos_tf.options import Options, fields_of, option, options_for
from fcos_tf.tensorflow_words import load_tensorflow

# Of the validation data.
_DATA = fields_of(DataOptions).keys() - {"train_split", "overfit", "max_bad_images", "apply_exif"}
_DATA |= {"val_split"}
# Arguments of the exports that errors begin with -> their flags.
_FLAGS = {
    "precision": "export_precision", "limits": "max_pixels", "calibration": "calibration_images",
    "sample": "sample", "image_size": "image_size", "directory": "output_dir",
}  # fmt: skip
_SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml"}
_PLACES = ("dataset", "data_dir", "annotations", "images")


# fmt: off
@dataclasses.dataclass(frozen=True)
class ExportOptions(Options):
    """The model and the files to write."""

    weights: str | None = option(
        None, "A .keras file, or torchvision_coco or another name of published weights, downloaded "
        "once; default: the newest checkpoint in --model_dir, or model.keras there.",
        also=WEIGHTS_WORDS)
    output_dir: str | None = option(
        None, "SavedModel to write; its name is a version, a whole number, as in EXPORT/1.",
        also=(*OUTPUT_WORDS, "saved_model"))
    export_precision: str = option(
        "float32", "Precision of weights and activations of the exported model.",
        choices=("float32", "bfloat16", "float16"), also=("precision", "dtype", "half", "fp16"))
    fold_batch_norms: bool = option(
        True, "Fold batch norms into convolutions; false keeps predictions bitwise equal.")
    sample: str | None = option(
        None, "Image to compare exported and source model on; default: a photo.")
    max_images: int = option(8, "Images in one request to the SavedModel at most.", least=1)
    max_pixels: int = option(
        1 << 26, "Pixels of all images in one request at most, from their headers.", least=1)
    litert: str | None = option(
        None, ".tflite file to write: from resized pixels to detections, of FCOS and one image on "
        "one canvas, float32, float16 or 8 bits.", also=("tflite",))
    onnx: str | None = option(
        None, ".onnx file to write: from resized pixels to detections, float32.")
    openvino: str | None = option(
        None, ".xml file to write, and its .bin: likewise, in --export_precision or 8 bits.",
        also=("ov",))
    calibration_images: str | None = option(
        None, "With --openvino or --litert: folder or pattern of a few hundred images; the network "
        "then has 8 bits.", also=("calibration", "int8"))
    val_images: int = option(
        0, "Measure the source model and its exports on so many images of --val_split, evenly "
        "spread over it: AP, its loss, latency and size; 0 = off.", least=0)
    max_ap_loss: float = option(
        0.005, "With --val_images: refuse an export that loses more AP, and write no file of it.",
        least=0, most=1)
    report: str | None = option(
        None, "With --val_images: table of format x precision to write, NAME.md and NAME.json; "
        "rows of earlier exports of the model are kept.")
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = ("model_dir", "image_size", "apply_exif", DetectionOptions, *_DATA)
    command_line.run(_export, __doc__, argv, uses=uses, options=ExportOptions)


def _export(config: Config, options: ExportOptions, given: command_line.Given) -> None:
    files = [f"--{name}" for name in ("litert", "onnx", "openvino") if getattr(options, name)]
    if not (options.output_dir or files):
        raise ValueError("--output_dir, --litert, --onnx or --openvino: expected one, got none")
    refuse = functools.partial(command_line.refuse_unused, given)
    if not options.output_dir:
        mode = f"{' and '.join(files)} alone, without --output_dir"
        refuse(mode, ["fold_batch_norms", "sample", "max_images", "max_pixels"])
        if files == ["--onnx"]:
            refuse("--onnx alone, which is float32", ["export_precision"])
    if not (options.openvino or options.litert):
        refuse("export without --openvino or --litert", ["calibration_images"])
    if options.val_images:
        if not given & {*_PLACES}:
            names = ", ".join(f"--{name}" for name in _PLACES)
            raise ValueError(f"--val_images: expected a data set by one of {names}; got none")
    else:
        refuse("export without --val_images", ["max_ap_loss", "report", *_DATA])
    if options.weights:
        refuse("--weights", ["model_dir"])
    _check_outputs(options)
    calibration = ()
    # Refuses missing packages before anything is done.
    if options.onnx:
        import_package("onnx")
        import_package("onnxruntime")
    if options.openvino:
        import_package("openvino")
    if options.calibration_images:
        with command_line.arguments_as_flags({"input": "calibration_images"}):
            calibration = _find_images(options.calibration_images)
    load_tensorflow()
    from fcos_tf import build, export
    from fcos_tf.models.weights import load_detector
    from fcos_tf.training import run

    path = run.find_weights(config.model_dir, options.weights)
    model = load_detector(path, or_classifier=not files or bool(options.val_images))
    given = command_line.replacing(config, given, model)
    if "apply_exif" in given:
        model.apply_exif = config.apply_exif
    image_size = config.image_size if "image_size" in given else None
    gate = None
    if options.val_images:
        with command_line.arguments_as_flags({"num_images": "val_images", "report": "report"}):
            gate = _make_gate(config, options, given, model, path)
    shared = {"image_size": image_size, "accept": gate}
    shared |= build.given_thresholds(config, given, model, path)
    precision = {"precision": options.export_precision}
    eight_bits = {**shared, **precision, "calibration": calibration}
    with command_line.arguments_as_flags(_FLAGS):
        if options.litert:
            print(export.export_litert(model, options.litert, **eight_bits), flush=True)
        if options.onnx:
            print(export.export_onnx(model, options.onnx, **shared), flush=True)
        if options.openvino:
            print(export.export_openvino(model, options.openvino, **eight_bits), flush=True)
        if options.output_dir:
            folder = export.export_saved_model(
                model,
                options.output_dir,
                fold=options.fold_batch_norms,
                sample=options.sample,
                limits=export.Limits(options.max_images, options.max_pixels),
                **shared,
                **precision,
            )
            print(folder, flush=True)
    if gate:
        print(export.format_rows(gate.rows))


def _check_outputs(options: ExportOptions) -> None:
    """Refuses outputs that exist or have other names, before anything is done."""
    for name, suffix in _SUFFIXES.items():
        file = getattr(options, name)
        if file and Path(file).suffix != suffix:
            raise ValueError(f"--{name}: expected a path that ends in {suffix}, got {file}")
    for name in (*_SUFFIXES, "output_dir"):
        path = getattr(options, name)
        if path and Path(path).exists():
            raise FileExistsError(f"--{name}: expected a new path, got {path}, which exists")


def _make_gate(
    config: Config, options: ExportOptions, given: command_line.Given, model: Any, path: Path
) -> Any:
    """The `AccuracyGate` of a model on the validation data."""
    from fcos_tf import build
    from fcos_tf.export import AccuracyGate

    if not hasattr(model, "detect"):
        raise ValueError(
            f"--val_images: expected a detector, got a {type(model).__name__} in {path}"
        )
    if model.image_size is None and "image_size" in given:
        model.image_size = config.image_size
    config = build.with_input_of(model, config, given)
    dataset = build.load_val_data(config)
    for note in dataset.notes:
        print(note)
    count, data = options.val_images, f"{config.dataset} {config.val_split}"
    print(f"measuring {path} and its exports on {count} images of {data}", flush=True)
    arguments = options_for(options, AccuracyGate, title=f"{path} on {data}")
    return AccuracyGate(model, dataset, count, **arguments)


def _find_images(images: str) -> list:
    """The images to calibrate on."""
    from fcos_tf.detecting.files import IMAGE, find_inputs

    found = [each.path for each in find_inputs(images) if each.kind == IMAGE]
    if not found:
        raise ValueError(f"input: expected images, got none in {images}")
    return found
