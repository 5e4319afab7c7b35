"""Batch norms folded into convolutions; models for inference with weights of a precision.

Batch norm after a convolution scales and shifts each output channel:

    (conv(x) - mean) * scale + beta = conv'(x) + (beta - mean * scale),   kernel' = kernel * scale

so the kernel takes the scale, and the norm keeps the shift only. With frozen norms every step
multiplies the kernel, in training too, and gradients pass through the product. For inference the
kernels themselves are replaced.
"""

import keras
import numpy as np

from fcos_tf.layers.convolutions import ScaledKernel
from fcos_tf.layers.norms import FrozenBatchNormalization, add_shift, subtract_shift
from fcos_tf.models.weights import copy_weights

PRECISIONS = ("float32", "bfloat16", "float16")
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_NORMS = (keras.layers.BatchNormalization, FrozenBatchNormalization)


class FoldedNormalization(keras.layers.Layer):
    """The shift of a folded batch norm.

    A layer of a functional model is hard to replace, but its class can be changed. Its variables
    are those of a batch norm that computes the same, for graphs traced before and for files.
    """

    def call(self, inputs, **kwargs):
        """[..., channels] to the same."""
        return self.shift_only(inputs, self.beta)


def scale_kernels(backbone: keras.Model) -> None:
    """Lets each step multiply kernels by the scales of the frozen norms after them.

    A map is then written once, with its shift and activation, where it was written three times.
    """
    for convolution, norm in foldable(backbone):
        if isinstance(norm, FrozenBatchNormalization) and isinstance(convolution, ScaledKernel):
            convolution.kernel_scale = norm.scale
            norm.shift_only = _shift_after(convolution)


def inference_copy(
    model: keras.Model, *, precision: str = "float32", fold: bool = True, **settings
) -> keras.Model:
    """Copies a detector, folds its batch norms and casts its weights.

    Args:
        model: a detector, left unchanged.
        precision: of weights and activations, "float32", "bfloat16" or "float16". The head's
            outputs and the decoding are float32. With unfolded batch norms (those of
            keras_cv's blocks, or of a pyramid or box head) weights stay float32.
        fold: whether to fold; without it, float32 predictions are bitwise those of the model.
        **settings: replace arguments of the detector's constructor, such as thresholds.

    Returns:
        A detector with the same predictions; it cannot be trained.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}; got {precision!r}")
    exact = _copy(model, "float32", **settings)
    pairs = fold_norms(exact) if fold else []
    if precision == "float32":
        return exact
    rounded = _copy(exact, f"mixed_{precision}" if batch_norms(exact) else precision)
    for pair in pairs:
        _mark_folded(*(rounded.backbone.get_layer(layer.name) for layer in pair))
    return rounded


def fold_norms(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Folds the batch norms of a model's backbone in place; it cannot be trained afterwards.

    A file saved afterwards predicts the same. It loads as a model with batch norms, whose
    statistics are lost: do not train it, unless they are frozen.

    Returns:
        The pairs of `foldable`.
    """
    backbone = getattr(model, "backbone", None)
    pairs = [] if backbone is None else foldable(backbone)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    return pairs


def foldable(backbone: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """The foldable pairs (convolution, batch norm) of a functional model.

    The convolution has neither bias nor activation, and the batch norm alone uses its output.
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
    """All unfolded batch norms of a model, nested layers included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, _NORMS)]


def _copy(model, dtype, **settings):
    copy = type(model).from_config({**model.get_config(), "dtype": dtype, **settings})
    copy_weights(model, copy, file=model.name)
    return copy


def _fold(convolution, norm):
    """Moves the scale of a norm into the convolution before it, both in place."""
    # In float64, so that every weight is rounded once.
    kernel, beta, mean, variance = (
        np.asarray(variable, np.float64)
        for variable in (convolution.kernel, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = np.asarray(norm.gamma, np.float64) / np.sqrt(variance + norm.epsilon)
    # Kernels: depthwise [h, w, channels, multiplier], others [h, w, in, out].
    is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    convolution.kernel.assign(kernel * (scale.reshape(kernel.shape[2:]) if is_depthwise else scale))
    norm.beta.assign(beta - mean * scale)
    norm.gamma.assign(np.ones_like(scale))
    norm.moving_mean.assign(np.zeros_like(mean))
    norm.moving_variance.assign(np.full_like(variance, 1 - norm.epsilon))
    _mark_folded(convolution, norm)


def _mark_folded(convolution, norm):
    convolution.kernel_scale = None
    norm.shift_only = _shift_after(convolution)
    # Of the same name: Keras names the layers in a file by their classes.
    norm.__class__ = type(type(norm).__name__, (FoldedNormalization,), {})


def _shift_after(convolution):
    is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    return add_shift if is_depthwise or convolution.groups == 1 else subtract_shift
