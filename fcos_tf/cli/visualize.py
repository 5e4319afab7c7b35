"""Draws training images, or the curves of runs.

    python tools/visualize.py --what=augmentations --flagfile=coco.cfg --data_dir=COCO
        --augment=color_jitter,mosaic --output_dir=pictures
    python tools/visualize.py --what=curves --runs=runs/a,runs/b --output_dir=pictures

--what=augmentations writes augmentations.png: training images after augmentation, with their boxes.
--what=curves writes curves.png: losses, learning rate, gradient norm, AP and the time spent waiting
for input over the steps of one or several runs.
"""

import dataclasses
from pathlib import Path

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, AugmentationOptions, Config, DataOptions, InputOptions
from fcos_tf.options import Options, option
from fcos_tf.tensorflow_words import load_tensorflow


# fmt: off
@dataclasses.dataclass(frozen=True)
class VisualizeOptions(Options):
    """The picture to draw."""

    what: str = option("", "Picture to draw.", choices=("augmentations", "curves"), required=True)
    output_dir: str = option("", "Output folder.", required=True, also=OUTPUT_WORDS)
    num_images: int = option(8, "With --what=augmentations: number of images.", least=1)
    runs: tuple[str, ...] = option(
        (), "With --what=curves: folders of runs; empty = --model_dir.")
# fmt: on
_UNUSED = {
    "augmentations": ("model_dir", "runs"),
    "curves": (DataOptions, InputOptions, AugmentationOptions, "seed", "num_images"),
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    uses = (DataOptions, InputOptions, AugmentationOptions, "model_dir", "seed")
    command_line.run(_visualize, __doc__, argv, uses=uses, options=VisualizeOptions)


def _visualize(config: Config, options: VisualizeOptions, given: command_line.Given) -> None:
    command_line.refuse_unused(given, f"--what={options.what}", _UNUSED[options.what])
    if options.runs:
        command_line.refuse_unused(given, "--runs", ["model_dir"])
    path = Path(options.output_dir) / f"{options.what}.png"
    if options.what == "curves":
        from fcos_tf.visualization.curves import save_curves

        folders = [run for run in options.runs or (config.model_dir,) if run]
        if not folders:
            raise ValueError("--runs or --model_dir: expected folders of runs, got none")
        print(save_curves(path, folders))
        return
    load_tensorflow()
    from fcos_tf import build, visualization

    dataset = build.load_train_data(config)
    rows = dataset.unbatch().take(options.num_images).as_numpy_iterator()
    images, truths = zip(*rows, strict=True)
    names = dataset.class_names
    print(visualization.save_gallery(path, images, truths, class_names=names, columns=4))
