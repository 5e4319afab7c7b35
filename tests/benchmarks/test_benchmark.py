"""The benchmark takes turns, and times something real."""

import functools
import json
import pickle

import numpy as np
import pytest
from PIL import Image

import fcos_tf
from benchmarks import benchmark, evaluation, exported, input_pipeline, processes, step_profile
from fcos_tf.export import export_saved_model
from fcos_tf.image_size import parse_image_size
from tests import tools
from tests.digit_files import write_digits


def test_sides_take_turns_after_one_step_that_does_not_count():
    calls = []
    runs = {name: processes.timed(lambda name=name: calls.append(name)) for name in "ab"}
    seconds = processes.time_in_turns(runs, rounds=2, steps=3)
    assert "".join(calls) == "ab" + "aaabbb" * 2
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


class Contestant:
    """Fails where its entrant says so."""

    precision = note = ""

    def __init__(self, name, fails_in):
        self.name, self._fails_in, self._turns = name, fails_in, 0
        if fails_in == 0:
            raise MemoryError("at the start")

    def run(self, steps):
        self._turns += 1
        if self._turns == self._fails_in:
            raise RuntimeError("in a turn")
        return 2.0 * steps

    def ask(self, what, *arguments):
        if what == self._fails_in:
            raise NotImplementedError("no count")
        return {"memory": (1, 1)}.get(what)

    def close(self):
        pass


def test_a_contestant_that_fails_leaves_the_others(monkeypatch):
    monkeypatch.setattr(benchmark, "Contestant", Contestant)
    options = benchmark.BenchmarkOptions(what="input", rounds=3)
    measure = functools.partial(benchmark._measure, options=options, steps=4, check=None)
    result = measure("title", 1, {"ours": None, "a": 0, "b": None, "c": 2})
    assert result["seconds_per_step"] == {"ours": [2.0] * 3, "b": [2.0] * 3}
    assert [*result["contestants"]] == ["ours", "b"]
    assert result["faults"] == {"a": "at the start", "c": "in a turn"}
    counted = measure("title", 1, {"ours": None, "b": "flops"})
    assert [*counted["contestants"]] == ["ours", "b"] and counted["faults"] == {"b": "no count"}
    with pytest.raises(MemoryError):
        measure("title", 1, {"ours": 0, "b": None})
    with pytest.raises(ValueError, match="ours failed: in a turn"):
        measure("title", 1, {"ours": 2, "b": None})


def run(capsys, *arguments):
    code, out, error = tools.run(capsys, benchmark, *arguments)
    return code, out.splitlines(), error


class OfThisProcess:
    """A contestant without a process of its own, as TensorFlow is imported here already."""

    def __init__(self, name, entrant):
        entrant = pickle.loads(pickle.dumps(entrant))  # it could go to one
        entrant.libraries()
        side = entrant.make()
        self.name, self.precision, self.note = name, entrant.precision, side.note
        self.run = side.run
        self._answers = {**vars(side), "memory": lambda: (1, 1)}

    def ask(self, what, *arguments):
        return self._answers[what](*arguments)

    def close(self):
        pass


@pytest.fixture
def run_here(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "Contestant", OfThisProcess)
    return functools.partial(run, capsys)


SMALL = (
    "--backbone=simple_cnn", "--fpn_levels=3", "--fpn_channels=32", "--head_convs=0",
    "--image_size=64x64", "--batch_size=2", "--rounds=1",
)  # fmt: skip


