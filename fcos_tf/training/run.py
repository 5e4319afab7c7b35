"""The files of a run: its models, options, records, metrics and pictures."""

import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf import evaluation, visualization
from fcos_tf.atomic_files import naming, write_text
from fcos_tf.detecting.batches import compile_detect, detect_samples
from fcos_tf.detecting.folder import PICTURE_THRESHOLD
from fcos_tf.training import checkpoints
from fcos_tf.training.loop import EvaluationCallback
from fcos_tf.training.metric_writers import (
    JsonLinesWriter,
    ProgressBar,
    TensorBoardWriter,
    TextWriter,
)
from fcos_tf.training.optimizers import averaged_weights
from fcos_tf.visualization.curves import METRICS_LINES_FILE

CONFIG_FILE = "config.cfg"
DATA_FILE = "data.txt"
MODEL_FILE = "model.keras"
METRICS_FILE = "metrics.json"
PER_CLASS_FILE = "per_class.json"
PROBABILITIES_FILE = "probabilities.json"  # of a classifier
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
        missing = f"no checkpoint and no {MODEL_FILE} in {model_dir}"
        raise FileNotFoundError(f"--model_dir: {missing}; train first")
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
    if sys.stdout.isatty():
        terminal = ProgressBar(total_steps, first_step=first_step, left_out=left_out)
    else:
        terminal = TextWriter(total_steps, left_out=left_out)
    return [
        JsonLinesWriter(Path(model_dir) / METRICS_LINES_FILE, first_step=first_step),
        TensorBoardWriter(Path(model_dir) / TENSORBOARD_FOLDER, first_step=first_step),
        terminal,
    ]


class DetectionPictures(EvaluationCallback):
    """Draws the same few images after each evaluation. Place it after the callback that evaluates.

    Args:
        dataset: Batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        writer: Has `write_pictures(step, kind, pictures)`, as `metric_writers.TensorBoardWriter`.
        count: Number of images, the first of the data set.
        first_step: Updates done before the first `fit`.
    """

    def __init__(
        self, dataset: Iterable, writer, *, count: int = NUM_PICTURES, first_step: int = 0
    ):
        super().__init__(first_step)
        self.dataset = dataset
        self.writer = writer
        self.count = count
        self._class_names = getattr(dataset, "class_names", None)
        self._batches: list = []
        self._detect = None

    def set_model(self, model):
        """Sets the model and its detection function, traced once for all epochs."""
        if self._detect is None or model is not self.model:
            self._detect = compile_detect(model, self._class_names)
        super().set_model(model)

    def on_evaluation(self, step, metrics):
        """Draws, with averaged weights if the optimizer keeps them."""
        self._batches = self._batches or self._first_batches()
        with averaged_weights(self.model):
            samples = detect_samples(self._batches, self._detect, self.count)
        options = {"class_names": self._class_names, "score_threshold": PICTURE_THRESHOLD}
        pictures = {
            f"image_{int(truth['image_ids'])}": visualization.draw_gallery(
                [image], [truth], [found], **options
            )
            for image, truth, found in zip(*samples, strict=True)
        }
        self.writer.write_pictures(step, "val", pictures)

    def _first_batches(self) -> list:
        """The batches with the images to draw, read once."""
        batches, found = [], 0
        for batch in self.dataset:
            batches.append(batch)
            found += np.count_nonzero(np.asarray(batch[1]["image_ids"]) >= 0)
            if found >= self.count:
                break
        return batches


def save_pictures(
    path: str | Path, model: Any, dataset: Iterable, *, detect: Callable[..., Any] | None = None
) -> None:
    """Draws ground truth and detections of the first `NUM_PICTURES` images of a data set.

    Args:
        path: The image file to write.
        model: A detector.
        dataset: Batches of `(images, targets)`, with `class_names`.
        detect: Result of `detecting.compile_detect(model, dataset.class_names)`.
    """
    names = dataset.class_names
    samples = detect_samples(dataset, detect or compile_detect(model, names), NUM_PICTURES)
    with naming(path):
        visualization.save_gallery(path, *samples, names, score_threshold=PICTURE_THRESHOLD)


