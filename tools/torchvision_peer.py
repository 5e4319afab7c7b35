"""torchvision's FCOS with the sizes of ours, to be timed beside it; needs the extra `parity`."""

import numpy as np


def import_torchvision():
    """Imports torchvision also where its compiled operators do not load (CPU builds of PyTorch).

    Returns:
        (torch, torchvision)

    Raises:
        ValueError: if they are not installed.
    """
    try:
        import torch
    except ImportError:
        raise ValueError(
            "--peer=torchvision: expected torch; pip install 'fcos_tf[parity]'"
        ) from None
    try:
        import torchvision
    except RuntimeError:
        # The import registers shape functions for operators that the missing library declares.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", _nms, "CPU")
        import_torchvision.library = library  # operators live as long as their library object
        import torchvision
    return torch, torchvision


def _nms(boxes, scores, iou_threshold):
    """Greedy suppression, for the one operator that inference needs."""
    import torch
    from torchvision.ops import box_iou

    order = scores.argsort(descending=True, stable=True)
    overlaps = box_iou(boxes, boxes) > iou_threshold
    suppressed = torch.zeros(len(boxes), dtype=torch.bool)
    keep = []
    for index in order.tolist():
        if not suppressed[index]:
            keep.append(index)
            suppressed |= overlaps[index]
    return torch.tensor(keep, dtype=torch.int64)


class Peer:
    """torchvision's FCOS on a ResNet, with random weights and trained batch norm.

    Args:
        backbone: "resnet18" and so on.
        num_classes: C.
        image_size: (height, width) of the images it will see.
    """

    def __init__(self, backbone: str, num_classes: int, image_size: tuple[int, int]):
        torch, torchvision = import_torchvision()
        from torchvision.models.detection import FCOS
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        body = resnet_fpn_backbone(
            backbone_name=backbone,
            weights=None,
            norm_layer=torch.nn.BatchNorm2d,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        self.torch = torch
        self.version = torchvision.__version__
        self.model = FCOS(body, num_classes, min_size=min(image_size), max_size=max(image_size))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4
        )

    def _tensors(self, images: np.ndarray):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return list(self.torch.from_numpy(images).float() / 255)

    def train_step(self, images: np.ndarray, targets: dict) -> None:
        """One SGD step on uint8 images [B, H, W, 3] and targets as our data sets give them."""
        torch = self.torch
        lists = [
            {
                "boxes": torch.from_numpy(boxes[labels >= 0]),
                "labels": torch.from_numpy(labels[labels >= 0].astype("int64")),
            }
            for boxes, labels in zip(targets["boxes"], targets["labels"], strict=True)
        ]
        self.model.train()
        loss = sum(self.model(self._tensors(images), lists).values())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()

    def detect(self, images: np.ndarray) -> None:
        """Detections of uint8 images [B, H, W, 3]."""
        self.model.eval()
        with self.torch.inference_mode():
            self.model(self._tensors(images))
