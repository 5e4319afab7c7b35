"""Training: optimizer, learning rates, strategies, checkpoints, callbacks and the loop."""

from fcos_tf.training import callbacks, checkpoints, loop, optimizers, schedules, strategy
from fcos_tf.training.optimizers import SGD
from fcos_tf.training.schedules import WarmupConstant, WarmupCosine, WarmupStepDecay

__all__ = [
    "SGD",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupStepDecay",
    "callbacks",
    "checkpoints",
    "loop",
    "optimizers",
    "schedules",
    "strategy",
]
