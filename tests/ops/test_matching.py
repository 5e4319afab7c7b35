"""Matching and sampling: scenes by hand, and against torchvision."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.ops.boxes import pairwise_iou
from fcos_tf.ops.matching import match_by_iou, sample_balanced, sample_indices

RPN = {"high": 0.7, "low": 0.3, "low_quality": True}
ROI = {"high": 0.5, "low": 0.5, "low_quality": False}
# Rows: anchors; columns: two ground truths.
SCENE = [[0.8, 0.1], [0.7, 0.2], [0.69, 0.1], [0.3, 0.0], [0.29, 0.25], [0.1, 0.25]]


def match(iou, valid, **options):
    return np.asarray(match_by_iou(np.float32(iou), np.asarray(valid), **options))


def test_thresholds_belong_to_the_upper_side():
    options = {**RPN, "low_quality": False}
    # .8 and .7 learn; .69 and .3 lie between; .29 and .25 are background.
    np.testing.assert_array_equal(match(SCENE, [True] * 2, **options), [0, 0, -2, -2, -1, -1])
    np.testing.assert_array_equal(match([[0.5], [0.4999]], [True], **ROI), [0, -1])


def test_low_quality_matches_keep_their_own_ground_truth():
    # The best of ground truth 1 is .25, of the last two rows: the first of them overlaps ground
    # truth 0 more (.29) and learns that.
    np.testing.assert_array_equal(match(SCENE, [True] * 2, **RPN), [0, 0, -2, -2, 0, 1])


def test_padding_takes_no_part():
    iou = np.float32([[0.1, 0.9], [0.2, 0.8], [0.0, 1.0]])
    np.testing.assert_array_equal(match(iou, [True, False], **RPN), [-1, 0, -1])
    np.testing.assert_array_equal(match(iou, [False, False], **RPN), [-1, -1, -1])


def test_a_ground_truth_that_overlaps_nothing_gets_nothing():
    # All rows tie at its best IoU, which is 0.
    np.testing.assert_array_equal(match([[0, 0.1], [0, 0.4]], [True] * 2, **RPN), [-1, 1])
    boxes = np.float32([[0, 0, 10, 10], [20, 20, 40, 40]])
    arealess = np.float32([[5, 5, 5, 9], [25, 25, 25, 25]])
    iou = pairwise_iou(boxes, arealess)
    np.testing.assert_array_equal(match(iou, [True] * 2, **RPN), [-1, -1])


def test_of_equal_ground_truths_the_first():
    np.testing.assert_array_equal(match([[0.8, 0.8]], [True] * 2, **RPN), [0])


def scenes(images=4, seed=0):
    """Grids of anchors, of which many tie, with 6 ground truths an image; the last has none."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(np.arange(0, 96, 8), np.arange(0, 96, 8)), -1).reshape(-1, 1, 2)
    sides = np.float32([[16, 16], [32, 16], [32, 64]])
    anchors = np.concatenate([at - sides / 2, at + sides / 2], -1).reshape(-1, 4)
    low = rng.integers(-5, 80, (images, 6, 2))
    boxes = np.concatenate([low, low + rng.integers(4, 60, (images, 6, 2))], -1)
    valid = rng.uniform(size=(images, 6)) < 0.7
    valid[-1] = False
    return anchors.astype("float32"), boxes.astype("float32"), valid


@pytest.mark.parametrize("options", [RPN, ROI], ids=["rpn", "roi"])
def test_matches_equal_torchvision(torchvision, options):
    import torch

    theirs = torchvision.models.detection._utils.Matcher(*options.values())
    anchors, boxes, valid = scenes(20)
    found = match(pairwise_iou(anchors, boxes), valid, **options)
    assert (found[-1] == -1).all() and (found[:-1] >= 0).any(axis=1).mean() > 0.5
    for row, ground_truth, real in zip(found[:-1], boxes[:-1], valid[:-1], strict=True):
        iou = torchvision.ops.box_iou(torch.tensor(ground_truth[real]), torch.tensor(anchors))
        expected = theirs(iou).numpy()
        places = np.flatnonzero(real)
        np.testing.assert_array_equal(row, np.where(expected < 0, expected, places[expected]))


def test_graph_xla_and_single_images_equal_the_batch():
    def matches(anchors, boxes, valid):
        return match_by_iou(pairwise_iou(anchors, boxes), valid, **RPN)

    inputs = [tf.constant(x) for x in scenes()]
    eager = matches(*inputs)
    for jit in (False, True):
        found = tf.function(matches, jit_compile=jit)(*inputs)
        np.testing.assert_array_equal(found, eager)
    for k in range(4):
        one = matches(inputs[0], inputs[1][k : k + 1], inputs[2][k : k + 1])
        np.testing.assert_array_equal(one[0], eager[k])


