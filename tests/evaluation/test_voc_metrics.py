"""VOC average precision: curves drawn by hand, and a second implementation on real annotations."""

import copy
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fcos_tf.evaluation.voc import voc_evaluation, voc_metrics
from tests.evaluation.test_coco_metrics import found

BOX_A = [0, 0, 10, 10]
BOX_B = [50, 50, 10, 10]
NOWHERE = [200, 200, 10, 10]


def truth(*boxes, difficult=(), category_id=1, num_classes=1, num_images=1):
    """Boxes of one class in image 1; `difficult` says which of them are."""
    return {
        "images": [{"id": image_id} for image_id in range(1, num_images + 1)],
        "categories": [{"id": key, "name": f"c{key}"} for key in range(1, num_classes + 1)],
        "annotations": [
            {
                "image_id": 1,
                "category_id": category_id,
                "bbox": list(box),
                "iscrowd": int(i in difficult),
            }
            for i, box in enumerate(boxes)
        ],
    }


def both(ground_truth, detections):
    return tuple(
        voc_metrics(ground_truth, detections, points=points)[f"mAP_{points}"]
        for points in ("voc07", "voc12")
    )


def test_a_curve_by_hand():
    detections = [found(BOX_B, 0.7), found(NOWHERE, 0.8), found(BOX_A, 0.9)]
    # By score: right, wrong, right. Recall 1/2 at precision 1, then 1 at 2/3.
    # 11 points: six of them (0 ... 0.5) have 1, five have 2/3. Area: 1/2 * 1 + 1/2 * 2/3.
    assert both(truth(BOX_A, BOX_B), detections) == pytest.approx(
        ((6 * 1 + 5 * 2 / 3) / 11, 1 / 2 + 1 / 3), abs=1e-15
    )


def test_precision_counts_at_its_best_from_there_on():
    detections = [found(NOWHERE, 0.9), found(BOX_A, 0.8), found(BOX_B, 0.7)]
    # Wrong, right, right: precision 0, 1/2, 2/3, and 2/3 is the best at every recall.
    assert both(truth(BOX_A, BOX_B), detections) == pytest.approx((2 / 3, 2 / 3), abs=1e-15)


def test_a_recall_of_three_tenths_reaches_the_point_at_three_tenths():
    boxes = [[20 * i, 0, 10, 10] for i in range(10)]
    detections = [found(box, 0.9) for box in boxes[:3]]
    # Points 0, 0.1, 0.2 and 0.3 have precision 1; 0.1 + 0.1 + 0.1 in floats is above 3 / 10.
    assert both(truth(*boxes), detections) == pytest.approx((4 / 11, 3 / 10), abs=1e-15)


def test_a_second_detection_of_one_object_is_wrong():
    detections = [found(BOX_A, 0.9), found(BOX_A, 0.8), found(BOX_B, 0.7)]
    # Right, wrong, right, as in the first curve.
    assert both(truth(BOX_A, BOX_B), detections)[1] == pytest.approx(1 / 2 + 1 / 3, abs=1e-15)


def test_a_taken_object_still_claims_the_detections_that_overlap_it_most():
    # The second box overlaps the first object with 8/12 = .67 and the other with 7/13 = .54. COCO's
    # protocol would give it the free one; VOC's does not look whether an object is taken.
    objects = [[0, 0, 10, 10], [5, 0, 10, 10]]
    detections = [found(objects[0], 0.9), found([2, 0, 10, 10], 0.8)]
    assert both(truth(*objects), detections)[1] == pytest.approx(1 / 2)
    assert both(truth(*objects), detections[1:])[1] == pytest.approx(1 / 2)


