"""Draws what a detector learns from, and how it learns.

    python tools/visualize.py --what=augmentations --flagfile=coco.cfg --data_dir=COCO
        --augment=color_jitter,mosaic --output_dir=pictures
    python tools/visualize.py --what=curves --runs=runs/a,runs/b --output_dir=pictures

--what=augmentations writes augmentations.png: training images exactly as training gets them, with
their boxes. --what=curves writes curves.png: losses, learning rate, gradient norm, AP and the time
spent waiting for input over the steps of one or several runs.
"""

from pathlib import Path

import numpy as np

from fcos_tf.cli import command_line
from fcos_tf.config import Config

_OPTIONS = {
    "what": "augmentations or curves",
    "output_dir": "Where to write",
    "num_images": "With --what=augmentations: how many images; default 8",
    "runs": "With --what=curves: folders of runs, with commas; default: --model_dir",
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_visualize, __doc__, argv, options=_OPTIONS)


def _visualize(config: Config, flags) -> None:
    what, output_dir = flags["what"].value, flags["output_dir"].value
    if what not in ("augmentations", "curves"):
        raise ValueError(f"--what: expected augmentations or curves, got {what!r}")
    if not output_dir:
        raise ValueError("--output_dir: expected a folder, got none")
    if what == "curves":
        print(draw_curves(flags["runs"].value or config.model_dir, output_dir))
        return
    count = flags["num_images"].value or "8"
    if not count.isdigit() or int(count) < 1:
        raise ValueError(f"--num_images: expected a number of at least 1, got {count!r}")
    command_line.load_tensorflow()
    print(draw_augmentations(config, output_dir, int(count)))


def draw_curves(runs: str, output_dir: str | Path) -> Path:
    """Draws the numbers of runs over their steps.

    Args:
        runs: Their folders, with commas.
        output_dir: Where `curves.png` goes.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: If there is no such run.
        ValueError: If none is named, or one has no records or broken ones.
    """
    from fcos_tf.visualization.curves import save_curves

    folders = [run.strip() for run in runs.split(",") if run.strip()]
    if not folders:
        raise ValueError("--runs or --model_dir: expected folders of runs, got none")
    return save_curves(Path(output_dir) / "curves.png", folders)


def draw_augmentations(config: Config, output_dir: str | Path, num_images: int = 8) -> Path:
    """Draws the first training images of a config, with their boxes.

    Returns:
        The file written.

    Raises:
        ValueError: Options that do not fit together or the data.
        FileNotFoundError: If the data set is not there.
    """
    from fcos_tf import build, visualization

    dataset = build.load_train_data(config)
    images: list[np.ndarray] = []
    truths: list[dict[str, np.ndarray]] = []
    for batch, targets in dataset:
        for i in range(min(len(batch), num_images - len(images))):
            images.append(np.asarray(batch[i]))
            truths.append({name: np.asarray(value[i]) for name, value in targets.items()})
        if len(images) == num_images:
            break
    return visualization.save_gallery(
        Path(output_dir) / "augmentations.png",
        images,
        truths,
        class_names=dataset.class_names,
        columns=4,
    )


if __name__ == "__main__":
    main()
