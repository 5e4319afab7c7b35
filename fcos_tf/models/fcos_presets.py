"""The settings of published FCOS detectors, as arguments of `FCOS`.

With them a checkpoint gives the detections of its own implementation, and training keeps its rules.
The base is ResNet-50; other members of a family override arguments: `backbone="resnet101"`.
"""

from typing import Any

from fcos_tf.models.detector import BACKGROUND, UNUSED

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# COCO's category ids start at 1 and leave these out; torchvision has outputs for them.
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(k for k in range(1, 91) if k not in UNUSED_IDS)


def _names_by_id() -> tuple[str, ...]:
    names = iter(COCO_CLASSES)
    return (BACKGROUND, *(UNUSED if k in UNUSED_IDS else next(names) for k in range(1, 91)))


_SHARED = {
    "backbone": "resnet50",
    "backbone_norm": "frozen",
    "frozen_stages": 2,
    "image_size": "800,1333",
    "nms_threshold": 0.6,
    "topk_per_level": 1000,
    "max_detections": 100,
}
_TORCHVISION = {
    **_SHARED,
    "class_names": _names_by_id(),
    "category_ids": tuple(range(91)),
    "rules": "torchvision",
    "stride_in_3x3": True,
    "channel_order": "rgb",
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "std": (0.229 * 255, 0.224 * 255, 0.225 * 255),
    "score_threshold": 0.2,
}
_DETECTRON2 = {
    **_SHARED,
    "class_names": COCO_CLASSES,
    "category_ids": COCO_IDS,
    "rules": "detectron2",
    "stride_in_3x3": False,
    "channel_order": "bgr",
    "mean": (103.53, 116.28, 123.675),
    "std": (1.0, 1.0, 1.0),
    "score_threshold": 0.2,
}
_ADELAIDET = {**_DETECTRON2, "rules": "adelaidet", "score_threshold": 0.05}
_OFFICIAL_IMPROVED = {
    **_ADELAIDET,
    "rules": "official_improved",
    "norm_epsilon": 0.0,
    "mean": (102.9801, 115.9465, 122.7717),
}
PRESETS: dict[str, dict[str, Any]] = {
    "torchvision_coco": _TORCHVISION,
    "official_coco": {
        **_OFFICIAL_IMPROVED,
        "rules": "official",
        "centerness_on": "class",
        "box_loss": "iou",
        "center_sampling_radius": None,
    },
    "official_improved_coco": _OFFICIAL_IMPROVED,
    "adelaidet_coco": _ADELAIDET,
    "detectron2_coco": _DETECTRON2,
}
