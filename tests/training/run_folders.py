"""What a run writes into its folder, and when."""

import json
import time

import pytest

from fcos_tf.training import checkpoints
from tests.limits import HANG


def records(folder):
    """The lines of metrics.jsonl, without what is a matter of time."""
    kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in kept:
        for name in ("images_per_second", "input_share"):
            record.pop(name, None)
    return kept


def kinds(folder):
    """(step, kind) of each record."""
    return [(record["step"], record["kind"]) for record in records(folder)]


def assert_close_records(folder, other, **limits):
    """The records of two runs are the same, up to limits as `pytest.approx` takes them."""
    assert kinds(folder) == kinds(other)
    for ours, theirs in zip(records(folder), records(other), strict=True):
        del ours["kind"], theirs["kind"]
        assert ours == pytest.approx(theirs, **limits)


def wait_for_checkpoint(step, folder, processes=()):
    """Returns when a checkpoint is there; fails if a process ends, or the time is over, before."""
    path = folder / checkpoints.FOLDER / f"step_{step:08d}.keras"
    deadline = time.monotonic() + HANG
    while not path.exists():
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {path} after {HANG} s"
        time.sleep(0.01)
