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
from typing import Any

import keras

from fcos_tf.visualization.curves import read_records

VALIDATION_PREFIX = "val_"


def count_steps(num_images: int, *, steps: int, epochs: float, batch_size: int) -> int:
    """The length of a run in updates: `steps`, or `epochs` passes over the images if it is 0.

    Raises:
        ValueError: Both are 0.
    """
    if not steps and not epochs:
        raise ValueError("--steps or --epochs: expected one of them above 0, got neither")
    return steps or max(1, math.ceil(epochs * num_images / batch_size))


def count_period(num_images: int, total_steps: int, *, eval_every: int, batch_size: int) -> int:
    """Steps between two evaluations: `eval_every`; if it is 0, an epoch or a tenth of the run."""
    return eval_every or max(math.ceil(num_images / batch_size), math.ceil(total_steps / 10))


def stretches(
    start_step: int, total_steps: int, period: int
) -> Iterator[tuple[int, int, int, int]]:
    """Divides the remaining steps into at most three `fit` calls, each of epochs of one length.

    The arguments are those of `fit` below.

    Yields:
        (updates done before, index of the first epoch, number of epochs, updates in each), in
        order; none if the run is complete.

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
        yield step, epoch, epochs, length
        step += epochs * length


def lacks_evaluation(metrics_file: str | Path, step: int, *, total_steps: int, period: int) -> bool:
    """Whether a run was killed before the evaluation of the step it resumes from.

    The `metrics_file`, the run's `metrics.jsonl`, need not exist; the lengths are those of `fit`.
    """
    due = step > 0 and (step % period == 0 or step == total_steps)
    records = read_records(metrics_file) if due and Path(metrics_file).exists() else ()
    return due and not any(found[1:3] == (step, "val") for found in records)


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
        """For subclasses: after `step` updates; `logs` of the epoch after its last one, or None."""

    def close(self) -> None:
        """For subclasses: called by `loop.fit` when training ends, also after an error."""

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
            if steps := (self.params or {}).get("steps"):  # the last execution may be shorter
                done = min(done, steps)
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
        """For subclasses: after the evaluation of `step`; `metrics` as of `evaluation_in`."""

    def on_step_end(self, step, logs):
        """Looks for an evaluation at the end of an epoch."""
        if metrics := evaluation_in(logs or {}):
            self.on_evaluation(step, metrics)


def evaluation_in(logs: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the evaluation in an epoch's logs, without their prefix `val_`."""
    return {
        name.removeprefix(VALIDATION_PREFIX): float(value)
        for name, value in logs.items()
        if name.startswith(VALIDATION_PREFIX)
    }


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
        start_step: Updates done already, >= 0.
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
        for step, epoch, epochs, length in stretches(start_step, total_steps, period):
            history = model.fit(
                make_dataset(step),
                initial_epoch=epoch,
                epochs=epoch + epochs,
                steps_per_epoch=length,
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
