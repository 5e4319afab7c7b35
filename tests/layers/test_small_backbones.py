"""MobileNetV2, EfficientNet-Lite and the simple CNN: published sizes, arithmetic by hand."""

import keras
import numpy as np
import pytest

from fcos_tf import FCOS
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.layers.blocks import conv, conv_norm
from fcos_tf.layers.efficientnet_lite import efficientnet_lite


def trainable(model):
    return sum(np.prod(v.shape) for v in model.trainable_weights)


def strided(model):
    return [la.name for la in model.layers if getattr(la, "strides", None) == (2, 2)]


@pytest.fixture(scope="module")
def mobilenet():
    return build_backbone("mobilenet_v2")


def test_mobilenet_has_the_published_size(mobilenet):
    # torchvision's 3,504,872 less the classifier (1280 * 1000 + 1000) and the last 1x1 convolution
    # with its batch norm (320 * 1280 + 2 * 1280).
    assert trainable(mobilenet) == 3_504_872 - 1_281_000 - 412_160
    # The paper's 17 blocks of three convolutions; the first has two. And the stem.
    kernels = [w for w in mobilenet.weights if w.name == "kernel"]
    assert len(kernels) == 17 * 3 - 1 + 1


def test_mobilenet_maps_and_strides(mobilenet):
    features = mobilenet(np.zeros((1, 97, 130, 3), "float32"))
    # ceil(97 / s), ceil(130 / s); channels of table 2 before each stride, and at the end.
    assert {name: tuple(x.shape[1:]) for name, x in features.items()} == {
        "c2": (25, 33, 24),
        "c3": (13, 17, 32),
        "c4": (7, 9, 96),
        "c5": (4, 5, 320),
    }
    # Blocks 2, 4, 7 and 14 of the network: the first of 24, 32, 64 and 160 channels.
    assert strided(mobilenet) == [
        "stem_conv",
        "stage1_block2_2_conv",
        "stage2_block1_2_conv",
        "stage3_block1_2_conv",
        "stage4_block1_2_conv",
    ]
    # A shortcut where a row of table 2 repeats: 1 + 2 + 3 + 2 + 2 times.
    assert sum(isinstance(la, keras.layers.Add) for la in mobilenet.layers) == 10


def test_mobilenet_is_linear_at_the_end_of_a_block(mobilenet):
    rng = np.random.default_rng(0)
    for level, x in mobilenet(rng.normal(size=(1, 64, 64, 3)).astype("float32")).items():
        assert np.min(x) < 0, level


# timm 1.0.31's totals less the classifier of 1280 * 1000 + 1000.
@pytest.mark.parametrize(
    ("name", "parameters", "blocks"),
    [
        ("efficientnet_lite0", 4_652_008, 16),
        # 1 + 3 + 3 + 4 + 4 + 5 + 1 blocks: 2, 2, 3, 3 and 4 by 1.1 or 1.2, rounded up.
        ("efficientnet_lite1", 5_416_680, 21),
        ("efficientnet_lite2", 6_092_072, 21),
    ],
)
def test_efficientnet_lite_has_the_published_size(name, parameters, blocks):
    model = build_backbone(name, last_conv=True)
    assert trainable(model) == parameters - 1_281_000
    kernels = [w for w in model.weights if w.name == "kernel"]
    assert len(kernels) == blocks * 3 - 1 + 2
    maps = {level: x.shape[-1] for level, x in model.output.items()}
    # Of Lite2 24, 40, 112 and 320 times 1.1, to the nearest multiple of 8.
    wide = name == "efficientnet_lite2"
    expected = {"c2": 24, "c3": 48, "c4": 120, "c5": 352} if wide else {
        "c2": 24, "c3": 40, "c4": 112, "c5": 320}  # fmt: skip
    assert maps == {**expected, "last": 1280}
    assert list(build_backbone(name).output) == ["c2", "c3", "c4", "c5"]


def test_padding_of_tensorflow_for_any_size():
    # Ones in each window of 3: with an even side one zero stands behind, symmetric padding has one
    # in front; with an odd side either has one at both ends. Rows as columns.
    inputs = keras.Input((None, None, 1))
    symmetric, ours = (
        keras.Model(inputs, conv(inputs, 1, 3, name="c", stride=2, symmetric=each))
        for each in (True, False)
    )
    for model in (symmetric, ours):
        model.get_layer("c").set_weights([np.ones((3, 3, 1, 1))])
    for model, size, expected in ((ours, 4, [3, 2]), (symmetric, 4, [2, 3]), (ours, 5, [2, 3, 2])):
        row = np.asarray(model(np.ones((1, size, size, 1), "float32")))[0, 0, :, 0]
        np.testing.assert_array_equal(row, np.multiply(expected[0], expected))


