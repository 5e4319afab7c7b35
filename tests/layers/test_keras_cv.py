"""Backbones of keras_cv: built without network, frozen for good, exact at any size."""

import functools
import re
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import FCOS
from fcos_tf.layers import backbones
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.layers.keras_cv import ARCHITECTURES, PinnedBatchNormalization

TINY = "keras_cv/mobilenet_v3_small"
NESTED = "keras_cv/csp_darknet_tiny"  # has its batch norms within layers within layers


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def images(height=64, width=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(2, height, width, 3)).astype("float32")


@functools.cache
def calibrated(name):
    """Weights whose statistics are those of an image, so that no map vanishes or explodes."""
    keras.utils.set_random_seed(0)
    model = build_backbone(name)
    for layer in norms(model):
        layer.momentum = 0.0  # the last batch alone counts
    model(images(), training=True)
    return model.get_weights()


def seeded(name, **options):
    model = build_backbone(name, **options)
    model.set_weights(calibrated(name))
    return model


def norms(model):
    kind = keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


@pytest.mark.parametrize("name", [TINY, NESTED])
def test_sizes_in_a_graph_of_unknown_size(name):
    model = seeded(name, norm="frozen")
    run = tf.function(
        lambda x: model(x, training=True),
        input_signature=[tf.TensorSpec((None, None, None, 3))],
    )
    for height, width in ((97, 131), (64, 96)):
        maps = run(images(height, width))
        assert {level: tuple(x.shape[1:3]) for level, x in maps.items()} == {
            f"c{k}": (-(-height // 2**k), -(-width // 2**k)) for k in (2, 3, 4, 5)
        }


def test_maps_are_those_of_keras_cv():
    import keras_cv

    model = seeded("keras_cv/resnet18")
    class_name, arguments = ARCHITECTURES["resnet18"]
    theirs = getattr(keras_cv.models, class_name)(include_rescaling=False, **arguments)
    theirs.set_weights(model.get_weights())
    outputs = {k: theirs.get_layer(v).output for k, v in theirs.pyramid_level_inputs.items()}
    reference = keras.Model(theirs.input, outputs)
    # A size that is no multiple of 32 is the same image with zeros below and on the right, cut.
    x = images(65, 100)
    padded = np.pad(x, ((0, 0), (0, 31), (0, 28), (0, 0)))
    expected = reference(padded)
    for level, feature in model(x).items():
        cut = expected[level.replace("c", "P")][:, : feature.shape[1], : feature.shape[2]]
        assert 0.1 < np.max(cut) < 1e3
        np.testing.assert_allclose(feature, cut, atol=1e-5 * np.max(cut))


@pytest.mark.parametrize("name", [TINY, NESTED])
def test_frozen_for_good(name):
    model = seeded(name, norm="frozen")
    assert all(isinstance(layer, PinnedBatchNormalization) for layer in norms(model))
    x = images()
    expected = {level: np.asarray(feature) for level, feature in model(x).items()}
    model.trainable = False
    model.trainable = True
    kinds = {v.name for v in model.trainable_weights}
    assert "kernel" in kinds and not kinds & {"gamma", "beta", "moving_mean"}
    before = model.get_weights()
    for level, feature in model(x, training=True).items():
        assert 0.1 < np.max(np.abs(feature)) < 1e3
        np.testing.assert_array_equal(feature, expected[level])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [TINY, NESTED])
def test_trained_and_synchronised(name):
    for norm in ("batch", "sync"):
        model = build_backbone(name, norm=norm)
        assert {layer.synchronized for layer in norms(model)} == {norm == "sync"}
        assert not any(isinstance(layer, PinnedBatchNormalization) for layer in norms(model))
    before = [layer.moving_mean.numpy() for layer in norms(model)]
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(tf.square(x)) for x in model(images(), training=True).values())
    for old, layer in zip(before, norms(model), strict=True):
        assert np.any(old != layer.moving_mean.numpy()), layer.name
    gradients = tape.gradient(loss, [v.value for v in model.trainable_weights])
    for variable, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


@pytest.mark.parametrize(
    ("count", "first", "last"),
    # Of MobileNetV3-small: the stem, then blocks 2 and 10 are the last before P3 and P5.
    [
        (1, "Conv", "Conv_BatchNorm"),
        (3, "Conv", "expanded_conv_2_project_BatchNorm"),
        (5, "Conv", "expanded_conv_10_project_BatchNorm"),
    ],
)
def test_frozen_stages(count, first, last):
    model = build_backbone(TINY, frozen_stages=count)
    layers = [layer for layer in model.get_layer("levels").layers if layer.weights]
    learns = {layer.name: bool(layer.trainable_weights) for layer in layers}
    names = list(learns)
    until = names.index(last) + 1
    assert names[0] == first and not any(learns[name] for name in names[:until])
    assert all(learns[name] for name in names[until:])
    pinned = sum(isinstance(layer, PinnedBatchNormalization) for layer in norms(model))
    assert pinned == sum("BatchNorm" in name for name in names[:until])


