"""Published checkpoints of detectors, from PyTorch to Keras."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fcos_tf.convert import fcos_names, rcnn_names
from fcos_tf.convert.names import Flavour, indices
from fcos_tf.convert.report import IGNORED, ConversionReport, assign
from fcos_tf.convert.torch_files import read_tensors
from fcos_tf.layers.resnet import DEPTHS
from fcos_tf.models.detector import Detector

# The models of each implementation.
FLAVOURS: dict[str, tuple[Flavour, ...]] = {
    name: (names, *filter(None, [rcnn_names.FLAVOURS.get(name)]))
    for name, names in fcos_names.FLAVOURS.items()
}
# Blocks of each stage, whether bottlenecks, groups and their width in the first stage.
BODIES = {
    **{f"resnet{depth}": (*body, 1, 64) for depth, body in DEPTHS.items()},
    "resnext50_32x4d": (*DEPTHS[50], 32, 4),
    "resnext101_32x8d": (*DEPTHS[101], 32, 8),
    "resnext101_64x4d": (*DEPTHS[101], 64, 4),
}
_PIXELS = {"mean": "pixel_mean", "std": "pixel_std"}  # argument of a model -> detectron2's buffer


def from_torch(path: str | os.PathLike, *, flavour: str, **options) -> Detector:
    """Converts a published checkpoint of FCOS or Faster R-CNN.

    Args:
        path: a `.pth`, `.pkl` or `.safetensors` file, see `read_tensors`.
        flavour: its source: "torchvision", "official" (tianzhi0549/FCOS), "adelaidet" or
            "detectron2".
        **options: see `convert_checkpoint`.

    Returns:
        A detector with the predictions, class names and settings of the checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `convert_checkpoint`; or a tensor is missing, left over or of another
            shape, with the whole report.

    Example:
        >>> model = from_torch("fcos_resnet50_fpn_coco-99b0c9b7.pth", flavour="torchvision")
        >>> model.num_classes, model.image_size, model.score_threshold
        (91, '800,1333', 0.2)
    """
    model, report = convert_checkpoint(path, flavour=flavour, **options)
    report.raise_if_incomplete(path)
    return model


def convert_checkpoint(
    path: str | os.PathLike,
    *,
    flavour: str,
    variant: str | None = None,
    backbone: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    entry: str | None = None,
    **overrides,
) -> tuple[Detector, ConversionReport]:
    """Converts a published checkpoint of FCOS or Faster R-CNN and reports which tensors fitted.

    The tensors tell the model, the backbone, the number of classes, the levels of the pyramid and
    the depth of the head; the rest is the flavour's preset.

    Args:
        path: of the file.
        flavour: see `from_torch`.
        variant: of the official code, "improved" (the default) or "base", whose files have the
            same tensors with different meanings. Others are known by their tensors.
        backbone: a ResNet or ResNeXt of `layers.backbones`; None: the one in the file.
        num_classes: the expected number of classes; None: any.
        class_names: the expected classes. None: the preset's if their number fits, else no names.
        entry: which of several state dicts in the file, see `read_tensors`.
        **overrides: arguments of the model that replace those found and the preset's, such as
            `quality="iou"` for AdelaiDet's checkpoints of that name.

    Returns:
        The model and the report, with the tensor names of the flavour's newest version. The model
        has the checkpoint's weights if and only if the report is complete; else they are random.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that `read_tensors` refuses or of another flavour, an unknown flavour,
            variant or network, or an unexpected number of classes.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour: expected one of {', '.join(FLAVOURS)}, got {flavour!r}")
    if backbone is not None and backbone not in BODIES:
        raise ValueError(f"backbone: expected one of {', '.join(BODIES)}, got {backbone!r}")
    _check_variant(flavour, variant)
    tensors = read_tensors(path, entry=entry)
    names = _recognise(path, tensors, flavour)
    preset = names.presets[variant or names.find_variant(tensors)]
    for pattern, replacement in names.renamed:
        tensors = {re.sub(pattern, replacement, name): x for name, x in tensors.items()}
    found = {"backbone": backbone or _find_backbone(path, tensors, names)}
    read = names.find_architecture(tensors)
    found |= {name: value for name, value in read.items() if value is not None}
    found |= names.settings(found)
    wanted = _check_classes(path, found.get("num_classes"), num_classes, class_names)
    settings = {**found, **wanted, **overrides}
    listed = ", ".join(f"{name}={value}" for name, value in found.items())
    notes = [f"{flavour}: settings of {preset}", f"found: {listed}"]
    pixels = _find_pixels(tensors, names.model.preset_arguments(preset, settings))
    for name, values in pixels.items():
        notes.append(f"{_PIXELS[name]} in the file differs from the preset: {name}={values}")
    model = names.model.from_preset(preset, load_weights=False, **{**pixels, **settings})
    if model.class_names is None:
        notes.append("class names: unknown")
    report = _assign(model, tensors, names)
    report.notes = notes
    return model, report


