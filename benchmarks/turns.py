"""Turns of several contestants, so that a busy machine slows all of them."""

import dataclasses
import time
from collections.abc import Callable, Mapping

from fcos_tf.tensorflow_words import one_line

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


def time_in_turns(
    runs: Mapping[str, Run], *, rounds: int, steps: int, faults: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """Seconds per step of every contestant in every round, after one untimed step each.

    Args:
        runs: By the names of the contestants.
        rounds: The number of turns of each.
        steps: Of a turn.
        faults: Takes the error of a contestant that fails, which then has no seconds; None: an
            error ends all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name in list(seconds):
            try:
                taken = runs[name](steps if turn else 1)
            except Exception as error:
                if faults is None:
                    raise
                faults[name] = one_line(error)
                del seconds[name]
            else:
                seconds[name] += [taken / steps] * (turn > 0)
    return seconds
