"""ResNets and ResNeXts: published parameter counts, keras.applications as a reference.

What all backbones have in common is in `test_all_backbones`.
"""

import keras
import numpy as np
import pytest

from fcos_tf.layers import backbones
from fcos_tf.layers.resnet import resnet
from tests.layers.torchvision_weights import fill, image


# torchvision's published totals less the classifier: 512 or 2048 times 1000 weights, 1000 biases.
# Those of the other networks follow from the stored shapes, see `test_backbone_parity`.
@pytest.mark.parametrize(
    ("depth", "parameters"), [(34, 21_797_672 - 513_000), (101, 44_549_160 - 2_049_000)]
)
def test_parameter_counts(depth, parameters):
    model = resnet(depth)
    assert sum(np.prod(v.shape) for v in model.trainable_weights) == parameters


# torchvision's published totals of ResNeXt, less the classifier.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnext101_32x8d", 88_791_336 - 2_049_000),
        ("resnext101_64x4d", 83_455_272 - 2_049_000),
    ],
)
def test_parameter_counts_of_resnext(name, parameters):
    model = backbones.build_backbone(name)
    assert model.name == name
    assert sum(np.prod(v.shape) for v in model.trainable_weights) == parameters


def test_resnext_widths():
    # Table 1 of the ResNeXt paper: 128 to 1024 channels inside, 256 to 2048 outside.
    model = backbones.build_backbone("resnext50_32x4d")
    inside = [model.get_layer(f"stage{s}_block1_2_conv") for s in (1, 2, 3, 4)]
    assert [layer.filters for layer in inside] == [128, 256, 512, 1024]
    assert [layer.groups for layer in inside] == [32] * 4
    assert [layer.strides for layer in inside] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert [model.output[f"c{k}"].shape[-1] for k in (2, 3, 4, 5)] == [256, 512, 1024, 2048]


def test_groups_need_bottlenecks():
    with pytest.raises(ValueError, match=r"groups need.*got 18 with groups=32"):
        resnet(18, groups=32, group_width=4)


def test_unknown_backbone_lists_the_known():
    with pytest.raises(ValueError, match=r"resnet18.*simple_cnn or keras_cv/PRESET; got 'vgg'"):
        backbones.build_backbone("vgg")


def test_strides_and_channels_on_an_odd_size():
    features = resnet(18)(np.zeros((1, 97, 130, 3), "float32"))
    # ceil(97 / s), ceil(130 / s)
    assert {name: tuple(x.shape[1:]) for name, x in features.items()} == {
        "c2": (25, 33, 64),
        "c3": (13, 17, 128),
        "c4": (7, 9, 256),
        "c5": (4, 5, 512),
    }


@pytest.mark.parametrize(("in_3x3", "strided"), [(True, "2_conv"), (False, "1_conv")])
def test_where_a_bottleneck_halves_the_map(in_3x3, strided):
    model = resnet(50, stride_in_3x3=in_3x3)
    layers = [layer for layer in model.layers if layer.name.startswith("stage2_block1")]
    convs = {la.name: la.strides for la in layers if isinstance(la, keras.layers.Conv2D)}
    assert {n for n, s in convs.items() if s == (2, 2)} == {
        f"stage2_block1_{strided}",
        "stage2_block1_shortcut_conv",
    }


def copy_keras_applications(source, target):
    """Copies the weights of a `keras.applications` ResNet-50 into ours.

    Its convolutions have biases and its batch norms epsilon 1.001e-5. A bias before batch norm is
    the same as a smaller mean, a larger epsilon the same as a larger variance.
    """
    for layer in target.layers:
        if not layer.name.endswith("_conv"):
            continue
        name = layer.name.removesuffix("_conv")
        prefix = _keras_applications_name(name)
        kernel, bias = source.get_layer(f"{prefix}_conv").get_weights()
        theirs, ours = source.get_layer(f"{prefix}_bn"), target.get_layer(f"{name}_norm")
        gamma, beta, mean, variance = theirs.get_weights()
        layer.set_weights([kernel])
        ours.set_weights([gamma, beta, mean - bias, variance + theirs.epsilon - ours.epsilon])


def _keras_applications_name(name):
    """`stage1_block2_3` to `conv2_block2_3`; the stem is `conv1`, a shortcut number 0."""
    if name == "stem":
        return "conv1"
    stage, block, part = name.split("_")
    part = "0" if part == "shortcut" else part
    return f"conv{int(stage.removeprefix('stage')) + 1}_{block}_{part}"


