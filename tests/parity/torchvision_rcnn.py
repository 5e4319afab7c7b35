"""torchvision's Faster R-CNN ResNet-50, both versions, with weights from seeds."""

import zlib

import numpy as np

from tests.layers.torchvision_weights import draw as draw_backbone

# The last layers: standard deviation and mean of what they give for inputs of size one. So chosen,
# a photo has dozens of detections of several classes.
OUTPUTS = {
    "rpn.head.cls_logits": (2.0, -2.0),
    "rpn.head.bbox_pred": (0.3, 0.0),
    "roi_heads.box_predictor.cls_score": (2.5, 0.0),
    "roi_heads.box_predictor.bbox_pred": (1.0, 0.0),
}
NUM_CLASSES = 91  # with background


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor by torchvision's name and shape."""
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    if name.startswith("backbone.body."):
        return draw_backbone(name, shape)
    rng = np.random.RandomState(zlib.crc32(name.encode()))  # a stream that NumPy has frozen
    scale, offset = OUTPUTS.get(name.rpartition(".")[0], (1.4, 0.0))
    if len(shape) > 1:
        values = rng.standard_normal(shape) * scale / np.sqrt(np.prod(shape[1:]))
        if not name.startswith("backbone."):
            # What all places have in common cancels out: the outputs differ from place to place.
            axes = tuple(range(1, len(shape)))
            values -= values.mean(axis=axes, keepdims=True)
    elif name.endswith(("running_var", "weight")):
        values = rng.uniform(0.8, 1.2, shape)
    else:
        values = offset + rng.uniform(-0.3, 0.3, shape)
    return values.astype(np.float32)


class Peer:
    """torchvision's detector.

    Args:
        version: 1 or 2.
    """

    def __init__(self, version: int):
        from benchmarks.torchvision_peer import import_torchvision

        self.torch, _ = import_torchvision()
        from torchvision.models.detection import (
            fasterrcnn_resnet50_fpn,
            fasterrcnn_resnet50_fpn_v2,
        )
        from torchvision.ops import FrozenBatchNorm2d

        options = {"weights": None, "weights_backbone": None, "num_classes": NUM_CLASSES}
        options |= {"trainable_backbone_layers": 5, "_skip_resize": True}
        build = fasterrcnn_resnet50_fpn if version == 1 else fasterrcnn_resnet50_fpn_v2
        self.model = build(**options).eval()
        if version == 1:
            _freeze_norms(self.torch, self.model.backbone.body, FrozenBatchNorm2d)
        self.shapes = {name: tuple(v.shape) for name, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.state_dict())

    def state_dict(self) -> dict:
        """The drawn weights, as tensors."""
        return {
            name: self.torch.from_numpy(np.asarray(draw(name, shape)))
            for name, shape in self.shapes.items()
        }

    def num_parameters(self) -> int:
        """As torchvision counts: the statistics and factors of frozen batch norm are buffers."""
        return sum(p.numel() for p in self.model.parameters())

    def first_stage(self, tensor: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Outputs of the RPN, proposals and box head for a normalised image [1, H, W, 3]."""
        from torchvision.models.detection.image_list import ImageList

        model = self.model
        with self.torch.no_grad():
            x = self._planes(tensor)
            features = model.backbone(x)
            logits, deltas = model.rpn.head(list(features.values()))
            proposals, _ = model.rpn(ImageList(x, [size]), features)
            pooled = model.roi_heads.box_roi_pool(features, proposals, [size])
            scores, boxes = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
        # [1, A * k, H, W], of anchor-major channels -> [1, H * W * A, k]
        flat = [
            self.torch.cat(
                [
                    each.reshape(1, 3, -1, *each.shape[-2:])
                    .permute(0, 3, 4, 1, 2)
                    .reshape(1, -1, k)
                    for each in outputs
                ],
                dim=1,
            ).numpy()
            for outputs, k in ((logits, 1), (deltas, 4))
        ]
        return {
            "objectness_logits": flat[0][..., 0],
            "anchor_deltas": flat[1],
            "proposals": proposals[0].numpy()[None],
            "roi_features": pooled.numpy().transpose(0, 2, 3, 1)[None],
            # Ours has the background last.
            "class_logits": np.roll(scores.numpy(), -1, axis=-1)[None],
            "box_deltas": boxes.numpy().reshape(1, -1, NUM_CLASSES, 4)[:, :, 1:],
        }

    def _planes(self, image):
        return self.torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def _freeze_norms(torch, module, kind) -> None:
    """Replaces batch norms by frozen ones of epsilon 0, as the COCO file of version 1 needs."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, kind(child.num_features, eps=0.0))
        else:
            _freeze_norms(torch, child, kind)
