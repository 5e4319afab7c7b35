import dataclasses
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fcos_tf import flag_files
from fcos_tf.cli import (
    command_line,
    convert,
    dataset,
    detect,
    evaluate,
    export,
    train,
    visualize,
)
from fcos_tf.config import AugmentationOptions, Config, DataOptions, TrainingOptions
from fcos_tf.options import Options, fields_of, option, options_for, to_flags
from fcos_tf.tensorflow_words import one_line
from tests.cli.parsing import parse_config
from tests.tools import run

ROOT = Path(__file__).resolve().parents[2]


def test_no_flags_give_the_defaults():
    assert parse_config([]) == Config()


def test_flags_of_every_type():
    config = parse_config([
        "--batch_size=4", "--learning_rate", "0.5", "--nohorizontal_flip", "--cache",
        "--classes=RBC, WBC", "--decay_steps=10,20", "--backbone=resnet18",
    ])  # fmt: skip
    assert config == Config(
        batch_size=4, learning_rate=0.5, horizontal_flip=False, cache=True,
        classes=("RBC", "WBC"), decay_steps=(10, 20), backbone="resnet18",
    )  # fmt: skip
    # The last one counts.
    assert parse_config(["--steps=1", "--steps=2", "--classes=a", "--classes=b"]) == Config(
        steps=2, classes=("b",)
    )


def test_what_a_run_writes_can_be_read_again(tmp_path):
    config = Config(
        classes=("a", "b"), decay_steps=(6, 8), horizontal_flip=False, weight_decay=3e-5
    )
    file = tmp_path / "config.cfg"
    file.write_text(to_flags(config))
    assert parse_config([f"--flagfile={file}"]) == config


def test_the_command_line_wins_over_files_and_later_files_over_earlier(tmp_path):
    (tmp_path / "a.cfg").write_text("# comment\n\n--batch_size=2\n--steps=3\n--seed=1\n")
    (tmp_path / "b.cfg").write_text(f"--flagfile={tmp_path / 'a.cfg'}\n--steps=4\n")
    config = parse_config(["--batch_size=5", f"--flagfile={tmp_path / 'b.cfg'}"])
    assert (config.batch_size, config.steps, config.seed) == (5, 4, 1)
    config = parse_config(
        ["--flagfile", str(tmp_path / "b.cfg"), "--flagfile", str(tmp_path / "a.cfg")]
    )
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
        ("coco_atss.cfg", {"assigner": "atss", "box_loss_weight": 2, "steps": 90_000}),
        ("coco_joint.cfg", {"assigner": "atss", "quality": "joint", "dataset": "coco"}),
        ("bccd.cfg", {"steps": 600, "batch_size": 8, "image_size": "240x320"}),
        ("bccd_best.cfg", {"backbone": "mobilenet_v2", "steps": 1400, "image_size": "480x640"}),
        ("faster_rcnn_coco.cfg", {"model": "faster_rcnn", "rules": "detectron2", "steps": 90_000}),
        ("faster_rcnn_voc.cfg", {"model": "faster_rcnn", "image_size": "512x512"}),
        ("faster_rcnn_bccd.cfg", {"model": "faster_rcnn", "steps": 600, "backbone": "resnet18"}),
        ("faster_rcnn_course.cfg", {"box_refinement": "none", "rules": "course", "fpn_levels": 3}),
        ("voc_simple_cnn.cfg", {"model": "classifier", "scale_jitter": (1.0, 1.41)}),
        ("voc_mobilenet.cfg", {"backbone": "mobilenet_v2", "head_convs": 2, "steps": 7000}),
        ("voc_lite0.cfg", {"backbone": "efficientnet_lite0", "image_size": "384x384"}),
        ("voc_linear_probe.cfg", {"model": "classifier", "probe": True}),
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
    config = parse_config([f"--flagfile={name}"])
    assert {key: getattr(config, key) for key in expected} == expected
    header = re.match(r"(#.*\n)+", (ROOT / "configs" / name).read_text())[0]
    for word in ("Command:", "Hardware:", "Expect:", "Measured:", f"--flagfile={name}"):
        assert word in header


