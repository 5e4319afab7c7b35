"""torchvision's Faster R-CNN ResNet-50, both versions, with weights from seeds, in float64.

To make the stored expectations anew, with torch 2.13.0 and torchvision 0.28.0 installed:

    python -m tests.parity.torchvision_rcnn
"""

import json
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from tests.layers.torchvision_weights import draw as draw_backbone
from tests.parity.torchvision_changes import Detector, FixedSampler, align_as_compiled, freeze_norms

GOLDEN = Path(__file__).parents[1] / "golden" / "rcnn_torchvision.npz"

# The last layers: standard deviation and mean of what they give for inputs of size one. So chosen,
# a photo has dozens of detections of several classes.
OUTPUTS = {
    "rpn.head.cls_logits": (2.0, -2.0),
    "rpn.head.bbox_pred": (0.3, 0.0),
    "roi_heads.box_predictor.cls_score": (2.5, 0.0),
    "roi_heads.box_predictor.bbox_pred": (1.0, 0.0),
}
# As at the start of training, but not as even: the first steps need no warm-up.
SMALL_OUTPUTS = {
    "rpn.head.cls_logits": (0.5, -2.0),
    "rpn.head.bbox_pred": (0.15, 0.0),
    "roi_heads.box_predictor.cls_score": (1.0, 0.0),
    "roi_heads.box_predictor.bbox_pred": (0.3, 0.0),
}
NUM_CLASSES = 91  # with background

# Fewer proposals and samples than published; in training and in detection.
SMALL = {
    "anchors_per_image": 64,
    "rois_per_image": 32,
    "proposals_per_level": (300, 300),
    "num_proposals": (100, 100),
}
_SMALL = {
    "rpn_batch_size_per_image": SMALL["anchors_per_image"],
    "box_batch_size_per_image": SMALL["rois_per_image"],
    "rpn_pre_nms_top_n_train": SMALL["proposals_per_level"][0],
    "rpn_pre_nms_top_n_test": SMALL["proposals_per_level"][1],
    "rpn_post_nms_top_n_train": SMALL["num_proposals"][0],
    "rpn_post_nms_top_n_test": SMALL["num_proposals"][1],
}
LOSSES = {
    "rpn_objectness_loss": "loss_objectness",
    "rpn_box_loss": "loss_rpn_box_reg",
    "classification_loss": "loss_classifier",
    "box_loss": "loss_box_reg",
}
# Of every part. The stem and the first stage of version 1 are frozen, as in the published recipe.
_TENSORS = (
    "backbone.body.layer2.0.conv1", "backbone.body.layer3.2.conv2",
    "backbone.body.layer4.0.downsample.0", "backbone.fpn.inner_blocks.0.0",
    "backbone.fpn.layer_blocks.3.0", "rpn.head.conv.0.0", "rpn.head.cls_logits",
    "rpn.head.bbox_pred", "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred",
)  # fmt: skip
FLATTENED = ("roi_heads.box_head.fc6.weight", "roi_heads.box_head.5.weight")  # what sees 7 x 7
TENSORS = {
    1: [f"{name}.weight" for name in (*_TENSORS, "roi_heads.box_head.fc7")] + [FLATTENED[0]],
    2: [f"{name}.weight" for name in (*_TENSORS, "roi_heads.box_head.0.0")] + [FLATTENED[1]],
}
STEPS, MOMENTUM, WEIGHT_DECAY = 5, 0.9, 1e-4
# At .001 the steps of version 2 amplify any rounding: 1e-13 of the rate are 15 % of the last loss.
LEARNING_RATES = {1: 0.001, 2: 0.0001}
TOP = 20  # stored detections


def draw(name: str, shape: tuple[int, ...], outputs: dict) -> np.ndarray:
    """One tensor by torchvision's name and shape; `outputs` is `OUTPUTS` or `SMALL_OUTPUTS`."""
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    if name.startswith("backbone.body."):
        return draw_backbone(name, shape)
    rng = np.random.RandomState(zlib.crc32(name.encode()))  # a stream that NumPy has frozen
    scale, offset = outputs.get(name.rpartition(".")[0], (1.4, 0.0))
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


def scene() -> np.ndarray:
    """A photo uint8 [1, 256, 384, 3]."""
    china, _ = load_sample_images().images
    return china[None, 100:356, 100:484]


