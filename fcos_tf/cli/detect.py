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

Of the flags below these count, if they are given: --model_dir; --classes, the only ones to keep,
by name, or by category id where the model has no names; --score_threshold, for the pictures alone
(default 0.5); --batch_size, images at a time (default 1: in a batch, images of different sizes
are padded to a common one, which changes their scores a little); and, for a --weights file that
does not say for which size of images it was made, or to have another, --image_size.
"""

import sys
from typing import Any

from fcos_tf.cli import command_line, run_files
from fcos_tf.config import Config

_MODELS = ("weights", "model_dir", "saved_model", "server")
_OPTIONS = {
    "weights": "The model: a .keras file (or --model_dir: the newest of a run)",
    "saved_model": "The model: what tools/export.py wrote",
    "server": "The model: http://host:8501/v1/models/NAME or grpc://host:8500/NAME",
    "description": "With --server: assets/description.json of the export, for the class names",
    "input": "Image, video, folder, pattern, number of a camera, or several with commas",
    "output_dir": "Where to write",
    "show": "true: also show it in a window; any key for the next image, q or escape to stop",
    "max_frames": "Stop a video or a camera after so many frames; default: at its end, or Ctrl-C",
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_detect, __doc__, argv, options=_OPTIONS)


def _detect(config: Config, flags) -> None:
    given = [name for name in _MODELS if flags[name].value]
    if len(given) != 1:
        names = ", ".join(f"--{name}" for name in _MODELS)
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"expected one of {names}; got {got}")
    for name in ("input", "output_dir"):
        if not flags[name].value:
            raise ValueError(f"--{name}: expected a value, got none")
    show = flags["show"].value or "false"
    if show not in ("true", "false"):
        raise ValueError(f"--show: expected true or false, got {show!r}")
    max_frames = flags["max_frames"].value
    if max_frames and not (max_frames.isdecimal() and int(max_frames)):
        raise ValueError(f"--max_frames: expected a number of at least 1, got {max_frames!r}")
    if flags["description"].value and given != ["server"]:
        raise ValueError(f"--description: expected with --server only, got --{given[0]}")
    from fcos_tf.detecting.inputs import find_inputs

    names = {name: name for name in (*_OPTIONS, "image_size", "classes")}
    with command_line.arguments_as_flags({**names, "model": given[0]}):
        inputs = find_inputs(flags["input"].value)
        command_line.load_tensorflow()
        from fcos_tf.detecting.display import Window
        from fcos_tf.detecting.folder import FolderRun

        window = Window() if show == "true" else None
        options: dict[str, Any] = {
            name: getattr(config, name)
            for name in ("batch_size", "score_threshold")
            if flags[name].present
        }
        run = FolderRun(
            _open_model(given[0], config, flags),
            flags["output_dir"].value,
            classes=config.classes,
            max_frames=int(max_frames) if max_frames else None,
            window=window,
            **options,
        )
        print(run.run(inputs))
    if run.faults:
        faults = run.faults
        print(f"not read, or not to the end ({len(faults)}):", *faults, sep="\n", file=sys.stderr)


def _open_model(kind: str, config: Config, flags):
    """The model that the flag `kind` names."""
    from fcos_tf.detecting.exported import ExportedModel
    from fcos_tf.detecting.models import KerasModel
    from fcos_tf.detecting.served import ServedModel
    from fcos_tf.models.weights import load_model

    if kind == "saved_model":
        return ExportedModel(flags["saved_model"].value)
    if kind == "server":
        return ServedModel(flags["server"].value, flags["description"].value)
    path = run_files.find_weights(flags["model_dir"].value or "", flags["weights"].value)
    image_size = config.image_size if flags["image_size"].present else None
    return KerasModel(load_model(path), image_size=image_size, name=str(path))


if __name__ == "__main__":
    main()
