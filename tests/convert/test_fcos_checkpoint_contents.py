"""What is read off an FCOS checkpoint, what may be said otherwise, and files that do not fit."""

import keras
import numpy as np
import pytest

from fcos_tf.convert import checkpoints, convert_checkpoint, from_torch
from fcos_tf.models.fcos import FCOS
from fcos_tf.models.fcos_presets import COCO_CLASSES
from tests.convert import fcos_parameter_names as published

FLAVOURS = ("torchvision", "official", "adelaidet", "detectron2")
# An R-18, 32 channels, one convolution in a tower.
SMALL = {"depth": 18, "channels": 32, "num_convs": 1}


def small(path, flavour, change=None, **options):
    """A small file of a flavour; `change`: name -> array, or None for a name to leave out."""
    arrays = published.tensors(getattr(published, flavour)(**{**SMALL, **options}))
    arrays |= change or {}
    return published.save_pickle(path, {k: v for k, v in arrays.items() if v is not None})


def test_a_saved_model_has_all_of_it(tmp_path):
    model = from_torch(small(tmp_path / "a.pkl", "official"), flavour="official", variant="base")
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert loaded.get_config() == model.get_config()
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    settings = published.settings_of(loaded)
    expected = {
        "rules": "official", "centerness_on": "class", "box_loss": "iou",
        "center_sampling_radius": None, "norm_epsilon": 0.0, "score_threshold": 0.05,
        "channel_order": "bgr", "mean": (102.9801, 115.9465, 122.7717), "image_size": "800,1333",
        "class_names": COCO_CLASSES, "fpn_channels": 32, "head_convs": 1, "backbone": "resnet18",
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected


def test_names_before_torchvision_0_13(tmp_path):
    path = small(tmp_path / "a.pkl", "torchvision", former=True)
    model, report = convert_checkpoint(path, flavour="torchvision")
    assert report.is_complete and "backbone.fpn.inner_blocks.1.0.bias" in report.used
    np.testing.assert_array_equal(
        published.value_of(model, "fpn", "lateral_p4", "bias"),
        published.draw("backbone.fpn.inner_blocks.1.bias", (32,)),
    )


def test_other_numbers_of_classes(tmp_path):
    path = small(tmp_path / "a.pkl", "detectron2", num_classes=3)
    model, report = convert_checkpoint(path, flavour="detectron2")
    assert (model.num_classes, model.class_names) == (3, None)
    assert report.notes[-1] == "class names: unknown"
    model = from_torch(path, flavour="detectron2", class_names=["cat", "dog", "bird"])
    assert model.class_names == ("cat", "dog", "bird")
    with pytest.raises(ValueError, match=r"a\.pkl: expected 2 classes, got 3"):
        from_torch(path, flavour="detectron2", class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"a\.pkl: expected 80 classes, got 3"):
        from_torch(path, flavour="detectron2", num_classes=80)


def test_settings_may_be_overridden(tmp_path):
    path = small(tmp_path / "a.pkl", "adelaidet")
    options = {"quality": "iou", "score_threshold": 0.3, "mean": (1.0, 2.0, 3.0)}
    settings = from_torch(path, flavour="adelaidet", **options).get_config()
    assert {name: settings[name] for name in options} == options


@pytest.mark.parametrize("flavour", ["adelaidet", "detectron2"])
def test_the_file_knows_its_pixels_best(tmp_path, flavour):
    buffers = {
        "pixel_mean": np.array([103.53, 116.28, 123.675], np.float32)[:, None, None],
        "pixel_std": np.array([57.375, 57.12, 58.395], np.float32)[:, None, None],
    }
    path = small(tmp_path / "a.pkl", flavour, buffers)
    model, report = convert_checkpoint(path, flavour=flavour)
    assert report.is_complete and report.used[-2:] == ["pixel_mean", "pixel_std"]
    assert model.mean == (103.53, 116.28, 123.675)  # as in the preset, so not as in float32
    assert model.std == (57.375, 57.12, 58.395)
    assert report.notes[2:] == [
        "pixel_std in the file differs from the preset: std=(57.375, 57.12, 58.395)"
    ]
    model, report = convert_checkpoint(path, flavour=flavour, std=(2.0, 2.0, 2.0))
    assert report.is_complete and model.std == (2.0, 2.0, 2.0)


def test_detectron2_may_store_its_anchors(tmp_path):
    anchors = {"anchor_generator.cell_anchors.0": np.zeros((1, 4), np.float32)}
    path = small(tmp_path / "a.pkl", "detectron2", anchors)
    report = convert_checkpoint(path, flavour="detectron2")[1]
    assert report.is_complete and report.ignored == ["anchor_generator.cell_anchors.0"]


def test_three_levels_are_the_real_time_detectors(tmp_path):
    model = from_torch(small(tmp_path / "a.pkl", "adelaidet", levels=3), flavour="adelaidet")
    assert (model.strides, model.image_size) == ((8, 16, 32), "512,736")
    np.testing.assert_array_equal(
        published.value_of(model, "head", "scale_2", "scale"),
        published.draw("proposal_generator.fcos_head.scales.2.scale", (1,))[0],
    )


def test_towers_without_normalisation(tmp_path):
    # Convolution and ReLU in turn: 0, 2.
    head = "proposal_generator.fcos_head"
    shape = (32, 32, 3, 3)
    change = {}
    for tower in ("cls_tower", "bbox_tower"):
        change |= {f"{head}.{tower}.1.weight": None, f"{head}.{tower}.1.bias": None}
        change |= {f"{head}.{tower}.2.weight": published.draw(tower, shape)}
        change |= {f"{head}.{tower}.2.bias": published.draw(tower, (32,))}
    model = from_torch(small(tmp_path / "a.pkl", "adelaidet", change), flavour="adelaidet")
    assert not [x for x in model.head._flatten_layers() if "norm" in x.name]
    np.testing.assert_array_equal(
        published.value_of(model, "head", "box_conv_1", "kernel"),
        np.moveaxis(published.draw("bbox_tower", shape), (0, 1), (3, 2)),
    )


class SeenError(Exception):
    """The arguments that a model would have been built with."""


RESNEXTS = {
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x8d": (101, 32, 8),
    "resnext101_64x4d": (101, 64, 4),
}


@pytest.mark.parametrize("flavour", ["official", "adelaidet", "detectron2"])
@pytest.mark.parametrize("backbone", ["resnet101", *RESNEXTS])
def test_the_larger_networks_are_found(monkeypatch, flavour, backbone):
    def from_preset(name, **arguments):
        raise SeenError(arguments)

    depth, groups, group_width = RESNEXTS.get(backbone, (101, 1, 64))
    names = getattr(published, flavour)(depth=depth, groups=groups, group_width=group_width)
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in names.items()}
    monkeypatch.setattr(checkpoints, "read_tensors", lambda path, entry: arrays)
    monkeypatch.setattr(FCOS, "from_preset", from_preset)
    with pytest.raises(SeenError) as seen:
        from_torch("a.pth", flavour=flavour)
    arguments = seen.value.args[0]
    assert arguments["backbone"] == backbone
    # configs of both repositories: ResNeXts halve the map in the 3x3; the 32x8d of detectron2's
    # model zoo was not trained with the deviation inside its first convolution.
    assert arguments.get("stride_in_3x3", False) == (backbone != "resnet101")
    std = (57.375, 57.12, 58.395)
    expected = std if backbone == "resnext101_32x8d" and flavour != "official" else None
    assert arguments.get("std") == expected


