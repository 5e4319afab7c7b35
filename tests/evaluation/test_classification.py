"""AP of image classification, by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fcos_tf.evaluation import classification_evaluation

# The ranking 1, 0, 1, 1, 0, 1 has precisions 1, 2/3, 3/4 and 4/6 at its hits; the envelope is 1,
# 3/4, 3/4, 2/3. All points: (1 + 3/4 + 3/4 + 2/3) / 4 = .791667. Eleven points: recall >= 0, .1, .2
# give 1; .3 to .7 give 3/4; .8, .9, 1 give 2/3: (3 + 15/4 + 2) / 11 = .795455.
MARKS = np.array([1, -1, 1, 1, -1, 1])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])


def test_the_average_precision_by_hand():
    order = np.random.default_rng(0).permutation(6)
    found = classification_evaluation(SCORES[order, None], MARKS[order, None], ["cat"])
    assert found.metrics == pytest.approx({"mAP_all": 0.791667, "mAP_11": 0.795455}, abs=1e-6)
    assert found.per_class["cat"] == pytest.approx(
        {"AP_all": 0.791667, "AP_11": 0.795455, "num_ground_truths": 4}, abs=1e-6
    )
    # Without an envelope it is another number.
    assert average_precision_score(MARKS > 0, SCORES) == pytest.approx(0.770833, abs=1e-6)


def test_left_out_images_and_classes_without_images_do_not_count():
    # The best of all and one in between are left out.
    marks = np.array([0, *MARKS[:3], 0, *MARKS[3:]])
    scores = np.array([0.99, *SCORES[:3], 0.65, *SCORES[3:]])
    empty = np.where(marks == 0, 0, -1)
    found = classification_evaluation(
        np.stack([scores, scores], 1), np.stack([marks, empty], 1), ["cat", "dog"]
    )
    assert found.metrics["mAP_all"] == pytest.approx(0.791667, abs=1e-6)
    assert found.per_class["dog"] == {"AP_all": -1.0, "AP_11": -1.0, "num_ground_truths": 0}
    nothing = classification_evaluation(scores[:, None], empty[:, None], ["dog"])
    assert nothing.metrics == {"mAP_all": -1.0, "mAP_11": -1.0}


def test_it_is_that_of_scikit_learn_where_no_precision_rises():
    # Perfect, and all hits at the end: the precision of a hit rises with its rank in the latter,
    # so only the former agrees.
    marks = np.array([1, 1, -1, -1])
    for scores in ([4, 3, 2, 1], [4.5, 4.5, 2, 2]):
        found = classification_evaluation(np.array(scores)[:, None], marks[:, None], ["a"])
        assert found.metrics["mAP_all"] == average_precision_score(marks > 0, scores) == 1


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"expected .* \[N, 2\], got \[6, 1\] and \[6, 1\]"):
        classification_evaluation(SCORES[:, None], MARKS[:, None], ["a", "b"])
    with pytest.raises(ValueError, match="expected finite numbers"):
        classification_evaluation(SCORES[:, None] * np.nan, MARKS[:, None], ["a"])


def test_accuracy_is_the_share_of_images_whose_best_class_is_right():
    scores = np.float32([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0]])
    marks = np.array([[1, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, -1]])  # the last has none
    metrics = classification_evaluation(scores, marks, ["a", "b", "c"], single=True).metrics
    assert metrics["accuracy"] == pytest.approx(2 / 3) and next(iter(metrics)) == "accuracy"
    nothing = classification_evaluation(scores[3:], marks[3:], ["a", "b", "c"], single=True)
    assert nothing.metrics["accuracy"] == -1
