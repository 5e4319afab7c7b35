"""Convolutions with PyTorch's padding, and the norm and activation after them; learnable scale.

Keras' "same" padding is asymmetric at stride 2. The published detectors, and this module, pad
symmetrically.
"""

import numbers
from collections.abc import Collection
from typing import Any

import keras

from fcos_tf.layers.convolutions import Conv2D, DepthwiseConv2D, GroupedConv2D
from fcos_tf.layers.norms import NORM_EPSILON, BatchNormalization, FrozenBatchNormalization
from fcos_tf.ops.dtypes import at_least_float32

BACKBONE_NORMS = ("batch", "sync", "frozen")
LAYER_NORMS = ("none", *BACKBONE_NORMS)
PARTS = 5  # that can be frozen: the stem, and four stages that each halve the map


@keras.saving.register_keras_serializable(package="fcos_tf")
class Scale(keras.layers.Layer):
    """Multiplies by one learnable number, 1 at the start (FCOS, section 3.2, one per level)."""

    def build(self, input_shape):
        """Creates the scalar."""
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        """[...] to [...]."""
        return inputs * self.scale


def check_choices(**arguments: tuple[Any, Collection[str]]) -> None:
    """Checks arguments that have a list of choices.

    Args:
        **arguments: name=(value, choices).

    Raises:
        ValueError: names the argument, its choices and its value.
    """
    for name, (value, choices) in arguments.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def check_range(**arguments: tuple[Any, float, float]) -> None:
    """Checks arguments that are numbers.

    Args:
        **arguments: name=(value, least, most); where both limits are int, so must be the value.

    Raises:
        ValueError: names the argument, its range and its value.
    """
    for name, (value, least, most) in arguments.items():
        if getattr(value, "shape", None) == ():  # of an array or tensor without axes
            value = keras.ops.convert_to_numpy(value)[()]
        is_whole = isinstance(least, int) and isinstance(most, int)
        kind = numbers.Integral if is_whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
            what = "a whole number" if is_whole else "a number"
            raise ValueError(f"{name} must be {what} from {least} to {most}; got {value!r}")


def check_freezing(norm: str, frozen_stages: int) -> None:
    """Checks the arguments of all backbones.

    Args:
        norm: one of `BACKBONE_NORMS`.
        frozen_stages: number of frozen parts from the input on, 0 to `PARTS`.

    Raises:
        ValueError: if either is out of its range.
    """
    check_choices(norm=(norm, BACKBONE_NORMS))
    if frozen_stages not in range(PARTS + 1):
        raise ValueError(f"frozen_stages must be 0 to {PARTS}; got {frozen_stages!r}")


@keras.saving.register_keras_serializable(package="fcos_tf")
class HeNormal(keras.initializers.VarianceScaling):
    """Normal with variance 2 / fan_out (He et al., Delving Deep into Rectifiers)."""

    def __init__(self, seed=None):
        super().__init__(2.0, mode="fan_out", distribution="untruncated_normal", seed=seed)

    def get_config(self):
        """The constructor's arguments."""
        return {"seed": super().get_config()["seed"]}


def normalization(
    norm: str, *, name: str, epsilon: float = NORM_EPSILON, dtype=None
) -> keras.layers.Layer:
    """Batch normalisation of one of three kinds.

    Args:
        norm: "batch" (momentum 0.9, per replica), "sync" (over all replicas) or "frozen".
        name: of the layer.
        epsilon: added to the variance.
        dtype: policy of the layer; None: the global one.

    Raises:
        ValueError: for another kind.
    """
    check_choices(norm=(norm, BACKBONE_NORMS))
    if norm == "frozen":
        return FrozenBatchNormalization(epsilon, name=name, dtype=dtype)
    return BatchNormalization(
        momentum=0.9, epsilon=epsilon, synchronized=norm == "sync", name=name, dtype=dtype
    )


def image_input():
    """The input of a backbone, [B, H, W, 3] normalised images, under the global dtype policy."""
    dtype = at_least_float32(keras.config.dtype_policy().compute_dtype)
    return keras.Input((None, None, 3), dtype=dtype, name="images")


def conv(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    trainable: bool = True,
    symmetric: bool = True,
):
    """A convolution, padded by kernel_size // 2 on all four sides.

    Args:
        x: [B, H, W, channels] Keras tensor.
        filters: output channels.
        kernel_size: odd.
        name: of the convolution layer.
        stride: 1 or 2.
        groups: independent groups of channels; equal to channels and filters: depthwise.
        use_bias: whether a bias is added.
        trainable: whether the weights learn.
        symmetric: False: at stride 2, TensorFlow's SAME padding of the size at hand; for an even
            side that is one less at the top or left.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), filters].
    """
    padding = "same"  # symmetric at stride 1
    if symmetric and stride > 1 and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    options = {"strides": stride, "padding": padding, "use_bias": use_bias}
    options |= {"trainable": trainable, "name": name}
    if groups == filters == x.shape[-1]:  # has its own gradient on every CPU
        layer = DepthwiseConv2D(kernel_size, depthwise_initializer=HeNormal(), **options)
    else:
        layer_class = Conv2D if groups == 1 else GroupedConv2D
        layer = layer_class(
            filters, kernel_size, groups=groups, kernel_initializer=HeNormal(), **options
        )
    return layer(x)


def conv_norm(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    groups: int = 1,
    norm: str = "batch",
    norm_epsilon: float = NORM_EPSILON,
    trainable: bool = True,
    symmetric: bool = True,
    activation: str | None = "relu",
):
    """Convolution without bias, batch normalisation, activation.

    Args:
        x: [B, H, W, channels] Keras tensor.
        filters: output channels.
        kernel_size: odd.
        name: prefix of the layers' names.
        stride: 1 or 2.
        groups: see `conv`.
        norm: see `normalization`; without `trainable` it is "frozen".
        norm_epsilon: likewise.
        trainable: whether weights and statistics learn.
        symmetric: see `conv`.
        activation: "relu", "relu6" or None.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), filters].
    """
    options = {"stride": stride, "groups": groups, "trainable": trainable, "symmetric": symmetric}
    x = conv(x, filters, kernel_size, name=f"{name}_conv", **options)
    norm = norm if trainable else "frozen"
    x = normalization(norm, epsilon=norm_epsilon, name=f"{name}_norm")(x)
    if activation is None:
        return x
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
