"""The tool that exports: what it writes, which flags count, how it ends."""

import json

import pytest

import fcos_tf
from fcos_tf.cli import export
from fcos_tf.training import checkpoints
from tests import tools


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "model.keras"
    model = fcos_tf.FCOS(
        2, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0,
        image_size="64,96", score_threshold=0.25, class_names=("a", "b"),
    )  # fmt: skip
    checkpoints.write_model(model, path)
    return path


def run(capsys, *arguments):
    code, out, error = tools.run(capsys, export, *arguments)
    return code, out.splitlines(), error.splitlines()


def test_a_version_is_written_as_the_model_is(weights, capsys, tmp_path):
    folder = tmp_path / "fcos" / "1"
    # --model_dir: the newest checkpoint, or else model.keras.
    code, out, error = run(capsys, f"--model_dir={weights.parent}", f"--output_dir={folder}")
    assert (code, out[-1:], error) == (0, [str(folder)], [])
    description = json.loads((folder / "assets" / "description.json").read_text())
    assert (description["image_size"], description["score_threshold"]) == ("64,96", 0.25)
    assert (description["precision"], description["folded_batch_norms"]) == ("float32", 2)
    code, _, error = run(capsys, f"--weights={weights}", f"--output_dir={folder}")
    assert (code, len(error)) == (1, 1) and "--output_dir: expected a new path" in error[0]


def test_flags_that_are_given_count(weights, capsys, tmp_path):
    folder, file = tmp_path / "1", tmp_path / "a.tflite"
    code, out, _ = run(
        capsys, f"--weights={weights}", f"--output_dir={folder}", f"--litert={file}",
        "--image_size=64x96", "--score_threshold=0.5", "--max_detections=7",
        "--export_precision=float16", "--fold_batch_norms=false",
    )  # fmt: skip
    assert (code, out[-2:]) == (0, [str(file), str(folder)])
    description = json.loads((folder / "assets" / "description.json").read_text())
    assert (description["image_size"], description["score_threshold"]) == ("64x96", 0.5)
    assert (description["max_detections"], description["nms_threshold"]) == (7, 0.6)
    assert (description["precision"], description["other_batch_norms"]) == ("float16", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output_dir, --litert, --onnx or --openvino: expected one, got none"),
        (["--output_dir=x/latest"], "expected a path that ends in a version"),
        (["--output_dir=x/1", "--sample=no.jpg"], "no image file no.jpg"),
        (
            ["--onnx=a.onnx", "--export_precision=float16"],
            "--export_precision: not used with --onnx",
        ),
        (
            ["--litert=a.tflite", "--sample=no.jpg"],
            "--sample: not used with --litert alone, without --output_dir",
        ),
        (
            ["--output_dir=x/1", "--model_dir=y"],
            "--model_dir: not used with --weights; leave it out",
        ),
        (["--litert=a.tflite"], "expected HEIGHTxWIDTH for a .tflite file; got '64,96'"),
        (["--litert=a.tflite", "--output_dir=x/1"], "expected HEIGHTxWIDTH for a .tflite file"),
    ],
)
def test_errors_take_one_line_and_nothing_is_written(
    weights, capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, f"--weights={weights}", *arguments)
    assert (code, len(error)) == (1, 1)
    assert message in error[0]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--fold_batch_norms=maybe", "--fold_batch_norms: expected true or false, got 'maybe'"),
        ("--export_precision=int8", "expected one of float32, bfloat16, float16, got 'int8'"),
        ("--precision=mixed_bfloat16", "not used by export.py; did you mean --export_precision?"),
        ("--ckpt=a.keras", "unknown flag --ckpt; did you mean --weights?"),
    ],
)
def test_wrong_flags_are_refused(weights, capsys, argument, message):
    code, _, error = run(capsys, f"--weights={weights}", "--output_dir=x/1", argument)
    assert (code, len(error)) == (2, 1) and message in error[0]


def test_no_weights(capsys, tmp_path):
    code, _, error = run(capsys, f"--output_dir={tmp_path}/1")
    assert code == 1 and "--weights or --model_dir: expected one of them" in error[0]
    code, _, error = run(capsys, "--weights=no.keras", f"--output_dir={tmp_path}/1")
    assert code == 1 and "no weights file no.keras" in error[0]
