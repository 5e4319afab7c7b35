"""Converts PyTorch checkpoints to Keras.

    python tools/convert.py --source=fcos_resnet50_fpn_coco-99b0c9b7.pth --flavour=torchvision
        --output=fcos.keras
    python tools/convert.py --source=FCOS_imprv_R_50_FPN_1x.pth --flavour=official
        --variant=improved --output=fcos.keras
    python tools/convert.py --source=resnet18-f37072fd.pth --flavour=imagenet --backbone=resnet18
        --output=resnet18.keras

A published FCOS detector (flavours torchvision, official, adelaidet and detectron2) becomes a model
with its class names and settings, for --weights of the other tools. An ImageNet classifier of
torchvision, timm or EfficientNet-Lite (imagenet) becomes a backbone for --backbone_weights. The
report lists used and missing tensors; nothing is written unless all of them fit.

Given options of "Data" to "Detections" are checked against the file or replace the detector's
settings.
"""

import dataclasses
from pathlib import Path

from fcos_tf.cli import command_line
from fcos_tf.config import OUTPUT_WORDS, WEIGHTS_WORDS, Config, DetectionOptions
from fcos_tf.options import Options, argument_of, fields_of, option, options_for
from fcos_tf.tensorflow_words import escaped, load_tensorflow

_USES = ("classes", "image_size", "backbone", "quality", DetectionOptions)


# fmt: off
@dataclasses.dataclass(frozen=True)
class ConvertOptions(Options):
    """What to convert."""

    source: str = option(
        "", "Checkpoint: .pth, .pt, .bin, .pkl or .safetensors.", required=True,
        also=("input", *WEIGHTS_WORDS))
    flavour: str = option(
        "", "Source of the checkpoint.", required=True, also=("flavor",),
        choices=("torchvision", "official", "adelaidet", "detectron2", "imagenet"))
    output: str = option("", "New .keras file to write.", required=True, also=OUTPUT_WORDS)
    variant: str | None = option(
        None, "Variant of --flavour=official; default improved.", choices=("improved", "base"))
    entry: str | None = option(None, "State dict of a file with several, such as model_ema.")
# fmt: on


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_convert, __doc__, argv, uses=_USES, options=ConvertOptions)


def _convert(config: Config, options: ConvertOptions, given: command_line.Given) -> None:
    mode = f"--flavour={options.flavour}"
    if options.flavour != "official":
        command_line.refuse_unused(given, mode, ["variant"])
    if options.flavour == "imagenet":
        if "backbone" not in given:
            raise ValueError("--backbone: expected with --flavour=imagenet, got none")
        command_line.refuse_unused(given, mode, fields_of(Config).keys() - {"backbone"})
    output = Path(options.output)
    if output.suffix != ".keras":
        raise ValueError(f"--output: expected a file that ends in .keras, got {output}")
    if output.exists():
        raise ValueError(f"--output: expected a new file, got {output}, which exists")
    if not Path(options.source).exists():
        raise FileNotFoundError(f"--source: no file {options.source}")
    settings = {name: argument_of(config, name) for name in given & set(fields_of(Config))}
    settings = {name: value for name, value in settings.items() if value is not None}
    load_tensorflow()
    from fcos_tf.convert import convert_checkpoint
    from fcos_tf.convert.backbones import load_imagenet_file
    from fcos_tf.training import checkpoints

    if options.flavour == "imagenet":
        model, report = load_imagenet_file(options.source, config.backbone, entry=options.entry)
    else:
        settings["class_names"] = settings.pop("classes", None)
        given_too = options_for(options, convert_checkpoint)
        model, report = convert_checkpoint(options.source, **given_too, **settings)
    print(escaped(str(report), keep="\n"), flush=True)
    if not report.is_complete:
        raise ValueError(
            f"{options.source}: not all tensors fit, see the report; nothing was written"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_model(model, output)
    print(output)
