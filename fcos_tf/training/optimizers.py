"""SGD and AdamW as detection recipes define them, on one device and on many.

Differences from Keras' optimizers:

- Momentum of SGD. Keras accumulates steps, `velocity = momentum * velocity - lr * g`, so about ten
  steps after a decay of the rate still use the old rate (momentum 0.9). PyTorch, which the
  published recipes assume, accumulates gradients, `buffer = momentum * buffer + g`, and multiplies
  by the current rate: `w -= lr * buffer`. At a constant rate both are the same.
- Weight decay of SGD. Keras applies it outside the momentum: `w -= lr * decay * w`. The published
  FCOS recipes (and PyTorch) add an L2 term to the gradient, `g += decay * w`, which the momentum
  accumulates: at momentum 0.9 ten times as much decay.
- Keras also decays biases, and scales and offsets of norms; here they are not decayed.
- With `use_ema`, Keras' `fit` overwrites the weights with their averages when it ends.
"""

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

_PACKAGE = "fcos_tf"
_BIASES = ("bias", "beta")  # of convolutions, of norms


class _DetectionOptimizer:
    """Mixin for both, placed before a Keras optimizer among the base classes.

    Attributes:
        adds_up: Whether the optimizer sums the gradients of the replicas, as in Keras; a
            detector's train step has summed them already.
    """

    adds_up = True

    def __init__(
        self,
        *args,
        decay_vectors: bool = False,
        bias_lr_factor: float = 1.0,
        backbone_lr_factor: float = 1.0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        decay = self.weight_decay
        if decay is not None and decay < 0:
            raise ValueError(f"weight_decay: expected a number >= 0 or None, got {decay}")
        if bias_lr_factor <= 0:
            raise ValueError(f"bias_lr_factor: expected a number > 0, got {bias_lr_factor}")
        if backbone_lr_factor < 0:
            raise ValueError(
                f"backbone_lr_factor: expected a number >= 0, got {backbone_lr_factor}"
            )
        self.decay_vectors = decay_vectors
        self.bias_lr_factor = bias_lr_factor
        self.backbone_lr_factor = backbone_lr_factor

    def build(self, variables):
        """Creates the slots for these variables."""
        self._bias_keys = {self._var_key(v) for v in variables if v.name in _BIASES}
        marked = [v for v in variables if getattr(v, "of_backbone", False)]  # by `BackboneModel`
        self._backbone_keys = {self._var_key(v) for v in marked}
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """The update of one variable; biases and the backbone have their own learning rate."""
        super().update_step(gradient, variable, self._rate_of(variable, learning_rate))

    def _rate_of(self, variable, learning_rate):
        factor = self.bias_lr_factor if self._var_key(variable) in self._bias_keys else 1.0
        if self._var_key(variable) in self._backbone_keys:
            factor *= self.backbone_lr_factor
        return learning_rate if factor == 1.0 else learning_rate * factor

    def _apply_weight_decay(self, variables):
        """A decay apart from the gradient, at the learning rate of each part."""
        decay, parts = self.weight_decay, {1.0: [], self.backbone_lr_factor: []}
        for v in variables:
            in_backbone = self._var_key(v) in self._backbone_keys
            parts[self.backbone_lr_factor if in_backbone else 1.0].append(v)
        for factor, part in parts.items():
            self.weight_decay = decay and decay * factor
            super()._apply_weight_decay(part)
        self.weight_decay = decay

    def finalize_variable_values(self, var_list):
        """Does nothing: the weights stay; `averaged_weights` gives the averages."""

    def _use_weight_decay(self, variable):
        is_decayed = self.decay_vectors or len(variable.shape) > 1
        return is_decayed and super()._use_weight_decay(variable)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return super()._all_reduce_sum_gradients(grads_and_vars) if self.adds_up else grads_and_vars

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "decay_vectors": self.decay_vectors,
            "bias_lr_factor": self.bias_lr_factor,
            "backbone_lr_factor": self.backbone_lr_factor,
        }


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SGD(_DetectionOptimizer, keras.optimizers.SGD):
    """SGD equal to `torch.optim.SGD`, also when the learning rate changes.

    One update of a variable `w` with gradient `g` (already clipped):

        g = g + weight_decay * w
        buffer = momentum * buffer + g        (0 before the first step)
        w = w - learning_rate * buffer        (nesterov: g + momentum * buffer for buffer)

    The slots, `momentums`, are these buffers; in Keras' SGD they are steps,
    `-learning_rate * buffer`.

    Clipping (`global_clipnorm` and the others) precedes the decay, as `clip_grad_norm_` before
    `optimizer.step()` in PyTorch. Variables of rank 0 and 1 (biases, scales and offsets of norms)
    are decayed with `decay_vectors` only; those in `exclude_from_weight_decay` never.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float in [0, 1].
        weight_decay: Float >= 0 or None, the factor of the L2 term.
        decay_vectors: Whether variables of rank 0 and 1 are decayed too.
        bias_lr_factor: Float > 0, a factor on the learning rate of biases and of the offsets of
            norms (a parameter group in PyTorch); 2 in the code of the paper's authors.
        backbone_lr_factor: Float >= 0, likewise of the backbone of a model of this package.
        **kwargs: As `keras.optimizers.SGD`: nesterov, global_clipnorm, use_ema ...

    Example:
        >>> optimizer = SGD(0.01, momentum=0.9, weight_decay=1e-4, global_clipnorm=10.0)
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, *, weight_decay=None, **kwargs):
        momentum = float(momentum)  # Keras refuses an int
        super().__init__(learning_rate, momentum=momentum, weight_decay=weight_decay, **kwargs)

    def _apply_weight_decay(self, variables):
        """Does nothing: the decay is a term of the gradient."""

    def update_step(self, gradient, variable, learning_rate):
        """The update of one variable, by PyTorch's rule."""

        def number(value):
            # `ops.cast` would round a Python number to float32 first.
            return ops.convert_to_tensor(value, dtype=variable.dtype)

        gradient = number(gradient)
        if self.weight_decay and self._use_weight_decay(variable):
            gradient = gradient + number(self.weight_decay) * variable
        step = gradient
        if self.momentum:
            momentum = number(self.momentum)
            buffer = self.momentums[self._get_variable_index(variable)]
            # In two parts: TensorFlow may reorder the terms of a longer sum.
            self.assign(buffer, momentum * buffer)
            self.assign_add(buffer, gradient)
            step = gradient + momentum * buffer if self.nesterov else buffer
        rate = number(self._rate_of(variable, learning_rate))
        self.assign_sub(variable, rate * step)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class AdamW(_DetectionOptimizer, keras.optimizers.AdamW):
    """Keras' AdamW (Loshchilov and Hutter) without decay of biases and norms.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: Float >= 0; a step multiplies weights by 1 - learning_rate * weight_decay.
        **kwargs: `decay_vectors`, `bias_lr_factor` and `backbone_lr_factor` of `SGD`, and those of
            `keras.optimizers.AdamW`: beta_1, beta_2, global_clipnorm, use_ema ...

    Example:
        >>> optimizer = AdamW(1e-4, weight_decay=0.05, global_clipnorm=1.0)
    """

    def __init__(self, learning_rate=1e-4, weight_decay=0.05, **kwargs):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)


