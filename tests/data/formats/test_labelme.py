"""labelme's JSON files."""

import json
import os

import pytest
from PIL import Image

from fcos_tf.data import read_annotations
from fcos_tf.data.annotations import Fault
from tests.data.formats.own_data import names_of


def shape(points, kind="rectangle", label="cat"):
    return {"label": label, "shape_type": kind, "points": points}


def add(root, name, *shapes, image="", **more):
    """Adds an image of 40x30 pixels and its JSON file."""
    image = image or f"{os.path.basename(name)}.jpg"
    file = root / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(file.parent / image)
    content = {"imagePath": image, "imageHeight": 30, "imageWidth": 40, "shapes": shapes, **more}
    file.write_text(json.dumps(content))
    return str(file)


def test_rectangles_and_polygons(tmp_path):
    first = shape([[30, 4], [10, 24]])  # drawn from the upper right corner
    second = shape([[1, 2.5], [9, 8], [4, 20]], "polygon", "dog")
    old = {"label": "cat", "points": [[1, 1], [2, 1], [2, 3]]}  # before there were other shapes
    add(tmp_path, "sub/b", first, second, old)
    add(tmp_path, "a", imageData="iVBORw0KGgo=")
    found, faults, _ = read_annotations("labelme", "all", data_dir=tmp_path)
    assert faults == []
    assert [os.path.relpath(file, tmp_path) for file in found.files] == ["a.jpg", "sub/b.jpg"]
    assert found.boxes.tolist() == [[10, 4, 30, 24], [1, 2.5, 9, 20], [1, 1, 2, 3]]
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [0, 1, 0]
    assert found.numbers.tolist() == [1, 2, 3] and found.sizes.tolist() == [[30, 40]] * 2


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (shape([[1, 2], [3, 4]], "circle"), "is a circle, expected a rectangle or a polygon"),
        (shape([[1, 2]], "point"), "is a point, expected a rectangle or a polygon"),
        (shape([[1, 2]]), "is a rectangle of 1 points, expected 2"),
        (shape([[1, 2], [3, 4]], "polygon"), "is a polygon of 2 points, expected 3"),
        (shape([[1], [2]]), "has points [[1], [2]], expected [x, y] each"),
        (shape(None), "has points None, expected [x, y] each"),
        (shape([[1, 2], [3, 4]], label=None), "has label None, expected a text"),
        ([], "expected a shape, got []"),
        (shape([[5, 5], [5, 9]]), "box (5, 5, 5, 9) has no area"),
    ],
)
def test_shapes_that_are_no_boxes_are_faults(tmp_path, wrong, what):
    good = shape([[1, 2], [3, 4]])
    file = add(tmp_path, "a", good, wrong, good)
    found, faults, _ = read_annotations("labelme", "all", data_dir=tmp_path)
    assert faults == [Fault(file, "shape 2", what)] and found.numbers.tolist() == [1, 3]


def test_files_with_faults_are_named(tmp_path):
    add(tmp_path, "a", shape([[1, 2], [3, 4]]))
    for name, text in (("b", "{"), ("c", "[]"), ("d", '{"shapes": [], "imagePath": "x.jpg"}')):
        (tmp_path / f"{name}.json").write_text(text)
    found, faults, _ = read_annotations("labelme", "all", data_dir=tmp_path)
    assert found.num_images == 1
    assert [(fault.file[-6:], fault.item) for fault in faults] == [
        ("b.json", ""), ("c.json", ""), ("d.json", "")
    ]  # fmt: skip
    assert faults[1].what == "expected a JSON file of labelme with a list of shapes"
    assert faults[2].what == f"expected its image {tmp_path / 'd'}.jpg, got no such file"


@pytest.mark.parametrize("side", [2**31, 10**400, 0, -1, None, [30], "tall"])
def test_a_size_that_is_none_is_unknown(tmp_path, side):
    add(tmp_path, "a", shape([[1, 2], [3, 4]]), imageHeight=side)
    found, faults, _ = read_annotations("labelme", "all", data_dir=tmp_path)
    assert faults == [] and found.sizes.tolist() == [[30, 40]]


@pytest.mark.parametrize("side", [60.0, "60"])
def test_a_size_may_be_a_float_or_a_text(tmp_path, side):
    add(tmp_path, "a", shape([[1, 2], [3, 4]]), imageHeight=side)  # of an image of 30 rows
    add(tmp_path, "b", shape([[1, 2], [3, 4]]))
    found, (fault,), _ = read_annotations("labelme", "all", data_dir=tmp_path)
    assert names_of(found, tmp_path) == ["b.jpg"]
    assert fault.what.startswith("expected an image of 40x60 pixels, as annotated, got 40x30")


def test_shapes_marked_difficult_are_not_learned(tmp_path):
    marked = {**shape([[5, 6], [9, 9]]), "difficult": True}
    add(tmp_path, "a", shape([[1, 2], [3, 4]]), marked, {**marked, "difficult": False})
    found, faults, _ = read_annotations("labelme", "all", data_dir=tmp_path)
    assert found.ignored.tolist() == [False, True, False] and faults == []


def test_the_image_is_found_by_its_path_where_the_names_differ(tmp_path):
    add(tmp_path, "json/1", shape([[1, 2], [3, 4]]), image="photo.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "json" / "photo.png").rename(tmp_path / "photos" / "photo.png")
    file = tmp_path / "json" / "1.json"
    file.write_text(file.read_text().replace("photo.png", "..\\\\photos\\\\photo.png"))
    for where in (
        {"data_dir": tmp_path},
        {"annotations": tmp_path / "json", "images": tmp_path / "photos"},
    ):
        found, faults, _ = read_annotations("labelme", "all", **where)
        assert faults == [] and found.files == [str(tmp_path / "photos" / "photo.png")]


def test_classes_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no JSON files in"):
        read_annotations("labelme", "train", data_dir=tmp_path)
    add(tmp_path, "a", shape([[1, 2], [3, 4]], label="dog"))
    found, faults, others = read_annotations("labelme", "all", data_dir=tmp_path, classes=["cat"])
    assert others == {"dog": 1} and len(found.boxes) == 0
    what = "was asked for, but no object of split 'all' has it"
    assert faults == [Fault(str(tmp_path), "class 'cat'", what, kept=True)]