def test_preprocessing_and_epsilon_of_efficientnet_lite():
    small = {"fpn_channels": 32, "head_convs": 1}
    model = FCOS(2, backbone="efficientnet_lite0", **small)
    # (0 - 127) / 128 and (255 - 127) / 128.
    images = np.full((1, 1, 2, 3), [[[0.0], [255.0]]], "float32")
    np.testing.assert_array_equal(model.preprocess(images)[0, 0, :, 0], [-127 / 128, 1])
    config = model.get_config()
    assert config["norm_epsilon"] == 1e-3 and config["channel_order"] == "rgb"
    other = FCOS(2, backbone="efficientnet_lite0", norm_epsilon=0.0, mean=(1, 2, 3), **small)
    assert other.get_config()["norm_epsilon"] == 0 and other.mean == (1, 2, 3)
    with pytest.raises(ValueError, match=r"one of efficientnet_lite0, .*; got 'lite9'"):
        efficientnet_lite("lite9")


def test_depthwise_convolution_by_hand():
    # Each channel alone, summed over 3x3; at stride 2 the corner sees 2x2 of the image.
    image = keras.Input((3, 3, 2))
    model = keras.Model(image, conv(image, 2, 3, groups=2, stride=2, name="c"))
    layer = model.get_layer("c")
    assert isinstance(layer, keras.layers.DepthwiseConv2D)
    layer.set_weights([np.ones((3, 3, 2, 1))])
    x = np.ones((1, 3, 3, 2), "float32") * [1, 10]
    np.testing.assert_array_equal(model(x)[0, :, :, 1], [[40, 40], [40, 40]])
    np.testing.assert_array_equal(model(x)[0, :, :, 0], [[4, 4], [4, 4]])


def test_activations():
    # A 1x1 convolution with weight 1 and fresh statistics: y = x / sqrt(1 + epsilon), cut.
    for activation, expected in (("relu", [0, 5, 9]), ("relu6", [0, 5, 6]), (None, [-5, 5, 9])):
        image = keras.Input((1, 3, 1))
        y = conv_norm(image, 1, 1, activation=activation, norm_epsilon=0.0, name="c")
        model = keras.Model(image, y)
        model.get_layer("c_conv").set_weights([np.ones((1, 1, 1, 1))])
        x = np.float32([-5, 5, 9]).reshape(1, 1, 3, 1)
        np.testing.assert_array_equal(model(x)[0, 0, :, 0], expected)


def test_simple_cnn_by_hand():
    model = build_backbone("simple_cnn")
    by_layer = {la.name: int(la.count_params()) for la in model.layers if la.weights}
    # 3x3 kernels of in * out, and a bias for each output or four numbers of batch norm.
    assert by_layer == {
        "stem_conv": 9 * 3 * 16 + 16,
        "stage1_conv": 9 * 16 * 32 + 32,
        "stage2_1_conv": 9 * 32 * 64,
        "stage2_1_norm": 4 * 64,
        "stage2_2_conv": 9 * 64 * 64,
        "stage2_2_norm": 4 * 64,
        "stage3_conv": 9 * 64 * 128 + 128,
        "stage4_conv": 9 * 128 * 128 + 128,
    }
    assert trainable(model) == 282_080
    features = model(np.zeros((1, 97, 130, 3), "float32"))
    assert {name: tuple(x.shape[1:]) for name, x in features.items()} == {
        "c3": (13, 17, 64),
        "c4": (7, 9, 128),
        "c5": (4, 5, 128),
    }
    assert strided(model) == [
        "stem_conv",
        "stage1_conv",
        "stage2_1_conv",
        "stage3_conv",
        "stage4_conv",
    ]


def test_simple_cnn_computes_what_it_should():
    # All kernels pick the centre pixel and sum the channels. An image of ones: 3 after the stem,
    # then times 16, 32, 64 and 64 up to c3 (batch norm with fresh statistics), 64 and 128 after.
    model = build_backbone("simple_cnn", norm_epsilon=0.0)
    for layer in model.layers:
        if layer.name.endswith("_conv"):
            kernel = np.zeros(layer.kernel.shape)
            kernel[1, 1] = 1
            layer.set_weights([kernel, *layer.get_weights()[1:]])
    features = model(np.ones((1, 64, 64, 3), "float32"))
    c3 = 3 * 16 * 32 * 64
    for name, expected in (("c3", c3), ("c4", c3 * 64), ("c5", c3 * 64 * 128)):
        # On some processors the reciprocal root of a variance of 1 is not exactly 1.
        wanted = np.full(features[name].shape, expected)
        np.testing.assert_allclose(features[name], wanted, rtol=1e-6)