def test_difficult_objects_are_neither_asked_for_nor_wrong_to_find():
    ground_truth = truth(BOX_A, BOX_B, difficult=(1,))
    twice = [found(BOX_B, 0.95), found(BOX_B, 0.94)]
    # Only A counts: it is the first detection that counts, and the only object.
    assert both(ground_truth, [*twice, found(BOX_A, 0.9)]) == (1.0, 1.0)
    # Were B an ordinary object: right, wrong, right.
    assert both(truth(BOX_A, BOX_B), [*twice, found(BOX_A, 0.9)])[1] == pytest.approx(5 / 6)
    # A detection that misses it by a little is wrong like any other: IoU 10 * 4 / (200 - 40) = 1/4.
    off = found([56, 50, 10, 10], 0.95)
    assert both(ground_truth, [off, found(BOX_A, 0.9)]) == (0.5, 0.5)


def test_exactly_half_is_enough():
    # 10 x 5 of 10 x 10: IoU 50 / 100. In VOC's corners these are (1, 1, 10, 10) and (1, 1, 10, 5),
    # whose areas with the kit's + 1 are 100 and 50 as well.
    assert both(truth(BOX_A), [found([0, 0, 10, 5], 0.9)]) == (1.0, 1.0)
    assert both(truth(BOX_A), [found([0, 0, 10, 4.99], 0.9)]) == (0.0, 0.0)


def test_equal_scores_count_in_the_order_of_the_records():
    hit, miss = found(BOX_A, 0.5), found(NOWHERE, 0.5)
    assert both(truth(BOX_A), [hit, miss]) == (1.0, 1.0)
    assert both(truth(BOX_A), [miss, hit]) == (0.5, 0.5)


def test_of_two_equally_overlapped_objects_the_first_is_meant():
    detections = [found(BOX_A, 0.9), found(BOX_A, 0.8)]
    # The first object is difficult, so nothing counts, and the second is not found.
    assert both(truth(BOX_A, BOX_A, difficult=(0,)), detections) == (0.0, 0.0)
    assert both(truth(BOX_A, BOX_A, difficult=(1,)), detections[:1]) == (1.0, 1.0)


def test_objects_of_other_images_and_classes_do_not_count():
    ground_truth = truth(BOX_A, num_images=2, num_classes=2)
    wrong = [found(BOX_A, 0.9, image_id=2), found(BOX_A, 0.9, category_id=2)]
    # Of class 1 the other image's detection is wrong; class 2 has no objects and is left out.
    assert both(ground_truth, [*wrong, found(BOX_A, 0.8)]) == (0.5, 0.5)


def test_nothing_found_and_nothing_to_find():
    assert both(truth(BOX_A), []) == (0.0, 0.0)
    assert both(truth(), [found(BOX_A, 0.9)]) == (-1.0, -1.0)
    assert both(truth(BOX_A, difficult=(0,)), [found(BOX_A, 0.9)]) == (-1.0, -1.0)
    assert both(truth(), []) == (-1.0, -1.0)


def test_the_mean_is_over_the_classes_that_have_objects():
    ground_truth = truth(BOX_A, BOX_B, category_id=2, num_classes=4)
    ground_truth["annotations"] += truth(BOX_A, category_id=3)["annotations"]
    ground_truth["annotations"] += truth(BOX_B, category_id=4, difficult=(0,))["annotations"]
    detections = [found(BOX_A, 0.9, 2), found(BOX_A, 0.9, 4)]
    result = voc_evaluation(ground_truth, detections, points="voc12")
    assert result.per_class == {
        "c1": {"AP_voc12": -1.0, "num_ground_truths": 0},
        "c2": {"AP_voc12": 0.5, "num_ground_truths": 2},
        "c3": {"AP_voc12": 0.0, "num_ground_truths": 1},
        "c4": {"AP_voc12": -1.0, "num_ground_truths": 0},
    }
    assert result.metrics == {"mAP_voc12": 0.25}


def test_boxes_without_area_find_nothing_and_arguments_stay():
    ground_truth, detections = truth([5, 5, 0, 0], BOX_A), [found([5, 5, 0, 0], 0.9)]
    before = copy.deepcopy((ground_truth, detections))
    assert both(ground_truth, detections) == (0.0, 0.0)
    assert (ground_truth, detections) == before


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="points: expected one of voc07, voc12, got 'voc10'"):
        voc_metrics(truth(BOX_A), [], points="voc10")
    with pytest.raises(ValueError, match="detection at position 0 refers to image id 9"):
        voc_metrics(truth(BOX_A), [found(BOX_A, 0.9, image_id=9)])


