"""Training in steps through Keras' `fit`, from any step.

A run counts steps, Keras counts epochs. One Keras epoch is here the interval between two
evaluations, `period` steps, whatever the data set's size. Epoch e covers the steps e * period + 1
to (e + 1) * period. The first epoch of a resumed run and the last epoch may be shorter:

    total 250, period 100, resumed at 130:   130 -(70 steps)-> 200 -(50 steps)-> 250
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from fcos_tf.training.metric_writers import has_record

VALIDATION_PREFIX = "val_"


def count_steps(num_images: int, *, steps: int, epochs: float, batch_size: int) -> int:
    """The length of a run in updates.

    Args:
        num_images: Of the training split.
        steps: The length, or 0.
        epochs: Passes over the split; used if `steps` is 0.
        batch_size: Images in a step.

    Raises:
        ValueError: Both are 0.
    """
    if steps:
        return steps
    if not epochs:
        raise ValueError("--steps or --epochs: expected one of them above 0, got neither")
    return max(1, math.ceil(epochs * num_images / batch_size))


def count_period(num_images: int, *, eval_every: int, batch_size: int) -> int:
    """Steps between two evaluations: `eval_every`, or one epoch if it is 0."""
    return eval_every or math.ceil(num_images / batch_size)


class Stretch(NamedTuple):
    """Consecutive epochs of equal length, one `fit` call.

    Attributes:
        first_step: Updates done before it.
        first_epoch: Index of its first epoch, from 0.
        epochs: Number of epochs, >= 1.
        steps_per_epoch: Updates in each.
    """

    first_step: int
    first_epoch: int
    epochs: int
    steps_per_epoch: int


def stretches(start_step: int, total_steps: int, period: int) -> Iterator[Stretch]:
    """Divides the remaining steps into at most three `fit` calls.

    Args:
        start_step: Updates done already, >= 0.
        total_steps: Updates at the end of the run.
        period: Steps of a whole epoch, >= 1.

    Yields:
        Stretches in order; none if the run is complete.

    Raises:
        ValueError: An argument is out of range.
    """
    if start_step < 0 or period < 1:
        raise ValueError(f"expected start_step >= 0 and period >= 1, got {start_step} and {period}")
    step = start_step
    while step < total_steps:
        epoch, done = divmod(step, period)
        whole = (total_steps - step) // period
        if done or not whole:
            epochs, length = 1, min(period - done, total_steps - step)
        else:
            epochs, length = whole, period
        yield Stretch(step, epoch, epochs, length)
        step += epochs * length


def lacks_evaluation(metrics_file: str | Path, step: int, *, total_steps: int, period: int) -> bool:
    """Whether a run was killed before the evaluation of the step it resumes from.

    Args:
        metrics_file: The `metrics.jsonl` of the run, which need not exist.
        step: Updates done.
        total_steps: Updates at the end of the run.
        period: Steps between two evaluations.
    """
    due = step > 0 and (step % period == 0 or step == total_steps)
    return due and not has_record(metrics_file, step, "val")


class StepCallback(keras.callbacks.Callback):
    """A callback between updates, which counts them over all epochs and `fit` calls.

    Keras passes each batch's logs to `on_train_batch_end` as Python floats, so the host waits for
    the device at every step. This one acts at the beginning of the next step, and reads values
    from the device only at steps with something to write.

    Args:
        first_step: Updates done before the (first) `fit`; above 0 in a resumed run.
    """

    precedes_evaluation = True

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

    def close(self) -> None:
        """Called by `loop.fit` when training ends, also after an error; for subclasses."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the epoch's step count."""
        self._epoch_start = self.step
        self._batch = None

    def on_train_batch_begin(self, batch, logs=None):
        """Reports the previous step."""
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


class EvaluationCallback(StepCallback):
    """A callback that acts after evaluations. Place it after the callback that evaluates.

    Args:
        first_step: Updates done before the (first) `fit`; above 0 in a resumed run.
    """

    precedes_evaluation = False

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after each evaluation; for subclasses.

        Args:
            step: Updates done.
            metrics: The `val_...` entries of the epoch's logs, without that prefix.
        """

    def on_step_end(self, step, logs):
        """Looks for an evaluation at the end of an epoch."""
        metrics = {
            name.removeprefix(VALIDATION_PREFIX): float(value)
            for name, value in (logs or {}).items()
            if name.startswith(VALIDATION_PREFIX)
        }
        if metrics:
            self.on_evaluation(step, metrics)


def fit(
    model: keras.Model,
    make_dataset: Callable[[int], Any],
    *,
    total_steps: int,
    period: int,
    start_step: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, float]:
    """Trains up to `total_steps` updates.

    Args:
        model: A compiled model with the weights and optimizer state of `start_step`.
        make_dataset: Step -> endless data set of batches that begins with the batch of that step.
        total_steps: Updates at the end of the run.
        period: Steps of an epoch, at whose end callbacks evaluate; >= 1.
        start_step: Updates done already.
        callbacks: Keras callbacks; `StepCallback`s must have `first_step=start_step`.

    Returns:
        The logs of the last epoch; empty if the run was complete.

    Raises:
        ValueError: An argument is out of range.
        Exception: From a callback or a step, after all `StepCallback`s are closed. Further errors
            of closing become warnings.
    """
    callbacks = list(callbacks)
    logs: dict[str, float] = {}
    errors: list[BaseException] = []
    try:
        for stretch in stretches(start_step, total_steps, period):
            history = model.fit(
                make_dataset(stretch.first_step),
                initial_epoch=stretch.first_epoch,
                epochs=stretch.first_epoch + stretch.epochs,
                steps_per_epoch=stretch.steps_per_epoch,
                callbacks=callbacks,
                shuffle=False,  # done by the data set
                verbose=0,
            )
            logs = {name: values[-1] for name, values in history.history.items()}
    except BaseException as error:
        errors.append(error)
    # Keras calls `on_train_end` only after a fit without an error.
    for callback in callbacks:
        if isinstance(callback, StepCallback):
            try:
                callback.close()
            except Exception as error:
                errors.append(error)
    for error in errors[1:]:
        warnings.warn(f"after {type(errors[0]).__name__}, also: {error}", stacklevel=2)
    if errors:
        raise errors[0]
    return logs
