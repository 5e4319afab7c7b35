"""What is computed under each backend: arrays by name, from inputs that NumPy draws.

    KERAS_BACKEND=jax python -m tests.backends.cases FOLDER

writes the arrays of every case to NAME.npz, or the error that it ended in to NAME.txt. The folder
must hold `SAVED`, a model that TensorFlow saved.
"""

import sys
import traceback
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import ops

import fcos_tf
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.layers.blocks import conv_norm
from fcos_tf.layers.convolutions import GroupedConv2D
from fcos_tf.layers.fpn import FeaturePyramid
from fcos_tf.layers.heads import FCOSHead
from fcos_tf.layers.norms import GroupNormalization
from fcos_tf.models.fcos_rules import RULES
from fcos_tf.models.fcos_training import fcos_targets, level_size_ranges, point_levels
from fcos_tf.ops import boxes, losses, nms, points
from fcos_tf.training.optimizers import SGD
from fcos_tf.training.schedules import WarmupStepDecay

BACKBONES = ("resnet18", "regnetx_200mf", "mobilenet_v2", "efficientnet_lite0")
SAVED, FITTED = "saved.keras", "fitted.keras"
STRIDES = (8, 16, 32, 64, 128)
SIZE = (64, 96)  # of images; at stride 32 and above, maps have odd sizes
STEPS, BATCH = 5, 2
SETTINGS = {
    "class_names": ("rod", "ring", "cone"), "backbone": "simple_cnn", "fpn_channels": 32,
    "head_convs": 1, "image_size": "64x96", "max_detections": 20,
}  # fmt: skip


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def some_boxes(*shape, seed=0, largest=60):
    """Boxes [*shape, 4] xyxy of 8 to `largest` pixels, some of which reach out of the image."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 80, (*shape, 2))
    high = low + rng.uniform(8, largest, (*shape, 2))
    return np.concatenate([low, high], axis=-1).astype("float32")


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *SIZE, 3)).astype("uint8")


def image_sizes(count):
    return np.tile(np.float32([[60, 90]]), (count, 1))


def targets(count, seed=0):
    """Three boxes an image, some of which are padding."""
    labels = np.random.default_rng(seed).integers(-1, 3, (count, 3)).astype("int32")
    boxes = some_boxes(count, 3, seed=seed, largest=150)
    return {"boxes": boxes * (labels >= 0)[..., None], "labels": labels}


def with_drawn_weights(layer):
    """Gives a built layer weights that keep the size of what goes through it."""
    for i, weight in enumerate(layer.weights):
        rng = np.random.default_rng(i)
        values = rng.normal(size=weight.shape)
        if weight.name == "kernel":
            values *= np.sqrt(2 / np.prod(weight.shape[:-1]))
        elif weight.name in ("gamma", "moving_variance", "scale"):
            values = 1 + 0.1 * values**2
        else:
            values *= 0.1
        weight.assign(values.astype("float32"))
    return layer


def flat(found):
    """{"a": {"b": x}} to {"a_b": x}."""
    return {f"{outer}_{inner}": x for outer, each in found.items() for inner, x in each.items()}


def box_ops(folder):
    a, b = some_boxes(2, 40), some_boxes(2, 40, seed=1)
    return {
        "area": boxes.box_area(a),
        "iou": boxes.paired_iou(a, b),
        "clipped": boxes.clip_boxes(a, image_sizes(2)),
    }


def point_ops(folder):
    found = {}
    for name, image_size in (("stride", None), ("canvas", SIZE)):
        grids = points.grid_sizes(*SIZE, STRIDES)
        at, strides = points.pyramid_points(grids, STRIDES, image_size=image_size)
        ltrb = points.encode_ltrb(at, strides, some_boxes(2, len(at)))
        found |= {f"{name}_points": at, f"{name}_strides": strides, f"{name}_ltrb": ltrb}
        found[f"{name}_boxes"] = points.decode_ltrb(at, strides, ltrb)
        found[f"{name}_centerness"] = points.centerness(ltrb)
    return found


def loss_ops(folder):
    logits, wanted = numbers(50) * 9, (numbers(50, seed=1) > 0).astype("float32")
    ltrb, other = np.abs(numbers(50, 4)), np.abs(numbers(50, 4, seed=1))
    return {
        "focal": losses.sigmoid_focal_loss(logits, wanted),
        "quality_focal": losses.quality_focal_loss(logits, np.abs(numbers(50, seed=2)) % 1),
        "cross_entropy": losses.binary_cross_entropy(logits, np.abs(numbers(50, seed=2)) % 1),
        "iou": losses.iou_loss(ltrb, other),
        "iou_plus_one": losses.iou_loss(ltrb, other, plus_one=True),
        "giou": losses.giou_loss(ltrb, other),
        "l1": losses.l1_loss(ltrb, other),
    }


def suppression(folder):
    """Of many boxes, of the same under `plus_one`, and of none; TensorFlow has its own kernel."""
    rng = np.random.default_rng(0)
    crowd = (some_boxes(2, 300), rng.uniform(-0.2, 1, (2, 300)).astype("float32"))
    crowd = (*crowd, rng.integers(0, 5, (2, 300)).astype("int32"))
    none = tuple(x[:, :0] for x in crowd)
    found = {
        name: nms.class_wise_nms(
            *map(ops.convert_to_tensor, candidates),
            iou_threshold=0.5,
            max_detections=50,
            plus_one=name == "plus_one",
        )
        for name, candidates in (("crowd", crowd), ("plus_one", crowd), ("none", none))
    }
    return flat(found)


def assignment(folder):
    """What points learn under each implementation's rules."""
    grids = points.grid_sizes(*SIZE, STRIDES)
    at = points.pyramid_points(grids, STRIDES)
    levels = point_levels(*at, level_size_ranges(5, None), grids)
    found = {}
    for name, rules in RULES.items():
        found[name] = fcos_targets(levels, **targets(4), num_classes=3, rules=rules)
    raw = {"class_logits": numbers(4, len(at[0]), 3), "ltrb": 4 + numbers(4, len(at[0]), 4)}
    for name in ("atss", "tal"):
        found[name] = fcos_targets(
            levels, **targets(4), num_classes=3, assigner=name, predictions=raw
        )
    return flat(found)


