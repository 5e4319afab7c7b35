"""Backbones of keras_cv by preset name, as pyramid backbones.

A backbone is built from `keras_cv_architectures`, and from the network only for ImageNet weights.
Images are padded so that every level is exact; the maps are cut to the size that they have in all
other backbones. keras_cv is imported when one is built: that takes seconds.
"""

import os
from pathlib import Path

import keras
from keras import ops

from fcos_tf.keras_cv_import import import_keras_cv
from fcos_tf.layers.blocks import PARTS, check_freezing
from fcos_tf.layers.keras_cv_architectures import ARCHITECTURES

PREFIX = "keras_cv/"
LARGEST_STRIDE = 2**PARTS


@keras.saving.register_keras_serializable(package="fcos_tf")
class PadToLargestStride(keras.layers.Layer):
    """Pads images with zeros on the right and at the bottom to multiples of 32.

    keras_cv's networks divide odd sizes by two each in its own way, some of them not at all.
    """

    def call(self, images):
        """[B, H, W, C] to [B, 32 * ceil(H / 32), 32 * ceil(W / 32), C]."""
        height, width = ops.shape(images)[1:3]
        bottom, right = -height % LARGEST_STRIDE, -width % LARGEST_STRIDE
        return ops.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)))

    def compute_output_shape(self, input_shape):
        """The padded shape; unknown sides stay unknown."""
        batch, *sides, channels = input_shape
        return (batch, *(side and side + -side % LARGEST_STRIDE for side in sides), channels)


