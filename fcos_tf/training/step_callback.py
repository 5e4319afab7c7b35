"""Callbacks that act between updates, and after evaluations.

Keras passes each batch's logs to `on_train_batch_end` as Python floats, so the host waits for the
device at every step. These callbacks therefore act at the beginning of the next step, and read
values from the device only at steps with something to write.
"""

from collections.abc import Mapping

import keras

VALIDATION_PREFIX = "val_"


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
