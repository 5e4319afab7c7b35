"""Convolutions with PyTorch's padding, normalisation by name, frozen batch norm, Scale.

Keras' "same" padding is asymmetric at stride 2 and its normalisation layers default to epsilon
1e-3; the published detectors pad symmetrically and use 1e-5. What is here follows them.
"""

import keras
from keras import ops

EPSILON = 1e-5
NORMS = ("batch", "sync", "frozen")


@keras.saving.register_keras_serializable(package="fcos_tf")
class FrozenBatchNormalization(keras.layers.Layer):
    """Batch normalisation with fixed statistics and fixed affine: y = x * scale + shift.

    Its four variables have the names and order of `keras.layers.BatchNormalization`, so weights
    pass from one to the other, but none is ever trained, even after `model.trainable = True`.

    Args:
        epsilon: added to the variance.
    """

    def __init__(self, epsilon: float = EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        """Creates gamma, beta, moving_mean and moving_variance, each [channels] float32."""
        for name, value in (
            ("gamma", "ones"),
            ("beta", "zeros"),
            ("moving_mean", "zeros"),
            ("moving_variance", "ones"),
        ):
            variable = self.add_weight(
                shape=(input_shape[-1],), initializer=value, trainable=False, name=name
            )
            setattr(self, name, variable)

    def call(self, inputs):
        """Normalises [..., channels]; the factors are folded in float32."""
        gamma, beta, mean, variance = (
            ops.cast(v, "float32")
            for v in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        scale = gamma * ops.rsqrt(variance + self.epsilon)
        shift = beta - mean * scale
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(shift, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="fcos_tf")
class Scale(keras.layers.Layer):
    """Multiplies by one learnable number, 1 at the start (FCOS, section 3.2, one per level)."""

    def build(self, input_shape):
        """Creates the scalar."""
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        """[...] to [...]."""
        return inputs * self.scale

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape


def he_normal() -> keras.initializers.Initializer:
    """Normal with variance 2 / fan_out (He et al., Delving Deep into Rectifiers)."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )


def normalization(norm: str, *, name: str) -> keras.layers.Layer:
    """Batch normalisation of one of three kinds.

    Args:
        norm: "batch" (momentum 0.9, statistics of the replica's batch), "sync" (statistics of the
            batches of all replicas) or "frozen".
        name: of the layer.

    Raises:
        ValueError: for another kind.
    """
    if norm == "frozen":
        return FrozenBatchNormalization(name=name)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=EPSILON, synchronized=norm == "sync", name=name
    )


def conv(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    trainable: bool = True,
):
    """A convolution without bias, padded by kernel_size // 2 on all four sides.

    Args:
        x: [B, H, W, channels] Keras tensor.
        filters: output channels.
        kernel_size: odd.
        name: of the convolution layer.
        stride: 1 or 2.
        trainable: whether its weights learn.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), filters].
    """
    padding = "same"  # symmetric at stride 1
    if stride > 1 and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=he_normal(),
        trainable=trainable,
        name=name,
    )(x)


def conv_norm(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    stride: int = 1,
    norm: str = "batch",
    trainable: bool = True,
    activation: bool = True,
):
    """Convolution without bias, batch normalisation, ReLU.

    Args:
        x: [B, H, W, channels] Keras tensor.
        filters: output channels.
        kernel_size: odd.
        name: prefix of the layers' names.
        stride: 1 or 2.
        norm: see `normalization`; a block that is not trainable gets frozen statistics.
        trainable: whether weights and statistics learn.
        activation: whether a ReLU follows.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), filters].
    """
    x = conv(x, filters, kernel_size, stride=stride, name=f"{name}_conv", trainable=trainable)
    x = normalization(norm if trainable else "frozen", name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x) if activation else x
