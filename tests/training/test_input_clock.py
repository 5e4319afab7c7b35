"""How long training waits for input, on inputs and steps of known length."""

import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.training import callbacks, loop
from fcos_tf.training.callbacks import InputClock
from tests.limits import HANG


class Sleeper(keras.Model):
    """Its step takes so many seconds, whatever the batch."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.weight = self.add_weight(shape=())
        self.built = True

    def call(self, inputs):
        return tf.cast(inputs, tf.float32) * self.weight

    def train_step(self, data):
        def sleep(batch):
            time.sleep(self.seconds)
            return np.float32(batch.sum())

        return {"loss": tf.numpy_function(sleep, [data], tf.float32)}


def slow_input(seconds, *, images=1):
    """Batches that take so many seconds each and are fetched ahead."""

    def read(number):
        time.sleep(seconds)
        return number

    @tf.autograph.experimental.do_not_convert
    def load(number):
        number = tf.numpy_function(read, [number], tf.int64)
        return tf.fill([images], tf.ensure_shape(number, []))

    return tf.data.Dataset.counter().map(load).prefetch(2)


class Records(list):
    def write(self, step, kind, values):
        self.append((step, values["input_share"]))


def input_share(model, data, distributed=lambda data: data):
    """The share of the second epoch, when buffers are in their steady state."""
    clock, records = InputClock(), Records()
    log = callbacks.TrainingLog([records], log_every=4, batch_size=1, input_clock=clock)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    loop.fit(
        model,
        lambda step: distributed(clock.watch(data)),
        total_steps=8,
        period=4,
        callbacks=[log, clock],
    )
    assert [step for step, _ in records] == [4, 8]
    return records[-1][1]


@pytest.mark.parametrize(
    ("step_seconds", "input_seconds", "expected"),
    [
        # A batch takes longer than a step: the rest of its time is waited for, (p - c) / p.
        (0.005, 0.25, 0.98),
        (0.15, 0.3, 0.5),
        # A shorter one is there when it is asked for.
        (0.2, 0.05, 0.0),
    ],
)
def test_the_share_is_the_time_that_no_step_covers(step_seconds, input_seconds, expected):
    for _ in range(5):  # a busy machine disturbs a measurement, but hardly all five
        share = input_share(Sleeper(step_seconds), slow_input(input_seconds))
        if share == pytest.approx(expected, abs=0.15):
            return
    assert share == pytest.approx(expected, abs=0.15)


class FakeTime:
    """Seconds as a test sets them."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("fcos_tf.training.callbacks.time.time", lambda: self.now)

    def at(self, now, function, *arguments):
        self.now = now
        function(*arguments)


def test_waiting_begins_when_the_device_is_done_and_the_host_has_asked(monkeypatch):
    clock, clocked = InputClock(), FakeTime(monkeypatch)
    ready = np.zeros(256)
    ready[:4] = 11.0, 14.0, 17.0, 19.0
    monkeypatch.setattr(clock, "_ready", tf.constant(ready))
    clock.on_train_begin()
    clock.on_epoch_begin(0)
    # Batch 0 comes with the tracing of the step. The host runs ahead: it asks for batch 1 at 12,
    # which is there at 14, while the device works on batch 0 until 13. 1 second is lost.
    clocked.at(10.0, clock.on_train_batch_begin, 0)
    clocked.at(12.0, clock.on_train_batch_begin, 1)
    clocked.at(13.0, clock.on_train_batch_end, 0)
    assert clock.take() == 1.0
    # Batch 2 was there before the device was done with batch 1: no waiting.
    clocked.at(15.0, clock.on_train_batch_begin, 2)
    clocked.at(18.0, clock.on_train_batch_end, 1)
    assert clock.take() == 0.0
    # A new epoch, which counts from 0: the device was idle from 18.25, but the host, busy with a
    # checkpoint, asked at 18.5 only: 0.5.
    clocked.at(18.25, clock.on_train_batch_end, 2)
    clock.on_epoch_begin(1)
    clocked.at(18.5, clock.on_train_batch_begin, 0)
    assert clock.take() == 0.5
    assert clock.take() == 0.0


def test_long_records_and_a_second_fit_count_every_batch_once():
    # 300 batches are more than the clock holds at a time.
    model = Sleeper(0.0)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    clock = InputClock()
    for _ in range(2):
        for _ in range(5):  # a busy machine takes longer over a step, and waits less
            start = time.perf_counter()
            data = clock.watch(slow_input(0.004))
            model.fit(data, steps_per_epoch=300, callbacks=[clock], verbose=0, shuffle=False)
            waited = clock.take()
            assert waited < time.perf_counter() - start
            if waited > 0.5 * 300 * 0.004:
                break
        # Nearly all of the time is waiting, and no more than the time there was.
        assert waited > 0.5 * 300 * 0.004


def test_batches_stay_as_they_are():
    data = tf.data.Dataset.range(5).map(lambda k: (k, {"boxes": tf.fill([k], 0.5)}))
    watched = InputClock().watch(data)
    assert watched.element_spec == data.element_spec
    assert len(watched) == 5
    for (number, targets), (expected, _) in zip(watched, data, strict=True):
        assert number == expected and targets["boxes"].shape == (number,)


TWO_REPLICAS = """
import os
import tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from fcos_tf.training.strategy import distribute
from tests.training.test_input_clock import Sleeper, input_share, slow_input

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = Sleeper(0.075)
share = input_share(
    model, slow_input(0.3, images=2), lambda data: distribute(data, strategy, batch_size=2)
)
print(share, flush=True)
os._exit(0)  # does not wait for the input, which sleeps on
"""


@pytest.mark.slow
def test_two_replicas():
    # Each replica's part of a step sleeps after the other's: 0.15 of the 0.3 that a batch takes.
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True, timeout=HANG
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) == pytest.approx(0.5, abs=0.15)
