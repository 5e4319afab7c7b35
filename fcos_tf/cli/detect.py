"""Detects objects in images and videos.

    python tools/detect.py photo.jpg photos/ --weights=torchvision_coco
    python tools/detect.py --weights=model.keras --input=photos --output_dir=found
    python tools/detect.py --model_dir=runs/voc --input='a.jpg,photos/**/*.jpg' --output_dir=found
    python tools/detect.py --saved_model=EXPORT/1 --input=clip.mp4 --output_dir=found
    python tools/detect.py --openvino=fcos.xml --input=photos --output_dir=found
    python tools/detect.py --onnx=fcos.onnx --input=photos --output_dir=found
    python tools/detect.py --litert=fcos.tflite --input=photos --output_dir=found
    python tools/detect.py --server=http://host:8501/v1/models/NAME --input=0 --output_dir=found

Writes each image, video and camera stream with the detections drawn on it; detections.json, COCO
results of the images with all detections of the model; and detections.jsonl, one line per
frame. Boxes are (x, y, width, height) in pixels of the files, turned upright by their EXIF
orientation with --apply_exif or a model that was trained so. Image ids are the file names if all of
them are numbers, as in COCO; else they count from 1.

Each image gets a line with the number of detections of each class that are drawn, those of
--score_threshold and more. Files that cannot be read, and pictures and videos whose format does not
take them, are listed at the end. The exit status is 0 if any file could be read.

Of the options of a run: --classes are the classes to keep, by name, or by category id for a model
without names; --score_threshold, a number or best_f1, is that of the pictures (default 0.5), and
replaces the model's where it is below that; --batch_size is by default 1, because padding images to
a common size changes their scores a little; --image_size replaces the size of the model, or is
needed where the --weights file has none. Defaults in a flag file do not count.

Of a classifier, the classes of each image are printed with their probabilities: those of
--score_threshold and more, else the five most probable; no files are written.
"""

import dataclasses
import itertools
import sys
from pathlib import Path

from tqdm import tqdm

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config
from fcos_tf.options import Options, fields_of, option
from fcos_tf.tensorflow_words import escaped, load_tensorflow

# Choices of the model -> options that it does not use.
_UNUSED = {
    "weights": {"description"}, "model_dir": {"description"},
    "saved_model": {"description", "image_size"}, "openvino": {"description", "image_size"},
    "onnx": {"description", "image_size"}, "litert": {"description", "image_size"},
    "server": {"image_size"},
}  # fmt: skip
_NOT_OF_A_CLASSIFIER = ("output_dir", "show", "max_frames", "classes", "batch_size")
_MOST_CLASSES = 5
_OF_A_RUN = ("batch_size", "score_threshold", "apply_exif")


# fmt: off
@dataclasses.dataclass(frozen=True)
class DetectOptions(Options):
    """The model, its input and the output."""

    weights: str | None = option(
        None, "Model: a .keras file, or torchvision_coco or another name of published weights, "
        "downloaded once (or --model_dir: the newest of a run).", also=WEIGHTS_WORDS)
    saved_model: str | None = option(None, "Model: a SavedModel of tools/export.py.")
    openvino: str | None = option(
        None, "Model: an .xml file of tools/export.py --openvino.", also=("ov", "xml"))
    onnx: str | None = option(None, "Model: an .onnx file of tools/export.py --onnx.")
    litert: str | None = option(
        None, "Model: a .tflite file of tools/export.py --litert.", also=("tflite",))
    server: str | None = option(
        None, "Model: http://host:8501/v1/models/NAME or grpc://host:8500/NAME.")
    description: str | None = option(
        None, "With --server: assets/description.json of the export, for the class names.")
    input: tuple[str, ...] = option(
        (), "Images, videos, folders, patterns or camera numbers; also without --input=.",
        required=True, positional=True, also=("source", "image", "images", "video"))
    output_dir: str = option(
        "", "Output folder; empty = detections, or detections2 ... if that is there.",
        also=OUTPUT_WORDS)
    show: bool = option(
        False, "Also show the images in a window: any key for the next one, q or escape to stop.",
        also=("view_img", "display"))
    max_frames: int | None = option(
        None, "Frame limit of a video or camera; default: to the end, or Ctrl-C.", least=1)
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = ("model_dir", "classes", "score_threshold", "batch_size", "image_size", "apply_exif")
    command_line.run(_detect, __doc__, argv, uses=uses, options=DetectOptions)


