"""Backbones by name, their initial weights, and the settings that fit those weights."""

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras

from fcos_tf.keras_files import check_whole, first_lines, no_larger_than, read_config
from fcos_tf.layers import efficientnet_lite as lite
from fcos_tf.layers.keras_cv import PREFIX as KERAS_CV
from fcos_tf.layers.keras_cv import KerasCVBackbone
from fcos_tf.layers.mobilenet import mobilenet_v2
from fcos_tf.layers.norms import NORM_EPSILON
from fcos_tf.layers.regnet import VARIANTS, regnet
from fcos_tf.layers.resnet import resnet
from fcos_tf.layers.simple_cnn import simple_cnn
from fcos_tf.published import BACKBONES as PUBLISHED
from fcos_tf.published import find_published

# Arguments: norm, norm_epsilon, frozen_stages, name, and stride_in_3x3 of ResNets. Maps: c3 to c5,
# for some c2.
BACKBONES: dict[str, Callable[..., keras.Model]] = {
    **{f"resnet{depth}": partial(resnet, depth) for depth in (18, 34, 50, 101)},
    "resnext50_32x4d": partial(resnet, 50, groups=32, group_width=4),
    "resnext101_32x8d": partial(resnet, 101, groups=32, group_width=8),
    "resnext101_64x4d": partial(resnet, 101, groups=64, group_width=4),
    **{name: partial(regnet, name) for name in VARIANTS},
    "mobilenet_v2": mobilenet_v2,
    **{name: partial(lite.efficientnet_lite, name) for name in lite.VARIANTS},
    "simple_cnn": simple_cnn,
}
WITH_LAST_CONV = ("mobilenet_v2", *lite.VARIANTS)
TORCH_EXTENSIONS = (".pth", ".pt", ".bin", ".tar", ".pkl", ".safetensors")


@dataclasses.dataclass(frozen=True)
class BackbonePreset:
    """Settings of a backbone and its weights; `mean` and `std` in 0-255 and in `channel_order`.

    The defaults are torchvision's conventions, and everything learns.
    """

    channel_order: str = "rgb"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    stride_in_3x3: bool = True
    norm: str = "batch"
    norm_epsilon: float = NORM_EPSILON
    frozen_stages: int = 0


RANDOM = BackbonePreset()
# keras_cv's rescaling, 0-255 to 0-1, with which its presets with weights were trained.
KERAS_CV_RANDOM = BackbonePreset(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
LITE_RANDOM = BackbonePreset(
    mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0), norm_epsilon=lite.NORM_EPSILON
)


def resolve_preset(backbone: str, weights: str | None, **overrides) -> BackbonePreset:
    """The settings that fit some weights; overrides take precedence.

    Args:
        backbone: see `build_backbone`.
        weights: see `build_backbone`. The preprocessing of a file is unknown: RGB
            and the ImageNet mean and deviation are the default, which is right for converted
            files; 0-1 for backbones of keras_cv, (x - 127) / 128 for EfficientNet-Lite.
        **overrides: fields of `BackbonePreset`; None leaves the preset's value.
    """
    preset = LITE_RANDOM if backbone in lite.VARIANTS else RANDOM
    preset = KERAS_CV_RANDOM if backbone.startswith(KERAS_CV) else preset
    given = {name: value for name, value in overrides.items() if value is not None}
    if weights is not None:  # as in the FCOS recipes
        given = {"norm": "frozen", "frozen_stages": 2, **given}
    found = dataclasses.replace(preset, **given)
    if found.channel_order != preset.channel_order:
        turned = {n: getattr(found, n)[::-1] for n in ("mean", "std") if n not in given}
        found = dataclasses.replace(found, **turned)
    return found


