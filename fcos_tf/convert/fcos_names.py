"""Parameter names of the published implementations of FCOS.

A module is a parameter's name without its last part: `backbone.body.conv1` has the parameter
`backbone.body.conv1.weight`. Sources: tianzhi0549/FCOS (fcos_core/modeling), AdelaiDet
(adet/modeling/fcos/fcos.py, adet/modeling/backbone/fpn.py), torchvision 0.28
(models/detection/fcos.py) and detectron2 (modeling/meta_arch/fcos.py, modeling/backbone).
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from fcos_tf.convert.backbones import SUFFIXES, tensor_names
from fcos_tf.models.fcos import FCOS

_PARAMETERS = {**SUFFIXES, "bias": "bias", "scale": "scale"}


@dataclasses.dataclass(frozen=True)
class Flavour:
    """Names of one implementation, and the settings of its checkpoints.

    Attributes:
        presets: variant -> key of `models.fcos_presets.PRESETS`; the first is the default.
        body: name of a ResNet's parameter in torchvision's classifiers -> in the detector.
        pyramid: layer of `layers.fpn.FeaturePyramid` -> module.
        class_tower, box_tower: sequences of convolution, normalisation and ReLU.
        class_logits, ltrb, centerness: the outputs.
        scales: the list of the levels' scales, or None.
        settings: arguments of `FCOS` found in a file -> further arguments that replace the
            preset's for such a checkpoint.
        ignore: shell patterns of tensors that are no weights.
        renamed: a pattern of names in files of older versions, and its replacement.
    """

    presets: Mapping[str, str]
    body: Callable[[str], str]
    pyramid: Mapping[str, str]
    class_tower: str
    box_tower: str
    class_logits: str
    ltrb: str
    centerness: str
    scales: str | None = None
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda found: {}
    ignore: Sequence[str] = ()
    renamed: tuple[str, str] | None = None

    def head(self, layer: str, *, has_norm: bool) -> str:
        """The module of a layer of `layers.heads.FCOSHead`, such as "class_norm_2"."""
        if layer in ("class_logits", "ltrb", "centerness"):
            return getattr(self, layer)
        kind, index = layer.rsplit("_", 1)
        if kind == "scale":
            return f"{self.scales}.{index}"
        branch, kind = kind.split("_")
        tower = self.class_tower if branch == "class" else self.box_tower
        return f"{tower}.{tower_step(has_norm) * int(index) + (kind == 'norm')}"


def tower_step(has_norm: bool) -> int:
    """Modules for each convolution of a tower: itself, its normalisation, ReLU."""
    return 3 if has_norm else 2


def parameters(flavour: Flavour, model: FCOS) -> Iterator[tuple[keras.Variable, str]]:
    """Every variable of a detector with a ResNet and its name in files of a flavour."""
    body = tensor_names(model.backbone, "torchvision")
    for variable in model.backbone.weights:
        yield variable, flavour.body(body[variable.path])
    fpn, head = model.fpn, model.head
    outputs = [head.class_logits, head.ltrb, head.centerness]
    pyramid = fpn.laterals + fpn.output_convs + fpn.extra_convs
    modules = [(layer, flavour.pyramid[layer.name]) for layer in pyramid]
    for layer in head.class_tower + head.box_tower + outputs + head.scales:
        modules.append((layer, flavour.head(layer.name, has_norm=head.norm == "group")))
    for layer, module in modules:
        for variable in layer.weights:
            yield variable, f"{module}.{_PARAMETERS[variable.name]}"


def _official_body(name: str) -> str:
    """As torchvision's, with a module more around the stem (maskrcnn-benchmark)."""
    return f"backbone.body.{'' if name.startswith('layer') else 'stem.'}{name}"


def _detectron2_body(name: str) -> str:
    """Stages start at res2, and a norm is part of its convolution."""
    if name.startswith("layer"):
        stage, rest = name.removeprefix("layer").split(".", 1)
        name = f"res{int(stage) + 1}.{rest}"
    else:
        name = f"stem.{name}"
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return f"backbone.bottom_up.{name}"


def _pyramid(prefix: str, lateral: str, output: str, extra: str, first: int) -> dict[str, str]:
    """Modules of the pyramid; `first` is the number of P3 in a file."""
    modules = {f"output_p{level}": f"{prefix}.{extra}.p{level}" for level in (6, 7)}
    for level in (3, 4, 5):
        modules[f"lateral_p{level}"] = f"{prefix}.{lateral.format(level - 3 + first)}"
        modules[f"output_p{level}"] = f"{prefix}.{output.format(level - 3 + first)}"
    return modules


def _head(prefix: str, tower: str, **outputs: str) -> dict[str, str]:
    """Modules of a head whose parts share a prefix."""
    towers = {"class_tower": f"cls_{tower}", "box_tower": f"bbox_{tower}"}
    parts = {**towers, "class_logits": "cls_logits", "ltrb": "bbox_pred", **outputs}
    return {part: f"{prefix}.{name}" for part, name in parts.items()}


def _official_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """The ResNets are MSRA's, the ResNeXts come from Torch (configs/fcos/*.yaml)."""
    return {"stride_in_3x3": True} if found["backbone"].startswith("resnext") else {}


def _detectron2_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """One ResNeXt keeps the pixel deviation outside its first convolution."""
    settings = _official_settings(found)
    if found["backbone"] == "resnext101_32x8d":
        settings["std"] = (57.375, 57.12, 58.395)
    return settings


def _adelaidet_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """As detectron2's; three levels mark the real-time models (configs/FCOS-Detection)."""
    settings = _detectron2_settings(found)
    if found.get("fpn_levels") == 3:
        settings["image_size"] = "512,736"
    return settings


_DETECTRON2_PYRAMID = _pyramid("backbone", "fpn_lateral{}", "fpn_output{}", "top_block", 3)
FLAVOURS = {
    "torchvision": Flavour(
        presets={"": "torchvision_coco"},
        body="backbone.body.{}".format,
        pyramid=_pyramid(
            "backbone.fpn", "inner_blocks.{}.0", "layer_blocks.{}.0", "extra_blocks", 0
        ),
        class_tower="head.classification_head.conv",
        box_tower="head.regression_head.conv",
        class_logits="head.classification_head.cls_logits",
        ltrb="head.regression_head.bbox_reg",
        centerness="head.regression_head.bbox_ctrness",
        # Before torchvision 0.13 there were no activations, so no sequences (ops/
        # feature_pyramid_network.py).
        renamed=(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    ),
    "official": Flavour(
        presets={"improved": "official_improved_coco", "base": "official_coco"},
        body=_official_body,
        pyramid=_pyramid("backbone.fpn", "fpn_inner{}", "fpn_layer{}", "top_blocks", 2),
        **_head("rpn.head", "tower", centerness="centerness", scales="scales"),
        settings=_official_settings,
    ),
    "adelaidet": Flavour(
        presets={"": "adelaidet_coco"},
        body=_detectron2_body,
        pyramid=_DETECTRON2_PYRAMID,
        **_head("proposal_generator.fcos_head", "tower", centerness="ctrness", scales="scales"),
        settings=_adelaidet_settings,
    ),
    "detectron2": Flavour(
        presets={"": "detectron2_coco"},
        body=_detectron2_body,
        pyramid=_DETECTRON2_PYRAMID,
        **_head("head", "subnet", class_logits="cls_score", centerness="ctrness"),
        settings=_detectron2_settings,
        ignore=("anchor_generator.cell_anchors.*",),
    ),
}
