"""How long training waits for its input."""

import time

import keras
import tensorflow as tf

_SLOTS = 256


class InputClock(keras.callbacks.Callback):
    """Adds up the time in which nothing was computed because the next batch was not there.

    Waiting for a batch begins when it is asked for and the device has finished the step before; it
    ends when the batch leaves the data set that `watch` has returned. So it does not count what is
    fetched ahead while devices compute, be it by the data set or, onto several devices, by
    `tf.distribute`, nor the time that a host runs ahead of its device. Nothing of it is part of the
    training step, and the step does not wait for it.

    The first batch of a `fit` does not count: the step is traced between asking for it and taking
    it, which can take a minute.

    Give `watch(dataset)` to `fit`, and stand last of its callbacks, whose time is not the input's.

    Example:
        >>> clock = InputClock()
        >>> model.fit(clock.watch(train), epochs=1, callbacks=[clock])
        >>> clock.take()  # seconds
    """

    # Keras then calls on_train_batch_end, whose logs are read from the device, from a thread of
    # its own; unless another callback has it wait.
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
        """The same batches; each is noted, behind all that fetches ahead, when it is there."""

        def note(index, batch):
            self._ready.scatter_nd_update([[index % _SLOTS]], [tf.timestamp()])
            return batch

        return dataset.enumerate().map(note)

    def take(self) -> float:
        """The seconds waited since the last call."""
        self._settle()
        waited, self._waited = self._waited, 0.0
        return waited

    def on_train_begin(self, logs=None):
        """Counts the batches of this `fit` from 0."""
        self._asked.clear()
        self._finished.clear()
        self._next = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Keras counts batches from 0 again."""
        self._epoch_start = self._next

    def on_train_batch_begin(self, batch, logs=None):
        """A batch is asked for."""
        if len(self._asked) == _SLOTS // 2:  # before the variable forgets
            self._settle()
        index = self._epoch_start + batch
        self._asked[index] = time.time()
        self._next = index + 1

    def on_train_batch_end(self, batch, logs=None):
        """The device has finished a step: Keras has read its results."""
        self._finished[self._epoch_start + batch] = time.time()

    def _settle(self) -> None:
        ready = self._ready.numpy().tolist()
        for index, asked in self._asked.items():
            begin = max(asked, self._finished.pop(index - 1, 0.0))
            if index > 0:
                self._waited += max(0.0, ready[index % _SLOTS] - begin)
        self._asked.clear()
