"""Which point learns which box, on scenes small enough to do by hand.

A 64x64 image has P3 points at 4, 12, 20, ..., 60 on both axes, P4 points at 8, 24, 40, 56, P5 at
16, 48, P6 at 32 and P7 at 64.
"""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import FCOS
from fcos_tf.models.fcos_training import (
    ASSIGNERS,
    SIZE_RANGES,
    Assigner,
    fcos_targets,
    point_levels,
)
from fcos_tf.ops.points import grid_sizes, pyramid_points

STRIDES = (8, 16, 32, 64, 128)


def levels_of(size):
    grids = grid_sizes(*size, STRIDES)
    return point_levels(*pyramid_points(grids, STRIDES), SIZE_RANGES, grids)


def targets_for(boxes, labels, *, size=(64, 64), radius=1.5, num_classes=3, **options):
    """Targets [B, N, ...] as numpy, with the points they belong to."""
    levels = levels_of(size)
    result = fcos_targets(
        levels,
        np.asarray(boxes, "float32"),
        np.asarray(labels, "int32"),
        num_classes=num_classes,
        center_sampling_radius=radius,
        **options,
    )
    result = {name: np.asarray(value) for name, value in result.items()}
    return result, np.asarray(levels.points), np.asarray(levels.strides)


def positives(result, points, strides, image=0):
    """{(x, y, stride): index of the box}."""
    matched = result["matched_gt_index"][image]
    return {
        (*points[n].astype(int).tolist(), int(strides[n])): int(matched[n])
        for n in np.flatnonzero(matched >= 0)
    }


def test_of_two_boxes_the_smaller_wins():
    # The large box is learnt by P3 points with |d| < 12 from its centre 24: 20 and 28, and so on
    # both axes. The small one, centre 20, 8 wide, has only (20, 20).
    result, points, strides = targets_for([[[8, 8, 40, 40], [16, 16, 24, 24]]], [[2, 0]])
    assert positives(result, points, strides) == {
        (20, 20, 8): 1,
        (28, 20, 8): 0,
        (20, 28, 8): 0,
        (28, 28, 8): 0,
    }
    n = np.flatnonzero((points == [20, 20]).all(1) & (strides == 8))[0]
    np.testing.assert_array_equal(result["class_targets"][0, n], [1, 0, 0])
    np.testing.assert_array_equal(result["ltrb_targets"][0, n], [0.5, 0.5, 0.5, 0.5])
    assert result["centerness_targets"][0, n] == 1
    m = np.flatnonzero((points == [28, 20]).all(1) & (strides == 8))[0]
    np.testing.assert_array_equal(result["class_targets"][0, m], [0, 0, 1])
    # (28 - 8, 20 - 8, 40 - 28, 40 - 20) / 8; centerness sqrt(12/20 * 12/20)
    np.testing.assert_array_equal(result["ltrb_targets"][0, m], [2.5, 1.5, 1.5, 2.5])
    np.testing.assert_allclose(result["centerness_targets"][0, m], 0.6, rtol=1e-6)


def test_equal_areas_first_wins_and_padding_never():
    boxes = [[[0, 0, 0, 0], [16, 16, 24, 24], [16, 16, 24, 24]]]
    result, points, strides = targets_for(boxes, [[-1, 2, 1]])
    assert positives(result, points, strides) == {(20, 20, 8): 1}
    # The same numbers as padding: nobody's.
    result, *_ = targets_for(boxes, [[-1, -1, -1]])
    assert not result["positive_mask"].any()


@pytest.mark.parametrize("radius", [None, 0, 1.5])
def test_a_point_on_a_side_is_outside(radius):
    # P3 points of the row y = 12 have x = 4 and 20 exactly on the sides; only 12 is inside.
    result, points, strides = targets_for([[[4, 4, 20, 20]]], [[0]], radius=radius)
    assert positives(result, points, strides) == {(12, 12, 8): 0}


