"""The checks that every reader runs on its examples."""

import numpy as np
import pytest
from absl import logging

from fcos_tf.data.example import Example, clean_example, limit_boxes, log_left_out


def example(boxes, height=100, width=200):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes), dtype=np.int32)
    return Example("a.jpg", 7, boxes, labels, height, width)


def test_good_boxes_are_untouched_and_outside_parts_are_cut_off():
    cleaned, messages = clean_example(example([[0, 0, 200, 100], [-5, 90, 20, 130]]))
    assert messages == []
    np.testing.assert_array_equal(cleaned.boxes, [[0, 0, 200, 100], [0, 90, 20, 100]])
    assert cleaned.boxes.dtype == np.float32
    assert cleaned.labels.tolist() == [0, 1]
    assert (cleaned.file, cleaned.image_id) == ("a.jpg", 7)


def test_each_dropped_box_is_named_with_its_number_and_reason():
    cleaned, messages = clean_example(
        example(
            [
                [5, 5, 5, 9],  # no width
                [5, 9, 8, 9],  # no height
                [9, 5, 5, 9],  # corners exchanged
                [1, 2, 3, 4],
                [np.nan, 0, 5, 5],
                [0, 0, np.inf, 5],
                [200, 0, 210, 5],  # begins where the image ends
            ]
        )
    )
    np.testing.assert_array_equal(cleaned.boxes, [[1, 2, 3, 4]])
    assert cleaned.labels.tolist() == [3]
    assert messages == [
        "a.jpg: box 1 (5, 5, 5, 9) has no area",
        "a.jpg: box 2 (5, 9, 8, 9) has no area",
        "a.jpg: box 3 (9, 5, 5, 9) has no area",
        "a.jpg: box 5 (nan, 0, 5, 5) is not finite",
        "a.jpg: box 6 (0, 0, inf, 5) is not finite",
        "a.jpg: box 7 (200, 0, 210, 5) lies outside the image of 200x100 pixels",
    ]


def test_numbers_of_the_file_are_used():
    _, messages = clean_example(example([[1, 1, 2, 2], [5, 5, 5, 9]]), numbers=[2, 14])
    assert messages == ["a.jpg: box 14 (5, 5, 5, 9) has no area"]


def test_without_a_known_size_nothing_is_clipped():
    cleaned, messages = clean_example(example([[-5, 0, 999, 5], [3, 3, 3, 4]], None, None))
    np.testing.assert_array_equal(cleaned.boxes, [[-5, 0, 999, 5]])
    assert len(messages) == 1


def test_no_boxes_at_all():
    cleaned, messages = clean_example(example([]))
    assert cleaned.boxes.shape == (0, 4) and messages == []


def test_the_input_is_not_changed():
    given = example([[-5, 0, 20, 130]])
    clean_example(given)
    np.testing.assert_array_equal(given.boxes, [[-5, 0, 20, 130]])


def test_mismatched_lengths_are_refused():
    bad = Example("a.jpg", 1, np.zeros((2, 4)), np.zeros(3), 10, 10)
    with pytest.raises(ValueError, match=r"a\.jpg: expected boxes \[M, 4\]"):
        clean_example(bad)


def test_limit_boxes_keeps_the_first_and_names_the_rest():
    kept, messages = limit_boxes([example(np.eye(4)[:3]), example([[0, 0, 1, 1]])], 2)
    assert [len(e.labels) for e in kept] == [2, 1]
    assert kept[0].labels.tolist() == [0, 1]
    assert messages == ["a.jpg: the last 1 of 3 boxes are over max_boxes=2"]


def test_logging_is_one_message_with_the_count_and_ten_lines(monkeypatch):
    logged = []
    monkeypatch.setattr(logging, "log", lambda level, form, *args: logged.append(form % args))
    log_left_out("boxes", [])
    assert logged == []
    log_left_out("boxes", [f"line {i}" for i in range(12)])
    (text,) = logged
    assert text.startswith("left out boxes: 12\n  line 0\n")
    assert "line 9" in text and "line 10" not in text
    assert text.endswith("... and 2 more, all in dataset.dropped")