@pytest.mark.parametrize(
    "lines, message",
    [
        ("--batchsize=3", r"x\.cfg line 1: unknown flag --batchsize; did you mean --batch_size"),
        ("# ok\n--steps=1\nbatch_size=3", r"x\.cfg line 3: expected --name=value, got 'batch_s"),
        ("--flagfile=x.cfg", r"x\.cfg includes itself"),
        ("--data_dir\n--steps=5", r"x\.cfg line 1: expected --name=value, got '--data_dir'"),
        ("--flagfile=gone.cfg", r"no file 'gone\.cfg' in .*digits\.cfg"),
    ],
)
def test_wrong_files_are_named_with_their_line(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    Path("x.cfg").write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        parse_config(["--flagfile=x.cfg"])


def test_files_that_include_each_other_many_times_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(40):  # 2^40 lines
        Path(f"{i}.cfg").write_text(f"--flagfile={i + 1}.cfg\n" * 2)
    Path("40.cfg").write_text("--steps=1\n")
    with pytest.raises(ValueError, match="or more than 50 files are included"):
        parse_config(["--flagfile=0.cfg"])


@dataclasses.dataclass(frozen=True)
class DrawOptions(Options):
    """Of a tool made for these tests."""

    output_dir: str = option("", "Where to write.", required=True, also=("out", "name"))
    scale: float | None = option(None, "How large.", above=0, most=4)
    colour: str | None = option(None, "Which one.", choices=("red", "blue"))
    layers: tuple[int, ...] = option((1, 2), "Which ones.")
    frames: bool = option(False, "Draws frames, too.")


USES = (AugmentationOptions, TrainingOptions, "model_dir")


def parse(*arguments):
    return command_line.parse(["draw.py", *arguments], USES, DrawOptions)


def test_a_tool_gets_its_options_those_it_uses_and_what_was_given(tmp_path):
    (tmp_path / "a.cfg").write_text("--momentum=0.5\n--batch_size=3\n--frames=true\n")
    config, options, given = parse(
        f"--flagfile={tmp_path / 'a.cfg'}", "--output_dir=x", "--layers=3,4", "--cache", "--scale=2"
    )
    # The batch size is an option of a run that this tool does not use.
    assert config == Config(momentum=0.5, cache=True)
    assert options == DrawOptions(output_dir="x", layers=(3, 4), frames=True, scale=2.0)
    assert given == {"momentum", "cache", "output_dir", "layers", "frames", "scale"}
    assert parse("--output_dir=x") == (Config(), DrawOptions(output_dir="x"), {"output_dir"})


def test_defaults_that_a_file_spells_do_not_replace_what_a_model_has(tmp_path):
    (tmp_path / "a.cfg").write_text(
        "--momentum=0.9\n--batch_size=16\n--clip_norm=3\n--cache=false\n"
    )
    file = f"--flagfile={tmp_path / 'a.cfg'}"
    config, _, given = parse(file, "--output_dir=x", "--cache=false")
    assert given == {"momentum", "clip_norm", "cache", "output_dir"}
    found = command_line.replacing(config, given)
    assert found == {"clip_norm", "cache", "output_dir"} and found.typed == given.typed
    lacking = types.SimpleNamespace(momentum=None)
    assert command_line.replacing(config, given, lacking) == given


def test_home_folders_are_found_wherever_a_path_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "a.cfg").write_text("--model_dir=~/runs/a\n")
    config, options, _ = parse(f"--flagfile={tmp_path}/a.cfg", "--output_dir=~/x,~", "--layers=1")
    assert (config.model_dir, options.output_dir) == ("/home/me/runs/a", "/home/me/x,/home/me")
    assert parse("--output_dir=a~/~b~")[1].output_dir == "a~/~b~"


def test_a_mode_refuses_what_is_typed_and_ignores_it_in_files(tmp_path):
    (tmp_path / "a.cfg").write_text("--momentum=0.5\n--cache=true\n--scale=3\n")
    file = f"--flagfile={tmp_path / 'a.cfg'}"
    config, options, given = parse("--scale=2", file, "--nocache", "--output_dir=x")
    assert (config.momentum, config.cache, options.scale) == (0.5, False, 2)
    assert given == {"momentum", "cache", "scale", "output_dir"}
    assert given.typed == {"cache", "scale", "output_dir"}
    command_line.refuse_unused(given, "--what=a", [TrainingOptions, "frames"])
    message = "^--cache, --scale: not used with --what=a; leave it out$"
    with pytest.raises(ValueError, match=message):
        command_line.refuse_unused(given, "--what=a", (AugmentationOptions, "scale", "momentum"))


