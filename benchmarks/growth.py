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
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.batches import fixed_size, random_batch
from benchmarks.processes import Contestant, Entrant, Side, peak_memory, time_in_turns, timed
from fcos_tf import config as sections
from fcos_tf.atomic_files import replacing, write_text
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
# Key of a point -> its meaning.
VALUES = {"seconds": "seconds per step", "mebibytes": "memory of the steps, MiB"}
EXCESS = 1.2  # over a straight line, of what grows faster than linear
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


def amounts_of(axis: str, sizes: Sequence[int]) -> list[int]:
    """What time may be proportional to: the sizes, of the image side the pixels."""
    return [size**2 for size in sizes] if axis == "image_side" else list(sizes)


def growth_of(sizes: Sequence[float], values: Sequence[float]) -> dict:
    """The constant part and the exponent of values at three or more increasing sizes.

    Returns:
        dict: `constant`, `exponent`, and `faster`, whether they grow faster than linear. A growth
        of a tenth or less has the exponent 0.
    """
    (s1, s2), (v1, v2) = sizes[:2], values[:2]
    constant = min(max(v1 - s1 * (v2 - v1) / (s2 - s1), 0.0), v1)
    (before, last), ratio = (v - constant for v in values[-2:]), sizes[-1] / sizes[-2]
    if last <= 0.1 * values[-1] or values[-1] <= 1.1 * values[0]:
        return {"constant": constant, "exponent": 0.0, "faster": False}
    exponent = max(0.0, math.log(last / max(before, 0.01 * last)) / math.log(ratio))
    faster = values[-1] > EXCESS * (constant + max(before, 0.0) * ratio)
    return {"constant": constant, "exponent": exponent, "faster": faster}


def table(result: dict) -> str:
    """The sizes of an axis, their time and memory, and the exponents."""
    lines = [f"\n{result['what']}, {result['axis']}", f"{'size':>6} {'seconds':>9} {'MiB':>8}"]
    for point in result["points"]:
        found = f"  {point['detections']:.0f} detections" if "detections" in point else ""
        lines.append(f"{point['size']:6} {point['seconds']:9.4f} {point['mebibytes']:8.1f}{found}")
    kinds = result["growth"].items()
    lines.append("exponents: " + ", ".join(f"{key} {x['exponent']:.2f}" for key, x in kinds))
    return "\n".join(lines)


def in_words(results: Sequence[dict]) -> str:
    """A line that names what grows faster than linear."""
    return f"faster than linear: {'; '.join(_faster(results)) or 'nothing'}"


def _faster(results: Sequence[dict]) -> list[str]:
    return [
        f"{result['what']}, {key} by {result['axis']}"
        for result in results
        for key, growth in result["growth"].items()
        if growth["faster"]
    ]


def write_report(folder: Path, title: str, results: Sequence[dict]) -> None:
    """Writes growth.txt, growth.json and growth.png."""
    text = "\n".join([title, *map(table, results), in_words(results)])
    write_text(folder / "growth.txt", text + "\n")
    summary = {"title": title, "faster_than_linear": _faster(results), "results": list(results)}
    write_text(folder / "growth.json", json.dumps(summary, indent=2) + "\n")
    with replacing(folder / "growth.png") as file:
        plot(title, results).savefig(file, format="png", dpi=80, pil_kwargs={"optimize": True})


def plot(title: str, results: Sequence[dict]):
    """A column of two panels for each axis, time above memory, with a line for each task."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(result["axis"] for result in results))
    colors = dict(zip(sorted({result["what"] for result in results}), ("C0", "C1"), strict=False))
    figure = Figure(figsize=(max(2.4 * len(axes) + 0.6, 6), 5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(len(VALUES), len(axes), squeeze=False, sharex="col", sharey="row")
    for row, (key, label) in enumerate(VALUES.items()):
        drawn = [max(p[key], 1e-6) for result in results for p in result["points"] if p["size"]]
        for panel, axis in zip(panels[row], axes, strict=True):
            panel.set(xscale="log", yscale="log", ylim=(min(drawn) / 1.5, max(drawn) * 3))
            own = [result for result in results if result["axis"] == axis]
            for result in own:
                points = [point for point in result["points"] if point["size"]]
                x = amounts_of(axis, [point["size"] for point in points])
                y = [max(point[key], 1e-6) for point in points]
                text = f"{result['what']} {result['growth'][key]['exponent']:.2f}"
                color = colors[result["what"]]
                panel.plot(x, y, color=color, marker="o", markersize=3, label=text)
                # The line of slope 1 ends at the largest size.
                line = [y[-1] * amount / x[-1] for amount in x]
                panel.plot(x, line, "--", color=color, linewidth=0.7)
            panel.set_xticks(x, [str(point["size"]) for point in points], fontsize=8)
            panel.tick_params(axis="x", which="minor", length=0, labelbottom=False)
            panel.legend(fontsize=8, frameon=False, loc="upper left")
        panels[row][0].set_ylabel(label, fontsize=9)
    for panel, axis in zip(panels[0], axes, strict=True):
        panel.set_title(axis.replace("_", " "), fontsize=10)
    return figure


if __name__ == "__main__":
    main()