def test_grouped_kernels(tmp_path):
    names = published.adelaidet(depth=50, groups=32, group_width=4, channels=32, num_convs=1)
    path = published.save_pickle(tmp_path / "a.pkl", published.tensors(names))
    model = from_torch(path, flavour="adelaidet")
    np.testing.assert_array_equal(
        published.value_of(model, "backbone", "stage2_block1_2_conv", "kernel"),
        np.moveaxis(
            published.draw("backbone.bottom_up.res3.0.conv2.weight", (256, 8, 3, 3)), (0, 1), (3, 2)
        ),
    )
    # The stride is in the 3x3.
    assert model.backbone.get_layer("stage2_block1_2_conv").strides == (2, 2)


def test_a_partial_file(tmp_path):
    gone = ["rpn.head.bbox_pred.bias", "backbone.body.layer4.1.bn2.weight"]
    change = {**dict.fromkeys(gone), "rpn.head.extra": np.zeros(2, np.float32)}
    path = small(tmp_path / "a.pkl", "official", change)
    with pytest.raises(ValueError) as error:
        from_torch(path, flavour="official")
    lines = str(error.value).splitlines()
    assert lines[0] == (
        f"{path}: expected the tensors of this model, got 2 missing, 1 unused, 0 misshaped"
    )
    assert lines[1] == "official: settings of official_improved_coco"
    assert {f"  {name}" for name in [*gone, "rpn.head.extra"]} <= set(lines)
    model, report = convert_checkpoint(path, flavour="official")
    assert sorted(report.missing) == sorted(gone)
    assert (published.value_of(model, "head", "scale_0", "scale")) == 1  # as it was


