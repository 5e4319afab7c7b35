"""Images -> detections in their own pixels.

The names are imported on first use, so that scoring result files does not import TensorFlow.
"""

import importlib

_NAMES = {
    "Detections": "detections",
    "classify": "classifying",
    "compile_classify": "batches",
    "compile_detect": "batches",
    "detect": "models",
    "detect_batch": "batches",
    "detect_samples": "batches",
    "open_model": "models",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
