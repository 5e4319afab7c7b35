"""A run: its files, how they are read and written, and the way from one step to the end."""

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
from fcos_tf.detecting.folder import PICTURE_THRESHOLD
from fcos_tf.detecting.results import DETECTIONS_FILE  # noqa: F401 - among the files of a run
from fcos_tf.training import atomic, callbacks, checkpoints, loop
from fcos_tf.training.metric_writers import JsonLinesWriter, TensorBoardWriter, TextWriter
from fcos_tf.training.progress_bar import ProgressBar
from fcos_tf.training.stop_signals import Stopped
from fcos_tf.training.strategy import agree
from fcos_tf.visualization.curves import METRICS_LINES_FILE

CONFIG_FILE = "config.cfg"
MODEL_FILE = "model.keras"
METRICS_FILE = "metrics.json"
PER_CLASS_FILE = "per_class.json"
PICTURE_FILE = "detections.png"
TENSORBOARD_FOLDER = "tensorboard"
NUM_PICTURES = 8


def find_weights(model_dir: str | Path, weights: str | Path | None = None) -> Path:
    """The file to take a model from: `weights`, or the newest of the run in `model_dir`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If neither is given.
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
    """Where the numbers of a run go: two files of its folder, and the terminal or a log.

    Args:
        model_dir: The run's folder.
        first_step: Updates done before the run goes on.
        total_steps: The length of the run.
        left_out: Names of numbers that are for the files only.
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
    """A context at whose end all writers are closed, whatever goes wrong with one of them."""
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
    """Trains to the end, after the evaluation that a killed run did not come to.

    Args:
        model: Compiled, its weights those of `start_step`.
        make_dataset: As of `loop.fit`, as are the numbers of steps.
        made: The callbacks.
        model_dir: The run's folder.
        start_step: Updates done.
        total_steps: Updates at the end.
        period: Steps between two evaluations.
        is_chief: Whether this is the host that writes files.

    Returns:
        The last evaluation, if there was one.

    Raises:
        Stopped: That of the chief says in which checkpoint the run stands.
    """
    lines, strategy = Path(model_dir) / METRICS_LINES_FILE, model.distribute_strategy
    lengths = {"total_steps": total_steps, "period": period}
    missing = is_chief and loop.lacks_evaluation(lines, start_step, **lengths)
    metrics: dict[str, float] = {}
    try:
        if agree(missing, strategy):
            metrics = callbacks.make_up_evaluation(model, made, start_step)
        logs = loop.fit(model, make_dataset, **lengths, start_step=start_step, callbacks=made)
    except Stopped as stopped:
        agree(True, strategy)  # none leaves before the checkpoint is there
        if not is_chief:
            raise
        path = checkpoints.latest(model_dir)
        step = checkpoints.step_of(path)
        raise Stopped(f"{stopped} at step {step} of {total_steps}, kept in {path}") from None
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
        path: The picture.
        model: A detector.
        dataset: What to detect on, with `class_names`.
        count: How many images.
        detect: What `detecting.compile_detect(model, dataset.class_names)` gave.
    """
    detect = detect or compile_detect(model, dataset.class_names)
    samples = detect_samples(dataset, detect, count)
    with atomic.naming(path):
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
    atomic.write_text(path, json.dumps(metrics, indent=2) + "\n")


def write_scores(
    folder: str | Path, metrics: dict[str, Any], per_class: dict[str, dict[str, Any]]
) -> None:
    """Writes what an evaluation gave, over all classes and per class; makes the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_metrics(Path(folder) / METRICS_FILE, metrics)
    write_metrics(Path(folder) / PER_CLASS_FILE, per_class)


def read_finished(
    model_dir: Path, step: int, *, has_picture: bool = True
) -> dict[str, float] | None:
    """The metrics of a run whose files are all there and of this step, else None."""
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
    """Refuses to go on with a run under options that change what is learnt.

    Args:
        model_dir: The run's folder; without a `config.cfg` in it there is nothing to compare with.
        options: Those that must be as they were, by name, as a config file spells them.
        defaults: The same for a run that is older than an option.
        allow_config_change: Warn instead.

    Raises:
        ValueError: Options differ; names all with the old value and the new one.
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
            f"{text}; give those it began with, another --model_dir, or --allow_config_change"
        )
    warnings.warn(text, stacklevel=2)


def _comparable(text: str) -> str | list[float]:
    """Numbers as such: 0 and 0.0 are the same."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text
