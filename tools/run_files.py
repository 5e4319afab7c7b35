"""The files of a run: their names, and how they are read and written."""

import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fcos_tf.config import Config, to_flags

CONFIG_FILE = "config.cfg"
MODEL_FILE = "model.keras"
METRICS_FILE = "metrics.json"
METRICS_LINES_FILE = "metrics.jsonl"
DETECTIONS_FILE = "detections.json"
PICTURE_FILE = "detections.png"
TENSORBOARD_FOLDER = "tensorboard"
NUM_PICTURES = 8
# Of a score sqrt(class * centerness); below it NMS leaves second guesses of other classes.
PICTURE_THRESHOLD = 0.5

# Options that say how to watch a run and how to keep it; none of them changes what is learnt.
_HARMLESS = (
    "model_dir",
    "data_dir",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "eval_every",
    "metrics",
    "best_metric",
    "tta",
    "cache",
    "max_faults",
    "max_bad_images",
)


def find_weights(model_dir: str | Path, weights: str | Path | None = None) -> Path:
    """The file to take a model from: `weights`, or the newest of the run in `model_dir`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If neither is given.
    """
    from fcos_tf.training import checkpoints

    if weights:
        return Path(weights)
    if not model_dir:
        raise ValueError("--weights or --model_dir: expected one of them, got neither")
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise FileNotFoundError(f"--model_dir: no folder {model_dir}")
    path = checkpoints.latest(model_dir) or model_dir / MODEL_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"--model_dir: no checkpoint and no {MODEL_FILE} in {model_dir}; train first"
        )
    return path


def save_pictures(
    path: str | Path,
    model: Any,
    dataset: Iterable,
    *,
    count: int = NUM_PICTURES,
    detect: Callable[..., Any] | None = None,
) -> None:
    """Draws ground truth and detections of the first `count` images of a data set.

    Args:
        path: The picture.
        model: A detector.
        dataset: What to detect on, with `class_names`.
        count: How many images.
        detect: What `evaluation.compile_detect(model, dataset.class_names)` gave.
    """
    import numpy as np

    from fcos_tf import evaluation, visualization

    detect = detect or evaluation.compile_detect(model, dataset.class_names)
    images, truths, found = [], [], []
    for batch, targets in dataset:
        detections = detect(batch, targets["image_sizes"])
        rows = np.flatnonzero(np.asarray(targets["image_ids"]) >= 0)  # without fillers
        for i in rows[: count - len(images)]:
            images.append(np.asarray(batch[i]))
            truths.append({name: np.asarray(value[i]) for name, value in targets.items()})
            found.append({name: np.asarray(value[i]) for name, value in detections.items()})
        if len(images) == count:
            break
    visualization.save_gallery(
        path, images, truths, found, dataset.class_names, score_threshold=PICTURE_THRESHOLD
    )


def check_readable(val_data: Any) -> None:
    """Reads the first batch to evaluate on, so that a folder of broken images is told at once.

    Raises:
        ValueError: If not one image of it can be read.
    """
    _, targets = next(iter(val_data))
    skipped = val_data.image_faults.skipped  # none where a host's share begins with fillers
    if skipped and not (targets["image_ids"].numpy() >= 0).any():
        raise ValueError(
            f"none of the first {len(skipped)} images to evaluate on can be read: {skipped[0]}"
        )


def write_metrics(path: str | Path, metrics: dict[str, float]) -> None:
    """Writes metrics as JSON, at once or not at all."""
    write_text(Path(path), json.dumps(metrics, indent=2) + "\n")


def read_finished(model_dir: Path, step: int) -> dict[str, float] | None:
    """The metrics of a run whose files are all there and of this step, else None."""
    if not all((model_dir / name).is_file() for name in (MODEL_FILE, METRICS_FILE, PICTURE_FILE)):
        return None
    try:
        metrics = json.loads((model_dir / METRICS_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    return metrics if metrics.get("step") == step else None


def warn_of_changes(config: Config, model_dir: Path) -> None:
    """Names the options that differ from those that the run was started with."""
    path = model_dir / CONFIG_FILE
    if not path.is_file():
        return
    before = set(path.read_text(encoding="utf-8").splitlines())
    ignored = tuple(f"--{name}=" for name in _HARMLESS)
    changed = [
        line
        for line in to_flags(config).splitlines()
        if line not in before and not line.startswith((*ignored, "#"))
    ]
    if changed:
        warnings.warn(
            f"resuming with other options than {path} has: {' '.join(changed)}", stacklevel=3
        )


def write_text(path: Path, text: str) -> None:
    """Writes a text file, at once or not at all."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
