"""torchvision's FCOS ResNet-50 with weights from seeds, and what is stored of it.

Each tensor is drawn from a seed made of its name, so that both sides can draw it alone. To make
the stored expectations anew, with torch 2.13.0 and torchvision 0.28.0 installed, and the folder of
real photos:

    python -m tests.parity.torchvision_fcos ../shared/data
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.layers.torchvision_weights import draw as draw_backbone
from tests.parity.torchvision_changes import Detector

GOLDEN = Path(__file__).parents[1] / "golden" / "fcos_torchvision.npz"
IMAGE_SIZE = "800,1333"

# Standard deviation and mean of what the last convolutions give, and the size of what they see. So
# chosen, a photo has hundreds of candidates above the score of 0.2, of a dozen classes, on all
# levels, whose boxes of about eight strides overlap.
DETECTING = {
    "cls_logits": (2.0, -6.4), "bbox_reg": (3.0, 4.0), "bbox_ctrness": (1.0, 0.0), "norm": 1.0,
}  # fmt: skip
# As at the start of training: every class with a probability near .01, and all so small that the
# first steps need no warm-up.
LEARNING = {
    "cls_logits": (0.3, -4.6), "bbox_reg": (0.3, 3.0), "bbox_ctrness": (0.3, 0.0), "norm": 0.2,
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...], outputs: dict) -> np.ndarray:
    """One tensor by torchvision's name and shape, float32."""
    if name.startswith("backbone.body."):
        return draw_backbone(name, shape)
    rng = np.random.RandomState(zlib.crc32(name.encode()))  # a stream that NumPy has frozen
    layer = name.split(".")[-2]
    scale, offset = outputs.get(layer, (1.0, 0.0))
    if len(shape) == 4:
        values = rng.standard_normal(shape) * scale / np.sqrt(np.prod(shape[1:]))
        if name.startswith("head."):
            # What all places have in common cancels out: the outputs differ from place to place
            # and not only from class to class.
            values -= values.mean(axis=(1, 2, 3), keepdims=True)
    elif name.endswith("weight"):  # of a group normalisation
        values = outputs["norm"] * rng.uniform(0.8, 1.2, shape)
    else:
        values = offset + rng.uniform(-0.3, 0.3, shape)
        if ".conv." in name and int(layer) % 3 == 1:  # of a group normalisation
            values *= outputs["norm"]
    return values.astype(np.float32)


def draw_state(shapes: dict[str, tuple[int, ...]], outputs: dict) -> dict[str, np.ndarray]:
    """A state dict for torchvision's names and shapes; `outputs` is `DETECTING` or `LEARNING`."""
    return {name: draw(name, shape, outputs) for name, shape in shapes.items()}


# Padded sizes. At 800 the grids of P6 and P7 have 13 and 7 rows, 61 and 114 pixels apart; 160 and
# 1312 lead to odd sizes on the way up the pyramid.
CANVASES = ((160, 224), (800, 416), (224, 1312))


def canvas_image(height: int, width: int) -> np.ndarray:
    """A normalised image, [1, height, width, 3] float32."""
    rng = np.random.RandomState(height * width)
    return rng.standard_normal((1, height, width, 3)).astype(np.float32)


def samples(values: np.ndarray, count: int = 200) -> np.ndarray:
    """Some of the values, from the first to the last: [count]."""
    flat = np.asarray(values).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, count).astype(int)]


def sample_photos() -> dict[str, np.ndarray]:
    """scikit-learn's two photos and parts of them: file name -> uint8 [h, w, 3]."""
    china, flower = load_sample_images().images
    return {
        "china.png": china,  # 427 x 640 becomes 800 x 1199
        "portrait.png": china[:, 220:400],
        "wide.png": flower[150:290],
    }


# Under the folder of real photos; width x height in the comments.
PHOTOS = (
    "coco/train2017/000000079841.jpg",  # 640 x 213
    "voc2007/JPEGImages/004900.jpg",  # 136 x 400
    "coco/val2017/000000037777.jpg",  # 352 x 230
    "coco/train2017/000000113588.jpg",  # 425 x 640
    "coco/val2017/000000233771.jpg",  # 640 x 640
    "coco/train2017/000000403013.jpg",  # 301 x 450
    "coco/train2017/000000391895.jpg",  # 640 x 360
    "voc2007/JPEGImages/005137.jpg",  # 400 x 125
    "voc2007/JPEGImages/001398.jpg",  # 250 x 175
    "voc2007/JPEGImages/006544.jpg",  # 400 x 400
)


