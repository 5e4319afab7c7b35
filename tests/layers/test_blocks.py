"""Padding, frozen batch norm and scales."""

import keras
import numpy as np
import pytest

from fcos_tf.layers.blocks import FrozenBatchNormalization, Scale, conv, normalization


def test_stride_two_pads_both_sides():
    # A 3x3 sum over a 4x4 image of ones, padded by 1 on every side: the corner sees 2x2, the
    # others 2x3 or 3x3. "same" would pad right and bottom only: 9 first.
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, conv(image, 1, 3, stride=2, name="c"))
    model.get_layer("c").set_weights([np.ones((3, 3, 1, 1))])
    np.testing.assert_array_equal(model(np.ones((1, 4, 4, 1)))[0, :, :, 0], [[4, 6], [6, 9]])


def random_statistics(layer, channels=5, seed=0):
    rng = np.random.default_rng(seed)
    layer.build((None, 4, 4, channels))
    layer.set_weights([rng.uniform(0.5, 2, channels) for _ in range(4)])
    return layer


def test_frozen_equals_batch_norm_in_inference():
    frozen = random_statistics(normalization("frozen", name="a"))
    trained = random_statistics(normalization("batch", name="b"))
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 5)).astype("float32")
    np.testing.assert_allclose(frozen(x), trained(x, training=False), atol=1e-5)
    # (x - mean) / sqrt(variance + epsilon) * gamma + beta, for one number.
    layer = FrozenBatchNormalization(epsilon=1.0)
    layer.build((None, 1))
    layer.set_weights([np.array([v], "float32") for v in (2, 5, 1, 3)])
    np.testing.assert_allclose(layer(np.float32([[7]])), [[(7 - 1) / 2 * 2 + 5]])


def test_frozen_stays_frozen():
    layer = random_statistics(normalization("frozen", name="a"))
    before = layer.get_weights()
    layer.trainable = True
    assert layer.trainable_weights == []
    layer(np.ones((2, 4, 4, 5), "float32"), training=True)
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_norm_follows_pytorch():
    layer = normalization("batch", name="a")
    assert (layer.momentum, layer.epsilon, layer.synchronized) == (0.9, 1e-5, False)
    assert normalization("sync", name="a").synchronized
    with pytest.raises(ValueError, match=r"batch, sync, frozen.*'group'"):
        normalization("group", name="a")


def test_scale():
    layer = Scale()
    np.testing.assert_array_equal(layer(np.float32([3])), [3])
    layer.set_weights([np.float32(2)])
    np.testing.assert_array_equal(layer(np.float32([3])), [6])
