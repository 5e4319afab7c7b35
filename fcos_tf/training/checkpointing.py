"""The callback that writes checkpoints, and stops training where it can go on from later.

`keras.callbacks.BackupAndRestore` keeps neither several checkpoints nor checksums, replaces its
file in place, and acts in `on_train_batch_end`; Orbax needs JAX.
"""

from collections.abc import Callable
from pathlib import Path

from fcos_tf.models.train_steps import has_hosts
from fcos_tf.training.background import BackgroundSaver
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
