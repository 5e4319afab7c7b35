"""A progress bar for terminals: Keras' own, fed from the records of a run."""

from collections.abc import Mapping

import keras

from fcos_tf.training.metric_writers import RemainingTime, TextWriter
from fcos_tf.training.step_callback import StepCallback


class ProgressBar(StepCallback):
    """Keras' bar over the steps to the next evaluation; a writer, too, see metric_writers.py.

    Before each bar stands a line with the step and the time that the rest of the run will take. The
    bar moves at every step and shows losses and speed of the newest record: reading them from the
    device at every step, as `keras.callbacks.ProgbarLogger` does, would make training wait. Stand
    after TrainingLog and before callbacks that evaluate.

    Args:
        total_steps: The length of the run.
        first_step: Updates done before the first `fit`.
    """

    def __init__(self, total_steps: int, *, first_step: int = 0):
        super().__init__(first_step)
        self._total_steps = total_steps
        self._remaining = RemainingTime(total_steps)
        self._text = TextWriter(total_steps)
        self._bar = None
        self._rest = ""
        self._values: dict[str, float] = {}

    def on_epoch_begin(self, epoch, logs=None):
        """Begins a bar."""
        super().on_epoch_begin(epoch, logs)
        print("  ".join(filter(None, [f"step {self.step}/{self._total_steps}", self._rest])))
        # None of the values is to be averaged over the steps.
        self._bar = keras.utils.Progbar(self.params["steps"], stateless_metrics=())

    def on_step_end(self, step, logs):
        """Moves the bar."""
        values = list(self._values.items())
        self._bar.update(step - self._epoch_start, values, finalize=logs is not None)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Keeps the numbers of training that the bar shows; prints those of an evaluation."""
        if kind == "train":
            names = [name for name in values if name.endswith("loss")] + ["images_per_second"]
            self._values = {name: values[name] for name in names}
            self._rest = self._remaining.after(step)
        else:
            self._text.write(step, kind, values)

    def close(self) -> None:
        """Nothing to close."""