def build_backbone(
    name: str,
    *,
    weights: str | None = None,
    stride_in_3x3: bool = True,
    norm_epsilon: float | None = None,
    last_conv: bool = False,
    dtype=None,
    **options,
) -> keras.Model:
    """Builds a backbone and loads its weights.

    Args:
        name: a key of `BACKBONES`, or "keras_cv/" and a preset of keras_cv.
        weights: None (random); "imagenet", of keras_cv for its presets, else torchvision's, the
            same as "imagenet_v1", or Google's of efficientnet_lite0; "imagenet_v2" of
            torchvision, see `fcos_tf.published`; or a `.keras` file of this backbone, as written
            by `detector.backbone.save(file)` and `tools/convert.py`, or of a model on it.
        stride_in_3x3: see `layers.resnet.resnet`; False for ResNets only.
        norm_epsilon: added to the variance; None: the network's own, no choice for keras_cv.
        last_conv: whether a backbone that has a convolution between its last stage and its
            classifier (`WITH_LAST_CONV`) gets it, with its map `last`.
        dtype: dtype policy of the layers; None: the global one.
        **options: `norm` and `frozen_stages`, see `layers.resnet.resnet`.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of maps `c3`, `c4` and `c5` with
        strides 8, 16 and 32, and `c2` where the backbone has one.

    Raises:
        ValueError: for an unknown name, or a stride placement or weights that it does not have.
        FileNotFoundError: if the weights file is missing.
        OSError: if the weights cannot be downloaded.
    """
    is_keras_cv = name.startswith(KERAS_CV)
    if norm_epsilon is None:
        norm_epsilon = resolve_preset(name, weights).norm_epsilon
    if is_keras_cv:
        preset = name.removeprefix(KERAS_CV)
        build = partial(KerasCVBackbone, preset, pretrained=weights == "imagenet")
        if norm_epsilon != NORM_EPSILON:
            raise ValueError(f"norm_epsilon must be {NORM_EPSILON} for {name}; got {norm_epsilon}")
    elif name in BACKBONES:
        build = partial(BACKBONES[name], norm_epsilon=norm_epsilon)
    else:
        raise ValueError(
            f"backbone must be one of {', '.join(BACKBONES)} or {KERAS_CV}PRESET; got {name!r}"
        )
    if name.startswith(("resnet", "resnext")):
        options["stride_in_3x3"] = stride_in_3x3
    elif not stride_in_3x3:
        raise ValueError(f"stride_in_3x3 must be True for {name}; got {stride_in_3x3!r}")
    if last_conv and name in WITH_LAST_CONV:
        options["last_conv"] = True
    if weights is not None:
        _check_weights(name, weights)

    global_policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(dtype or global_policy)
        backbone = build(name=name.replace("/", "_"), **options)
    finally:
        keras.config.set_dtype_policy(global_policy)

    if weights is not None and not (weights == "imagenet" and is_keras_cv):
        if weights in PUBLISHED:
            from fcos_tf import fetch_weights

            weights = str(fetch_weights(weights, backbone=name))
        check_whole(weights)
        try:
            # keras_cv makes some layers more than once.
            with no_larger_than(weights, read_config(weights)["config"], times=4):
                source = keras.models.load_model(weights, compile=False)
        except Exception as error:  # of Keras and HDF5, which raise anything
            text = first_lines(error)
            raise ValueError(f"backbone_weights: cannot load {weights}: {text}") from error
        _copy_layers(getattr(source, "backbone", None) or source, backbone, weights)
    return backbone


def _check_weights(name, weights):
    """Refuses weights that do not exist for a backbone."""
    if weights == "imagenet" and name.startswith(KERAS_CV):
        return
    expected = ", ".join(PUBLISHED)
    if weights in PUBLISHED:
        try:
            find_published(weights, name)
        except ValueError as error:
            raise ValueError(
                f"{error}; 'imagenet' also for {KERAS_CV}..._imagenet; a file of torchvision or "
                "timm can be converted by tools/convert.py --flavour=imagenet"
            ) from None
    elif weights.endswith(TORCH_EXTENSIONS):
        output = Path(weights).with_suffix(".keras")
        raise ValueError(
            f"backbone_weights: expected {expected} or a .keras file; got {weights!r}; convert it "
            f"by python tools/convert.py --flavour=imagenet --backbone={name} --source={weights} "
            f"--output={output}"
        )
    elif not (Path(weights).is_file() and weights.endswith(".keras")):
        raise FileNotFoundError(
            f"backbone_weights: expected {expected} or an existing .keras file; got {weights!r}"
        )


def _copy_layers(source, target, file):
    """Copies weights between backbones with batch norms of different kind or epsilon.

    A larger epsilon is the same as a larger variance.
    """
    have = {layer.name: layer for layer in source.layers}
    for layer in target.layers:
        theirs = have.get(layer.name)
        if theirs is None and layer.name.startswith("last_"):
            if layer.weights:  # of a file without it, such as a detector's
                warnings.warn(f"{file} has no {layer.name}; it stays random", stacklevel=4)
            continue
        expected = [tuple(w.shape) for w in layer.weights]
        got = None if theirs is None else [tuple(w.shape) for w in theirs.weights]
        if expected != got:
            raise ValueError(
                f"backbone_weights {file}: expected layer {layer.name} of {target.name} with "
                f"weights of shapes {expected}; got {got or 'no such layer'}"
            )
        # Equal shapes, but the bottleneck halves the map in another convolution.
        if getattr(layer, "strides", None) != getattr(theirs, "strides", None):
            raise ValueError(
                f"backbone_weights {file}: expected strides {layer.strides} of {layer.name}, got "
                f"{theirs.strides}; invert stride_in_3x3"
            )
        values = theirs.get_weights()
        if hasattr(layer, "epsilon"):
            values[-1] = values[-1] + theirs.epsilon - layer.epsilon
        layer.set_weights(values)
