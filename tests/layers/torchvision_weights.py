"""Weights for any backbone by torchvision's or timm's names, and what these make of them.

Each tensor is drawn from a seed made of its name, so that both sides can draw it alone. To make
the stored expectations anew, with torch, torchvision and timm installed:

    python -m tests.layers.torchvision_weights
"""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from fcos_tf.convert.backbones import CONVERTIBLE, assign_tensors, tensor_names
from fcos_tf.layers.efficientnet_lite import VARIANTS

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones.npz"
GOLDEN_BACKBONES = {
    **dict.fromkeys(("resnet18", "resnet50", "resnext50_32x4d", "regnetx_400mf"), "torchvision"),
    "mobilenet_v2": "torchvision",
    "efficientnet_lite0": "timm",
}
# Height and width: odd sizes on the way down, a multiple of 32, and portrait.
SIZES = ((97, 131), (64, 64), (225, 161))
LEVELS = ("c3", "c4", "c5")
SAMPLES = 40

# What our backbones are called elsewhere, where that differs.
TORCHVISION = {
    "regnetx_400mf": "regnet_x_400mf",
    "regnetx_800mf": "regnet_x_800mf",
    "regnetx_1_6gf": "regnet_x_1_6gf",
}
TIMM = {
    "regnetx_200mf": "regnetx_002",
    "regnetx_400mf": "regnetx_004_tv",
    "regnetx_400mf_384": "regnetx_004",
    "regnetx_800mf": "regnetx_008",
    "regnetx_1_6gf": "regnetx_016",
    "mobilenet_v2": "mobilenetv2_100",
    **{name: f"tf_{name}" for name in VARIANTS},
}
# Which of ours they have.
CONVERTIBLE_FROM = {
    "torchvision": tuple(
        n for n in CONVERTIBLE if n not in ("regnetx_200mf", "regnetx_400mf_384", *VARIANTS)
    ),
    "timm": CONVERTIBLE,
}
NOT_OF_BACKBONES = {
    "torchvision": r"fc\.|classifier\.|features\.18\.",
    "timm": r"fc\.|head\.|classifier\.|conv_head\.|bn2\.",
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor by torchvision's name and shape, float32.

    Kernels keep the mean square of what a ReLU lets through; gammas near 0.6 make each residual
    branch a tenth of its sum, so that dozens of blocks neither explode nor vanish.
    """
    rng = np.random.RandomState(zlib.crc32(name.encode()))  # a stream that NumPy has frozen
    if len(shape) == 4:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = rng.uniform(0.4, 0.8, shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    else:  # bias, running_mean
        values = rng.uniform(-0.3, 0.3, shape)
    return values.astype(np.float32)


def image(height: int, width: int, name: str) -> np.ndarray:
    """A normalised image, [1, height, width, 3] float32; such that a ReLU6 cuts."""
    rng = np.random.RandomState(height * width)
    scale = 20 if name.startswith(("mobilenet", "efficientnet")) else 1
    return scale * rng.standard_normal((1, height, width, 3)).astype(np.float32)


def samples(feature: np.ndarray) -> np.ndarray:
    """Some values of a feature map [1, H, W, channels], from its first to its last: [SAMPLES]."""
    flat = feature.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(int)]


def drawn_tensors(model: keras.Model, source: str = "torchvision") -> dict[str, np.ndarray]:
    """A file's worth of weights for one of our backbones, by torchvision's or timm's names."""
    names = tensor_names(model, source)
    tensors = {}
    for layer in model.layers:
        # Kernels are height, width, in, out; those of depthwise layers height, width, channels, 1.
        axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (3, 2, 0, 1)
        for weight in layer.weights:
            shape = tuple(weight.shape)
            if len(shape) == 4:
                shape = tuple(shape[axis] for axis in axes)
            tensors[names[weight.path]] = draw(names[weight.path], shape)
    return tensors


def fill(model: keras.Model, source: str = "torchvision") -> set[str]:
    """Sets all weights of one of our backbones; returns the other names of them."""
    tensors = drawn_tensors(model, source)
    assign_tensors(model, tensors).raise_if_incomplete("drawn")
    return set(tensors)


def digest(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """One number for the names and shapes of a file's tensors."""
    return zlib.crc32("\n".join(f"{k} {tuple(shapes[k])}" for k in sorted(shapes)).encode())


class Peer:
    """The backbone of torchvision or timm with the same weights.

    Args:
        name: ours.
        source: "torchvision" or "timm".
    """

    def __init__(self, name: str, source: str = "torchvision"):
        from benchmarks.torchvision_peer import import_torchvision

        self.torch, torchvision = import_torchvision()
        self.source = source
        if source == "timm":
            import timm

            model = timm.create_model(TIMM.get(name, name), pretrained=False).eval()
        else:
            from torchvision.models.feature_extraction import create_feature_extractor

            model = torchvision.models.get_model(TORCHVISION.get(name, name), weights=None).eval()
        state = {
            key: value
            for key, value in model.state_dict().items()
            if not re.match(NOT_OF_BACKBONES[source], key)
            and not key.endswith("num_batches_tracked")
        }
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}
        drawn = {k: self.torch.from_numpy(draw(k, shape)) for k, shape in self.shapes.items()}
        model.load_state_dict(drawn, strict=False)
        if source == "timm":
            self.model = lambda x: model.forward_intermediates(x, intermediates_only=True)
            return
        if name.startswith("mobilenet"):
            nodes = {"features.6": "c3", "features.13": "c4", "features.17": "c5"}
        else:
            prefix = "trunk_output.block" if name.startswith("regnet") else "layer"
            nodes = {f"{prefix}{stage}": f"c{stage + 1}" for stage in (2, 3, 4)}
        self.model = create_feature_extractor(model, nodes)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """[B, H, W, 3] to maps [B, h, w, channels]."""
        with self.torch.no_grad():
            features = self.model(self.torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        if self.source == "timm":
            features = dict(zip(LEVELS, features[-3:], strict=True))
        return {level: x.numpy().transpose(0, 2, 3, 1) for level, x in features.items()}


def _write_golden():
    stored = {}
    for name, source in GOLDEN_BACKBONES.items():
        peer = Peer(name, source)
        for height, width in SIZES:
            for level, feature in peer(image(height, width, name)).items():
                key = f"{name}/{height}x{width}/{level}"
                stored[key] = samples(feature)
                stored[f"{key}/shape"] = np.array(feature.shape)
                stored[f"{key}/max"] = np.abs(feature).max()
    for source, names in CONVERTIBLE_FROM.items():
        for name in names:
            stored[f"{source}/{name}"] = np.array(digest(Peer(name, source).shapes))
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **stored)


if __name__ == "__main__":
    _write_golden()
