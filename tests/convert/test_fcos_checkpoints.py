"""Published FCOS checkpoints: every tensor lands where it belongs, every setting comes along."""

import numpy as np
import pytest

from fcos_tf.convert import convert_checkpoint
from fcos_tf.models.fcos_presets import COCO_CLASSES
from tests.convert import fcos_parameter_names as published

# Where some tensors of each flavour belong: part of the model, layer, variable; tensor, its shape.
# An R-50's stage 3 has six blocks; block 1 of each has the shortcut.
TORCHVISION = [
    ("backbone", "stem_conv", "kernel", "backbone.body.conv1.weight", (64, 3, 7, 7)),
    ("backbone", "stem_norm", "moving_variance", "backbone.body.bn1.running_var", (64,)),
    ("backbone", "stage3_block6_2_conv", "kernel", "backbone.body.layer3.5.conv2.weight",
     (256, 256, 3, 3)),
    ("backbone", "stage4_block1_shortcut_conv", "kernel",
     "backbone.body.layer4.0.downsample.0.weight", (2048, 1024, 1, 1)),
    ("backbone", "stage2_block1_shortcut_norm", "beta", "backbone.body.layer2.0.downsample.1.bias",
     (512,)),
    ("backbone", "stage1_block3_1_norm", "moving_mean", "backbone.body.layer1.2.bn1.running_mean",
     (64,)),
    ("fpn", "lateral_p3", "kernel", "backbone.fpn.inner_blocks.0.0.weight", (256, 512, 1, 1)),
    ("fpn", "lateral_p5", "bias", "backbone.fpn.inner_blocks.2.0.bias", (256,)),
    ("fpn", "output_p4", "kernel", "backbone.fpn.layer_blocks.1.0.weight", (256, 256, 3, 3)),
    ("fpn", "output_p6", "kernel", "backbone.fpn.extra_blocks.p6.weight", (256, 256, 3, 3)),
    ("fpn", "output_p7", "bias", "backbone.fpn.extra_blocks.p7.bias", (256,)),
    ("head", "class_conv_0", "kernel", "head.classification_head.conv.0.weight",
     (256, 256, 3, 3)),
    ("head", "class_norm_2", "gamma", "head.classification_head.conv.7.weight", (256,)),
    ("head", "box_conv_3", "bias", "head.regression_head.conv.9.bias", (256,)),
    ("head", "box_norm_3", "beta", "head.regression_head.conv.10.bias", (256,)),
    ("head", "class_logits", "kernel", "head.classification_head.cls_logits.weight",
     (91, 256, 3, 3)),
    ("head", "ltrb", "kernel", "head.regression_head.bbox_reg.weight", (4, 256, 3, 3)),
    ("head", "centerness", "bias", "head.regression_head.bbox_ctrness.bias", (1,)),
]  # fmt: skip
OFFICIAL = [
    ("backbone", "stem_conv", "kernel", "backbone.body.stem.conv1.weight", (64, 3, 7, 7)),
    ("backbone", "stem_norm", "gamma", "backbone.body.stem.bn1.weight", (64,)),
    ("backbone", "stage4_block3_3_norm", "moving_variance",
     "backbone.body.layer4.2.bn3.running_var", (2048,)),
    ("backbone", "stage1_block1_shortcut_conv", "kernel",
     "backbone.body.layer1.0.downsample.0.weight", (256, 64, 1, 1)),
    ("fpn", "lateral_p3", "kernel", "backbone.fpn.fpn_inner2.weight", (256, 512, 1, 1)),
    ("fpn", "lateral_p5", "bias", "backbone.fpn.fpn_inner4.bias", (256,)),
    ("fpn", "output_p3", "kernel", "backbone.fpn.fpn_layer2.weight", (256, 256, 3, 3)),
    ("fpn", "output_p5", "bias", "backbone.fpn.fpn_layer4.bias", (256,)),
    ("fpn", "output_p7", "kernel", "backbone.fpn.top_blocks.p7.weight", (256, 256, 3, 3)),
    ("head", "class_conv_1", "kernel", "rpn.head.cls_tower.3.weight", (256, 256, 3, 3)),
    ("head", "box_norm_0", "gamma", "rpn.head.bbox_tower.1.weight", (256,)),
    ("head", "class_logits", "bias", "rpn.head.cls_logits.bias", (80,)),
    ("head", "ltrb", "bias", "rpn.head.bbox_pred.bias", (4,)),
    ("head", "centerness", "kernel", "rpn.head.centerness.weight", (1, 256, 3, 3)),
    ("head", "scale_0", "scale", "rpn.head.scales.0.scale", (1,)),
    ("head", "scale_4", "scale", "rpn.head.scales.4.scale", (1,)),
]  # fmt: skip
BODY_OF_DETECTRON2 = [
    ("backbone", "stem_conv", "kernel", "backbone.bottom_up.stem.conv1.weight", (64, 3, 7, 7)),
    ("backbone", "stem_norm", "moving_mean",
     "backbone.bottom_up.stem.conv1.norm.running_mean", (64,)),
    ("backbone", "stage1_block1_shortcut_norm", "gamma",
     "backbone.bottom_up.res2.0.shortcut.norm.weight", (256,)),
    ("backbone", "stage4_block1_shortcut_conv", "kernel",
     "backbone.bottom_up.res5.0.shortcut.weight", (2048, 1024, 1, 1)),
    ("backbone", "stage3_block6_1_conv", "kernel", "backbone.bottom_up.res4.5.conv1.weight",
     (256, 1024, 1, 1)),
    ("backbone", "stage2_block4_2_norm", "beta", "backbone.bottom_up.res3.3.conv2.norm.bias",
     (128,)),
    ("fpn", "lateral_p4", "kernel", "backbone.fpn_lateral4.weight", (256, 1024, 1, 1)),
    ("fpn", "output_p3", "bias", "backbone.fpn_output3.bias", (256,)),
    ("fpn", "output_p6", "kernel", "backbone.top_block.p6.weight", (256, 256, 3, 3)),
]  # fmt: skip
ADELAIDET = [
    *BODY_OF_DETECTRON2,
    ("head", "class_conv_3", "kernel", "proposal_generator.fcos_head.cls_tower.9.weight",
     (256, 256, 3, 3)),
    ("head", "box_norm_1", "beta", "proposal_generator.fcos_head.bbox_tower.4.bias", (256,)),
    ("head", "class_logits", "kernel", "proposal_generator.fcos_head.cls_logits.weight",
     (80, 256, 3, 3)),
    ("head", "ltrb", "bias", "proposal_generator.fcos_head.bbox_pred.bias", (4,)),
    ("head", "centerness", "bias", "proposal_generator.fcos_head.ctrness.bias", (1,)),
    ("head", "scale_2", "scale", "proposal_generator.fcos_head.scales.2.scale", (1,)),
]  # fmt: skip
DETECTRON2 = [
    *BODY_OF_DETECTRON2,
    ("head", "class_norm_3", "gamma", "head.cls_subnet.10.weight", (256,)),
    ("head", "box_conv_2", "kernel", "head.bbox_subnet.6.weight", (256, 256, 3, 3)),
    ("head", "class_logits", "bias", "head.cls_score.bias", (80,)),
    ("head", "ltrb", "kernel", "head.bbox_pred.weight", (4, 256, 3, 3)),
    ("head", "centerness", "kernel", "head.ctrness.weight", (1, 256, 3, 3)),
]

