"""torchvision's FCOS with the sizes of ours, the peer of benchmarks; needs the extra `parity`."""

import numpy as np

from fcos_tf.config import Config


def import_torchvision():
    """Imports torchvision also where its compiled operators do not load (CPU builds of PyTorch).

    Returns:
        The modules torch and torchvision.

    Raises:
        ValueError: they are not installed.
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

        # torchvision checks this before suppression; the only operator needed is defined above.
        torchvision.extension._has_ops = lambda: True
    return torch, torchvision


def _pyramid(torchvision, backbone: str, channels: int, levels: int):
    """A torchvision backbone with a pyramid from P3 on, as its FCOS takes it."""
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    name = backbone.replace("regnetx", "regnet_x")
    stage = {"resn": "layer{}", "regn": "trunk_output.block{}"}.get(backbone[:4])
    if stage is None or name not in torchvision.models.list_models() or levels not in (3, 5):
        raise ValueError(
            "--peer=torchvision: expected a ResNet, ResNeXt or RegNet as --backbone and 3 or 5 as "
            f"--fpn_levels, got {backbone} and {levels}"
        )
    body = create_feature_extractor(
        torchvision.models.get_model(name, weights=None),
        {stage.format(k): str(k) for k in (2, 3, 4)},
    )
    maps = body.eval()(torch.zeros(1, 3, 64, 64))
    pyramid = FeaturePyramidNetwork(
        [x.shape[1] for x in maps.values()],
        channels,
        LastLevelP6P7(channels, channels) if levels == 5 else None,
    )
    model = torch.nn.Sequential(body, pyramid)
    model.out_channels = channels
    return model


def _nms(boxes, scores, iou_threshold):
    """Greedy suppression, the only compiled operator of inference."""
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
    """torchvision's FCOS with the sizes of a config, random weights and trained batch norm.

    Raises:
        ValueError: no ResNet, ResNeXt or RegNet, or torchvision is not installed.
    """

    def __init__(self, config: Config, num_classes: int, image_size: tuple[int, int]):
        torch, torchvision = import_torchvision()
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.fcos import FCOS, FCOSHead

        levels, channels = config.fpn_levels, config.fpn_channels
        strides = [8 * 2**level for level in range(levels)]
        model = FCOS(
            _pyramid(torchvision, config.backbone, channels, levels),
            num_classes,
            min_size=min(image_size),
            max_size=max(image_size),
            anchor_generator=AnchorGenerator(
                tuple((stride,) for stride in strides), ((1.0,),) * levels
            ),
            head=FCOSHead(channels, 1, num_classes, config.head_convs),
        )
        if config.head_norm == "none":
            for tower in (model.head.classification_head, model.head.regression_head):
                for k in range(1, len(tower.conv), 3):
                    tower.conv[k] = torch.nn.Identity()
        self.torch, self.model = torch, model
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4
        )

    def _tensors(self, images: np.ndarray):
        return [self.torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]

    def train_step(self, images: np.ndarray, targets: dict) -> None:
        """One SGD step on uint8 images [B, H, W, 3] and targets of our data sets."""
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