def test_keras_applications_weights_give_the_same_features():
    keras.utils.set_random_seed(0)
    theirs = keras.applications.ResNet50(weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for layer in theirs.layers:  # statistics and biases that are not 0 and 1
        if layer.weights:
            scale = 0.2 if layer.name.endswith("_bn") else 0.05
            layer.set_weights(
                [
                    w if w.ndim > 1 else np.abs(w + rng.normal(0, scale, w.shape))
                    for w in layer.get_weights()
                ]
            )
    ours = resnet(50, stride_in_3x3=False, norm="frozen")
    copy_keras_applications(theirs, ours)
    images = rng.normal(0, 50, (1, 75, 106, 3)).astype("float32")
    names = {"c3": "conv3_block4_out", "c4": "conv4_block6_out", "c5": "conv5_block3_out"}
    reference = keras.Model(theirs.input, [theirs.get_layer(n).output for n in names.values()])
    features = ours(images)
    for name, expected in zip(names, reference(images), strict=True):
        assert np.abs(expected).max() > 1e-3
        error = np.abs(features[name] - expected).max() / np.abs(expected).max()
        assert error < 1e-5, name


def test_settings_follow_the_weights():
    assert backbones.resolve_preset("resnet50", None) == backbones.RANDOM
    preset = backbones.resolve_preset("resnet50", "imagenet", frozen_stages=0, norm=None)
    assert (preset.norm, preset.frozen_stages) == ("frozen", 0)
    for weights in ("mine.keras", "imagenet", "imagenet_v1"):
        preset = backbones.resolve_preset("resnet50", weights)
        assert (preset.channel_order, preset.stride_in_3x3) == ("rgb", True)
        assert (preset.norm, preset.frozen_stages) == ("frozen", 2)


def test_backbone_weights_from_a_file(tmp_path):
    file = str(tmp_path / "r.keras")
    source = resnet(18)
    source.save(file)
    target = backbones.build_backbone("resnet18", weights=file, norm="frozen", frozen_stages=2)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(source(images)["c5"], target(images)["c5"], atol=1e-5)
    with pytest.raises(ValueError, match=r"r\.keras: expected layer stage\S+ of resnet34"):
        backbones.build_backbone("resnet34", weights=file)


def test_backbone_file_with_the_stride_elsewhere_is_refused(tmp_path):
    file = str(tmp_path / "r.keras")
    resnet(50, stride_in_3x3=False).save(file)
    with pytest.raises(ValueError, match=r"strides .* of stage2_block1_1_conv.*stride_in_3x3"):
        backbones.build_backbone("resnet50", weights=file)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("regnetx_200mf", "imagenet", "exist for resnet18, .*lite0; got 'regnetx_200mf'; "
         "'imagenet' also for keras_cv/..._imagenet; .*--flavour=imagenet"),
        ("resnet18", "imagenet_v2", "'imagenet_v2' exist for resnet50, .*; got 'resnet18'"),
        ("keras_cv/resnet50_imagenet", "imagenet_v1", "exist for .*; got 'keras_cv/resnet50_imag"),
    ],
)  # fmt: skip
def test_which_imagenet_weights_exist(name, weights, message):
    with pytest.raises(ValueError, match=message):
        backbones.build_backbone(name, weights=weights)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.pth.tar"])
def test_files_of_pytorch_are_to_be_converted(name):
    message = (
        rf"convert it by python tools/convert.py --flavour=imagenet --backbone=mobilenet_v2 "
        rf"--source=dir/{name} --output=dir/a\S*\.keras$"
    )
    with pytest.raises(ValueError, match=message):
        backbones.build_backbone("mobilenet_v2", weights=f"dir/{name}")


def test_missing_file():
    with pytest.raises(
        FileNotFoundError,
        match=r"imagenet_v1, imagenet_v2, imagenet or an existing .keras file.*'no.keras'",
    ):
        backbones.build_backbone("mobilenet_v2", weights="no.keras")


def test_a_file_with_another_epsilon(tmp_path):
    # In inference a larger epsilon is a larger variance: variance + 0.1 = (variance + 0.1) + 0.
    file = str(tmp_path / "r.keras")
    source = resnet(18, norm_epsilon=0.1)
    fill(source)
    source.save(file)
    images = image(64, 64, "resnet18")
    expected = np.asarray(source(images)["c5"])
    for norm in ("batch", "frozen"):
        target = backbones.build_backbone("resnet18", weights=file, norm=norm, norm_epsilon=0.0)
        variance = target.get_layer("stem_norm").moving_variance
        np.testing.assert_allclose(
            variance, source.get_layer("stem_norm").moving_variance + 0.1, rtol=1e-6
        )
        error = np.abs(target(images)["c5"] - expected).max()
        assert error < 1e-5 * expected.max() and expected.max() > 0.1
