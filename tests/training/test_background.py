import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from fcos_tf.models.detector import Detector
from fcos_tf.training import callbacks, checkpointing, checkpoints
from fcos_tf.training.optimizers import SGD
from tests.limits import HANG


@keras.saving.register_keras_serializable("tests")
class DroppingDetector(Detector):
    """The least detector that draws random numbers: one dense layer behind dropout."""

    loss_names = {"loss_of_all": "mean squared distance from 1"}  # noqa: RUF012
    count_names = {"num_positives": "always 1"}  # noqa: RUF012
    learns_boxes = False

    def __init__(self, **kwargs):
        super().__init__(**{"num_classes": 1, **kwargs})
        self.dropout = keras.layers.Dropout(0.5)
        self.dense = keras.layers.Dense(2)
        self.dense.build((None, 3))
        self.built = True

    def call(self, inputs, training=False):
        pixels = ops.mean(ops.cast(inputs["images"], "float32"), axis=(1, 2))  # [B, 3]
        return self.dense(self.dropout(pixels, training=training))

    def compute_losses(self, predictions, targets, image_size, totals=None):
        predictions = ops.cast(predictions, "float32")
        return {"loss_of_all": ops.mean((predictions - 1.0) ** 2), "num_positives": 1.0}


def make_detector(precision="float32", **options):
    keras.utils.set_random_seed(3)
    model = DroppingDetector(dtype=precision)
    model.compile(SGD(0.1, momentum=0.9, **options), jit_compile=False)
    return model


def train(model, steps):
    for step in steps:
        images = np.random.default_rng(step).uniform(size=(4, 2, 2, 3)).astype("float32")
        model.train_on_batch(images, {"image_sizes": np.full((4, 2), 2.0, "float32")})


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(model, other):
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "precision, options",
    [
        ("float32", {"use_ema": True, "ema_momentum": 0.5}),
        # The optimizer around it counts the steps since the loss scale has changed.
        ("mixed_float16", {}),
    ],
)
def test_three_steps_in_the_background_and_three_more_equal_six(tmp_path, precision, options):
    straight = make_detector(precision, **options)
    if precision == "mixed_float16":
        assert isinstance(straight.optimizer, keras.optimizers.LossScaleOptimizer)
    train(straight, range(6))

    first = make_detector(precision, **options)
    train(first, range(3))
    saver = checkpointing.BackgroundSaver(tmp_path)
    saver.save(first, 3)
    train(first, range(3, 5))  # must not get into the file
    saver.wait()
    second = make_detector(precision, **options)
    assert checkpoints.restore(second, checkpoints.latest(tmp_path)) == 3
    train(second, range(3, 6))
    assert_same(second, straight)
    # Dropout has drawn six times; begun anew at step 3 it would stand at three.
    draws = {int(v.numpy()[1]) for v in second.variables if v.path.endswith("seed_generator_state")}
    assert draws == {6}


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(
    tmp_path, monkeypatch
):
    model = make_detector()
    train(model, range(1))
    before = state(model)
    go_on, started = threading.Event(), []

    def slow_save(copy, model_dir, step, *, keep):
        started.append(step)
        assert go_on.wait(HANG)
        saved[step] = state(copy)

    saved = {}
    monkeypatch.setattr(checkpoints, "save", slow_save)
    saver = checkpointing.BackgroundSaver(tmp_path)
    saver.save(model, 1)
    train(model, range(1, 2))  # while the first is being written
    saver.check()  # nothing is known yet
    next_save = threading.Thread(target=saver.save, args=(model, 2))
    next_save.start()
    next_save.join(0.2)
    assert next_save.is_alive() and started == [1]
    go_on.set()
    next_save.join(HANG)
    saver.wait()
    assert started == [1, 2]
    for step, expected in ((1, before), (2, state(model))):
        for a, b in zip(saved[step], expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_was_frozen_by_hand_is_frozen_in_the_copy(tmp_path):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, name="a")])
    model.add(keras.layers.Dense(1, name="b"))
    model.get_layer("a").kernel.trainable = False
    model.compile(SGD(0.1, momentum=0.9), loss="mse")
    model.optimizer.build(model.trainable_variables)
    saver = checkpointing.BackgroundSaver(tmp_path)
    saver.save(model, 1)
    saver.wait()
    assert checkpoints.restore(model, checkpoints.latest(tmp_path)) == 1


def test_an_error_of_the_thread_comes_up_in_training(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("cannot write it")

    monkeypatch.setattr(checkpoints, "save", fail)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(SGD(0.1), loss="mse")
    data = tf.data.Dataset.from_tensors((tf.ones((1, 1)), tf.ones((1, 1)))).repeat()
    steps = []

    class Count(callbacks.StepCallback):
        def on_step_end(self, step, logs):
            steps.append(step)
            if checkpoint._saver._writing:
                checkpoint._saver._writing.exception()  # waits until it is done

    checkpoint = callbacks.Checkpoint(tmp_path, checkpoint_every=2)
    with pytest.raises(OSError, match="cannot write it"):
        model.fit(data, steps_per_epoch=9, callbacks=[Count(), checkpoint], verbose=0)
    assert steps == [1, 2, 3]  # the checkpoint of step 2 is missed one step later
