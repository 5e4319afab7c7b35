"""ImageNet files of torchvision and timm: every tensor lands where it belongs, or nothing does."""

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from fcos_tf import FCOS
from fcos_tf.convert.backbones import CONVERTIBLE, load_imagenet_file
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.layers.efficientnet_lite import VARIANTS
from tests.convert import pickle_bytes as pb
from tests.layers import torchvision_weights as peer


def write_pth(path, tensors, wrap=None):
    """As `torch.save` does, float32; `wrap`: the key of the state dict in the checkpoint."""
    values, storages = {}, {}
    for key, (name, array) in enumerate(tensors.items()):
        strides = np.array(array.strides) // array.itemsize
        reference = pb.storage("FloatStorage", str(key), array.size)
        values[name] = pb.tensor(reference, 0, array.shape, strides)
        storages[str(key)] = array.astype("<f4").tobytes()
    table = pb.table(**values)
    return pb.zip_file(path, pb.table(**{wrap: table}) if wrap else table, storages)


def write_safetensors(path, tensors):
    save_file(tensors, path)
    return path


# What a file has beside the backbone.
HEADS = {
    ("resnet", "torchvision"): ("fc.weight", "fc.bias", "bn1.num_batches_tracked"),
    ("regnetx", "torchvision"): ("fc.weight", "fc.bias", "stem.1.num_batches_tracked"),
    ("regnetx", "timm"): ("head.fc.weight", "head.fc.bias", "stem.bn.num_batches_tracked"),
    ("mobilenet", "torchvision"): (
        "features.1.conv.2.num_batches_tracked",
        "classifier.1.bias",
    ),
    ("mobilenet", "timm"): (
        "blocks.0.0.bn1.num_batches_tracked",
        "classifier.weight",
    ),
    ("efficientnet", "efficientnet_pytorch"): ("_blocks.0._bn1.num_batches_tracked", "_fc.weight"),
}


def drawn(name, source):
    """All tensors of such a file, seeded by their names."""
    tensors = peer.drawn_tensors(build_backbone(name, last_conv=True), source)
    family = next(key for key in HEADS if name.startswith(key[0]) and key[1] == source)
    return tensors, {**tensors, **{key: np.ones(2, "float32") for key in HEADS[family]}}


