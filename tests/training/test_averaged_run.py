"""A run with averaged weights: what is evaluated and kept, and that it resumes."""

import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np

from fcos_tf import build, evaluation
from fcos_tf.config import Config
from fcos_tf.jobs.train import train
from fcos_tf.models.weights import load_model
from fcos_tf.training import checkpoints
from fcos_tf.training.optimizers import swap_averages

DECAY = 0.75


def weights(model):
    return [np.array(weight) for weight in model.trainable_variables]


def assert_equal(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 0, **tolerance})


def test_averages_are_evaluated_kept_and_resumed(tmp_path, monkeypatch):
    config = Config(
        backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0, image_size="64x64",
        batch_size=2, overfit=4, steps=4, warmup_steps=0, schedule="constant",
        checkpoint_every=1, keep_checkpoints=9, eval_every=4, learning_rate=1e-3,
        optimizer="adamw", ema_momentum=DECAY, model_dir=str(tmp_path / "whole"),
    )  # fmt: skip
    evaluated, evaluate = [], evaluation.evaluate

    def watched(model, *arguments, **options):
        evaluated.append(weights(model))
        return evaluate(model, *arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", watched)
    train(config, report=lambda line: None)

    # A checkpoint is the average to whoever loads it, and the weights proper to who trains on.
    run = Path(config.model_dir)
    model = build.make_model(config, [str(digit) for digit in range(10)])
    build.compile_model(config, model, config.steps)
    average = None
    for step in range(1, 5):
        path = run / "checkpoints" / f"step_{step:08d}.keras"
        checkpoints.restore(model, path)
        proper = weights(model)
        if average is None:
            average = proper  # Keras' average begins with the weights after the first step
        else:
            average = [DECAY * a + (1 - DECAY) * w for a, w in zip(average, proper, strict=True)]
        assert_equal(weights(load_model(path)), average, atol=1e-6)
    last = weights(load_model(run / "model.keras"))
    assert_equal(last, average, atol=1e-6)
    assert max(np.abs(a - w).max() for a, w in zip(last, proper, strict=True)) > 1e-4
    assert len(evaluated) == 1
    assert_equal(evaluated[0], last)
    for name in ("model.keras", "best.keras"):  # `fit` averages on from these
        loaded = keras.models.load_model(run / name)
        for _ in range(2):
            assert_equal(weights(loaded), last)
            swap_averages(loaded)

    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "step_00000002.keras", again / "checkpoints")
    resumed = dataclasses.replace(config, model_dir=str(again))
    train(resumed, report=lambda line: None)
    assert_equal(weights(load_model(again / "model.keras")), last)
