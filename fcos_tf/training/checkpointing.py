"""The callbacks that save: checkpoints in the background and after a signal, and the best model.

`keras.callbacks.BackupAndRestore` keeps neither several checkpoints nor checksums, replaces its
file in place, and acts in `on_train_batch_end`; Orbax needs JAX.
"""

import json
import math
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras

from fcos_tf.atomic_files import write_text
from fcos_tf.models.image_model import read_means, write_means
from fcos_tf.models.train_steps import has_hosts
from fcos_tf.training import checkpoints
from fcos_tf.training.interruption import StopSignals, TrainingStopped
from fcos_tf.training.loop import EvaluationCallback, StepCallback
from fcos_tf.training.strategy import any_host

BEST_MODEL_FILE = "best.keras"
BEST_RECORD_FILE = "best.json"
_MOST_STEPS_UNSAVED = 1000
_STEPS_BETWEEN_QUESTIONS = 10


class Checkpoint(StepCallback):
    """Saves the model and its optimizer at a step interval and at the end of every epoch.

    Place it before the callback that evaluates: the checkpoint is on disk when the evaluation
    begins, so a failed evaluation costs no step.

    Args:
        model_dir: The run's folder; files go to `checkpoints/` in it.
        checkpoint_every: Steps between two checkpoints, >= 1; None: save with evaluations, and
            1000 steps after the last checkpoint.
        keep_checkpoints: Number of newest checkpoints to keep.
        first_step: Updates done before the first `fit`.
        stop: After a signal, the current step is saved, and all hosts raise `TrainingStopped`.
        writes: Whether this process writes; of several hosts one does.
        before_saving: Called with the step on every host, before it is saved.

    Raises:
        TrainingStopped: A signal was received.
        OSError: A checkpoint could not be written; raised one or more steps later.

    Example:
        >>> model.fit(train, epochs=2, callbacks=[Checkpoint("runs/a", checkpoint_every=500)])
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        checkpoint_every: int | None = None,
        keep_checkpoints: int = 3,
        first_step: int = 0,
        stop: StopSignals | None = None,
        writes: bool = True,
        before_saving: Callable[[int], None] = lambda step: None,
    ):
        super().__init__(first_step)
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(f"checkpoint_every: expected steps >= 1, got {checkpoint_every}")
        self.checkpoint_every = checkpoint_every
        self.stop = stop
        self.writes = writes
        self.before_saving = before_saving
        self._saver = BackgroundSaver(model_dir, keep=keep_checkpoints)
        self._saved_step = first_step

    def on_step_end(self, step, logs):
        """Saves if it is due; raises `TrainingStopped` after a signal."""
        self._saver.check()
        stopping = self._is_to_stop(step, logs)
        if self.checkpoint_every is None:
            due = step - self._saved_step >= _MOST_STEPS_UNSAVED
        else:
            due = step % self.checkpoint_every == 0
        if due or logs is not None or stopping:
            self._save(step)
        if stopping or logs is not None:
            self._saver.wait()
        if stopping:
            raise TrainingStopped(f"stopped by {self.stop.received or 'a signal to another host'}")

    def close(self, logs=None):
        """Waits until the last checkpoint is on disk."""
        self._saver.wait()

    on_train_end = close

    def _is_to_stop(self, step: int, logs) -> bool:
        if self.stop is None:
            return False
        strategy = self.model.distribute_strategy
        # All hosts must ask at the same steps, and each question is a network message.
        if has_hosts(strategy) and step % _STEPS_BETWEEN_QUESTIONS and logs is None:
            return False
        return any_host(self.stop.received is not None, strategy)

    def _save(self, step: int) -> None:
        if step == self._saved_step:
            return
        self.before_saving(step)
        if self.writes:
            self._saver.save(self.model, step)
        self._saved_step = step


class BackgroundSaver:
    """Writes checkpoints in a background thread, from a copy of the model in host memory.

    Training waits only for the copy, and for the previous checkpoint if it is not on disk yet.
    The arguments are those of `checkpoints.save`.
    """

    def __init__(self, model_dir: str | Path, *, keep: int = 3):
        self.model_dir = Path(model_dir)
        self.keep = keep
        self._copy = None
        self._writing: Future | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, model: keras.Model, step: int) -> None:
        """Starts to write the checkpoint of `step`; the model may change once this returns.

        It is a built, compiled, serialisable model, the same one in every call.

        Raises:
            OSError: The previous checkpoint could not be written.
        """
        self.wait()
        with keras.device("cpu:0"):
            if self._copy is None:
                self._copy = _copy_of(model)
            for kept, variable in zip(_state(self._copy), _state(model), strict=True):
                kept.assign(variable)
            write_means(self._copy, read_means(model))
        self._writing = self._executor.submit(
            checkpoints.save, self._copy, self.model_dir, step, keep=self.keep
        )

    def check(self) -> None:
        """Raises the error of the last checkpoint, if it has failed already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk; raises its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _copy_of(model: keras.Model) -> keras.Model:
    """A compiled model whose variables have the same shapes and order."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    for kept, variable in zip(copy.variables, model.variables, strict=True):
        # Frozen layers are not in the config; the optimizer's slots depend on them.
        kept.trainable = variable.trainable
    copy.compile_from_config(model.get_compile_config())
    return copy


def _state(model: keras.Model) -> list:
    return [*model.variables, *model.optimizer.variables]


class BestModel(EvaluationCallback):
    """Saves the model of the best evaluation as `best.keras`, its value in `best.json`.

    Place it after the callback that evaluates. A resumed run continues from `best.json`; a run
    from step 0 removes that of an older run, and its first evaluation replaces `best.keras`. An
    AP of -1, without a ground truth to measure it on, is no value.

    Args:
        model_dir: The run's folder.
        best_metric: `AP`, `AP50`, `mAP_voc07`, `loss` ... A record of another one is ignored.
        goal: "max" or "min", see `ImageModel.best_metrics`.
        first_step: Updates done before the first `fit`; above 0 in a resumed run.

    Example:
        >>> model.fit(train, epochs=9, callbacks=[DetectionMetrics(val), BestModel("runs/a")])
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        best_metric: str = "AP",
        goal: str = "max",
        first_step: int = 0,
    ):
        super().__init__(first_step)
        self.model_dir = Path(model_dir)
        self.best_metric = best_metric
        self._sign = -1 if goal == "min" else 1
        self.best = -math.inf * self._sign
        if first_step:
            self._read_best()
        self._seen = False

    def on_train_begin(self, logs=None):
        """Removes the record of an older run in the same folder."""
        record = self.model_dir / BEST_RECORD_FILE
        if not self.step and not self._seen and record.is_file():
            then = f"this run starts at step 0, and its first evaluation replaces {BEST_MODEL_FILE}"
            warnings.warn(f"removed {record} of an older run: {then}", stacklevel=2)
            record.unlink()

    def on_evaluation(self, step, metrics):
        """Saves the model if the metric has improved."""
        value = metrics.get(self.best_metric)
        if value is None or (self._sign > 0 and value == -1):
            return
        self._seen = True
        if not value * self._sign > self.best * self._sign:  # true for NaN
            return
        self.best = value
        self.model_dir.mkdir(parents=True, exist_ok=True)
        # The model first: a kill in between leaves a model better than its record.
        checkpoints.write_model(self.model, self.model_dir / BEST_MODEL_FILE)
        record = {"monitor": self.best_metric, "value": value, "step": step}
        write_text(self.model_dir / BEST_RECORD_FILE, json.dumps(record) + "\n")

    def on_train_end(self, logs=None):
        """Warns if no evaluation had a value of the metric."""
        if not self._seen:
            text = f"no evaluation gave {self.best_metric!r}; {BEST_MODEL_FILE} is not written"
            warnings.warn(text, stacklevel=2)

    def _read_best(self) -> None:
        path = self.model_dir / BEST_RECORD_FILE
        if not path.is_file() or not (self.model_dir / BEST_MODEL_FILE).is_file():
            return
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["monitor"] == self.best_metric:
                self.best = float(record["value"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected monitor, value and step, got {error!r}; remove the file to "
                "start without a record"
            ) from error