# Where some tensors belong, after torchvision's resnet.py, regnet.py and mobilenetv2.py, timm's
# regnet.py and _efficientnet_blocks.py, and the names in efficientnet-lite0-57934424.pth: layer,
# variable; tensor, its shape. The second block of a stage of RegNetX-400MF has no shortcut; block 5
# of MobileNetV2 is the second of 32 channels.
PLACES = {
    ("resnet18", "torchvision"): [
        ("stem_conv", "kernel", "conv1.weight", (64, 3, 7, 7)),
        ("stem_norm", "moving_variance", "bn1.running_var", (64,)),
        ("stage2_block1_shortcut_conv", "kernel", "layer2.0.downsample.0.weight", (128, 64, 1, 1)),
        ("stage2_block1_shortcut_norm", "beta", "layer2.0.downsample.1.bias", (128,)),
        ("stage4_block2_1_conv", "kernel", "layer4.1.conv1.weight", (512, 512, 3, 3)),
        ("stage4_block2_2_norm", "gamma", "layer4.1.bn2.weight", (512,)),
    ],
    ("regnetx_400mf", "torchvision"): [
        ("stem_conv", "kernel", "stem.0.weight", (32, 3, 3, 3)),
        ("stage4_block1_shortcut_conv", "kernel",
         "trunk_output.block4.block4-0.proj.0.weight", (400, 160, 1, 1)),
        ("stage3_block7_2_conv", "kernel",
         "trunk_output.block3.block3-6.f.b.0.weight", (160, 16, 3, 3)),
        ("stage3_block7_3_norm", "moving_mean",
         "trunk_output.block3.block3-6.f.c.1.running_mean", (160,)),
    ],
    ("regnetx_400mf_384", "timm"): [
        ("stem_norm", "gamma", "stem.bn.weight", (32,)),
        ("stage4_block1_shortcut_conv", "kernel", "s4.b1.downsample.conv.weight",
         (384, 160, 1, 1)),
        ("stage4_block1_shortcut_norm", "beta", "s4.b1.downsample.bn.bias", (384,)),
        ("stage3_block7_2_conv", "kernel", "s3.b7.conv2.conv.weight", (160, 16, 3, 3)),
        ("stage3_block7_3_norm", "moving_mean", "s3.b7.conv3.bn.running_mean", (160,)),
    ],
    ("mobilenet_v2", "torchvision"): [
        ("stem_conv", "kernel", "features.0.0.weight", (32, 3, 3, 3)),
        ("stage1_block1_2_conv", "kernel", "features.1.conv.0.0.weight", (32, 1, 3, 3)),
        ("stage1_block1_3_conv", "kernel", "features.1.conv.1.weight", (16, 32, 1, 1)),
        ("stage1_block1_3_norm", "gamma", "features.1.conv.2.weight", (16,)),
        ("stage2_block2_1_conv", "kernel", "features.5.conv.0.0.weight", (192, 32, 1, 1)),
        ("stage2_block2_2_norm", "moving_mean", "features.5.conv.1.1.running_mean", (192,)),
        ("stage4_block4_3_conv", "kernel", "features.17.conv.2.weight", (320, 960, 1, 1)),
        ("stage4_block4_3_norm", "beta", "features.17.conv.3.bias", (320,)),
        ("last_conv", "kernel", "features.18.0.weight", (1280, 320, 1, 1)),
        ("last_norm", "moving_mean", "features.18.1.running_mean", (1280,)),
    ],
    ("mobilenet_v2", "timm"): [
        ("stem_norm", "moving_variance", "bn1.running_var", (32,)),
        ("stage1_block1_2_conv", "kernel", "blocks.0.0.conv_dw.weight", (32, 1, 3, 3)),
        ("stage1_block1_2_norm", "beta", "blocks.0.0.bn1.bias", (32,)),
        ("stage1_block1_3_conv", "kernel", "blocks.0.0.conv_pw.weight", (16, 32, 1, 1)),
        ("stage1_block1_3_norm", "gamma", "blocks.0.0.bn2.weight", (16,)),
        ("stage2_block2_1_conv", "kernel", "blocks.2.1.conv_pw.weight", (192, 32, 1, 1)),
        ("stage3_block5_1_conv", "kernel", "blocks.4.0.conv_pw.weight", (384, 64, 1, 1)),
        ("stage3_block7_2_norm", "gamma", "blocks.4.2.bn2.weight", (576,)),
        ("stage4_block4_3_conv", "kernel", "blocks.6.0.conv_pwl.weight", (320, 960, 1, 1)),
        ("stage4_block4_3_norm", "moving_mean", "blocks.6.0.bn3.running_mean", (320,)),
        ("last_conv", "kernel", "conv_head.weight", (1280, 320, 1, 1)),
        ("last_norm", "gamma", "bn2.weight", (1280,)),
    ],
    ("efficientnet_lite0", "efficientnet_pytorch"): [
        ("stem_norm", "gamma", "_bn0.weight", (32,)),
        ("stage1_block1_2_conv", "kernel", "_blocks.0._depthwise_conv.weight", (32, 1, 3, 3)),
        ("stage1_block1_2_norm", "beta", "_blocks.0._bn1.bias", (32,)),
        ("stage1_block1_3_conv", "kernel", "_blocks.0._project_conv.weight", (16, 32, 1, 1)),
        ("stage1_block1_3_norm", "gamma", "_blocks.0._bn2.weight", (16,)),
        ("stage2_block2_1_norm", "gamma", "_blocks.4._bn0.weight", (240,)),
        ("stage3_block4_1_conv", "kernel", "_blocks.8._expand_conv.weight", (480, 80, 1, 1)),
        ("stage3_block6_2_conv", "kernel", "_blocks.10._depthwise_conv.weight", (672, 1, 5, 5)),
        ("stage4_block5_3_norm", "moving_mean", "_blocks.15._bn2.running_mean", (320,)),
        ("last_conv", "kernel", "_conv_head.weight", (1280, 320, 1, 1)),
        ("last_norm", "moving_variance", "_bn1.running_var", (1280,)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "source", "form"),
    [
        ("resnet18", "torchvision", ".safetensors"),
        ("regnetx_400mf", "torchvision", ".pth"),
        ("regnetx_400mf_384", "timm", ".safetensors"),
        ("mobilenet_v2", "torchvision", ".safetensors"),
        ("mobilenet_v2", "timm", ".pth"),
        ("efficientnet_lite0", "efficientnet_pytorch", ".pth"),
    ],
)
def test_every_tensor_lands_where_it_belongs(tmp_path, name, source, form):
    tensors, contents = drawn(name, source)
    path = tmp_path / f"w{form}"
    (write_pth if form == ".pth" else write_safetensors)(path, contents)
    model, report = load_imagenet_file(path, name)
    report.raise_if_incomplete(path)
    assert sorted(report.used) == sorted(tensors)
    assert sorted(report.ignored) == sorted(set(contents) - set(tensors))
    for layer_name, variable, tensor, shape in PLACES[name, source]:
        layer = model.get_layer(layer_name)
        expected = contents[tensor]
        assert expected.shape == shape, tensor
        if len(shape) == 4:  # out, in, height, width; a depthwise one has one in
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            expected = expected.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        np.testing.assert_array_equal(getattr(layer, variable), expected, err_msg=tensor)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_features_of_torchvision_from_a_file_to_a_detector(tmp_path, name):
    # The same weights as of the stored features; through a .keras file into a detector's backbone.
    _, contents = drawn(name, "torchvision")
    path = write_pth(tmp_path / "w.pth", contents, wrap="state_dict")
    model, report = load_imagenet_file(path, name)
    report.raise_if_incomplete(path)
    file = str(tmp_path / "w.keras")
    model.save(file)
    detector = FCOS(2, backbone=name, backbone_weights=file, fpn_channels=32, head_convs=1)
    assert (detector.channel_order, detector.mean[0]) == ("rgb", 123.675)
    height, width = peer.SIZES[0]
    features = detector.backbone(peer.image(height, width, name))
    with np.load(peer.GOLDEN) as golden:
        for level in peer.LEVELS:
            key = f"{name}/{height}x{width}/{level}"
            error = np.abs(peer.samples(np.asarray(features[level])) - golden[key]).max()
            assert error < 1e-4 * golden[f"{key}/max"]


def test_the_other_regnet_of_400_mf(tmp_path):
    # 384 and 400 channels in the last stage: 12 blocks of three convolutions and norms and one
    # shortcut, each tensor of another shape.
    _, contents = drawn("regnetx_400mf_384", "timm")
    path = write_safetensors(tmp_path / "w.safetensors", contents)
    model, report = load_imagenet_file(path, "regnetx_400mf")
    assert (report.missing, report.unused) == ([], [])
    assert len(report.misshaped) == 37 * 5
    assert report.fits == "regnetx_400mf_384"
    with pytest.raises(ValueError) as error:
        report.raise_if_incomplete(path)
    message = str(error.value)
    assert "w.safetensors: expected the tensors of this model, got 0 missing, 0 unused" in message
    assert "s4.b1.conv1.conv.weight" in message and "expected (1, 1, 160, 400)" in message
    assert message.endswith("the tensors fit regnetx_400mf_384")
    # Nothing was assigned, not even what would have fitted.
    stem = model.get_layer("stem_norm").gamma
    np.testing.assert_array_equal(stem, np.ones(32))


def test_a_deeper_network(tmp_path):
    _, contents = drawn("resnet34", "torchvision")
    path = write_safetensors(tmp_path / "w.safetensors", contents)
    _, report = load_imagenet_file(path, "resnet18")
    # 16 blocks against 8, two convolutions with a norm of four each; shortcuts are the same.
    assert len(report.unused) == 8 * 2 * 5
    assert report.missing == [] and report.misshaped == []
    assert "layer1.2.conv1.weight" in report.unused
    assert report.fits == "resnet34"


def test_a_file_of_another_family(tmp_path):
    tensors, contents = drawn("mobilenet_v2", "timm")
    path = write_safetensors(tmp_path / "w.safetensors", contents)
    _, report = load_imagenet_file(path, "regnetx_200mf")
    assert "stem.0.weight" in report.missing
    assert set(tensors) <= set(report.unused)
    assert report.fits == "mobilenet_v2"


def test_partial_and_misshaped(tmp_path):
    _, contents = drawn("mobilenet_v2", "torchvision")
    del contents["features.5.conv.1.1.running_mean"]
    contents["features.0.0.weight"] = np.ones((32, 3, 5, 5), "float32")
    contents["features.5.conv.1.0.weight"] = np.ones((192, 2, 3, 3), "float32")
    contents["extra.weight"] = np.ones(3, "float32")
    path = write_safetensors(tmp_path / "w.safetensors", contents)
    _, report = load_imagenet_file(path, "mobilenet_v2")
    assert report.missing == ["features.5.conv.1.1.running_mean"]
    assert report.unused == ["extra.weight"]
    assert {each.name: (each.expected, each.got) for each in report.misshaped} == {
        "features.0.0.weight": ((3, 3, 3, 32), (5, 5, 3, 32)),
        "features.5.conv.1.0.weight": ((3, 3, 192, 1), (3, 3, 192, 2)),
    }
    assert report.fits is None and "the tensors fit" not in str(report)


def test_which_backbones_have_files(tmp_path):
    assert set(CONVERTIBLE) >= {
        "resnet18",
        "resnext101_64x4d",
        "regnetx_400mf",
        "mobilenet_v2",
    } | set(VARIANTS)
    for name in ("simple_cnn", "keras_cv/resnet18", "vgg"):
        with pytest.raises(ValueError, match=f"resnet18, .*mobilenet_v2, .*; got '{name}'"):
            load_imagenet_file(tmp_path / "w.pth", name)
    with pytest.raises(FileNotFoundError):
        load_imagenet_file(tmp_path / "w.pth", "resnet18")


def test_which_of_several_state_dicts(tmp_path):
    _, contents = drawn("regnetx_200mf", "timm")
    path = write_pth(tmp_path / "w.pth", contents, wrap="state_dict_ema")
    _, report = load_imagenet_file(path, "regnetx_200mf", entry="state_dict_ema")
    assert report.is_complete
    with pytest.raises(ValueError, match="expected one of the entries 'state_dict_ema'"):
        load_imagenet_file(path, "regnetx_200mf", entry="model")
