"""What was found in an image, as a value."""

import numpy as np
import pytest
from PIL import Image

from fcos_tf.detecting import Detections
from fcos_tf.visualization import class_colour


def make(**changes):
    values = {
        "boxes": [[10, 20, 60, 90], [0, 0, 30, 30], [5, 5, 9, 9]],
        "scores": [0.75, 0.5, 0.25],
        "labels": [1, 0, 1],
        "class_names": ("cat", "dog"),
        "category_ids": (7, 90),
        "image_size": (480, 640),
        "file": "photos/photo.jpg",
    }
    return Detections(**{**values, **changes})


def test_dtypes_and_length():
    found = make()
    assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)
    assert found.labels.dtype.kind == "i" and len(found) == 3
    assert found.names == ["dog", "cat", "dog"]
    nothing = Detections([], [], [])
    assert len(nothing) == 0 and nothing.boxes.shape == (0, 4) and nothing.to_coco() == []


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (np.array([True, False, True]), [0.75, 0.25]),
        (0, [0.75]),
        (-1, [0.25]),
        (np.int64(1), [0.5]),
        (slice(2), [0.75, 0.5]),
        ([0, 2], [0.75, 0.25]),
        (np.zeros(3, bool), []),
    ],
)
def test_indexing_is_that_of_an_array(index, scores):
    found = make()
    part = found[index]
    assert isinstance(part, Detections) and part.scores.tolist() == scores
    assert part.boxes.shape == (len(scores), 4) and part.labels.shape == (len(scores),)
    for name in ("class_names", "category_ids", "image_size", "file"):
        assert getattr(part, name) == getattr(found, name)
    assert len(found) == 3  # as it was


def test_iterating_gives_them_one_by_one():
    found = make()
    assert [one.names for one in found] == [["dog"], ["cat"], ["dog"]]
    assert list(found) == [found[0], found[1], found[2]]
    with pytest.raises(IndexError):
        found[3]


def test_equality_is_that_of_all_values():
    assert make() == make() and make() != make(scores=[0.75, 0.5, 0.125])
    assert make() != make(file=None) and make() != "something else"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "Detections(photo.jpg, 480x640: 2 dog, 1 cat)"),
        ({"file": None}, "Detections(480x640: 2 dog, 1 cat)"),
        ({"file": None, "image_size": None}, "Detections(2 dog, 1 cat)"),
        ({"class_names": None},
         "Detections(photo.jpg, 480x640: 2 of category 90, 1 of category 7)"),
        ({"class_names": None, "category_ids": None, "labels": [4, 4, 4]},
         "Detections(photo.jpg, 480x640: 3 of category 4)"),
        ({"boxes": [], "scores": [], "labels": []}, "Detections(photo.jpg, 480x640: nothing)"),
    ],
)  # fmt: skip
def test_a_line_tells_what_was_found(changes, text):
    assert repr(make(**changes)) == text


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({}, [90, 7, 90]),
        ({"category_ids": None}, [2, 1, 2]),  # counted from 1
        ({"class_names": None}, [90, 7, 90]),
        ({"class_names": None, "category_ids": None}, [1, 0, 1]),  # labels are ids
    ],
)
def test_coco_records_have_the_ids_of_the_data_set(changes, ids):
    records = make(**changes).to_coco(image_id=139)
    assert [record["category_id"] for record in records] == ids
    assert records[0] == {
        "image_id": 139, "category_id": ids[0], "bbox": [10, 20, 50, 70], "score": 0.75,
    }  # fmt: skip


def test_shapes_that_do_not_belong_together_are_named():
    message = r"expected boxes \[D, 4\].* got boxes \[3, 4\], scores \[2\], labels \[3\]"
    with pytest.raises(ValueError, match=message):
        make(scores=[0.5, 0.25])


@pytest.mark.parametrize("kind", ["array", "file", "bytes", "pillow"])
def test_drawn_on_the_image_wherever_that_is(kind, tmp_path):
    pixels = np.full([480, 640, 3], 40, np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    image = {
        "array": pixels, "file": str(path), "bytes": path.read_bytes(), "pillow": Image.open(path),
    }[kind]  # fmt: skip
    picture = make(image=image).draw()
    assert picture.size == (640, 480)
    # A dog's box from (10, 20) to (60, 90): its last row is 89, away from labels.
    assert picture.getpixel((35, 89)) == class_colour(1)
    assert picture.getpixel((300, 300)) == (40, 40, 40)
    # The cat's score is 0.5.
    weak, strong = make(image=image).draw(0.5), make(image=image).draw(0.51)
    assert weak.getpixel((20, 29)) == class_colour(0) and strong.getpixel((20, 29)) == (40,) * 3
    assert (pixels == 40).all()  # it was not drawn on


def test_without_names_pictures_have_the_category_ids(tmp_path):
    image = np.full([480, 640, 3], 40, np.uint8)
    pictures = [
        np.asarray(make(image=image, class_names=names, category_ids=ids).draw())
        for names, ids in ((None, (7, 9)), (("7", "9"), None), (None, None))
    ]
    assert (pictures[0] == pictures[1]).all() and (pictures[0] != pictures[2]).any()


def test_small_images_are_enlarged_by_a_whole_factor():
    found = make(boxes=[[0, 0, 15, 20]], scores=[0.5], labels=[1])
    found = found.__class__(**{**vars(found), "image": np.full([20, 30, 3], 40, np.uint8)})
    picture = found.draw()
    assert picture.size == (330, 220)  # 11 = 320 / 30, rounded up
    assert picture.getpixel((164, 150)) == class_colour(1)
    assert picture.getpixel((165, 150)) == (40, 40, 40)


def test_without_an_image_there_is_nothing_to_draw_on():
    with pytest.raises(ValueError, match=r"draw: expected .* got image=None"):
        make().draw()
