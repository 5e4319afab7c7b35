"""Pictures of points, targets and predictions of each level."""

import math

import numpy as np
import pytest
from matplotlib import colormaps

import fcos_tf
from fcos_tf.models import fcos_training
from fcos_tf.models.detector import Detector
from fcos_tf.visualization import class_colour, levels
from fcos_tf.visualization.levels import draw_points, draw_predictions, draw_targets

# A grey image of 128 x 128; panels are four times as large, under captions of 34 pixels.
IMAGE = np.full([128, 128, 3], 90, np.float32)
PANEL, GAP, LINE, SCALE = 512, 14, 34, 4
DIM = 45  # half of the grey


@pytest.fixture(scope="module")
def model():
    """Every point has class scores .04 and .64, quality .81 and a box of 2 strides to each side."""
    model = fcos_tf.FCOS(2, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    values = {
        "class_logits": [math.log(p / (1 - p)) for p in (0.04, 0.64)],
        "ltrb": [2.0] * 4,
        "centerness": [math.log(0.81 / 0.19)],
    }
    for name, bias in values.items():
        layer = getattr(model.head, name)
        layer.set_weights([np.zeros(layer.kernel.shape), np.float32(bias)])
    return model


def truth(*boxes, labels=None):
    padded = np.float32([*boxes, [0, 0, 0, 0]])
    return {"boxes": padded, "labels": np.int32([*(labels or [0] * len(boxes)), -1])}


def panel(sheet, row, column):
    """A panel of a sheet with captions narrower than panels."""
    left, top = GAP + column * (PANEL + GAP), LINE + row * (PANEL + LINE)
    return np.asarray(sheet)[top : top + PANEL, left : left + PANEL]


@pytest.fixture
def captions(monkeypatch):
    """The captions of the sheets made."""
    found = []
    make_sheet = levels.make_sheet

    def listen(rows, **options):
        found.extend(caption for row in rows for _, caption in row)
        return make_sheet(rows, **options)

    monkeypatch.setattr(levels, "make_sheet", listen)
    return found


def test_points_are_at_the_middle_of_their_cells(model, captions):
    sheet = draw_points(model, IMAGE, truth())
    assert captions == [f"stride {s}: {n} points" for s, n in ((8, 256), (16, 64), (32, 16))]
    for column, stride in enumerate((8, 16, 32)):
        pixels = panel(sheet, 0, column)
        centres = ((np.arange(128 // stride) + 0.5) * stride * SCALE).astype(int)
        white = (pixels == 255).all(axis=-1)
        assert white[np.ix_(centres, centres)].all()
        # Squares of 9 x 9: .18 of the distance is over 4, the most to each side.
        assert white.sum() == 81 * len(centres) ** 2
        assert tuple(pixels[stride * SCALE, stride * SCALE]) == (90, 90, 90)  # a cell's corner


def test_targets_show_owner_distances_and_centerness(model, captions):
    # The box (8, 8, 40, 40) learns at stride 8 from the points within 12 px of (24, 24), borders
    # excluded: x and y of 20 and 28. At (20, 20): l = t = 12 px, r = b = 20 px, centerness .6.
    # (56, 57, 59, 60) holds no point: the nearest are 52 and 60.
    sheet = draw_targets(model, IMAGE, truth([8, 8, 40, 40], [56, 57, 59, 60]), ["cell"])
    assert captions == [
        "2 boxes, 1 without a point; no box learnt at stride 16, 32",
        "stride 8: 4 of 256 points learn boxes; l, t, r, b in strides",
        "stride 8: centerness, 0.60 to 0.60",
    ]
    whole = panel(sheet, 0, 0)
    assert tuple(whole[100, 32]) == class_colour(0)  # its left side, x = 8
    assert tuple(whole[239, 230]) == class_colour(1)  # the lower side of the other, y = 60
    points = panel(sheet, 1, 0)
    assert tuple(points[112, 112]) == class_colour(0)  # (28, 28)
    assert tuple(points[144, 144]) == (130, 130, 130)  # (36, 36) learns nothing
    # Arrows from (20, 20) end at the sides, 8 and 40.
    white = (points == 255).all(axis=-1)
    assert white[80, 33:159].all() and not white[80, 164:].any() and not white[80, :31].any()
    assert white[33:159, 80].all() and not white[164:, 80].any() and not white[:31, 80].any()
    heat = panel(sheet, 1, 1)
    colour = 0.4 * DIM + 0.8 * 255 * np.array(colormaps["inferno"](0.6**0.5)[:3])
    # The cells of the four points cover 16 to 32 px.
    np.testing.assert_array_equal(
        heat[64:128, 64:128], np.broadcast_to(colour.round(), [64, 64, 3])
    )
    assert (heat != DIM).any(axis=-1).sum() == 64 * 64


def test_an_assigner_that_needs_predictions_gets_them(model, captions, monkeypatch):
    def match(levels, *_, predictions, **__):
        scores, count = np.asarray(predictions["class_logits"]), len(levels.points)
        assert scores.shape == (1, count, 2)
        return np.where(np.arange(count) < 3, 0, -1)[None].astype(np.int32), None

    assigner = fcos_training.Assigner(match, uses_predictions=True)
    monkeypatch.setitem(fcos_training.ASSIGNERS, "first_three", assigner)
    monkeypatch.setattr(model, "assigner", "first_three")
    assert model.assigned_boxes({"boxes": None, "labels": None}, (128, 128)) is None
    draw_targets(model, IMAGE, truth([0, 0, 60, 60]))
    assert captions[1].startswith("stride 8: 3 of 256 points")


def test_predictions_of_a_model_without_quality(model, captions, monkeypatch):
    monkeypatch.setattr(model.head, "centerness", None)
    draw_predictions(model, IMAGE, truth([12, 12, 44, 44], [12, 12, 44, 44], labels=[0, 1]))
    assert captions[2:5] == [
        "1 missed: class score, IoU before NMS",
        "stride 8: class score, highest 0.64",
        "stride 8 before NMS: best 100 of 256 of score ≥ 0.3, highest 0.64",
    ]
    assert len(captions) == 3 + 3 * 2


def test_predictions_of_each_level_and_why_a_box_is_missed(model, captions, monkeypatch):
    causes = []
    draw = levels.boxes_panel
    monkeypatch.setattr(
        levels, "boxes_panel", lambda *a, **k: causes.extend(k.get("texts", [])) or draw(*a, **k)
    )
    # (28, 28) predicts the box (12, 12, 44, 44) as class 1, sqrt(.64 * .81) = .72. Class 0 has
    # .18. Of equal scores the first counts: that of (28, 20) is 8 px higher, of IoU
    # 32 * 24 / (2 * 1024 - 768) = .6.
    box = [12, 12, 44, 44]
    sheet = draw_predictions(model, IMAGE, truth(box, box, labels=[0, 1]), ["a", "b"])
    assert captions[0] == "ground truth: 2 boxes"
    assert captions[2:6] == [
        "1 missed: class score · quality, IoU before NMS",
        "stride 8: class score, highest 0.64",
        "stride 8: quality, highest 0.81",
        "stride 8 before NMS: best 100 of 256 of score ≥ 0.3, highest 0.72",
    ]
    assert causes == ["a 0.04 · 0.81, 0.60"]
    assert len(captions) == 3 + 3 * 3
    column = (sheet.size[0] - GAP) // 3  # captions are wider than panels
    rows = LINE + np.arange(4) * (PANEL + LINE)
    pixels = np.asarray(sheet)
    for j, value in ((0, 0.64), (1, 0.81)):
        colour = (0.4 * DIM + 0.8 * 255 * np.array(colormaps["inferno"](value**0.5)[:3])).round()
        heat = pixels[rows[1] : rows[1] + PANEL, GAP + j * column :][:, :PANEL]
        np.testing.assert_array_equal(heat, np.broadcast_to(np.minimum(colour, 255), heat.shape))
    # At stride 32 the first point, (16, 16), predicts (-48, -48, 80, 80): its right side is at 80.
    coarse = pixels[rows[3] : rows[3] + PANEL, GAP + 2 * column :]
    assert tuple(coarse[100, 80 * SCALE - 1]) == class_colour(1)

    captions.clear()
    draw_predictions(model, IMAGE, truth(box), score_threshold=0.75)
    assert captions[1] == "detections: 0 of score ≥ 0.75"
    assert captions[5] == "stride 8 before NMS: 0 of score ≥ 0.75, highest 0.72"


@pytest.mark.parametrize("draw", [draw_points, draw_targets, draw_predictions])
def test_a_model_without_points_is_refused_by_name(draw):
    with pytest.raises(ValueError, match=r"^Detector has no points to draw; expected a model with"):
        draw(Detector(2), IMAGE, truth())
