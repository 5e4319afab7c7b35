"""Stochastic gradient descent with the weight decay that detection recipes mean.

Keras decays weights beside the gradient: `w -= lr * decay * w`, outside the momentum. The
published FCOS recipes (and PyTorch) mean an L2 term inside the gradient, `g += decay * w`, which
the momentum then accumulates. At momentum 0.9 the second is ten times the first, so the recipe's
`1e-4` means another thing in Keras' own SGD.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="fcos_tf")
class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in PyTorch.

    One update of a variable `w` with gradient `g` (already clipped):

        g = g + weight_decay * w
        velocity = momentum * velocity - learning_rate * g
        w = w + velocity

    Clipping (`global_clipnorm` and the others) comes before the decay is added, as it does when
    `clip_grad_norm_` precedes `optimizer.step()` in PyTorch. Variables of rank 0 and 1 (biases,
    scales and offsets of norms) are not decayed unless `decay_vectors` says so; variables given
    to `exclude_from_weight_decay` never are.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float in [0, 1].
        weight_decay: Float >= 0 or None, the factor of the L2 term.
        decay_vectors: Whether variables of rank 0 and 1 are decayed too.
        **kwargs: As `keras.optimizers.SGD`: nesterov, global_clipnorm, clipnorm, name ...

    Example:
        >>> optimizer = SGD(0.01, momentum=0.9, weight_decay=1e-4, global_clipnorm=10.0)
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        *,
        weight_decay: float | None = None,
        decay_vectors: bool = False,
        **kwargs,
    ):
        if weight_decay is not None and weight_decay < 0:
            raise ValueError(f"weight_decay: expected a number >= 0 or None, got {weight_decay}")
        super().__init__(learning_rate, momentum=momentum, weight_decay=weight_decay, **kwargs)
        self.decay_vectors = decay_vectors

    def _apply_weight_decay(self, variables):
        """Nothing: the decay is inside the gradient, not a step of its own."""

    def _clip_gradients(self, grads):
        """Clips the sum over all replicas, so that their number does not change the update.

        Keras clips each replica's part before it adds them up.
        """
        if keras.backend.backend() != "tensorflow" or not (self.global_clipnorm or self.clipnorm):
            return super()._clip_gradients(grads)
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return super()._clip_gradients(grads)
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, grads)
        # Keras adds up once more.
        return [g / context.num_replicas_in_sync for g in super()._clip_gradients(total)]

    def update_step(self, gradient, variable, learning_rate):
        """Adds the L2 term, then does the momentum update."""
        decayed = self.decay_vectors or len(variable.shape) > 1
        if self.weight_decay and decayed and self._use_weight_decay(variable):
            gradient = ops.cast(gradient, variable.dtype)
            gradient = gradient + ops.cast(self.weight_decay, variable.dtype) * variable
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "decay_vectors": self.decay_vectors}
