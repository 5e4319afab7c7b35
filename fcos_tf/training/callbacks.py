"""Keras callbacks of a training run: checkpoints, numbers over the steps, detection metrics.

Keras hands each batch's logs to `on_train_batch_end` as Python floats, which makes the host wait
for the device at every step. The callbacks here therefore act between steps, at the beginning of
the next one, and read values from the device only at the steps where something is written.
"""

import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras

from fcos_tf import evaluation
from fcos_tf.evaluation.inference import check_finite
from fcos_tf.training import checkpoints

VALIDATION_PREFIX = "val_"
BEST_MODEL_FILE = "best.keras"
BEST_RECORD_FILE = "best.json"


class StepCallback(keras.callbacks.Callback):
    """A callback that counts updates over all epochs and `fit` calls.

    Args:
        first_step: Updates done before the (first) `fit`; above 0 in a resumed run.
    """

    def __init__(self, first_step: int = 0):
        super().__init__()
        self.step = first_step
        self._epoch_start = first_step
        self._batch = None

    def on_step_end(self, step: int, logs: Mapping[str, float] | None) -> None:
        """Called after each update, in the training thread; for subclasses.

        Args:
            step: Updates done.
            logs: The epoch's logs if this was its last step, else None.
        """

    def on_epoch_begin(self, epoch, logs=None):
        """Starts counting the epoch's steps."""
        self._epoch_start = self.step
        self._batch = None

    def on_train_batch_begin(self, batch, logs=None):
        """Reports the step before this one."""
        if self._batch is not None:
            self._finish(self._epoch_start + batch, None)
        self._batch = batch

    def on_epoch_end(self, epoch, logs=None):
        """Reports the epoch's last step."""
        if self._batch is not None:
            done = self._batch + getattr(self.model, "steps_per_execution", 1)
            self._finish(self._epoch_start + done, logs or {})
        self._batch = None

    def _finish(self, step: int, logs: Mapping[str, float] | None) -> None:
        self.step = step
        self.on_step_end(step, logs)


class Checkpoint(StepCallback):
    """Saves the model and its optimizer every `every` steps and at the end of training.

    Args:
        model_dir: The run's folder; files go to `checkpoints/` in it.
        every: Steps between two checkpoints, >= 1.
        keep: How many of the newest stay.
        first_step: Updates done before the first `fit`.

    Example:
        >>> model.fit(train, epochs=2, callbacks=[Checkpoint("runs/a", every=500)])
    """

    def __init__(self, model_dir: str | Path, *, every: int, keep: int = 3, first_step: int = 0):
        super().__init__(first_step)
        if every < 1:
            raise ValueError(f"every: expected a number of steps >= 1, got {every}")
        self.model_dir = Path(model_dir)
        self.every = every
        self.keep = keep
        self._saved_step = first_step

    def on_step_end(self, step, logs):
        """Saves where the step number is a multiple of `every`."""
        if step % self.every == 0:
            self._save(step)

    def on_train_end(self, logs=None):
        """Saves the last step."""
        self._save(self.step)

    def _save(self, step: int) -> None:
        if step != self._saved_step:
            checkpoints.save(self.model, self.model_dir, step, keep=self.keep)
            self._saved_step = step


class TrainingLog(StepCallback):
    """Hands losses, learning rate and speed to writers every `every` steps.

    A record holds the means of the model's metrics over the steps since the record before it (or
    since the epoch began), `learning_rate` (of the next update) and `images_per_second`. Stand
    before callbacks that work long at the end of an epoch, so that their time is not counted.

    Args:
        writers: Objects with `write(step, kind, values)`, see metric_writers.py.
        every: Steps between two records, >= 1.
        batch_size: Images per step over all devices.
        first_step: Updates done before the first `fit`.
    """

    def __init__(self, writers: Iterable, *, every: int, batch_size: int, first_step: int = 0):
        super().__init__(first_step)
        if every < 1:
            raise ValueError(f"every: expected a number of steps >= 1, got {every}")
        self.writers = list(writers)
        self.every = every
        self.batch_size = batch_size
        self._restart_clock()

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        super().on_epoch_begin(epoch, logs)
        self._restart_clock()

    def on_step_end(self, step, logs):
        """Writes a record where the step number is a multiple of `every`."""
        if step % self.every:
            return
        # At the end of an epoch Keras has read the metrics already (and an evaluation may have
        # used them since), and it resets them when the next begins.
        results = self.model.get_metrics_result() if logs is None else logs
        names = [metric.name for metric in self.model.metrics]
        values = {name: float(results[name]) for name in names if name in results}
        if logs is None:
            self.model.reset_metrics()
        seconds = time.perf_counter() - self._clock
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        values["images_per_second"] = (step - self._clock_step) * self.batch_size / seconds
        for writer in self.writers:
            writer.write(step, "train", values)
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock = time.perf_counter()
        self._clock_step = self.step


