"""Where the published implementations of FCOS differ, besides what `FCOS` has arguments for.

None of these choices decides how good a detector gets, but weights that were trained under one
set of rules lose accuracy under another, and numbers differ. All normalise their losses by the
number of positives here; detectron2 does by a moving average of it. Sources: the paper's own code
(tianzhi0549/FCOS), AdelaiDet (adet/modeling/fcos/fcos_outputs.py), torchvision 0.28
(models/detection/fcos.py) and detectron2 (modeling/meta_arch/fcos.py).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class FCOSRules:
    """One implementation's conventions; the defaults are ours.

    Attributes:
        point_offset: where in its cell a point lies, in units of the spacing.
        point_spacing: "stride": points lie a stride apart; "canvas": padded side // grid side
            apart, which is 61 and 114 instead of 64 and 128 pixels for a side of 800. Distances
            and size ranges go by the stride in both cases.
        inclusive_ranges: whether a distance on the limit of a size range belongs to it.
        tie_area: of several boxes a point learns the smallest: by "exact" area; by (w + 1)(h + 1),
            "plus_one"; or by 1e8 - area in "float32", where areas closer than 8 are equal.
        box_activation: "relu" of the head's output are distances in strides; "exp" in pixels.
        level_scales: whether the output is multiplied by a number learnt for each level first.
        iou_plus_one: the unit, "strides" or "pixels", in which the box loss has 1 added to the
            intersection and to the union; None: nothing added.
        weight_boxes: whether the box loss is weighted by centerness.
        threshold_on: what the score threshold is compared with: the "class" probability, or the
            final "score", the root of class probability times centerness.
        clip_before_nms: whether boxes are clipped to the image before the suppression or after it,
            where those without area then go.
        inclusive_pixels: whether the last pixel belongs to a box: boxes end at side - 1, the
            suppression's IoU has sides one longer, and evaluation adds 1 to the right and lower
            sides in the original image.
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