def _detect(config: Config, options: DetectOptions, given: command_line.Given) -> None:
    models = vars(config) | vars(options)
    named = [name for name in _UNUSED if models[name]]
    named = [name for name in named if name in given.typed] or named  # rather than a file's
    if len(named) != 1:
        names = ", ".join(f"--{name}" for name in _UNUSED)
        got = " and ".join(f"--{name}" for name in named) or "none"
        raise ValueError(f"expected one of {names}; got {got}")
    (kind,) = named
    command_line.refuse_unused(given, f"--{kind}", _UNUSED[kind])
    spelled, given = given, command_line.replacing(config, given)
    used = {name for name in _OF_A_RUN if name in given} - ({"batch_size"} - given.typed)
    from fcos_tf.detecting.files import find_inputs

    names = (*fields_of(DetectOptions), *_OF_A_RUN, "image_size", "classes")
    flags = {name: name for name in names}
    with command_line.arguments_as_flags({**flags, "model": kind}):
        inputs = find_inputs(options.input)
        load_tensorflow()
        from fcos_tf.detecting.exported import ExportedModel
        from fcos_tf.detecting.folder import FolderRun
        from fcos_tf.detecting.models import open_model
        from fcos_tf.detecting.resized import LiteRtModel, OnnxModel, OpenVinoModel
        from fcos_tf.detecting.served import ServedModel
        from fcos_tf.detecting.videos import Window
        from fcos_tf.training.run import find_weights

        window = Window() if options.show else None
        image_size = config.image_size if "image_size" in given - _UNUSED[kind] else None
        name = getattr(options, kind, None)
        exported = {
            "saved_model": ExportedModel, "openvino": OpenVinoModel, "onnx": OnnxModel,
            "litert": LiteRtModel,
        }  # fmt: skip
        if kind in exported:
            model = exported[kind](name)
        elif kind == "server":
            model = ServedModel(name, options.description)
        else:
            name = find_weights(config.model_dir, name)
            try:
                model = open_model(name, image_size=image_size)
            except ValueError:  # it may lack a size of its own
                if image_size or "image_size" not in spelled:
                    raise
                model = open_model(name, image_size=config.image_size)
        if model.classifies:
            command_line.refuse_unused(given, f"the classifier {name}", _NOT_OF_A_CLASSIFIER)
            return _classify(model, inputs, config, given)
        run = FolderRun(
            model,
            options.output_dir or _free_folder("detections"),
            classes=config.classes,
            max_frames=options.max_frames,
            window=window,
            report=tqdm.write,
            **{name: getattr(config, name) for name in used},
        )
        print(run.run(inputs))
    if run.faults:
        title = f"unreadable, not to the end, or not drawn ({len(run.faults)}):"
        print(title, *map(escaped, run.faults), sep="\n", file=sys.stderr)


def _classify(model, inputs, config: Config, given: command_line.Given) -> None:
    """Prints the classes of images; names those that cannot be read."""
    from fcos_tf.data.images import ImageError
    from fcos_tf.detecting.classifying import classify
    from fcos_tf.detecting.files import IMAGE

    if others := [str(each.path) for each in inputs if each.kind != IMAGE]:
        raise ValueError(f"input: expected images for a classifier, got {others[0]}")
    upright = config.apply_exif if "apply_exif" in given else None
    least = config.score_threshold if "score_threshold" in given else None
    if isinstance(least, str):
        raise ValueError(f"score_threshold: expected a number for a classifier, got {least}")
    faults = []
    for each in inputs:
        try:
            (found,) = classify(model, str(each.path), apply_exif=upright)
        except ImageError as error:
            faults.append(str(error))
            continue
        rows = [f"{name} {value:.3f}" for name, value in found.items() if value >= (least or 0)]
        rows = rows[: _MOST_CLASSES if least is None else None]
        print(escaped(f"{each.path}: {', '.join(rows) or 'nothing'}"), flush=True)
    if len(faults) == len(inputs):
        raise OSError(f"none of {len(inputs)} images can be read; the first: {faults[0]}")
    if faults:
        print(f"unreadable ({len(faults)}):", *map(escaped, faults), sep="\n", file=sys.stderr)


def _free_folder(name: str) -> Path:
    """The first of NAME, NAME2, NAME3 ... that is not there: earlier results stay."""
    names = itertools.chain([name], (f"{name}{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())