def blocks(folder):
    """A grouped convolution, and the kinds of normalisation, in training and not."""
    x = numbers(2, 9, 13, 64)
    found = {}
    for layer in (GroupedConv2D(32, 3, groups=4), GroupNormalization(32)):
        layer.build(x.shape)
        found[type(layer).__name__] = with_drawn_weights(layer)(x)
    for norm in ("batch", "frozen"):
        inputs = keras.Input((None, None, 64))
        model = keras.Model(inputs, conv_norm(inputs, 16, 3, name=norm, stride=2, norm=norm))
        with_drawn_weights(model)
        found[f"{norm}_inference"] = model(x)
        found[f"{norm}_training"] = model(x, training=True)
        found[f"{norm}_weights"] = model.weights[-1]
    return found


def pyramid_and_head(folder):
    """Of maps of odd sizes."""
    maps = {
        f"c{k}": numbers(2, *(-(-s // 2**k) for s in (200, 135)), 2**k, seed=k) for k in (3, 4, 5)
    }
    found = {}
    for options in ({"upsampling": "nearest"}, {"upsampling": "bilinear", "extra": "pool"}):
        fpn = FeaturePyramid(32, levels=5, **options)
        fpn.build({name: x.shape for name, x in maps.items()})
        levels = with_drawn_weights(fpn)(maps)
        found |= {f"{options['upsampling']}_{level}": x for level, x in levels.items()}
    for options in ({}, {"box_activation": "exp", "norm": "none", "centerness_on": "class"}):
        head = FCOSHead(3, channels=32, num_convs=1, **options)
        head.build([x.shape for x in levels.values()])
        raw = with_drawn_weights(head)(list(levels.values()))
        found |= {f"{options.get('box_activation', 'relu')}_{k}": x for k, x in raw.items()}
    return found


def backbone(name, folder):
    return with_drawn_weights(build_backbone(name))(numbers(1, 65, 96, 3))


def detector():
    return with_drawn_weights(fcos_tf.FCOS(**SETTINGS))


def detections(model):
    """Raw predictions; detections, and those under a threshold that few candidates pass."""
    batch = {"images": images(2), "image_sizes": image_sizes(2)}
    few = model.detect(**batch, score_threshold=[0.8, 0.84], max_detections=30)
    return flat({"raw": model(batch), "detected": model.detect(**batch), "few": few})


def built(folder):
    return detections(detector())


def loaded(folder):
    """From what TensorFlow saved."""
    return detections(keras.models.load_model(folder / SAVED))


def compiled(folder):
    """Detections, by a function that JAX compiles."""
    model, batch = detector(), (images(2), image_sizes(2))
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(model.detect)(*batch)
    return model.detect(*batch)


def photos(folder):
    """Detections of images of other sizes, in their own pixels."""
    pixels = [images(1)[0], images(1, seed=1)[0, :50, :70]]
    found = enumerate(fcos_tf.detect(detector(), pixels, batch_size=2))
    names = ("boxes", "scores", "labels")
    return flat({i: {name: getattr(each, name) for name in names} for i, each in found})


class MeansOfSteps(keras.callbacks.Callback):
    """Keeps the running means of the losses after every step."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append({name: float(value) for name, value in logs.items()})


def fitted(folder):
    """Five steps of `fit`: the losses after each, the weights, and detections after loading."""
    model = detector()
    # At .01 the steps amplify rounding: either backend is up to 8e-4 from float64, here 2e-5.
    rate = WarmupStepDecay(0.003, warmup_steps=3, decay_steps=[4])
    model.compile(SGD(rate, momentum=0.9, weight_decay=1e-4, global_clipnorm=10.0))
    count = STEPS * BATCH
    batch, seen = {"images": images(count), "image_sizes": image_sizes(count)}, MeansOfSteps()
    model.fit(batch, targets(count), batch_size=BATCH, shuffle=False, verbose=0, callbacks=[seen])
    file = folder / f"{keras.backend.backend()}_{FITTED}"
    model.save(file)
    loaded = keras.models.load_model(file)
    for weight, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(other, weight, err_msg=weight.path)
    found = detections(loaded)
    for name in ("loss", *model.loss_names, *model.count_names):
        found[name] = np.float32([means[name] for means in seen.means])
    return found | {f"weight_{i}": weight for i, weight in enumerate(model.weights)}


def joint(folder):
    """Class scores that learn the IoU, with frozen norms: predictions, losses, three steps."""
    found, options = {}, {"quality": "joint", "backbone_norm": "frozen"}
    for assigner in ("atss", "tal"):
        model = with_drawn_weights(fcos_tf.FCOS(**SETTINGS, **options, assigner=assigner))
        batch, learnt = {"images": images(2), "image_sizes": image_sizes(2)}, targets(2)
        parts = model.forward_losses(batch, learnt, training=False)
        # At .001 the first step takes the class loss of `tal` from 177 to 2, and rounding grows
        # beyond 1e-4; at this rate it goes to 102 and 69, and rounding stays below 1e-5.
        model.compile(SGD(0.0001))
        seen = model.fit(batch, learnt, batch_size=2, epochs=3, shuffle=False, verbose=0).history
        found[assigner] = detections(model) | parts
        found[assigner] |= {f"fitted_{name}": np.float32(seen[name]) for name in model.loss_names}
    return flat(found)


def two_stage(folder):
    """A Faster R-CNN: predictions, losses, and those of three steps with samples of their own."""
    keras.utils.set_random_seed(0)
    options = {name: value for name, value in SETTINGS.items() if name != "head_convs"}
    model = fcos_tf.FasterRCNN(
        **options, fpn_first_level=3, fpn_levels=4, fc_channels=32, anchor_scale=4.0,
        proposals_per_level=(60, 40), num_proposals=(40, 20), anchors_per_image=16,
        rois_per_image=16,
    )  # fmt: skip
    with_drawn_weights(model)
    batch, learnt = {"images": images(2), "image_sizes": image_sizes(2)}, targets(2)
    found = detections(model) | model.forward_losses(batch, learnt, training=False)
    model.compile(SGD(0.001))
    measured = model.evaluate(batch, learnt, batch_size=2, verbose=0, return_dict=True)
    found |= {f"measured_{name}": np.float32(measured[name]) for name in model.loss_names}
    seen = model.fit(batch, learnt, batch_size=2, epochs=3, shuffle=False, verbose=0).history
    return found | {f"fitted_{name}": np.float32(seen[name]) for name in model.loss_names}


CASES = {
    **{case.__name__: case for case in (box_ops, point_ops, loss_ops, suppression, assignment)},
    **{case.__name__: case for case in (blocks, pyramid_and_head)},
    **{name: partial(backbone, name) for name in BACKBONES},
    **{case.__name__: case for case in (built, loaded, compiled, photos, fitted, joint, two_stage)},
}


def arrays(name, folder):
    """What a case gives, as NumPy arrays."""
    return {key: ops.convert_to_numpy(x) for key, x in CASES[name](folder).items()}


def main(folder):
    for name in CASES:
        try:
            np.savez(folder / f"{name}.npz", **arrays(name, folder))
        except Exception:
            (folder / f"{name}.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
