"""A run: its files, and training from a step to the end."""

import contextlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from fcos_tf import visualization
from fcos_tf.detecting.batches import compile_detect, detect_samples
from fcos_tf.detecting.files import DETECTIONS_FILE  # noqa: F401 - among the files of a run
from fcos_tf.detecting.folder import PICTURE_THRESHOLD
from fcos_tf.training import atomic, callbacks, checkpoints, loop
from fcos_tf.training.metric_writers import JsonLinesWriter, TensorBoardWriter, TextWriter
from fcos_tf.training.progress_bar import ProgressBar
from fcos_tf.training.stop_signals import TrainingStopped
from fcos_tf.training.strategy import any_host
from fcos_tf.visualization.curves import METRICS_LINES_FILE

CONFIG_FILE = "config.cfg"
MODEL_FILE = "model.keras"
METRICS_FILE = "metrics.json"
PER_CLASS_FILE = "per_class.json"
PICTURE_FILE = "detections.png"
TENSORBOARD_FOLDER = "tensorboard"
NUM_PICTURES = 8


def find_weights(model_dir: str | Path, weights: str | Path | None = None) -> Path:
    """The file of a model: `weights`, or the newest one of the run in `model_dir`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Neither is given.
    """
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


def make_writers(
    model_dir: str | Path, first_step: int, total_steps: int, *, left_out: Collection[str] = ()
) -> list:
    """The writers of a run: two into its folder, one for the terminal or log.

    Args:
        model_dir: The run's folder.
        first_step: Updates done already.
        total_steps: The length of the run.
        left_out: Names of metrics for the files only.
    """
    model_dir = Path(model_dir)
    return [
        JsonLinesWriter(model_dir / METRICS_LINES_FILE, first_step=first_step),
        TensorBoardWriter(model_dir / TENSORBOARD_FOLDER, first_step=first_step),
        ProgressBar(total_steps, first_step=first_step)
        if sys.stdout.isatty()
        else TextWriter(total_steps, left_out=left_out),
    ]


@contextlib.contextmanager
def closing(writers: Iterable) -> Iterator[None]:
    """A context that closes all writers at its end, even if closing one fails."""
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.callback(writer.close)
        yield


def go_on(
    model: keras.Model,
    make_dataset: Callable[[int], Any],
    made: Sequence[keras.callbacks.Callback],
    *,
    model_dir: str | Path,
    start_step: int,
    total_steps: int,
    period: int,
    is_chief: bool,
) -> dict[str, float]:
    """Does the evaluation that a killed run missed, if any, and trains to the end.

    Args:
        model: Compiled, with the weights of `start_step`.
        make_dataset: See `loop.fit`.
        made: The callbacks.
        model_dir: The run's folder.
        start_step: Updates done.
        total_steps: Updates at the end.
        period: Steps between two evaluations.
        is_chief: Whether this is the host that writes files.

    Returns:
        The metrics of the last evaluation, if there was one.

    Raises:
        TrainingStopped: After a signal; on the chief it names the checkpoint.
    """
    lines, strategy = Path(model_dir) / METRICS_LINES_FILE, model.distribute_strategy
    lengths = {"total_steps": total_steps, "period": period}
    missing = is_chief and loop.lacks_evaluation(lines, start_step, **lengths)
    metrics: dict[str, float] = {}
    try:
        if any_host(missing, strategy):
            metrics = callbacks.make_up_evaluation(model, made, start_step)
        logs = loop.fit(model, make_dataset, **lengths, start_step=start_step, callbacks=made)
    except TrainingStopped as stopped:
        any_host(True, strategy)  # no host leaves before the checkpoint is on disk
        if not is_chief:
            raise
        path = checkpoints.latest(model_dir)
        step = checkpoints.step_of(path)
        raise TrainingStopped(
            f"{stopped} at step {step} of {total_steps}, kept in {path}"
        ) from None
    prefix = callbacks.VALIDATION_PREFIX
    return metrics | {k.removeprefix(prefix): v for k, v in logs.items() if k.startswith(prefix)}


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
        path: The image file to write.
        model: A detector.
        dataset: Batches of `(images, targets)`, with `class_names`.
        count: Number of images.
        detect: Result of `detecting.compile_detect(model, dataset.class_names)`.
    """
    detect = detect or compile_detect(model, dataset.class_names)
    samples = detect_samples(dataset, detect, count)
    with atomic.naming(path):
        visualization.save_gallery(
            path, *samples, dataset.class_names, score_threshold=PICTURE_THRESHOLD
        )


def check_readable(val_data: Any) -> None:
    """Reads the first batch of the evaluation data, to report unreadable images before training.

    Raises:
        ValueError: None of its images can be read.
    """
    _, targets = next(iter(val_data))
    skipped = val_data.image_faults.skipped  # empty if a host's share begins with padding rows
    if skipped and not (targets["image_ids"].numpy() >= 0).any():
        raise ValueError(
            f"none of the first {len(skipped)} images to evaluate on can be read: {skipped[0]}"
        )


def write_metrics(path: str | Path, metrics: dict[str, Any]) -> None:
    """Writes metrics as JSON, renamed into place."""
    atomic.write_text(path, json.dumps(metrics, indent=2) + "\n")


def write_scores(
    folder: str | Path, metrics: dict[str, Any], per_class: dict[str, dict[str, Any]]
) -> None:
    """Writes the metrics over all classes and per class; creates the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_metrics(Path(folder) / METRICS_FILE, metrics)
    write_metrics(Path(folder) / PER_CLASS_FILE, per_class)


def read_finished(
    model_dir: Path, step: int, *, has_picture: bool = True
) -> dict[str, float] | None:
    """The metrics of a run whose files are complete and of this step, else None."""
    names = (MODEL_FILE, METRICS_FILE, *((PICTURE_FILE,) if has_picture else ()))
    if not all((model_dir / name).is_file() for name in names):
        return None
    try:
        metrics = json.loads((model_dir / METRICS_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    return metrics if metrics.get("step") == step else None


def check_unchanged(
    model_dir: str | Path,
    options: Mapping[str, str],
    defaults: Mapping[str, str],
    *,
    allow_config_change: bool = False,
) -> None:
    """Refuses to resume a run with other options that affect the training.

    Args:
        model_dir: The run's folder; without a `config.cfg` nothing is compared.
        options: Options that must not change: name -> text as in a config file.
        defaults: Their values in a run older than an option.
        allow_config_change: Warn instead.

    Raises:
        ValueError: Options differ; names them with old and new values.
    """
    path = Path(model_dir) / CONFIG_FILE
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    before = dict(defaults)
    before.update(line[2:].split("=", 1) for line in lines if re.match(r"--\w+=", line))
    changed = [
        f"--{name}={value} (was {before[name] or 'empty'})"
        for name, value in options.items()
        if _comparable(before[name]) != _comparable(value)
    ]
    if not changed:
        return
    text = f"{path} says that the run to resume has other flags: {', '.join(changed)}"
    if not allow_config_change:
        raise ValueError(
            f"{text}; give the original ones, another --model_dir, or --allow_config_change"
        )
    warnings.warn(text, stacklevel=2)


def _comparable(text: str) -> str | list[float]:
    """Numbers as floats, so that 0 equals 0.0."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text
