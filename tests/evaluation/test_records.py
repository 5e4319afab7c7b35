"""Arrays to COCO records: xyxy to xywh, labels to category ids, padding left out."""

import json

import numpy as np
import pytest

from fcos_tf.evaluation.records import detections_to_records, ground_truth_to_coco, rows_by


def test_ground_truth():
    ground_truth = ground_truth_to_coco(
        np.array([30, 10]),
        [(100.0, 200.0), (50.0, 60.0)],
        [np.array([[1, 2, 11, 7], [0, 0, 0, 0]], np.float32), np.zeros((0, 4), np.float32)],
        [np.array([1, -1]), np.array([], np.int32)],
        ["cat", "dog"],
        category_ids=(17, 18),
    )
    assert ground_truth == {
        "images": [{"id": 30, "height": 100, "width": 200}, {"id": 10, "height": 50, "width": 60}],
        # width 11 - 1 = 10, height 7 - 2 = 5
        "annotations": [
            {
                "id": 1,
                "image_id": 30,
                "category_id": 18,
                "bbox": [1.0, 2.0, 10.0, 5.0],
                "area": 50.0,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }
    assert json.loads(json.dumps(ground_truth)) == ground_truth


def test_areas_and_what_is_ignored():
    ground_truth = ground_truth_to_coco(
        [30, 10],
        [(100, 200), (50, 60)],
        [np.array([[0, 0, 10, 10], [0, 0, 4, 5]]), np.array([[0, 0, 2, 2]])],
        [np.array([0, 1]), np.array([0])],
        ["cat", "dog"],
        areas=[np.array([70.5, np.nan], np.float32), np.array([3.0])],
        ignored_boxes=[np.array([[5, 5, 9, 8], [0, 0, 0, 0]]), np.zeros((0, 4))],
        ignored_labels=[np.array([1, -1]), np.zeros(0, int)],
    )
    rows = [
        (a["id"], a["image_id"], a["category_id"], a["area"], a["iscrowd"])
        for a in ground_truth["annotations"]
    ]
    assert rows == [
        (1, 30, 1, 70.5, 0),
        (2, 30, 2, 20.0, 0),  # no area is known: 4 * 5
        (3, 10, 1, 3.0, 0),
        (4, 30, 2, 12.0, 1),  # (9 - 5) * (8 - 5); its area plays no part
    ]
    assert ground_truth["annotations"][3]["bbox"] == [5.0, 5.0, 4.0, 3.0]


def test_detections():
    records = detections_to_records(
        np.array([30, 10]),
        np.array([[[1, 2, 11, 7], [0, 0, 0, 0]], [[5, 5, 6, 7], [0, 0, 1, 1]]], np.float32),
        np.array([[0.75, 0.0], [0.5, 0.25]], np.float32),
        np.array([[0, -1], [1, 0]], np.int32),
        (17, 18),
    )
    assert records == [
        {"image_id": 30, "category_id": 17, "bbox": [1.0, 2.0, 10.0, 5.0], "score": 0.75},
        {"image_id": 10, "category_id": 18, "bbox": [5.0, 5.0, 1.0, 2.0], "score": 0.5},
        {"image_id": 10, "category_id": 17, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.25},
    ]
    assert json.loads(json.dumps(records)) == records


def test_float32_noise_does_not_reach_the_records():
    # A side of 32 that went through a scale of 1/3 and back in float32.
    side = np.float32(np.float32(32) / np.float32(3)) * np.float64(3)
    assert side != 32
    truth = ground_truth_to_coco([1], [(64, 64)], [np.array([[0, 0, side, side]])], [[0]], ["a"])
    assert truth["annotations"][0]["area"] == 32 * 32


def test_labels_and_classes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"image id 4: expected labels below 2, .* got 2"):
        detections_to_records([4], np.zeros((1, 1, 4)), np.ones((1, 1)), [[2]], (1, 2))
    with pytest.raises(ValueError, match="category id for each of 1 class names, got 2"):
        ground_truth_to_coco([1], [(1, 1)], [np.zeros((0, 4))], [[]], ["a"], (1, 2))


def test_rows_by_value_keep_their_order():
    rows = rows_by(np.array([7, 2, 7, -1, 2]))
    assert {value: each.tolist() for value, each in rows.items()} == {-1: [3], 2: [1, 4], 7: [0, 2]}
    assert rows_by(np.zeros(0, np.int64)) == {}