def slow_average_precision(objects, detections, points):
    """The kit's description, step by step: one class, corners one-based and inclusive.

    Args:
        objects: image -> list of [box, difficult].
        detections: list of (image, score, box).
        points: "voc07" or "voc12".
    """
    total = sum(not difficult for rows in objects.values() for _, difficult in rows)
    taken = {image: [False] * len(rows) for image, rows in objects.items()}
    recall, precision = [], []
    right = wrong = 0
    for image, _, box in sorted(detections, key=lambda detection: -detection[1]):
        best_overlap, best = -np.inf, None
        for j, (other, _) in enumerate(objects.get(image, [])):
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
                overlap = width * height / (sum(areas) - width * height)
                if overlap > best_overlap:
                    best_overlap, best = overlap, j
        if best_overlap < 0.5:
            wrong += 1
        elif not objects[image][best][1]:
            right += not taken[image][best]
            wrong += taken[image][best]
            taken[image][best] = True
        if right + wrong:
            recall.append(right / total)
            precision.append(right / (right + wrong))
    if points == "voc07":
        best_from = [
            max((p for r, p in zip(recall, precision, strict=True) if r >= t / 10), default=0.0)
            for t in range(11)
        ]
        return sum(best_from) / 11
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def read_objects(folder, split):
    """(image number, class, one-based box, difficult) of every object of a VOC tree."""
    for number, stem in enumerate((folder / "ImageSets/Main" / f"{split}.txt").read_text().split()):
        for node in ET.parse(folder / "Annotations" / f"{stem}.xml").getroot().iter("object"):
            box = [float(node.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
            yield number, node.findtext("name"), box, node.findtext("difficult") == "1"


def test_equals_a_slow_implementation_on_real_annotations(shared_data):
    folder = shared_data / "voc2007"
    if not folder.is_dir():
        pytest.skip(f"no VOC sample at {folder}")
    rows = list(read_objects(folder, "val"))
    names = sorted({name for _, name, _, _ in rows})
    assert len(names) == 20
    assert sum(difficult for *_, difficult in rows) > 50
    random = np.random.default_rng(11)
    detections = []
    for image, name, box, _ in rows:
        for _ in range(random.integers(0, 4)):
            sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
            moved = np.round(np.array(box) + random.normal(0, 0.12, 4) * sides)
            moved[2:] = np.maximum(moved[:2], moved[2:])  # at least one pixel
            label = name if random.random() < 0.9 else str(random.choice(names))
            detections.append((image, label, random.integers(1, 51) / 50, moved.tolist()))

    def record(image, name, box):
        x1, y1, x2, y2 = box
        bbox = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
        return {"image_id": image, "category_id": names.index(name) + 1, "bbox": bbox}

    ground_truth = {
        "images": [{"id": image} for image in range(600)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {**record(image, name, box), "iscrowd": int(difficult)}
            for image, name, box, difficult in rows
        ],
    }
    results = [{**record(i, name, box), "score": score} for i, name, score, box in detections]
    for points in ("voc07", "voc12"):
        ours = voc_evaluation(ground_truth, results, points=points)
        expected = {}
        for name in names:
            objects = {}
            for image, _, box, difficult in (row for row in rows if row[1] == name):
                objects.setdefault(image, []).append([box, difficult])
            own = [(image, score, box) for image, n, score, box in detections if n == name]
            expected[name] = slow_average_precision(objects, own, points)
        assert {n: row[f"AP_{points}"] for n, row in ours.per_class.items()} == pytest.approx(
            expected, abs=1e-12
        )
        mean = sum(expected.values()) / len(expected)
        assert ours.metrics[f"mAP_{points}"] == pytest.approx(mean, abs=1e-12)
        assert 0.1 < mean < 0.9
