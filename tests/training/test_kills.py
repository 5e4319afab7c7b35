"""Runs that are killed by SIGKILL and started again, as real processes."""

import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from fcos_tf.training import checkpoints
from tests.limits import HANG
from tests.training import tiny_run
from tests.training.run_folders import kinds, records

ROOT = Path(__file__).resolve().parents[2]
DIGITS = (
    "--dataset=digits", "--overfit=32", "--image_size=64x64", "--batch_size=4",
    "--backbone=simple_cnn", "--fpn_levels=3", "--fpn_channels=32", "--score_threshold=0.001",
    "--schedule=cosine", "--warmup_steps=10", "--steps=240", "--eval_every=20",
    "--checkpoint_every=4", "--log_every=3", "--strategy=one_device",
)  # fmt: skip
# The samples of Faster R-CNN are small: each step draws others.
MODELS = {
    "fcos": ("--head_convs=1",),
    "faster_rcnn": (
        "--fpn_first_level=3", "--fc_channels=32", "--anchors_per_image=16",
        "--rois_per_image=8", "--proposals_per_level=60,40", "--num_proposals=40,20",
    ),
}  # fmt: skip


def train_tool(model, *flags):
    return [sys.executable, "tools/train.py", f"--model={model}", *DIGITS, *MODELS[model], *flags]


def start(command, output):
    with open(output, "w") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def finish(command, output):
    status = start(command, output).wait(timeout=HANG)
    assert status == 0, output.read_text()


def kill(command, folder, output, moment):
    """Starts a run and kills it when `moment(what it printed, what it is writing)` says so.

    Returns the names of the files that were half written, or else the last line that it printed.
    """
    process = start(command, output)

    def writing():
        return [path.name for path in folder.rglob(f".writing_{process.pid}_*")]

    try:
        deadline = time.monotonic() + HANG
        while not moment(output.read_text(), writing()):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    return writing() or output.read_text().splitlines()[-1:]


def state(path):
    """Weights and optimizer slots of a checkpoint, by name."""
    values = {}
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member:

        def keep(name, item):
            if isinstance(item, h5py.Dataset):
                values[name] = item[()]

        with h5py.File(member) as file:
            file.visititems(keep)
    return values


def assert_same_run(folder, straight):
    """All that a run leaves is bitwise what the uninterrupted one has left."""
    names = [path.name for path in checkpoints._all_newest_first(straight)]
    assert [path.name for path in checkpoints._all_newest_first(folder)][:1] == names[:1]
    for name in (f"checkpoints/{names[0]}", "best.keras"):
        ours, theirs = state(folder / name), state(straight / name)
        assert ours.keys() == theirs.keys() and theirs
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=key)
    assert records(folder) == records(straight)
    assert (folder / "best.json").read_text() == (straight / "best.json").read_text()
    assert not list(folder.rglob(".writing_*"))


def test_kills_while_saving_and_while_evaluating_change_nothing(tmp_path):
    tiny_run.run(tmp_path / "straight")
    folder = tmp_path / "killed"
    command = [sys.executable, str(Path(tiny_run.__file__)), str(folder)]
    log = tmp_path / "log"

    under_way = kill(command, folder, log, lambda text, writing: "step_00000004" in str(writing))
    assert [name.split("_", 2)[2] for name in under_way] == ["step_00000004.keras"]
    assert checkpoints.latest(folder).name == "step_00000002.keras"
    # The first evaluation, after step 5; its checkpoint stands already.
    assert kill(command, folder, log, lambda text, writing: "evaluating" in text) == ["evaluating"]
    assert checkpoints.latest(folder).name == "step_00000005.keras"
    assert kinds(folder)[-1] == (5, "train")
    finish(command, log)
    assert_same_run(folder, tmp_path / "straight")


@pytest.mark.parametrize("model", ["fcos", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_deterministic_runs_are_bitwise_equal_also_after_a_kill(model, tmp_path):
    """On all cores; two runs without the flag differ from the first step on."""
    tool = train_tool(
        model, "--steps=12", "--eval_every=6", "--schedule=constant", "--deterministic"
    )
    finish([*tool, f"--model_dir={tmp_path / 'straight'}"], tmp_path / "straight.log")
    folder, log = tmp_path / "killed", tmp_path / "killed.log"
    command = [*tool, f"--model_dir={folder}"]
    kill(command, folder, log, lambda text, writing: "\nstep 9/" in text)
    finish(command, log)
    assert "resuming at step" in log.read_text()
    assert_same_run(folder, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_twenty_kills_at_random_moments_change_nothing(model, tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "killed"
    tool = train_tool(model, "--deterministic")
    finish([*tool, f"--model_dir={tmp_path / 'straight'}"], tmp_path / "straight.log")
    command = [*tool, f"--model_dir={folder}"]
    newest = 0
    for number in range(20):
        how = rng.choice(("saving", "in a step", "evaluating", "any time"))
        delay = rng.uniform(0, {"saving": 0.02, "any time": 10}.get(how, 1))
        due = 20 * (newest // 20 + 1)
        evaluated = folder / checkpoints.FOLDER / f"step_{due:08d}.keras"
        since = []

        def moment(text, writing, how=how, delay=delay, evaluated=evaluated, since=since):
            begun = {
                "saving": writing,
                "in a step": "\nstep " in text,
                "evaluating": evaluated.exists(),
                "any time": " images, " in text,
            }
            if begun[how]:
                since.append(time.monotonic())
            return since and time.monotonic() > since[0] + delay

        under_way = kill(command, folder, tmp_path / f"{number}.log", moment)
        path = checkpoints.latest(folder)  # a corrupt one would be warned of
        step = checkpoints.step_of(path) if path else 0
        print(f"kill {number + 1} ({how}, {delay:.2f} s): {under_way}; newest checkpoint {step}")
        assert step >= newest, "a checkpoint is lost"
        newest = step
    assert newest < 240
    finish(command, tmp_path / "last.log")
    assert_same_run(folder, tmp_path / "straight")