def _check_variant(flavour: str, variant: str | None) -> None:
    variants = [name for names in FLAVOURS[flavour] for name in names.presets if name]
    if variant is not None and variant not in variants:
        known = ", ".join(variants) or "none"
        raise ValueError(f"variant: expected for flavour {flavour} {known}, got {variant!r}")


def _recognise(path, tensors: Mapping[str, np.ndarray], flavour: str) -> Flavour:
    """The model of a flavour; refuses the tensor names of another implementation or of none."""

    def has_head(names: Flavour) -> bool:
        return any(name.startswith(tuple(f"{part}." for part in names.marks)) for name in tensors)

    others = [
        (name, names) for name, models in FLAVOURS.items() for names in models if has_head(names)
    ]
    for name, names in others:
        if name == flavour:
            return names
    got = f"those of {others[0][0]}" if others else f"names such as {', '.join(list(tensors)[:3])}"
    expected = " or ".join(f"{names.marks[-1]}.weight" for names in FLAVOURS[flavour])
    raise ValueError(f"{path}: expected names of {flavour} such as {expected}, got {got}")


def _find_backbone(path, tensors: Mapping[str, np.ndarray], names: Flavour) -> str:
    """The backbone, by its numbers of blocks and the kernel of its first 3x3 convolution."""
    stages = [names.body(f"layer{stage}.").removesuffix(".") for stage in range(1, 5)]
    blocks = tuple(max(indices(tensors, stage), default=-1) + 1 for stage in stages)
    has_bottlenecks = names.body("layer1.0.conv3.weight") in tensors
    kernel = tensors.get(names.body("layer1.0.conv2.weight"))
    is_kernel = kernel is not None and kernel.ndim == 4 and kernel.size
    filters, width = kernel.shape[:2] if is_kernel else (64, 64)
    groups = filters // width
    for name, body in BODIES.items():
        if body == (blocks, has_bottlenecks, groups, width):
            return name
    raise ValueError(
        f"{path}: expected the body of {', '.join(BODIES)}, got stages of {blocks} blocks with "
        f"{groups} groups of width {width}; name the backbone to see what is missing"
    )


def _check_classes(path, found, num_classes, class_names) -> dict[str, Any]:
    """The expected classes as arguments of the model; refuses another number in the file."""
    wanted: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if class_names is not None:
        wanted = {"num_classes": len(class_names), "class_names": tuple(class_names)}
    for number in (num_classes, wanted.get("num_classes")):
        if None not in (number, found) and number != found:
            raise ValueError(f"{path}: expected {number} classes, got {found}")
    return wanted


def _find_pixels(tensors, settings) -> dict[str, tuple[float, ...]]:
    """Pixel mean and deviation of the file, where they differ from the settings."""
    pixels = {}
    for name, buffer in _PIXELS.items():
        values = tensors.get(buffer, np.empty(0)).ravel()
        if len(values) == 3 and not np.allclose(values, settings[name], rtol=1e-6):
            # By way of text, so that the float32 gives 57.12, not 57.1199989.
            pixels[name] = tuple(float(str(value)) for value in values)
    return pixels


def _assign(model: Detector, tensors, names: Flavour) -> ConversionReport:
    """Assigns the tensors to the model, all or none."""
    variables = names.variables(model)
    buffers = [name for name in _PIXELS.values() if name in tensors and tensors[name].size == 3]
    report = assign(
        variables,
        {name: tensor for name, tensor in tensors.items() if name not in buffers},
        dict(zip(variables, variables, strict=True)),
        transforms=names.transforms(model),
        ignore=(*IGNORED, *names.ignore),
    )
    report.used += buffers
    return report
