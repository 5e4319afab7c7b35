"""What ends a run: signals, errors in an evaluation, full disks."""

import contextlib
import errno
import functools
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fcos_tf.training import callbacks, checkpoints, interruption
from fcos_tf.training.interruption import SIGNALS, StopSignals, TrainingStopped, locked
from fcos_tf.training.metric_writers import JsonLinesWriter, TensorBoardWriter
from tests.limits import HANG
from tests.training import tiny_run
from tests.training.hosts import finish, start_hosts
from tests.training.run_folders import kinds, records, wait_for_checkpoint
from tests.training.test_distributed import FLAGS


class SignalAt(callbacks.StepCallback):
    """Sends the process a signal after a step."""

    def __init__(self, step, number):
        super().__init__()
        self.at, self.number = step, number

    def on_step_end(self, step, logs):
        if step == self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    tiny_run.run(folder)
    return folder


def assert_same_end(folder, straight):
    assert records(folder) == records(straight)
    models = []
    for each in (folder, straight):
        models.append(tiny_run.make_model())
        assert checkpoints.restore(models[-1], checkpoints.latest(each)) == tiny_run.TOTAL
    for a, b in zip(*(m.variables + m.optimizer.variables for m in models), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (folder / "best.json").read_text() == (straight / "best.json").read_text()


# In the middle of an epoch, and before an evaluation.
@pytest.mark.parametrize(("number", "step"), zip(SIGNALS, (3, 5), strict=True))
def test_a_signal_stops_after_the_step_and_the_run_goes_on_from_there(
    tmp_path, straight, number, step
):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(TrainingStopped, match=f"stopped by {number.name}"), StopSignals() as stop:
        tiny_run.run(tmp_path, stop=stop, more=[SignalAt(step, number)])
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == step
    assert kinds(tmp_path)[-1] == (step, "train")
    tiny_run.run(tmp_path)
    assert_same_end(tmp_path, straight)


def test_a_signal_in_an_evaluation_breaks_it_off(tmp_path, straight):
    class Interrupted(tiny_run.Weight):
        def evaluate(self):
            os.kill(os.getpid(), signal.SIGTERM)
            self.progress(1)

    with pytest.raises(TrainingStopped, match="stopped by SIGTERM"), StopSignals() as stop:
        evaluation = Interrupted([], progress=stop.raise_if_received)
        tiny_run.run(tmp_path, stop=stop, evaluation=evaluation)
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 5
    tiny_run.run(tmp_path)
    assert_same_end(tmp_path, straight)


# The file alone: importing the package takes long.
TWO_SIGNALS = f"""
import sys, time
sys.path.insert(0, {str(Path(interruption.__file__).parent)!r})
from interruption import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop.received:
        time.sleep(0.01)
    print(stop.received, flush=True)
    time.sleep({2 * HANG})
"""


def test_a_second_signal_ends_the_process_at_once():
    command = [sys.executable, "-c", TWO_SIGNALS]
    for second in (signal.SIGINT, signal.SIGTERM):  # a shell says 130 and 143
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "SIGTERM\n"
            process.send_signal(second)
            assert process.wait(timeout=HANG) == -second


def test_signals_are_left_alone_outside_the_main_thread():
    before = [signal.getsignal(each) for each in SIGNALS]
    entered = []

    def enter():
        with StopSignals() as stop:
            entered.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [None]
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_what_fails_in_an_evaluation_costs_no_step(tmp_path, straight):
    class Failing(tiny_run.Weight):
        def evaluate(self):
            raise RuntimeError("no memory for that")

    with pytest.raises(RuntimeError, match="no memory"):
        tiny_run.run(tmp_path, evaluation=Failing([]))
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 5
    tiny_run.run(tmp_path)
    assert_same_end(tmp_path, straight)


@pytest.fixture(params=["small disk", "limit of the files' size"])
def full_disk(request, tmp_path):
    """A folder, a function that leaves no room in it, and one that gives it back."""
    if request.param == "small disk":
        folder = tmp_path / "disk"
        folder.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(mounting, stderr=-1).returncode:
            pytest.skip("no right to mount a small disk")
        filler = folder / "filler"

        def fill():
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        yield folder, fill, filler.unlink
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit, unlimit = (
            functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
            for limits in ((5000, before[1]), before)
        )
        yield tmp_path / "run", limit, unlimit
        unlimit()


def test_a_full_disk_is_told_in_one_line_and_with_room_the_run_goes_on(full_disk, straight):
    folder, fill, free = full_disk
    saved = folder / "checkpoints"

    class FillAt3(callbacks.StepCallback):
        def on_step_end(self, step, logs):
            if step == 3:
                wait_for_checkpoint(2, folder)  # written in the background
                fill()

    with pytest.raises(OSError) as caught:
        tiny_run.run(folder, more=[FillAt3()])
    assert re.fullmatch(
        f"cannot write {saved}/step_00000004.keras: (No space left on device|File too large); "
        r"\d+\.\d MB free there; step 4 is not saved, the newest whole checkpoint is "
        f"{saved}/step_00000002.keras; the same command resumes from it",
        str(caught.value),
    )
    assert os.listdir(saved) == ["step_00000002.keras"]
    free()
    tiny_run.run(folder)
    assert_same_end(folder, straight)


@pytest.mark.parametrize("kind", [JsonLinesWriter, TensorBoardWriter])
def test_records_that_find_no_room_are_told_by_the_name_of_their_file(full_disk, kind):
    folder, fill, free = full_disk
    folder.mkdir(exist_ok=True)
    path = folder / "metrics.jsonl"
    writer = kind(path)
    writer.write(1, "train", {"loss": 1.0})
    fill()
    with pytest.raises(OSError, match=rf"cannot write {path}.*: (No space|File too large)"):
        for _ in range(300):
            writer.write(1, "train", {"loss": 1.0})
    writer.close()
    free()
    if kind is JsonLinesWriter:  # the last line was cut
        JsonLinesWriter(path, first_step=1).close()
        lines = path.read_text().splitlines()
        assert lines and set(lines) == {'{"step": 1, "kind": "train", "loss": 1.0}'}


HOLD_LOCK = f"""
import sys, time
sys.path.insert(0, {str(Path(interruption.__file__).parents[2])!r})
from fcos_tf.training.interruption import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep({2 * HANG})
"""


def test_two_processes_are_not_at_one_folder_and_a_killed_one_is_no_obstacle(tmp_path):
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLD_LOCK, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        holder = f"in use by process {process.pid} on {re.escape(socket.gethostname())} since 20"
        with (
            pytest.raises(ValueError, match=f"--model_dir: .* got {folder} {holder}"),
            locked(folder),
        ):
            pass
        process.kill()
    with (
        locked(folder),
        pytest.raises(ValueError, match=f"process {os.getpid()} on "),
        locked(folder),
    ):
        pass
    (folder / ".lock").write_text("process 1 on another host since 1970-01-01\n")
    with locked(folder):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"--model_dir: expected a folder, got the file .*/file"),
        locked(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(OSError, match=r"cannot write .*/file/run/.lock: Not a directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass
    mounting = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mounting, stderr=-1).returncode:
        pytest.skip("no right to mount a read-only disk")
    try:
        with (
            pytest.raises(OSError, match=r"cannot write .*: Read-only file system"),
            locked(tmp_path / "run"),
        ):
            pass
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(interruption.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="file system without locks"), locked(tmp_path):
        pass


@pytest.mark.slow
def test_a_signal_to_one_of_two_hosts_stops_both_and_both_go_on(tmp_path):
    flags = [*FLAGS, f"--model_dir={tmp_path}", "--eval_every=40", "--steps=40"]
    hosts = start_hosts(dict.fromkeys((0, 1), ("tools/train.py", *flags)))
    wait_for_checkpoint(4, tmp_path, hosts.values())
    hosts[1].send_signal(signal.SIGTERM)
    told = [finish(hosts[number]) for number in (0, 1)]
    step = checkpoints.step_of(checkpoints.latest(tmp_path))
    assert step % 10 == 0
    (line,) = told[1].splitlines()
    assert line.startswith("waiting until all hosts are there: ")
    last_line = told[0].splitlines()[-1]
    assert last_line.startswith(f"stopped by a signal to another host at step {step} of 40, kept")
    hosts = start_hosts(dict.fromkeys((0, 1), ("tools/train.py", *flags)))
    told = [finish(hosts[number]) for number in (0, 1)]
    assert f"resuming at step {step} of 40" in told[0]
