"""The benchmark takes turns, and times something real."""

import numpy as np
import pytest
from PIL import Image

import fcos_tf
from benchmarks import benchmark, evaluation, exported, input_pipeline
from fcos_tf.export import export_saved_model
from fcos_tf.image_size import parse_image_size
from tests.digit_files import write_digits


def test_sides_take_turns_after_one_step_that_does_not_count():
    calls = []
    sides = {name: benchmark.timed(lambda name=name: calls.append(name)) for name in "ab"}
    seconds = benchmark.time_in_turns(sides, rounds=2, steps=3)
    assert "".join(calls) == "ab" + "aaabbb" * 2
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        benchmark.main(["benchmark.py", *arguments])
    out = capsys.readouterr()
    return end.value.code, out.out.splitlines(), out.err


SMALL = (
    "--backbone=simple_cnn", "--fpn_levels=3", "--fpn_channels=32", "--head_convs=0",
    "--image_size=64x64", "--batch_size=2", "--rounds=1",
)  # fmt: skip


def test_it_times_our_model(capsys):
    code, lines, _ = run(capsys, "--what=inference", *SMALL)
    assert code == 0
    assert lines[0].startswith("inference, simple_cnn, 64x64, batch 2")
    assert "s per step" in lines[1] and lines[1].endswith("1.00 x")


def test_it_times_training_beside_itself_in_float32(capsys):
    arguments = ("--what=training", "--precision=mixed_bfloat16", "--peer=float32")
    code, lines, _ = run(capsys, *arguments, *SMALL)
    assert code == 0
    assert lines[0].startswith("training, simple_cnn, 64x64, batch 2")
    assert lines[1].startswith("fcos_tf mixed_bfloat16 ") and lines[1].endswith("1.00 x")
    assert lines[2].startswith("fcos_tf float32 ")


def test_it_times_batches_of_files_beside_a_bare_map(capsys, tmp_path):
    write_digits("voc", tmp_path, {"train": 8})
    code, lines, _ = run(
        capsys, "--what=input", "--dataset=voc", f"--data_dir={tmp_path}", "--image_size=64x64",
        "--batch_size=4", "--rounds=1", "--steps_per_round=2",
    )  # fmt: skip
    assert code == 0 and lines[0] == "input, 8 files, 64x64, batch 4"
    assert lines[1].startswith("fcos_tf ") and lines[1].endswith("1.00 x")
    assert lines[2].startswith("bare tf.data ")


def test_it_times_evaluation_and_compares_the_numbers(capsys, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.setattr(evaluation, "NUM_IMAGES", 20)
    arguments = ("--what=evaluation", "--peer=pycocotools", "--rounds=1")
    code, lines, _ = run(capsys, *arguments)
    assert code == 0 and lines[0] == "evaluation, 20 images, 100 detections each"
    assert lines[2].startswith("pycocotools ")
    ours = evaluation._ours
    monkeypatch.setattr(evaluation, "_ours", lambda *records: [v + 1e-8 for v in ours(*records)])
    code, _, error = run(capsys, *arguments)
    assert code == 1 and "numbers differ by 1" in error


def test_it_times_an_exported_model_on_files(capsys, tmp_path, monkeypatch):
    model = fcos_tf.FCOS(2, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    export_saved_model(model, tmp_path / "m" / "1", image_size="64,96")
    for name, height in (("a", 40), ("b", 70), ("c", 50)):
        Image.fromarray(np.zeros([height, 48, 3], np.uint8)).save(tmp_path / f"{name}.png")
    asked = []
    saved_model = exported._saved_model

    def watched(folder):
        ask = saved_model(folder)
        return lambda files: asked.append((files, ask(files)))

    monkeypatch.setattr(exported, "_saved_model", watched)
    code, lines, error = run(
        capsys, "--what=inference", f"--saved_model={tmp_path / 'm'}", f"--input={tmp_path}",
        "--batch_size=2", "--rounds=1", "--steps_per_round=2",
    )  # fmt: skip
    assert code == 0, error
    assert lines[0].startswith("inference, 3 image files, 64,96, 2 in a request, ")
    assert lines[1].startswith("SavedModel float32 ") and lines[1].endswith("1.00 x")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert [files for files, _ in asked] == [[a, b], [c, a], [b, c]]
    assert all(found["boxes"].shape == (2, 100, 4) for _, found in asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what=inference", "--saved_model=none"], "--saved_model: no folder none"),
        (["--what=input", "--saved_model=x"], "--saved_model: not used with --what=input"),
        (["--what=inference", "--input=x"], "--input: not used with --what=inference without -"),
        (["--what=inference", "--dataset=voc"], "--dataset: not used with --what=inference"),
        (["--what=training", "--max_detections=9"], "--max_detections: not used with --what=tra"),
        (["--what=input", "--precision=mixed_bfloat16", "--dataset=voc"], "--precision: not used"),
        (["--what=evaluation", "--batch_size=9"], "--batch_size: not used with --what=evaluation"),
        (["--what=inference", "--saved_model=x", "--backbone=resnet18"], "--backbone: not used "),
        (["--what=input", "--peer=pycocotools"], "--peer: expected torchvision with --what=input"),
        (["--what=training", "--peer=pycocotools"], "expected torchvision or float32 with --what"),
        (["--what=training", "--peer=float32"], "--peer=float32: expected another --precision"),
        (["--what=input", "--image_size=80,99"], "expected a fixed canvas like 512x512"),
        (["--what=input"], "--dataset: expected coco or voc, image files, got 'digits'"),
    ],
)
def test_wrong_flags_are_told(capsys, arguments, message):
    code, _, error = run(capsys, *arguments)
    assert code == 1 and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what=speed"], "--what: expected one of training, inference, input, evaluation"),
        (["--what=training", "--peer=x"], "--peer: expected some of torchvision, pycocotools, fl"),
        (["--what=training", "--rounds=0"], "--rounds: expected a number at least 1, got 0"),
        (["--what=training", "--steps=9"], "--steps is not used by benchmark.py"),
    ],
)
def test_wrong_flags_are_refused(capsys, arguments, message):
    code, _, error = run(capsys, *arguments)
    assert code == 2 and message in error


def test_the_bare_side_of_the_input_benchmark_moves_the_same_bytes(tmp_path):
    # One colour, which no resizing changes: 200 comes as 200 and as one byte.
    Image.new("RGB", (48, 40), (200, 200, 200)).save(tmp_path / "a.jpg", quality=95)
    size = parse_image_size("32x64")
    (batch,) = input_pipeline._bare([str(tmp_path / "a.jpg")], size, 2)().take(1)
    assert batch.shape == (2, 32, 64, 3)
    assert batch.dtype == "uint8"
    assert np.all(batch == 200)


def test_batches_that_were_prefetched_at_leisure_are_not_timed():
    taken = []
    run = input_pipeline._timed_batches(lambda: map(taken.append, range(100)))
    run(5)
    assert len(taken) == 20 + 5


def test_evaluation_is_timed_as_all_other_steps():
    assert evaluation.timed is benchmark.timed