class EvaluationLog(StepCallback):
    """Hands what an epoch's logs hold under `val_...` to writers, without that prefix.

    Stand after the callback that evaluates.

    Args:
        writers: Objects with `write(step, kind, values)`, see metric_writers.py.
        first_step: Updates done before the first `fit`.
    """

    def __init__(self, writers: Iterable, *, first_step: int = 0):
        super().__init__(first_step)
        self.writers = list(writers)

    def on_step_end(self, step, logs):
        """Writes the evaluation at the end of an epoch that had one."""
        values = {
            name.removeprefix(VALIDATION_PREFIX): float(value)
            for name, value in (logs or {}).items()
            if name.startswith(VALIDATION_PREFIX)
        }
        if values:
            for writer in self.writers:
                writer.write(step, "val", values)


class DetectionMetrics(keras.callbacks.Callback):
    """Evaluates detections at the end of epochs and puts `val_AP`, `val_AP50` ... into the logs.

    Callbacks that come after it, and `fit`'s history, find the numbers there: TensorBoard draws
    them, and `ModelCheckpoint(path, monitor="val_AP", mode="max", save_best_only=True)` chooses
    by them.

    Args:
        dataset: Finite batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        metrics: Names of metrics, "coco", "voc07" or "voc12", see `fcos_tf.evaluation.evaluate`.
        every: Epochs between two evaluations, >= 1. The last epoch is always evaluated.

    Raises:
        ValueError: An unknown metric, a data set without end, or `every` below 1.

    Example:
        >>> model.fit(train, epochs=2, callbacks=[DetectionMetrics(val)])
    """

    def __init__(self, dataset: Iterable, *, metrics: Sequence[str] = ("coco",), every: int = 1):
        super().__init__()
        if every < 1:
            raise ValueError(f"every: expected a number of epochs >= 1, got {every}")
        check_finite(dataset)
        self.dataset = dataset
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        evaluation.metric_names(self.metrics)  # refuses unknown ones now, not after an epoch
        self.every = every
        self._detect = None

    def set_model(self, model):
        """Keeps the model and makes the function that detects, traced once for all epochs."""
        if self._detect is None or model is not self.model:
            self._detect = evaluation.compile_detect(model)
        super().set_model(model)

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates where it is due."""
        last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self.every and not last:
            return
        scores = evaluation.evaluate(self.model, self.dataset, self.metrics, detect=self._detect)
        if logs is not None:
            logs.update({f"{VALIDATION_PREFIX}{name}": score for name, score in scores.items()})


class BestModel(StepCallback):
    """Keeps the model of the best evaluation: `best.keras`, and `best.json` that says how good.

    Stand after the callback that evaluates. A run that is resumed, also by another process, goes
    on from what `best.json` holds. One that starts at step 0 does not: its first evaluation
    replaces what an older run has left there.

    Args:
        model_dir: The run's folder.
        monitor: The number to choose by, the higher the better: `AP`, `AP50`, `mAP_voc07` ... Where
            `best.json` holds another one, the choice starts anew.
        first_step: Updates done before the first `fit`; above 0 in a resumed run.

    Example:
        >>> model.fit(train, epochs=9, callbacks=[DetectionMetrics(val), BestModel("runs/a")])
    """

    def __init__(self, model_dir: str | Path, *, monitor: str = "AP", first_step: int = 0):
        super().__init__(first_step)
        self.model_dir = Path(model_dir)
        self.monitor = monitor
        self.best = self._read()
        self._seen = False

    def on_step_end(self, step, logs):
        """Saves the model after an evaluation better than all before."""
        value = (logs or {}).get(VALIDATION_PREFIX + self.monitor)
        if value is None:
            return
        self._seen = True
        value = float(value)
        if not value > self.best:  # nor if it is NaN
            return
        self.best = value
        self.model_dir.mkdir(parents=True, exist_ok=True)
        # The model first: a kill in between leaves a better model than the file says, and no run
        # that forgets it had one.
        checkpoints.write_model(self.model, self.model_dir / BEST_MODEL_FILE)
        record = {"monitor": self.monitor, "value": value, "step": step}
        temporary = self.model_dir / f".{BEST_RECORD_FILE}.writing"
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
        os.replace(temporary, self.model_dir / BEST_RECORD_FILE)

    def on_train_end(self, logs=None):
        """Warns where there was nothing to choose by."""
        if not self._seen:
            warnings.warn(f"no evaluation gave {self.monitor!r} to choose by", stacklevel=2)

    def _read(self) -> float:
        """The best value so far; -inf if there is none."""
        path = self.model_dir / BEST_RECORD_FILE
        if not path.is_file() or not (self.model_dir / BEST_MODEL_FILE).is_file():
            return -math.inf
        if not self.step:
            warnings.warn(
                f"{path} is of an older run and does not count, as this one starts at step 0; "
                f"the first evaluation replaces it and {BEST_MODEL_FILE}",
                stacklevel=3,
            )
            return -math.inf
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return float(record["value"]) if record["monitor"] == self.monitor else -math.inf
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected monitor, value and step as BestModel writes them; remove the "
                f"file to choose anew ({error!r})"
            ) from error
