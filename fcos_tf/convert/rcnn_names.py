"""Parameter names of the published implementations of Faster R-CNN.

Sources: torchvision 0.28 (models/detection/faster_rcnn.py, rpn.py, roi_heads.py) and detectron2
(modeling/proposal_generator/rpn.py, modeling/roi_heads, modeling/backbone/fpn.py).
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from fcos_tf.convert.names import (
    TORCHVISION_RENAMED,
    Flavour,
    detectron2_body,
    length,
    pyramid_modules,
    torchvision_body,
)
from fcos_tf.convert.report import to_keras
from fcos_tf.models.faster_rcnn import ROI_SIZE, FasterRCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class RCNNNames(Flavour):
    """Names of a Faster R-CNN.

    Attributes:
        rpn_conv: a convolution of the RPN, by its number from 0.
        objectness, anchor_deltas: the outputs of the RPN.
        box_conv: a convolution of the box head.
        box_fc: a fully connected layer, by its number and the number of convolutions.
        class_logits, box_deltas: the outputs of the box head.
        norm_of: module of a convolution -> of its norm.
        background_first: whether the background is the first class, with box deltas of its own;
            here it is the last, without.
    """

    model: type[FasterRCNN] = FasterRCNN
    rpn_conv: Callable[[int], str]
    objectness: str
    anchor_deltas: str
    box_conv: Callable[[int], str]
    box_fc: Callable[[int, int], str]
    class_logits: str
    box_deltas: str
    norm_of: Callable[[str], str]
    background_first: bool = False

    @property
    def marks(self):
        """The outputs of the box head."""
        return (self.box_deltas, self.class_logits)

    def find_variant(self, tensors):
        """With a second convolution in the RPN it is the second version."""
        first = next(iter(self.presets))
        return "v2" if f"{self.rpn_conv(1)}.weight" in tensors and "v2" in self.presets else first

    def find_architecture(self, tensors):
        """See `Flavour`."""
        count = length(tensors, self.class_logits)
        convs = sum(f"{self.box_conv(k)}.weight" in tensors for k in range(8))
        return {
            "num_classes": None if count is None else count - 1,
            "fpn_channels": length(tensors, self.pyramid["output_p3"]),
            "fc_channels": length(tensors, self.box_fc(0, convs)),
        }

    def modules(self, model):
        """See `Flavour`."""
        for conv, norm in model.fpn.norms.items():
            yield norm, self.norm_of(self.pyramid[conv])
        rpn, box = model.rpn_head, model.box_head
        yield from ((conv, self.rpn_conv(k)) for k, conv in enumerate(rpn.convs))
        yield from ((rpn.objectness, self.objectness), (rpn.deltas, self.anchor_deltas))
        yield from ((conv, self.box_conv(k)) for k, conv in enumerate(box.convs))
        yield from ((norm, self.norm_of(self.box_conv(k))) for k, norm in enumerate(box.norms))
        yield from ((fc, self.box_fc(k, len(box.convs))) for k, fc in enumerate(box.fcs))
        yield from ((box.class_logits, self.class_logits), (box.box_deltas, self.box_deltas))

    def transforms(self, model):
        """See `Flavour`."""
        found = {f"{self.box_fc(0, len(model.box_head.convs))}.weight": _flattened_to_keras}
        if self.background_first:
            for end in ("weight", "bias"):
                found[f"{self.class_logits}.{end}"] = _background_to_the_end
                found[f"{self.box_deltas}.{end}"] = _without_background
        return found


def _flattened_to_keras(tensor: np.ndarray) -> np.ndarray:
    """PyTorch flattens [C, H, W], Keras [H, W, C]: [units, C * H * W] -> [H * W * C, units]."""
    maps = tensor.reshape(len(tensor), -1, ROI_SIZE, ROI_SIZE)
    return maps.transpose(2, 3, 1, 0).reshape(-1, len(tensor))


def _background_to_the_end(tensor: np.ndarray) -> np.ndarray:
    return to_keras(np.roll(tensor, -1, axis=0))


def _without_background(tensor: np.ndarray) -> np.ndarray:
    """Of each class four rows; the background's are never used."""
    return to_keras(tensor[4:])


FLAVOURS: dict[str, RCNNNames] = {
    "torchvision": RCNNNames(
        presets={"": "torchvision_coco", "v2": "torchvision_v2_coco"},
        body=torchvision_body,
        pyramid=pyramid_modules(
            range(2, 6), "backbone.fpn.inner_blocks.{}.0", "backbone.fpn.layer_blocks.{}.0", 0
        ),
        rpn_conv="rpn.head.conv.{}.0".format,
        objectness="rpn.head.cls_logits",
        anchor_deltas="rpn.head.bbox_pred",
        box_conv="roi_heads.box_head.{}.0".format,
        # Convolutions, a flattening, fc; in the first version the two have names.
        box_fc=lambda k, convs: f"roi_heads.box_head.{convs + 1 if convs else f'fc{6 + k}'}",
        class_logits="roi_heads.box_predictor.cls_score",
        box_deltas="roi_heads.box_predictor.bbox_pred",
        norm_of=lambda conv: re.sub(r"\.0$", ".1", conv),
        background_first=True,
        renamed=TORCHVISION_RENAMED,
    ),
    "detectron2": RCNNNames(
        presets={"": "detectron2_3x_coco"},
        body=detectron2_body,
        pyramid=pyramid_modules(range(2, 6), "backbone.fpn_lateral{}", "backbone.fpn_output{}", 2),
        rpn_conv=lambda k: f"proposal_generator.rpn_head.conv{f'.conv{k}' if k else ''}",
        objectness="proposal_generator.rpn_head.objectness_logits",
        anchor_deltas="proposal_generator.rpn_head.anchor_deltas",
        box_conv=lambda k: f"roi_heads.box_head.conv{k + 1}",
        box_fc=lambda k, convs: f"roi_heads.box_head.fc{k + 1}",
        class_logits="roi_heads.box_predictor.cls_score",
        box_deltas="roi_heads.box_predictor.bbox_pred",
        norm_of="{}.norm".format,
        ignore=("proposal_generator.anchor_generator.cell_anchors.*",),
    ),
}
