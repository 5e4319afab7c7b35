"""The rules of the published implementations against short references, on random numbers."""

import numpy as np
import pytest

from fcos_tf.models.fcos import FCOS
from fcos_tf.models.fcos_detections import place_points
from fcos_tf.models.fcos_training import fcos_targets, point_levels
from fcos_tf.ops.points import grid_sizes
from tests.parity import references
from tests.parity.agreement import differences

PRESETS = {
    "official": "official_coco",
    "official_improved": "official_improved_coco",
    "adelaidet": "adelaidet_coco",
    "torchvision": "torchvision_coco",
    "detectron2": "detectron2_coco",
}
NUM_CLASSES = 7
# Height and width of canvases: padded to multiples of 32, and not; portrait and landscape.
SIZES = ((256, 352), (800, 640), (199, 517), (640, 96))


@pytest.fixture(scope="module", params=PRESETS)
def case(request):
    """An implementation and our model by its preset, small where size does not matter."""
    model = FCOS.from_preset(
        PRESETS[request.param], backbone="resnet18", fpn_channels=32, head_convs=1,
        num_classes=NUM_CLASSES, load_weights=False,
    )  # fmt: skip
    return request.param, model


def random_boxes(rng, height, width, count):
    """Boxes of all kinds [count, 4] float32, and labels.

    Half of them lie on whole multiples of 4, so that points fall on their borders, centres on
    points, and distances on the limits of size ranges. Some are twins, of equal area or nearly.
    """
    limit = np.array([width, height, width, height])
    size = np.exp(rng.uniform(np.log(4), np.log(max(height, width)), (count, 2)))
    center = rng.uniform(0, [width, height], (count, 2))
    boxes = np.clip(np.concatenate([center - size / 2, center + size / 2], axis=1), 0, limit)
    boxes[::2] = np.clip(np.round(boxes[::2] / 4) * 4, 0, limit)
    boxes[3::5] = boxes[2::5][: len(boxes[3::5])] + rng.choice([0, 0.25, 1], (len(boxes[3::5]), 4))
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)].astype(np.float32)
    return boxes, rng.integers(0, NUM_CLASSES, len(boxes))


