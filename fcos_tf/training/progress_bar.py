"""A progress bar for terminals, fed from the records of a run."""

import sys
from collections.abc import Collection, Mapping

from tqdm import tqdm

from fcos_tf.training.loop import StepCallback
from fcos_tf.training.metric_writers import TextWriter


class ProgressBar(StepCallback):
    """A bar over the steps of a run; a writer, too, see metric_writers.py.

    The bar moves at every step and shows losses and speed of the newest record: reading them from
    the device at every step, as `keras.callbacks.ProgbarLogger` does, would make training wait.
    Before each evaluation it stays on a line of its own. Stand after TrainingLog and before
    callbacks that evaluate.

    Args:
        total_steps: The length of the run.
        first_step: Updates done before the first `fit`.
        left_out: Names that lines of text do not show.
    """

    def __init__(self, total_steps: int, *, first_step: int = 0, left_out: Collection[str] = ()):
        super().__init__(first_step)
        self._first_step, self._total_steps = first_step, total_steps
        self._text = TextWriter(total_steps, left_out=left_out)
        self._bar: tqdm | None = None
        self._values = ""

    def on_epoch_begin(self, epoch, logs=None):
        """Draws the bar at the beginning of the run."""
        super().on_epoch_begin(epoch, logs)
        if self._bar is None:
            # Without smoothing the time that is left has evaluations in it.
            self._bar = tqdm(
                desc="step", total=self._total_steps, initial=self.step, unit="step",
                smoothing=0, miniters=1, dynamic_ncols=True, leave=False, file=sys.stdout,
            )  # fmt: skip

    def on_step_end(self, step, logs):
        """Moves the bar."""
        if self._bar.initial == self._first_step:
            # The first step, which has the start-up in it, says nothing about the speed.
            self._bar.initial = step
            self._bar.unpause()
        self._bar.set_postfix_str(self._values, refresh=False)
        self._bar.update(step - self._bar.n)
        if logs is not None:
            self._bar.refresh()
            print()

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Keeps the numbers of training that the bar shows; prints those of an evaluation."""
        if kind == "train":
            names = [name for name in values if name.endswith("loss")] + ["images_per_second"]
            self._values = "  ".join(f"{name} {values[name]:.4g}" for name in names)
        else:
            self._text.write(step, kind, values)

    def close(self) -> None:
        """Ends the line of a bar that was broken off; one at an evaluation has ended its own."""
        if self._bar is not None:
            self._bar.leave = self._batch is not None
            self._bar.close()
