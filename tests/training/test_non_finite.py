"""A training whose loss stops being finite: what is said, kept, and left out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import build
from fcos_tf.config import Config
from fcos_tf.jobs.train import train
from fcos_tf.training.non_finite import NonFiniteGuard
from fcos_tf.training.optimizers import SGD

BAD_STEP = 4


@pytest.fixture
def config(tmp_path):
    return Config(
        backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0, image_size="64x64",
        batch_size=2, overfit=4, steps=6, warmup_steps=0, schedule="constant",
        checkpoint_every=2, log_every=2, eval_every=6, model_dir=str(tmp_path / "run"),
    )  # fmt: skip


@pytest.fixture
def poisoned(monkeypatch):
    """The second image of the batch of BAD_STEP has a pixel that is no number, whenever read."""
    load = build.load_train_data

    def load_poisoned(config, *, start_step=0, **options):
        source = load(config, start_step=start_step, **options)

        def poison(step, batch):
            images, targets = batch
            images = tf.cast(images, tf.float32)
            hole = tf.scatter_nd([[1, 5, 5, 0]], [np.nan], tf.shape(images, tf.int32))
            return tf.where(step + 1 == BAD_STEP, images + hole, images), targets

        data = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step), source).map(poison)
        names = ("class_names", "category_ids", "num_images", "image_faults", "notes")
        for name in (*names, "annotations"):
            setattr(data, name, getattr(source, name))
        return data

    monkeypatch.setattr(build, "load_train_data", load_poisoned)
    return load


def test_it_stops_names_the_images_and_keeps_the_batch(config, poisoned):
    with pytest.raises(ValueError, match=r"loss or its gradient is not finite at step 4") as error:
        train(config, report=lambda line: None)
    text, folder = str(error.value), f"{config.model_dir}/checkpoints"
    (images, targets) = next(iter(poisoned(config, start_step=BAD_STEP - 1)))
    ids = targets["image_ids"].numpy().tolist()
    assert f"image ids {ids[0]}, {ids[1]}" in text
    # Looked at with step 4's line and checkpoint, of which there is none: that of step 2 is last.
    assert f"The last checkpoint before it is {folder}/step_00000002.keras" in text
    kept = np.load(f"{config.model_dir}/bad_batch_step_00000004.npz")
    assert np.isnan(kept["images"]).nonzero() == (1, 5, 5, 0)
    assert kept["image_ids"].tolist() == ids
    np.testing.assert_array_equal(np.nan_to_num(kept["images"])[0], images[0])
    np.testing.assert_array_equal(kept["boxes"], targets["boxes"])


def test_it_goes_on_without_such_a_step_where_that_is_allowed(config, poisoned):
    config = build.dataclasses.replace(config, max_bad_steps=1)
    with pytest.warns(UserWarning, match=r"at step 4 .*left out: 1 of at most 1"):
        metrics = train(config, report=lambda line: None)
    assert metrics["step"] == 6 and np.isfinite(metrics["AP"])


class Steps:
    """A model of which one step in three was not finite."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.bad_steps = self
        optimizer.build([])
        optimizer.dynamic_scale.assign(0.5)

    def read(self):
        return 1, 3

    def reset(self):
        pass


@pytest.mark.parametrize(("initial_scale", "then"), [(1.0, 1.0), (8.0, 0.5)])
def test_a_scale_that_serves_nothing_else_is_restored(tmp_path, initial_scale, then):
    batch = np.zeros([1, 2, 2, 3]), {"image_ids": np.array([7])}
    guard = NonFiniteGuard(
        tmp_path, log_every=3, make_batch=lambda step: batch, max_bad_steps=1, host=1
    )
    scaled = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=initial_scale)
    guard.set_model(Steps(scaled))
    with pytest.warns(UserWarning, match=r"step 3 \(image ids 7 on host 1\); its batch is in"):
        guard.look(3)
    assert float(scaled.dynamic_scale) == then
    assert (tmp_path / "bad_batch_step_00000003_host_1.npz").is_file()
