"""The time that training waits for its input."""

import time

import keras
import tensorflow as tf

_SLOTS = 256


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