def training_batch() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images uint8 [2, 160, 800, 3], the second smaller and without boxes, and their targets."""
    china, flower = load_sample_images().images
    images = np.zeros((2, 160, 800, 3), np.uint8)
    images[0, :, :640], images[0, :, 640:] = china[-160:], flower[-160:, :160]
    images[1, :150, :600] = flower[200:350, :600]
    boxes = np.zeros((2, 9, 4), np.float32)
    boxes[0] = [
        # Sides of 128 around the point (64, 64) of P3 and P4: 64 pixels away, the limit of both
        # levels' ranges, which belongs to neither.
        [0, 0, 128, 128],
        # Areas of 2400 and 2397: equal in 1e8 - area, which float32 counts in eights.
        [260, 60, 320, 100],
        [259, 61, 310, 108],
        [280.5, 30.25, 460.75, 150.5],
        [150, 20, 420, 155],
        [500, 10, 790, 150],
        [520, 120, 533, 135],
        [100, 5, 500, 158],  # for P6: 61 pixels apart, (366, 53) is 266 from its left side
        [5, 3, 795, 157],  # for P7: 114 pixels apart, (570, 80) is 565 from its left side
    ]
    labels = np.full((2, 9), -1, np.int32)
    labels[0] = [1, 17, 44, 90, 62, 3, 17, 18, 1]
    image_sizes = np.array([[160, 800], [150, 600]], np.float32)
    return images, {"image_sizes": image_sizes, "boxes": boxes, "labels": labels}


# Of every part of the model; the stem and the first stage are frozen, as in the published recipe.
TENSORS = (
    "backbone.body.layer2.0.conv1.weight",
    "backbone.body.layer3.2.conv2.weight",
    "backbone.body.layer4.0.downsample.0.weight",
    "backbone.fpn.inner_blocks.0.0.weight",
    "backbone.fpn.layer_blocks.1.0.weight",
    "backbone.fpn.extra_blocks.p6.weight",
    "backbone.fpn.extra_blocks.p7.weight",
    "head.classification_head.conv.0.weight",
    "head.classification_head.conv.4.weight",
    "head.classification_head.cls_logits.weight",
    "head.regression_head.conv.9.weight",
    "head.regression_head.bbox_reg.weight",
    "head.regression_head.bbox_ctrness.bias",
)
STEPS = 5
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


class Peer(Detector):
    """torchvision's FCOS as its published weights are built and trained: frozen batch norm."""

    def __init__(self):
        from benchmarks.torchvision_peer import import_torchvision

        self.torch, torchvision = import_torchvision()
        from torchvision.models.detection import FCOS, backbone_utils
        from torchvision.ops import FrozenBatchNorm2d
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        backbone = backbone_utils._resnet_fpn_extractor(
            torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d),
            3,  # stages that learn
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        self.model = FCOS(backbone, num_classes=91, _skip_resize=True).eval()
        self.shapes = {name: tuple(v.shape) for name, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.state_dict(DETECTING))

    def state_dict(self, outputs: dict) -> dict:
        """The drawn weights, as tensors."""
        state = draw_state(self.shapes, outputs)
        return {name: self.torch.from_numpy(values) for name, values in state.items()}

    def predict(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Raw predictions, in our words, for a normalised image [1, H, W, 3]."""
        with self.torch.no_grad():
            features = self.model.backbone(self._planes(image))
            outputs = self.model.head(list(features.values()))
        return {
            "class_logits": outputs["cls_logits"].numpy(),
            "ltrb": outputs["bbox_regression"].numpy(),
            "centerness_logits": outputs["bbox_ctrness"].numpy()[..., 0],
        }

    def points(self, height: int, width: int) -> np.ndarray:
        """Centres of torchvision's anchors on a canvas: [N, 2]."""
        from torchvision.models.detection.image_list import ImageList

        images = self.torch.zeros(1, 3, height, width)
        strides = (8, 16, 32, 64, 128)
        maps = [self.torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]
        (anchors,) = self.model.anchor_generator(ImageList(images, [(height, width)]), maps)
        return ((anchors[:, :2] + anchors[:, 2:]) / 2).numpy()

    def train(self) -> dict[str, np.ndarray]:
        """Gradients on `training_batch`, in float64; then some steps in float32: how far they move
        the weights, and the losses before each."""
        result = {}
        drawn = self.state_dict(LEARNING)
        self.dtype = "float64"
        self.model.train().double().load_state_dict(drawn)
        parameters = dict(self.model.named_parameters())
        sum(self._losses()).backward()
        for name in TENSORS:
            result[f"gradient/{name}"] = parameters[name].grad.numpy().copy()
        self.dtype = "float32"
        self.model.float().load_state_dict(drawn)
        optimizer = self.torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            losses.append(self._losses())
            sum(losses[-1]).backward()
            optimizer.step()
        losses.append(self._losses())
        for name in TENSORS:
            result[f"change/{name}"] = (parameters[name].detach() - drawn[name]).numpy()
        result["losses"] = np.array([[each.item() for each in parts] for parts in losses])
        self.model.eval().load_state_dict(self.state_dict(DETECTING))
        return result

    def _losses(self):
        losses = self.model(*self._inputs(*training_batch()))
        return [losses[name] for name in ("classification", "bbox_regression", "bbox_ctrness")]


def read_photo(path: Path) -> np.ndarray:
    """The pixels of a photo as PyTorch's loaders see them: uint8 [h, w, 3]."""
    return np.asarray(Image.open(path).convert("RGB"))


def _write_golden(folder: Path):
    peer = Peer()
    stored = {"shapes": json.dumps(peer.shapes), "num_parameters": peer.num_parameters()}
    for height, width in CANVASES:
        for name, values in peer.predict(canvas_image(height, width)).items():
            stored[f"{name}/{height}x{width}"] = samples(values)
            stored[f"{name}/{height}x{width}/max"] = np.abs(values).max()
    photos = sample_photos() | {file: read_photo(folder / file) for file in PHOTOS}
    for file, photo in photos.items():
        for name, values in peer.detect(photo).items():
            stored[f"{file}/{name}"] = values
    trained = peer.train()
    stored["losses"] = trained.pop("losses")
    for name, values in trained.items():
        stored[name] = samples(values, 100)
        stored[f"{name}/norm"] = np.linalg.norm(values)
    np.savez_compressed(GOLDEN, **stored)


if __name__ == "__main__":
    _write_golden(Path(sys.argv[1]))
