"""FCOS object detection for Keras 3 on TensorFlow 2.

The public names are imported on first use, so that `import fcos_tf` is cheap and a command line
answers `--help` without loading TensorFlow.
"""

import importlib

from fcos_tf.version import __version__

_CLASSES = {"FCOS": "fcos_tf.models.fcos"}
_MODULES = ("data", "evaluation", "layers", "models", "ops", "training", "visualization")

__all__ = ["FCOS", "__version__", "data", "evaluation", "layers", "models", "ops"]
__all__ += ["training", "visualization"]


def __getattr__(name: str):
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
