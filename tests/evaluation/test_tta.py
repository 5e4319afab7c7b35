"""Mirrored views and views of other sizes, and what comes of them together."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.detecting.batches import compiled
from fcos_tf.evaluation import evaluate, run_detector
from fcos_tf.evaluation.tta import merge_views, mirror_boxes, mirror_images, parse_tta


class BrightSpots:
    """A toy detector: the box round the bright pixels of an image, scored by the canvas' height.

    `blind` hides what begins left of that column, so that a view can miss things.
    """

    class_names = ("spot",)
    nms_threshold = 0.5
    max_detections = 2

    def __init__(self, blind=0):
        self.blind = blind

    def detect(self, images, image_sizes=None):
        bright = images[..., 0] > 100  # [B, H, W]
        sides = []
        for axis in (1, 2):  # x from the columns, y from the rows
            lines = tf.reduce_any(bright, axis=axis)
            first = tf.argmax(tf.cast(lines, tf.int32), axis=1)
            length = tf.reduce_sum(tf.cast(lines, tf.int64), axis=1)
            sides.append((tf.cast(first, tf.float32), tf.cast(first + length, tf.float32)))
        (x1, x2), (y1, y2) = sides
        seen = tf.reduce_any(bright, axis=(1, 2)) & (x1 >= self.blind)
        box = tf.where(seen[:, None], tf.stack([x1, y1, x2, y2], axis=-1), 0.0)
        score = tf.where(seen, tf.cast(tf.shape(images)[1], tf.float32) / 100, 0.0)
        label = tf.where(seen, 0, -1)
        # A second, empty row of detections.
        return {
            "boxes": tf.stack([box, tf.zeros_like(box)], axis=1),
            "scores": tf.stack([score, tf.zeros_like(score)], axis=1),
            "labels": tf.stack([label, -tf.ones_like(label)], axis=1),
        }


# One spot per image, xyxy in originals of 20 x 30 (height, width).
SPOTS = {4: (1, 2, 6, 9), 9: (20, 5, 30, 15), 7: (12, 0, 14, 20)}


def dataset_of(scale=1, ids=tuple(SPOTS), batch_size=2):
    """Images of the spots, `scale` times as large, padded by 4 pixels right and below."""
    images = np.zeros((len(ids), 20 * scale + 4, 30 * scale + 4, 3), np.uint8)
    boxes = np.array([SPOTS[key] for key in ids], np.float32)[:, None] * scale  # [B, 1, 4]
    for image, (x1, y1, x2, y2) in zip(images, boxes[:, 0].astype(int), strict=True):
        image[y1:y2, x1:x2] = 200
    size = np.float32([20, 30])
    targets = {
        "boxes": boxes,
        "labels": np.zeros((len(ids), 1), np.int32),
        "image_sizes": np.tile(size * scale, (len(ids), 1)),
        "original_sizes": np.tile(size, (len(ids), 1)),
        "image_ids": np.array(ids, np.int64),
    }
    dataset = tf.data.Dataset.from_tensor_slices((images, targets)).batch(batch_size)
    dataset.class_names, dataset.category_ids = ("spot",), (5,)
    return dataset


def boxes_by_image(records):
    return {d["image_id"]: (d["bbox"], round(d["score"], 6)) for d in records.detections}


@pytest.mark.parametrize("graph", [False, True])
def test_the_valid_part_is_mirrored_and_the_padding_stays(graph):
    images = np.arange(2 * 2 * 4 * 3, dtype=np.uint8).reshape(2, 2, 4, 3)
    mirror = compiled(mirror_images) if graph else mirror_images
    mirrored = np.asarray(mirror(images, np.float32([[2, 4], [2, 3]])))
    assert mirrored.dtype == np.uint8
    np.testing.assert_array_equal(mirrored[0], images[0, :, ::-1])
    np.testing.assert_array_equal(mirrored[1], images[1][:, [2, 1, 0, 3]])


def test_mirrored_boxes():
    boxes = np.float32([[[1, 2, 4, 6]], [[0, 0, 10, 5]]])
    # Width 10: x1 = 10 - 4, x2 = 10 - 1. Width 20: 20 - 10 and 20 - 0.
    expected = [[[6, 2, 9, 6]], [[10, 0, 20, 5]]]
    sizes = np.float32([[8, 10], [8, 20]])
    np.testing.assert_array_equal(mirror_boxes(boxes, sizes), expected)
    np.testing.assert_array_equal(mirror_boxes(mirror_boxes(boxes, sizes), sizes), boxes)
    # By the indices of the first and last pixel, 9 and 19 are the largest.
    expected = [[[5, 2, 8, 6]], [[9, 0, 19, 5]]]
    np.testing.assert_array_equal(mirror_boxes(boxes, sizes, inclusive_pixels=True), expected)


def test_the_mirrored_view_finds_the_same_boxes_of_a_symmetric_detector():
    plain = run_detector(BrightSpots(), dataset_of())
    flipped = run_detector(BrightSpots(), dataset_of(), flip=True)
    # One detection each: the mirrored view's box is the same and is suppressed.
    assert flipped.detections == plain.detections
    assert [d["bbox"] for d in plain.detections] == [[1, 2, 5, 7], [20, 5, 10, 10], [12, 0, 2, 20]]


def test_what_only_the_mirrored_view_finds_is_there_in_the_original_frame():
    model = BrightSpots(blind=10)
    assert set(boxes_by_image(run_detector(model, dataset_of()))) == {9, 7}
    # Mirrored in the width of 30, spot 4 begins at 30 - 6 = 24, 9 at 0 and 7 at 16.
    found = boxes_by_image(run_detector(model, dataset_of(), flip=True))
    assert found == {4: ([1, 2, 5, 7], 0.24), 9: ([20, 5, 10, 10], 0.24), 7: ([12, 0, 2, 20], 0.24)}


def test_a_larger_view_adds_what_it_finds_and_the_better_score_wins():
    model = BrightSpots(blind=2)
    # Spot 4 begins at column 1, and at 2 where the image is twice as large. Scores are heights of
    # the canvas / 100: 24 and 2 * 20 + 4 = 44.
    assert set(boxes_by_image(run_detector(model, dataset_of()))) == {9, 7}
    # The views may come in another order, and in batches of another size.
    larger = dataset_of(2, ids=(7, 4, 9), batch_size=3)
    records = run_detector(model, dataset_of(), views=[larger])
    assert boxes_by_image(records) == {
        4: ([1, 2, 5, 7], 0.44),
        9: ([20, 5, 10, 10], 0.44),
        7: ([12, 0, 2, 20], 0.44),
    }
    # In the order and with the ids of the first data set, and its ground truth once.
    assert [d["image_id"] for d in records.detections] == [4, 9, 7]
    assert {d["category_id"] for d in records.detections} == {5}
    assert [a["image_id"] for a in records.ground_truth["annotations"]] == [4, 9, 7]
    assert evaluate(model, dataset_of(), views=[larger])["AP"] == pytest.approx(1.0)
    # Without it one of three is missing: precision 1 up to recall 2/3, 67 of 101 points.
    assert evaluate(model, dataset_of())["AP"] == pytest.approx(67 / 101)


def test_both_at_once_and_progress():
    progress = []
    records = run_detector(
        BrightSpots(), dataset_of(), flip=True, views=[dataset_of(2)], progress=progress.append
    )
    assert boxes_by_image(records)[9] == ([20, 5, 10, 10], 0.44)
    assert len(records.detections) == 3
    assert progress == [2, 3, 5, 6]


def test_views_of_other_images_are_refused():
    for ids in ((4, 9), (4, 9, 7)):
        views = [dataset_of(2, ids=ids)]
        with pytest.raises(ValueError, match=r"all views must have the same images; .* id 7"):
            run_detector(BrightSpots(), dataset_of(ids=(4, 9, 7)[: 5 - len(ids)]), views=views)


def test_merging_equal_views_changes_nothing():
    random = np.random.default_rng(0)
    corners = random.uniform(0, 600, (70, 30, 2))
    detections = {
        "boxes": np.concatenate([corners, corners + random.uniform(5, 300, (70, 30, 2))], axis=-1),
        "scores": random.uniform(0.1, 1, (70, 30)),
        "labels": random.integers(0, 3, (70, 30)),
    }
    options = {"iou_threshold": 0.6, "max_detections": 20}
    once = merge_views(detections, **options)
    twice = merge_views(
        {name: np.concatenate([value, value], axis=1) for name, value in once.items()}, **options
    )
    assert once["boxes"].shape == (70, 20, 4)
    for name, value in once.items():
        np.testing.assert_array_equal(twice[name], value)


def test_merged_by_class_and_the_best_are_kept():
    detections = {
        "boxes": [[[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]]],
        "scores": [[0.5, 0.25, 0.75, 0.125]],
        "labels": [[0, 1, 0, 0]],
    }
    # The first goes, as 0, 0, 10, 11 of its class is better (IoU 10/11); of the other three, two.
    merged = merge_views(detections, iou_threshold=0.6, max_detections=2)
    np.testing.assert_array_equal(merged["scores"], [[0.75, 0.25]])
    np.testing.assert_array_equal(merged["labels"], [[0, 1]])
    np.testing.assert_array_equal(merged["boxes"], [[[0, 0, 10, 11], [0, 0, 10, 10]]])


@pytest.mark.parametrize(
    ("items", "flip", "sizes"),
    [
        ((), False, ()),
        (("flip",), True, ()),
        (("640x640", "flip", "512x768"), True, ("640x640", "512x768")),
        (("800", "1333", "640x640", "600", "1000"), False, ("800,1333", "640x640", "600,1000")),
    ],
)
def test_the_flag_is_read(items, flip, sizes):
    assert parse_tta(items) == (flip, sizes)


@pytest.mark.parametrize(
    "items", [("mirror",), ("640",), ("flip", "0x5"), ("640x",), ("flip", "flip")]
)
def test_what_the_flag_does_not_know_is_named(items):
    with pytest.raises(ValueError, match=f"--tta: expected .*{','.join(items)!r}"):
        parse_tta(items)
