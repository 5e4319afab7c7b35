"""The losses of FCOS on hand-made scenes, and their gradients."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import FCOS
from fcos_tf.models import fcos_training
from fcos_tf.models.fcos_training import JOINT_LOSSES, QUALITIES

LN2 = math.log(2)


@pytest.fixture(scope="module")
def model():
    return FCOS(2, backbone="simple_cnn", fpn_channels=32, head_convs=1)


@pytest.fixture
def losses_of(model):
    def compute(boxes, labels, *, ltrb, size, class_logit=0.0, quality="centerness", loss="giou"):
        """Losses of constant predictions; ltrb is one vector for all points or [B, N, 4]."""
        boxes = np.asarray(boxes, "float32")
        num_points = sum(-(-size[0] // s) * -(-size[1] // s) for s in (8, 16, 32, 64, 128))
        shape = (len(boxes), num_points)
        predictions = {
            "class_logits": np.full((*shape, 2), class_logit, "float32"),
            "ltrb": np.broadcast_to(np.asarray(ltrb, "float32"), (*shape, 4)),
            "centerness_logits": np.zeros(shape, "float32"),
        }
        targets = {"boxes": boxes, "labels": np.asarray(labels, "int32")}
        model.quality, model.box_loss = quality, loss
        parts = model.compute_losses(predictions, targets, size)
        model.quality, model.box_loss = "centerness", "giou"
        return {name: float(value) for name, value in parts.items()}

    return compute


# An 8x8 image has one point a level: (4, 4) of P3, (8, 8) of P4, ... The box (0, 0, 8, 8) is
# learnt by the first alone, half a stride from every side, centerness 1. The second image of the
# batch is empty.
BOXES = [[[0, 0, 8, 8]], [[0, 0, 0, 0]]]
LABELS = [[1], [-1]]


def test_one_positive_and_an_empty_image(losses_of):
    parts = losses_of(BOXES, LABELS, ltrb=[0.5, 0.5, 1.0, 0.5], size=(8, 8))
    # 2 images * 5 points * 2 classes at p = 1/2: one 1 (.25 * .25 ln 2), 19 zeros (.75 * .25 ln 2).
    assert parts["classification_loss"] == pytest.approx((0.0625 + 19 * 0.1875) * LN2, rel=1e-6)
    # Predicted (0, 0, 12, 8): IoU 64 / 96, hull = union: 1 - 2/3.
    assert parts["box_loss"] == pytest.approx(1 / 3, rel=1e-6)
    assert parts["centerness_loss"] == pytest.approx(LN2, rel=1e-6)
    assert parts["num_positives"] == 1


def test_positives_are_counted_on_each_level(losses_of):
    # (0, 0, 8, 8) is learnt at (4, 4) of P3. (0, 0, 128, 128) has its centre at (64, 64): on P4, of
    # reach 24, at x, y = 56 and 72 (40 and 88 lie on the border), 72 from the farthest side; P3's
    # distances end at 64, and P5's begin at 128.
    parts = losses_of(
        [[[0, 0, 8, 8]], [[0, 0, 128, 128]]], [[0], [1]], ltrb=[1, 1, 1, 1], size=(128, 128)
    )
    counts = {name: parts[name] for name in parts if name.startswith("num_positives")}
    assert counts == {
        "num_positives": 5, "num_positives_p3": 1, "num_positives_p4": 4, "num_positives_p5": 0,
        "num_positives_p6": 0, "num_positives_p7": 0,
    }  # fmt: skip


def test_other_box_losses(losses_of):
    scene = {"ltrb": [0.5, 0.5, 1.0, 0.5], "size": (8, 8)}
    assert losses_of(BOXES, LABELS, loss="iou", **scene)["box_loss"] == pytest.approx(
        math.log(1.5), rel=1e-6
    )
    assert losses_of(BOXES, LABELS, loss="l1", **scene)["box_loss"] == pytest.approx(0.5)


def test_box_loss_is_weighted_by_centerness_and_divided_by_its_sum(losses_of):
    # 16x32, box (0, 0, 24, 16), centre (12, 8), reach 12: P3 points (4, y), (12, y), (20, y) with
    # y = 4 and 12. ltrb in strides, y = 4: (.5, .5, 2.5, 1.5), (1.5, .5, 1.5, 1.5), mirrored.
    # Centerness: sqrt(1/5 * 1/3), sqrt(1 * 1/3), sqrt(1/5 * 1/3).
    outer, middle = math.sqrt(1 / 15), math.sqrt(1 / 3)
    # Prediction (1.5, .5, 1.5, 1.5): L1 at the middle points of the row y = 4 is 0, of the row
    # y = 12, whose targets are (1.5, 1.5, 1.5, .5), 2; at the outer ones 1 + 1 = 2 and 4.
    parts = losses_of(
        [[[0, 0, 24, 16]]], [[0]], ltrb=[1.5, 0.5, 1.5, 1.5], size=(16, 32), loss="l1"
    )
    expected = (middle * 2 + 2 * outer * 2 + 2 * outer * 4) / (2 * middle + 4 * outer)
    assert parts["num_positives"] == 6
    assert parts["box_loss"] == pytest.approx(expected, rel=1e-6)


def test_iou_quality_does_not_weight_the_box_loss(losses_of):
    # The six points above: the plain mean of the L1 values 0, 2, twice 2 and twice 4.
    parts = losses_of(
        [[[0, 0, 24, 16]]],
        [[0]],
        ltrb=[1.5, 0.5, 1.5, 1.5],
        size=(16, 32),
        loss="l1",
        quality="iou",
    )
    assert parts["box_loss"] == pytest.approx((0 + 2 + 2 * 2 + 2 * 4) / 6, rel=1e-6)


def test_joint_quality_target_and_weight_carry_no_gradient(model):
    model.quality = "joint"
    ltrb, logits = tf.fill((2, 5, 4), 0.4), tf.fill((2, 5, 2), 1.0)
    targets = {"boxes": np.float32(BOXES), "labels": np.int32(LABELS)}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([ltrb, logits])
        raw = {"class_logits": logits, "ltrb": ltrb}
        parts = model.compute_losses(raw, targets, (8, 8))
    assert model.compute_totals(targets, (8, 8)) is None
    model.quality = "centerness"
    assert model.compute_totals(targets, (8, 8)) is not None
    for name, other in (("classification_loss", ltrb), ("box_loss", logits)):
        gradient = tape.gradient(parts[name], other)
        assert gradient is None or not np.any(gradient)
    assert np.any(tape.gradient(parts["box_loss"], ltrb))


def test_iou_quality_target_carries_no_gradient(model):
    model.quality = "iou"
    ltrb = tf.fill((2, 5, 4), 0.4)
    logits = tf.fill((2, 5), 1.0)
    targets = {"boxes": np.float32(BOXES), "labels": np.int32(LABELS)}
    with tf.GradientTape() as tape:
        tape.watch([ltrb, logits])
        predictions = {
            "class_logits": tf.zeros((2, 5, 2)),
            "ltrb": ltrb,
            "centerness_logits": logits,
        }
        loss = model.compute_losses(predictions, targets, (8, 8))["centerness_loss"]
    to_ltrb, to_logits = tape.gradient(loss, [ltrb, logits])
    model.quality = "centerness"
    assert to_ltrb is None or not np.any(to_ltrb)
    # (sigmoid(1) - IoU) with IoU = (.8 * .8) / (1 * 1)
    assert float(to_logits[0, 0]) == pytest.approx(1 / (1 + math.exp(-1)) - 0.64, rel=1e-5)


def test_joint_quality_teaches_the_class_score_the_iou(losses_of):
    # The only positive has IoU 2/3 with its box: (2/3 - 1/2)^2 of cross-entropy ln 2; the other 19
    # scores (0 - 1/2)^2 of ln 2. The weight of the box, its best score of 1/2, is less than the
    # least normaliser, 1.
    scene = {"ltrb": [0.5, 0.5, 1.0, 0.5], "size": (8, 8), "quality": "joint"}
    parts = losses_of(BOXES, LABELS, **scene)
    assert "centerness_loss" not in parts
    assert parts["classification_loss"] == pytest.approx((1 / 36 + 19 / 4) * LN2, rel=1e-6)
    assert parts["box_loss"] == pytest.approx(1 / 3 / 2, rel=1e-6)
    assert parts["num_positives"] == 1
    # At p = 2/3 the positive has nothing to learn; the others 4/9 of -ln(1/3) each.
    parts = losses_of(BOXES, LABELS, class_logit=LN2, **scene)
    assert parts["classification_loss"] == pytest.approx(19 * 4 / 9 * math.log(3), rel=1e-6)
    assert parts["box_loss"] == pytest.approx(1 / 3 * 2 / 3, rel=1e-6)
    # 2/3 of ln 2, and 3/4 of (1/2)^2 of ln 2 of each of the others; the box weighs 1.
    parts = losses_of(BOXES, LABELS, **scene | {"quality": "varifocal"})
    assert parts["classification_loss"] == pytest.approx((2 / 3 + 19 * 3 / 16) * LN2, rel=1e-6)
    assert parts["box_loss"] == pytest.approx(1 / 3, rel=1e-6)


def random_case(seed):
    """Predictions for two images of 64 x 96 and six boxes of each, some padding."""
    rng = np.random.default_rng(seed)
    count = sum(-(-64 // s) * -(-96 // s) for s in (8, 16, 32, 64, 128))
    raw = {
        "class_logits": rng.normal(-1, 2, (2, count, 2)).astype("float32"),
        "ltrb": rng.gamma(2, 1, (2, count, 4)).astype("float32"),
        "centerness_logits": rng.normal(0, 1, (2, count)).astype("float32"),
    }
    low = rng.uniform(0, 40, (2, 6, 2))
    return raw, {
        "boxes": np.concatenate([low, low + rng.uniform(8, 50, (2, 6, 2))], -1).astype("float32"),
        "labels": rng.integers(-1, 2, (2, 6)).astype("int32"),
    }


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("assigner", ["fcos", "atss", "tal"])
def test_replicas_share_the_normalisers(model, monkeypatch, assigner, quality):
    monkeypatch.setattr(model, "assigner", assigner)
    monkeypatch.setattr(model, "quality", quality)
    raw, targets = random_case(3)
    whole = model.compute_losses(raw, targets, (64, 96))
    halves = [[{k: v[i : i + 1] for k, v in x.items()} for x in (raw, targets)] for i in (0, 1)]
    seen = []
    monkeypatch.setattr(fcos_training, "sum_over_replicas", lambda x: seen.append(x) or x)
    for half in halves:
        model.compute_losses(*half, (64, 96))
    assert not np.allclose(*seen)
    monkeypatch.setattr(fcos_training, "sum_over_replicas", lambda x: seen[0] + seen[1])
    parts = [model.compute_losses(*half, (64, 96)) for half in halves]
    names = ["classification_loss", "box_loss", "centerness_loss"][
        : 2 if quality in JOINT_LOSSES else 3
    ]
    assert set(whole) == {*names, *model.count_names}
    for name in names:
        assert float(parts[0][name] + parts[1][name]) == pytest.approx(float(whole[name]), rel=1e-5)
    for name in model.count_names:
        assert parts[0][name] == parts[1][name] == whole[name]


@pytest.mark.parametrize("quality", JOINT_LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_joint_quality_against_the_losses_written_as_loops(model, seed, quality):
    raw, targets = random_case(seed)
    count = len(raw["ltrb"][0])
    matched, strides = map(np.asarray, model.assigned_boxes(targets, (64, 96)))
    points = np.asarray(model.points((64, 96))[0]).astype(float)
    classification = box = weights = positives = 0
    for i, n, c in np.ndindex(2, count, 2):
        logit = float(raw["class_logits"][i, n, c])
        p, target = 1 / (1 + math.exp(-logit)), 0.0
        if (m := matched[i, n]) >= 0 and targets["labels"][i, m] == c:
            x, y = points[n]
            x1, y1, x2, y2 = targets["boxes"][i, m].astype(float)
            a, b, d, e = raw["ltrb"][i, n].astype(float) * strides[n]
            inner = (min(x2, x + d) - max(x1, x - a)) * (min(y2, y + e) - max(y1, y - b))
            union = (x2 - x1) * (y2 - y1) + (a + d) * (b + e) - inner
            hull = (max(x2, x + d) - min(x1, x - a)) * (max(y2, y + e) - min(y1, y - b))
            target = inner / union
            best = 1 / (1 + math.exp(-float(raw["class_logits"][i, n].max())))
            near, far = zip(*(sorted(s) for s in ((x - x1, x2 - x), (y - y1, y2 - y))), strict=True)
            centered = math.sqrt(math.prod(near) / math.prod(far))
            weight = best if quality == "joint" else centered
            box += weight * (1 - inner / union + (hull - union) / hull)
            weights, positives = weights + weight, positives + 1
        entropy = -target * math.log(p) - (1 - target) * math.log1p(-p)
        factor = (target - p) ** 2 if quality == "joint" else target or 0.75 * p**2
        classification += factor * entropy
    assert positives > 10 and weights > 1
    model.quality = quality
    parts = model.compute_losses(raw, targets, (64, 96))
    model.quality = "centerness"
    assert float(parts["classification_loss"]) == pytest.approx(
        classification / positives, rel=1e-5
    )
    assert float(parts["box_loss"]) == pytest.approx(box / weights, rel=1e-5)


@pytest.mark.parametrize("num_boxes", [0, 3])
def test_no_boxes_at_all_give_finite_loss_and_gradients(model, num_boxes):
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype("float32")
    targets = {
        "boxes": tf.zeros((2, num_boxes, 4)),
        "labels": tf.fill((2, num_boxes), -1),
    }
    with tf.GradientTape() as tape:
        loss, parts = model.total_loss({"images": images}, targets, training=True)
    gradients = tape.gradient(loss, model.trainable_weights)
    assert parts["box_loss"] == parts["centerness_loss"] == 0
    assert all(value == 0 for name, value in parts.items() if name.startswith("num_positives"))
    # 86 points * 2 images * 2 classes, all background at p near .01: about .75 * .01^2 * .01 each.
    assert 0 < float(parts["classification_loss"]) < 344 * 0.75 * 0.02**3
    assert all(np.isfinite(g).all() for g in gradients if g is not None)
    assert any(np.abs(g).max() > 0 for g in gradients if g is not None)


def test_compute_loss_is_the_sum_that_train_step_reports(model):
    images = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3)).astype("uint8")
    targets = {
        "boxes": np.float32([[[4, 4, 40, 40]], [[0, 0, 0, 0]]]),
        "labels": np.int32([[1], [-1]]),
    }
    model.compile(keras.optimizers.SGD(0.0))
    direct = model.compute_loss(images, targets, model(images), None)
    logs = model.evaluate(
        tf.data.Dataset.from_tensors((images, targets)), verbose=0, return_dict=True
    )
    assert logs["loss"] == pytest.approx(float(direct), rel=1e-5)
    names = ("classification_loss", "box_loss", "centerness_loss")
    assert logs["loss"] == pytest.approx(sum(logs[name] for name in names), rel=1e-6)
    with pytest.raises(ValueError, match="sample weights"):
        model.compute_loss(images, targets, model(images), np.ones(2))


@pytest.mark.parametrize("quality", ["centerness", "varifocal"])
def test_normalisers_known_before_the_predictions_are_the_same(model, monkeypatch, quality):
    monkeypatch.setattr(model, "quality", quality)
    raw, targets = random_case(4)
    totals = model.compute_totals(targets, (64, 96))
    parts = [model.compute_losses(raw, targets, (64, 96), x) for x in (None, totals)]
    for name, value in parts[0].items():
        assert float(parts[1][name]) == pytest.approx(float(value), rel=1e-6), name
