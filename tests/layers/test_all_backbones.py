"""What every backbone does: learn, stay frozen, save and load, run in mixed precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.convert.backbones import CONVERTIBLE
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.layers.norms import FrozenBatchNormalization
from tests.layers.torchvision_weights import fill

# One of each family that we write ourselves; those of keras_cv are in test_keras_cv.py.
NAMES = ("resnet18", "regnetx_200mf", "mobilenet_v2", "efficientnet_lite0", "simple_cnn")
PARTS = (("stem",), ("stem", "stage1"), ("stem", "stage1", "stage2"))


def images(seed=0, size=64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, size, size, 3)).astype("float32")


def norms(model):
    kinds = (keras.layers.BatchNormalization, FrozenBatchNormalization)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_trainable_weight(name):
    keras.utils.set_random_seed(0)
    model = build_backbone(name)
    own = 1e-3 if name == "efficientnet_lite0" else 1e-5
    assert {layer.epsilon for layer in norms(model)} == {own}
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(tf.square(x)) for x in model(images(), training=True).values())
    gradients = tape.gradient(loss, [v.value for v in model.trainable_weights])
    for variable, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def assert_frozen(model, count):
    """So many parts do not learn; all else does."""
    learning = {v.path for v in model.trainable_weights}
    frozen = ("stem", "stage1", "stage2", "stage3", "stage4")[:count]
    for weight in model.weights:
        if "moving" not in weight.name:
            assert (weight.path in learning) != weight.path.startswith(frozen or ("-",))


@pytest.mark.parametrize("name", NAMES)
def test_statistics_learn_unless_they_are_frozen(name):
    for norm, count in (("batch", 0), ("frozen", 0), ("batch", 3)):
        model = build_backbone(name, norm=norm, frozen_stages=count, norm_epsilon=0.25)
        if norm == "batch":
            assert_frozen(model, count)
        before = {w.path: w.numpy() for w in model.weights}
        model(images(), training=True)
        assert norms(model)
        for layer in norms(model):
            frozen = norm == "frozen" or (count and layer.name.startswith(PARTS[count - 1]))
            assert isinstance(layer, FrozenBatchNormalization) == bool(frozen), layer.name
            assert layer.epsilon == 0.25 and not getattr(layer, "synchronized", False)
            moved = np.any(before[layer.moving_mean.path] != layer.moving_mean.numpy())
            assert moved != bool(frozen), layer.name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_frozen_stages_do_not_learn_and_other_norms_are_synchronised(name, count):
    model = build_backbone(name, norm="sync", frozen_stages=count, norm_epsilon=0.25)
    assert_frozen(model, count)
    for layer in norms(model):
        assert layer.epsilon == 0.25
        learns = isinstance(layer, keras.layers.BatchNormalization)
        assert getattr(layer, "synchronized", False) == learns


@pytest.mark.parametrize("name", NAMES)
def test_saves_and_loads(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = build_backbone(name, norm="frozen", frozen_stages=2, norm_epsilon=0.25)
    model.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    assert {v.path for v in loaded.trainable_weights} == {v.path for v in model.trainable_weights}
    assert {layer.epsilon for layer in norms(loaded)} == {0.25}
    expected = model(images())
    for level, x in loaded(images()).items():
        assert np.abs(expected[level]).max() > 1e-3
        np.testing.assert_array_equal(x, expected[level])


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision(name):
    keras.utils.set_random_seed(0)
    full = build_backbone(name)
    if name in CONVERTIBLE:
        fill(full, "timm")
    mixed = build_backbone(name, dtype="mixed_bfloat16")
    mixed.set_weights(full.get_weights())
    assert {w.dtype for w in mixed.weights} == {"float32"}
    expected = full(images())
    for level, x in mixed(images()).items():
        assert keras.backend.standardize_dtype(x.dtype) == "bfloat16"
        # Each rounding is off by up to 2 ** -9 of a value; some dozens of them add at random.
        error = np.asarray(x, "float32") - np.asarray(expected[level])
        assert np.sqrt(np.mean(error**2)) < 0.02 * np.std(expected[level]), level


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_stride_has_no_other_place(name):
    with pytest.raises(ValueError, match=f"stride_in_3x3 must be True for {name}; got False"):
        build_backbone(name, stride_in_3x3=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "batch, sync, frozen; got 'group'"),
        ({"frozen_stages": 6}, "frozen_stages must be 0 to 5; got 6"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, **options)
