"""Detects objects in images and videos.

    python tools/detect.py --weights=model.keras --input=photos --output_dir=found
    python tools/detect.py --model_dir=runs/voc --input='a.jpg,photos/**/*.jpg' --output_dir=found
    python tools/detect.py --saved_model=EXPORT/1 --input=clip.mp4 --output_dir=found
    python tools/detect.py --server=http://host:8501/v1/models/NAME --input=0 --output_dir=found

Writes a picture for each image, and a video for each video or camera, with what was found drawn on
it; detections.json, COCO results with all that the model gives for the images, whatever its score;
and detections.jsonl, a line for each frame. Boxes are in pixels of the files, (x, y, width,
height); EXIF orientation is not applied. An image's id is the number that its name is, where all
names are numbers, as COCO's are; else they are counted from 1.

Files that cannot be read are named at the end. The exit status is 0 if anything could be read.

The options of a run count if they are given: --classes, the only ones to keep, by name, or by
category id where the model has no names; --score_threshold, for the pictures alone (default 0.5);
--batch_size, images at a time (default 1: in a batch, images of different sizes are padded to a
common one, which changes their scores a little); and, for a --weights file that does not say for
which size of images it was made, or to have another, --image_size.
"""

import dataclasses
import sys

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config
from fcos_tf.options import Options, fields_of, option
from fcos_tf.tensorflow_words import load_tensorflow

_MODELS = ("weights", "model_dir", "saved_model", "server")


# fmt: off
@dataclasses.dataclass(frozen=True)
class DetectOptions(Options):
    """What to detect on, and with what."""

    weights: str | None = option(
        None, "The model: a .keras file (or --model_dir: the newest of a run).",
        also=WEIGHTS_WORDS)
    saved_model: str | None = option(None, "The model: what tools/export.py wrote.")
    server: str | None = option(
        None, "The model: http://host:8501/v1/models/NAME or grpc://host:8500/NAME.")
    description: str | None = option(
        None, "With --server: assets/description.json of the export, for the class names.")
    input: str = option(
        "", "Image, video, folder, pattern, number of a camera, or several with commas.",
        required=True, also=("source", "image", "images", "video"))
    output_dir: str = option("", "Where to write.", required=True, also=OUTPUT_WORDS)
    show: bool = option(
        False, "Also show it in a window; any key for the next image, q or escape to stop.",
        also=("view_img", "display"))
    max_frames: int | None = option(
        None, "Stop a video or a camera after so many frames; default: at its end, or Ctrl-C.",
        least=1)
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = ("model_dir", "classes", "score_threshold", "batch_size", "image_size")
    command_line.run(_detect, __doc__, argv, uses=uses, options=DetectOptions)


def _detect(config: Config, options: DetectOptions, given: frozenset[str]) -> None:
    models = vars(config) | vars(options)
    named = [name for name in _MODELS if models[name]]
    if len(named) != 1:
        names = ", ".join(f"--{name}" for name in _MODELS)
        got = " and ".join(f"--{name}" for name in named) or "none"
        raise ValueError(f"expected one of {names}; got {got}")
    if options.description and named != ["server"]:
        raise ValueError(f"--description: expected with --server only, got --{named[0]}")
    from fcos_tf.detecting.inputs import find_inputs

    flags = {name: name for name in (*fields_of(DetectOptions), "image_size", "classes")}
    with command_line.arguments_as_flags({**flags, "model": named[0]}):
        inputs = find_inputs(options.input)
        load_tensorflow()
        from fcos_tf.detecting.display import Window
        from fcos_tf.detecting.exported import ExportedModel
        from fcos_tf.detecting.folder import FolderRun
        from fcos_tf.detecting.models import open_model
        from fcos_tf.detecting.served import ServedModel
        from fcos_tf.training.run import find_weights

        if options.saved_model:
            model = ExportedModel(options.saved_model)
        elif options.server:
            model = ServedModel(options.server, options.description)
        else:
            model = find_weights(config.model_dir, options.weights)
        window = Window() if options.show else None
        image_size = config.image_size if "image_size" in given else None
        run = FolderRun(
            open_model(model, image_size=image_size),
            options.output_dir,
            classes=config.classes,
            max_frames=options.max_frames,
            window=window,
            **{n: getattr(config, n) for n in ("batch_size", "score_threshold") if n in given},
        )
        print(run.run(inputs))
    if run.faults:
        faults = run.faults
        print(f"not read, or not to the end ({len(faults)}):", *faults, sep="\n", file=sys.stderr)
