"""Normalisation layers: batch (fused in training), frozen batch, group.

Those of Keras default to epsilon 1e-3; the published detectors, and this package, use 1e-5.
"""

import keras
from keras import ops

from fcos_tf.ops.dtypes import at_least_float32

NORM_EPSILON = 1e-5

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="fcos_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over [B, H, W, channels], faster in training.

    Keras composes it of some twenty operations, and of as many in the gradient, all in float32.
    TensorFlow's fused operation passes over the map twice, in the dtype of the map, with
    statistics in float32. It computes those of one replica: synchronised over several replicas,
    with weights of another dtype than float32 and on other backends this is Keras' layer.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises [B, H, W, channels], and updates the moving statistics in training."""
        if not (training and self.trainable and mask is None and self._can_fuse(inputs)):
            return super().call(inputs, training=training, mask=mask)
        found = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation divides by one less than the count; Keras by the count.
        count = ops.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        variance = found.batch_variance * (ops.maximum(count - 1, 1) / count)
        for moving, value in (
            (self.moving_mean, found.batch_mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return found.y

    def _can_fuse(self, inputs) -> bool:
        if keras.backend.backend() != "tensorflow" or len(inputs.shape) != 4:
            return False
        is_whole = not (self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1)
        plain = self.scale and self.center and self.axis in (-1, 3)
        plain = plain and not getattr(self, "renorm", False)  # Keras has it since 3.13
        return is_whole and plain and self.gamma.dtype == "float32"


def add_shift(x, shift):
    """[..., channels] plus [channels]; TensorFlow fuses it with the convolution before."""
    return x + ops.cast(shift, x.dtype)


def subtract_shift(x, shift):
    """`add_shift` after a grouped convolution.

    TensorFlow fuses a convolution with its bias, and the fused operation lacks groups on CPUs
    without oneDNN. It does not fuse a subtraction.
    """
    return x - ops.cast(-shift, x.dtype)


@keras.saving.register_keras_serializable(package="fcos_tf")
class FrozenBatchNormalization(keras.layers.Layer):
    """Batch normalisation with fixed statistics and fixed affine: y = x * scale + shift.

    Its four variables have the names and order of `keras.layers.BatchNormalization`, so the two
    exchange weights. None is ever trained, even after `model.trainable = True`.

    Args:
        epsilon: added to the variance.

    Attributes:
        shift_only: None: y is as above; else `add_shift` or `subtract_shift`: y = x + shift, as the
            convolution before multiplies its kernel by the scale. Set together with its
            `kernel_scale`; neither is right without the other. A copy made from the layer's config
            has None.
    """

    shift_only = None

    def __init__(self, epsilon: float = NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        """Creates gamma, beta, moving_mean and moving_variance, each [channels]."""
        options = {"shape": (input_shape[-1],), "trainable": False, "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **options)
        self.beta = self.add_weight(initializer="zeros", name="beta", **options)
        self.moving_mean = self.add_weight(initializer="zeros", name="moving_mean", **options)
        self.moving_variance = self.add_weight(
            initializer="ones", name="moving_variance", **options
        )

    def scale(self):
        """The factor of each channel, [channels], in float32 at least."""
        gamma, variance = self._exact(self.gamma), self._exact(self.moving_variance)
        return gamma * ops.rsqrt(variance + self.epsilon)

    def call(self, inputs):
        """Normalises [..., channels]."""
        scale = self.scale()
        shift = self._exact(self.beta) - self._exact(self.moving_mean) * scale
        if self.shift_only is not None:
            return self.shift_only(inputs, shift)
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(shift, inputs.dtype)

    def _exact(self, variable):
        return ops.cast(variable, at_least_float32(self.compute_dtype))

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="fcos_tf")
class GroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` over [B, H, W, channels], more exact and faster.

    Keras' layer sums a whole map in float32 at once. On TensorFlow that loses five of seven digits
    on a large map and takes three times as long. Here rows, columns, then channels are averaged.
    """

    def call(self, inputs):
        """Normalises [B, H, W, channels]; computes in float32 at least."""
        x = ops.cast(inputs, at_least_float32(inputs.dtype))
        x = x - self._group_means(x)
        factor = ops.rsqrt(self._group_means(ops.square(x)) + self.epsilon)
        if self.scale:
            factor = factor * ops.cast(self.gamma, x.dtype)
        x = x * factor
        if self.center:
            x = x + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)

    def _group_means(self, x):
        """The mean of each channel's group: [B, H, W, channels] to [B, 1, 1, channels]."""
        channels = x.shape[-1]
        size = channels // self.groups
        means = ops.mean(ops.mean(x, axis=2), axis=1)  # [B, channels]
        means = ops.mean(ops.reshape(means, (-1, self.groups, size)), axis=-1, keepdims=True)
        # A product: `ops.repeat` is ten operations of TensorFlow.
        return ops.reshape(means * ops.ones(size, means.dtype), (-1, 1, 1, channels))
