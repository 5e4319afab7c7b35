"""Several replicas and hosts: they do what one does, and what happens when one host dies."""

import re
import signal
import time

import keras
import numpy as np
import pytest

from fcos_tf.jobs.train import train
from fcos_tf.training.strategy import make_strategy
from tests.cli.parsing import parse_config
from tests.digit_files import write_digits
from tests.limits import HANG
from tests.training.hosts import finish, start, start_hosts
from tests.training.replicas import train_and_detect
from tests.training.run_folders import assert_close_records, wait_for_checkpoint


@pytest.mark.parametrize(
    "norm",
    [
        "sync",
        *(
            pytest.param(norm, marks=pytest.mark.slow)
            for norm in ("frozen", "left_out", "two_stage")
        ),
    ],
)
def test_replicas_and_hosts_train_and_detect_like_one(norm, tmp_path):
    steps = 20

    def arguments(strategy, name):
        return "-m", "tests.training.replicas", strategy, norm, steps, tmp_path / f"{name}.npz"

    others = {
        "mirrored": start(arguments("mirrored", "mirrored")),
        **start_hosts({name: arguments("multi_worker", name) for name in ("host 0", "host 1")}),
    }
    check_equal_to_one(others, norm, steps, tmp_path)


@pytest.mark.slow
def test_hosts_of_two_devices_train_and_detect_like_one(tmp_path):
    arguments = "-m", "tests.training.replicas", "multi_worker_of_two", "sync", 20
    hosts = {name: (*arguments, tmp_path / f"{name}.npz") for name in ("host 0", "host 1")}
    check_equal_to_one(start_hosts(hosts), "sync", 20, tmp_path)


def check_equal_to_one(others, norm, steps, tmp_path):
    one = train_and_detect(make_strategy("one_device"), norm, steps)
    # Of even steps: in odd ones all images have boxes, and Faster R-CNN's loss is higher.
    assert one["loss"].shape == (steps,) and one["loss"][-2] < one["loss"][0]
    assert one["mean loss"] == one["loss"][-1]
    # Every batch has positives, those of even steps on the first replica only.
    two_stage = norm == "two_stage"
    assert np.nanmin(one["num_positive_regions" if two_stage else "num_positives"]) > 4
    assert np.isnan(one["loss"]).nonzero()[0].tolist() == ([3] if norm == "left_out" else [])
    assert one["image ids"].tolist() == list(range(11)) and len(one["detected score"]) > 100
    for which, process in others.items():
        finish(process)
        other = np.load(tmp_path / f"{which}.npz")
        assert set(other) == set(one)
        for name, value in one.items():
            if two_stage and name.startswith("detected"):
                continue  # of proposals that tie, rounding chooses
            limits = {"rtol": 0, "atol": 1e-5} if name.startswith("weight") else {"rtol": 1e-5}
            np.testing.assert_allclose(other[name], value, **limits, err_msg=f"{which}: {name}")


FLAGS = (
    "--dataset=digits", "--image_size=64x64", "--backbone=simple_cnn", "--backbone_norm=sync",
    "--fpn_levels=3", "--fpn_channels=32", "--head_convs=1", "--batch_size=4", "--overfit=6",
    "--steps=12", "--warmup_steps=2", "--schedule=constant", "--log_every=1", "--eval_every=12",
    "--checkpoint_every=2", "--score_threshold=0.001",
)  # fmt: skip


def assert_lost(errors, host):
    """The last of these lines names a host that does not answer."""
    name = f"/job:worker/replica:0/task:{host}"
    assert errors.splitlines()[-1].startswith(f"train.py: error: host {name} does not answer")


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_host_that_dies_ends_the_others_and_all_resume(victim, tmp_path):
    folder = tmp_path / "hosts"
    flags = (*FLAGS, "--log_every=4")  # step 6, where they resume, is between two records
    commands = dict.fromkeys((0, 1), ("tools/train.py", *flags, f"--model_dir={folder}"))
    hosts = start_hosts(commands)
    wait_for_checkpoint(6, folder, hosts.values())
    hosts[victim].send_signal(signal.SIGKILL)
    survivor = hosts[1 - victim]
    _, errors = survivor.communicate(timeout=HANG)
    assert survivor.returncode == 1
    assert_lost(errors, victim)
    assert errors.count("\n") == 1
    assert not (folder / "model.keras").exists()

    again = start_hosts(commands)
    straight = tmp_path / "straight"
    train(parse_config([*flags, f"--model_dir={straight}"]), lambda _: 0)
    told = [finish(process) for process in again.values()]
    assert "resuming at step " in told[0] and "2 CPUs on 2 hosts" in told[0]
    (line,) = told[1].splitlines()
    assert line.startswith("waiting until all hosts are there: localhost:")
    assert_close_records(folder, straight, rel=1e-5, abs=1e-7)
    weights = [
        keras.models.load_model(path / "model.keras", compile=False).get_weights()
        for path in (folder, straight)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_waiting_for_a_host_can_be_interrupted(tmp_path):
    started = start_hosts({0: ("tools/train.py", f"--model_dir={tmp_path}"), 1: ("-c", "")})
    first = started[0]
    line = first.stdout.readline()
    assert line.startswith("waiting until all hosts are there: localhost:")
    time.sleep(2)  # it is in TensorFlow by then
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=HANG) == -signal.SIGINT
    started[1].wait(timeout=HANG)


