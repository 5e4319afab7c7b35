"""TIDE's error types in scenes scored by hand, and tidecv's own numbers on the golden set."""

import json

import pytest

from fcos_tf.evaluation.coco import coco_metrics
from fcos_tf.evaluation.tide import ERRORS, match, tide

# Two cats and a dog that do not touch, in one image; image 2 has no object.
CAT_A, CAT_B, DOG = [0, 0, 100, 100], [200, 0, 100, 100], [400, 0, 100, 100]
HALF_RECALL = 51 / 101  # AP of a class: precision 1 up to recall 1/2, 0 beyond


def truth(*crowds):
    boxes = [(1, CAT_A, 0), (1, CAT_B, 0), (2, DOG, 0), *((key, box, 1) for key, box in crowds)]
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "dog"},
            {"id": 3, "name": "cow"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": key, "bbox": box, "iscrowd": crowd}
            for key, box, crowd in boxes
        ],
    }


def found(category_id, bbox, score, image_id=1):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


RIGHT = [found(1, CAT_A, 0.9), found(2, DOG, 0.9)]  # only CAT_B lacks


def wide(width):
    """A box over CAT_B; with a width up to 100 its IoU is width / 100."""
    return [200, 0, width, 100]


@pytest.mark.parametrize(
    ("detection", "error"),
    [
        (found(1, wide(10), 0.5), "Loc"),  # IoU 0.1, the lower limit
        (found(1, wide(49), 0.5), "Loc"),
        (found(2, wide(50), 0.5), "Cls"),  # IoU 0.5 with a cat
        (found(2, wide(49), 0.5), "Both"),
        (found(1, CAT_A, 0.5), "Dupe"),
        (found(1, [0, 0, 50, 100], 0.5), "Loc"),  # IoU 0.5 with a taken cat: Loc is before Dupe
        (found(1, wide(9), 0.5), "Bkg"),  # IoU 0.09
        (found(1, [0, 500, 50, 50], 0.5), "Bkg"),
        (found(3, CAT_A, 0.5, image_id=2), "Bkg"),  # an image without objects
        (found(1, [440, 0, 100, 100], 0.5), "Both"),  # IoU 60 / 140 with the dog
    ],
)
def test_the_type_of_one_false_positive(detection, error):
    counts = tide(match(truth(), [*RIGHT, detection]))["counts"]
    points_at_b = error == "Cls" or (error == "Loc" and detection["bbox"][0] == 200)
    expected = dict.fromkeys(ERRORS, 0) | {error: 1, "Miss": 0 if points_at_b else 1}
    assert counts == expected


def test_an_object_is_taken_at_iou_one_half_exactly():
    result = tide(match(truth(), [*RIGHT, found(1, wide(50), 0.5)]))
    assert result["AP50"] == 1 and set(result["counts"].values()) == {0}


@pytest.mark.parametrize(
    ("detections", "ap50", "costs"),
    [
        # Only CAT_B is missed: without it both classes have AP 1.
        ([], (HALF_RECALL + 1) / 2, {"Miss": (1 - HALF_RECALL) / 2}),
        # Mended, the loose box is the second hit; deleted, nothing would be gained.
        ([found(1, wide(40), 0.5)], (HALF_RECALL + 1) / 2, {"Loc": (1 - HALF_RECALL) / 2}),
        # Cats: hit. Dogs: wrong 0.95, hit 0.9, so AP 1/2. Mended, it is a cat: both AP 1.
        (
            [found(2, CAT_B, 0.95)],
            (HALF_RECALL + 1 / 2) / 2,
            {"Cls": 1 - (HALF_RECALL + 1 / 2) / 2},
        ),
        # Cats: wrong, hit: precision 1/2 up to recall 1/2. Deleted: as without it. Without CAT_B:
        # precision 1/2 up to recall 1.
        (
            [found(1, [0, 500, 9, 9], 0.95)],
            (HALF_RECALL / 2 + 1) / 2,
            {"Bkg": HALF_RECALL / 4, "Miss": (1 / 2 - HALF_RECALL / 2) / 2},
        ),
        # Two loose boxes on one cat: the first becomes right, the other is deleted.
        (
            [found(1, wide(40), 0.8), found(1, wide(30), 0.7)],
            (HALF_RECALL + 1) / 2,
            {"Loc": (1 - HALF_RECALL) / 2},
        ),
        # Cls is best for CAT_B, so that mending Loc alone deletes it: no gain, as it is last.
        (
            [found(2, CAT_B, 0.8), found(1, wide(30), 0.7)],
            (HALF_RECALL + 1) / 2,
            {"Cls": (1 - HALF_RECALL) / 2},
        ),
    ],
)
def test_costs_by_hand(detections, ap50, costs):
    # cow has neither objects nor an AP
    result = tide(match(truth(), [*RIGHT, *detections]))
    assert result["AP50"] == pytest.approx(ap50)
    main = {name: result["costs"][name] for name in ERRORS}
    assert main == pytest.approx(dict.fromkeys(ERRORS, 0.0) | costs)


