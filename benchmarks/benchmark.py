r"""Times training, inference, input or evaluation, alone or beside a peer, in one run.

    python tools/benchmark.py --what=training --flagfile=bccd.cfg --peer=torchvision
    python tools/benchmark.py --what=training --precision=mixed_bfloat16 --peer=float32
    python tools/benchmark.py --what=inference --image_size=512x512 --batch_size=1 \
        --peer=torchvision,openvino --json=times.json
    python tools/benchmark.py --what=inference --saved_model=export/fcos/1 --batch_size=1
    python tools/benchmark.py --what=input --dataset=voc --data_dir=VOC --peer=torchvision
    python tools/benchmark.py --what=evaluation --peer=pycocotools

All sides take turns, so that a busy machine slows all of them; compare the ratio of the medians.
Training: an SGD step with clipped gradients on random images, whose contents do not affect the
time. Inference: from such uint8 images to detections; with --saved_model from image files to
detections in their pixels (with --batch_size=1 the time of a step is the latency; the peer decodes
with Pillow). Input: training batches of --train_split, beside a bare tf.data map that only decodes
and resizes the same files; the peer is Pillow, torchvision's transforms and a DataLoader with one
process per core. Evaluation: COCO's twelve numbers of 5000 images with 100 random detections each.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from fcos_tf import config as sections
from fcos_tf.atomic_files import write_text
from fcos_tf.cli import command_line
from fcos_tf.config import Config
from fcos_tf.options import Options, fields_of, option
from fcos_tf.tensorflow_words import load_tensorflow

_USES = (
    sections.DataOptions, sections.InputOptions, sections.AugmentationOptions, "model",
    "initial_weights", sections.ModelOptions, sections.DetectionOptions, sections.TrainingOptions,
    "seed",
)  # fmt: skip
_PEERS = {
    "training": ("torchvision", "float32"),
    "inference": ("torchvision", "float32", "openvino"),
    "input": ("torchvision",),
    "evaluation": ("pycocotools",),
}
_MODEL = ("model", "initial_weights", sections.ModelOptions, sections.DetectionOptions)
_FILES = (sections.DataOptions, sections.AugmentationOptions)
_UNUSED = {
    "training": (*_FILES, sections.DetectionOptions, "saved_model"),
    "inference": (*_FILES, *(fields_of(sections.TrainingOptions).keys() - {"precision"})),
    "input": (*_MODEL, sections.TrainingOptions, "saved_model"),
    "evaluation": ({*fields_of(Config), "saved_model"} - {"seed"}),
}
_NUM_CLASSES = 3  # of random images
_STEPS = {"training": 4, "inference": 4, "input": 100, "evaluation": 1}


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(Options):
    """The task, the peer and the length of the run."""

    what: str = option("", "Task to time.", choices=tuple(_PEERS), required=True)
    peer: tuple[str, ...] = option(
        (), "Also time these: torchvision in the same precision, for evaluation pycocotools; the "
        "same model in float32 or by OpenVINO.",
        choices=("torchvision", "pycocotools", "float32", "openvino"),
    )  # fmt: skip
    saved_model: str | None = option(
        None, "With --what=inference: exported model to time instead of one made by flags."
    )
    input: str | None = option(
        None, "With --saved_model: image files, a folder or a pattern; default two photos.",
        also=("source", "images"),
    )  # fmt: skip
    rounds: int = option(5, "Timed turns of --steps_per_round steps.", least=1)
    steps_per_round: int | None = option(
        None, "Steps of a turn; default 4, input 100 (batches), evaluation 1.", least=1
    )
    json: str | None = option(None, "File for the seconds per step of every round.")


# Number of steps -> their seconds.
Side = Callable[[int], float]


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_benchmark, __doc__, argv, uses=_USES, options=BenchmarkOptions)


def _benchmark(config: Config, options: BenchmarkOptions, given: command_line.Given) -> None:
    what, peers, saved_model = options.what, options.peer, options.saved_model
    for peer in peers:
        if peer not in _PEERS[what]:
            expected = " or ".join(_PEERS[what])
            raise ValueError(f"--peer: expected {expected} with --what={what}, got {peer!r}")
    if "float32" in peers and (saved_model or config.precision == "float32"):
        raise ValueError("--peer=float32: expected another --precision, and no --saved_model")
    if "openvino" in peers and saved_model:
        raise ValueError("--peer=openvino: expected no --saved_model, got one")
    refuse = functools.partial(command_line.refuse_unused, given)
    refuse(f"--what={what}", _UNUSED[what])
    if saved_model and what == "inference":
        used = {"batch_size"} | (fields_of(sections.ModelOptions).keys() if peers else set())
        refuse("--saved_model", fields_of(Config).keys() - used)
    else:
        refuse(f"--what={what} without --saved_model", ["input"])
    if "torchvision" in peers:
        from benchmarks.torchvision_peer import import_torchvision

        import_torchvision()  # its CUDA build crashes when it is imported after TensorFlow
    load_tensorflow()
    if saved_model and what == "inference":
        from benchmarks import exported

        title, images_per_step, sides = exported.sides(config, saved_model, options.input, peers)
    else:
        title, images_per_step, sides = _sides(config, what, peers)
    steps = options.steps_per_round or _STEPS[what]
    seconds = time_in_turns(sides, rounds=options.rounds, steps=steps)
    print(title)
    ours = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:26} {median:8.3f} s per step ({min(values):.3f} to {max(values):.3f})  "
            f"{images_per_step / median:7.1f} images/s  {median / ours:5.2f} x"
        )
    if options.json:
        result = {"title": title, "images_per_step": images_per_step, "seconds_per_step": seconds}
        write_text(options.json, json.dumps(result, indent=2) + "\n")


def _sides(config: Config, what: str, peers: Sequence[str]) -> tuple[str, int, dict[str, Side]]:
    """Title, images in a step, and the sides to time, ours first."""
    if what == "input":
        from benchmarks import input_pipeline

        return input_pipeline.sides(config, peers)
    if what == "evaluation":
        from benchmarks import evaluation

        return evaluation.sides(config.seed, peers)
    batch = _random_batch(config)
    sides = {f"fcos_tf {config.precision}": timed(_ours(config, what, *batch))}
    if "float32" in peers:
        float32 = dataclasses.replace(config, precision="float32")
        sides["fcos_tf float32"] = timed(_ours(float32, what, *batch))
    if "openvino" in peers:
        sides[f"OpenVINO {config.precision}"] = timed(_openvino(config, batch[0]))
    if "torchvision" in peers:
        sides[f"torchvision {config.precision}"] = timed(_torchvision(config, what, *batch))
    title = f"{what}, {config.backbone}, {config.image_size}, batch {config.batch_size}"
    return title, config.batch_size, sides


def _random_batch(config: Config):
    rng = np.random.default_rng(config.seed)
    batch, (height, width), num_boxes = config.batch_size, fixed_size(config).canvas, 12
    images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    corner = rng.uniform(0, 0.7, (batch, num_boxes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.3, corner.shape)], -1)
    boxes = (boxes * [width, height, width, height]).astype(np.float32)
    labels = rng.integers(0, _NUM_CLASSES, (batch, num_boxes), dtype=np.int32)
    return images, {"boxes": boxes, "labels": labels}


def _ours(config: Config, what: str, images, targets) -> Callable[[], None]:
    """A function of one step of our model."""
    import tensorflow as tf

    from fcos_tf import build
    from fcos_tf.models.folding import fold_norms

    model = build.make_model(config, [f"class {k}" for k in range(_NUM_CLASSES)])
    build.compile_model(config, model, total_steps=10**6)
    if what == "inference":
        fold_norms(model)  # as tools/detect.py
        detect = tf.function(model.detect)
        return lambda: detect(images)["boxes"].numpy()
    train = model.make_train_function() or model.train_function
    batches = iter(tf.data.Dataset.from_tensors((images, targets)).repeat())
    return lambda: [float(value) for value in train(batches).values()]


def _openvino(config: Config, images) -> Callable[[], object]:
    """A function of one step of our model, exported to OpenVINO."""
    import tempfile
    from pathlib import Path

    from fcos_tf import build
    from fcos_tf.detecting.models import Picture
    from fcos_tf.detecting.openvino import OpenVinoModel
    from fcos_tf.export import export_openvino

    model = build.make_model(config, [f"class {k}" for k in range(_NUM_CLASSES)])
    options = {"precision": config.precision.removeprefix("mixed_")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.xml"
        opened = OpenVinoModel(
            export_openvino(model, file, image_size=config.image_size, **options)
        )
    pictures = [Picture("", image) for image in images]
    return lambda: opened.find(pictures, None)


def _torchvision(config: Config, what: str, images, targets) -> Callable[[], None]:
    """A function of one step of torchvision's model."""
    from benchmarks.torchvision_peer import Peer

    peer = Peer(config, _NUM_CLASSES, canvas=images.shape[1:3])
    if what == "inference":
        return lambda: peer.detect(images)
    return lambda: peer.train_step(images, targets)


def fixed_size(config: Config):
    """The image size of a config, an `ImageSize` with a canvas; refuses others."""
    from fcos_tf.image_size import parse_image_size

    size = parse_image_size(config.image_size)
    if size.canvas is None:
        raise ValueError(
            f"--image_size: expected a fixed canvas like 512x512, got {config.image_size!r}"
        )
    return size


def timed(step: Callable[[], object]) -> Side:
    """Makes a side from a function of one step."""

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - start

    return run


def time_in_turns(sides: dict[str, Side], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of every side in every round, after one untimed step each."""
    for run in sides.values():
        run(1)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(run(steps) / steps)
    return seconds
