"""Differences between the published implementations of FCOS that are no arguments of `FCOS`.

None of them decides the accuracy of a detector, but weights trained under one set of rules lose
accuracy under another. The loss normaliser is the number of positives under all rules; detectron2
itself takes a moving average of it. Sources: the paper's own code (tianzhi0549/FCOS), AdelaiDet
(adet/modeling/fcos/fcos_outputs.py), torchvision 0.28 (models/detection/fcos.py) and detectron2
(modeling/meta_arch/fcos.py).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class FCOSRules:
    """One implementation's conventions; the defaults are ours.

    Attributes:
        point_offset: position of a point in its cell, in units of the spacing.
        point_spacing: "stride", or "canvas": padded side // grid side, for a side of 800 61 and
            114 instead of 64 and 128 pixels. Distances and size ranges go by the stride always.
        inclusive_ranges: whether the limits of a size range belong to it.
        tie_area: area by which the smallest of several boxes wins: "exact"; "plus_one",
            (w + 1)(h + 1); or "float32", 1e8 - area, where areas closer than 8 are equal.
        box_activation: "relu", distances in strides, or "exp", in pixels.
        level_scales: whether a learnt scale of the level comes before the activation.
        iou_plus_one: the unit, "strides" or "pixels", in which the box loss adds 1 to the
            intersection and to the union; None: nothing added.
        weight_boxes: whether the box loss is weighted by centerness.
        threshold_on: quantity of the score threshold: the "class" probability, or the final
            "score", the root of class probability times centerness.
        clip_before_nms: whether boxes are clipped to the image before NMS; otherwise after it,
            and those without area are dropped.
        inclusive_pixels: whether the last pixel belongs to a box: boxes end at side - 1, the IoU
            of NMS takes sides as one longer, and x2 and y2 in the original image get 1 more.
    """

    point_offset: float = 0.5
    point_spacing: str = "stride"
    inclusive_ranges: bool = True
    tie_area: str = "exact"
    box_activation: str = "relu"
    level_scales: bool = True
    iou_plus_one: str | None = None
    weight_boxes: bool = True
    threshold_on: str = "class"
    clip_before_nms: bool = True
    inclusive_pixels: bool = False


_OFFICIAL = FCOSRules(tie_area="plus_one", inclusive_pixels=True)
_DETECTRON2 = FCOSRules(
    inclusive_ranges=False,
    tie_area="float32",
    level_scales=False,
    weight_boxes=False,
    threshold_on="score",
    clip_before_nms=False,
)

RULES = {
    "fcos_tf": FCOSRules(),
    "official": dataclasses.replace(_OFFICIAL, box_activation="exp", iou_plus_one="pixels"),
    "official_improved": dataclasses.replace(_OFFICIAL, iou_plus_one="strides"),
    "adelaidet": FCOSRules(iou_plus_one="strides", clip_before_nms=False),
    "torchvision": dataclasses.replace(
        _DETECTRON2, point_offset=0.0, point_spacing="canvas", clip_before_nms=True
    ),
    "detectron2": _DETECTRON2,
}