def test_it_times_training_beside_itself_in_float32(capsys, tmp_path):
    arguments = ("--what=training", "--precision=mixed_bfloat16", "--peer=float32", "--profile")
    file = tmp_path / "times.json"
    code, lines, error = run(capsys, *arguments, f"--json={file}", *SMALL)
    assert code == 0, error
    assert lines[0].startswith("training, simple_cnn, 64x64, batch 2")
    header = ["s", "per", "step", "(min", "to", "max)", "images/s", "MiB", "over", "libraries"]
    assert lines[1].split()[:10] == header
    ours, float32 = lines[2:4]
    assert ours.startswith("fcos_tf mixed_bfloat16 ") and ours.endswith("1.00 x")
    assert float32.startswith("fcos_tf float32 ")
    assert [line.split()[3] for line in lines[4:6]] == ["bfloat16:", "float32:"]
    assert [line.split("  ")[0] for line in lines[7:]] == [*step_profile.PARTS, "sum"]

    result = json.loads(file.read_text())
    assert sum(result["profile"].values()) == pytest.approx(1)
    assert all(
        result["profile"][part] > 0
        for part in (step_profile.CONVOLUTIONS, step_profile.LOSSES, step_profile.OPTIMIZER)
    )
    both = result["contestants"]["fcos_tf mixed_bfloat16"], result["contestants"]["fcos_tf float32"]
    assert both[0]["flops_per_step"] == both[1]["flops_per_step"] > 0
    for name, each, precision in zip(
        result["contestants"], both, ("bfloat16", "float32"), strict=True
    ):
        seconds = each["seconds_per_step"]
        assert result["seconds_per_step"][name] == [seconds["median"]]
        assert each["images_per_second"] == pytest.approx(2 / seconds["median"])
        speed = result["matrix_product_peak_flops_per_second"][precision]
        share = each["flops_per_step"] / seconds["median"] / speed
        assert each["share_of_matrix_product_peak"] == pytest.approx(share)
        assert each["peak_memory_bytes"] > each["library_memory_bytes"] > 50 << 20


def test_it_times_batches_of_files_beside_a_bare_map(run_here, tmp_path):
    write_digits("voc", tmp_path, {"train": 8})
    code, lines, _ = run_here(
        "--what=input", "--dataset=voc", f"--data_dir={tmp_path}", "--image_size=64x64",
        "--batch_size=4", "--rounds=1", "--steps_per_round=2",
    )  # fmt: skip
    assert code == 0 and lines[0] == "input, 8 files, 64x64, batch 4"
    assert lines[2].startswith("fcos_tf ") and lines[2].endswith("1.00 x")
    assert lines[3].startswith("bare tf.data ")


def test_it_times_evaluation_and_compares_the_numbers(run_here, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.setattr(evaluation, "NUM_IMAGES", 20)
    arguments = ("--what=evaluation", "--peer=pycocotools", "--rounds=1")
    code, lines, _ = run_here(*arguments)
    assert code == 0 and lines[0] == "evaluation, 20 images, 100 detections each"
    assert lines[3].startswith("pycocotools ")


def test_numbers_of_evaluations_that_differ_are_an_error():
    evaluation.check({"fcos_tf": [0.5, 0.25], "peer": [0.5, 0.25 + 1e-10]})
    with pytest.raises(RuntimeError, match="the numbers of fcos_tf and peer differ by 1"):
        evaluation.check({"fcos_tf": [0.5, 0.25], "peer": [0.5, 0.25 + 1.5e-8]})


def test_it_times_an_exported_model_on_files(capsys, tmp_path):
    model = fcos_tf.FCOS(2, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    export_saved_model(model, tmp_path / "m" / "1", image_size="64,96")
    for name, height in (("a", 40), ("b", 70), ("c", 50)):
        Image.fromarray(np.zeros([height, 48, 3], np.uint8)).save(tmp_path / f"{name}.png")
    code, lines, error = run(
        capsys, "--what=inference", f"--saved_model={tmp_path / 'm'}", f"--input={tmp_path}",
        "--batch_size=2", "--rounds=1", "--steps_per_round=2",
    )  # fmt: skip
    assert code == 0, error
    assert lines[0].startswith("inference, 3 image files, 64,96, 2 in a request, ")
    assert lines[2].startswith("SavedModel float32 ") and lines[2].endswith("1.00 x")

    ask, asked = exported._saved_model(tmp_path / "m" / "1"), []
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    note = lambda files: asked.append((files, ask(files)))  # noqa: E731
    exported._side(lambda: note, contents=[a, b, c], number=2).run(3)
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
        (["--what=training", "--peer=pycocotools"], "hub or float32 with --what=training, got 'py"),
        (["--what=training", "--peer=onnxruntime"], "hub or float32 with --what=training, got 'on"),
        (["--what=inference", "--saved_model=x", "--peer=openvino"], "expected torchvision with -"),
        (["--what=evaluation", "--profile"], "--profile: expected --what=training or inference"),
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
        (["--what=training", "--peer=x"], "--peer: expected some of torchvision, torchvision_co"),
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
    side = input_pipeline._side(lambda: lambda: map(taken.append, range(100)))
    side.run(5)
    assert len(taken) == 20 + 5
