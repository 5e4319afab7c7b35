"""Tools as process 1 of a container, here of a namespace of process ids."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]
TOOL = """
import signal, sys, time
from fcos_tf.cli import command_line

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell

def wait(*_):
    print("ready", flush=True)
    while True:  # an interrupt just before a long sleep would be raised only after it
        time.sleep(0.01)

def stop(*_):
    sys.path.insert(0, "fcos_tf/training")  # the file alone: the package takes long
    from interruption import StopSignals
    with StopSignals() as stop:
        print("ready", flush=True)
        while not stop.received:
            time.sleep(0.01)
        print(stop.received, flush=True)
        {then}

command_line.run({tool}, "", uses=())
"""


@pytest.fixture
def start():
    """Starts a tool as process 1; gives the process around it and the id of process 1 outside."""
    command = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], stderr=-1).returncode:
        pytest.skip("no right to make a namespace of process ids")
    started = []

    def start_tool(tool, then="pass"):
        code = TOOL.format(tool=tool, then=then)
        process = subprocess.Popen(
            [*command, sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        (inside,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return process, int(inside)

    yield start_tool
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_tool_that_does_not_train_yet(start, number, status):
    process, inside = start("wait")
    os.kill(inside, number)
    assert process.wait(timeout=HANG) == status


def test_a_signal_stops_training_and_a_second_one_ends_it_at_once(start):
    process, inside = start("stop")
    os.kill(inside, signal.SIGTERM)
    assert process.communicate(timeout=HANG)[0] == "SIGTERM\n" and process.returncode == 0
    process, inside = start("stop", then=f"time.sleep({2 * HANG})")
    os.kill(inside, signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"
    os.kill(inside, signal.SIGTERM)
    assert process.wait(timeout=HANG) == 143
