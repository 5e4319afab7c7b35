"""Stops a training whose loss or gradient is not finite, and saves the batch that caused it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fcos_tf.atomic_files import replacing
from fcos_tf.training import checkpoints
from fcos_tf.training.loop import StepCallback


class NonFiniteGuard(StepCallback):
    """Finds non-finite steps, reports the first one, and stops the training or continues.

    The device counts the steps (`model.bad_steps`); they are read here at an interval, so
    training may be some steps further: call `look` before a model is saved. Training continues
    after up to `max_bad_steps` of them, if the optimizer skips them, as
    `keras.optimizers.LossScaleOptimizer` does.

    Args:
        model_dir: The run's folder, for the batch.
        log_every: Steps between two checks, >= 1; the end of an epoch is always checked.
        make_batch: Number of updates done -> the next batch `(images, targets)` of training.
        max_bad_steps: Number of non-finite steps allowed.
        first_step: Updates done before the first `fit`.
        host: Index of this host, whose part of the batch is reported; None: one host only.
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        log_every: int,
        make_batch: Callable[[int], tuple[Any, dict]],
        max_bad_steps: int = 0,
        first_step: int = 0,
        host: int | None = None,
    ):
        super().__init__(first_step)
        self.model_dir = Path(model_dir)
        self.log_every = log_every
        self.make_batch = make_batch
        self.max_bad_steps = max_bad_steps
        self.host = host
        self.faults = 0
        self._looked_at = first_step

    def on_train_begin(self, logs=None):
        """Starts counting."""
        self.model.bad_steps.reset()
        self._looked_at = self.step

    def on_step_end(self, step, logs):
        """Checks at the interval and at the end of an epoch."""
        if step % self.log_every == 0 or logs is not None:
            self.look(step)

    def look(self, step: int) -> None:
        """Reads the count since the last check.

        Args:
            step: Updates done.

        Raises:
            ValueError: More non-finite steps than allowed; names the first one, its images and
                the file of its batch.
        """
        faults, first = self.model.bad_steps.read()
        if faults:
            self.faults += faults
            where = self._describe(self._looked_at + first)
            if self.faults > self.max_bad_steps:
                raise ValueError(f"{where}. {self._advice()}")
            more = f", and {faults - 1} after it up to step {step}" if faults > 1 else ""
            warnings.warn(
                f"{where}. It was left out{more}: {self.faults} of at most {self.max_bad_steps}",
                stacklevel=2,
            )
            optimizer = self.model.optimizer
            scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if scales and optimizer.initial_scale == 1:  # it only skips, which halves the scale
                optimizer.dynamic_scale.assign(1.0)
        self.model.bad_steps.reset()
        self._looked_at = step

    def _describe(self, step: int) -> str:
        """Describes a step and its images, and writes its batch."""
        images, targets = self.make_batch(step - 1)
        arrays = {name: np.asarray(value) for name, value in targets.items()}
        ids = ", ".join(map(str, arrays["image_ids"].tolist())) if "image_ids" in arrays else "?"
        where, name = "", f"bad_batch_step_{step:08d}"
        if self.host is not None:
            where, name = f" on host {self.host}", f"{name}_host_{self.host}"
        path = self.model_dir / f"{name}.npz"
        with replacing(path) as temporary:
            np.savez_compressed(temporary, images=np.asarray(images), **arrays)
        return (
            f"the loss or its gradient is not finite at step {step} (image ids {ids}{where}); its "
            f"batch is in {path}"
        )

    def _advice(self) -> str:
        good = checkpoints.latest(self.model_dir)
        before = f"The last checkpoint before it is {good}. " if good else ""
        return (
            f"{before}Against growing gradients use a lower --learning_rate, more --warmup_steps "
            f"or --clip_norm; --max_bad_steps above {self.max_bad_steps} leaves such steps out"
        )
