"""Where the files of a COCO split are; one JSON file for all splits; Roboflow's form."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_tf.data.formats import splits
from fcos_tf.data.formats.coco import read_coco

NAMES = [f"photo_{number}.jpg" for number in range(10)]
CAT = {"id": 7, "name": "cat"}


def add(root, json_name, folder, name="a.jpg", categories=(CAT,)):
    """Adds an image of 40x30 pixels, and a JSON file with a box of the last category."""
    for file in (root / json_name, root / folder / name):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(root / folder / name)
    box = {"id": 5, "image_id": 1, "category_id": categories[-1]["id"], "bbox": [1, 2, 3, 4]}
    images = [{"id": 1, "file_name": name}]
    content = {"images": images, "annotations": [box], "categories": categories}
    (root / json_name).write_text(json.dumps(content))
    return root / json_name


@pytest.mark.parametrize(
    ("split", "json_name", "folder"),
    [
        ("all", "labels.json", "."),
        ("all", "labels.json", "labels"),
        ("all", "annotations/labels.json", "images"),
        ("val", "valid.json", "valid"),
        ("val", "annotations/instances_val.json", "validation"),
        ("val", "valid/_annotations.coco.json", "valid"),
        ("train", "train/_annotations.coco.json", "train"),
        ("test", "test/_annotations.coco.json", "test"),
    ],
)
def test_places(tmp_path, split, json_name, folder):
    add(tmp_path, json_name, folder)
    found, faults, _ = read_coco(split, data_dir=tmp_path)
    assert faults == [] and found.notes == ()
    assert [os.path.relpath(file, tmp_path) for file in found.files] == [
        os.path.normpath(f"{folder}/a.jpg")
    ]
    # x2 = x + width: 1 + 3, 2 + 4.
    assert found.boxes.tolist() == [[1, 2, 4, 6]] and found.numbers.tolist() == [5]


def test_a_json_file_anywhere(tmp_path):
    file = add(tmp_path, "x/export/v2.json", "y/photos")
    found, faults, _ = read_coco("all", annotations=file, images=tmp_path / "y" / "photos")
    assert faults == [] and found.files == [str(tmp_path / "y" / "photos" / "a.jpg")]
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*v3\.json; .*: v2\.json$"):
        read_coco("all", annotations=file.with_name("v3.json"), images=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no images folder .*/z$"):
        read_coco("all", annotations=file, images=tmp_path / "z")


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_file_of_one_split_is_read_whole(tmp_path, split):
    # With "train", too: what was asked for by name is not divided by a hash.
    file = add(tmp_path, "annotations/instances_val2017.json", "val2017")
    found, faults, _ = read_coco(split, annotations=file, data_dir=tmp_path)
    assert faults == [] and found.notes == ()
    assert found.files == [str(tmp_path / "val2017" / "a.jpg")]


def test_the_split_in_the_names_of_files(tmp_path):
    for split in ("train", "val"):
        add(tmp_path, f"x/{split}-labels.json", f"photos/{split}", f"{split}.jpg")
    where = {
        "annotations": tmp_path / "x/{split}-labels.json",
        "images": tmp_path / "photos/{split}",
    }
    for split in ("train", "val"):
        found, faults, _ = read_coco(split, **where)  # all of it: no hash
        assert faults == [] and found.notes == ()
        assert found.files == [str(tmp_path / "photos" / split / f"{split}.jpg")]


def test_a_missing_split_of_roboflow(tmp_path):
    add(tmp_path, "train/_annotations.coco.json", "train")
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*instances_test\.json or "):
        read_coco("test", data_dir=tmp_path)


def write_coco(root, names):
    """One JSON for all: image i of 40x30 has i boxes."""
    (root / "images").mkdir()
    for name in names:
        Image.new("RGB", (40, 30)).save(root / "images" / name)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    boxes = [
        {"id": 100 * i + k, "image_id": i, "category_id": 7, "bbox": [1, 2, 3, 4]}
        for i in range(len(names))
        for k in range(i)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "cat"}]}
    (root / "result.json").write_text(json.dumps(content))


def chosen(names, split, val_fraction=0.2):
    return [names[i] for i in splits.choose(names, split, Path("/x"), val_fraction).indices]


def test_one_coco_file_for_all(tmp_path):
    names = NAMES
    write_coco(tmp_path, names)
    for where in (
        {"data_dir": tmp_path},
        {"annotations": tmp_path / "result.json", "images": tmp_path / "images"},
    ):
        for split in ("train", "val", "all"):
            found, faults, _ = read_coco(split, val_fraction=0.4, **where)
            expected = chosen(names, split, 0.4)
            assert faults == []
            assert [Path(file).name for file in found.files] == expected
            counts = np.bincount(found.owners, minlength=found.num_images)
            assert counts.tolist() == [names.index(name) for name in expected]
            assert len(found.notes) == (split != "all")
        first = read_coco("val", val_fraction=0.4, limit=1, **where).annotations
        assert [Path(file).name for file in first.files] == chosen(names, "val", 0.4)[:1]
    # A name that no hash makes: of a file of that split alone.
    assert read_coco("mine", **where).annotations.num_images == 10


def test_a_coco_file_of_one_split_is_not_divided(tmp_path):
    write_coco(tmp_path, NAMES[:3])
    (tmp_path / "result.json").rename(tmp_path / "instances_val2017.json")
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        read_coco("train", data_dir=tmp_path)


def test_faults_of_one_coco_file_are_those_of_the_split(tmp_path):
    write_coco(tmp_path, NAMES)
    content = json.loads((tmp_path / "result.json").read_text())
    content["annotations"][0]["bbox"] = [1, 2, 0, 0]
    content["annotations"].append({"id": 9, "image_id": 99, "category_id": 7, "bbox": [1, 2, 3, 4]})
    (tmp_path / "result.json").write_text(json.dumps(content))
    lost = "has image_id 99, which does not exist"
    faults = {
        split: [fault.what for fault in read_coco(split, data_dir=tmp_path).faults]
        for split in ("train", "val")
    }
    empty = "box (1, 2, 1, 2) has no area"
    mine = "val" if splits.is_val(NAMES[1], 0.2) else "train"
    assert faults == {split: [lost, empty] if split == mine else [lost] for split in faults}


SET_NAME = {"id": 0, "name": "pets", "supercategory": "none"}


@pytest.mark.parametrize(
    ("classes", "used", "names"),
    [
        (None, False, ("cat", "dog")),
        (["pets", "cat"], False, ("pets", "cat")),
        (None, True, ("pets", "cat", "dog")),
    ],
)
def test_the_category_that_only_names_the_set(tmp_path, classes, used, names):
    (tmp_path / "valid").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "valid" / "a.jpg")
    pets = [{"id": i, "name": n, "supercategory": "pets"} for i, n in ((1, "cat"), (2, "dog"))]
    box = {"id": 1, "image_id": 0, "category_id": 0 if used else 1, "bbox": [1, 2, 3, 4]}
    file = tmp_path / "valid" / "_annotations.coco.json"
    images = [{"id": 0, "file_name": "a.jpg"}]
    content = {"images": images, "annotations": [box], "categories": [SET_NAME, *pets]}
    file.write_text(json.dumps(content))
    found, faults, _ = read_coco("val", data_dir=tmp_path, class_names=classes)
    assert faults == [] and found.class_names == names
    assert found.category_ids == tuple({"pets": 0, "cat": 1, "dog": 2}[name] for name in names)
    note = f"{file}: category 0 'pets' only names the set and is left out; --classes keeps it"
    assert found.notes == (() if "pets" in names else (note,))


@pytest.mark.parametrize("classes", [None, ["helmet"]])
def test_a_set_with_the_name_of_a_class(tmp_path, classes):
    (tmp_path / "valid").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "valid" / "a.jpg")
    helmets = [{"id": i, "name": "helmet", "supercategory": ("none", "helmet")[i]} for i in (0, 1)]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content = {"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": [box]}
    file = tmp_path / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps(content | {"categories": helmets}))
    found, faults, others = read_coco("val", data_dir=tmp_path, class_names=classes)
    assert (faults, others) == ([], {}) and found.labels.tolist() == [0]
    assert (found.class_names, found.category_ids) == (("helmet",), (1,))


def test_images_in_data_beside_one_file(tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "data" / "a.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [box]}
    content["categories"] = [{"id": 1, "name": "cat"}]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    found, faults, _ = read_coco("all", data_dir=tmp_path)
    assert faults == [] and found.files == [str(tmp_path / "data" / "a.jpg")]


@pytest.mark.parametrize(
    "categories",
    [
        # A class of its own with id 0, as in sets that count from 0.
        [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "dog"}],
        # A class above another one, but not with id 0, or not at the top.
        [{"id": 2, "name": "cat", "supercategory": "none"},
         {"id": 3, "name": "dog", "supercategory": "cat"}],
        [{"id": 0, "name": "cat", "supercategory": "animal"},
         {"id": 1, "name": "dog", "supercategory": "cat"}],
    ],
)  # fmt: skip
def test_categories_that_are_classes_stay(tmp_path, categories):
    add(tmp_path, "train/_annotations.coco.json", "train", categories=categories)
    found, faults, _ = read_coco("train", data_dir=tmp_path)
    assert faults == [] and found.class_names == ("cat", "dog") and found.notes == ()
    assert found.labels.tolist() == [1]


def test_ids_of_one_coco_file_for_all(tmp_path):
    write_coco(tmp_path, NAMES)
    content = json.loads((tmp_path / "result.json").read_text())
    for record in content["annotations"]:
        record["image_id"] = float(record["image_id"])  # 3.0 is 3
    content["images"][9]["id"] = 8  # as image 8 has
    (tmp_path / "result.json").write_text(json.dumps(content))
    total = 0
    for split in ("train", "val"):
        found, faults, _ = read_coco(split, data_dir=tmp_path, val_fraction=0.4)
        # Both that share an id are faults of every split; so are the 9 boxes of the lost id 9.
        assert [fault.item for fault in faults[:2]] == ["image 8", "image 8"]
        assert [fault.what for fault in faults[2:]] == [
            "has image_id 9.0, which does not exist"
        ] * 9
        assert [Path(file).name for file in found.files] == [
            name for name in chosen(NAMES, split, 0.4) if name not in NAMES[8:]
        ]
        total += len(found.boxes)
    assert total == sum(range(8))  # image i has i boxes