CAFFE = {"channel_order": "bgr", "std": (1.0, 1.0, 1.0), "stride_in_3x3": False}
ALL = {
    "backbone": "resnet50", "backbone_norm": "frozen", "frozen_stages": 2, "fpn_levels": 5,
    "fpn_channels": 256, "head_convs": 4, "head_norm": "group", "quality": "centerness",
    "image_size": "800,1333", "nms_threshold": 0.6, "topk_per_level": 1000, "max_detections": 100,
}  # fmt: skip
# Of each flavour: how its files are stored, what it means, tensors in the file, places to look at.
# Tensors: 53 convolutions of an R-50 and 4 of each of their norms, 8 of the pyramid with bias, 8 of
# the towers with bias and 8 norms of 2, 3 outputs with bias: 265 + 16 + 16 + 16 + 6 = 319, and
# five scales.
FLAVOURS = {
    "torchvision": (
        lambda path, arrays: published.save_zip(path, arrays),
        {"rules": "torchvision", "stride_in_3x3": True, "channel_order": "rgb",
         "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "norm_epsilon": 1e-5,
         "score_threshold": 0.2, "centerness_on": "box"},
        319, TORCHVISION,
    ),
    "official": (
        lambda path, arrays: published.save_legacy(
            path, arrays, iteration=published.p.number(90000)
        ),
        {"rules": "official_improved", "mean": (102.9801, 115.9465, 122.7717), "norm_epsilon": 0.0,
         "score_threshold": 0.05, "centerness_on": "box", "box_loss": "giou", **CAFFE},
        324, OFFICIAL,
    ),
    "adelaidet": (
        lambda path, arrays: published.save_zip(
            path, arrays, iteration=published.p.number(90000)
        ),
        {"rules": "adelaidet", "mean": (103.53, 116.28, 123.675), "norm_epsilon": 1e-5,
         "score_threshold": 0.05, "centerness_on": "box", **CAFFE},
        324, ADELAIDET,
    ),
    "detectron2": (
        published.save_pickle,
        {"rules": "detectron2", "mean": (103.53, 116.28, 123.675), "norm_epsilon": 1e-5,
         "score_threshold": 0.2, "centerness_on": "box", **CAFFE},
        319, DETECTRON2,
    ),
}  # fmt: skip


