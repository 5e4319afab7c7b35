"""Task-aligned assignment beside the rule in NumPy, and on scenes small enough to do by hand."""

import math

import numpy as np
import pytest

from fcos_tf import FCOS
from tests.models.test_fcos_targets import (
    positives,
    random_predictions,
    random_scenes,
    targets_for,
)


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared)


def reference(boxes, labels, points, strides, logits, ltrb):
    """Section 3.3 of the paper, box by box, in float64: the box of each point, score targets."""
    points, ltrb = points.astype(float), ltrb * strides[:, None].astype(float)
    found = np.concatenate([points - ltrb[:, :2], points + ltrb[:, 2:]], axis=1)
    iou, aligned = np.zeros((2, len(boxes), len(points)))
    best, matched = np.zeros(len(points)), np.full(len(points), -1)
    for m in np.flatnonzero(labels >= 0):
        box = boxes[m].astype(float)
        iou[m] = [overlap(box, other) for other in found]
        aligned[m] = iou[m] ** 6 / (1 + np.exp(-logits[:, labels[m]].astype(float)))
        for n in np.argsort(-aligned[m], kind="stable")[:13]:
            inside = min(*(points[n] - box[:2]), *(box[2:] - points[n])) > 0.01
            if aligned[m, n] > 0 and inside and iou[m, n] > best[n]:
                best[n], matched[n] = iou[m, n], m
    scores = np.zeros(len(points))
    for m in set(matched) - {-1}:
        own = matched == m
        scores[own] = aligned[m, own] / aligned[m, own].max() * iou[m, own].max()
    return matched, scores


@pytest.mark.parametrize("num_boxes, size", [(12, 128), (3, 40), (40, 128)])
def test_against_the_rule_written_as_loops(num_boxes, size):
    boxes, labels = random_scenes(4, batch=2, boxes=num_boxes, size=size)
    raw = random_predictions(4, batch=2, size=size)
    options = {"size": (size, size), "assigner": "tal", "predictions": raw}
    result, points, strides = targets_for(boxes, labels, **options)
    for i in range(2):
        predicted = raw["class_logits"][i], raw["ltrb"][i]
        matched, scores = reference(boxes[i], labels[i], points, strides, *predicted)
        np.testing.assert_array_equal(result["matched_gt_index"][i], matched)
        np.testing.assert_allclose(result["score_targets"][i], scores, rtol=1e-4)
    assert result["positive_mask"].sum() > 10


# The 64 x 64 image has 86 points. All predict boxes of four strides to each side and class scores
# of 1/2: as anchors of ATSS. Sixteen P3 points hold the box (16, 16, 48, 48) in theirs, IoU 1/4;
# the thirteen best are the first of them.
THIRTEEN = [(x, y, 8) for y in (20, 28, 36) for x in (20, 28, 36, 44)] + [(20, 44, 8)]
BOX = np.float32([[[16, 16, 48, 48]]])


def like_anchors():
    return {
        "class_logits": np.zeros((1, 86, 3), "float32"),
        "ltrb": np.full((1, 86, 4), 4, "float32"),
    }


def test_equal_alignment_is_worth_its_iou():
    result, *at = targets_for(BOX, [[1]], assigner="tal", predictions=like_anchors())
    assert positives(result, *at) == dict.fromkeys(THIRTEEN, 0)
    np.testing.assert_allclose(result["score_targets"][result["positive_mask"]], 0.25, rtol=1e-6)
    assert not result["score_targets"][~result["positive_mask"]].any()


def test_score_and_box_count_and_points_outside_are_not_replaced():
    raw = like_anchors()
    # The eight P3 points of the row y = 12, outside the box, see it well: (16, 12, 48, 48), or
    # wider, IoU of at least 1024 / (44 * 36). They are candidates that do not learn it. The scores
    # of other classes do not count.
    raw["class_logits"][0, :, 0] = 50
    for n in range(8, 16):
        x = 4 + 8 * (n - 8)
        raw["ltrb"][0, n] = max(x - 16, 0) / 8, 0, max(48 - x, 0) / 8, 4.5
        raw["class_logits"][0, n, 1] = 9
    # Of (28, 20), l, t, r, b are 12, 4, 20 and 28 px: IoU 1.
    raw["ltrb"][0, 2 * 8 + 3] = 1.5, 0.5, 2.5, 3.5
    result, points, strides = targets_for(BOX, [[1]], assigner="tal", predictions=raw)
    found = positives(result, points, strides)
    assert set(found) == {(x, 20, 8) for x in (20, 28, 36, 44)} | {(20, 28, 8)}
    scores = result["score_targets"][0]
    assert scores[2 * 8 + 3] == pytest.approx(1, rel=1e-6)
    # score / score * IoU^6 / 1^6, times the largest IoU, 1.
    np.testing.assert_allclose(np.sort(scores[scores > 0])[:-1], [0.25**6] * 4, rtol=1e-5)


