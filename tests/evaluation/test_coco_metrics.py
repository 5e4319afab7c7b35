"""COCO's numbers on scenes small enough to score by hand, and on the public golden set."""

import copy
import json
import logging
import math

import numpy as np
import pytest

from fcos_tf.evaluation import coco
from fcos_tf.evaluation.coco import COCO_DEFINITIONS, coco_evaluation, coco_metrics
from fcos_tf.evaluation.voc import voc_evaluation

# Both boxes have 10000 square pixels, more than 96 * 96 = 9216: COCO calls them large.
BOX_A = [0, 0, 100, 100]
BOX_B = [200, 200, 100, 100]


def truth(*boxes, category_id=1, images=(1,), categories=({"id": 1, "name": "cat"},), **extra):
    annotations = [
        {"image_id": 1, "category_id": category_id, "bbox": list(box), **extra} for box in boxes
    ]
    return {
        "images": [{"id": image_id} for image_id in images],
        "categories": [dict(category) for category in categories],
        "annotations": annotations,
    }


def found(bbox, score, category_id=1, image_id=1):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


def test_a_perfect_and_a_loose_box():
    # The second box keeps 62 of 100 rows: IoU = 6200 / 10000 = 0.62.
    metrics = coco_metrics(
        truth(BOX_A, BOX_B), [found(BOX_A, 0.9), found([200, 200, 100, 62], 0.8)]
    )
    # IoU .50 .55 .60: both are right, precision 1 everywhere.
    # IoU .65 ... .95 (7 thresholds): recall stops at 1/2, so the 51 recall points
    # 0.00 ... 0.50 of 101 have precision 1 and the rest 0.
    ap = (3 * 1 + 7 * 51 / 101) / 10
    expected = {
        "AP": ap,
        "AP50": 1.0,
        "AP75": 51 / 101,
        "APs": -1.0,
        "APm": -1.0,
        "APl": ap,
        "AR1": 0.5,  # only the best detection of the image counts: one of two boxes
        "AR10": (3 * 1 + 7 * 0.5) / 10,
        "AR100": (3 * 1 + 7 * 0.5) / 10,
        "ARs": -1.0,
        "ARm": -1.0,
        "ARl": (3 * 1 + 7 * 0.5) / 10,
    }
    assert metrics == pytest.approx(expected, abs=1e-12)
    assert tuple(metrics) == tuple(COCO_DEFINITIONS)
    assert all(type(value) is float for value in metrics.values())


def test_a_false_alarm_ahead_of_the_hit():
    metrics = coco_metrics(truth(BOX_A), [found([300, 300, 50, 50], 0.95), found(BOX_A, 0.9)])
    # Precision is 0/1, then 1/2 at recall 1; interpolated: 1/2 at every recall point.
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["AR1"] == 0.0
    assert metrics["AR10"] == 1.0


