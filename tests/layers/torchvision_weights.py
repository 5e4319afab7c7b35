"""Weights for any backbone by torchvision's parameter names, and what torchvision makes of them.

Each tensor is drawn from a seed made of its name, so that both sides can draw it alone. To make
the stored expectations anew, with torch and torchvision installed:

    python -m tests.layers.torchvision_weights
"""

import re
import zlib
from pathlib import Path

import keras
import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones.npz"
GOLDEN_BACKBONES = ("resnet18", "resnet50", "resnext50_32x4d", "regnetx_400mf")
# Height and width: odd sizes on the way down, a multiple of 32, and portrait.
SIZES = ((97, 131), (64, 64), (225, 161))
LEVELS = ("c3", "c4", "c5")
SAMPLES = 40

# Names of torchvision's models that are not ours without an underscore or two.
PEERS = {
    "regnetx_400mf": "regnet_x_400mf",
    "regnetx_800mf": "regnet_x_800mf",
    "regnetx_1_6gf": "regnet_x_1_6gf",
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


def image(height: int, width: int) -> np.ndarray:
    """A normalised image, [1, height, width, 3] float32."""
    rng = np.random.RandomState(height * width)
    return rng.standard_normal((1, height, width, 3)).astype(np.float32)


def samples(feature: np.ndarray) -> np.ndarray:
    """Some values of a feature map [1, H, W, channels], from its first to its last: [SAMPLES]."""
    flat = feature.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, SAMPLES).astype(int)]


def torchvision_module(layer: str, *, is_regnet: bool) -> str:
    """The module whose parameters a layer with weights has: `stem_norm` to `bn1`."""
    part, kind = layer.rsplit("_", 1)
    is_norm = kind == "norm"
    if part == "stem":
        return f"stem.{int(is_norm)}" if is_regnet else "bn1" if is_norm else "conv1"
    stage, block, path = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)", part).groups()
    block = int(block) - 1
    if is_regnet:
        path = "proj" if path == "shortcut" else "f." + "abc"[int(path) - 1]
        return f"trunk_output.block{stage}.block{stage}-{block}.{path}.{int(is_norm)}"
    if path == "shortcut":
        return f"layer{stage}.{block}.downsample.{int(is_norm)}"
    return f"layer{stage}.{block}.{'bn' if is_norm else 'conv'}{path}"


def fill(model: keras.Model) -> set[str]:
    """Sets all weights of one of our backbones; returns the names of torchvision's tensors."""
    names = set()
    is_regnet = model.name.startswith("regnet")
    for layer in model.layers:
        if not layer.weights:
            continue
        module = torchvision_module(layer.name, is_regnet=is_regnet)
        values = []
        for weight in layer.weights:
            suffix = {
                "kernel": "weight",
                "gamma": "weight",
                "beta": "bias",
                "moving_mean": "running_mean",
                "moving_variance": "running_var",
            }[weight.name]
            names.add(f"{module}.{suffix}")
            shape = tuple(weight.shape)
            if len(shape) == 4:  # ours: height, width, in, out
                value = draw(f"{module}.{suffix}", (shape[3], shape[2], *shape[:2]))
                values.append(value.transpose(2, 3, 1, 0))
            else:
                values.append(draw(f"{module}.{suffix}", shape))
        layer.set_weights(values)
    return names


class Peer:
    """torchvision's backbone with the same weights."""

    def __init__(self, name: str):
        from fcos_tf.tools.torchvision_peer import import_torchvision

        self.torch, torchvision = import_torchvision()
        from torchvision.models.feature_extraction import create_feature_extractor

        model = torchvision.models.get_model(PEERS.get(name, name), weights=None).eval()
        state = {
            key: value
            for key, value in model.state_dict().items()
            if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
        }
        self.names = set(state)
        drawn = {k: self.torch.from_numpy(draw(k, tuple(v.shape))) for k, v in state.items()}
        model.load_state_dict(drawn, strict=False)
        prefix = "trunk_output.block" if name.startswith("regnet") else "layer"
        nodes = {f"{prefix}{stage}": f"c{stage + 1}" for stage in (2, 3, 4)}
        self.model = create_feature_extractor(model, nodes)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """[B, H, W, 3] to maps [B, h, w, channels]."""
        with self.torch.no_grad():
            features = self.model(self.torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return {level: x.numpy().transpose(0, 2, 3, 1) for level, x in features.items()}


def _write_golden():
    stored = {}
    for name in GOLDEN_BACKBONES:
        peer = Peer(name)
        for height, width in SIZES:
            for level, feature in peer(image(height, width)).items():
                key = f"{name}/{height}x{width}/{level}"
                stored[key] = samples(feature)
                stored[f"{key}/shape"] = np.array(feature.shape)
                stored[f"{key}/max"] = np.abs(feature).max()
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **stored)


if __name__ == "__main__":
    _write_golden()
