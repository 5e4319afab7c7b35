"""Converts PyTorch checkpoints to Keras.

    python tools/convert.py --source=fcos_resnet50_fpn_coco-99b0c9b7.pth --flavour=torchvision
        --output=fcos.keras
    python tools/convert.py --source=FCOS_imprv_R_50_FPN_1x.pth --flavour=official
        --variant=improved --output=fcos.keras
    python tools/convert.py --source=resnet18-f37072fd.pth --flavour=imagenet --backbone=resnet18
        --output=resnet18.keras

A published FCOS detector (flavours torchvision, official, adelaidet and detectron2) becomes a model
with its class names and all its settings, for --weights of the other tools; an ImageNet classifier
of torchvision or timm (imagenet) a backbone for --backbone_weights. The report says which
tensors were used; nothing is written unless all of them fit.

The options of "Data" to "Detections" count if they are given: what the file must be, or the
detector is to have in place of what it had.
"""

import dataclasses
from pathlib import Path

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config, DetectionOptions
from fcos_tf.options import Options, fields_of, option, options_for
from fcos_tf.tensorflow_words import load_tensorflow

_USES = ("classes", "image_size", "backbone", "quality", DetectionOptions)


# fmt: off
@dataclasses.dataclass(frozen=True)
class ConvertOptions(Options):
    """What to convert."""

    source: str = option(
        "", "The file to convert: .pth, .pt, .bin, .pkl or .safetensors.", required=True,
        also=("input", *WEIGHTS_WORDS))
    flavour: str = option(
        "", "Whose file it is.", required=True, also=("flavor",),
        choices=("torchvision", "official", "adelaidet", "detectron2", "imagenet"))
    output: str = option(
        "", "The .keras file to write, a new one.", required=True, also=OUTPUT_WORDS)
    variant: str | None = option(
        None, "With --flavour=official; default improved.", choices=("improved", "base"))
    entry: str | None = option(
        None, "Which of several state dicts in the file, such as model_ema.")
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_convert, __doc__, argv, uses=_USES, options=ConvertOptions)


def _convert(config: Config, options: ConvertOptions, given: frozenset[str]) -> None:
    if options.variant and options.flavour != "official":
        raise ValueError(f"--variant: expected with --flavour=official only, got {options.flavour}")
    if options.flavour == "imagenet" and "backbone" not in given:
        raise ValueError("--backbone: expected with --flavour=imagenet, got none")
    if options.flavour == "imagenet" and given & set(fields_of(Config)) - {"backbone"}:
        idle = sorted(given & set(fields_of(Config)) - {"backbone"})
        raise ValueError(f"--{idle[0]}: expected with a detector only, got --flavour=imagenet")
    if Path(options.output).suffix != ".keras":
        raise ValueError(f"--output: expected a file that ends in .keras, got {options.output}")
    if Path(options.output).exists():
        raise ValueError(f"--output: expected a new file, got {options.output}, which exists")
    if not Path(options.source).exists():
        raise FileNotFoundError(f"--source: no file {options.source}")
    settings = {name: value for name, value in vars(config).items() if name in given}
    load_tensorflow()
    from fcos_tf.convert import convert_checkpoint
    from fcos_tf.convert.backbones import load_imagenet_file
    from fcos_tf.training import checkpoints

    if options.flavour == "imagenet":
        model, report = load_imagenet_file(options.source, config.backbone, entry=options.entry)
    else:
        settings["class_names"] = settings.pop("classes", ()) or None
        given_too = options_for(options, convert_checkpoint)
        model, report = convert_checkpoint(options.source, **given_too, **settings)
    print(report, flush=True)
    if not report.is_complete:
        raise ValueError(
            f"{options.source}: not all tensors fit, see the report; nothing was written"
        )
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_model(model, output)
    print(output)