def number_of(shape):
    return int(np.prod(shape))


@pytest.fixture(scope="module", params=FLAVOURS)
def converted(request, tmp_path_factory):
    """A file of a whole R-50 of each flavour: (flavour, model, report)."""
    save, *_ = FLAVOURS[request.param]
    suffix = ".pkl" if request.param == "detectron2" else ".pth"
    path = tmp_path_factory.mktemp("published") / f"model{suffix}"
    save(path, published.tensors(getattr(published, request.param)()))
    model, report = convert_checkpoint(path, flavour=request.param)
    path.unlink()  # 130 MB
    return request.param, model, report


def test_the_names_are_those_of_the_published_detectors():
    # Parameters of torchvision's FCOS with frozen batch norm, whose numbers are no parameters.
    names = published.torchvision()
    frozen = [n for n in names if ".bn" in n or "downsample.1" in n]
    total = sum(number_of(shape) for name, shape in names.items() if name not in frozen)
    assert total == 32_269_600
    # The others have 80 classes in place of 91, each of 256 x 3 x 3 numbers and a bias.
    without = {n: s for n, s in published.detectron2().items() if ".norm." not in n}
    assert sum(map(number_of, without.values())) == 32_269_600 - 11 * (256 * 9 + 1)
    assert len(published.official()) == len(published.adelaidet()) == 324


def test_the_names_are_those_of_torchvision():
    pytest.importorskip("torch")
    from benchmarks.torchvision_peer import import_torchvision

    _, torchvision = import_torchvision()
    peer = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    shapes = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    assert shapes == published.torchvision()


def test_every_tensor_is_used(converted):
    flavour, _, report = converted
    assert report.is_complete, report
    assert len(report.used) == FLAVOURS[flavour][2]
    # One num_batches_tracked for each of the 53 norms.
    assert len(report.ignored) == (53 if flavour == "torchvision" else 0)


def test_every_tensor_is_where_it_belongs(converted):
    flavour, model, _ = converted
    for part, layer, variable, name, shape in FLAVOURS[flavour][3]:
        expected = published.draw(name, shape)
        if len(shape) == 4:  # [out, in, height, width] to [height, width, in, out]
            expected = np.moveaxis(expected, (0, 1), (3, 2))
        elif variable == "scale":
            expected = expected[0]
        np.testing.assert_array_equal(
            published.value_of(model, part, layer, variable), expected, err_msg=f"{layer} {name}"
        )


def test_every_setting_comes_along(converted):
    flavour, model, report = converted
    expected = {**ALL, **FLAVOURS[flavour][1]}
    settings = published.settings_of(model)
    assert {name: settings[name] for name in expected} == expected
    assert model.num_classes == (91 if flavour == "torchvision" else 80)
    if flavour == "torchvision":  # COCO's ids: 1 is a person, 90 a toothbrush, 12 nothing
        assert model.class_names[1] == "person" and model.class_names[90] == "toothbrush"
        assert model.class_names[0] == "__background__" and model.class_names[12] == "N/A"
    else:
        assert model.class_names == COCO_CLASSES
    epsilon = model.backbone.get_layer("stage4_block3_3_norm").epsilon
    assert epsilon == expected["norm_epsilon"]
    variant = "_improved" if flavour == "official" else ""
    assert report.notes[0] == f"{flavour}: settings of {flavour}{variant}_coco"
    assert "backbone=resnet50" in report.notes[1] and "fpn_levels=5" in report.notes[1]
    assert len(report.notes) == 2
