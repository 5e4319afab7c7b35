"""Tensor names of published detectors: what the implementations have in common.

A module is a parameter's name without its last part: `backbone.body.conv1` has the parameter
`backbone.body.conv1.weight`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from fcos_tf.convert.backbones import SUFFIXES, tensor_names
from fcos_tf.models.detector import Detector

_PARAMETERS = {**SUFFIXES, "bias": "bias", "scale": "scale"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavour:
    """Names of one implementation of a model, and the settings of its checkpoints.

    Attributes:
        model: the detector.
        presets: variant -> key of its `presets`; the first is the default.
        body: name of a ResNet's parameter in torchvision's classifiers -> in the detector.
        pyramid: layer of `layers.fpn.FeaturePyramid` -> module.
        settings: arguments of the model found in a file -> further arguments that replace the
            preset's for such a checkpoint.
        ignore: shell patterns of tensors that are no weights.
        renamed: patterns of names in files of older versions, and their replacements.
    """

    model: type[Detector]
    presets: Mapping[str, str]
    body: Callable[[str], str]
    pyramid: Mapping[str, str]
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda found: {}
    ignore: Sequence[str] = ()
    renamed: Sequence[tuple[str, str]] = ()

    @property
    def marks(self) -> Sequence[str]:
        """Modules by which a file is recognised; the last has the logits of the classes."""
        raise NotImplementedError

    def find_variant(self, tensors: Mapping[str, np.ndarray]) -> str:
        """The variant of a file; the default, where its tensors do not tell."""
        return next(iter(self.presets))

    def find_architecture(self, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Arguments of the model read off the tensors; None: those do not exist."""
        raise NotImplementedError

    def modules(self, model: Detector) -> Iterator[tuple[keras.layers.Layer, str]]:
        """The layers after the pyramid's convolutions, and the module of each."""
        raise NotImplementedError

    def transforms(self, model: Detector) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """The file's name -> the function that turns a tensor into a variable's value."""
        return {}

    def variables(self, model: Detector) -> dict[str, keras.Variable]:
        """The file's name of every variable of a detector with a ResNet."""
        body = tensor_names(model.backbone, "torchvision")
        found = {self.body(body[variable.path]): variable for variable in model.backbone.weights}
        fpn = model.fpn
        pyramid = fpn.laterals + fpn.output_convs + fpn.extra_convs
        modules = [(layer, self.pyramid[layer.name]) for layer in pyramid]
        for layer, module in (*modules, *self.modules(model)):
            for variable in layer.weights:
                found[f"{module}.{_PARAMETERS[variable.name]}"] = variable
        return found


def length(tensors: Mapping[str, np.ndarray], module: str) -> int | None:
    """The number of outputs of a module; None without its tensors."""
    for name in (f"{module}.weight", f"{module}.bias"):
        if name in tensors and tensors[name].size and tensors[name].ndim:
            return len(tensors[name])
    return None


def indices(tensors: Mapping[str, np.ndarray], sequence: str) -> set[int]:
    """The indices K of "SEQUENCE.K.REST" among the names."""
    pattern = re.compile(rf"{re.escape(sequence)}\.(\d+)\.")
    return {int(match[1]) for match in map(pattern.match, tensors) if match}


def pyramid_modules(levels: Sequence[int], lateral: str, output: str, first: int) -> dict[str, str]:
    """Modules of the pyramid's convolutions; `first` is the number of the first level in a file."""
    return {
        f"{kind}_p{level}": module.format(number)
        for number, level in enumerate(levels, start=first)
        for kind, module in (("lateral", lateral), ("output", output))
    }


def torchvision_body(name: str) -> str:
    """As in the classifiers, one level down."""
    return f"backbone.body.{name}"


def detectron2_body(name: str) -> str:
    """Stages start at res2, and a norm is part of its convolution."""
    if name.startswith("layer"):
        stage, rest = name.removeprefix("layer").split(".", 1)
        name = f"res{int(stage) + 1}.{rest}"
    else:
        name = f"stem.{name}"
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return f"backbone.bottom_up.{name}"


# Before torchvision 0.13 a convolution had no activation, so its block was no sequence
# (ops/feature_pyramid_network.py, models/detection/rpn.py).
TORCHVISION_RENAMED = (
    (r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)