def test_a_class_head_that_is_gone_is_missing(tmp_path):
    gone = ["head.cls_score.weight", "head.cls_score.bias"]
    path = small(tmp_path / "a.pkl", "detectron2", dict.fromkeys(gone))
    report = convert_checkpoint(path, flavour="detectron2")[1]
    assert sorted(report.missing) == sorted(gone)


def test_another_depth(tmp_path):
    path = small(tmp_path / "a.pkl", "torchvision")
    report = convert_checkpoint(path, flavour="torchvision", backbone="resnet34")[1]
    # 3, 4, 6 and 3 blocks in place of 2 each: 8 more, of two convolutions with a norm of four.
    assert len(report.missing) == 8 * 2 * 5 and not report.unused
    assert "backbone.body.layer1.2.conv1.weight" in report.missing
    report = convert_checkpoint(path, flavour="torchvision", head_convs=2)[1]
    assert len(report.missing) == 2 * 4 and "head.regression_head.conv.4.bias" in report.missing
    report = convert_checkpoint(path, flavour="torchvision", fpn_channels=64)[1]
    assert ("backbone.fpn.inner_blocks.0.0.bias", (64,), (32,)) in report.misshaped


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("asked", FLAVOURS)
def test_another_flavour(tmp_path, monkeypatch, flavour, asked):
    if flavour == asked:
        return
    arrays = {name: np.zeros(1, np.float32) for name in getattr(published, flavour)(**SMALL)}
    monkeypatch.setattr(checkpoints, "read_tensors", lambda path, entry: arrays)
    with pytest.raises(
        ValueError, match=rf"^a\.pth: expected names of {asked} .*, got those of {flavour}$"
    ):
        from_torch("a.pth", flavour=asked)


def test_corrupt_tensors_end_in_the_report(tmp_path):
    head = "proposal_generator.fcos_head"
    change = {
        f"{head}.cls_logits.bias": np.zeros((), np.float32),
        f"{head}.cls_logits.weight": np.zeros((10**9, 0, 3, 3), np.float32),
        f"{head}.cls_tower.999999999.bias": np.zeros(1, np.float32),
        "backbone.fpn_output3.weight": np.zeros((), np.float32),
        "backbone.bottom_up.res2.0.conv2.weight": np.zeros((64, 0, 3, 3), np.float32),
        "pixel_mean": np.zeros(4, np.float32),
    }
    report = convert_checkpoint(
        small(tmp_path / "a.pkl", "adelaidet", change), flavour="adelaidet"
    )[1]
    assert {each.name for each in report.misshaped} >= set(change) - set(report.unused)
    assert report.unused == [f"{head}.cls_tower.999999999.bias", "pixel_mean"]


def test_no_detector(tmp_path):
    arrays = {"conv1.weight": np.zeros((64, 3, 7, 7)), "fc.bias": np.zeros(1000)}
    path = published.save_pickle(tmp_path / "a.pkl", arrays)
    with pytest.raises(
        ValueError, match=r"cls_score\.weight or roi_heads.* got names such as conv1\.w"
    ):
        from_torch(path, flavour="detectron2")


def test_a_network_that_is_not_known(tmp_path):
    block = "backbone.bottom_up.res4.2.conv1.weight"
    path = small(tmp_path / "a.pkl", "adelaidet", {block: np.zeros((256, 256, 3, 3), np.float32)})
    with pytest.raises(ValueError, match=r"got stages of \(2, 2, 3, 2\) blocks with 1 groups of"):
        from_torch(path, flavour="adelaidet")
    report = convert_checkpoint(path, flavour="adelaidet", backbone="resnet18")[1]
    assert report.unused == [block] and not report.missing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavour": "mmdet"}, "flavour: expected one of torchvision, official, .*got 'mmdet'"),
        ({"flavour": "official", "variant": "best"}, "official improved, base, got 'best'"),
        ({"flavour": "adelaidet", "variant": "base"}, "flavour adelaidet none, got 'base'"),
        (
            {"flavour": "official", "backbone": "regnetx_400mf"},
            "backbone: expected one of resnet18, .*got 'regnetx_400mf'",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        from_torch("no.pth", **options)


def test_no_file():
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        from_torch("no.pth", flavour="official")


def test_one_of_several_state_dicts(tmp_path):
    arrays = published.tensors(published.detectron2(**SMALL))
    other = {**arrays, "head.ctrness.bias": np.array([5], np.float32)}
    path = tmp_path / "a.pkl"
    path.write_bytes(published.pickle.dumps({"model": arrays, "model_ema": other}))
    with pytest.raises(ValueError, match=r"'model_ema' .* select one by its entry"):
        from_torch(path, flavour="detectron2")
    model = from_torch(path, flavour="detectron2", entry="model_ema")
    assert published.value_of(model, "head", "centerness", "bias") == 5
