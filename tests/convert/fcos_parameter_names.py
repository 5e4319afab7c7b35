"""Parameter names and shapes of published detectors, and files of them with drawn numbers.

Written from the module definitions of tianzhi0549/FCOS (fcos_core/modeling), AdelaiDet
(adet/modeling/fcos/fcos.py), torchvision 0.28 (models/detection/{fcos,faster_rcnn,rpn}.py) and
detectron2 (modeling/meta_arch/fcos.py), not from the package's own maps.
"""

import pickle
import zlib

import keras
import numpy as np

from tests.convert import pickle_bytes as p

NORM = ("weight", "bias", "running_mean", "running_var")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def draw(name, shape):
    """One tensor, from a seed made of its name."""
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = generator.random(shape, np.float32) * 0.1
    return values + 0.5 if name.endswith("running_var") else values - 0.05


def body(prefix, depth, *, style, groups=1, group_width=64):
    """A ResNet: `conv1` with `bn1` beside it in torchvision, `conv1.norm` in detectron2."""
    names = {}

    def add(conv, norm, out, into, size):
        names[f"{prefix}.{conv}.weight"] = (out, into, size, size)
        names.update({f"{prefix}.{norm}.{part}": (out,) for part in NORM})

    detectron2 = style == "detectron2"
    stem = "" if style == "torchvision" else "stem."
    add(f"{stem}conv1", "stem.conv1.norm" if detectron2 else f"{stem}bn1", 64, 3, 7)
    into = 64
    for stage, count in enumerate(BLOCKS[depth]):
        wide = 64 * 2**stage if depth < 50 else 256 * 2**stage
        width = groups * group_width * 2**stage
        for block in range(count):
            at = f"res{stage + 2}.{block}" if detectron2 else f"layer{stage + 1}.{block}"
            if into != wide:
                short = ("shortcut", "shortcut.norm")
                short = short if detectron2 else ("downsample.0", "downsample.1")
                add(f"{at}.{short[0]}", f"{at}.{short[1]}", wide, into, 1)
            if depth < 50:
                shapes = [(wide, into, 3), (wide, wide, 3)]
            else:
                shapes = [(width, into, 1), (width, width // groups, 3), (wide, width, 1)]
            for i, shape in enumerate(shapes, 1):
                norm = f"conv{i}.norm" if detectron2 else f"bn{i}"
                add(f"{at}.conv{i}", f"{at}.{norm}", *shape)
            into = wide
    return names


def conv(name, out, into, size):
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def tower(name, channels, num_convs):
    """Convolution, GroupNorm and ReLU in turn: 0, 1, 3, 4, 6 ..."""
    names = {}
    for k in range(0, 3 * num_convs, 3):
        names |= conv(f"{name}.{k}", channels, channels, 3)
        names |= {f"{name}.{k + 1}.weight": (channels,), f"{name}.{k + 1}.bias": (channels,)}
    return names


def outputs(names, num_classes, channels):
    classes, box, centerness = names
    return {
        **conv(classes, num_classes, channels, 3),
        **conv(box, 4, channels, 3),
        **conv(centerness, 1, channels, 3),
    }


def pyramid(laterals, levels, extra, channels, last):
    """`last`: channels of C5."""
    names = {}
    for k, (lateral, level) in enumerate(zip(laterals, levels, strict=True)):
        names |= conv(lateral, channels, last // 2 ** (len(laterals) - 1 - k), 1)
        names |= conv(level, channels, channels, 3)
    for name in extra:
        names |= conv(name, channels, channels, 3)
    return names


def torchvision(depth=50, num_classes=91, channels=256, num_convs=4, former=False):
    """`former`: the pyramid's names before torchvision 0.13."""
    last = "" if former else ".0"
    backbone = body("backbone.body", depth, style="torchvision")
    tracked = [name.replace("running_var", "num_batches_tracked") for name in backbone]
    return {
        **backbone,
        **{name: () for name in tracked if name.endswith("num_batches_tracked")},
        **pyramid(
            [f"backbone.fpn.inner_blocks.{k}{last}" for k in range(3)],
            [f"backbone.fpn.layer_blocks.{k}{last}" for k in range(3)],
            ["backbone.fpn.extra_blocks.p6", "backbone.fpn.extra_blocks.p7"],
            channels,
            512 if depth < 50 else 2048,
        ),
        **tower("head.classification_head.conv", channels, num_convs),
        **tower("head.regression_head.conv", channels, num_convs),
        **outputs(
            ("head.classification_head.cls_logits", "head.regression_head.bbox_reg",
             "head.regression_head.bbox_ctrness"),
            num_classes, channels,
        ),
    }  # fmt: skip


def torchvision_rcnn(version=1, depth=50, num_classes=91, channels=256, fc_channels=1024):
    """Faster R-CNN. Version 1 as its COCO file: frozen norms, and names from before 0.13."""
    laterals = [f"backbone.fpn.inner_blocks.{k}" for k in range(4)]
    outputs = [f"backbone.fpn.layer_blocks.{k}" for k in range(4)]
    first, box, rpn = channels * 7 * 7, "roi_heads.box_head", "rpn.head"
    convs = laterals + outputs
    names = body("backbone.body", depth, style="torchvision")
    names |= pyramid(laterals, outputs, [], channels, 512 if depth < 50 else 2048)
    if version == 1:
        names |= conv(f"{rpn}.conv", channels, channels, 3)
        names |= {f"{box}.fc6.weight": (fc_channels, first), f"{box}.fc6.bias": (fc_channels,)}
        names |= {f"{box}.fc7.weight": (fc_channels,) * 2, f"{box}.fc7.bias": (fc_channels,)}
    else:
        for k in range(2):
            names |= conv(f"{rpn}.conv.{k}.0", channels, channels, 3)
        for k in range(4):
            convs.append(f"{box}.{k}")
            names |= conv(convs[-1], channels, channels, 3)
        for name in convs:  # each with a norm in place of its bias
            names[f"{name}.0.weight"] = names.pop(f"{name}.weight")
            del names[f"{name}.bias"]
            names |= {f"{name}.1.{part}": (channels,) for part in NORM}
        tracked = [name.replace("running_var", "num_batches_tracked") for name in names]
        names |= {name: () for name in tracked if name.endswith("num_batches_tracked")}
        names |= {f"{box}.5.weight": (fc_channels, first), f"{box}.5.bias": (fc_channels,)}
    names |= conv(f"{rpn}.cls_logits", 3, channels, 1) | conv(f"{rpn}.bbox_pred", 12, channels, 1)
    for name, count in (("cls_score", num_classes), ("bbox_pred", 4 * num_classes)):
        name = f"roi_heads.box_predictor.{name}"
        names |= {f"{name}.weight": (count, fc_channels), f"{name}.bias": (count,)}
    return names


def official(depth=50, num_classes=80, channels=256, num_convs=4, **resnext):
    head = "rpn.head"
    return {
        **body("backbone.body", depth, style="official", **resnext),
        **pyramid(
            [f"backbone.fpn.fpn_inner{k}" for k in (2, 3, 4)],
            [f"backbone.fpn.fpn_layer{k}" for k in (2, 3, 4)],
            ["backbone.fpn.top_blocks.p6", "backbone.fpn.top_blocks.p7"],
            channels,
            512 if depth < 50 else 2048,
        ),
        **tower(f"{head}.cls_tower", channels, num_convs),
        **tower(f"{head}.bbox_tower", channels, num_convs),
        **outputs(
            (f"{head}.cls_logits", f"{head}.bbox_pred", f"{head}.centerness"), num_classes, channels
        ),
        **{f"{head}.scales.{k}.scale": (1,) for k in range(5)},
    }


def _detectron2_backbone(depth, channels, extra, resnext):
    return {
        **body("backbone.bottom_up", depth, style="detectron2", **resnext),
        **pyramid(
            [f"backbone.fpn_lateral{k}" for k in (3, 4, 5)],
            [f"backbone.fpn_output{k}" for k in (3, 4, 5)],
            extra,
            channels,
            512 if depth < 50 else 2048,
        ),
    }


def adelaidet(depth=50, num_classes=80, channels=256, num_convs=4, levels=5, **resnext):
    """`levels`: 3 for the real-time models."""
    head = "proposal_generator.fcos_head"
    extra = ["backbone.top_block.p6", "backbone.top_block.p7"][: levels - 3]
    return {
        **_detectron2_backbone(depth, channels, extra, resnext),
        **tower(f"{head}.cls_tower", channels, num_convs),
        **tower(f"{head}.bbox_tower", channels, num_convs),
        **outputs(
            (f"{head}.cls_logits", f"{head}.bbox_pred", f"{head}.ctrness"), num_classes, channels
        ),
        **{f"{head}.scales.{k}.scale": (1,) for k in range(levels)},
    }


def detectron2(depth=50, num_classes=80, channels=256, num_convs=4, **resnext):
    extra = ["backbone.top_block.p6", "backbone.top_block.p7"]
    return {
        **_detectron2_backbone(depth, channels, extra, resnext),
        **tower("head.cls_subnet", channels, num_convs),
        **tower("head.bbox_subnet", channels, num_convs),
        **outputs(("head.cls_score", "head.bbox_pred", "head.ctrness"), num_classes, channels),
    }


def tensors(names):
    return {name: draw(name, shape) for name, shape in names.items()}


def _state(arrays, prefix=""):
    """A pickled state dict, and the storages that it refers to."""
    parts, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = [int(np.prod(array.shape[k + 1 :])) for k in range(array.ndim)]
        kind = {"f": "FloatStorage", "i": "LongStorage"}[array.dtype.kind]
        reference = p.storage(kind, str(key), array.size)
        parts[prefix + name] = p.tensor(reference, 0, array.shape, strides)
        storages[str(key)] = array
    return p.table(**parts), storages


def save_zip(path, arrays, **others):
    """As `torch.save(state_dict)`, or `torch.save({"model": state_dict, ...})`."""
    value, storages = _state(arrays)
    value = p.table(model=value, **others) if others else value
    return p.zip_file(path, value, {key: array.tobytes() for key, array in storages.items()})


def save_legacy(path, arrays, prefix="module.", **others):
    """As the official code saved: PyTorch 1.0, a model inside DistributedDataParallel."""
    value, storages = _state(arrays, prefix)
    return p.legacy_file(
        path,
        p.table(model=value, **others),
        {key: (array.size, array.tobytes()) for key, array in storages.items()},
    )


def save_pickle(path, arrays):
    """As detectron2's model zoo."""
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    return path


def value_of(model, part, layer, variable):
    """A variable of the model, as an array."""
    part = getattr(model, part)
    if isinstance(part, keras.Model):
        found = part.get_layer(layer)
    else:
        found = next(x for x in part._flatten_layers() if x.name == layer)
    return keras.ops.convert_to_numpy(getattr(found, variable))


def settings_of(model):
    """The configuration, with what a number may lose on the way rounded off."""
    config = model.get_config()
    return {**config, "mean": rounded(config["mean"]), "std": rounded(config["std"])}


def rounded(numbers):
    return tuple(round(float(x), 4) for x in numbers)