def errors_of(*commands):
    """What hosts that all fail say."""
    hosts = start_hosts(dict(enumerate(commands)))
    errors = [host.communicate(timeout=HANG)[1] for host in hosts.values()]
    assert [host.returncode for host in hosts.values()] == [1] * len(commands)
    return errors


def test_hosts_with_other_flags_are_refused(tmp_path):
    flags = ("tools/train.py", *FLAGS, f"--model_dir={tmp_path}")
    errors = errors_of(flags, (*flags, "--learning_rate=0.5", "--cache"))
    assert errors == [
        "train.py: error: expected the same on all hosts of TF_CONFIG, got other values on host "
        f"{host} than elsewhere: --learning_rate (here {value})\n"
        for host, value in ((0, "0.01"), (1, "0.5"))
    ]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # the chief's


def test_hosts_with_a_folder_each_are_refused(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    folders[1].mkdir(parents=True)
    errors = errors_of(*(("tools/train.py", *FLAGS, f"--model_dir={each}") for each in folders))
    assert errors == [
        "train.py: error: --model_dir: expected one folder shared by all hosts of TF_CONFIG, got "
        f"{folder} on host {host}; no file of the chief on host 1\n"
        for host, folder in enumerate(folders)
    ]
    assert [[path.name for path in folder.iterdir()] for folder in folders] == [[".lock"], []]


@pytest.mark.slow
def test_a_host_that_halts_ends_the_others(tmp_path):
    flags = (*FLAGS, "--steps=500", "--eval_every=500", f"--model_dir={tmp_path}")
    hosts = start_hosts(dict.fromkeys((0, 1), ("tools/train.py", *flags)))
    wait_for_checkpoint(2, tmp_path, hosts.values())
    hosts[1].send_signal(signal.SIGSTOP)
    try:
        _, errors = hosts[0].communicate(timeout=HANG)
    finally:
        hosts[1].kill()
    assert hosts[0].returncode == 1
    assert_lost(errors, 1)


# The tool on a disk that has room for 50 kB in a file.
FULL_DISK = """
import resource
from fcos_tf.cli import train
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
train.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_host_that_ends_by_an_error_says_which_and_ends_the_others(failing, tmp_path):
    run = tmp_path / "run"
    flags = [*FLAGS, "--steps=500", "--eval_every=500", f"--model_dir={run}"]
    commands = {host: ["tools/train.py", *flags] for host in (0, 1)}
    if failing == 0:
        commands[0][:1] = ["-c", FULL_DISK]
        hosts = start_hosts(commands)
        path = run / "checkpoints" / "step_00000002.keras"
        told = rf"-c: error: cannot write {path}: File too large.*\n"
    else:
        for host, command in commands.items():
            folder = write_digits("voc", tmp_path / str(host), {"train": 64, "val": 4})
            command += ["--dataset=voc", f"--data_dir={folder}", "--overfit=0"]
            command += ["--max_bad_images=0"]
        hosts = start_hosts(commands)
        wait_for_checkpoint(4, run, hosts.values())
        gone = sorted((folder / "JPEGImages").glob("train_*"))
        for path in gone:
            path.unlink()
        told = rf"train\.py: error: .*no image file {gone[0].parent}/train_\d+\.png\n"
    _, errors = hosts[failing].communicate(timeout=HANG)
    assert hosts[failing].returncode == 1 and re.search(rf"(?:^|\n){told}$", errors), errors
    other = hosts[1 - failing]
    _, errors = other.communicate(timeout=HANG)
    assert other.returncode == 1
    assert_lost(errors, failing)
