"""Times training or inference, alone or beside torchvision, in one run.

    python tools/benchmark.py --what=training --flagfile=bccd.cfg --peer=torchvision
    python tools/benchmark.py --what=inference --image_size=512x512 --batch_size=1

Both sides take turns, so that a busy machine slows both; what counts is the ratio of the medians.
Images and boxes are random: the time does not depend on what is seen. Training is one SGD step
with clipped gradients; inference goes from uint8 images to detections.
"""

import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np

from fcos_tf.config import Config
from fcos_tf.tools import command_line

NUM_CLASSES = 3
_OPTIONS = {
    "what": "training or inference",
    "peer": "torchvision, to be timed in turns with ours; default: none",
    "rounds": "How many timed turns of --steps_per_round steps; default 5",
    "steps_per_round": "Default 4",
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_benchmark, __doc__, argv, options=_OPTIONS)


def _benchmark(config: Config, flags) -> None:
    what, peer = flags["what"].value, flags["peer"].value
    if what not in ("training", "inference"):
        raise ValueError(f"--what: expected training or inference, got {what!r}")
    if peer not in (None, "torchvision"):
        raise ValueError(f"--peer: expected torchvision, got {peer!r}")
    rounds, steps = (
        _count(name, flags[name].value, default)
        for name, default in (("rounds", 5), ("steps_per_round", 4))
    )
    command_line.load_tensorflow()
    images, targets = _random_batch(config)

    sides = {"fcos_tf": _ours(config, what, images, targets)}
    if peer:
        sides[peer] = _peer(config, what, images, targets)
    seconds = time_in_turns(sides, rounds=rounds, steps=steps)
    print(f"{what}, {config.backbone}, {config.image_size}, batch {config.batch_size}")
    labels = {"fcos_tf": f"fcos_tf {config.precision}", peer: f"{peer} float32"}
    ours = statistics.median(seconds["fcos_tf"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{labels[name]:24} {median:8.3f} s per step ({min(values):.3f} to {max(values):.3f})  "
            f"{config.batch_size / median:7.1f} images/s  {median / ours:5.2f} x"
        )


def time_in_turns(
    sides: dict[str, Callable[[], None]], *, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds per step of every side in every round, after one step each that does not count.

    Args:
        sides: Name -> a function that does one step.
        rounds: How many turns each side has.
        steps: Steps in a turn.
    """
    for step in sides.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, step in sides.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def _random_batch(config: Config):
    from fcos_tf.data.transforms import parse_image_size

    canvas = parse_image_size(config.image_size).canvas
    if canvas is None:
        raise ValueError(
            f"--image_size: expected a fixed canvas like 512x512, got {config.image_size!r}"
        )
    rng = np.random.default_rng(config.seed)
    batch, (height, width), num_boxes = config.batch_size, canvas, 12
    images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    corner = rng.uniform(0, 0.7, (batch, num_boxes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, corner.shape)], -1)
    boxes = (boxes * [width, height, width, height]).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, (batch, num_boxes), dtype=np.int32)
    return images, {"boxes": boxes, "labels": labels}


def _ours(config: Config, what: str, images, targets) -> Callable[[], None]:
    import tensorflow as tf

    from fcos_tf import build

    model = build.make_model(config, [f"class {k}" for k in range(NUM_CLASSES)])
    build.compile_model(config, model, total_steps=10**6)
    if what == "inference":
        detect = tf.function(model.detect)
        return lambda: detect(images)["boxes"].numpy()
    train = model.make_train_function() or model.train_function
    batches: Iterable = iter(tf.data.Dataset.from_tensors((images, targets)).repeat())
    return lambda: [float(value) for value in train(batches).values()]


def _peer(config: Config, what: str, images, targets) -> Callable[[], None]:
    from fcos_tf.tools.torchvision_peer import Peer

    peer = Peer(config.backbone, NUM_CLASSES, images.shape[1:3])
    if what == "inference":
        return lambda: peer.detect(images)
    return lambda: peer.train_step(images, targets)


def _count(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--{name}: expected a number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