def test_center_square_border_is_outside():
    # Centre 16, reach 1.5 * 8 = 12: P3 points 4 and 28 lie on the square's border.
    result, points, strides = targets_for([[[0, 0, 32, 32]]], [[0]])
    expected = {(x, y, 8): 0 for x in (12, 20) for y in (12, 20)}
    assert positives(result, points, strides) == expected
    # Without centre sampling the whole box: 4, 12, 20, 28.
    result, points, strides = targets_for([[[0, 0, 32, 32]]], [[0]], radius=None)
    assert len(positives(result, points, strides)) == 16


def test_size_range_limits_belong_to_both_levels():
    # 128x128. In the box (0, 0, 72, 16) the P4 point (8, 8) has right = 64, its largest distance,
    # and the P3 points of the row y = 12, and of y = 4, with x in 8..64 stay within 64.
    result, points, strides = targets_for([[[0, 0, 72, 16]]], [[0]], size=(128, 128), radius=None)
    found = positives(result, points, strides)
    assert {p for p in found if p[2] == 16} == {(8, 8, 16)}
    assert {p[0] for p in found if p[2] == 8} == {12, 20, 28, 36, 44, 52, 60}
    # One pixel wider: 65 for (8, 8); still P4's. One narrower: 63, nobody's but P3's.
    result, points, strides = targets_for([[[0, 0, 71, 16]]], [[0]], size=(128, 128), radius=None)
    assert not [p for p in positives(result, points, strides) if p[2] == 16]


def test_largest_box_goes_to_the_top_level():
    # 1280 pixels wide; the stride-128 points lie at 64 + 128 k.
    result, points, strides = targets_for(
        [[[0, 0, 1280, 256]]], [[0]], size=(256, 1280), radius=None
    )
    top = [p for p in positives(result, points, strides) if p[2] == 128]
    # All ten columns and both rows: the larger of x and 1280 - x is at least 576.
    assert len(top) == 20


@pytest.mark.parametrize("assigner", ["fcos", "atss", "tal"])
@pytest.mark.parametrize("num_boxes", [0, 1, 5])
def test_no_boxes(num_boxes, assigner):
    boxes, labels = np.zeros((2, num_boxes, 4)), np.full((2, num_boxes), -1)
    predictions = random_predictions(0, batch=2, size=64)
    result, *_ = targets_for(boxes, labels, assigner=assigner, predictions=predictions)
    assert (result.pop("matched_gt_index") == -1).all()
    assert len(result) == (5 if assigner == "tal" else 4)
    for values in result.values():
        assert values.sum() == 0 and np.isfinite(values).all()


def random_scenes(seed, batch=4, boxes=12, size=256):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, size - 20, (batch, boxes, 2))
    high = np.minimum(low + rng.uniform(2, size, (batch, boxes, 2)), size)
    labels = rng.integers(-1, 3, (batch, boxes))
    return np.concatenate([low, high], -1).astype("float32"), labels.astype("int32")


def random_predictions(seed, batch=4, size=256, num_classes=3):
    rng = np.random.default_rng(seed)
    shape = (batch, sum(rows * columns for rows, columns in grid_sizes(size, size, STRIDES)))
    return {
        "class_logits": rng.normal(-1, 2, (*shape, num_classes)).astype("float32"),
        "ltrb": rng.gamma(2, 2, (*shape, 4)).astype("float32"),
    }


def brute_force(boxes, labels, points, strides, size_ranges, radius):
    """The rule, point by point and box by box."""
    matched = np.full(len(points), -1)
    for n, ((x, y), stride, (low, high)) in enumerate(
        zip(points, strides, size_ranges, strict=True)
    ):
        best = np.inf
        for m, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels, strict=True)):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < radius * stride
            area = (x2 - x1) * (y2 - y1)
            if label >= 0 and min(sides) > 0 and near and low <= max(sides) <= high and area < best:
                best, matched[n] = area, m
    return matched