def test_losses_by_hand():
    model = FCOS(
        3, assigner="tal", quality="joint", backbone="simple_cnn", fpn_channels=32, head_convs=0
    )
    raw = like_anchors()
    raw["ltrb"][0, 2 * 8 + 3] = 1.5, 0.5, 2.5, 3.5
    parts = model.compute_losses(raw, {"boxes": BOX, "labels": np.int32([[1]])}, (64, 64))
    # Score targets 1, and twelve of 1/4^6; their sum divides both losses. 86 * 3 - 13 zeros.
    low = 0.25**6
    total = 1 + 12 * low
    classes = (0.25 + 12 * (low - 0.5) ** 2 + 0.25 * (86 * 3 - 13)) * math.log(2)
    assert float(parts["classification_loss"]) == pytest.approx(classes / total, rel=1e-5)
    # GIoU is 1 for the first and 1/4 for the others.
    assert float(parts["box_loss"]) == pytest.approx(12 * low * 0.75 / total, rel=1e-5)
    assert float(parts["num_positives"]) == 13
    assert model.compute_totals({"boxes": BOX, "labels": np.int32([[1]])}, (64, 64)) is None


def test_an_untrained_model_learns_from_the_points_whose_anchors_fit():
    model = FCOS(
        3, assigner="tal", quality="joint", backbone="simple_cnn", fpn_channels=32, head_convs=1
    )
    raw = model(np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype("uint8"))
    for side, stride in ((48, 8), (200, 32)):
        box = 128 + np.float32([[[-side, -side, side, side]]]) / 2
        targets = {"boxes": box, "labels": np.int32([[1]])}
        matched, strides = map(np.asarray, model.assigned_boxes(targets, (256, 256), raw))
        learning = strides[matched[0] >= 0]
        assert len(learning) > 5 and np.median(learning) == stride


@pytest.mark.parametrize(
    ("assigner", "quality", "distance"),
    [("fcos", "joint", 4), ("atss", "varifocal", 4), ("atss", "centerness", 4), ("fcos", "iou", 0)],
)
def test_first_boxes_have_an_iou_where_scores_learn_it(assigner, quality, distance):
    options = {"fpn_channels": 32, "head_convs": 1, "assigner": assigner, "quality": quality}
    model = FCOS(3, backbone="simple_cnn", **options)
    images = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3)).astype("uint8")
    assert np.mean(model(images)["ltrb"]) == pytest.approx(distance, abs=0.3)


def test_distances_in_pixels_are_no_start_for_it():
    with pytest.raises(ValueError, match=r"assigner 'tal' needs first boxes .* got 'official'"):
        FCOS(
            3,
            backbone="simple_cnn",
            fpn_levels=3,
            fpn_channels=32,
            assigner="tal",
            rules="official",
        )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"assigner": "atss", "center_sampling_radius": 2.0}, r"assigner 'atss'.* got 2.0"),
        ({"assigner": "tal", "size_ranges": [(0, 9), (9, 50), (50, 1e4)]}, r"'tal'.* 9.0"),
        ({"quality": "joint", "centerness_on": "class"}, r"centerness_on: .* got 'class'"),
    ],
)
def test_options_without_effect_are_refused(options, text):
    small = {"backbone": "simple_cnn", "fpn_levels": 3, "fpn_channels": 32, "head_convs": 0}
    with pytest.raises(ValueError, match=text):
        FCOS(3, **small, **options)
    for name in set(options) - {"assigner", "quality"}:
        del options[name]
    made = FCOS(3, **small, **options)
    assert FCOS.from_config(made.get_config()).get_config() == made.get_config()
