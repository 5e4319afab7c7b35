"""What `train.py` says and leaves when something happens to a run; in this process, for speed."""

import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.cli import train as train_tool
from fcos_tf.config import Config
from fcos_tf.jobs.train import train
from fcos_tf.models.fcos import FCOS
from fcos_tf.tensorflow_words import is_out_of_memory
from fcos_tf.training import checkpoints
from fcos_tf.training.interruption import locked
from fcos_tf.training.metric_writers import TextWriter
from tests import tools
from tests.cli.parsing import parse_config
from tests.digit_files import write_digits
from tests.training.run_folders import kinds, records

SMALL = (
    "--image_size=64x64", "--backbone=simple_cnn", "--fpn_levels=3", "--fpn_channels=32",
    "--head_convs=0", "--batch_size=4", "--schedule=constant", "--log_every=1", "--eval_every=4",
    "--steps=4", "--score_threshold=0.001",
)  # fmt: skip


def run(capsys, *flags):
    return tools.run(capsys, train_tool, *SMALL, *flags)


@pytest.fixture
def after_line(monkeypatch):
    """Does something after a training line of a step has been printed."""
    write = TextWriter.write

    def put(step, action):
        def write_and_act(self, at, kind, values):
            write(self, at, kind, values)
            if (at, kind) == (step, "train"):
                action()

        monkeypatch.setattr(TextWriter, "write", write_and_act)

    return put


