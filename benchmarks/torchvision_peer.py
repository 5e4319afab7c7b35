"""The peers of benchmarks: torchvision's detectors with the sizes of ours."""

from collections.abc import Sequence

import numpy as np

from fcos_tf.config import Config
from fcos_tf.options import options_for


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


# What torchvision's detectors do not do in other ways.
EQUAL = (
    "optimizer", "accumulation_steps", "bias_lr_factor", "backbone_lr_factor", "assigner",
    "quality", "box_loss",
)  # fmt: skip


def refuse_unequal(config: Config, names: Sequence[str] = EQUAL, **values) -> None:
    """Refuses options that a peer would not follow: all but their defaults, or the `values`."""
    for name, expected in ({name: getattr(Config(), name) for name in names} | values).items():
        if (got := getattr(config, name)) != expected:
            wanted = "none" if expected == "" else expected
            raise ValueError(f"--{name}: expected {wanted}, as the peer has, got {got}")


# The parts of a backbone, from the stem on, by their last modules; the last three give P3 to P5.
_PARTS = {
    "res": ("bn1", "layer1", "layer2", "layer3", "layer4"),
    "reg": ("stem", *(f"trunk_output.block{k}" for k in (1, 2, 3, 4))),
    "mob": ("features.0", "features.3", "features.6", "features.13", "features.17"),
}


