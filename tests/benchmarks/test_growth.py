"""The tool of growth: exponents of made-up data, a step, and a small run in real processes."""

import json

import pytest
from PIL import Image

from benchmarks import growth
from benchmarks.growth import amounts_of, growth_of
from benchmarks.processes import Contestant
from fcos_tf.config import Config
from tests.benchmarks.test_benchmark import OfThisProcess
from tests.tools import run

SIZES = (1, 2, 4, 8, 16)
SMALL = (
    "--backbone=simple_cnn", "--fpn_levels=3", "--fpn_channels=32", "--head_convs=0",
    "--image_size=64x64", "--batch_size=1", "--num_classes=3", "--rounds=2", "--steps_per_round=1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "exponent", "constant", "faster"),
    [
        (lambda s: 3 * s, 1, 0, False),
        (lambda s: 100 + s, 1, 100, False),
        (lambda s: s**2, 2, 0, True),
        (lambda s: s**1.5, 1.5, 0, True),
        # The line through 11 and 14 is 8 at 0: log2((266 - 8) / (74 - 8)).
        (lambda s: 10 + s**2, 1.967, 8, True),
        # 15 % of the last step beyond the line: sorts, caches, noise.
        (lambda s: 3 * s * (1.15 if s == 16 else 1), 1.202, 0, False),
        (lambda s: 7, 0, 7, False),
        (lambda s: 7 + s / 100, 0, 7, False),  # 2 %
        (lambda s: 10 / s, 0, 10, False),
    ],
)
def test_the_exponent_is_that_of_the_growth_beyond_the_constant_part(
    value, exponent, constant, faster
):
    result = growth_of(SIZES, [value(s) for s in SIZES])
    assert result["exponent"] == pytest.approx(exponent, abs=1e-3)
    assert result["constant"] == pytest.approx(constant)
    assert result["faster"] is faster


def test_size_zero_is_the_constant_part_and_pixels_count_for_a_side():
    assert growth_of((0, 10, 100, 1000), (5, 6, 15, 105)) == pytest.approx(
        {"constant": 5, "exponent": 1, "faster": False}
    )
    assert amounts_of("image_side", (128, 800)) == [16384, 640000]
    sides = (100, 200, 400)
    result = growth_of(amounts_of("image_side", sides), [2 + side**2 for side in sides])
    assert result["exponent"] == pytest.approx(1)


def test_it_writes_a_table_json_and_a_plot(capsys, monkeypatch, tmp_path):
    """The largest size has a process of its own; the steps of the others take 2 and 5 MiB."""

    def start(name, entrant):
        kind = Contestant if name == "--what=training, boxes 4" else OfThisProcess
        return kind(name, entrant)

    # Of this process: once two models are made, and after the steps of each.
    peaks = iter([10 << 20, 20 << 20, 12 << 20, 25 << 20])
    monkeypatch.setattr(growth, "peak_memory", lambda: next(peaks))
    monkeypatch.setattr(growth, "Contestant", start)
    folder = tmp_path / "new"
    code, out, error = run(
        capsys, growth, "--axis=boxes", "--sizes=0,1,4", f"--output={folder}", *SMALL
    )
    assert code == 0, error
    written = json.loads((folder / "growth.json").read_text())
    assert written.keys() == {"title", "faster_than_linear", "results"}
    assert written["title"].startswith("fcos, simple_cnn, 64x64, batch 1, 3 classes, 20 boxes")
    (result,) = written["results"]  # inference has no boxes
    assert (result["what"], result["axis"]) == ("training", "boxes")
    assert [point["size"] for point in result["points"]] == [0, 1, 4]
    for point in result["points"]:
        assert point.keys() == {"size", "seconds", "mebibytes", "all_seconds"}
        assert len(point["all_seconds"]) == 2 and point["seconds"] > 0
    *here, largest = (point["mebibytes"] for point in result["points"])
    assert here == [2, 5] and largest > 0
    for kind in ("seconds", "mebibytes"):
        assert result["growth"][kind].keys() == {"constant", "exponent", "faster"}
    table = (folder / "growth.txt").read_text()
    assert table.splitlines()[0] == written["title"]
    assert "training, boxes\n" in table and "exponents: seconds " in table
    assert out.rstrip().endswith(table.splitlines()[-1])
    with Image.open(folder / "growth.png") as image:
        assert image.format == "PNG" and len(image.convert("RGB").getcolors(2**20)) > 2


def test_the_suppression_finds_as_many_detections_as_asked_for():
    config = Config(
        backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0, image_size="64x64",
        batch_size=2, num_classes=3, max_detections=7,
    )  # fmt: skip
    assert growth.make_step(config, "inference", 0)() == {"detections": 7}


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["--output="], "--output: expected a value, got none"),
        (2, ["--what=speed"], "--what: expected some of inference, training, got 'speed'"),
        (2, ["--axis=depth"], "--axis: expected some of image_side, batch, classes, boxes, det"),
        (2, ["--what="], "--what: expected one or more values, got none"),
        (2, ["--sizes=1,2,3"], "--sizes: expected with one --axis, got image_side,batch,classes"),
        (2, ["--axis=batch", "--sizes=1,2"], "expected three or more increasing numbers, at lea"),
        (2, ["--axis=batch", "--sizes=0,1,2"], "numbers, at least 1, got 0,1,2"),
        (2, ["--axis=boxes", "--sizes=0,9,3"], "numbers, at least 0, got 0,9,3"),
        (2, ["--score_threshold=0"], "--score_threshold is not used by growth.py"),
        (1, ["--what=inference", "--axis=boxes"], "--axis=boxes: not used with --what=inference"),
        (1, ["--image_size=80,99"], "expected a fixed canvas like 512x512"),
        (1, ["--model=classifier"], "--model: expected fcos or faster_rcnn, got classifier"),
    ],
)
def test_wrong_flags_are_told(capsys, tmp_path, code, arguments, message):
    output = [] if "--output=" in arguments else [f"--output={tmp_path}"]
    got, _, error = run(capsys, growth, *output, *arguments)
    assert (got, message in error) == (code, True), error