def labels(positives, negatives, ignored=0):
    return np.int32([3] * positives + [-1] * negatives + [-2] * ignored)


def sample(matched, num, fraction, seed=(1, 2)):
    masks = sample_balanced(matched, num, fraction, np.int32(seed))
    return [np.asarray(mask) for mask in masks]


@pytest.mark.parametrize(
    ("counts", "num", "fraction", "drawn"),
    [
        ((500, 5000, 100), 256, 0.5, (128, 128)),
        ((10, 5000, 100), 256, 0.5, (10, 246)),  # too few positives: more negatives
        ((0, 5000), 256, 0.5, (0, 256)),
        ((500, 20), 256, 0.5, (128, 20)),  # too few negatives: fewer in all
        ((500, 0), 256, 0.25, (64, 0)),
        ((30, 40), 256, 0.5, (30, 40)),  # fewer boxes than the sample
        ((50, 50), 7, 0.5, (3, 4)),  # int(3.5) positives
        ((0, 0, 9), 4, 0.5, (0, 0)),
    ],
)
def test_sizes_of_samples(counts, num, fraction, drawn):
    matched = np.random.default_rng(0).permutation(labels(*counts))
    positive, negative = sample(matched, num, fraction)
    assert (positive.sum(), negative.sum()) == drawn
    assert (matched[positive] >= 0).all() and (matched[negative] == -1).all()


def murmur(x):
    """MurmurHash3's finaliser in whole numbers."""
    x = (x + 0x9E3779B9) % 2**32
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_samples_are_the_same_on_every_machine():
    row = murmur((murmur(7) + 11) % 2**32)
    keys = [murmur(murmur(k) ^ row) >> 8 for k in range(50)]
    expected = np.argsort(keys)[-5:]
    positive, _ = sample(labels(50, 0), 10, 0.5, (7, 11))
    np.testing.assert_array_equal(np.flatnonzero(positive), np.sort(expected))


def test_a_row_depends_on_its_own_seed_alone():
    matched = np.stack([labels(40, 60), labels(40, 60), labels(10, 90)])
    seeds = [[5, 0], [5, 1], [5, 2]]
    together = sample(matched, 16, 0.5, seeds)
    for k in range(3):
        for mask, alone in zip(together, sample(matched[k], 16, 0.5, seeds[k]), strict=True):
            np.testing.assert_array_equal(mask[k], alone)
    assert (together[0][0] != together[0][1]).any()  # another image, another sample
    later = sample(matched, 16, 0.5, [[6, 0], [6, 1], [6, 2]])
    assert (later[0] != together[0]).any(axis=1).all()
    one = sample(matched, 16, 0.5, [5, 0])  # one pair for all rows
    np.testing.assert_array_equal(one[0][0], together[0][0])


def test_every_box_is_drawn_equally_often():
    # 10 of 40 in 4000 rows: 1000 each, standard deviation sqrt(4000 * 1/4 * 3/4) = 27.
    matched = np.tile(labels(40, 40), (4000, 1))
    seeds = np.stack([np.full(4000, 3), np.arange(4000)], axis=-1)
    positive, negative = sample(matched, 20, 0.5, seeds)
    for mask in (positive[:, :40], negative[:, 40:]):
        assert np.abs(mask.sum(axis=0) - 1000).max() < 5 * 27
        # Two places are drawn together in 4000 * 10/40 * 9/39 = 231 rows, standard deviation 15.
        pairs = mask.T.astype(int) @ mask.astype(int)
        assert np.abs(pairs[np.triu_indices(40, 1)] - 231).max() < 5 * 15


def test_samples_in_graph_and_under_xla():
    def draw(matched, seed):
        masks = sample_balanced(matched, 32, 0.25, seed)
        return *masks, *sample_indices(*masks, 32)

    matched = tf.constant(np.stack([labels(40, 60, 9), labels(3, 6, 100)]))
    seed = tf.constant([[2**31 - 1, 0], [-4, 1]])
    eager = draw(matched, seed)
    for jit in (False, True):
        found = tf.function(draw, jit_compile=jit)(matched, seed)
        for value, expected in zip(found, eager, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_indices_of_a_sample():
    positive = np.array([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    negative = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    index, valid = sample_indices(positive, negative, 3)
    np.testing.assert_array_equal(index, [[2, 4, 0], [1, 0, 0], [0, 1, 2]])
    np.testing.assert_array_equal(valid, [[1, 1, 1], [1, 0, 0], [1, 1, 1]])
    index, valid = sample_indices(positive, negative, 7)  # more than there are
    np.testing.assert_array_equal(index[0], [2, 4, 0, 3, 0, 0, 0])
    np.testing.assert_array_equal(np.sum(valid, axis=1), [4, 1, 5])
