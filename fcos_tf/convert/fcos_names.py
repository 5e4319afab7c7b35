"""Parameter names of the published implementations of FCOS.

Sources: tianzhi0549/FCOS (fcos_core/modeling), AdelaiDet (adet/modeling/fcos/fcos.py,
adet/modeling/backbone/fpn.py), torchvision 0.28 (models/detection/fcos.py) and detectron2
(modeling/meta_arch/fcos.py, modeling/backbone).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fcos_tf.convert.names import (
    TORCHVISION_RENAMED,
    Flavour,
    detectron2_body,
    indices,
    length,
    pyramid_modules,
    torchvision_body,
)
from fcos_tf.models.fcos import FCOS


@dataclasses.dataclass(frozen=True, kw_only=True)
class FCOSNames(Flavour):
    """Names of an FCOS.

    Attributes:
        class_tower, box_tower: sequences of convolution, normalisation and ReLU.
        class_logits, ltrb, centerness: the outputs.
        scales: the list of the levels' scales, or None.
    """

    model: type[FCOS] = FCOS
    class_tower: str
    box_tower: str
    class_logits: str
    ltrb: str
    centerness: str
    scales: str | None = None

    @property
    def marks(self):
        """Modules of the head; a region proposal network has outputs of the same names."""
        return (self.class_tower, self.box_tower, self.centerness, self.class_logits)

    def find_architecture(self, tensors):
        """See `Flavour`."""
        found: dict[str, Any] = {
            "num_classes": length(tensors, self.class_logits),
            "fpn_channels": length(tensors, self.pyramid["output_p3"]),
        }
        extra = (f"{self.pyramid[layer]}." for layer in ("output_p6", "output_p7"))
        found["fpn_levels"] = 3 + sum(any(name.startswith(x) for name in tensors) for x in extra)
        if tower := indices(tensors, self.class_tower):
            # The third module is a ReLU; without normalisation it is a convolution.
            has_norm = 2 not in tower and tower != {0}
            found["head_norm"] = "group" if has_norm else "none"
            found["head_convs"] = len({index // _tower_step(has_norm) for index in tower})
        return found

    def modules(self, model):
        """See `Flavour`."""
        head = model.head
        for layer in head.class_tower + head.box_tower + head.output_layers() + head.scales:
            yield layer, self._module(layer.name, has_norm=head.norm == "group")

    def _module(self, layer: str, *, has_norm: bool) -> str:
        """The module of a layer of `layers.heads.FCOSHead`, such as "class_norm_2"."""
        if layer in ("class_logits", "ltrb", "centerness"):
            return getattr(self, layer)
        kind, index = layer.rsplit("_", 1)
        if kind == "scale":
            return f"{self.scales}.{index}"
        branch, kind = kind.split("_")
        tower = self.class_tower if branch == "class" else self.box_tower
        return f"{tower}.{_tower_step(has_norm) * int(index) + (kind == 'norm')}"

    def transforms(self, model):
        """A scale is a vector of one in PyTorch."""
        return {
            f"{self._module(scale.name, has_norm=False)}.scale": lambda tensor: tensor.reshape(())
            for scale in model.head.scales
        }


def _tower_step(has_norm: bool) -> int:
    """Modules for each convolution of a tower: itself, its normalisation, ReLU."""
    return 3 if has_norm else 2


def _official_body(name: str) -> str:
    """As torchvision's, with a module more around the stem (maskrcnn-benchmark)."""
    return f"backbone.body.{'' if name.startswith('layer') else 'stem.'}{name}"


def _pyramid(prefix: str, lateral: str, output: str, extra: str, first: int) -> dict[str, str]:
    """Modules of the pyramid; `first` is the number of P3 in a file."""
    modules = pyramid_modules((3, 4, 5), f"{prefix}.{lateral}", f"{prefix}.{output}", first)
    return modules | {f"output_p{level}": f"{prefix}.{extra}.p{level}" for level in (6, 7)}


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
FLAVOURS: dict[str, FCOSNames] = {
    "torchvision": FCOSNames(
        presets={"": "torchvision_coco"},
        body=torchvision_body,
        pyramid=_pyramid(
            "backbone.fpn", "inner_blocks.{}.0", "layer_blocks.{}.0", "extra_blocks", 0
        ),
        class_tower="head.classification_head.conv",
        box_tower="head.regression_head.conv",
        class_logits="head.classification_head.cls_logits",
        ltrb="head.regression_head.bbox_reg",
        centerness="head.regression_head.bbox_ctrness",
        renamed=TORCHVISION_RENAMED,
    ),
    "official": FCOSNames(
        presets={"improved": "official_improved_coco", "base": "official_coco"},
        body=_official_body,
        pyramid=_pyramid("backbone.fpn", "fpn_inner{}", "fpn_layer{}", "top_blocks", 2),
        **_head("rpn.head", "tower", centerness="centerness", scales="scales"),
        settings=_official_settings,
    ),
    "adelaidet": FCOSNames(
        presets={"": "adelaidet_coco"},
        body=detectron2_body,
        pyramid=_DETECTRON2_PYRAMID,
        **_head("proposal_generator.fcos_head", "tower", centerness="ctrness", scales="scales"),
        settings=_adelaidet_settings,
    ),
    "detectron2": FCOSNames(
        presets={"": "detectron2_coco"},
        body=detectron2_body,
        pyramid=_DETECTRON2_PYRAMID,
        **_head("head", "subnet", class_logits="cls_score", centerness="ctrness"),
        settings=_detectron2_settings,
        ignore=("anchor_generator.cell_anchors.*",),
    ),
}