def training_batch() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images uint8 [2, 96, 192, 3], the second smaller and without boxes, and their targets."""
    china, flower = load_sample_images().images
    images = np.zeros((2, 96, 192, 3), np.uint8)
    images[0], images[1, :90, :150] = china[200:296, 150:342], flower[150:240, 200:350]
    boxes = np.zeros((2, 7, 4), np.float32)
    boxes[0, :6] = [
        [10, 20, 42, 50], [60.5, 30.25, 180.75, 90.5], [0, 0, 192, 96], [100, 5, 131, 90],
        [130, 60, 190, 95], [102, 8, 135, 88],
    ]  # fmt: skip
    labels = np.full((2, 7), -1, np.int32)
    labels[0, :6] = [0, 16, 43, 89, 61, 2]
    return images, {
        "image_sizes": np.float32([[96, 192], [90, 150]]), "boxes": boxes, "labels": labels,
    }  # fmt: skip


class Peer(Detector):
    """torchvision's detector in float64: its float32 is the larger error of the two sides.

    Args:
        version: 1 or 2.
        small: whether with `SMALL_OUTPUTS` and the numbers of `SMALL`, for photos of 256 pixels.
    """

    dtype = "float64"

    def __init__(self, version: int, *, small: bool = False):
        from benchmarks.torchvision_peer import import_torchvision

        self.torch, _ = import_torchvision()
        from torchvision.models.detection import (
            fasterrcnn_resnet50_fpn,
            fasterrcnn_resnet50_fpn_v2,
        )
        from torchvision.ops import FrozenBatchNorm2d

        align_as_compiled(self.torch)
        options = {"weights": None, "weights_backbone": None, "num_classes": NUM_CLASSES}
        options["_skip_resize"] = True  # in training
        options |= {"min_size": 256, "max_size": 448, **_SMALL} if small else {}
        build = fasterrcnn_resnet50_fpn if version == 1 else fasterrcnn_resnet50_fpn_v2
        self.version, self.model = version, build(**options).double().eval()
        if version == 1:
            body = self.model.backbone.body
            freeze_norms(self.torch, body, FrozenBatchNorm2d)
            for name, parameter in body.double().named_parameters():
                parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
        for part in (self.model.rpn, self.model.roi_heads):
            part.fg_bg_sampler = FixedSampler(part.fg_bg_sampler)
        self.outputs = SMALL_OUTPUTS if small else OUTPUTS
        self.shapes = {name: tuple(v.shape) for name, v in self.model.state_dict().items()}
        self.draw()

    def draw(self) -> None:
        """Gives all weights their drawn values."""
        self.model.load_state_dict(
            {
                name: self.torch.from_numpy(np.asarray(draw(name, shape, self.outputs)))
                for name, shape in self.shapes.items()
            }
        )

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

    def detect(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        """As the other detector's; labels without background."""
        found = super().detect(photo)
        return {**found, "labels": found["labels"] - 1}

    def losses(self) -> list:
        """The four losses of `training_batch` in the order of `LOSSES`, with gradients."""
        inputs, targets = self._inputs(*training_batch())
        for each in targets:
            each["boxes"], each["labels"] = each["boxes"].double(), each["labels"] + 1
        found = self.model.train()(inputs, targets)
        self.model.eval()
        # As many proposals as ours has rows, else boxes would have other places in the sample.
        counts = [SMALL["num_proposals"][0] + len(each["labels"]) for each in targets]
        assert self.model.roi_heads.fg_bg_sampler.lengths == counts
        return [found[name] for name in LOSSES.values()]

    def train(self) -> dict[str, np.ndarray]:
        """Losses before and after each of some steps of SGD, and the gradients of the first."""
        model, result, losses = self.model, {}, []
        optimizer = self.torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=LEARNING_RATES[self.version],
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )
        for step in range(STEPS + 1):
            optimizer.zero_grad()
            parts = self.losses()
            losses.append([part.item() for part in parts])
            sum(parts).backward()
            if not step:
                parameters = dict(model.named_parameters())
                result = {k: parameters[k].grad.numpy().copy() for k in TENSORS[self.version]}
            optimizer.step()
        optimizer.zero_grad()
        self.draw()
        return {**result, "losses": np.array(losses)}


def _write_golden():
    stored = {}
    for version in (1, 2):
        peer = Peer(version, small=True)
        stored[f"v{version}/shapes"] = json.dumps(peer.shapes)
        stored[f"v{version}/losses"] = peer.train()["losses"]
        for name, values in peer.detect(scene()[0]).items():
            stored[f"v{version}/{name}"] = values[:TOP]
    np.savez_compressed(GOLDEN, **stored)


if __name__ == "__main__":
    _write_golden()
