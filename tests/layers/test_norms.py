"""The fused batch normalisation against Keras' layer."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.layers.blocks import normalization
from fcos_tf.layers.norms import BatchNormalization

SHAPE = (3, 5, 7, 6)


def maps():
    return np.random.default_rng(0).normal(3, 2, SHAPE).astype(np.float32)


def built(layer, shape=SHAPE):
    layer.build(shape)
    layer.gamma.assign(np.linspace(0.5, 2, shape[-1]))
    layer.beta.assign(np.linspace(-1, 1, shape[-1]))
    return layer


def steps(layer, compiled=False):
    """The output, the gradients and the statistics after two steps, all float32."""

    @tf.function(jit_compile=compiled, autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(tf.cast(x, layer.compute_dtype), training=True)
            total = tf.reduce_sum(tf.cast(y, tf.float32) ** 3)
        return y, *tape.gradient(total, [x, layer.gamma.value, layer.beta.value])

    step(tf.constant(maps()))
    found = [*step(tf.constant(maps() + 1)), layer.moving_mean, layer.moving_variance]
    return [np.asarray(each, np.float32) for each in found]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-5), ("mixed_float16", 1e-3), ("mixed_bfloat16", 1e-2)]
)
def test_training_is_that_of_keras(dtype, bound, compiled, monkeypatch):
    options = {"momentum": 0.9, "epsilon": 1e-5, "synchronized": True, "dtype": dtype}
    theirs = steps(built(keras.layers.BatchNormalization(**options)))
    calls = []
    monkeypatch.setattr(  # what computes must not be Keras' code
        keras.layers.BatchNormalization, "call", lambda *_, **__: calls.append(1)
    )
    ours = steps(built(BatchNormalization(**options)), compiled)
    assert not calls
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=bound * np.abs(other).max(), rtol=0)
    for one, other in zip(ours[-2:], theirs[-2:], strict=True):  # without rounding of the output
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_statistics_by_hand():
    layer = built(BatchNormalization(momentum=0.75, epsilon=3.0), (4, 1, 1, 1))
    layer.gamma.assign([2.0])
    layer.beta.assign([1.0])
    x = np.float32([1, 3, 1, 3]).reshape(4, 1, 1, 1)  # mean 2, variance 1: 2 (x - 2) / 2 + 1
    np.testing.assert_allclose(np.ravel(layer(x, training=True)), [0, 2, 0, 2], atol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [0.5], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [1.0], rtol=1e-6)
    # One value: no variance.
    layer(x[:1], training=True)
    np.testing.assert_allclose(layer.moving_variance, [0.75], rtol=1e-6)


@pytest.mark.parametrize(
    "case", ["inference", "not trainable", "float64", "bfloat16", "float16", "two axes"]
)
def test_elsewhere_it_is_keras_layer(case):
    dtype = case if "float" in case else "float32"
    shape = (8, 6) if "axes" in case else SHAPE
    training = case != "inference"
    x = np.random.default_rng(0).normal(size=shape)
    results = []
    for kind in (keras.layers.BatchNormalization, BatchNormalization):
        layer = built(kind(dtype=dtype), shape)
        layer.trainable = case != "not trainable"
        results.append([np.asarray(layer(x, training=training)), np.asarray(layer.moving_mean)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("norm", "is_fused"), [("batch", True), ("sync", False)])
def test_what_is_synchronised_over_replicas_is_keras_layer(norm, is_fused, monkeypatch):
    layer = built(normalization(norm, name="n"))
    two = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: two)
    assert layer._can_fuse(maps()) is is_fused


def test_keras_without_renorm(monkeypatch):
    layer = built(BatchNormalization())
    expected = np.asarray(layer(maps(), training=True))
    vars(layer).pop("renorm", None)
    np.testing.assert_array_equal(np.asarray(layer(maps(), training=True)), expected)


def test_weights_and_config_are_exchanged_with_keras(tmp_path):
    ours, theirs = (
        keras.Sequential([keras.Input(SHAPE[1:]), layer])
        for layer in (normalization("batch", name="n"), keras.layers.BatchNormalization(name="n"))
    )
    ours.set_weights([np.arange(6.0) + k for k in range(4)])
    ours.save_weights(tmp_path / "a.weights.h5")
    theirs.load_weights(tmp_path / "a.weights.h5")
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    ours.save(tmp_path / "a.keras")
    read = keras.models.load_model(tmp_path / "a.keras")
    assert type(read.layers[0]) is BatchNormalization
    assert read.layers[0].get_config() == ours.layers[0].get_config()
