"""Learning rates over the steps: linear warm-up, then constant, multi-step decay or cosine.

All are pure functions of the step number, so a resumed run needs no state of its own. The first
update is step 0.
"""

import math
from collections.abc import Sequence

import keras
from keras import ops

_PACKAGE = "fcos_tf"


class _WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then `_after_warmup` of the subclass.

    At step s < warmup_steps the rate of the schedule is multiplied by
    `warmup_factor + (1 - warmup_factor) * s / warmup_steps`.
    """

    def __init__(
        self, learning_rate: float, *, warmup_steps: int = 0, warmup_factor: float = 0.001
    ):
        super().__init__()
        if learning_rate <= 0:
            raise ValueError(f"learning_rate: expected a number > 0, got {learning_rate}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps: expected a whole number >= 0, got {warmup_steps}")
        if not 0 <= warmup_factor <= 1:
            raise ValueError(f"warmup_factor: expected a number in 0..1, got {warmup_factor}")
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.warmup_factor = warmup_factor

    def __call__(self, step):
        """The learning rate, float32 scalar, of update number `step` (from 0)."""
        step = ops.cast(step, "float32")
        rate = self._after_warmup(step)
        if self.warmup_steps == 0:
            return rate
        progress = ops.minimum(step / self.warmup_steps, 1.0)
        return rate * (self.warmup_factor + (1.0 - self.warmup_factor) * progress)

    def _after_warmup(self, step):
        raise NotImplementedError

    def get_config(self):
        """The constructor's arguments, which are all attributes."""
        return dict(vars(self))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class WarmupConstant(_WarmupSchedule):
    """Linear warm-up, then a constant rate.

    Args:
        learning_rate: The rate after warm-up, > 0.
        warmup_steps: Updates until the full rate; 0 = no warm-up.
        warmup_factor: Share of the rate at step 0.

    Example:
        >>> float(WarmupConstant(1.0, warmup_steps=10, warmup_factor=0.5)(5))
        0.75
    """

    def _after_warmup(self, step):
        return ops.full_like(step, self.learning_rate)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class WarmupStepDecay(_WarmupSchedule):
    """Linear warm-up, then the rate is multiplied by `decay_factor` at each of `decay_steps`.

    Args:
        learning_rate: The rate after warm-up, > 0.
        decay_steps: Increasing step numbers; update number d is the first with the lower rate.
        decay_factor: Factor on the rate at each of them, > 0.
        **warmup: `warmup_steps` and `warmup_factor` of `WarmupConstant`.

    Example:
        >>> float(WarmupStepDecay(1.0, decay_steps=(60, 80), decay_factor=0.5)(80))
        0.25
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        decay_steps: Sequence[int],
        decay_factor: float = 0.1,
        **warmup,
    ):
        super().__init__(learning_rate, **warmup)
        decay_steps = [int(step) for step in decay_steps]
        if decay_steps != sorted(set(decay_steps)) or any(step < 1 for step in decay_steps):
            raise ValueError(f"decay_steps: expected increasing steps >= 1, got {decay_steps}")
        if decay_factor <= 0:
            raise ValueError(f"decay_factor: expected a number > 0, got {decay_factor}")
        self.decay_steps = decay_steps
        self.decay_factor = decay_factor

    def _after_warmup(self, step):
        rate = ops.full_like(step, self.learning_rate)
        for decay_step in self.decay_steps:
            rate = ops.where(step >= decay_step, rate * self.decay_factor, rate)
        return rate


@keras.saving.register_keras_serializable(package=_PACKAGE)
class WarmupCosine(_WarmupSchedule):
    """Linear warm-up, then half a cosine down to 0 at `total_steps`.

    With t = (step - warmup_steps) / (total_steps - warmup_steps), clipped to 0..1, the rate
    after warm-up is `learning_rate * (1 + cos(pi * t)) / 2`.

    Args:
        learning_rate: The rate after warm-up, > 0.
        total_steps: The length of the run; above `warmup_steps`.
        **warmup: `warmup_steps` and `warmup_factor` of `WarmupConstant`.

    Example:
        >>> round(float(WarmupCosine(1.0, total_steps=100)(50)), 6)
        0.5
    """

    def __init__(self, learning_rate: float, *, total_steps: int, **warmup):
        super().__init__(learning_rate, **warmup)
        if total_steps <= self.warmup_steps:
            raise ValueError(
                f"warmup_steps: expected fewer than the {total_steps} steps of the run with a "
                f"cosine schedule, got {self.warmup_steps}"
            )
        self.total_steps = total_steps

    def _after_warmup(self, step):
        span = self.total_steps - self.warmup_steps
        progress = ops.clip((step - self.warmup_steps) / span, 0.0, 1.0)
        return 0.5 * self.learning_rate * (1.0 + ops.cos(math.pi * progress))