def test_against_the_rule_written_as_loops():
    boxes, labels = random_scenes(0)
    result, points, strides = targets_for(boxes, labels, size=(256, 256))
    ranges = np.asarray(levels_of((256, 256)).size_ranges)
    for image in range(len(boxes)):
        expected = brute_force(boxes[image], labels[image], points, strides, ranges, 1.5)
        np.testing.assert_array_equal(result["matched_gt_index"][image], expected)
    assert result["positive_mask"].sum() > 50


@pytest.mark.parametrize("assigner", ["fcos", "atss", "tal"])
def test_batch_equals_single_equals_graph_equals_xla(assigner):
    boxes, labels = random_scenes(1)
    predictions = random_predictions(1)
    options = {"size": (256, 256), "assigner": assigner}
    batch, *_ = targets_for(boxes, labels, predictions=predictions, **options)
    assert batch["positive_mask"].sum() > 50
    for image in range(len(boxes)):
        options["predictions"] = {k: v[image][None] for k, v in predictions.items()}
        single, *_ = targets_for(boxes[image][None], labels[image][None], **options)
        for name in batch:
            np.testing.assert_array_equal(batch[name][image], single[name][0], err_msg=name)
    levels = levels_of((256, 256))

    def run(boxes, labels):
        options = {"assigner": assigner, "predictions": predictions}
        return fcos_targets(levels, boxes, labels, num_classes=3, **options)

    for jit_compile in (False, True):
        compiled = tf.function(run, jit_compile=jit_compile)(boxes, labels)
        for name in batch:
            rtol = 1e-5 if name == "score_targets" else 1e-6  # IoU^6
            np.testing.assert_allclose(batch[name], compiled[name], rtol=rtol, err_msg=name)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_thousand_boxes_on_a_full_size_image_stay_within_a_gibibyte():
    code = (
        "import re, numpy as np\n"
        "from pathlib import Path\n"
        "from tests.models.test_fcos_targets import targets_for\n"
        "targets_for(np.zeros((1, 1, 4)), np.zeros((1, 1)))\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', status.read_text())[1])\n"
        "before = peak()\n"
        "low = np.random.default_rng(0).uniform(0, 700, (1, 1000, 2))\n"
        "boxes = np.concatenate([low, low + 90], -1)\n"
        "result, *_ = targets_for(boxes, np.zeros((1, 1000)), size=(800, 1333))\n"
        "assert result['positive_mask'].sum() > 1000\n"
        "print((peak() - before) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used = int(done.stdout.split()[-1])
    # One [N, M] float array alone is 22,300 * 1001 * 4 = 89 MB: the measurement sees something.
    assert 80e6 < used < 2**30


def test_another_assigner_is_one_function(monkeypatch):
    # Every point learns the first box; it sees what the head gives.
    seen = []

    def first_box(levels, boxes, labels, *, predictions, **options):
        seen.append(predictions)
        return tf.zeros((len(boxes), len(levels.points)), "int32"), None

    monkeypatch.setitem(ASSIGNERS, "first", Assigner(first_box, uses_predictions=True))
    model = FCOS(
        2, assigner="first", backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0
    )
    targets = {"boxes": np.float32([[[4, 4, 40, 40]]]), "labels": np.int32([[1]])}
    raw = model(np.zeros((1, 64, 64, 3), "uint8"))
    parts = model.compute_losses(raw, targets, (64, 64))
    assert float(parts["num_positives"]) == 8 * 8 + 4 * 4 + 2 * 2
    assert seen[0] is raw
    assert model.compute_totals(targets, (64, 64)) is None
    assert FCOS.from_config(model.get_config()).assigner == "first"
    model.compile(keras.optimizers.SGD(0.1))
    model.accumulation_steps = 2
    batch = (np.zeros((2, 64, 64, 3), "uint8"), {k: np.repeat(v, 2, 0) for k, v in targets.items()})
    with pytest.raises(ValueError, match=r"accumulation_steps: expected 1, .* of FCOS .*; got 2"):
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    with pytest.raises(
        ValueError, match="assigner must be one of fcos, atss, tal, first; got 'last'"
    ):
        FCOS(2, assigner="last", backbone="simple_cnn")
