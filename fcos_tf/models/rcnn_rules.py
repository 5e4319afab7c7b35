"""Differences between the published implementations of Faster R-CNN, by name.

Sources: torchvision 0.28 (models/detection/{rpn,roi_heads,faster_rcnn,anchor_utils}.py), detectron2
(modeling/proposal_generator, modeling/roi_heads) and the detector of the course EECS 498/598.
"""

import dataclasses
import math

import numpy as np

# `match_by_iou` takes an IoU on `high` as positive, and one on `low` as not background.
_ABOVE_3, _ABOVE_5 = (float(np.nextafter(np.float32(x), np.float32(1))) for x in (0.3, 0.5))


@dataclasses.dataclass(frozen=True)
class RCNNRules:
    """One implementation's conventions; the defaults are ours.

    Attributes:
        rpn_convs: 3x3 convolutions of the RPN.
        fpn_norm: after each convolution of the pyramid, "none" or "batch".
        box_convs: convolutions of the box head.
        box_norm: after each of them, "none" or "batch".
        box_fcs: fully connected layers of the box head, after the convolutions.
        head_init: initial weights of the box head, a key of `layers.box_head.INITS`.
        rounded_anchors: whether the sides of anchors are whole numbers.
        anchor_offset: position of an anchor's centre in its cell, in units of the spacing.
        anchor_spacing: "stride", or "canvas": padded side // grid side.
        rpn_high: least IoU of a positive anchor.
        rpn_low: IoU below which an anchor is background; those between are ignored.
        low_quality: whether the best anchors of a box are positive below `rpn_high` too.
        anchors_per_image: sample of anchors that the RPN learns, at most half of them positive.
        rpn_normaliser: of the losses of the RPN: "sampled" anchors, or "all": `anchors_per_image`
            of every image, however few there are.
        proposals_per_level: candidates of a level that reach NMS, in training and in detection.
        num_proposals: R, proposals of an image after NMS, in training and in detection.
        least_side: of a proposal, in pixels.
        order_by: "probability" of a proposal, where high ones tie in float32, or "logit".
        roi_overlap: least IoU of a proposal that is no background.
        rois_per_image: sample of proposals that the box head learns, a quarter positive at most.
        sampling_ratio: RoIAlign's samples along a side of a bin; 0: of about one cell each.
        aligned: whether RoIAlign shifts by half a cell.
        level_epsilon: rounding of the level of a proposal, see `ops.roi_align.box_levels`.
        box_weights: factors of the deltas of the box head; those of the RPN have 1.
        delta_limit: largest dw and dh.
        box_beta: of both smooth L1 losses; 0: L1.
        least_detection_side: in pixels; 0: boxes without area are dropped after the best
            `max_detections` are chosen.
        best_class_only: whether a proposal is detected as its most probable class only.
    """

    rpn_convs: int = 1
    fpn_norm: str = "none"
    box_convs: int = 0
    box_norm: str = "none"
    box_fcs: int = 2
    head_init: str = "detectron2"
    rounded_anchors: bool = False
    anchor_offset: float = 0.5
    anchor_spacing: str = "stride"
    rpn_high: float = 0.7
    rpn_low: float = 0.3
    low_quality: bool = True
    anchors_per_image: int = 256
    rpn_normaliser: str = "sampled"
    proposals_per_level: tuple[int, int] = (2000, 1000)
    num_proposals: tuple[int, int] = (1000, 1000)
    least_side: float = 1e-3
    order_by: str = "logit"
    roi_overlap: float = 0.5
    rois_per_image: int = 512
    sampling_ratio: int = 2
    aligned: bool = True
    level_epsilon: str = "torchvision"
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    delta_limit: float = math.log(1000 / 16)
    box_beta: float = 1 / 9
    least_detection_side: float = 1e-2
    best_class_only: bool = False


_TORCHVISION = RCNNRules(
    head_init="torchvision",
    rounded_anchors=True,
    anchor_offset=0.0,
    anchor_spacing="canvas",
    num_proposals=(2000, 1000),
    order_by="probability",
    aligned=False,
)

RULES = {
    "fcos_tf": RCNNRules(),
    "torchvision": _TORCHVISION,
    "torchvision_v2": dataclasses.replace(
        _TORCHVISION, rpn_convs=2, fpn_norm="batch", box_convs=4, box_norm="batch", box_fcs=1
    ),
    "detectron2": RCNNRules(
        anchor_offset=0.0,
        rpn_normaliser="all",
        least_side=1e-12,
        sampling_ratio=0,
        level_epsilon="detectron2",
        box_beta=0.0,
        least_detection_side=0.0,
    ),
    # It draws the samples of a whole batch at once; here every image has its own.
    "course": RCNNRules(
        rpn_convs=2,
        box_convs=2,
        box_fcs=0,
        head_init="normal",
        rpn_high=0.6,
        rpn_low=_ABOVE_3,
        low_quality=False,
        anchors_per_image=16,
        rpn_normaliser="all",
        proposals_per_level=(400, 400),
        num_proposals=(100, 100),
        least_side=0.0,
        roi_overlap=_ABOVE_5,
        rois_per_image=32,
        sampling_ratio=0,
        level_epsilon="none",
        box_weights=(1.0, 1.0, 1.0, 1.0),
        delta_limit=math.log(224 / 8),
        box_beta=0.0,
        best_class_only=True,
    ),
}
