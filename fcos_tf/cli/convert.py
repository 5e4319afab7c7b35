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

Of the flags below, --backbone, --classes, --image_size, --quality and those of "Detections" count,
if they are given: what the file must be, or the detector is to have in place of what it had.
"""

from pathlib import Path
from typing import Any

from fcos_tf.cli import command_line
from fcos_tf.config import Config

FLAVOURS = ("torchvision", "official", "adelaidet", "detectron2", "imagenet")
_OPTIONS = {
    "source": "The file to convert: .pth, .pt, .bin, .pkl or .safetensors",
    "flavour": f"Whose file it is: {', '.join(FLAVOURS)}",
    "output": "The .keras file to write, a new one",
    "variant": "With --flavour=official: improved or base; default improved",
    "entry": "Which of several state dicts in the file, such as model_ema",
}
_SETTINGS = (
    "backbone",
    "image_size",
    "quality",
    "score_threshold",
    "nms_threshold",
    "topk_per_level",
    "max_detections",
)


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_convert, __doc__, argv, options=_OPTIONS)


def _convert(config: Config, flags) -> None:
    for name in ("source", "flavour", "output"):
        if not flags[name].value:
            raise ValueError(f"--{name}: expected a value, got none")
    source, flavour, output = (flags[name].value for name in ("source", "flavour", "output"))
    if flavour not in FLAVOURS:
        raise ValueError(f"--flavour: expected one of {', '.join(FLAVOURS)}, got {flavour!r}")
    if flags["variant"].value and flavour != "official":
        raise ValueError(f"--variant: expected with --flavour=official only, got {flavour}")
    if flavour == "imagenet" and not flags["backbone"].present:
        raise ValueError("--backbone: expected with --flavour=imagenet, got none")
    if Path(output).suffix != ".keras":
        raise ValueError(f"--output: expected a file that ends in .keras, got {output}")
    if Path(output).exists():
        raise ValueError(f"--output: expected a new file, got {output}, which exists")
    if not Path(source).exists():
        raise FileNotFoundError(f"--source: no file {source}")
    options = {name: getattr(config, name) for name in _SETTINGS if flags[name].present}
    if config.classes:
        options["class_names"] = config.classes
    command_line.load_tensorflow()
    print(
        convert(
            source,
            flavour,
            output,
            variant=flags["variant"].value,
            entry=flags["entry"].value,
            **options,
        )
    )


def convert(source: str | Path, flavour: str, output: str | Path, **options: Any) -> Path:
    """Converts a checkpoint, prints the report and writes the model.

    Args:
        source: The file of PyTorch.
        flavour: One of `FLAVOURS`.
        output: The file to write; its folder is made if it is not there.
        **options: Of `fcos_tf.convert.convert_checkpoint`; for "imagenet" only `backbone` and
            `entry` count.

    Returns:
        `output`.

    Raises:
        ValueError: If the source is not what it should be or not all tensors fit; nothing is
            written then.
        FileNotFoundError: If there is no such file.
    """
    from fcos_tf.training import checkpoints

    if flavour == "imagenet":
        from fcos_tf.convert.backbones import load_imagenet_file

        model, report = load_imagenet_file(source, options["backbone"], entry=options.get("entry"))
    else:
        from fcos_tf.convert import convert_checkpoint

        model, report = convert_checkpoint(source, flavour=flavour, **options)
    print(report, flush=True)
    if not report.is_complete:
        raise ValueError(f"{source}: not all tensors fit, see the report; nothing was written")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_model(model, output)
    return output


if __name__ == "__main__":
    main()