def random_predictions(rng, num_images, size, kind="dense"):
    """Raw predictions.

    "dense": many more detections than are kept. "sparse": so few that the score threshold decides.
    "crowded": thousands of candidates, most of them of one and the same box, so that the number
    of candidates that reach the suppression decides.
    """
    count = sum(rows * columns for rows, columns in references.grids(*size))
    mean = {"dense": -4, "sparse": -3, "crowded": -3.5}[kind]
    # Neighbours predict alike, so that there is much to suppress.
    logits = rng.normal(mean, 1.5, (num_images, count // 3 + 1, NUM_CLASSES)).repeat(3, axis=1)
    logits = logits[:, :count] + rng.normal(0, 0.3, (num_images, count, NUM_CLASSES))
    ltrb = rng.gamma(2.0, 1.5, (num_images, count // 3 + 1, 4)).repeat(3, axis=1)[:, :count]
    ltrb = np.maximum(ltrb + rng.normal(0, 0.4, ltrb.shape), 0)  # some are exactly 0
    if kind == "sparse":
        logits[:, rng.uniform(size=count) > 16 / count] = -20
    if kind == "crowded":
        ltrb[:, rng.uniform(size=count) > 30 / count] = 1000
    return {
        "class_logits": logits.astype(np.float32),
        "ltrb": ltrb.astype(np.float32),
        "centerness_logits": rng.normal(0, 1.5, (num_images, count)).astype(np.float32),
    }


def batch(truth):
    """Padded boxes and labels."""
    most = max(len(labels) for _, labels in truth) + 1
    boxes = np.zeros((len(truth), most, 4), np.float32)
    labels = np.full((len(truth), most), -1, np.int32)
    for row, (b, c) in enumerate(truth):
        boxes[row, : len(c)], labels[row, : len(c)] = b, c
    return {"boxes": boxes, "labels": labels}


@pytest.mark.parametrize("size", SIZES)
def test_points(case, size):
    name, model = case
    grids = grid_sizes(*size, model.strides)
    places, strides = place_points(grids, model.strides, size, model.rules)
    expected, levels = references.points(*size, name)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(strides, np.array(references.STRIDES)[levels])


@pytest.mark.parametrize("seed", range(12))
def test_assignment(case, seed):
    name, model = case
    rng = np.random.default_rng(seed)
    size = SIZES[seed % len(SIZES)]
    truth = [random_boxes(rng, *size, count) for count in (0, 1, 6, 120)]
    targets = batch(truth)
    grids = grid_sizes(*size, model.strides)
    places, strides = place_points(grids, model.strides, size, model.rules)
    learnt = fcos_targets(
        point_levels(places, strides, model.size_ranges, grids),
        **targets,
        num_classes=NUM_CLASSES,
        center_sampling_radius=model.center_sampling_radius,
        rules=model.rules,
    )
    points, levels = references.points(*size, name)
    unit = np.array(references.STRIDES)[levels]
    matches = set()
    for row, (boxes, labels) in enumerate(truth):
        matched = references.match(name, points, levels, boxes)
        np.testing.assert_array_equal(learnt["matched_gt_index"][row], matched)
        positive = np.flatnonzero(matched >= 0)
        own = boxes[matched[positive]]
        sides = np.concatenate([points[positive] - own[:, :2], own[:, 2:] - points[positive]], 1)
        np.testing.assert_allclose(
            np.asarray(learnt["ltrb_targets"])[row][positive],
            sides / unit[positive][:, None],
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            np.asarray(learnt["centerness_targets"])[row][positive],
            references.centerness(sides.astype(np.float64)),
            atol=1e-6,
        )
        classes = np.asarray(learnt["class_targets"])[row]
        np.testing.assert_array_equal(classes[positive].argmax(axis=1), labels[matched[positive]])
        assert classes.sum() == len(positive)
        matches |= set(levels[positive])
    assert len(matches) >= 3  # levels that learn something


@pytest.mark.parametrize("seed", range(8))
def test_losses(case, seed):
    name, model = case
    rng = np.random.default_rng(100 + seed)
    size = SIZES[seed % len(SIZES)]
    counts = (0, 0) if seed == 7 else (0, 3, 60)
    truth = [random_boxes(rng, *size, count) for count in counts]
    predictions = random_predictions(rng, len(truth), size)
    check_losses(model, name, predictions, truth, size)


def check_losses(model, name, predictions, truth, size, **options):
    *expected, positives = references.losses(name, predictions, truth, size, **options)
    ours = model.compute_losses(predictions, batch(truth), size)
    assert float(ours["num_positives"]) == positives
    np.testing.assert_allclose([ours[k] for k in model.loss_names], expected, rtol=2e-5)


@pytest.mark.parametrize("seed", range(12))
def test_adelaidets_iou_in_place_of_centerness(seed):
    model = FCOS.from_preset(
        "adelaidet_coco", quality="iou", backbone="resnet18", fpn_channels=32, head_convs=1,
        num_classes=NUM_CLASSES, load_weights=False,
    )  # fmt: skip
    rng = np.random.default_rng(200 + seed)
    size = SIZES[seed % len(SIZES)]
    truth = [random_boxes(rng, *size, count) for count in (3, 60)]
    predictions = random_predictions(rng, len(truth), size)
    check_losses(model, "adelaidet", predictions, truth, size, quality="iou")


@pytest.mark.parametrize("kind", ["dense", "sparse", "crowded"])
@pytest.mark.parametrize("seed", range(12))
def test_detections(case, seed, kind):
    name, model = case
    rng = np.random.default_rng(300 + seed)
    size = SIZES[seed % len(SIZES)]
    predictions = random_predictions(rng, 2, size, kind)
    image_sizes = np.array([size, (size[0] - 31, size[1] - 17)], np.float32)
    # Both forms of the suppression: TensorFlow's and the one for XLA.
    found = model.decode(predictions, size, image_sizes, jit_compile=bool(seed % 2))
    for row, image_size in enumerate(image_sizes):
        own = {key: values[row] for key, values in predictions.items()}
        theirs = references.detections(name, own, size, tuple(image_size))
        count = int(found["num_detections"][row])
        ours = {k: np.asarray(found[k])[row, :count] for k in ("boxes", "scores", "labels")}
        assert len(theirs["scores"]) >= 10
        assert len(theirs["scores"]) < 100 or kind == "dense"
        assert differences(ours, theirs, model) == ([], [])
