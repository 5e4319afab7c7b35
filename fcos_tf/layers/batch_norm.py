"""Batch normalisation by one fused operation where TensorFlow trains on one replica."""

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="fcos_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over [B, H, W, channels], faster in training.

    Keras composes it of some twenty operations, and of as many in the gradient, all in float32.
    TensorFlow's fused operation passes over the map twice, in the dtype of the map, with
    statistics in float32. It computes those of one replica: over several replicas, in float64 and
    on other backends this is Keras' layer.
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
        plain = self.scale and self.center and self.axis in (-1, 3) and not self.renorm
        return is_whole and plain and self.compute_dtype != "float64"
