"""ATSS beside the rule in NumPy, and on scenes small enough to do by hand."""

import numpy as np
import pytest

from tests.models.test_fcos_targets import positives, random_scenes, targets_for


def reference(boxes, labels, points, strides):
    """Algorithm 1 of the paper, box by box, in float64: [N], the box of each point or -1."""
    best, matched = np.zeros(len(points)), np.full(len(points), -1)
    for m in np.flatnonzero(labels >= 0):
        x1, y1, x2, y2 = boxes[m].astype(float)
        distance = np.hypot(points[:, 0] - (x1 + x2) / 2, points[:, 1] - (y1 + y2) / 2)
        chosen = []
        for stride in np.unique(strides):
            of_level = np.flatnonzero(strides == stride)
            chosen += list(of_level[np.argsort(distance[of_level], kind="stable")[:9]])
        overlaps = []
        for n in chosen:
            (x, y), half = points[n], 4 * strides[n]
            width = min(x + half, x2) - max(x - half, x1)
            height = min(y + half, y2) - max(y - half, y1)
            shared = max(width, 0) * max(height, 0)
            overlaps.append(shared / (4 * half**2 + (x2 - x1) * (y2 - y1) - shared))
        limit = np.mean(overlaps) + np.std(overlaps, ddof=1)
        for n, overlap in zip(chosen, overlaps, strict=True):
            x, y = points[n]
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            if overlap >= limit and inside and overlap > best[n]:
                best[n], matched[n] = overlap, m
    return matched


@pytest.mark.parametrize("size, boxes", [((256, 256), 12), ((200, 135), 40), ((40, 70), 3)])
def test_against_the_rule_written_as_loops(size, boxes):
    truth, labels = random_scenes(2, boxes=boxes, size=min(size))
    result, points, strides = targets_for(truth, labels, size=size, assigner="atss")
    for image in range(len(truth)):
        expected = reference(truth[image], labels[image], points, strides)
        np.testing.assert_array_equal(result["matched_gt_index"][image], expected)
    levels = set(strides[result["positive_mask"].any(axis=0)])
    assert len(levels) >= (1 if size == (40, 70) else 2)


# The box (16, 16, 48, 48) lies in the anchors, 64 px a side, of its nine nearest P3 points: IoU
# 32^2 / 64^2 = 1/4. The candidates of the other levels have 1/16 (nine), 1/64 (four), 1/256 and
# 1/1024: mean .1200, standard deviation .1049 with n - 1 = 23. The nine are the four at 5.7 px and,
# of the eight at 12.6 px, the first five.
NINE = {
    *((x, y, 8) for x in (28, 36) for y in (28, 36)),
    *((28, 20, 8), (36, 20, 8), (20, 28, 8), (44, 28, 8), (20, 36, 8)),
}


def test_anchors_above_mean_and_deviation_learn():
    found = positives(*targets_for([[[16, 16, 48, 48]]], [[0]], assigner="atss"))
    assert found == dict.fromkeys(NINE, 0)


def test_the_largest_overlap_wins_not_the_smallest_area():
    # The inner box has the same candidates, with IoU of at most 12^2 / 64^2.
    boxes, labels = [[[26, 26, 38, 38], [16, 16, 48, 48]]], [[0, 0]]
    assert positives(*targets_for(boxes, labels, assigner="atss")) == dict.fromkeys(NINE, 1)
    # Alone it has the four points that lie inside it.
    found = positives(*targets_for(boxes, [[0, -1]], assigner="atss"))
    assert found == {(x, y, 8): 0 for x in (28, 36) for y in (28, 36)}
    # By the rule of FCOS it has them in any case.
    assert set(positives(*targets_for(boxes, labels)).values()) == {0}


@pytest.mark.parametrize("margin, count", [(0.0, 0), (0.0078125, 0), (0.015625, 4)])
def test_points_within_a_hundredth_of_a_pixel_of_a_side_do_not_learn(margin, count):
    box = [28 - margin, 28 - margin, 36 + margin, 36 + margin]
    assert len(positives(*targets_for([[box]], [[0]], assigner="atss"))) == count