def test_a_stopped_run_and_a_killed_evaluation_go_on_with_the_same_command(
    tmp_path, capsys, after_line
):
    after_line(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    command = ["--overfit=8", f"--model_dir={tmp_path}"]
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == (
        f"stopped by SIGTERM at step 2 of 4, kept in {tmp_path}/checkpoints/step_00000002.keras; "
        "the same command resumes from there"
    )
    # Killed in the last evaluation: all is there but what comes after it.
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert out.startswith("resuming at step 2 of 4: ")
    lines = (tmp_path / "metrics.jsonl").read_text()
    best = (tmp_path / "best.json").read_text()
    (tmp_path / "metrics.jsonl").write_text("".join(lines.splitlines(keepends=True)[:-1]))
    for name in ("best.json", "best.keras", "model.keras", "metrics.json", "detections.png"):
        (tmp_path / name).unlink()
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert f"{tmp_path} is finished: step 4 of 4\nstep 4/4  [val]  AP " in out
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    assert (tmp_path / "best.json").read_text() == best
    assert (tmp_path / "best.keras").is_file() and (tmp_path / "model.keras").is_file()


def test_a_record_of_steps_before_and_after_a_kill_is_that_of_the_uninterrupted_run(tmp_path):
    # Records after steps 5, 7 (an evaluation) and 10; checkpoints of 3, 6, 7 and 9.
    flags = ("--overfit=8", "--log_every=5", "--eval_every=7", "--steps=10", "--dataset=digits",
             "--checkpoint_every=3", "--keep_checkpoints=9")  # fmt: skip
    straight = tmp_path / "straight"

    def train_in(folder):
        told = []
        config = parse_config([*SMALL, *flags, f"--model_dir={folder}"])
        return train(config, report=told.append), told

    train_in(straight)
    assert kinds(straight) == [(5, "train"), (7, "train"), (7, "val"), (10, "train"), (10, "val")]
    folder = tmp_path / "killed"
    shutil.copytree(straight, folder)
    for path in (folder / "checkpoints").iterdir():
        if checkpoints.step_of(path) > 3:
            path.unlink()
    (folder / "metrics.json").unlink()
    metrics, told = train_in(folder)
    assert told[0].startswith("resuming at step 3 of 10: ")
    assert records(folder) == records(straight)
    weights = [
        keras.models.load_model(path / "model.keras", compile=False).get_weights()
        for path in (folder, straight)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert train_in(folder) == (metrics, [f"{folder} is finished: step 10 of 10"])


def test_corrupt_checkpoints_only_are_no_reason_to_start_anew(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step_00000001.keras", "step_00000002.keras"):
        (folder / name).write_bytes(b"PK")
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "kind": "train", "loss": 1.0}\n')
    (tmp_path / "best.json").write_text("{}")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, out, err = run(capsys, "--overfit=8", f"--model_dir={tmp_path}")
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("train.py: error: --model_dir: ")
    assert f" {folder}, " in last and "(step_00000002.keras, step_00000001.keras)" in last
    assert {path: path.read_bytes() for path in files} == files


@pytest.fixture(scope="module")
def coco_run(tmp_path_factory):
    """COCO whose validation images have no box, and a run of 2 steps on it: folders, its words."""
    root = tmp_path_factory.mktemp("coco")
    data = write_digits("coco", root / "data", {"train": 8, "val": 4})
    (path,) = (data / "annotations").glob("*val*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    told = []
    config = parse_config([*SMALL, *on_coco(data), f"--model_dir={root / 'run'}"])
    with pytest.warns(UserWarning) as warned:
        train(config, report=told.append)
    return data, root / "run", [str(each.message) for each in warned]


def on_coco(data):
    return "--dataset=coco", f"--data_dir={data}", "--steps=2", "--eval_every=2"


def test_a_run_that_cannot_be_measured_says_so_and_keeps_the_last_model(coco_run):
    _, folder, warned = coco_run
    at_start = "none of the 4 images to evaluate on has a box to find, so nothing can be measured"
    assert any(line.startswith(at_start) for line in warned)
    assert "no evaluation gave 'AP'; best.keras is not written" in warned
    assert not (folder / "best.keras").exists() and not (folder / "best.json").exists()
    assert (folder / "model.keras").is_file()
    assert json.loads((folder / "metrics.json").read_text())["AP"] == -1


def test_a_run_does_not_go_on_with_other_data(coco_run, tmp_path, capsys):
    data, folder, _ = coco_run
    other = tmp_path / "data"
    command = [*on_coco(other), f"--model_dir={folder}"]
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.name != ".lock"
             and path.is_file()}  # fmt: skip

    def change(edit):
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(data, other)
        (path,) = (other / "annotations").glob("*train*.json")
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        status, out, err = run(capsys, *command)
        if status:
            assert (status, out) == (1, "") and err.count("\n") == 1
            assert {path: path.read_bytes() for path in files} == files
        return status, out, err

    removed = []

    def name_otherwise(content):
        for category in content["categories"]:
            category["name"] = "zebra" if category["name"] == "3" else category["name"]

    def remove_one(content):
        gone = content["images"].pop()
        removed.append(gone["file_name"])
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone["id"]]

    def move_a_box(content):
        content["annotations"][0]["bbox"][0] += 1

    status, out, err = change(lambda content: None)  # only moved
    assert (status, err) == (0, "") and "is finished" in out
    _, _, err = change(name_otherwise)
    assert (
        ": expected its classes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, in the data, got 0, 1, 2, zebra"
        in err
    )
    _, _, err = change(remove_one)
    assert (
        f"data.txt says that the run to resume has other images: 1 removed (train {removed[0]}); "
        in err
    )
    _, _, err = change(move_a_box)
    assert "other images: 1 with other objects (train " in err
    with pytest.warns(UserWarning, match="other images: 1 with other objects"):
        status, *_ = run(capsys, *command, "--allow_config_change")
    assert status == 0


def test_a_folder_in_use_or_no_folder_is_told_before_the_data_is_read(tmp_path, capsys):
    command = ["--overfit=8", f"--model_dir={tmp_path / 'run'}"]
    with locked(tmp_path / "run"):
        status, out, err = run(capsys, *command)
    assert (status, out) == (1, "")
    assert f"got {tmp_path}/run in use by process {os.getpid()} on " in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    (tmp_path / "file").touch()
    status, out, err = run(capsys, "--overfit=8", f"--model_dir={tmp_path / 'file'}")
    assert (status, out) == (1, "") and "--model_dir: expected a folder, got the file " in err
    (tmp_path / "run" / "checkpoints").touch()  # found before the first step, not at the first save
    status, out, err = run(capsys, *command)
    assert (status, out) == (1, "") and f"cannot write {tmp_path}/run/checkpoints: " in err


@pytest.mark.slow  # TensorFlow waits ten seconds for memory before it gives up
def test_out_of_memory_names_the_flags_that_need_less(tmp_path, capsys, monkeypatch):
    compute_losses = FCOS.compute_losses

    def allocate_too_much(self, predictions, targets, *others):
        parts = compute_losses(self, predictions, targets, *others)
        rows = tf.shape(targets["labels"], out_type=tf.int64)[0] * 2**40  # 16 TiB for 4 images
        too_much = tf.reduce_max(tf.tile(tf.stop_gradient(predictions["ltrb"][0, :1, 0]), [rows]))
        return {**parts, "box_loss": parts["box_loss"] + too_much}

    monkeypatch.setattr(FCOS, "compute_losses", allocate_too_much)
    status, _, err = run(capsys, "--overfit=8", f"--model_dir={tmp_path}")
    assert status == 1
    assert err.startswith("train.py: error: out of memory; ") and err.count("\n") == 1
    for flag in ("--batch_size (now 4)", "--image_size (64x64)", "--accumulation_steps (1)",
                 "--precision=mixed_bfloat16 (float32)", "--backbone (simple_cnn)",
                 "--frozen_stages (-1)"):  # fmt: skip
        assert flag in err


def test_which_errors_mean_that_memory_ran_out():
    full = tf.errors.ResourceExhaustedError(None, None, "/data/cache; No space left on device")
    assert not is_out_of_memory(full)
    text = "OOM when allocating tensor with shape[16,256,100,168] and type float on GPU:0"
    for error in (MemoryError(), tf.errors.ResourceExhaustedError(None, None, text)):
        assert is_out_of_memory(error)
    assert "--batch_size (now 3)" in train_tool.out_of_memory(Config(batch_size=3))


@pytest.mark.parametrize("tolerated", [pytest.param(8, marks=pytest.mark.slow), 2])
def test_images_that_vanish_are_named_and_skipped_up_to_a_number(
    tmp_path, capsys, caplog, after_line, tolerated
):
    folder = write_digits("voc", tmp_path / "voc", {"train": 40, "val": 4})
    gone = sorted((folder / "JPEGImages").glob("train_*"))[::10]  # 4 of 40
    after_line(1, lambda: [path.unlink() for path in gone])
    status, out, err = run(
        capsys, "--dataset=voc", f"--data_dir={folder}", f"--max_bad_images={tolerated}",
        "--steps=40", "--eval_every=40", f"--model_dir={tmp_path / 'run'}",
    )  # fmt: skip
    named = [path for path in gone if f"no image file {path}" in caplog.text + err]
    if tolerated == 8:
        assert status == 0 and "Average Precision" in out
        assert named == gone
    else:
        assert status == 1
        assert "3 images cannot be read, more than max_bad_images=2; the last: no image" in err
        assert err.startswith("train.py: error: ") and err.count("\n") == 1
