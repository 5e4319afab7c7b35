r"""Times training, inference, input or evaluation, alone or beside a peer, in one run.

    python tools/benchmark.py --what=training --flagfile=bccd.cfg --peer=torchvision
    python tools/benchmark.py --what=training --precision=mixed_bfloat16 --peer=float32
    python tools/benchmark.py --what=inference --image_size=512x512 --batch_size=1 \
        --peer=torchvision,torchvision_compiled,openvino,onnxruntime,keras_hub --json=times.json
    python tools/benchmark.py --what=training --flagfile=bccd.cfg --profile
    python tools/benchmark.py --what=inference --saved_model=export/fcos/1 --batch_size=1
    python tools/benchmark.py --what=input --dataset=voc --data_dir=VOC --peer=torchvision
    python tools/benchmark.py --what=evaluation --peer=pycocotools

All contestants take turns, each in a process of its own (`benchmarks.processes`), so that a busy
machine slows all of them; compare the ratio of the medians. Beside the seconds stand images per
second, the peak of the memory of the process, and what of it is beyond the imported libraries. In
training and inference also the operations of the convolutions and matrix products of a step
(`benchmarks.flops`), and their speed as a share of that of a large matrix product in the same
precision, which takes turns with them.

Training: an SGD step with clipped gradients on random images, whose contents do not affect the
time. Inference: from such uint8 images to detections; with --saved_model from image files to
detections in their pixels (with --batch_size=1 the time of a step is the latency; the peer decodes
with Pillow). Input: training batches of --train_split, beside a bare tf.data map that only decodes
and resizes the same files; the peer is Pillow, torchvision's transforms and a DataLoader with one
process per core. Evaluation: COCO's twelve numbers of 5000 images with 100 random detections each.

--profile: where a step of our model spends its time (`benchmarks.step_profile`).
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import contestants, evaluation, exported, input_pipeline
from benchmarks.processes import Contestant, Entrant, time_in_turns
from benchmarks.table import figures, format_figures, format_shares
from fcos_tf import config as sections
from fcos_tf.atomic_files import make_folder, write_text
from fcos_tf.cli import command_line
from fcos_tf.config import Config
from fcos_tf.options import Options, fields_of, option
from fcos_tf.tensorflow_words import one_line

_MODEL = ("model", "initial_weights", sections.ModelOptions, sections.DetectionOptions)
_USES = (
    sections.DataOptions, sections.InputOptions, sections.AugmentationOptions, *_MODEL,
    sections.TrainingOptions, "seed",
)  # fmt: skip
_MODEL_TASKS = ("training", "inference")
_PEERS = {
    what: tuple(name for name, peer in contestants.PEERS.items() if what in peer.tasks)
    for what in _MODEL_TASKS
} | {"input": ("torchvision",), "evaluation": ("pycocotools",)}
_FILES = (sections.DataOptions, sections.AugmentationOptions)
_UNUSED = {
    "training": (*_FILES, sections.DetectionOptions, "saved_model"),
    "inference": (*_FILES, *(fields_of(sections.TrainingOptions).keys() - {"precision"})),
    "input": (*_MODEL, sections.TrainingOptions, "saved_model"),
    "evaluation": ({*fields_of(Config), "saved_model"} - {"seed"}),
}
_STEPS = {"training": 4, "inference": 4, "input": 100, "evaluation": 1}


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(Options):
    """The task, the peer and the length of the run."""

    what: str = option("", "Task to time.", choices=tuple(_PEERS), required=True)
    peer: tuple[str, ...] = option(
        (), "Also time these: torchvision and KerasHub's RetinaNet in the same precision, for "
        "evaluation pycocotools; our model in float32, by OpenVINO, by ONNX Runtime (float32).",
        choices=(*contestants.PEERS, "pycocotools"),
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
    profile: bool = option(
        False, "With --what=training or inference: where a step of our model spends its time."
    )
    json: str | None = option(None, "File for all figures and the seconds of every round.")


def main(argv: list[str] | None = None) -> None:
    """Runs the tool; ends the process with its exit status."""
    command_line.run(_benchmark, __doc__, argv, uses=_USES, options=BenchmarkOptions)


def _benchmark(config: Config, options: BenchmarkOptions, given: command_line.Given) -> None:
    what, peers, saved_model = options.what, options.peer, options.saved_model
    for peer in peers:
        if peer not in _PEERS[what]:
            expected = " or ".join(_PEERS[what])
            raise ValueError(f"--peer: expected {expected} with --what={what}, got {peer!r}")
    if "float32" in peers and config.precision == "float32":
        raise ValueError("--peer=float32: expected another --precision, got float32")
    if saved_model and set(peers) - {"torchvision"}:
        raise ValueError(f"--peer: expected torchvision with --saved_model, got {','.join(peers)}")
    if options.profile and (what not in _MODEL_TASKS or saved_model):
        raise ValueError(
            "--profile: expected --what=training or inference and no --saved_model, got "
            f"--what={what}"
        )
    refuse = functools.partial(command_line.refuse_unused, given)
    refuse(f"--what={what}", _UNUSED[what])
    if saved_model and what == "inference":
        used = {"batch_size"} | (fields_of(sections.ModelOptions).keys() if peers else set())
        refuse("--saved_model", fields_of(Config).keys() - used)
    else:
        refuse(f"--what={what} without --saved_model", ["input"])
    if saved_model and what == "inference":
        found = exported.entrants(config, saved_model, options.input, peers)
    elif what == "input":
        found = input_pipeline.entrants(config, peers)
    elif what == "evaluation":
        found = evaluation.entrants(config.seed, peers)
    else:
        found = contestants.entrants(config, what, peers)
    if options.json:
        make_folder(Path(options.json).parent, "json")
    check = evaluation.check if what == "evaluation" else None
    result = _measure(*found, options, options.steps_per_round or _STEPS[what], check)
    print(result["title"])
    print(format_figures(result["contestants"]))
    for name, each in result["contestants"].items():
        if each["note"]:
            print(f"{name}: {each['note']}")
    for name, speed in result["matrix_product_peak_flops_per_second"].items():
        print(f"matrix product in {name}: {speed / 1e9:.1f} GFLOP/s")
    if options.profile:
        ours = next(iter(result["contestants"].values()))
        print(format_shares(result["profile"], ours["seconds_per_step"]["median"]))
    if options.json:
        write_text(options.json, json.dumps(result, indent=2) + "\n")
    if result["faults"]:
        raise ValueError("; ".join(f"{name} failed: {e}" for name, e in result["faults"].items()))


def _measure(
    title: str,
    images_per_step: int,
    entrants: dict[str, Entrant],
    options: BenchmarkOptions,
    steps: int,
    check: Callable | None,
) -> dict:
    """All figures; `check` takes the results of all contestants."""
    with contextlib.ExitStack() as stack:

        def start(name, entrant):
            return stack.enter_context(contextlib.closing(Contestant(name, entrant)))

        started, faults = {}, {}
        for name, entrant in entrants.items():
            try:
                started[name] = start(name, entrant)
            except Exception as error:
                if not started:  # ours
                    raise
                faults[name] = one_line(error)
        products = {}
        if options.what in _MODEL_TASKS and not options.saved_model:
            made = contestants.products([each.precision for each in entrants.values()])
            products = {name: start(f"matrix product {name}", each) for name, each in made.items()}
        runs = {each.name: each.run for each in (*started.values(), *products.values())}
        seconds = time_in_turns(runs, rounds=options.rounds, steps=steps, faults=faults)
        ours = next(iter(started))
        if ours in faults:
            raise ValueError(f"{ours} failed: {faults[ours]}")
        started = {name: each for name, each in started.items() if name in seconds}
        products = {name: each for name, each in products.items() if each.name in seconds}
        peaks = {  # the best of the rounds
            name: each.ask("flops") / min(seconds[each.name]) for name, each in products.items()
        }

        def flops_of(name, each):
            try:
                return each.ask("flops")
            except Exception as error:
                faults[name] = one_line(error)
                return None

        memory = {name: each.ask("memory") for name, each in started.items()}
        if check and not faults:
            check({name: each.ask("result") for name, each in started.items()})
        result = {
            "title": title,
            "images_per_step": images_per_step,
            "seconds_per_step": seconds,
            "contestants": {
                name: figures(
                    seconds[name],
                    images_per_step=images_per_step,
                    memory=memory[name],
                    flops=flops_of(name, each),
                    peak=peaks.get(each.precision),
                    note=each.note,
                )
                for name, each in started.items()
            },
            "matrix_product_peak_flops_per_second": peaks,
            "faults": faults,
        }
        if options.profile:
            result["profile"] = next(iter(started.values())).ask("profile", steps)
    return result
