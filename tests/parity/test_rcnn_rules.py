"""detectron2's rules of Faster R-CNN against a short reference, on random numbers."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fcos_tf.models.rcnn_detections import place_anchors, propose, rcnn_detections
from fcos_tf.models.rcnn_rules import RULES
from fcos_tf.models.rcnn_targets import match_anchors, roi_targets, rpn_targets
from fcos_tf.ops.points import grid_sizes
from tests.parity import rcnn_references as references
from tests.parity.agreement import differences
from tests.parity.test_rules import NUM_CLASSES, batch, random_boxes

RULES = RULES["detectron2"]
ALL = dataclasses.replace(RULES, anchors_per_image=10**6, rois_per_image=2000)
SEEDS = np.zeros((3, 2), np.uint32)
# Padded to multiples of 32, and not; portrait and landscape.
SIZES = ((256, 352), (320, 224), (199, 317), (480, 96))
seeds = pytest.mark.parametrize("seed", range(4))


def anchors_of(size):
    return place_anchors(size, references.STRIDES, scale=8.0, rules=RULES)


def scenes(rng, size):
    truth = [random_boxes(rng, *size, count) for count in (0, 1, 12)]
    return truth, batch(truth)


@pytest.mark.parametrize("size", SIZES)
def test_anchors(size):
    anchors, levels = anchors_of(size)
    expected, expected_levels = references.anchors(*size)
    np.testing.assert_allclose(anchors, expected, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(levels, expected_levels)


def check_matches(found, iou):
    """Equal to the reference, but where rounding to float32 decides."""
    expected = references.match(iou, low=0.3, high=0.7, low_quality=True)
    best = iou.max(axis=1, initial=0)
    near = np.minimum(abs(best - 0.3), abs(best - 0.7)) < 1e-5
    # A small box lies in several anchors of one area; one of them learns it at least.
    ties = iou.max(axis=0, initial=0) - iou < 1e-5
    near |= (ties & (ties.sum(axis=0) > 1)).any(axis=1)
    np.testing.assert_array_equal(np.minimum(found, 0)[~near], np.minimum(expected, 0)[~near])
    assert near.mean() < 0.05
    learns = np.flatnonzero(found >= 0)
    assert (best[learns] - iou[learns, found[learns]] < 1e-5).all()
    assert ties[learns].any(axis=0).all()


@seeds
def test_what_anchors_learn(seed):
    rng, size = np.random.default_rng(seed), SIZES[seed]
    truth, targets = scenes(rng, size)
    anchors, _ = anchors_of(size)
    places, _ = references.anchors(*size)
    # As in the model, with a row of padding.
    matched = np.asarray(match_anchors(anchors, **targets, rules=RULES))
    learnt = rpn_targets(anchors, **targets, rules=ALL, seeds=SEEDS)
    learnt = {name: np.asarray(values) for name, values in learnt.items()}
    np.testing.assert_array_equal(learnt["positive_mask"], matched >= 0)
    np.testing.assert_array_equal(learnt["negative_mask"], matched == -1)
    for row, (boxes, _) in enumerate(truth):
        iou = references.overlaps(places, boxes.astype(float))
        check_matches(matched[row], iou)
        positive = np.flatnonzero(matched[row] >= 0)
        assert bool(len(positive)) == bool(len(boxes))
        own = boxes[matched[row, positive]].astype(float)
        expected = references.encode(places[positive], own, references.RPN_WEIGHTS)
        np.testing.assert_allclose(learnt["delta_targets"][row, positive], expected, atol=2e-5)


def random_proposals(rng, truth, size):
    """Boxes [R, 4]: near true ones and anywhere."""
    near = [each for boxes, _ in truth for each in boxes.repeat(4, axis=0)[:150]]
    some, _ = random_boxes(rng, *size, 300 - len(near))
    near = np.array(near) + rng.normal(0, 3, (len(near), 4))
    found = np.concatenate([near, some])
    found = found.clip(0, [size[1], size[0]] * 2)
    return found[(found[:, 2:] - found[:, :2] >= 1).all(axis=1)].astype(np.float32)


@seeds
def test_what_regions_learn(seed):
    rng, size = np.random.default_rng(100 + seed), SIZES[seed]
    truth, targets = scenes(rng, size)
    proposals = random_proposals(rng, truth, size)
    first = {
        "proposals": np.stack([proposals] * 3),
        "proposal_scores": np.ones((3, len(proposals)), "float32"),
    }
    learnt = roi_targets(first, **targets, num_classes=NUM_CLASSES, rules=ALL, seeds=SEEDS)
    learnt = {name: np.asarray(values) for name, values in learnt.items()}
    limits = {"low": 0.5, "high": 0.5, "low_quality": False}
    for row, (boxes, labels) in enumerate(truth):
        rois = np.concatenate([proposals, boxes]).astype(float)
        matched = references.match(references.overlaps(rois, boxes.astype(float)), **limits)
        order = np.argsort(matched < 0, kind="stable")  # positives first, each kind in order
        valid = learnt["valid"][row]
        np.testing.assert_array_equal(learnt["rois"][row, valid], rois[order])
        matched = matched[order]
        expected = np.append(labels, NUM_CLASSES)[matched]
        np.testing.assert_array_equal(learnt["class_targets"][row, valid], expected)
        positive = np.flatnonzero(matched >= 0)
        assert bool(len(positive)) == bool(len(boxes))
        deltas = learnt["delta_targets"][row, valid]
        wanted = boxes[matched[positive]].astype(float)
        expected = references.encode(rois[order][positive], wanted, references.BOX_WEIGHTS)
        np.testing.assert_allclose(deltas[positive], expected, atol=2e-4)
        assert not deltas[matched < 0].any()


@seeds
@pytest.mark.parametrize(("per_level", "count"), [(1000, 1000), (200, 50)])
def test_proposals(seed, per_level, count):
    rng, size = np.random.default_rng(200 + seed), SIZES[seed]
    anchors, _ = anchors_of(size)
    # Neighbours predict alike; a tenth leave the image, and some hit the largest side.
    half = len(anchors) // 2 + 1
    deltas = rng.normal(0, 0.3, (2, half, 4)).repeat(2, axis=1)[:, : len(anchors)]
    deltas += rng.normal(0, 0.1, deltas.shape)
    deltas[:, ::10, :2] += rng.normal(0, 20, deltas[:, ::10, :2].shape)
    deltas[:, ::37, 2:] += 4
    predictions = {
        "objectness_logits": rng.normal(-2, 3, deltas.shape[:2]).astype("float32"),
        "anchor_deltas": deltas.astype("float32"),
    }
    image_sizes = np.float32([size, (size[0] - 31, size[1] - 17)])
    found = propose(
        predictions,
        anchors,
        grid_sizes(*size, references.STRIDES),
        image_sizes,
        per_level=per_level,
        num_proposals=count,
        rules=RULES,
    )
    boxes, scores = (np.asarray(found[name]) for name in ("proposals", "proposal_scores"))
    for row, image_size in enumerate(image_sizes):
        theirs, logits = references.proposals(
            *(values[row].astype(float) for values in predictions.values()),
            size,
            image_size,
            per_level=per_level,
            count=count,
        )
        assert len(theirs) == count or per_level == 1000
        assert not scores[row, len(theirs) :].any()
        np.testing.assert_allclose(boxes[row, : len(theirs)], theirs, atol=0.01)
        probability = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(scores[row, : len(theirs)], probability, rtol=1e-5)


@seeds
def test_detections(seed):
    kind = "dense" if seed < 2 else "sparse"
    rng, size = np.random.default_rng(300 + seed), SIZES[seed]
    proposals = random_proposals(rng, [random_boxes(rng, *size, 40)], size)
    count = len(proposals)
    shape = (2, count, NUM_CLASSES)
    # A tenth leave the image, and some hit the largest side.
    deltas = rng.normal(0, 1, (*shape, 4))
    deltas[:, ::10, :, :2] += rng.normal(0, 100, deltas[:, ::10, :, :2].shape)
    deltas[:, ::37, :, 2:] += 20
    logits = rng.normal(0, 2, (2, count, NUM_CLASSES + 1))
    logits[..., -1] += 1 if kind == "dense" else 9
    raw = {
        "class_logits": logits.astype("float32"),
        "box_deltas": deltas.astype("float32"),
        "proposals": np.stack([proposals] * 2),
        "proposal_scores": np.ones((2, count), "float32"),
    }
    limits = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}
    image_sizes = np.float32([size, (size[0] - 31, size[1] - 17)])
    found = rcnn_detections(raw, image_sizes, rules=RULES, **limits)
    for row, image_size in enumerate(image_sizes):
        own = [raw[k][row].astype(float) for k in ("class_logits", "box_deltas", "proposals")]
        theirs = references.detections(*own, image_size)
        number = int(found["num_detections"][row])
        ours = {k: np.asarray(found[k])[row, :number] for k in ("boxes", "scores", "labels")}
        assert number == len(theirs["scores"]) > 10
        # Some of the best have no area; the sparse ones are all above the threshold.
        assert number < 100
        assert differences(ours, theirs, SimpleNamespace(**limits)) == ([], [])
