"""Turns of several contestants, so that a busy machine slows all of them."""

import dataclasses
import time
from collections.abc import Callable, Mapping

# Number of steps -> their seconds.
Run = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Side:
    """A contestant that is ready to run.

    Attributes:
        run: takes steps and returns their seconds.
        flops: operations of a step, see `benchmarks.flops`; None: unknown.
        profile: takes steps and returns the share of each part, see `benchmarks.step_profile`.
        result: what the last step computed, for comparisons.
        note: what a reader of its times has to know.
    """

    run: Run
    flops: Callable[[], int | None] = lambda: None
    profile: Callable[[int], dict[str, float]] | None = None
    result: Callable[[], object] = lambda: None
    note: str = ""


def timed(step: Callable[[], object]) -> Run:
    """Makes a run from a function of one step."""

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - start

    return run


def time_in_turns(runs: Mapping[str, Run], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of every contestant in every round, after one untimed step each."""
    for run in runs.values():
        run(1)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run(steps) / steps)
    return seconds
