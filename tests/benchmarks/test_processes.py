"""Contestants in processes of their own: memory, errors and the end."""

import functools
import os

import numpy as np
import pytest

from benchmarks.processes import Contestant, Entrant, Side, timed

MEBI = 1 << 20


def nothing():
    """Imports no library."""


def allocating(size: int) -> Side:
    """A side whose step fills an array of that many bytes, and drops it."""
    sums = []
    step = lambda: sums.append(int(np.ones(size, np.uint8).sum(dtype=np.int64)))  # noqa: E731
    return Side(timed(step), flops=lambda: 12, result=lambda: sums, note="a note")


def failing(error: Exception) -> Side:
    raise error


def ending(status: int) -> Side:
    return Side(lambda steps: os._exit(status))


@pytest.fixture
def contestant():
    made = []

    def start(function, *arguments):
        made.append(Contestant("x", Entrant(functools.partial(function, *arguments), nothing)))
        return made[-1]

    yield start
    for each in made:
        each.close()
        assert each._process.exitcode is not None


def test_the_peak_of_memory_grows_by_an_array_that_a_step_allocates(contestant):
    size = 192 * MEBI
    large, small = contestant(allocating, size), contestant(allocating, MEBI)
    before, of_libraries = large.ask("memory")
    assert before >= of_libraries > MEBI
    assert large.run(2) > 0 and small.run(2) > 0
    peak, same = large.ask("memory")
    # Pages that were resident before may be used again, some MiB at most.
    assert size - 16 * MEBI < peak - before < size + 64 * MEBI and same == of_libraries
    other, base = small.ask("memory")
    assert other - base < 64 * MEBI  # the array of another contestant is not seen
    assert large.ask("result") == [size, size] and large.ask("flops") == 12
    assert large.note == "a note"


def test_errors_of_a_contestant_arrive(contestant):
    with pytest.raises(ValueError, match="--peer=x: expected y"):
        contestant(failing, ValueError("--peer=x: expected y"))


def test_a_contestant_that_ends_is_an_error(contestant):
    ended = contestant(ending, 3)
    with pytest.raises(
        ChildProcessError, match=r"^x: .* exit status 3; the memory may not suffice$"
    ):
        ended.run(1)
    with pytest.raises(ChildProcessError, match="exit status 3"):
        ended.ask("memory")
