"""FCOS object detection for Keras 3 on TensorFlow 2.

The public names are imported on first use, so that `import fcos_tf` is cheap and a command line
answers `--help` without loading TensorFlow.
"""

import importlib
import importlib.abc
import sys

from fcos_tf.version import __version__

_NAMES = {
    "FCOS": "fcos_tf.models.fcos",
    "FasterRCNN": "fcos_tf.models.faster_rcnn",
    "ImageClassifier": "fcos_tf.models.classifier",
    "detect": "fcos_tf.detecting.models",
    "fetch_weights": "fcos_tf.convert.fetching",
    "load_model": "fcos_tf.models.weights",
}
_MODULES = (
    "build", "convert", "data", "detecting", "evaluation", "export", "layers", "models", "ops",
    "training", "visualization",
)  # fmt: skip
# They register the classes of saved models.
_SERIALIZABLE = (
    "fcos_tf.models.fcos", "fcos_tf.models.faster_rcnn", "fcos_tf.models.classifier",
    "fcos_tf.training.optimizers", "fcos_tf.training.schedules",
)  # fmt: skip

__all__ = [*_NAMES, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _NAMES:
        _register()
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{name}")
        if "keras" in sys.modules:
            _register()
        return module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)


def _register() -> None:
    """Registers the classes of this package for `keras.models.load_model`."""
    for module in _SERIALIZABLE:
        importlib.import_module(module)


class _RegisterWithKeras(importlib.abc.MetaPathFinder):
    """Registers the classes after the import of Keras and of the module here that imports it."""

    def __init__(self):
        self._depth = 0  # modules of this package whose import is in progress

    def find_spec(self, name, path, target=None):
        """The spec of Keras or of a module of this package; its execution registers."""
        is_own = name.startswith(f"{__name__}.")
        if name != "keras" and not is_own:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module):
            self._depth += is_own
            try:
                execute(module)
            finally:
                self._depth -= is_own
            if "keras" in sys.modules and not self._depth and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = execute_and_register
        return spec


if "keras" in sys.modules:  # TensorFlow is already loaded
    _register()
else:
    sys.meta_path.insert(0, _RegisterWithKeras())