def test_arguments_without_a_flag_are_typed():
    given = command_line.parse(["detect.py", "a.jpg", "--weights=b"], (), detect.DetectOptions)[2]
    assert given.typed == given == {"input", "weights"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--output_dir=", "--output_dir: expected a value, got none"),
        ("--scale=0", "--scale: expected a number above 0 and at most 4, got 0.0"),
        ("--scale=big", "--scale: expected float, got 'big'"),
        ("--layers=1,x", "--layers: expected int, got '1,x'"),
        ("--colour=green", "--colour: expected one of red, blue, got 'green'"),
        ("--frames=yes", "--frames: expected true or false, got 'yes'"),
        ("--debug=maybe", "--debug: expected true or false, got 'maybe'"),
        ("--batch_size=3", "--batch_size is not used by draw.py; --help lists its flags"),
        ("--noorientation_buckets", "--orientation_buckets is not used by draw.py; --help"),
        ("--workers=8", "unknown flag --workers; --help lists its flags"),
        ("--learning-rate=1", "unknown flag --learning-rate; did you mean --learning_rate?"),
        # The word of another program for an option that the tool has ...
        ("--lr=1", "unknown flag --lr; did you mean --learning_rate?"),
        # ... its own before one of a run ...
        ("--name=a", "unknown flag --name; did you mean --output_dir?"),
        ("--work_dir=a", "unknown flag --work_dir; did you mean --model_dir?"),
        # ... and for one that it has not.
        ("--imgsz=64", "unknown flag --imgsz; --help lists its flags"),
        ("a.jpg", "expected flags like --name=value only, got 'a.jpg'"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, argument, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse("--output_dir=x", argument)
    if argument.startswith("--") and "=" in argument and "not used" not in message:
        file = tmp_path / "x.cfg"
        file.write_text(f"\n{argument}\n")
        with pytest.raises(ValueError, match=re.escape(message)) as raised:
            parse(f"--flagfile={file}", *([] if "output" in argument else ["--output_dir=x"]))
        assert "unknown" not in message or f"{file} line 2: " in str(raised.value)


TOOLS = {"convert": convert, "dataset": dataset, "detect": detect, "evaluate": evaluate,
         "export": export, "train": train, "visualize": visualize}  # fmt: skip


# What users of ultralytics, detectron2 and torchvision write.
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", {
            "lr": "learning_rate", "lr0": "learning_rate", "imgsz": "image_size",
            "img_size": "image_size", "batch": "batch_size", "batch-size": "batch_size",
            "epoch": "epochs", "device": "strategy", "project": "model_dir", "name": "model_dir",
            "save_dir": "model_dir", "output-dir": "model_dir", "weights": "initial_weights",
            "wd": "weight_decay", "data": "data_dir", "data-path": "data_dir", "amp": "precision",
            "max_iter": "steps", "conf": "score_threshold", "iou": "nms_threshold",
            "opt": "optimizer", "lr-scheduler": "schedule", "print-freq": "log_every",
            "freeze": "frozen_stages", "nc": "num_classes", "resume": "model_dir",
            "workers": None, "source": None, "learningrate": "learning_rate",
            "backbones": "backbone", "num_class": "num_classes", "class": "classes",
        }),
        ("detect", {
            "source": "input", "images": "input", "ckpt": "weights", "model": "weights",
            "conf": "score_threshold", "conf-thres": "score_threshold", "imgsz": "image_size",
            "project": "output_dir", "view_img": "show", "lr": None, "workers": None,
        }),
        ("evaluate", {
            "ckpt": "weights", "data": "data_dir", "split": "val_split", "iou_thres":
            "nms_threshold", "max_det": "max_detections", "name": "output_dir", "lr": None,
        }),
        ("export", {"half": "export_precision", "imgsz": "image_size", "source": None}),
    ],
)  # fmt: skip
def test_other_words_for_an_option_name_it(capsys, name, words):
    for word, meant in words.items():
        code, _, error = run(capsys, TOOLS[name], f"--{word}=1")
        assert code == 2 and error.count("\n") == 1
        assert error.startswith(f"{name}.py: error: ")
        wanted = f"; did you mean --{meant}?\n" if meant else "; --help lists its flags\n"
        assert error.endswith(wanted), (word, error)


