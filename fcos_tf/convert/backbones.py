"""ImageNet files of torchvision, timm and Google's EfficientNet-Lite as our backbones.

Module names of each convolution and its batch norm:

                        torchvision                             timm
    ResNet, ResNeXt     conv1, bn1                              the same
                        layer{s}.{b}.conv{i}, bn{i}
                        layer{s}.{b}.downsample.0, .1
    RegNetX             stem.0, .1                              stem.conv, .bn
                        trunk_output.block{s}.block{s}-{b}      s{s}.b{b}
                            .f.a.0, .1  (b, c)                      .conv{i}.conv, .bn
                            .proj.0, .1                             .downsample.conv, .bn
    MobileNetV2         features.0.0, .1                        conv_stem, bn1
                        features.{n}.conv                       blocks.{r}.{b}
                            .0.0, .1  expand                        .conv_pw, .bn1
                            .1.0, .1  depthwise                     .conv_dw, .bn2
                            .2, .3    project                       .conv_pwl, .bn3
                        features.18.0, .1                       conv_head, bn2
                        EfficientNet-PyTorch
    EfficientNet-Lite   _conv_stem, _bn0                        as of MobileNetV2
                        _blocks.{n}._expand_conv, ._bn0
                            ._depthwise_conv, ._bn1
                            ._project_conv, ._bn2
                        _conv_head, _bn1

The first block of a MobileNetV2 has no expansion: its numbers are lower by one, and timm's names
are conv_dw and conv_pw. EfficientNet-PyTorch keeps the numbers.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import keras
import numpy as np

from fcos_tf.convert.report import IGNORED, ConversionReport, assign, depthwise_to_keras
from fcos_tf.convert.torch_files import read_tensors
from fcos_tf.layers import efficientnet_lite, mobilenet
from fcos_tf.layers.backbones import BACKBONES, build_backbone

# Name of a Keras variable -> of PyTorch's parameter or buffer.
SUFFIXES = {
    "kernel": "weight", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


class Scheme(NamedTuple):
    """Tensor names of an implementation of a family, as modules (convolution, batch norm).

    Attributes:
        stem: modules of the stem.
        block: stage, block and "1", "2", "3" or "shortcut" -> modules.
        ignore: patterns of tensors outside the backbone: classifiers.
        last: modules of the convolution before the classifier, if there is one.
    """

    stem: tuple[str, str]
    block: Callable[[int, int, str], tuple[str, str]]
    ignore: tuple[str, ...]
    last: tuple[str, str] | None = None

    def modules(self, part: str) -> tuple[str, str]:
        """The modules of "stem", "stage1_block2_3" or "stage2_block1_shortcut"."""
        if part == "stem":
            return self.stem
        if part == "last":
            return self.last
        stage, block, path = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)", part).groups()
        return self.block(int(stage), int(block), path)

    def has_stem(self, tensors: Mapping[str, np.ndarray]) -> bool:
        """Whether the tensors are of this implementation, by the name of the first one."""
        return f"{self.stem[0]}.weight" in tensors

    def has_last(self, tensors: Mapping[str, np.ndarray]) -> bool:
        """Whether the convolution before the classifier is among the tensors."""
        return self.last is not None and f"{self.last[0]}.weight" in tensors


def load_imagenet_file(
    path: str | os.PathLike, backbone: str, *, entry: str | None = None
) -> tuple[keras.Model, ConversionReport]:
    """Reads the ImageNet weights of a ResNet, ResNeXt, RegNetX, MobileNetV2 or EfficientNet-Lite.

    The tensor names tell torchvision's files from timm's.

    Args:
        path: a `.pth` or `.safetensors` file, see `torch_files.read_tensors`.
        backbone: one of `CONVERTIBLE`.
        entry: the dictionary of tensors to use, where the file has several.

    Returns:
        The backbone and the report. The backbone has the file's weights if and only if the report
        is complete: call `report.raise_if_incomplete(path)`. Saved as a `.keras` file it serves as
        backbone weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unsupported backbone, or an unreadable file.

    Example:
        >>> model, report = load_imagenet_file("resnet50-0676ba61.pth", "resnet50")
        >>> report.raise_if_incomplete("resnet50-0676ba61.pth")
        >>> model.save("resnet50.keras")
    """
    if backbone not in CONVERTIBLE:
        raise ValueError(f"backbone must be one of {', '.join(CONVERTIBLE)}; got {backbone!r}")
    tensors = read_tensors(path, entry=entry)
    model = build_backbone(backbone, last_conv=_scheme(backbone, tensors).has_last(tensors))
    report = assign_tensors(model, tensors)
    if not report.is_complete:
        report.fits = _who_fits(tensors, backbone)
    return model, report


def assign_tensors(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> ConversionReport:
    """Assigns the tensors of an ImageNet file to a backbone, all or none, and reports the result.

    Args:
        model: from `build_backbone`; its name tells the family.
        tensors: torchvision's or timm's name -> array in PyTorch's order of axes.
    """
    scheme = _scheme(model.name, tensors)
    transforms = {
        layer.kernel.path: depthwise_to_keras
        for layer in model.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    }
    return assign(
        {weight.path: weight for weight in model.weights},
        tensors,
        _names(model, scheme),
        transforms=transforms,
        ignore=(*IGNORED, *scheme.ignore),
    )


def tensor_names(model: keras.Model, source: str) -> dict[str, str]:
    """Path of each of a backbone's variables -> its name in another implementation.

    Args:
        model: from `build_backbone`; its name tells the family.
        source: "torchvision" or "timm"; of an EfficientNet-Lite "efficientnet_pytorch" or "timm".
    """
    return _names(model, _schemes(model.name)[source])


def _names(model, scheme):
    names = {}
    for layer in model.layers:
        for weight in layer.weights:
            part, kind = layer.name.rsplit("_", 1)
            conv, norm = scheme.modules(part)
            names[weight.path] = f"{norm if kind == 'norm' else conv}.{SUFFIXES[weight.name]}"
    return names


def _who_fits(tensors, backbone):
    """Another backbone that all tensors fit, or None."""
    others = (
        name
        for name in CONVERTIBLE
        if name != backbone and any(each.has_stem(tensors) for each in _schemes(name).values())
    )
    fits = (each for each in others if assign_tensors(build_backbone(each), tensors).is_complete)
    return next(fits, None)


def _resnet(stage, block, path):
    prefix = f"layer{stage}.{block - 1}"
    if path == "shortcut":
        return f"{prefix}.downsample.0", f"{prefix}.downsample.1"
    return f"{prefix}.conv{path}", f"{prefix}.bn{path}"


def _regnet_of_torchvision(stage, block, path):
    path = "proj" if path == "shortcut" else "f." + "abc"[int(path) - 1]
    prefix = f"trunk_output.block{stage}.block{stage}-{block - 1}.{path}"
    return f"{prefix}.0", f"{prefix}.1"


def _regnet_of_timm(stage, block, path):
    prefix = f"s{stage}.b{block}.{'downsample' if path == 'shortcut' else f'conv{path}'}"
    return f"{prefix}.conv", f"{prefix}.bn"


def _mobilenet_of_torchvision(stage, block, path):
    number = block + _blocks_before(mobilenet.STAGES, stage)
    index = int(path) - (1 if number > 1 else 2)
    prefix = f"features.{number}.conv"
    if path == "3":
        return f"{prefix}.{index}", f"{prefix}.{index + 1}"
    return f"{prefix}.{index}.0", f"{prefix}.{index}.1"


def _lite_of_pytorch(stages, stage, block, path):
    prefix = f"_blocks.{block - 1 + _blocks_before(stages, stage)}"
    conv = ("expand", "depthwise", "project")[int(path) - 1]
    return f"{prefix}._{conv}_conv", f"{prefix}._bn{int(path) - 1}"


def _blocks_before(stages, stage):
    return sum(row.blocks for rows in stages[: stage - 1] for row in rows)


def _mobilenet_of_timm(stages, stage, block, path):
    first_row = sum(len(rows) for rows in stages[: stage - 1])
    rows = enumerate(stages[stage - 1], first_row)
    row, index = [(i, k) for i, row in rows for k in range(row.blocks)][block - 1]
    convs, norm = ("pw", "dw", "pwl"), int(path)
    if (row, index) == (0, 0):
        convs, norm = ("", "dw", "pw"), int(path) - 1
    prefix = f"blocks.{row}.{index}"
    return f"{prefix}.conv_{convs[int(path) - 1]}", f"{prefix}.bn{norm}"


def _timm(stages):
    return Scheme(
        ("conv_stem", "bn1"),
        partial(_mobilenet_of_timm, stages),
        ("conv_head.*", "bn2.*", "classifier.*"),
        ("conv_head", "bn2"),
    )


def _lite(stages):
    own = Scheme(
        ("_conv_stem", "_bn0"),
        partial(_lite_of_pytorch, stages),
        ("_conv_head.*", "_bn1.*", "_fc.*"),
        ("_conv_head", "_bn1"),
    )
    return {"efficientnet_pytorch": own, "timm": _timm(stages)}


_RESNET = dict.fromkeys(("torchvision", "timm"), Scheme(("conv1", "bn1"), _resnet, ("fc.*",)))
_FAMILIES = {
    "resnet": _RESNET,
    "resnext": _RESNET,
    "regnetx": {
        "torchvision": Scheme(("stem.0", "stem.1"), _regnet_of_torchvision, ("fc.*",)),
        "timm": Scheme(("stem.conv", "stem.bn"), _regnet_of_timm, ("head.fc.*",)),
    },
    "mobilenet": {
        "torchvision": Scheme(
            ("features.0.0", "features.0.1"),
            _mobilenet_of_torchvision,
            ("features.18.*", "classifier.*"),
            ("features.18.0", "features.18.1"),
        ),
        "timm": _timm(mobilenet.STAGES),
    },
    **{name: _lite(efficientnet_lite.stages(name)) for name in efficientnet_lite.VARIANTS},
}


def _scheme(backbone: str, tensors: Mapping[str, np.ndarray]) -> Scheme:
    """The first with the stem, else the first."""
    return max(_schemes(backbone).values(), key=lambda each: each.has_stem(tensors))


def _schemes(backbone: str) -> dict[str, Scheme] | None:
    return _FAMILIES.get(backbone) or _FAMILIES.get(re.match("[a-z]*", backbone).group())


CONVERTIBLE = tuple(name for name in BACKBONES if _schemes(name))