def check_readable(val_data: Any) -> None:
    """Reads the first batch of the evaluation data, to report unreadable images before training.

    Raises:
        ValueError: None of its images can be read.
    """
    _, targets = next(iter(val_data))
    skipped = val_data.image_faults.skipped  # empty if a host's share begins with padding rows
    if skipped and not (targets["image_ids"].numpy() >= 0).any():
        images = f"the first {len(skipped)} images to evaluate on"
        raise ValueError(f"none of {images} can be read: {skipped[0]}")


def write_metrics(path: str | Path, metrics: dict[str, Any]) -> None:
    """Writes metrics as JSON, renamed into place."""
    write_text(path, json.dumps(metrics, indent=2) + "\n")


def write_scores(folder: str | Path, scores: evaluation.Scores) -> None:
    """Writes the metrics over all classes and per class, in a folder that exists."""
    write_metrics(Path(folder) / METRICS_FILE, scores.metrics)
    write_metrics(Path(folder) / PER_CLASS_FILE, scores.per_class)


def read_finished(model_dir: Path, step: int, *, has_picture: bool) -> dict[str, float] | None:
    """The metrics of a run whose files are complete and of this step, else None."""
    names = (MODEL_FILE, METRICS_FILE, *((PICTURE_FILE,) if has_picture else ()))
    if not all((model_dir / name).is_file() for name in names):
        return None
    try:
        metrics = json.loads((model_dir / METRICS_FILE).read_text(encoding="utf-8"))
        return metrics if metrics.get("step") == step else None
    except (ValueError, AttributeError):
        return None


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
        ValueError: Options differ; names them with old and new values. Or the file is no config.
    """
    path = Path(model_dir) / CONFIG_FILE
    if not path.is_file():
        return
    before = dict(defaults) | dict(_read_lines(path, r"--(\w+)=(.*)|#.*|", "--name=value"))
    changed = [
        f"--{name}={value} (was {before[name] or 'empty'})"
        for name, value in options.items()
        if _comparable(before[name]) != _comparable(value)
    ]
    _refuse(path, "flags", changed, allow_config_change)


def describe_data(**splits: Any) -> list[str]:
    """The fingerprints of the data sets by their role, such as `train`; none of made images."""
    known = {role: data.annotations for role, data in splits.items() if data.annotations}
    return [f"{role} {line}" for role, each in known.items() for line in each.fingerprint()]


def check_same_data(
    model_dir: str | Path, data: Sequence[str], *, allow_config_change: bool = False
) -> None:
    """Refuses to resume a run on other images or annotations.

    Args:
        model_dir: The run's folder; without a `data.txt` nothing is compared.
        data: The result of `describe_data`, the content of that file.
        allow_config_change: Warn instead.

    Raises:
        ValueError: Images were added, removed or changed; names them. Or the file is no such list.
    """
    path = Path(model_dir) / DATA_FILE
    if not path.is_file():
        return
    lines = _read_lines(path, r"(\w+) ([0-9a-f]{8} .+)", "'train', a checksum and a name")
    before, now = Counter(lines), Counter(tuple(line.split(" ", 1)) for line in data)
    gone, new = (
        {f"{role} {line.split(' ', 1)[1]}" for role, line in rows}
        for rows in (before - now, now - before)
    )
    kinds = {"added": new - gone, "removed": gone - new, "with other objects": new & gone}
    changed = [
        f"{len(names)} {kind} ({', '.join([*sorted(names)[:5], '...'][: len(names)])})"
        for kind, names in kinds.items()
        if names
    ]
    _refuse(path, "images", changed, allow_config_change)


def _read_lines(path: Path, pattern: str, expected: str) -> list[tuple[str, str]]:
    """The two groups of each line of a file; of lines without groups nothing."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines() or [""], start=1):
        match = re.fullmatch(pattern, line)
        if match is None or not text.strip():
            raise ValueError(
                f"{path}, line {number}: expected {expected}, got {line[:80]!r}; remove the file "
                "to resume without comparing"
            )
        found += [match.groups()] if match[1] else []
    return found


def _refuse(path: Path, what: str, changed: Sequence[str], allow_config_change: bool) -> None:
    """Raises or warns if something has changed since the run began."""
    text = f"{path} says that the run to resume has other {what}: {', '.join(changed)}"
    if changed and not allow_config_change:
        advice = "give the original ones, another --model_dir, or --allow_config_change"
        raise ValueError(f"{text}; {advice}")
    if changed:
        warnings.warn(text, stacklevel=3)


def _comparable(text: str) -> str | list[float]:
    """Numbers as floats, so that 0 equals 0.0."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text