@pytest.mark.parametrize("name", TOOLS)
def test_help_shows_what_a_tool_takes_and_the_rest_is_refused(capsys, name):
    code, text, _ = run(capsys, TOOLS[name], "--help")
    shown = re.findall(r"^  --(\w+): ", text, re.MULTILINE)
    assert code == 0 and len(shown) == len(set(shown))
    assert text.startswith(TOOLS[name].__doc__.strip())
    own = text.split("\n\nThis tool:\n")[1].split("\n\n")[0]
    assert re.findall(r"^  --(\w+): ", own, re.MULTILINE)[:: len(own.splitlines())] == ["flagfile"]
    known = fields_of(Config)
    assert any(option in known for option in shown)
    for hidden in known.keys() - set(shown):
        code, _, error = run(capsys, TOOLS[name], f"--{hidden}=1")
        assert code == 2 and f"error: --{hidden} is not used by {name}.py" in error


def test_help_explains_every_flag():
    text = command_line.help_text("What it does.", (Config,), DrawOptions)
    for name in (*fields_of(Config), *fields_of(DrawOptions), "flagfile", "debug"):
        assert f"\n  --{name}: " in text
    assert "giou | iou | l1; default giou" in text
    assert "--output_dir: Where to write. (required)" in text
    assert "--scale: How large.\n" in text
    assert "--layers: Which ones. (comma-separated list; default 1,2)" in text
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles == ["This tool", "Data", "Images", "Training images", "Start", "Model",
                      "Detections", "Evaluation", "Training", "Devices", "Run"]  # fmt: skip


def test_a_new_option_is_one_line_and_one_parameter(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class BlurOptions(Config):
        title = "Blur"

        blur: str = option("none", "Radius of a blur.", means={"none": None}, also=("smooth",))

    def draw(scene, *, seed, blur):
        return scene, seed, blur

    def parsed(*arguments):
        return command_line.parse(["a.py", *arguments], (BlurOptions,), config=BlurOptions)[0]

    assert options_for(parsed("--blur=3", "--seed=2"), draw) == {"seed": 2, "blur": "3"}
    assert draw("a", **options_for(parsed(), draw, seed=7)) == ("a", 7, None)
    text = command_line.help_text("Draws.", (BlurOptions,), config=BlurOptions)
    assert "Blur:\n  --blur: Radius of a blur. (default none)" in text
    with pytest.raises(ValueError, match=r"unknown flag --smooth; did you mean --blur\?"):
        parsed("--smooth=3")
    (tmp_path / "a.cfg").write_text(to_flags(BlurOptions(blur="4", steps=3)))
    assert parsed(f"--flagfile={tmp_path / 'a.cfg'}") == BlurOptions(blur="4", steps=3)


def test_a_tool_of_no_options_of_its_own_and_how_it_ends(capsys):
    def tool(config, options, given):
        assert (config.overfit, options, given) == (3, Options(), {"overfit"})
        raise ValueError("two\nlines")

    for arguments, status in ((["--overfit=3"], 1), (["--overfit"], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as end:
            command_line.run(tool, "A tool.", ["a.py", *arguments], uses=(DataOptions,))
        assert end.value.code == status
        output = capsys.readouterr()
        assert output.err.count("\n") == (status > 0)
        assert status != 1 or output.err == "a.py: error: two lines\n"


def test_tools_take_what_the_command_line_says():
    for tool in TOOLS.values():
        (main,) = (f for n, f in vars(tool).items() if n == f"_{tool.__name__.split('.')[-1]}")
        assert list(inspect.signature(main).parameters) == ["config", "options", "given"]


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
        ("no \x1b[2Jfile \u202egpj.猫\udce9", r"no \x1b[2Jfile \u202egpj.猫\udce9"),
    ],
)
def test_errors_become_one_line(raw, expected):
    assert one_line(ValueError(raw)) == expected


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--flagfile=gone.cfg"], 2, r"--flagfile: no file 'gone\.cfg' in .*bccd\.cfg"),
        (["--box_loss=huber"], 2, r"--box_loss: expected one of giou, iou, l1, got 'huber'"),
        (["--batch_size=many"], 2, r"--batch_size: expected int, got 'many'"),
        (["--batchsize=1"], 2, r"unknown flag --batchsize; did you mean --batch_size"),
        (["digits.cfg"], 2, r"expected flags like --name=value only, got 'digits\.cfg'"),
    ],
)
def test_wrong_flags_are_one_line(capsys, arguments, status, message):
    code, _, told = run(capsys, train, *arguments)
    assert code == status
    assert len(told.splitlines()) == 1
    assert re.match(r"train\.py: error: .*" + message, told)


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