@keras.saving.register_keras_serializable(package="fcos_tf")
class CutToImage(keras.layers.Layer):
    """Cuts a map of padded images, of a stride in pixels, to the part that the images cover."""

    def __init__(self, stride: int, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, feature, images):
        """[B, h, w, C] and [B, H, W, 3] to [B, ceil(H / stride), ceil(W / stride), C]."""
        height, width = (-(-side // self.stride) for side in ops.shape(images)[1:3])
        return feature[:, :height, :width]

    def compute_output_shape(self, feature_shape, images_shape):
        """The map's shape with the sides of the images divided by the stride."""
        sides = (side and -(-side // self.stride) for side in images_shape[1:3])
        return (feature_shape[0], *sides, feature_shape[-1])


class PinnedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation that stays frozen, even after `model.trainable = True`.

    A layer within keras_cv's own layers can hardly be replaced, but it can change its class.
    """

    @property
    def trainable(self):
        """False; setting it has no effect."""
        return False

    @trainable.setter
    def trainable(self, value):
        pass


@keras.saving.register_keras_serializable(package="fcos_tf")
class KerasCVBackbone(keras.Model):
    """A backbone of keras_cv: levels P2 to P5 of images in 0-1.

    From [B, H, W, 3] images it makes a dict of feature maps `c2` to `c5` with strides 4, 8, 16 and
    32. Loading a saved one needs no network and runs no code from the file, as keras_cv's own
    CSPDarkNets would.

    Args:
        preset: such as "efficientnetv2_b0_imagenet".
        pretrained: whether to load the preset's weights.
        norm: "batch" (trained), "sync" (statistics over all replicas) or "frozen". Momentum and
            epsilon are the architecture's own.
        frozen_stages: number of parts from the input on with frozen weights and statistics: 1 ends
            at the first batch norm, 2 at level P2, ... 5 is everything.
        name: of the model.

    Raises:
        ValueError: for an unknown preset, missing weights, or an option out of its range.
        ImportError: if keras_cv is missing or broken.
        OSError: if the weights are not there and cannot be downloaded.

    Example:
        >>> backbone = KerasCVBackbone("mobilenet_v3_small", norm="frozen")
        >>> {name: x.shape[-1] for name, x in backbone.output.items()}
        {'c2': 16, 'c3': 24, 'c4': 48, 'c5': 96}
    """

    def __init__(
        self,
        preset: str,
        *,
        pretrained: bool = False,
        norm: str = "batch",
        frozen_stages: int = 0,
        name: str | None = None,
        **kwargs,
    ):
        architecture = preset.removesuffix("_imagenet")
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"keras_cv presets that can be backbones are {', '.join(ARCHITECTURES)}, and most "
                f"of them with _imagenet; got {preset!r}"
            )
        check_freezing(norm, frozen_stages)
        network = _network(preset, *ARCHITECTURES[architecture], pretrained=pretrained)
        maps = {
            f"c{level}": network.get_layer(network.pyramid_level_inputs[f"P{level}"]).output
            for level in (2, 3, 4, 5)
        }
        levels = keras.Model(network.input, maps, name="levels")
        _freeze(levels, norm, frozen_stages)
        images = keras.Input((None, None, 3), name="images")
        padded = levels(PadToLargestStride(name="pad")(images))
        outputs = {
            level: CutToImage(2 ** int(level[1:]), name=f"{level}_cut")(feature, images)
            for level, feature in padded.items()
        }
        super().__init__(images, outputs, name=name or preset, **kwargs)
        self._arguments = {"preset": preset, "norm": norm, "frozen_stages": frozen_stages}

    def get_config(self):
        """The constructor's arguments; weights are loaded from the file that holds this."""
        return {**self._arguments, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """The backbone of a config, which downloads nothing."""
        return cls(**{**config, "pretrained": False})


def _network(preset, class_name, arguments, *, pretrained):
    """The backbone of keras_cv, without rescaling: the detector normalises."""
    backbone_class = getattr(import_keras_cv().models, class_name)
    if not pretrained:
        return backbone_class(include_rescaling=False, **arguments)
    with_weights = backbone_class.presets_with_weights
    if preset not in with_weights:
        raise ValueError(
            f"backbone_weights='imagenet' exist for {PREFIX}"
            f"{f', {PREFIX}'.join(with_weights) or 'no ' + class_name}; got {PREFIX}{preset}"
        )
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    folder = home / "models" / "keras_cv" / preset
    source = str(folder) if (folder / "config.json").is_file() else preset
    try:
        network = backbone_class.from_preset(source, load_weights=True, include_rescaling=False)
    except Exception as error:  # of many kinds, from the network down to HDF5
        page = with_weights[preset]["kaggle_handle"].removeprefix("kaggle://").rpartition("/")[0]
        raise OSError(
            f"cannot load the ImageNet weights of {PREFIX}{preset} "
            f"({' '.join(str(error).split())}); put config.json and model.weights.h5 of "
            f"https://www.kaggle.com/models/{page} into {folder}, or leave --backbone_weights empty"
        ) from error
    got = network.get_config()
    differing = {key: got.get(key) for key in arguments if got.get(key) != arguments[key]}
    if differing:
        raise ValueError(f"{source}: expected the architecture of {preset}, got {differing}")
    return network


def _freeze(levels, norm, frozen_stages):
    """Freezes parts and batch norms, or synchronises these, in a model with outputs c2 to c5."""
    frozen = []
    if frozen_stages > 1:
        frozen = keras.Model(levels.input, levels.output[f"c{frozen_stages}"]).layers
    elif frozen_stages == 1:
        first = next(k for k, layer in enumerate(levels.layers) if _batch_norms([layer]))
        frozen = levels.layers[: first + 1]
    for layer in frozen:
        layer.trainable = False
    for layer in _batch_norms(levels.layers):
        layer.synchronized = norm == "sync"
    for layer in _batch_norms(levels.layers if norm == "frozen" else frozen):
        layer.trainable = False
        layer.__class__ = PinnedBatchNormalization


def _batch_norms(layers):
    """All batch norms among layers and within them."""
    inner = (each for layer in layers for each in layer._flatten_layers())
    return [each for each in inner if isinstance(each, keras.layers.BatchNormalization)]
