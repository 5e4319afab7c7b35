"""Training: optimizer, learning rates, strategies, checkpoints, callbacks and the loop.

The names are imported on first use: to load a saved model, Keras needs the optimizers and
schedules, and nothing else of this package.
"""

import importlib

_NAMES = {
    "SGD": "optimizers",
    "WarmupConstant": "schedules",
    "WarmupCosine": "schedules",
    "WarmupStepDecay": "schedules",
}
_MODULES = ("callbacks", "checkpoints", "loop", "optimizers", "schedules", "strategy")

__all__ = [*_NAMES, *_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
