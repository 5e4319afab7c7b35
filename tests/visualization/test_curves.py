"""The curves of runs: what is read, what is drawn, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from fcos_tf.training.metric_writers import JsonLinesWriter
from fcos_tf.visualization.curves import plot_curves, read_curves, save_curves


def write_run(folder, *records, tail=""):
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines + tail)
    return folder


RECORDS = (
    {"step": 20, "kind": "train", "loss": 2.0, "learning_rate": 0.01},
    {"step": 40, "kind": "train", "loss": 1.0, "learning_rate": 0.01, "input_share": 0.25},
    {"step": 40, "kind": "val", "AP": 0.5, "AP50": 0.75, "APs": -1.0},
)


def drawn(figure):
    """Title -> the lines of each panel, as lists of points."""
    return {
        axis.get_title(): [list(map(tuple, line.get_xydata())) for line in axis.get_lines()]
        for axis in figure.axes
        if axis.get_title()
    }


def test_numbers_are_drawn_over_their_steps(tmp_path):
    curves = read_curves(write_run(tmp_path / "a", *RECORDS, tail='{"step": 60, "kind": "tr'))
    assert curves["train/loss"] == ([20, 40], [2.0, 1.0])
    assert drawn(plot_curves({"a": curves})) == {
        "loss": [[(20, 2), (40, 1)]],
        "learning rate": [[(20, 0.01), (40, 0.01)]],
        "AP": [[(40, 0.5)], [(40, 0.75)]],
        "time spent waiting for input": [[(40, 0.25)]],
    }


def test_losses_of_any_model_have_a_panel_each(tmp_path):
    record = {"step": 5, "kind": "train", "loss": 3.0, "rpn_objectness_loss": 1.0, "num_rois": 7.0}
    run = write_run(tmp_path / "a", record, {"step": 5, "kind": "val", "loss": 4.0, "mAP": 0.25})
    assert drawn(plot_curves({"a": read_curves(run)})) == {
        "loss": [[(5, 3)], [(5, 4)]],
        "rpn objectness loss": [[(5, 1)]],
        "AP": [[(5, 0.25)]],
    }


def test_what_is_no_number_is_no_point(tmp_path):
    writer = JsonLinesWriter(tmp_path / "metrics.jsonl")
    writer.write(10, "train", {"loss": float("nan"), "learning_rate": 0.5})
    writer.write(20, "train", {"loss": 2.0, "learning_rate": 0.5})
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert line == '{"step": 10, "kind": "train", "loss": null, "learning_rate": 0.5}'
    curves = read_curves(tmp_path)
    assert curves["train/loss"] == ([20], [2.0])
    assert curves["train/learning_rate"] == ([10, 20], [0.5, 0.5])


def test_runs_have_colours_of_their_own_and_need_not_have_the_same_numbers(tmp_path):
    a = write_run(tmp_path / "a", *RECORDS)
    b = write_run(tmp_path / "b", {"step": 10, "kind": "train", "loss": 3.0})
    figure = plot_curves({"a": read_curves(a), "b": read_curves(b)})
    first, second = figure.axes[0].get_lines()
    assert (first.get_color(), second.get_color()) == ("C0", "C1")
    assert list(second.get_xydata()[0]) == [10, 3]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    (there,) = [axis.get_legend() for axis in figure.axes if axis.get_title() == "AP"]
    assert [text.get_text() for text in there.get_texts()] == ["AP", "AP50"]


def test_the_picture_is_written(tmp_path):
    run = write_run(tmp_path / "a", *RECORDS)
    path = save_curves(tmp_path / "new" / "curves.png", [run / "metrics.jsonl"])
    picture = np.asarray(Image.open(path).convert("RGB"))
    blue = (picture == (31, 119, 180)).all(axis=-1)  # matplotlib's C0, #1f77b4
    # All four panels of the row have a line or a point in it.
    quarter = picture.shape[1] // 4
    assert all(blue[:, i * quarter : (i + 1) * quarter].any() for i in range(4))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"metrics.jsonl: expected a record for each log step, got none"),
        ('{"step": 1, "kind": "tr', r"metrics.jsonl: expected a record"),
        (
            '{"step": 1, "kind": "train", "loss": 1.0}\n{"step": 2, "ki\n',
            r"metrics.jsonl, line 2: expected a record with step and kind, got '{\"step\": 2",
        ),
        ('{"kind": "train", "loss": 1.0}\n', "line 1: expected a record with step and kind"),
        ('{"step": 1, "kind": "train", "loss": "low"}\n', "line 1: "),
        ("[1, 2]\n", "line 1: "),
        ('{"step": Infinity, "kind": "train", "loss": 1.0}\n', "line 1: expected a record"),
        ('{"step": 1, "kind": "train", "speed": 3.0}\n', "nothing to draw: no run has any of loss"),
    ],
)
def test_broken_runs_are_named(tmp_path, lines, message):
    run = write_run(tmp_path / "a", tail=lines)
    with pytest.raises(ValueError, match=message):
        save_curves(tmp_path / "curves.png", [run])
    assert not (tmp_path / "curves.png").exists()


def test_a_run_that_is_not_there_is_named(tmp_path):
    for name in ("gone", "."):
        with pytest.raises(FileNotFoundError, match=r"folder of a run with metrics.jsonl, got"):
            read_curves(tmp_path / name)
