"""Curves, thresholds, confusions, sizes and worst images by hand; the report as a file."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from fcos_tf.evaluation.analysis import analyse_records, best_f1_of, confusion_matrix
from fcos_tf.evaluation.curves import SCORES, ap_by, class_curves, mean_f1
from fcos_tf.evaluation.records import Records
from fcos_tf.evaluation.report import analyse
from fcos_tf.evaluation.tide import match
from tests.evaluation.test_tide import CAT_A, CAT_B, DOG, found, truth

BACKGROUND = [0, 500, 100, 100]


def test_curves_of_a_class():
    # Cats by score: hit, wrong, hit; precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    detections = [found(1, CAT_A, 0.9), found(1, BACKGROUND, 0.6), found(1, CAT_B, 0.4)]
    curves = class_curves(match(truth(), detections))
    cat = curves["cat"]
    assert cat["precisions"] == pytest.approx([1] * 51 + [2 / 3] * 50)
    assert cat["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # F1: 2 / (1 + 2), 2 / (2 + 2), 4 / (3 + 2); the last is best, and nothing lies below it.
    best = {"threshold": 0.4, "f1": 0.8, "precision": 2 / 3, "recall": 1}
    assert {name: cat[name] for name in best} == pytest.approx(best)
    f1 = dict(zip(SCORES.tolist(), cat["f1_curve"], strict=True))
    at = [f1[score] for score in (0.0, 0.4, 0.405, 0.6, 0.605, 0.9, 0.905)]
    assert at == pytest.approx([0.8, 0.8, 0.5, 0.5, 2 / 3, 2 / 3, 0])
    assert curves["dog"]["threshold"] is None and curves["dog"]["AP50"] == 0
    assert curves["cow"] == {"num_ground_truths": 0}


def test_the_threshold_lies_between_the_scores_and_does_not_cut_equal_ones():
    one_cat = truth()
    del one_cat["annotations"][1]
    hit_and_wrong = [found(1, CAT_A, 0.8), found(1, BACKGROUND, 0.4)]
    assert class_curves(match(one_cat, hit_and_wrong))["cat"]["threshold"] == pytest.approx(0.6)
    # A hit before a false positive of the same score: F1 is 2 / 3 there, never 1.
    equal = [found(1, CAT_A, 0.8), found(1, BACKGROUND, 0.8)]
    cat = class_curves(match(one_cat, equal))["cat"]
    assert (cat["threshold"], cat["f1"]) == pytest.approx((0.8, 2 / 3))


def test_mean_f1_is_over_the_classes_with_objects():
    curves = class_curves(match(truth(), [found(1, CAT_A, 0.9), found(3, DOG, 0.9)]))
    mean, threshold, best = mean_f1(curves)
    assert best == pytest.approx((2 / 3 + 0) / 2)  # cat 2 / 3, dog 0; cow has no objects
    assert mean[-1] == 0 and threshold == 0.45  # the middle of 0 to 0.9


def test_thresholds_to_keep_with_a_model():
    # Cat: F1 is best at the hit; the threshold lies between .9 and .6. No dog is found and no cow
    # is there: the middle of the scores with the best mean F1, over .6 and up to .9.
    detections = [found(1, CAT_A, 0.9), found(1, BACKGROUND, 0.6)]
    model = SimpleNamespace(class_names=("cow", "cat", "dog"), score_threshold=0.05)
    kept = best_f1_of(analyse_records(truth(), detections), model)
    usual = SCORES[(SCORES > 0.6) & (SCORES <= 0.9)]
    assert kept["score_threshold"] == 0.05
    assert kept["by_class"] == pytest.approx([usual[len(usual) // 2], 0.75, usual[len(usual) // 2]])


def test_confusion_matrix():
    crowd = [600, 0, 200, 100]
    detections = [
        found(1, CAT_A, 0.9),
        found(2, CAT_A, 0.8),  # the cat is paired: a false positive
        found(2, [205, 0, 100, 100], 0.3),  # IoU 95 / 105 with a cat
        found(1, CAT_B, 0.2),  # too low a score
        found(3, [600, 0, 50, 50], 0.9),  # in a crowd
        found(3, CAT_A, 0.9, image_id=2),  # in an image where nothing can be paired
    ]
    matrix = confusion_matrix(match(truth((1, crowd)), detections), 0.3)
    expected = [
        [1, 1, 0, 0],  # cats: one right, one taken for a dog
        [0, 0, 0, 1],  # the dog is missed
        [0, 0, 0, 0],
        [0, 1, 1, 0],  # false positives: dog, cow
    ]
    assert matrix.tolist() == expected


def test_pairs_by_falling_iou_not_by_score():
    # The loose dog has the higher score, the exact cat the higher IoU.
    detections = [found(2, [0, 0, 100, 60], 0.9), found(1, CAT_A, 0.5)]
    matrix = confusion_matrix(match(truth(), detections), 0)
    assert matrix[0, 0] == 1 and matrix[0, 1] == 0 and matrix[-1, 1] == 1


def test_ap_by_size_and_aspect():
    ground_truth = truth()
    boxes = [[0, 0, 32, 32], [200, 0, 75, 100], [400, 0, 134, 100]]  # 1024 is small, .75 is tall
    for annotation, box in zip(ground_truth["annotations"], boxes, strict=True):
        annotation["bbox"] = box
    detections = [
        found(1, [0, 500, 100, 100], 0.9),  # a false positive among the large and the square
        found(1, boxes[0], 0.8),
        found(2, boxes[2], 0.7),
    ]
    matches = match(ground_truth, detections)
    assert ap_by(matches, "size") == {
        "small": {"AP50": 1, "num_ground_truths": 1},
        "medium": {"AP50": 0, "num_ground_truths": 1},
        "large": {"AP50": 1, "num_ground_truths": 1},  # of dogs; no cat is large
    }
    assert ap_by(matches, "aspect") == {
        "tall": {"AP50": 0, "num_ground_truths": 1},
        "square": {"AP50": 0.5, "num_ground_truths": 1},  # wrong, then hit
        "wide": {"AP50": 1, "num_ground_truths": 1},
    }


def test_advice_names_the_most_expensive_error_and_what_to_do_first():
    loose = [found(1, [0, 0, 100, 40], 0.9), found(1, [200, 0, 100, 40], 0.8), found(2, DOG, 0.9)]
    result = analyse_records(truth(), loose)
    assert result["tide"]["AP50"] == 0.5
    assert result["advice"][0].startswith(
        "Loc (the right class, IoU 0.1 to 0.5) costs most: without these 2 errors AP50 would be "
        "1.000 instead of 0.500. Check that the annotated boxes are tight"
    )
    # The best mean F1 keeps all three; two of them are wrong, and both cats are missed.
    assert result["images"] == [{"image_id": 1, "false_positives": 2, "missed": 2}]
    assert "nobody" not in " ".join(result["advice"])  # no background error
    nothing = analyse_records({**truth(), "annotations": []}, [])
    assert nothing["advice"] == ["No objects to measure on: check the split and its annotations."]
    perfect = [found(1, CAT_A, 0.9), found(1, CAT_B, 0.9), found(2, DOG, 0.9)]
    assert analyse_records(truth(), perfect)["advice"][0].startswith("AP50 is 1.000, and no type")


class Batches(list):
    """A data set: images of half the original size."""


def test_report_is_one_file_with_pictures_and_escaped_names(tmp_path):
    ground_truth = truth()
    ground_truth["categories"][0]["name"] = "<script>cat"
    ground_truth["images"][0]["file_name"] = "a<b>&\n.jpg"
    records = Records(ground_truth, [found(1, CAT_A, 0.9), found(1, BACKGROUND, 0.8)])
    targets = {
        "image_ids": np.array([-1, 1]),
        "image_sizes": np.float32([[1, 1], [300, 300]]),
        "original_sizes": np.float32([[1, 1], [600, 600]]),
    }
    batches = Batches([(np.full((2, 320, 320, 3), 90, np.uint8), targets)])
    result = analyse(records, tmp_path / "new", batches)
    assert json.loads((tmp_path / "new" / "analysis.json").read_text()) == result
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;cat" in text
    assert "a&lt;b&gt;&amp;\\n.jpg: 2 missed, 0 false positives" in text
    assert text.count("data:image/jpeg;base64,") == 1 and text.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import', text)  # nothing is loaded
    # Images without ids are counted from 1, and have the size of the batch.
    batches = Batches(
        [(np.full((1, 320, 320, 3), 90, np.uint8), {"image_sizes": targets["image_sizes"][1:]})]
    )
    analyse(records, tmp_path / "own", batches)
    own = (tmp_path / "own" / "report.html").read_text(encoding="utf-8")
    assert own.count("data:image/jpeg;base64,") == 1
    bare = analyse(records, tmp_path / "bare")
    assert bare == result and "<img" not in (tmp_path / "bare" / "report.html").read_text()


def test_a_class_may_have_the_name_of_the_mean(tmp_path):
    # Cat hits at .9: precision 1 up to recall 1/2. The class has no right detection: 0 everywhere.
    ground_truth = truth()
    ground_truth["categories"][1]["name"] = "mean of all classes"
    analyse(Records(ground_truth, [found(1, CAT_A, 0.9)]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for chart in re.findall("<svg.*?</svg>", text, re.DOTALL)[1:]:
        assert chart.count("<polyline") == 3 and chart.count(">mean of all classes<") == 2
        assert len(set(re.findall('points="(.*?)"', chart))) == 3


def test_many_classes_are_listed_by_their_confusions(tmp_path):
    ground_truth = truth()
    ground_truth["categories"] += [{"id": 9 + i, "name": f"class {i}"} for i in range(40)]
    analyse(Records(ground_truth, [found(2, CAT_A, 0.9)]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="matrix"' not in text
    assert '<td class="text">cat</td><td class="text">dog</td><td>1</td>' in text


@pytest.mark.parametrize("score", [-1.0, 90.0])
def test_scores_that_are_no_probabilities_are_refused(score):
    message = f"expected 0 to 1 in all detections, got {score:g} of image 1"
    with pytest.raises(ValueError, match=message):
        analyse_records(truth(), [found(1, CAT_A, score)])
