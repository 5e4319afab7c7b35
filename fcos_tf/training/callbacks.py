"""Keras callbacks that measure a training run: losses, speed, waits for input, detections."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import tensorflow as tf

from fcos_tf import evaluation
from fcos_tf.detecting.batches import compile_classify, compile_detect
from fcos_tf.evaluation.evaluate import class_names_of, refuse_endless
from fcos_tf.models.image_model import read_means, write_means
from fcos_tf.training.checkpointing import BestModel, Checkpoint  # noqa: F401 - public here
from fcos_tf.training.loop import VALIDATION_PREFIX, EvaluationCallback, StepCallback
from fcos_tf.training.optimizers import averaged_weights

_SLOTS = 256
_MOST_EMPTY_STEPS = 20


class InputClock(keras.callbacks.Callback):
    """Sums the time that devices are idle because the next batch is not ready.

    The wait for a batch begins when it is requested and the device has finished the previous step;
    it ends when the batch leaves the data set that `watch` returns. Prefetching (by the data set
    or by `tf.distribute`) and a host that runs ahead of its device do not count. The training step
    contains no part of the measurement and does not wait for it. The first batch of a `fit` does
    not count either: it includes the tracing of the step, up to a minute.

    Give `watch(dataset)` to `fit`, and place the clock last, so that it excludes other callbacks.

    Example:
        >>> clock = InputClock()
        >>> model.fit(clock.watch(train), epochs=1, callbacks=[clock])
        >>> clock.take()  # seconds
    """

    # Keras calls on_train_batch_end, which reads logs from the device, in a separate thread if all
    # callbacks allow it.
    async_safe = True

    def __init__(self):
        super().__init__()
        with tf.device("CPU:0"):  # where data sets run
            self._ready = tf.Variable(tf.zeros([_SLOTS], tf.float64), trainable=False)
        self._asked: dict[int, float] = {}
        self._finished: dict[int, float] = {}
        self._next = 0  # index of a batch, counted as `watch` does
        self._epoch_start = 0
        self._waited = 0.0

    def watch(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches; the time each is ready is recorded, behind all prefetching."""

        def note(index, batch):
            self._ready.scatter_nd_update([[index % _SLOTS]], [tf.timestamp()])
            return batch

        return dataset.enumerate().map(note)

    def take(self) -> float:
        """Seconds waited since the last call."""
        self._settle()
        waited, self._waited = self._waited, 0.0
        return waited

    def on_train_begin(self, logs=None):
        """Counts the batches of this `fit` from 0."""
        self._asked.clear()
        self._finished.clear()
        self._next = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Keras restarts its batch count at 0."""
        self._epoch_start = self._next

    def on_train_batch_begin(self, batch, logs=None):
        """A batch is requested."""
        if len(self._asked) == _SLOTS // 2:  # before slots are overwritten
            self._settle()
        index = self._epoch_start + batch
        self._asked[index] = time.time()
        self._next = index + 1

    def on_train_batch_end(self, batch, logs=None):
        """The device has finished the step: Keras has read its results."""
        self._finished[self._epoch_start + batch] = time.time()

    def _settle(self) -> None:
        ready = self._ready.numpy().tolist()
        for index, asked in self._asked.items():
            begin = max(asked, self._finished.pop(index - 1, 0.0))
            if index > 0:
                self._waited += max(0.0, ready[index % _SLOTS] - begin)
        self._asked.clear()


class TrainingLog(StepCallback):
    """Logs losses, learning rate and speed at a step interval and after each epoch.

    A record holds the means of the model's metrics since the last record, `learning_rate` (of the
    next update), `images_per_second` and `input_share`, the share of the time (0..1) that training
    waits for images. Each step is in exactly one record; a resumed run continues with the means
    in the checkpoint. Place it before callbacks with long work at the end of an epoch, whose time
    would count, and before `Checkpoint`. It warns of 20 steps or more in which one of the model's
    `count_names` is 0, such as that of positive points.

    Args:
        writers: Objects with `write(step, kind, values)`, see metric_writers.py.
        log_every: Steps between two records, >= 1.
        batch_size: Images per step over all devices.
        input_clock: The clock of the data set; None: no `input_share`.
        first_step: Updates done before the first `fit`.
    """

    def __init__(
        self,
        writers: Iterable,
        *,
        log_every: int,
        batch_size: int,
        input_clock: InputClock | None = None,
        first_step: int = 0,
    ):
        super().__init__(first_step)
        if log_every < 1:
            raise ValueError(f"log_every: expected a number of steps >= 1, got {log_every}")
        self.writers = list(writers)
        self.log_every = log_every
        self.batch_size = batch_size
        self.input_clock = input_clock
        self._resumes = first_step > 0
        self._counted_until = first_step
        self._means = {}
        self._restart_clock()

    def on_train_begin(self, logs=None):
        """Keeps the means of a resumed run: Keras resets them when the epoch begins."""
        if self._resumes:
            self._means, self._resumes = read_means(self.model), False

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        super().on_epoch_begin(epoch, logs)
        write_means(self.model, self._means)
        self._means = {}
        self._restart_clock()

    def on_step_end(self, step, logs):
        """Writes a record if it is due."""
        if step % self.log_every and logs is None:
            return
        # At the end of an epoch Keras has read the metrics; an evaluation may have reset them.
        results = self.model.get_metrics_result() if logs is None else logs
        names = [metric.name for metric in self.model.metrics]
        values = {name: float(results[name]) for name in names if name in results}
        self.model.reset_metrics()
        seconds = time.perf_counter() - self._clock
        # `float` cannot read a variable with a copy on each device.
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        values["learning_rate"] = float(rate)
        values["images_per_second"] = (step - self._clock_step) * self.batch_size / seconds
        if self.input_clock is not None:
            values["input_share"] = min(1.0, self.input_clock.take() / seconds)
        for writer in self.writers:
            writer.write(step, "train", values)
        self._warn_of_no_count(step, values)
        self._restart_clock()

    def _warn_of_no_count(self, step: int, values: Mapping[str, float]) -> None:
        """Warns, once in a row, of many steps without one of what the model counts."""
        counts = getattr(self.model, "count_names", {})
        watched = [name for name in counts if name not in self.model.detail_names]
        empty = [name for name in watched if values.get(name) == 0]
        if not empty:
            self._counted_until = step
        elif self.writers and step - self._counted_until >= _MOST_EMPTY_STEPS:
            what = ", ".join(f"{name} ({counts[name]})" for name in empty)
            warnings.warn(
                f"steps {self._counted_until + 1:g} to {step}: {what} is 0, so only background is "
                "learnt; look at tools/visualize.py --what=augmentations, and at --image_size",
                stacklevel=2,
            )
            self._counted_until = math.inf

    def _restart_clock(self) -> None:
        self._clock, self._clock_step = time.perf_counter(), self.step
        if self.input_clock is not None:
            self.input_clock.take()


class EvaluationLog(EvaluationCallback):
    """Logs the metrics of each evaluation. Place it last: its record completes the evaluation.

    Args:
        writers: Objects with `write(step, kind, values)`, see metric_writers.py.
        first_step: Updates done before the first `fit`.
    """

    def __init__(self, writers: Iterable, *, first_step: int = 0):
        super().__init__(first_step)
        self.writers = list(writers)

    def on_evaluation(self, step, metrics):
        """Writes a record."""
        for writer in self.writers:
            writer.write(step, "val", metrics)


class DetectionMetrics(keras.callbacks.Callback):
    """Evaluates a model at the end of epochs; adds `val_AP`, `val_AP50` ... to the logs.

    `fit`'s history and the other callbacks get them, wherever this one is in the list, e.g. for
    `ModelCheckpoint("best.keras", monitor="val_AP", mode="max", save_best_only=True)`. Where the
    optimizer averages the weights, these are measured; `BestModel` saves them.

    Args:
        dataset: Finite batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        metrics: Of a detector: "coco", "voc07" or "voc12", see `fcos_tf.evaluation.evaluate`.
        every: Epochs between two evaluations, >= 1. The last epoch is always evaluated.
        progress: Called after every batch with the number of images done; may raise to abort.

    Raises:
        ValueError: An unknown metric, an endless data set, or `every` below 1.

    Example:
        >>> model.fit(train, epochs=2, callbacks=[DetectionMetrics(val)])
    """

    evaluates = True  # `ImageModel.fit` runs it before callbacks that use its numbers

    def __init__(
        self,
        dataset: Iterable,
        *,
        metrics: Sequence[str] = ("coco",),
        every: int = 1,
        progress: Callable[[int], None] | None = None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"every: expected a number of epochs >= 1, got {every}")
        refuse_endless(dataset)
        self.dataset = dataset
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        evaluation.metric_names(self.metrics)  # refuses unknown ones before training
        self.every = every
        self.progress = progress
        self._detect = None

    def set_model(self, model):
        """Sets the model and its detection function, traced once for all epochs."""
        if self._detect is None or model is not self.model:
            if getattr(model, "protocols", True):
                self._detect = compile_detect(model, class_names_of(model, self.dataset))
            elif hasattr(model, "classify"):
                self._detect = compile_classify(model)
        super().set_model(model)

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates if it is due."""
        last = epoch + 1 == self.params.get("epochs")
        if last or (epoch + 1) % self.every == 0:
            metrics = {f"{VALIDATION_PREFIX}{k}": value for k, value in self.evaluate().items()}
            if logs is not None:
                logs.update(metrics)

    def evaluate(self) -> dict[str, float]:
        """The model's metrics by name, with averaged weights if the optimizer keeps them."""
        options = {"detect": self._detect, "progress": self.progress}
        with averaged_weights(self.model):
            return evaluation.evaluate(self.model, self.dataset, self.metrics, **options)


def make_up_evaluation(
    model: keras.Model, callbacks: Iterable[keras.callbacks.Callback], step: int
) -> dict[str, float]:
    """Does the evaluation of `step` that a killed run missed.

    Args:
        model: The detector with the weights of `step`.
        callbacks: Those of the run: `DetectionMetrics`, then `EvaluationCallback`s.
        step: Updates done.

    Returns:
        The metrics; empty if no callback evaluates.
    """
    metrics: dict[str, float] = {}
    for callback in callbacks:
        callback.set_model(model)
        if isinstance(callback, DetectionMetrics):
            metrics = callback.evaluate()
        elif isinstance(callback, EvaluationCallback) and metrics:
            callback.on_evaluation(step, metrics)
    return metrics
