import re
import subprocess
import sys
from pathlib import Path

import pytest

from fcos_tf.cli import command_line, flag_files
from fcos_tf.config import Config, to_flags

ROOT = Path(__file__).resolve().parents[2]


def parse(*arguments):
    return command_line.parse(command_line.define_flags({}), ["tool.py", *arguments])


def test_no_flags_give_the_defaults():
    assert parse() == Config()


def test_flags_of_every_type():
    config = parse(
        "--batch_size=4", "--learning_rate", "0.5", "--nohorizontal_flip",
        "--classes=RBC, WBC", "--decay_steps=10,20", "--backbone=resnet18",
    )  # fmt: skip
    assert config == Config(
        batch_size=4, learning_rate=0.5, horizontal_flip=False,
        classes=("RBC", "WBC"), decay_steps=(10, 20), backbone="resnet18",
    )  # fmt: skip


def test_what_a_run_writes_can_be_read_again(tmp_path):
    config = Config(
        classes=("a", "b"), decay_steps=(6, 8), horizontal_flip=False, weight_decay=3e-5
    )
    file = tmp_path / "config.cfg"
    file.write_text(to_flags(config))
    assert parse(f"--flagfile={file}") == config


def test_the_command_line_wins_over_files_and_later_files_over_earlier(tmp_path):
    (tmp_path / "a.cfg").write_text("# comment\n\n--batch_size=2\n--steps=3\n--seed=1\n")
    (tmp_path / "b.cfg").write_text(f"--flagfile={tmp_path / 'a.cfg'}\n--steps=4\n")
    config = parse("--batch_size=5", f"--flagfile={tmp_path / 'b.cfg'}")
    assert (config.batch_size, config.steps, config.seed) == (5, 4, 1)
    config = parse("--flagfile", str(tmp_path / "b.cfg"), "--flagfile", str(tmp_path / "a.cfg"))
    assert (config.batch_size, config.steps) == (2, 3)


def test_files_are_found_here_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flag_files.find_flag_file("bccd.cfg") == ROOT / "configs" / "bccd.cfg"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "bccd.cfg").write_text("--steps=1\n")
    assert flag_files.find_flag_file("bccd.cfg") == tmp_path / "configs" / "bccd.cfg"
    (tmp_path / "bccd.cfg").write_text("--steps=1\n")
    assert flag_files.find_flag_file("bccd.cfg") == tmp_path / "bccd.cfg"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("digits.cfg", {"dataset": "digits", "image_size": "128x128"}),
        ("overfit.cfg", {"dataset": "voc", "overfit": 8}),
        ("voc.cfg", {"dataset": "voc", "backbone_weights": "imagenet"}),
        ("coco.cfg", {"steps": 90_000, "batch_size": 16, "decay_steps": (60_000, 80_000)}),
        ("bccd.cfg", {"steps": 600, "batch_size": 8, "image_size": "240x320"}),
        (
            "coco_multi_worker.cfg",
            {"strategy": "multi_worker", "batch_size": 32, "dataset": "coco"},
        ),
        (
            "coco_tpu.cfg",
            {"strategy": "tpu", "tpu": "local", "image_size": "1024x1024", "steps": 45_000},
        ),
    ],
)
def test_shipped_configs_parse_and_open_with_their_header(name, expected):
    config = parse(f"--flagfile={name}")
    assert {key: getattr(config, key) for key in expected} == expected
    header = re.match(r"(#.*\n)+", (ROOT / "configs" / name).read_text())[0]
    for word in ("Command:", "Hardware:", "Expect:", "Measured:", f"--flagfile={name}"):
        assert word in header


@pytest.mark.parametrize(
    "lines, message",
    [
        ("--batchsize=3", r"x\.cfg line 1: unknown flag --batchsize; did you mean --batch_size"),
        ("# ok\n--steps=1\nbatch_size=3", r"x\.cfg line 3: expected --name=value, got 'batch_s"),
        ("--flagfile=x.cfg", r"x\.cfg leads to itself"),
        ("--data_dir\n--steps=5", r"x\.cfg line 1: expected --name=value, got '--data_dir'"),
        ("--flagfile=gone.cfg", r"no file 'gone\.cfg' in .*digits\.cfg"),
    ],
)
def test_wrong_files_are_named_with_their_line(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    Path("x.cfg").write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        parse("--flagfile=x.cfg")


def test_help_explains_every_flag():
    values = command_line.define_flags({"weights": "A file."})
    text = command_line.help_text("What it does.", values)
    for name in (*values, "flagfile"):
        assert f"--{name}: " in text
    assert "giou | iou | l1; default giou" in text


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("two\nlines  here", "two lines here"),
        (
            "Graph execution error:\n\nDetected at node Assert\nassertion failed: "
            "[cannot decode image a.jpg: cut [short]]\n\t [[{{node Assert/Assert}}]]",
            "cannot decode image a.jpg: cut [short]",
        ),
        (
            "{{function_node __w}} ValueError: no image b.jpg\nTraceback (most recent call last):"
            '\n\n  File "x.py"\n\n\t [[{{node PyFunc}}]] [Op:IteratorGetNext]',
            "no image b.jpg",
        ),
        ("{{function_node __w}} Expected size 3 [Op:Slice] name: ", "Expected size 3"),
    ],
)
def test_errors_become_one_line(raw, expected):
    assert command_line._one_line(ValueError(raw)) == expected


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train.py"), *arguments],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--flagfile=gone.cfg"], 2, r"--flagfile: no file 'gone\.cfg' in .*bccd\.cfg"),
        (["--box_loss=huber"], 2, r"--box_loss: expected one of giou, iou, l1, got 'huber'"),
        (["--batch_size=many"], 2, r"flag --batch_size=many: .*'many'"),
        (["--batchsize=1"], 2, r"Unknown command line flag 'batchsize'\. Did you mean: batch_size"),
        (["digits.cfg"], 2, r"expected flags like --name=value only, got 'digits\.cfg'"),
    ],
)
def test_wrong_flags_are_one_line(arguments, status, message):
    result = run_tool(*arguments)
    assert result.returncode == status
    assert len(result.stderr.splitlines()) == 1
    assert re.match(r"train\.py: error: .*" + message, result.stderr)


def test_help_comes_without_loading_tensorflow():
    code = (
        "import sys\nfrom fcos_tf.cli import train\n"
        "try:\n    train.main(['train.py', '--helpshort'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0 and 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--learning_rate: Learning rate after warm-up. (default 0.01)" in result.stdout
