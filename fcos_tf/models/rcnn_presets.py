"""The settings of published Faster R-CNN detectors, as arguments of `FasterRCNN`.

Their published AP on COCO val2017:

    torchvision_coco        37.0    fasterrcnn_resnet50_fpn
    torchvision_v2_coco     46.7    fasterrcnn_resnet50_fpn_v2
    detectron2_1x_coco      37.9    COCO-Detection/faster_rcnn_R_50_FPN_1x
    detectron2_3x_coco      40.2    COCO-Detection/faster_rcnn_R_50_FPN_3x
"""

from typing import Any

from fcos_tf.models.fcos_presets import PRESETS as FCOS_PRESETS

_SHARED = ("backbone", "image_size", "max_detections", "stride_in_3x3", "channel_order", "mean")
_SHARED += ("std", "backbone_norm", "frozen_stages", "class_names", "category_ids")


def _as_fcos(name: str, **settings: Any) -> dict[str, Any]:
    """What detectors of one library have in common."""
    shared = {key: FCOS_PRESETS[name][key] for key in _SHARED}
    return {**shared, "score_threshold": 0.05, "nms_threshold": 0.5, **settings}


_TORCHVISION = _as_fcos("torchvision_coco", rules="torchvision")
# The background is no class here; it has the last logit.
_TORCHVISION |= {key: _TORCHVISION[key][1:] for key in ("class_names", "category_ids")}
_DETECTRON2 = _as_fcos("detectron2_coco", rules="detectron2")

PRESETS: dict[str, dict[str, Any]] = {
    # The batch norms of its COCO weights have no epsilon.
    "torchvision_coco": {**_TORCHVISION, "norm_epsilon": 0.0},
    "torchvision_v2_coco": {
        **_TORCHVISION,
        "rules": "torchvision_v2",
        "backbone_norm": "batch",
    },
    "detectron2_1x_coco": _DETECTRON2,
    "detectron2_3x_coco": _DETECTRON2,
}
