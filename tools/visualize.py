"""Draws what a detector learns from.

    python tools/visualize.py --what=augmentations --flagfile=coco.cfg --data_dir=COCO
        --augment=color_jitter,mosaic --output_dir=pictures

--what=augmentations writes augmentations.png: training images exactly as training gets them, with
their boxes.
"""

from pathlib import Path

import numpy as np

from fcos_tf.config import Config
from fcos_tf.tools import command_line

_OPTIONS = {
    "what": "augmentations",
    "output_dir": "Where to write",
    "num_images": "How many images; default 8",
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_visualize, __doc__, argv, options=_OPTIONS)


def _visualize(config: Config, flags) -> None:
    what, count = flags["what"].value, flags["num_images"].value or "8"
    if what != "augmentations":
        raise ValueError(f"--what: expected augmentations, got {what!r}")
    if not flags["output_dir"].value:
        raise ValueError("--output_dir: expected a folder, got none")
    if not count.isdigit() or int(count) < 1:
        raise ValueError(f"--num_images: expected a number of at least 1, got {count!r}")
    command_line.load_tensorflow()
    print(draw_augmentations(config, flags["output_dir"].value, int(count)))


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