@contextlib.contextmanager
def averaged_weights(model: keras.Model, *, alone: bool = False) -> Iterator[None]:
    """A context in which a model has its averaged weights, if its optimizer keeps them.

    Args:
        model: A compiled model.
        alone: Whether the optimizer has the averages, too: a model saved here is trained on from
            them. False: it has the training weights, so a model saved here has both; call
            `swap_averages` after loading, before it is trained on.

    Example:
        >>> with averaged_weights(model, alone=True):
        ...     model.save("averaged.keras")
    """
    swap_averages(model)
    pairs = _with_averages(model) if alone else []
    kept = [ops.copy(average) for _, average in pairs]
    for weight, average in pairs:
        average.assign(weight)
    try:
        yield
    finally:
        for (_, average), value in zip(pairs, kept, strict=True):
            average.assign(value)
        swap_averages(model)


def swap_averages(model: keras.Model) -> None:
    """Exchanges the weights of a model and their averages, if there are any yet."""
    for weight, average in _with_averages(model):
        value = ops.copy(weight)
        weight.assign(average)
        average.assign(value)


def _with_averages(model: keras.Model) -> list[tuple[keras.Variable, keras.Variable]]:
    """The weights of a model with their averages; none where there are none yet."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    has_averages = getattr(optimizer, "use_ema", False) and optimizer.built
    if not has_averages or not int(optimizer.iterations.numpy()):
        return []
    averages = optimizer._model_variables_moving_average
    return list(zip(model.trainable_variables, averages, strict=True))