def test_all_false_positives_and_all_misses_at_once():
    detections = [*RIGHT, found(1, [0, 500, 9, 9], 0.95)]
    costs = tide(match(truth(), detections))["costs"]
    # FalsePos: cats have HALF_RECALL instead of half of it. FalseNeg: one cat, wrong then hit, 1/2.
    assert costs["FalsePos"] == pytest.approx(HALF_RECALL / 4)
    assert costs["FalseNeg"] == pytest.approx((1 / 2 - HALF_RECALL / 2) / 2)


def test_crowds_and_difficult_objects_are_neither_right_nor_wrong():
    crowd = [600, 0, 200, 100]
    inside, of_another_class = found(1, [600, 0, 50, 50], 0.99), found(2, [700, 0, 50, 50], 0.1)
    result = tide(match(truth((1, crowd)), [*RIGHT, inside, of_another_class]))
    # The cat in the crowd counts nowhere, and the crowd is not missed; the dog is not of its class.
    assert result["AP50"] == pytest.approx((HALF_RECALL + 1) / 2)
    assert result["counts"] == dict.fromkeys(ERRORS, 0) | {"Bkg": 1, "Miss": 1}


def test_an_ignored_detection_near_an_object_costs_nothing_and_finds_nothing():
    near = found(1, wide(20), 0.99)  # IoU 0.2 with the other cat, and inside a crowd
    result = tide(match(truth((1, [200, 0, 20, 100])), [*RIGHT, near]))
    assert result["counts"] == dict.fromkeys(ERRORS, 0) | {"Miss": 1}
    assert result["costs"]["Loc"] == 0


def test_at_most_100_detections_of_an_image():
    false = [found(1, [0, 500, 9, 9], 0.95)] * 100
    assert tide(match(truth(), [*RIGHT, *false]))["AP50"] == 0


def test_no_objects_and_no_detections():
    nothing = {**truth(), "annotations": []}
    assert tide(match(nothing, RIGHT))["AP50"] == -1
    result = tide(match(truth(), []))
    assert (result["AP50"], result["counts"]["Miss"]) == (0, 3)
    assert result["costs"]["Miss"] == result["costs"]["FalseNeg"] == 1


def test_equals_tidecv_on_the_golden_set(shared_data):
    folder = shared_data / "coco_eval_golden"
    if not folder.is_dir():
        pytest.skip(f"no golden set at {folder}")
    ground_truth, detections = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("ground_truth", "detections")
    )
    # tidecv gives AP 0 to classes without objects, and orders equal scores otherwise.
    has_objects = {annotation["category_id"] for annotation in ground_truth["annotations"]}
    detections = [each for each in detections if each["category_id"] in has_objects]
    detections = [{**d, "score": d["score"] - 1e-7 * i} for i, d in enumerate(detections)]
    result = tide(match(ground_truth, detections))
    # tidecv 1.0.1: fix_main_errors(), fix_special_errors(), count_errors(), in percent.
    expected = {
        "Cls": 15.57250262481476, "Loc": 0.24988213107023682, "Both": 0.0,
        "Dupe": 0.020599225914494923, "Bkg": 0.0, "Miss": 10.561357418251873,
        "FalsePos": 7.406295026611332, "FalseNeg": 19.30555235572281,
    }  # fmt: skip
    assert 100 * result["AP50"] == pytest.approx(69.70827357310577, abs=1e-9)
    costs = {name: 100 * cost for name, cost in result["costs"].items()}
    assert costs == pytest.approx(expected, abs=1e-9)
    assert list(result["counts"].values()) == [74, 1, 0, 1, 0, 106]
    assert result["AP50"] == pytest.approx(coco_metrics(ground_truth, detections)["AP50"], abs=2e-4)
