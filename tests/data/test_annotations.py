"""Annotations as columns, the checks on them, and the examples that are read by them."""

from dataclasses import replace

import numpy as np
import pytest

from fcos_tf.data.annotations import (
    Annotations,
    Fault,
    ImageFaults,
    check_annotations,
    report_faults,
)
from fcos_tf.data.images import ImageError
from fcos_tf.data.input.examples import make_source


def annotations(boxes, owners=None, sizes=((100, 200),), **columns):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    total = len(boxes)
    given = {
        "files": [f"{i}.jpg" for i in range(len(sizes))],
        "image_ids": np.arange(len(sizes)) + 10,
        "sizes": np.array(sizes, np.int32),
        "owners": np.zeros(total, np.int64) if owners is None else np.array(owners),
        "boxes": boxes,
        "labels": np.arange(total, dtype=np.int32),
        "areas": np.full(total, np.nan),
        "ignored": np.zeros(total, bool),
        "numbers": np.arange(total) + 1,
        "class_names": tuple("abcdefgh"),
        "category_ids": tuple(range(1, 9)),
    }
    return Annotations(**(given | columns))


def test_good_boxes_are_untouched_and_outside_parts_are_cut_off():
    boxes = [[0, 0, 200, 100], [-1, 90, 20, 101], [-5, 90, 20, 99], [199.5, 0, 202, 9]]
    clean, faults = check_annotations(annotations(boxes), "a.xml", "object")
    # A pixel too far is nothing to speak of; more is, and of the last too little is left.
    np.testing.assert_array_equal(
        clean.boxes, [[0, 0, 200, 100], [0, 90, 20, 100], [0, 90, 20, 99]]
    )
    assert clean.labels.tolist() == [0, 1, 2]
    assert [(str(fault), fault.kept) for fault in faults] == [
        (
            "a.xml: object 3 box (-5, 90, 20, 99) reaches over the image of 200x100 pixels and is "
            "cut",
            True,
        ),
        (
            "a.xml: object 4 box (199.5, 0, 202, 9) lies outside the image of 200x100 pixels, but "
            "for a strip of 0.5 pixels",
            False,
        ),
    ]


def test_each_dropped_box_is_named_with_its_number_and_reason():
    clean, faults = check_annotations(
        annotations(
            [
                [5, 5, 5, 9],  # no width
                [5, 9, 8, 9],  # no height
                [9, 5, 5, 9],  # corners exchanged
                [1, 2, 3, 4],
                [np.nan, 0, 5, 5],
                [0, 0, np.inf, 5],
                [200, 0, 210, 5],  # begins where the image ends
                [7, 7, 7.0004, 9],  # nothing is left after rounding
            ],
            numbers=np.array([2, 14, 3, 4, 5, 6, 7, 8]),
        ),
        ["a.xml"],
        "object",
    )
    np.testing.assert_array_equal(clean.boxes, [[1, 2, 3, 4]])
    assert (clean.labels.tolist(), clean.numbers.tolist()) == ([3], [4])
    assert list(map(str, faults)) == [
        "a.xml: object 2 box (5, 5, 5, 9) has no area",
        "a.xml: object 14 box (5, 9, 8, 9) has no area",
        "a.xml: object 3 box (9, 5, 5, 9) has no area",
        "a.xml: object 5 box (nan, 0, 5, 5) is not finite",
        "a.xml: object 6 box (0, 0, inf, 5) is not finite",
        "a.xml: object 7 box (200, 0, 210, 5) lies outside the image of 200x100 pixels",
        "a.xml: object 8 box (7, 7, 7.0004, 9) lies outside the image of 200x100 pixels",
    ]
    assert not any(fault.kept for fault in faults)


def test_each_box_is_held_against_its_own_image():
    boxes = [[0, 0, 50, 50], [0, 0, 50, 50], [0, 0, 50, 50]]
    clean, faults = check_annotations(
        annotations(boxes, owners=[0, 1, 1], sizes=[(40, 30), (0, 0)]), ["a", "b"], "object"
    )
    # Of the second image the size is not known.
    assert clean.boxes.tolist() == [[0, 0, 30, 40], [0, 0, 50, 50], [0, 0, 50, 50]]
    assert [(fault.file, fault.item, fault.kept) for fault in faults] == [("a", "object 1", True)]


def test_coordinates_are_rounded_to_thousandths():
    clean, _ = check_annotations(annotations([[0.1 + 0.2, 1 / 3, 9, 9]]), "a", "object")
    assert clean.boxes.tolist() == [[0.3, 0.333, 9, 9]]


def test_no_boxes_at_all():
    clean, faults = check_annotations(annotations([]), "a", "object")
    assert clean.boxes.shape == (0, 4) and faults == []


def test_the_input_is_not_changed():
    given = annotations([[-5, 0, 20, 130]])
    check_annotations(given, "a", "object")
    np.testing.assert_array_equal(given.boxes, [[-5, 0, 20, 130]])


def test_selecting_images_takes_their_boxes_along():
    given = annotations(
        np.arange(16).reshape(4, 4), owners=[0, 1, 1, 3], sizes=[(i + 1, 9) for i in range(4)]
    )
    kept = given.images(np.array([False, True, True, True]))
    assert list(kept.files) == ["1.jpg", "2.jpg", "3.jpg"]
    assert kept.owners.tolist() == [0, 0, 2] and kept.labels.tolist() == [1, 2, 3]
    assert kept.sizes.tolist() == [[2, 9], [3, 9], [4, 9]]
    assert kept.image_ids.tolist() == [11, 12, 13]


