r"""Growth of time and memory with image side, batch, classes, boxes per image and detections.

    python -m benchmarks.growth --backbone=resnet18 --image_size=256x256 --batch_size=1 \
        --output=runs/growth
    python -m benchmarks.growth --what=training --axis=boxes --sizes=0,100,300,1000 \
        --backbone=resnet18 --image_size=800x800 --batch_size=1 --assigner=atss --output=runs/atss

Each axis has several sizes; all else stays as the flags say. Each size has a process of its own.
The processes of an axis take turns, so that a busy machine slows all of them; they hold their
memory at the same time. The time is the median of the rounds. The memory is the peak resident
set of the process, minus its peak once the model was made and no step had run: outputs, targets,
gradients, momenta, and the traced graph, some 600 MiB whatever the sizes.

The constant part of an axis is the value at size 0 of the line through its two smallest sizes. The
exponent is the slope of log(value - constant part) over log(size) between the two largest sizes;
for the image side the size is the number of pixels. What ends more than 20 % above the straight
line through the constant part and the last size but one grows faster than linear, and is named.

Inference: every point has a box of 8 strides, and there is no score threshold, so that the most
candidates reach the suppression. Training: an SGD step on random images and boxes. On the CPU.

Writes growth.txt, growth.json and growth.png, whose dashed lines have slope 1, to --output.
"""

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.batches import fixed_size, random_batch
from benchmarks.growth_report import VALUES, amounts_of, growth_of, in_words, table, write_report
from benchmarks.processes import Contestant, Entrant, Side, peak_memory, time_in_turns, timed
from fcos_tf import config as sections
from fcos_tf.cli import command_line
from fcos_tf.config import Config
from fcos_tf.options import Options, option

_USES = (
    "image_size", "batch_size", "model", "num_classes", sections.ModelOptions, "nms_threshold",
    "topk_per_level", "max_detections", sections.TrainingOptions, "seed",
)  # fmt: skip
SIZES = {
    "image_side": (128, 256, 512, 800),
    "batch": (1, 4, 8, 16),
    "classes": (1, 80, 365, 1203),
    "boxes": (0, 100, 300, 1000),
    "detections": (10, 100, 300, 1000),
}
_UNUSED = {"inference": "boxes", "training": "detections"}
_FIELDS = {"batch": "batch_size", "classes": "num_classes", "detections": "max_detections"}


@dataclasses.dataclass(frozen=True)
class GrowthOptions(Options):
    """The tasks, the axes and the length of the run."""

    what: tuple[str, ...] = option(tuple(_UNUSED), "Tasks.", choices=tuple(_UNUSED))
    axis: tuple[str, ...] = option(tuple(SIZES), "What grows.", choices=tuple(SIZES))
    sizes: tuple[int, ...] = option((), "Three or more sizes of a single --axis.")
    boxes: int = option(20, "Boxes per image, on the other axes.", least=0)
    rounds: int = option(5, "Timed turns of --steps_per_round steps.", least=1)
    steps_per_round: int = option(3, "Steps of a turn.", least=1)
    output: str = option("", "Folder to write to.", required=True, also=("output_dir",))

    def __post_init__(self):
        super().__post_init__()
        for name in ("what", "axis"):
            if not getattr(self, name):
                raise ValueError(f"--{name}: expected one or more values, got none")
        if not self.sizes:
            return
        if len(self.axis) > 1:
            raise ValueError(f"--sizes: expected with one --axis, got {','.join(self.axis)}")
        least, got = int(self.axis[0] != "boxes"), list(self.sizes)
        if len(got) < 3 or got != sorted(set(got)) or got[0] < least:
            raise ValueError(
                f"--sizes: expected three or more increasing numbers, at least {least}, got "
                f"{','.join(map(str, got))}"
            )


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_grow, __doc__, argv, uses=_USES, options=GrowthOptions)


def _grow(config: Config, options: GrowthOptions, given: command_line.Given) -> None:
    runs = [(axis, what) for axis in options.axis for what in options.what]
    runs = [(axis, what) for axis, what in runs if axis != _UNUSED[what]]
    if not runs:
        raise ValueError(f"--axis={options.axis[0]}: not used with --what={options.what[0]}")
    if config.model == "classifier":
        raise ValueError(f"--model: expected fcos or faster_rcnn, got {config.model}")
    fixed_size(config)
    config = dataclasses.replace(config, num_classes=config.num_classes or 80)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{config.model}, {config.backbone}, {config.image_size}, batch {config.batch_size}"
    title += f", {config.num_classes} classes, {options.boxes} boxes, {config.precision}"
    results = []
    for axis, what in runs:
        sizes = options.sizes or SIZES[axis]
        points = _measure(config, options, axis, what, sizes)
        amounts = amounts_of(axis, sizes)
        growth = {key: growth_of(amounts, [p[key] for p in points]) for key in VALUES}
        results.append({"what": what, "axis": axis, "points": points, "growth": growth})
        print(table(results[-1]), flush=True)
        write_report(folder, title, results)  # each time: a run may take long, and be stopped
    print(in_words(results))


def _measure(config: Config, options: GrowthOptions, axis: str, what: str, sizes) -> list[dict]:
    """Time and memory of every size, in turns."""
    with contextlib.ExitStack() as stack:
        contestants = {}
        for size in sizes:
            boxes = size if axis == "boxes" else options.boxes
            make = functools.partial(_side, _config_of(config, axis, size), what, boxes)
            contestants[size] = Contestant(f"--what={what}, {axis} {size}", Entrant(make))
            stack.callback(contestants[size].close)
        runs = {size: contestant.run for size, contestant in contestants.items()}
        seconds = time_in_turns(runs, rounds=options.rounds, steps=options.steps_per_round)
        results = {size: contestant.ask("result") for size, contestant in contestants.items()}
    return [
        {"size": size, "seconds": statistics.median(times), **results[size], "all_seconds": times}
        for size, times in seconds.items()
    ]


def _config_of(config: Config, axis: str, size: int) -> Config:
    if axis == "image_side":
        return dataclasses.replace(config, image_size=f"{size}x{size}")
    return dataclasses.replace(config, **({_FIELDS[axis]: size} if axis in _FIELDS else {}))


def _side(config: Config, what: str, num_boxes: int) -> Side:
    """A model, whose result is the memory of its steps and what the last one found."""
    step = make_step(config, what, num_boxes)
    loaded, found = peak_memory(), {}
    return Side(
        timed(lambda: found.update(step())),
        result=lambda: {"mebibytes": (peak_memory() - loaded) / 2**20, **found},
    )


def make_step(config: Config, what: str, num_boxes: int) -> Callable[[], dict]:
    """A function of one step, which returns the mean number of detections of an image, if any."""
    import tensorflow as tf

    from fcos_tf import build

    if what == "inference":
        # This assigner's untrained head has boxes; otherwise it changes training alone.
        boxed = {"assigner": "tal"} if config.model == "fcos" else {}
        config = dataclasses.replace(config, score_threshold=0.0, **boxed)
    model = build.make_model(config, [f"class {k}" for k in range(config.num_classes)])
    build.compile_model(config, model, total_steps=10**6)
    images, targets = random_batch(config, num_boxes=num_boxes, num_classes=config.num_classes)
    if what == "inference":
        detect = tf.function(model.detect)
        return lambda: {"detections": float(np.mean(detect(images)["num_detections"]))}
    train = model.make_train_function() or model.train_function
    batches = iter(tf.data.Dataset.from_tensors((images, targets)).repeat())
    return lambda: {name: float(value) for name, value in train(batches).items()} and {}


if __name__ == "__main__":
    main()
