"""Accuracy and time of torchvision's detector, trained on the batches of a config.

    python -m benchmarks.detector_peer --flagfile=bccd.cfg --data_dir=BCCD_FOLDER

It takes the same images, canvas, augmentation, batches, learning rates, clipping and number of
steps as tools/train.py, in channels_last, in bfloat16 by autocast where the config's precision is
mixed_bfloat16, and is scored by the same evaluation. Initial weights are torchvision's own, those
of --backbone_weights=imagenet the same file. Needs the extra `parity`.
"""

import statistics
import time

from fcos_tf.cli import command_line
from fcos_tf.config import Config
from fcos_tf.options import options_for, sections_of
from fcos_tf.tensorflow_words import load_tensorflow

# What this peer does not imitate, beside what torchvision's detectors have not.
_EQUAL = (
    "ema_momentum", "max_bad_steps", "tta", "box_loss_weight", "centerness_on",
    "center_sampling_radius", "initial_weights",
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Trains torchvision's detector and prints its metrics."""
    command_line.run(_train, __doc__, argv, uses=sections_of(Config))


def _train(config: Config, options, given) -> None:
    from benchmarks.torchvision_peer import EQUAL, Peer, import_torchvision, refuse_unequal

    refuse_unequal(config, (*EQUAL, *_EQUAL))
    import_torchvision()  # a CUDA build of PyTorch crashes when it is imported after TensorFlow
    load_tensorflow()
    from benchmarks.batches import fixed_size
    from fcos_tf import build
    from fcos_tf.evaluation import evaluate
    from fcos_tf.training.loop import count_steps

    canvas = fixed_size(config).canvas
    train_data = build.load_train_data(config)
    val_data = build.load_val_data(config, train_data.class_names)
    total = count_steps(train_data.num_images, **options_for(config, count_steps))
    schedule = build.make_schedule(config, total)
    peer = Peer(config, len(train_data.class_names), canvas=canvas)
    seconds = []
    for step, (images, targets) in enumerate(train_data.take(total).as_numpy_iterator()):
        start = time.perf_counter()
        peer.train_step(images, targets, float(schedule(step)))
        seconds.append(time.perf_counter() - start)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{total}, {statistics.median(seconds):.3f} s", flush=True)
    metrics = evaluate(peer, val_data, config.metrics, detect=peer.detect)
    print(
        f"torchvision, {total} steps of {statistics.median(seconds):.3f} s (median), evaluated on "
        f"{val_data.num_images} images"
    )
    print(" ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
