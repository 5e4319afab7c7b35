"""Training in float16 with a scaled loss, and in bfloat16: the step of float32, nearly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import fcos_tf
from fcos_tf import build
from fcos_tf.config import Config
from tests.models.test_fcos import scene
from tests.models.test_train_step import fit


def compiled(precision, initial_scale=None):
    keras.utils.set_random_seed(0)
    model = fcos_tf.FCOS(
        3, backbone="simple_cnn", backbone_norm="frozen", fpn_levels=3, fpn_channels=32,
        head_convs=0, dtype=precision,
    )  # fmt: skip
    config = Config(precision=precision, warmup_steps=0, weight_decay=0, clip_norm=1.0)
    build.compile_model(config, model, total_steps=100)
    if initial_scale:
        inner = model.optimizer.inner_optimizer
        scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=initial_scale)
        model.compile(optimizer=scaled, jit_compile=False)
    return model


def moved(model, weights):
    """How far the weights of a model are from others."""
    pairs = zip(model.trainable_weights, weights, strict=True)
    return np.sqrt(sum(np.square(weight - other).sum() for weight, other in pairs))


@pytest.mark.parametrize(
    ("precision", "bound"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.04)]
)
def test_a_step_is_that_of_float32_but_for_rounding(precision, bound):
    batch = scene(batch=2, size=(64, 64))
    exact, rounded = compiled("float32"), compiled(precision)
    before = [np.array(w) for w in exact.trainable_weights]
    logs = [fit(model, batch, steps=1) for model in (exact, rounded)]
    for name, values in logs[0].items():
        np.testing.assert_allclose(logs[1][name], values, rtol=bound, err_msg=name)
    after = [np.array(w) for w in exact.trainable_weights]
    assert moved(rounded, after) < bound * moved(exact, before)
    assert {w.dtype for w in rounded.weights} <= {"float32", "int32"}


def test_a_scale_too_large_is_halved_until_it_fits_and_is_no_fault():
    model = compiled("mixed_float16", initial_scale=2.0**40)
    before = [np.array(w) for w in model.trainable_weights]
    batch = scene(batch=2, size=(64, 64))
    logs = fit(model, batch, steps=2)
    assert float(model.optimizer.dynamic_scale) == 2.0**38
    assert np.isnan(logs["gradient_norm"])  # the mean of no step
    assert moved(model, before) == 0
    fit(model, batch, steps=38)
    skipped = 40 - np.log2(float(model.optimizer.dynamic_scale))
    assert 10 < skipped < 35
    assert model.bad_steps.read() == (0, 0)
    exact = compiled("float32")
    fit(exact, batch, steps=int(40 - skipped))
    now = [np.array(w) for w in exact.trainable_weights]
    assert moved(model, now) < 0.01 * moved(exact, before)


def test_a_gradient_that_no_scale_makes_finite_is_a_fault(monkeypatch):
    model = compiled("mixed_float16", initial_scale=4.0)
    compute = model.total_loss

    def with_a_root_at_zero(*arguments, **options):
        loss, parts = compute(*arguments, **options)
        return loss + tf.sqrt(0.0 * tf.reduce_sum(model.trainable_weights[0])), parts

    monkeypatch.setattr(model, "total_loss", with_a_root_at_zero)
    logs = fit(model, scene(batch=2, size=(64, 64)), steps=5)
    # The first two halve the scale, which is then 1.
    assert model.bad_steps.read() == (3, 3)
    assert np.isnan(logs["loss"])
