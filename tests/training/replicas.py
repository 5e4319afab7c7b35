"""Trains a small detector on one of several kinds of strategy and writes what came of it.

    python -m tests.training.replicas STRATEGY NORM STEPS RESULT.npz

STRATEGY is that of make_strategy, "mirrored" meaning two CPUs; with multi_worker the hosts are
those of TF_CONFIG, "multi_worker_of_two" meaning two CPUs on each. With NORM "frozen" gradients
come in two parts, and weights are averaged; with "left_out" norms are synchronised, and an image
of step 3 has a pixel that is no number, so that the step is left out; with "two_stage" the detector
is a Faster R-CNN, else an FCOS. RESULT gets an array for each
log, [STEPS], for each of the last step's means, read and put back, for each weight and its average,
and what the model detects on 11 images.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from fcos_tf import FCOS, FasterRCNN
from fcos_tf.evaluation import run_detector
from fcos_tf.models.image_model import read_means, write_means
from fcos_tf.training.optimizers import SGD, averaged_weights
from fcos_tf.training.strategy import distribute, make_strategy, share_of

BATCH, SIZE = 8, (64, 64)
# Small samples: each step draws other anchors and regions.
TWO_STAGE = {
    "fpn_first_level": 3, "fc_channels": 32, "anchor_scale": 2.0, "anchors_per_image": 8,
    "rois_per_image": 8, "proposals_per_level": (60, 40), "num_proposals": (40, 20),
}  # fmt: skip
NUM_EVALUATED = 11  # a whole batch, and one in which the second host has no image


def scene(step):
    """A batch of 8 images; the second four have no box at all in every other step."""
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (BATCH, *SIZE, 3)).astype("uint8")
    low = rng.uniform(0, 30, (BATCH, 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 34, (BATCH, 3, 2))], axis=-1)
    labels = rng.integers(-1, 3, (BATCH, 3))
    if step % 2 == 0:
        labels[BATCH // 2 :] = -1
    return images, {
        "boxes": boxes.astype("float32"),
        "labels": labels.astype("int32"),
        "image_sizes": np.tile(np.float32([[60, 64]]), (BATCH, 1)),
    }


def batches_of(steps, share, with_a_hole=False):
    """This host's part of the batches of `steps` steps."""
    images, targets = zip(*map(scene, range(steps)), strict=True)
    images = np.stack(images)
    if with_a_hole:
        images = images.astype("float32")
        images[3, 1, 5, 5, 0] = np.nan
    rows = slice(share.host * BATCH // share.num_hosts, (share.host + 1) * BATCH // share.num_hosts)
    image_ids = np.arange(steps * BATCH).reshape(steps, BATCH)
    targets = {
        **{name: np.stack([t[name] for t in targets]) for name in targets[0]},
        "original_sizes": np.stack([t["image_sizes"] for t in targets]),
        "image_ids": np.where(image_ids < NUM_EVALUATED, image_ids, -1),
    }
    mine = tf.nest.map_structure(lambda x: x[:, rows], (images, targets))
    return tf.data.Dataset.from_tensor_slices(mine)


def train_and_detect(strategy, norm, steps):
    """Returns the logs of each step, the weights at the end and the detections."""
    share = share_of(strategy)
    left_out = norm == "left_out"
    keras.utils.set_random_seed(0)
    with strategy.scope():
        kind, options = FCOS, {"head_convs": 1}
        if norm == "two_stage":
            kind, options = FasterRCNN, TWO_STAGE
        model = kind(
            3, backbone="simple_cnn", backbone_norm="frozen" if norm == "frozen" else "sync",
            fpn_levels=3, fpn_channels=32, score_threshold=0.0, nms_threshold=1.0, **options,
        )  # fmt: skip
        # The gradient is longer than 1: each replica's part, clipped by itself, would show.
        if norm == "frozen":
            model.compile(SGD(0.01, momentum=0.9, global_clipnorm=1.0, use_ema=True))
            model.accumulation_steps = 2
        else:
            optimizer = SGD(0.01, momentum=0.9, weight_decay=1e-4, global_clipnorm=1.0)
            if left_out:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
            model.compile(optimizer)
    batches = batches_of(steps, share, left_out).repeat()
    batches = distribute(batches, strategy, batch_size=BATCH)
    logs = model.fit(batches, epochs=steps, steps_per_epoch=1, verbose=0).history
    if share.is_chief:
        read_means(model)  # without the other hosts
    kept = read_means(model)
    model.reset_metrics()
    write_means(model, kept)
    means = {f"mean {name}": value for name, value in model.get_metrics_result().items()}
    # Not by their paths: models are numbered in a process.
    weights = {f"weight {i} {v.name}": v.numpy() for i, v in enumerate(model.weights)}
    evaluated = batches_of(2, share)
    evaluated.num_hosts, evaluated.host = share
    with averaged_weights(model):
        averages = {
            f"weight {i} {v.name} averaged": v.numpy()
            for i, v in enumerate(model.trainable_weights)
        }
        records = run_detector(model, evaluated)
    found = {
        "image ids": [each["id"] for each in records.ground_truth["images"]],
        "truth bbox": [each["bbox"] for each in records.ground_truth["annotations"]],
        "detected image_id": [each["image_id"] for each in records.detections],
        "detected score": [each["score"] for each in records.detections],
    }
    return {
        name: np.asarray(values)
        for name, values in {**logs, **means, **weights, **averages, **found}.items()
    }


def main(strategy, norm, steps, result):
    if strategy in ("mirrored", "multi_worker_of_two"):
        cpus = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpus[0], two)
    if strategy == "mirrored":
        made = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    elif strategy == "multi_worker_of_two":
        # TensorFlow takes all GPUs of a host, but one CPU only.
        CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker: (
            tuple(f"{worker}/device:CPU:{i}" for i in range(2)), "CPU",
        )  # fmt: skip
        made = make_strategy("multi_worker")
    else:
        made = make_strategy(strategy)
    np.savez(result, **train_and_detect(made, norm, int(steps)))


if __name__ == "__main__":
    main(*sys.argv[1:])