def test_a_second_detection_of_the_same_object_is_a_false_alarm():
    metrics = coco_metrics(
        truth(BOX_A, BOX_B), [found(BOX_A, 0.9), found(BOX_A, 0.8), found(BOX_B, 0.7)]
    )
    # hit, miss, hit: precision 1 up to recall 1/2 (51 points), 2/3 up to recall 1 (50 points).
    assert metrics["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_detection_inside_a_crowd_is_neither_right_nor_wrong():
    ground_truth = truth(BOX_A)
    ground_truth["annotations"].append(
        {"image_id": 1, "category_id": 1, "bbox": [200, 200, 300, 300], "iscrowd": 1}
    )
    detections = [found([250, 250, 50, 50], 0.95), found(BOX_A, 0.9)]
    assert coco_metrics(ground_truth, detections)["AP"] == pytest.approx(1.0)
    # Were it not marked as a crowd: of two objects only the second detection finds one,
    # precision 1/2 up to recall 1/2.
    ground_truth["annotations"][1]["iscrowd"] = 0
    assert coco_metrics(ground_truth, detections)["AP"] == pytest.approx(51 / 101 / 2)


@pytest.mark.parametrize(
    "side, area, key", [(31, None, "APs"), (33, None, "APm"), (97, None, "APl"), (97, 9.0, "APs")]
)
def test_area_is_that_of_the_annotation_and_of_the_box_without_one(side, area, key):
    extra = {} if area is None else {"area": area}
    metrics = coco_metrics(truth([0, 0, side, side], **extra), [found([0, 0, side, side], 0.5)])
    measured = {name for name in ("APs", "APm", "APl") if metrics[name] >= 0}
    assert measured == {key}
    assert metrics[key] == pytest.approx(1.0)


def test_per_class_and_their_mean():
    categories = ({"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "cow"})
    ground_truth = truth(BOX_A, category_id=7, categories=categories)
    ground_truth["annotations"] += truth(BOX_A, BOX_B, category_id=3)["annotations"]
    result = coco_evaluation(ground_truth, [found(BOX_A, 0.9, 7), found(BOX_A, 0.9, 3)])
    assert result.per_class["cat"] == pytest.approx(
        {"AP": 51 / 101, "AP50": 51 / 101, "num_ground_truths": 2}
    )
    assert result.per_class["cow"] == {"AP": -1.0, "AP50": -1.0, "num_ground_truths": 0}
    assert result.per_class["dog"]["AP"] == pytest.approx(1.0)
    assert list(result.per_class) == ["cat", "cow", "dog"]  # ids 3, 5, 7
    assert result.metrics["AP"] == pytest.approx((51 / 101 + 1) / 2)  # cow has nothing to measure


def test_classes_scored_in_parts_have_the_same_numbers(monkeypatch):
    categories = [{"id": k, "name": str(k)} for k in (3, 1, 7, 5, 9)]  # 9 without objects
    boxes = [truth([10 * k, 0, 40, 40], category_id=k, categories=categories) for k in (1, 3, 5, 7)]
    annotations = [a for each in boxes for a in each["annotations"]]
    annotations = [{**a, "id": k} for k, a in enumerate(annotations, 1)]
    ground_truth = {**boxes[0], "annotations": annotations}
    shifts = {1: 0, 3: 4, 5: 12, 7: 30}
    detections = [found([10 * k + x, 0, 40, 40], 0.5, k) for k, x in shifts.items()]
    whole = coco_evaluation(ground_truth, detections)
    for count in (1, 2, 3):
        monkeypatch.setattr(coco, "PAIRS_AT_ONCE", count * len(ground_truth["images"]))
        assert coco_evaluation(ground_truth, detections) == whole
    # IoUs of 1, 36/44, 28/52 and 10/70: 10, 7, 1 and 0 of the ten thresholds.
    assert whole.metrics["AP"] == pytest.approx((1 + 0.7 + 0.1 + 0) / 4)
    assert [row["num_ground_truths"] for row in whole.per_class.values()] == [1, 1, 1, 1, 0]


def test_class_names_stand_in_for_those_of_the_file():
    ground_truth = truth(BOX_A)
    assert list(coco_evaluation(ground_truth, [], ["Katze"]).per_class) == ["Katze"]
    with pytest.raises(ValueError, match="name for each of the 1 categories, got 2"):
        coco_evaluation(ground_truth, [], ["a", "b"])
    del ground_truth["categories"]
    per_class = coco_evaluation(ground_truth, [], ["x", "y"]).per_class
    assert {name: row["AP"] for name, row in per_class.items()} == {"x": 0.0, "y": -1.0}


def test_equal_names_are_told_apart():
    categories = ({"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3})
    result = coco_evaluation(truth(BOX_A, categories=categories), [found(BOX_A, 0.9)])
    assert {name: round(row["AP"], 9) for name, row in result.per_class.items()} == {
        "cat (1)": 1.0,
        "cat (2)": -1.0,
        "3": -1.0,
    }
    taken = ({"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "cat (1)"})
    result = voc_evaluation(truth(BOX_A, categories=taken), [found(BOX_A, 0.9)])
    assert [*result.per_class] == ["cat (1) (1)", "cat (2)", "cat (1)"]
    assert result.metrics["mAP_voc07"] == 1.0


def test_no_detections_and_images_without_boxes():
    assert set(coco_metrics(truth(BOX_A), []).values()) == {0.0, -1.0}
    assert set(coco_metrics(truth(), []).values()) == {-1.0}
    assert set(coco_metrics(truth(), [found(BOX_A, 0.9)]).values()) == {-1.0}
    # A false alarm in an image without boxes costs precision: 1/2 as above.
    detections = [found(BOX_A, 0.95, image_id=2), found(BOX_A, 0.9)]
    assert coco_metrics(truth(BOX_A, images=(1, 2)), detections)["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), (0, 0)])
def test_ids_of_annotations_do_not_matter(ids):
    # The evaluator reads id 0 as "unmatched" and keeps one of two equal ids.
    ground_truth = truth(BOX_A, BOX_B)
    for annotation, annotation_id in zip(ground_truth["annotations"], ids, strict=True):
        annotation["id"] = annotation_id
    detections = [found(BOX_A, 0.9), found(BOX_B, 0.8)]
    assert coco_metrics(ground_truth, detections)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("first", [0, 10**15, 2**62])
def test_large_ids_of_images_and_categories_stay_apart(first):
    # The evaluator's float64 has steps of 512 at 2 ** 62.
    ids = [first, first + 1]
    ground_truth = truth(images=ids, categories=[{"id": i, "name": f"{i}"} for i in ids])
    ground_truth["annotations"] = [
        {"image_id": i, "category_id": i, "bbox": BOX_A} for i in ids for _ in range(2)
    ]
    for annotation in ground_truth["annotations"][1::2]:
        annotation["bbox"] = BOX_B
    detections = [found(box, 0.9, i, i) for i in ids for box in (BOX_A, BOX_B)]
    result = coco_evaluation(ground_truth, detections[:3])  # of the second class one of two
    assert {name: row["AP"] for name, row in result.per_class.items()} == pytest.approx(
        {f"{ids[0]}": 1.0, f"{ids[1]}": 51 / 101}
    )
    exchanged = [{**found, "image_id": 2 * first + 1 - found["image_id"]} for found in detections]
    assert coco_metrics(ground_truth, exchanged)["AP"] == 0


def test_is_silent_and_leaves_its_arguments_alone(capfd, caplog):
    ground_truth, detections = truth(BOX_A, area=50.0), [found(BOX_A, 0.9)]
    before = copy.deepcopy((ground_truth, detections))
    with caplog.at_level(logging.DEBUG):
        coco_metrics(ground_truth, detections)
    assert (ground_truth, detections) == before
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 99}, r"position 1 refers to image id 99"),
        ({"image_id": "1"}, r"position 1 refers to image id '1'"),
        ({"category_id": 4}, r"\(image id 1\) refers to category id 4; .* \[1\]"),
        ({"score": math.nan}, r"image id 1\): expected a finite score, got nan"),
        ({"score": None}, r"expected a finite score, got None"),
        ({"bbox": [0, 0, math.inf, 1]}, r"expected a finite bbox .*inf"),
        ({"bbox": [0, 0, 10]}, r"expected a finite bbox .*\[0, 0, 10\]"),
        ({"bbox": [50, 50, -10, 10]}, r"width >= 0"),
        ({"bbox": None}, r"expected a finite bbox .*None"),
    ],
)
def test_bad_detections_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        coco_metrics(truth(BOX_A), [found(BOX_A, 0.5), {**found(BOX_A, 0.9), **change}])


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_detection_without_a_key_is_named(key):
    detection = found(BOX_A, 0.9)
    del detection[key]
    with pytest.raises(ValueError, match=f"detection at position 0.* has no '{key}'"):
        coco_metrics(truth(BOX_A), [detection])


def test_bad_ground_truth_is_named():
    ground_truth = truth(BOX_A)
    ground_truth["annotations"][0].update(id=12, category_id=5)
    with pytest.raises(ValueError, match=r"annotation 12 .* category id 5"):
        coco_metrics(ground_truth, [])
    with pytest.raises(ValueError, match=r"image ids must be unique.*\[1\]"):
        coco_metrics(truth(BOX_A, images=(1, 1)), [])
    with pytest.raises(ValueError, match=r"category ids must be unique.*\[1\]"):
        coco_metrics(truth(BOX_A, categories=({"id": 1}, {"id": 1})), [])
    with pytest.raises(ValueError, match="no images"):
        coco_metrics(truth(images=()), [])
    with pytest.raises(ValueError, match="no categories"):
        coco_metrics(truth(categories=()), [])
    with pytest.raises(ValueError, match="no 'annotations'"):
        coco_metrics({"images": [{"id": 1}], "categories": [{"id": 1}]}, [])


@pytest.mark.parametrize(
    ("ground_truth", "detections", "message"),
    [
        ([], {"images": []}, "got a list; are ground truth and detections swapped"),
        (truth([0, 0, 9, 9]), {"images": []}, "got a dictionary; are ground truth"),
        (truth([0, 0, 9, 9]), [7], "detection at position 0: expected a dictionary, got 7"),
        (truth([0, 0, 9, 9], categories=[{"name": "cat"}]), [], "category at position 0: .*'id'"),
        ({**truth([0, 0, 9, 9]), "images": [3]}, [], "image at position 0: expected an 'id'"),
        (truth(images=["a"]), [], "image at position 0: expected a whole number .* got 'a'"),
        (truth([0, 0, 9, 9], iscrowd="no"), [], "expected iscrowd 0 or 1, got 'no'"),
        ({**truth([0, 0, 9, 9]), "annotations": [5]}, [], "annotation at position 0: .* got 5"),
        (truth([0, 0, 9, 9], area="big"), [], "expected a finite area, got 'big'"),
    ],
)
def test_records_of_another_shape_are_named(ground_truth, detections, message):
    with pytest.raises(ValueError, match=message):
        coco_metrics(ground_truth, detections)


def test_null_area_and_crowd_count_as_missing():
    both = truth([0, 0, 40, 40], area=None, iscrowd=None)
    assert coco_metrics(both, [found([0, 0, 40, 40], 0.9)])["APm"] == 1.0  # 32^2 < 1600 < 96^2


def test_unusual_types_of_a_sound_record_will_do():
    # Some tools write numbers as text, and whole numbers with a point.
    detection = {"image_id": 1.0, "category_id": 1, "bbox": ["0", 0, 100, 100], "score": "0.9"}
    assert coco_metrics(truth(BOX_A), iter([detection]))["AP"] == pytest.approx(1.0)


def test_public_golden_set(shared_data):
    folder = shared_data / "coco_eval_golden"
    if not folder.is_dir():
        pytest.skip(f"no golden set at {folder}")
    ground_truth, detections, expected = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("ground_truth", "detections", "expected")
    )
    # The file spells the twelve numbers otherwise, in the same order; made by pycocotools.
    metrics = coco_metrics(ground_truth, detections)
    assert list(metrics.values()) == pytest.approx(list(expected.values()), abs=1e-6)


def test_real_ground_truth_with_crowds_scored_against_itself(shared_data):
    files = sorted((shared_data / "coco" / "annotations").glob("*val*.json"))
    if not files:
        pytest.skip(f"no COCO sample under {shared_data}")
    ground_truth = json.loads(files[0].read_text())
    detections = [
        found(a["bbox"], 0.5, a["category_id"], a["image_id"])
        for a in ground_truth["annotations"]
        if not a["iscrowd"]
    ]
    result = coco_evaluation(ground_truth, detections)
    # Every box is found exactly, and crowds ask for nothing.
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.metrics["AR100"] == pytest.approx(1.0)
    assert {round(row["AP"], 9) for row in result.per_class.values()} == {1.0, -1.0}
    counted = sum(row["num_ground_truths"] for row in result.per_class.values())
    assert counted == len(detections) < len(ground_truth["annotations"])


def perturbed(ground_truth, seed):
    """Detections like a fair detector's: moved, doubled, missed, mislabelled, of equal scores."""
    random = np.random.default_rng(seed)
    ids = [category["id"] for category in ground_truth["categories"]]
    detections = []
    for annotation in ground_truth["annotations"]:
        for _ in range(random.integers(0, 4)):
            x, y, width, height = annotation["bbox"]
            dx, dy, dw, dh = random.normal(0, 0.12, 4)
            box = [x + dx * width, y + dy * height, width * np.exp(dw), height * np.exp(dh)]
            label = annotation["category_id"] if random.random() < 0.9 else random.choice(ids)
            score = random.integers(1, 21) / 20
            detections.append(
                found([round(v, 2) for v in box], score, int(label), annotation["image_id"])
            )
    return detections


@pytest.mark.parametrize("split", ["train", "val"])
def test_equals_pycocotools_with_crowds(shared_data, split, capsys):
    reference = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    files = sorted((shared_data / "coco" / "annotations").glob(f"*{split}*.json"))
    if not files:
        pytest.skip(f"no COCO sample under {shared_data}")
    ground_truth = json.loads(files[0].read_text())
    assert any(annotation["iscrowd"] for annotation in ground_truth["annotations"])
    detections = perturbed(ground_truth, seed=3)
    ours = coco_evaluation(ground_truth, detections)

    truth_index = reference.COCO(str(files[0]))
    theirs = evaluation.COCOeval(
        truth_index, truth_index.loadRes(copy.deepcopy(detections)), "bbox"
    )
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    capsys.readouterr()
    assert list(ours.metrics.values()) == pytest.approx(list(theirs.stats), abs=1e-9)
    assert 0.1 < ours.metrics["AP"] < 0.9
    precision = theirs.eval["precision"][..., 0, 2]  # [IoU, recall, C], all areas, 100 detections
    for k, row in enumerate(ours.per_class.values()):
        for name, table in (("AP", precision[..., k]), ("AP50", precision[0, :, k])):
            expected = table.mean() if table.min() > -1 else -1.0
            assert row[name] == pytest.approx(expected, abs=1e-9)