def _pyramid(config: Config, first_level: int, more_levels):
    """A torchvision backbone with the weights, norms and frozen parts of a config, and a pyramid.

    Args:
        config: the options.
        first_level: 3, or 2 for a pyramid from P2 on.
        more_levels: the block of torchvision that appends levels; None: none.
    """
    import torch
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

    from fcos_tf.convert.fetching import fetch_published
    from fcos_tf.layers.backbones import resolve_preset
    from fcos_tf.published import find_published

    name = config.backbone.replace("regnetx", "regnet_x")
    parts = _PARTS.get(name[:3])
    if parts is None or name not in torchvision.models.list_models():
        raise ValueError(
            "--peer=torchvision: expected a ResNet, ResNeXt, RegNet or MobileNetV2 as --backbone, "
            f"got {config.backbone}"
        )
    network, weights = torchvision.models.get_model(name, weights=None), config.backbone_weights
    if weights:
        file = fetch_published(find_published(weights, config.backbone))
        network.load_state_dict(torch.load(file, weights_only=True))
    given = options_for(config, resolve_preset, weights=weights or None)
    preset = resolve_preset(**{name: None if x in ("auto", -1) else x for name, x in given.items()})
    keys = [key for key, _ in network.named_parameters()]
    beginnings = tuple(f"{part}." for part in parts[: preset.frozen_stages])
    ends = [end for end, key in enumerate(keys, 1) if key.startswith(beginnings)]
    frozen = keys[: max(ends, default=0)]
    for key in frozen:
        network.get_parameter(key).requires_grad_(False)
    for key, module in list(network.named_modules()):
        still = preset.norm == "frozen" or f"{key}.weight" in frozen
        if still and isinstance(module, torch.nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(module.num_features, module.eps)
            norm.load_state_dict(module.state_dict())
            network.set_submodule(key, norm)
    named = {part: str(level) for level, part in enumerate(parts, 1) if level >= first_level}
    body = create_feature_extractor(network, named)
    maps = body.eval()(torch.zeros(1, 3, 64, 64))
    pyramid = FeaturePyramidNetwork(
        [x.shape[1] for x in maps.values()], config.fpn_channels, more_levels
    )
    model = torch.nn.Sequential(body, pyramid)
    model.out_channels = config.fpn_channels
    return model


def _fcos(config: Config, num_classes: int):
    """FCOS, as torchvision has it."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOS, FCOSHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    levels, channels = config.fpn_levels, config.fpn_channels
    if levels not in (3, 5):
        raise ValueError(f"--peer=torchvision: expected 3 or 5 as --fpn_levels, got {levels}")
    head = FCOSHead(channels, 1, num_classes, config.head_convs)
    if config.head_norm == "none":
        from torch import nn

        for tower in (head.classification_head, head.regression_head):
            for k in range(1, len(tower.conv), 3):
                tower.conv[k] = nn.Identity()
    strides = [8 * 2**level for level in range(levels)]
    return FCOS(
        _pyramid(config, 3, LastLevelP6P7(channels, channels) if levels == 5 else None),
        num_classes,
        anchor_generator=AnchorGenerator(
            tuple((stride,) for stride in strides), ((1.0,),) * levels
        ),
        head=head,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold or 0.6,
        detections_per_img=config.max_detections,
        topk_candidates=config.topk_per_level,
    )


def _faster_rcnn(config: Config, num_classes: int):
    """Faster R-CNN, version 1, as torchvision has it, with its numbers of anchors and proposals."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    if (config.fpn_first_level, config.fpn_levels) != (2, 5):
        raise ValueError("--peer=torchvision: expected a pyramid of P2 to P6")
    return FasterRCNN(
        _pyramid(config, 2, LastLevelMaxPool()),
        num_classes + 1,
        box_score_thresh=config.score_threshold,
        box_nms_thresh=config.nms_threshold or 0.5,
        box_detections_per_img=config.max_detections,
    )


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
    """torchvision's detector with the sizes of a config, in channels_last.

    Its initial weights are torchvision's own, except those of --backbone_weights.

    Args:
        config: the options; `precision` mixed_bfloat16 is torch.autocast.
        num_classes: without background.
        canvas: height and width that images are padded to, which come in their final size.
        sides: without a canvas, the short and the long side that torchvision resizes images to.

    Raises:
        ValueError: a model, precision, backbone or pyramid that torchvision has not, or it is not
            installed.
    """

    def __init__(self, config: Config, num_classes: int, *, canvas=None, sides=None):
        torch, _ = import_torchvision()
        if config.precision not in ("float32", "mixed_bfloat16"):
            raise ValueError(
                "--peer=torchvision: expected float32 or mixed_bfloat16 as --precision, got "
                f"{config.precision}"
            )
        refuse_unequal(config)
        make = {"fcos": _fcos, "faster_rcnn": _faster_rcnn}.get(config.model)
        if make is None:
            raise ValueError(f"--peer=torchvision: expected a detector, got --model={config.model}")
        torch.manual_seed(config.seed)
        model = make(config, num_classes)
        self.canvas = canvas
        if canvas:
            model.transform.resize = lambda image, target: (image, target)
            model.transform.batch_images = lambda images, size_divisible: self._padded(images)
        else:
            model.transform.min_size, model.transform.max_size = (min(sides),), max(sides)
        self.torch, self.model = torch, model.to(memory_format=torch.channels_last)
        self.first_label = int(config.model == "faster_rcnn")  # 0 is its background
        self.clip_norm, self.half = config.clip_norm, config.precision == "mixed_bfloat16"
        self.optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def _padded(self, images):
        """Normalised images as one batch [B, 3, H, W] of the canvas."""
        height, width = self.canvas
        pad = self.torch.nn.functional.pad
        planes = [pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images]
        return self.torch.stack(planes).contiguous(memory_format=self.torch.channels_last)

    def _tensors(self, images: np.ndarray, image_sizes):
        if image_sizes is not None:
            sizes = np.asarray(image_sizes).astype(int)
            images = [x[:h, :w] for x, (h, w) in zip(np.asarray(images), sizes, strict=True)]
        return [self.torch.from_numpy(x).permute(2, 0, 1).float() / 255 for x in images]

    def train_step(self, images, targets: dict, learning_rate: float | None = None) -> float:
        """One SGD step on images [B, H, W, 3] of 0-255 and targets of our data sets, in NumPy.

        Args:
            images: on the canvas.
            targets: `boxes`, `labels` (negative: padding), and `image_sizes` before padding.
            learning_rate: of this step; None: the config's.

        Returns:
            The loss before the step.
        """
        torch = self.torch
        lists = [
            {
                "boxes": torch.from_numpy(boxes[labels >= 0]),
                "labels": torch.from_numpy(labels[labels >= 0] + self.first_label).long(),
            }
            for boxes, labels in zip(targets["boxes"], targets["labels"], strict=True)
        ]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] if learning_rate is None else learning_rate
        self.model.train()
        tensors = self._tensors(images, targets.get("image_sizes"))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = sum(self.model(tensors, lists).values())
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return float(loss.detach())

    def detect(self, images, image_sizes=None) -> dict[str, np.ndarray]:
        """Detections as `Detector.detect` gives them, of images [B, H, W, 3] of 0-255."""
        self.model.eval()
        with (
            self.torch.inference_mode(),
            self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.half),
        ):
            found = self.model(self._tensors(images, image_sizes))
        rows = {"boxes": (0.0, (4,)), "scores": (0.0, ()), "labels": (-1, ())}
        most = max((len(each["labels"]) for each in found), default=0)
        result = {k: np.full((len(found), most, *shape), x) for k, (x, shape) in rows.items()}
        for i, each in enumerate(found):
            for key, values in result.items():
                values[i, : len(each[key])] = each[key].float().numpy()
        result["labels"] -= self.first_label * (result["labels"] >= self.first_label)
        return result
