"""Contestants in processes of their own: libraries, threads and memory do not mix.

They take turns, so that a busy machine slows all of them.

The memory of a contestant is the peak of the resident set of its process. The resident set after
the import of its libraries is told beside it: the difference is the model and its steps. Processes
that a contestant starts itself, such as the workers of a DataLoader, are not counted.
"""

import contextlib
import dataclasses
import multiprocessing
import pickle
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fcos_tf.tensorflow_words import load_tensorflow, one_line

# Of a new interpreter: a fork would inherit the threads of its parent, and its memory.
_CONTEXT = multiprocessing.get_context("spawn")

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


@dataclasses.dataclass(frozen=True)
class Entrant:
    """How a contestant is made in its process; the functions are those of modules, or partial.

    Attributes:
        make: makes the side.
        libraries: imports the libraries, whose memory is not the model's.
        precision: of its products, for the share of the peak: "float32", "bfloat16", "float16".
    """

    make: Callable[[], Side]
    libraries: Callable[[], object] = load_tensorflow
    precision: str = "float32"


class Contestant:
    """An entrant in a process of its own, which waits for requests.

    Raises:
        ChildProcessError: its process ended, here or in an answer.
        Exception: what its libraries or its `make` raise.
    """

    def __init__(self, name: str, entrant: Entrant):
        self.name, self.precision = name, entrant.precision
        self._pipe, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(other, entrant))
        self._process.start()
        other.close()
        try:
            self.note = self._receive()
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, *arguments) -> Any:
        """The answer of a field of `Side`, or "memory": (peak, of the libraries) in bytes."""
        with contextlib.suppress(OSError):  # it has ended, as the next line tells
            self._pipe.send((what, arguments))
        return self._receive()

    def run(self, steps: int) -> float:
        """See `Side.run`."""
        return self.ask("run", steps)

    def _receive(self):
        try:
            answer, error = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise ChildProcessError(
                f"{self.name}: expected an answer, got the end of its process, exit status "
                f"{self._process.exitcode}; the memory may not suffice"
            ) from None
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe, entrant: Entrant) -> None:
    """Answers requests until the other end is closed."""

    def answer(function, *arguments) -> None:
        try:
            result = function(*arguments), None
        except Exception as error:
            result = None, _portable(error)
        pipe.send(result)

    held: dict[str, Any] = {}

    def start() -> str:
        entrant.libraries()
        of_libraries = resident_memory()
        side = entrant.make()
        held.update({field.name: getattr(side, field.name) for field in dataclasses.fields(Side)})
        held["memory"] = lambda: (peak_memory(), of_libraries)
        return side.note

    answer(start)
    try:
        while True:
            what, arguments = pipe.recv()
            answer(held[what], *arguments)
    except (EOFError, OSError, KeyboardInterrupt):
        pass


def _portable(error: Exception) -> Exception:
    """The error, or one of the same text where it does not survive the way."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


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


def peak_memory() -> int:
    """Peak of the resident set of this process, in bytes."""
    return _of_status("VmHWM")


def resident_memory() -> int:
    """Resident set of this process, in bytes; where the system does not tell, its peak."""
    return _of_status("VmRSS")


def _of_status(name: str) -> int:
    # getrusage would tell the peak of the parent, from before the new program was loaded.
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
