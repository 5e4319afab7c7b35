"""A copy of a detector for inference: batch norm within the convolutions, weights of one precision.

Batch norm after a convolution is a factor and a shift for each output channel:

    (conv(x) - mean) * scale + beta = conv'(x) + (beta - mean * scale),   kernel' = kernel * scale

so the factor moves into the kernel, and of the norm only the shift is left.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from fcos_tf.layers.blocks import FrozenBatchNormalization
from fcos_tf.models.weights import copy_weights

PRECISIONS = ("float32", "bfloat16", "float16")
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_NORMS = (keras.layers.BatchNormalization, FrozenBatchNormalization)


class FoldedNormalization(keras.layers.Layer):
    """What is left of a batch norm whose factor is in the convolution before it: its shift.

    A layer within a functional model can hardly be replaced, but it can change its class.
    """

    def call(self, inputs, **kwargs):
        """[..., channels] to the same."""
        return tf.nn.bias_add(inputs, ops.cast(self.beta, inputs.dtype))


class NormalizationFoldedIntoGroups(FoldedNormalization):
    """The same after a convolution with groups.

    TensorFlow makes one operation of a convolution and a bias, which then knows no groups on CPUs
    without oneDNN. Of a subtraction it does not.
    """

    def call(self, inputs, **kwargs):
        """[..., channels] to the same."""
        return inputs - ops.cast(-self.beta, inputs.dtype)


def inference_copy(
    model: keras.Model, *, precision: str = "float32", fold: bool = True, **settings
) -> keras.Model:
    """Copies a detector, folds its batch norms and brings its weights to a precision.

    Args:
        model: a detector, which stays as it is.
        precision: "float32", "bfloat16" or "float16", of weights and activations. The head's
            outputs, and what follows them, are float32 in any case. Where batch norms are left
            (in keras_cv's blocks they cannot be folded), weights stay float32.
        fold: whether to fold. Without, float32 predictions are the model's to the last bit.
        **settings: arguments of the detector's constructor in place of its own, such as thresholds.

    Returns:
        A detector that gives the same predictions; it cannot be trained.

    Raises:
        ValueError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}; got {precision!r}")
    exact = _copy(model, "float32", **settings)
    pairs = foldable(exact.backbone) if fold else []
    for convolution, norm in pairs:
        _fold(convolution, norm)
    if precision == "float32":
        return exact
    rounded = _copy(exact, f"mixed_{precision}" if batch_norms(exact) else precision)
    for _, norm in pairs:
        rounded.backbone.get_layer(norm.name).__class__ = type(norm)
    return rounded


def foldable(backbone: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """The pairs (convolution, batch norm) of a functional model that can be made one.

    The convolution has neither bias nor activation, and feeds nothing but the batch norm.
    """
    outputs = {id(tensor) for tensor in backbone.outputs}
    pairs = []
    for norm in backbone.layers:
        if not isinstance(norm, _NORMS):
            continue
        convolution = norm.input._keras_history.operation
        if (
            isinstance(convolution, _CONVOLUTIONS)
            and len(convolution._outbound_nodes) == 1
            and id(convolution.output) not in outputs
            and not convolution.use_bias
            and convolution.activation is keras.activations.linear
        ):
            pairs.append((convolution, norm))
    return pairs


def batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    """All batch norms of a model that are not folded, those within its layers' layers too."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, _NORMS)]


def _copy(model, dtype, **settings):
    copy = type(model).from_config({**model.get_config(), "dtype": dtype, **settings})
    copy_weights(model, copy, file=model.name)
    return copy


def _fold(convolution, norm):
    """Moves the factor of a norm into the convolution before it, both in place."""
    # In float64, so that every weight is rounded once.
    kernel, beta, mean, variance = (
        np.asarray(variable, np.float64)
        for variable in (convolution.kernel, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = np.asarray(norm.gamma, np.float64) / np.sqrt(variance + norm.epsilon)
    # Of a depthwise convolution [h, w, channels, 1], of the others [h, w, in, out].
    is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    convolution.kernel.assign(kernel * (scale[:, None] if is_depthwise else scale))
    norm.beta.assign(beta - mean * scale)
    has_groups = not is_depthwise and convolution.groups > 1
    norm.__class__ = NormalizationFoldedIntoGroups if has_groups else FoldedNormalization