@pytest.mark.parametrize("name", [TINY, pytest.param(NESTED, marks=pytest.mark.slow)])
def test_saves_and_loads(name, tmp_path):
    model = seeded(name, norm="frozen", frozen_stages=2)
    file = str(tmp_path / "b.keras")
    model.save(file)
    loaded = keras.models.load_model(file)
    assert len(loaded.trainable_weights) == len(model.trainable_weights) > 0
    assert all(isinstance(layer, PinnedBatchNormalization) for layer in norms(loaded))
    other = build_backbone(name, weights=file, norm="sync")
    for a, b, c in zip(*(m.get_weights() for m in (model, loaded, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    with pytest.raises(ValueError, match=r"b\.keras: expected layer levels of keras_cv_resnet18"):
        build_backbone("keras_cv/resnet18", weights=file)


def test_detector_saves_and_loads(tmp_path):
    model = FCOS(2, backbone=TINY, fpn_channels=32, head_convs=1, backbone_norm="frozen")
    assert (model.mean, model.std, model.channel_order) == ((0,) * 3, (255,) * 3, "rgb")
    model.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    x = (255 * images(70, 90)).astype("uint8")
    expected = model(x)
    # Strides 8 to 128 of 70 x 90 pixels: 9 x 12 + 5 x 6 + 3 x 3 + 2 x 2 + 1 x 1 points.
    assert expected["class_logits"].shape == (2, 152, 2)
    for name, value in loaded(x).items():
        np.testing.assert_array_equal(value, expected[name])
    assert all(isinstance(layer, PinnedBatchNormalization) for layer in norms(loaded.backbone))


def test_mixed_precision():
    full = seeded(TINY)
    mixed = build_backbone(TINY, dtype="mixed_bfloat16", norm="frozen")
    mixed.set_weights(full.get_weights())
    assert {w.dtype for w in mixed.weights} == {"float32"}
    expected = full(images())
    for level, x in mixed(images(), training=True).items():
        assert keras.backend.standardize_dtype(x.dtype) == "bfloat16"
        assert np.all(np.isfinite(x))
        if level in ("c2", "c3"):  # further down errors grow: statistics of a few numbers
            error = np.asarray(x, "float32") - np.asarray(expected[level])
            assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(expected[level]), level


def preset_folder(home, preset, *, include_rescaling=True, **changed):
    """A preset as Kaggle has it, of random weights, where it is looked for."""
    import keras_cv
    from keras_cv.src.utils.preset_utils import save_to_preset

    class_name, arguments = ARCHITECTURES[preset.removesuffix("_imagenet")]
    network = getattr(keras_cv.models, class_name)(
        include_rescaling=include_rescaling, **{**arguments, **changed}
    )
    save_to_preset(network, str(home / "models" / "keras_cv" / preset))
    return network


def test_weights_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    theirs = preset_folder(tmp_path, "mobilenet_v3_small_imagenet")
    ours = build_backbone("keras_cv/mobilenet_v3_small_imagenet", weights="imagenet", norm="frozen")
    levels = theirs.pyramid_level_inputs
    reference = keras.Model(theirs.input, theirs.get_layer(levels["P3"]).output)
    expected = np.asarray(reference(255 * images()))  # it rescales by 1 / 255
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(ours(images())["c3"], expected, atol=1e-5 * np.abs(expected).max())
    # The same name, another network.
    preset_folder(tmp_path, "mobilenet_v3_small_imagenet", stackwise_filters=[16] * 11)
    with pytest.raises(
        ValueError, match="expected the architecture of mobilenet_v3_small_imagenet"
    ):
        build_backbone("keras_cv/mobilenet_v3_small_imagenet", weights="imagenet")


def test_no_network_says_which_files_to_put_where(monkeypatch):
    monkeypatch.setenv("KERAS_HOME", "/here")
    with pytest.raises(OSError, match="cannot load") as error:
        build_backbone("keras_cv/mobilenet_v3_small_imagenet", weights="imagenet")
    page = "https://www.kaggle.com/models/keras/mobilenetv3/keras/mobilenet_v3_small_imagenet"
    folder = "/here/models/keras_cv/mobilenet_v3_small_imagenet"
    put = rf"put config.json and model.weights.h5 of {re.escape(page)} into {folder}, or"
    assert re.search(put, str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("keras_cv/vgg", {}, r"backbones are resnet18, .*efficientnetv2_l.*got 'vgg'"),
        ("keras_cv/mit_b0", {}, r"got 'mit_b0'"),
        (
            "keras_cv/resnet18",
            {"weights": "imagenet"},
            r"exist for keras_cv/resnet50_i\w+; got",
        ),
        ("keras_cv/resnet18", {"norm": "group"}, "batch, sync, frozen; got 'group'"),
        ("keras_cv/resnet18", {"frozen_stages": 6}, "0 to 5; got 6"),
        (
            "keras_cv/resnet18",
            {"stride_in_3x3": False},
            "stride_in_3x3 must be True for keras_cv/resnet18; got False",
        ),
        (
            "keras_cv/resnet18",
            {"norm_epsilon": 0.0},
            "norm_epsilon must be 1e-05 for keras_cv/r.*; got 0.0",
        ),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, **options)


def test_settings_follow_the_preset():
    for weights, norm, frozen in ((None, "batch", 0), ("imagenet", "frozen", 2), ("a.keras",) * 3):
        preset = backbones.resolve_preset("keras_cv/resnet50_imagenet", weights)
        assert (preset.mean, preset.std) == ((0, 0, 0), (255, 255, 255))
        assert (preset.channel_order, preset.stride_in_3x3) == ("rgb", True)
        if weights != "a.keras":
            assert (preset.norm, preset.frozen_stages) == (norm, frozen)
    assert (preset.norm, preset.frozen_stages) == ("frozen", 2)
