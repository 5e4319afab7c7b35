"""The callback that writes checkpoints while training goes on, and stops it where it can go on.

`keras.callbacks.BackupAndRestore` keeps neither several checkpoints nor checksums, replaces its
file in place, and acts in `on_train_batch_end`; Orbax needs JAX.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import keras

from fcos_tf.models.image_model import read_means, write_means
from fcos_tf.models.train_steps import has_hosts
from fcos_tf.training import checkpoints
from fcos_tf.training.step_callback import StepCallback
from fcos_tf.training.stop_signals import Stopped, StopSignals
from fcos_tf.training.strategy import agree

_STEPS_BETWEEN_QUESTIONS = 10


class Checkpoint(StepCallback):
    """Saves the model and its optimizer every so often and at the end of every epoch.

    Stand before the callback that evaluates: the checkpoint is on disk when the evaluation begins,
    so what fails in there costs no step.

    Args:
        model_dir: The run's folder; files go to `checkpoints/` in it.
        checkpoint_every: Steps between two checkpoints, >= 1.
        keep_checkpoints: How many of the newest stay.
        first_step: Updates done before the first `fit`.
        stop: Says when to stop: at the end of a step, with a checkpoint of it, by `Stopped`. Of
            several hosts all stop when one is asked to.
        writes: Whether this process is the one that writes; of several hosts one does.
        before_saving: Called with the step before it is saved, also where another host does that.

    Raises:
        Stopped: A signal asked for it.
        OSError: A checkpoint could not be written. As they are written while training goes on,
            this comes a step or more later.

    Example:
        >>> model.fit(train, epochs=2, callbacks=[Checkpoint("runs/a", checkpoint_every=500)])
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        checkpoint_every: int,
        keep_checkpoints: int = 3,
        first_step: int = 0,
        stop: StopSignals | None = None,
        writes: bool = True,
        before_saving: Callable[[int], None] | None = None,
    ):
        super().__init__(first_step)
        if checkpoint_every < 1:
            raise ValueError(
                f"checkpoint_every: expected a number of steps >= 1, got {checkpoint_every}"
            )
        self.checkpoint_every = checkpoint_every
        self.stop = stop
        self.writes = writes
        self.before_saving = before_saving
        self._saver = BackgroundSaver(model_dir, keep=keep_checkpoints)
        self._saved_step = first_step

    def on_step_end(self, step, logs):
        """Saves where it is due; raises `Stopped` where that is wished."""
        self._saver.check()
        stopping = self._is_to_stop(step, logs)
        if step % self.checkpoint_every == 0 or logs is not None or stopping:
            self._save(step)
        if stopping or logs is not None:
            self._saver.wait()
        if stopping:
            raise Stopped(f"stopped by {self.stop.received or 'a signal to another host'}")

    def on_train_end(self, logs=None):
        """Waits until the last step's checkpoint is on disk."""
        self.close()

    def close(self):
        """Waits until the last checkpoint is on disk."""
        self._saver.wait()

    def _is_to_stop(self, step: int, logs) -> bool:
        if self.stop is None:
            return False
        strategy = self.model.distribute_strategy
        # All hosts have to ask at the same steps, and it takes a message through the network.
        if has_hosts(strategy) and step % _STEPS_BETWEEN_QUESTIONS and logs is None:
            return False
        return agree(self.stop.received is not None, strategy)

    def _save(self, step: int) -> None:
        if step == self._saved_step:
            return
        if self.before_saving is not None:
            self.before_saving(step)
        if self.writes:
            self._saver.save(self.model, step)
        self._saved_step = step


class BackgroundSaver:
    """Writes checkpoints in a thread of its own, from a copy of the model in host memory.

    Training waits only while the variables are copied, and for the checkpoint before this one
    where that is not on disk yet.

    Args:
        model_dir: The run's folder.
        keep: How many of the newest checkpoints stay, >= 1.
    """

    def __init__(self, model_dir: str | Path, *, keep: int = 3):
        self.model_dir = Path(model_dir)
        self.keep = keep
        self._copy = None
        self._writing: Future | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def save(self, model: keras.Model, step: int) -> None:
        """Starts to write the checkpoint of `step`; the model may change as soon as this returns.

        Args:
            model: A built, compiled model whose class and layers Keras can make from their config;
                always the same one.
            step: Number of updates done, >= 0.

        Raises:
            OSError: The checkpoint before this one could not be written.
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
        """Raises what has gone wrong with the last checkpoint, if it is known already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is on disk; raises what has gone wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _copy_of(model: keras.Model) -> keras.Model:
    """A model with an optimizer like another's, variables of the same shapes in the same order."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    for kept, variable in zip(copy.variables, model.variables, strict=True):
        # The config does not know what was frozen afterwards; the optimizer depends on it.
        kept.trainable = variable.trainable
    copy.compile_from_config(model.get_compile_config())
    return copy


def _state(model: keras.Model) -> chain:
    return chain(model.variables, model.optimizer.variables)