FAULTS = [Fault("a.json", f"annotation {i}", "has no area", kept=i == 0) for i in range(13)]


def test_a_fingerprint_is_that_of_files_and_objects_not_of_their_place(tmp_path):
    def lines(folder, names=("0.jpg", "1.jpg"), **columns):
        files = [str(folder / name) for name in names]
        boxes = [[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 5, 5]]
        given = {"owners": [0, 1, 1], "sizes": [(10, 10)] * 2, "files": files} | columns
        return annotations(boxes, **given).fingerprint()

    for folder, sizes in (("a", (3, 4)), ("moved", (3, 4)), ("longer", (3, 5))):
        (tmp_path / folder).mkdir()
        for name, size in enumerate(sizes):
            (tmp_path / folder / f"{name}.jpg").write_bytes(bytes(size))
    before = lines(tmp_path / "a")
    assert [line.split(" ", 1)[1] for line in before] == ["0.jpg", "1.jpg"]
    assert lines(tmp_path / "moved") == before
    longer = lines(tmp_path / "longer")
    assert longer[0] == before[0] and longer[1] != before[1]
    for name, values in {
        "labels": [0, 1, 7], "ignored": [False, False, True], "areas": [np.nan, np.nan, 4.0],
        "owners": [0, 0, 1],
    }.items():  # fmt: skip
        assert lines(tmp_path / "a", **{name: np.array(values)})[1] != before[1]
    # In shards an image is a part of a file; missing files have no length.
    shards = {"ranges": np.array([[0, 3], [3, 4]]), "names": ("s", "s")}
    assert [line.split(" ", 1)[1] for line in lines(tmp_path, **shards)] == ["s", "s at byte 3"]
    assert len(lines(tmp_path / "none")) == 2
    assert annotations([], sizes=np.zeros([0, 2])).fingerprint() == []


def test_faults_are_listed_together_with_their_counts(caplog):
    report_faults("coco train", FAULTS, {"dog": 3, "cat": 1}, max_faults=12)
    listed, other = caplog.messages[1], caplog.messages[0]
    assert other == "coco train: left out objects of other classes: cat 1, dog 3"
    lines = listed.split("\n  ")
    assert lines[0] == "coco train: 13 faults in the annotations, 12 of them dropped"
    assert lines[1] == "a.json: annotation 1 has no area (dropped)"  # what is dropped comes first
    assert len(lines) == 12 and lines[-1].startswith("... and 3 more, in ")


def test_too_many_faults_stop():
    with pytest.raises(ValueError, match=r"13 faults .*, 12 of them dropped\n  a\.json: annot"):
        report_faults("coco train", FAULTS, {}, max_faults=11)
    report_faults("coco train", FAULTS[:1], {}, max_faults=0)  # what is kept does not count


def test_image_faults_count_each_image_once():
    faults = ImageFaults(2)
    assert [faults.skip(m) for m in ("a", "a", "b", "a")] == [""] * 4
    assert faults.skip("c") == ("3 images cannot be read, more than max_bad_images=2; the last: c")
    assert ImageFaults(0).skip("a") == "a"


def test_an_image_of_another_size_than_annotated(tmp_path):
    from PIL import Image

    file = tmp_path / "a.png"
    Image.fromarray(np.zeros([30, 50, 3], np.uint8)).save(file)
    boxes = [[5, 5, 10, 10], [40, 20, 60, 40], [60, 5, 70, 10], [-9, 5, 0, 10]]
    given = replace(annotations(boxes), files=[str(file)])
    notes = []
    with pytest.raises(ImageError, match=f"{file}: expected an image of 200x100 pixels, as annot"):
        make_source(given, notes.extend).read(0, lambda h, w: (h, w))
    given = replace(given, sizes=np.zeros_like(given.sizes))  # unknown
    example = make_source(given, notes.extend).read(0, lambda h, w: (h, w))
    assert example.original_size.tolist() == [30, 50]
    assert example.boxes.tolist() == [[5, 5, 10, 10], [40, 20, 50, 30]]
    assert notes == [
        f"{file}: left out box 3 (60, 5, 70, 10), outside the image of 50x30 pixels",
        f"{file}: left out box 4 (-9, 5, 0, 10), outside the image of 50x30 pixels",
    ]


def test_learned_and_ignored_boxes_are_told_apart(tmp_path):
    from PIL import Image

    file = tmp_path / "a.png"
    Image.fromarray(np.zeros([100, 200, 3], np.uint8)).save(file)
    given = annotations(
        [[0, 0, 4, 5], [1, 1, 9, 9], [2, 2, 8, 8]],
        owners=[1, 1, 1],
        sizes=[(100, 200)] * 2,
        ignored=np.array([False, True, False]),
        areas=np.array([np.nan, 9, 7.5]),
        files=["no file", str(file)],
    )
    notes = []
    source = make_source(given, notes.extend)
    assert (source.num_images, source.most_boxes, source.most_ignored) == (2, 2, 1)
    example = source.read(1, lambda h, w: (h, w))
    assert example.boxes.tolist() == [[0, 0, 4, 5], [2, 2, 8, 8]]
    assert example.areas.tolist() == [20, 7.5]  # of the box where the data set has none
    assert example.labels.tolist() == [0, 2]
    assert example.ignored_boxes.tolist() == [[1, 1, 9, 9]]
    assert example.ignored_labels.tolist() == [1]
    assert example.image_id == 11 and notes == []
