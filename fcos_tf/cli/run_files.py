"""The files of a run: their names, and how they are read and written."""

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fcos_tf.config import Config, flag_value, to_flags

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

# Options that say where a run is done, how to watch it and how to keep it; none of them changes
# what is learnt, rounding aside (--max_bad_steps: from steps that are finite).
_HARMLESS = (
    "allow_config_change",
    "model_dir",
    "data_dir",
    "annotations",
    "images",
    "strategy",
    "tpu",
    "jit_compile",
    "accumulation_steps",
    "max_bad_steps",
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
# Where things are on a host; all other options are the same on all hosts of a run.
_OF_A_HOST = ("model_dir", "data_dir", "annotations", "images", "cache")


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
        detect: What `detecting.compile_detect(model, dataset.class_names)` gave.
    """
    from fcos_tf import detecting, visualization
    from fcos_tf.training.atomic import naming

    detect = detect or detecting.compile_detect(model, dataset.class_names)
    samples = detecting.detect_samples(dataset, detect, count)
    with naming(path):
        visualization.save_gallery(
            path, *samples, dataset.class_names, score_threshold=PICTURE_THRESHOLD
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


def write_metrics(path: str | Path, metrics: dict[str, Any]) -> None:
    """Writes metrics as JSON, at once or not at all."""
    from fcos_tf.training import atomic

    atomic.write_text(path, json.dumps(metrics, indent=2) + "\n")


def read_finished(model_dir: Path, step: int) -> dict[str, float] | None:
    """The metrics of a run whose files are all there and of this step, else None."""
    if not all((model_dir / name).is_file() for name in (MODEL_FILE, METRICS_FILE, PICTURE_FILE)):
        return None
    try:
        metrics = json.loads((model_dir / METRICS_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    return metrics if metrics.get("step") == step else None


def write_config(config: Config, model_dir: Path) -> None:
    """Keeps the flags that a run goes on with. A change is allowed once, not for ever."""
    from fcos_tf.training import atomic

    flags = to_flags(dataclasses.replace(config, allow_config_change=False))
    atomic.write_text(model_dir / CONFIG_FILE, flags)


def check_unchanged(config: Config, model_dir: Path) -> None:
    """Refuses to go on with a run under flags that change what is learnt.

    Args:
        config: The options.
        model_dir: The run's folder; without a `config.cfg` in it there is nothing to compare with.

    Raises:
        ValueError: Flags differ that matter, unless `config.allow_config_change`; names all with
            the old value and the new one. There is a warning where it is allowed.
    """
    path = model_dir / CONFIG_FILE
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    before = dict(line[2:].split("=", 1) for line in lines if re.match(r"--\w+=", line))
    changed = []
    for field in dataclasses.fields(config):
        new = flag_value(getattr(config, field.name))
        old = before.get(field.name, flag_value(field.default))  # a flag younger than the run
        if field.name not in _harmless(config) and _comparable(old) != _comparable(new):
            changed.append(f"--{field.name}={new} (was {old or 'empty'})")
    if not changed:
        return
    text = f"{path} says that the run to resume has other flags: {', '.join(changed)}"
    if not config.allow_config_change:
        raise ValueError(
            f"{text}; give those it began with, another --model_dir, or --allow_config_change"
        )
    warnings.warn(text, stacklevel=3)


def of_all_hosts(config: Config, step: int) -> dict[str, str]:
    """What the hosts of a run have to agree about: its options, and the step they go on from."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in _OF_A_HOST]
    options = {f"--{name}": flag_value(getattr(config, name)) for name in names}
    return {"--model_dir: step of the newest checkpoint": str(step), **options}


def _harmless(config: Config) -> tuple[str, ...]:
    # The others derive the learning rate from the length of the run.
    fixed_rates = config.schedule == "constant" or config.decay_steps
    return _HARMLESS + (("steps", "epochs") if fixed_rates else ())


def _comparable(text: str) -> str | list[float]:
    """Numbers as such: 0 and 0.0 are the same."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text
