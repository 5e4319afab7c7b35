"""Where the time of a step of our model goes, by TensorFlow's profiler, on the CPU.

The profiler tells when each operation starts and ends on each thread. An instant of the step
counts for the operations that run in it, in equal parts where several threads have one; so the
shares of all parts sum to 1, the wall time. Threads inside of an operation do not count. Instants
without an operation are those of the executor, between the start and the end of a graph, or those
of Python.

The part of an operation follows from its type or from the scopes in its name, which gradients
keep: "gradient_tape/losses/fcos/head/class_norm_0/mul". Fused operations have the name and the
part of one of their members; a convolution with its bias and ReLU is a convolution.
"""

import bisect
import functools
import importlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

CONVOLUTIONS, NORMS = "convolutions and matrix products", "normalisations"
LAYERS, CHOICE = "elementwise and others of layers", "decoding and suppression"
LOSSES, OPTIMIZER, INPUT = "targets and losses", "optimizer", "input"
OTHER, EXECUTOR, PYTHON = "other operations", "executor, between operations", "Python and dispatch"
PARTS = (
    CONVOLUTIONS, NORMS, LAYERS, CHOICE, LOSSES, OPTIMIZER, INPUT, OTHER, EXECUTOR, PYTHON,
)  # fmt: skip

_STEP, _GRAPH = "benchmark_step", "KernelAndDeviceFunc::Run"
# Those of oneDNN have "_Mkl" or "_MklNative" before the name, fused ones "_Fused".
_PRODUCT = re.compile(r"Conv2D|DepthwiseConv2d|MatMul|Einsum")
_NORM = re.compile(r"FusedBatchNorm")
_INPUT = re.compile(r"Iterator|Decode(?:Jpeg|Image|Png)|ReadFile")
_OPERATION = re.compile(r"([\w./-]+):(\w+)")


def name_parts(model) -> None:
    """Puts what is not a layer of a model into scopes, before it is traced."""
    _scoped(model, "decode", CHOICE)
    _scoped(model, "forward_losses", LOSSES)
    faster_rcnn = importlib.import_module("fcos_tf.models.faster_rcnn")
    _scoped(faster_rcnn, "propose", CHOICE)
    _scoped(faster_rcnn, "multilevel_roi_align", LAYERS)


def _scoped(owner, name: str, part: str) -> None:
    """Replaces a function by one whose operations have the scope of a part."""
    import tensorflow as tf

    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with tf.name_scope(_scope(part)):
            return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def _scope(part: str) -> str:
    return "part_" + part.replace(" ", "_")


def profile(step: Callable[[], object], model, steps: int) -> dict[str, float]:
    """The share of each of `PARTS` in the wall time of some steps, which were run before.

    Raises:
        ValueError: the steps are not operation by operation on the CPU.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    if model.jit_compile is True or tf.config.list_physical_devices("GPU"):
        raise ValueError("--profile: expected a CPU without --jit_compile, got a GPU or XLA")
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
        tf.profiler.experimental.start(folder, options)
        try:
            for number in range(steps):
                with tf.profiler.experimental.Trace(_STEP, step_num=number):
                    step()
        finally:
            tf.profiler.experimental.stop()
        space = XSpace()
        for file in Path(folder).rglob("*.xplane.pb"):
            space.MergeFromString(file.read_bytes())
    return shares(events_of(space), functools.partial(part_of, scopes=_scopes(model)))


def _scopes(model) -> dict[str, str]:
    """Scope -> part of the operations of a model and its optimizer."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return {
        **{
            layer.name: NORMS if "Norm" in type(layer).__name__ else LAYERS
            for layer in model._flatten_layers(include_self=False)
        },
        **{_scope(part): part for part in (LAYERS, CHOICE, LOSSES)},
        **dict.fromkeys((optimizer.name, "global_norm", "clip_by_global_norm"), OPTIMIZER),
    }


class Event(NamedTuple):
    """What a thread did, from `start` to `end` in picoseconds."""

    name: str
    thread: int
    start: int
    end: int


def events_of(space) -> list[Event]:
    """The events of the processor in a profile (`XSpace`)."""
    return [
        Event(
            plane.event_metadata[event.metadata_id].name,
            line.id,
            1000 * line.timestamp_ns + event.offset_ps,
            1000 * line.timestamp_ns + event.offset_ps + event.duration_ps,
        )
        for plane in space.planes
        if plane.name == "/host:CPU"
        for line in plane.lines
        for event in line.events
    ]


def part_of(name: str, scopes: Mapping[str, str]) -> str | None:
    """The part of an event, None for one that is no operation.

    Args:
        name: of an operation "scopes/of/name:Type".
        scopes: scope -> its part; the innermost counts.
    """
    if name == _GRAPH:
        return EXECUTOR
    if name == "tf.constant":  # an array of NumPy becomes a tensor
        return INPUT
    found = _OPERATION.fullmatch(name)
    if not found:
        return None
    path, kind = found[1].split("/"), found[2]
    if _PRODUCT.search(kind):
        return CONVOLUTIONS
    if _INPUT.search(kind):
        return INPUT
    if _NORM.search(kind):
        return NORMS
    for word in reversed(path):
        for scope in (word, re.sub(r"_\d+$", "", word)):  # without the number of a second call
            if scope in scopes:
                return scopes[scope]
    return OTHER


def shares(events: Iterable[Event], part: Callable[[str], str | None]) -> dict[str, float]:
    """The share of each of `PARTS` in the time of all steps; they sum to 1.

    On one thread the event that started last counts. The executor counts where no operation runs.

    Raises:
        RuntimeError: the events hold no step.
    """
    events = list(events)
    windows = sorted((event.start, event.end) for event in events if event.name == _STEP)
    total = sum(end - start for start, end in windows)
    if not total:
        raise RuntimeError("the profile holds no step")
    starts = [start for start, _ in windows]
    changes = [(time, 1, -1, None) for window in windows for time in window]
    for index, event in enumerate(events):
        kind = part(event.name)
        if kind is not None and event.end > event.start:
            changes += [(event.start, 1, index, kind), (event.end, 0, index, kind)]
    changes.sort(key=lambda change: change[:2])
    sums, active = dict.fromkeys(PARTS, 0), {}  # active: index of an event -> its part
    before = 0
    for time, starting, index, kind in changes:
        k = bisect.bisect_right(starts, before) - 1
        if time > before and k >= 0 and before < windows[k][1]:
            innermost: dict[int, str] = {}  # of each thread
            for i, running in sorted(active.items(), key=lambda item: events[item[0]].start):
                if running != EXECUTOR:
                    innermost[events[i].thread] = running
            running = list(innermost.values())
            if not running:
                running = [EXECUTOR if EXECUTOR in active.values() else PYTHON]
            for each in running:
                sums[each] += (time - before) / len(running)
        before = time
        if kind is not None:
            if starting:
                active[index] = kind
            else:
                del active[index]
    return {name: value / total for name, value in sums.items()}
