"""One case for each kind of COCO annotations that are broken: what is said, and what is left."""

import json
import math
import warnings

import numpy as np
import pytest
from PIL import Image

from fcos_tf.data.formats.coco import read_coco


def sound_content() -> dict:
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": 80, "width": 100},
            {"id": 2, "file_name": "b.jpg", "height": 80, "width": 100},
        ],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40]},
            {"id": 11, "image_id": 1, "category_id": 5, "bbox": [5, 5, 10, 10]},
            {"id": 20, "image_id": 2, "category_id": 3, "bbox": [0, 0, 100, 80]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    }


def write(tmp_path, content, images=("a.jpg", "b.jpg")):
    """Writes the JSON (a dict, a text or bytes) and empty image files; returns data_dir."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    for name in images:
        (tmp_path / "val" / name).touch()
    if not isinstance(content, bytes | str):
        content = json.dumps(content)  # writes NaN and Infinity too, as many programs do
    if isinstance(content, str):
        content = content.encode()
    (tmp_path / "annotations" / "instances_val.json").write_bytes(content)
    return tmp_path


def changed(where: str, place: int, **values) -> dict:
    """Sound content with other values in one record; None takes a key away."""
    content = sound_content()
    content[where][place].update(values)
    for key in [key for key, value in values.items() if value is None]:
        del content[where][place][key]
    return content


def added(where: str, *records) -> dict:
    content = sound_content()
    content[where].extend(records)
    return content


def without(key: str) -> dict:
    return {name: value for name, value in sound_content().items() if name != key}


ALL = [10, 11, 20]


# name: (content, faults as (item, how what it says begins, kept), numbers of the annotations that
# are left); the first of several that end alike has the end too
FAULTS = {
    # Boxes
    "bbox missing": (
        changed("annotations", 1, bbox=None),
        [("annotation 11", "has bbox None, expected four numbers", False)],
        [10, 20],
    ),
    "bbox too short": (
        changed("annotations", 1, bbox=[1, 2, 3]),
        [("annotation 11", "has bbox [1, 2, 3]", False)],
        [10, 20],
    ),
    "bbox too long": (
        changed("annotations", 1, bbox=[1, 2, 3, 4, 5]),
        [("annotation 11", "has bbox [1, 2, 3, 4, 5]", False)],
        [10, 20],
    ),
    "bbox of strings": (
        changed("annotations", 1, bbox=["1", "2", "3", "4"]),
        [("annotation 11", "has bbox ['1', '2', '3', '4']", False)],
        [10, 20],
    ),
    "bbox a text": (
        changed("annotations", 1, bbox="1234"),
        [("annotation 11", "has bbox '1234'", False)],
        [10, 20],
    ),
    "bbox over the largest float": (
        changed("annotations", 1, bbox=[1, 2, 3, 10**400]),
        [("annotation 11", "has bbox [1, 2, 3, 100000000000000000...0000000000000000000]", False)],
        [10, 20],
    ),
    "bbox with NaN": (
        changed("annotations", 1, bbox=[1, math.nan, 3, 4]),
        [("annotation 11", "box (1, nan, 4, nan) is not finite", False)],
        [10, 20],
    ),
    "bbox with Infinity": (
        changed("annotations", 1, bbox=[-math.inf, 2, math.inf, 4]),
        [("annotation 11", "box (-inf, 2, nan, 6) is not finite", False)],
        [10, 20],
    ),
    "width negative": (
        changed("annotations", 1, bbox=[50, 2, -30, 4]),
        [("annotation 11", "box (50, 2, 20, 6) has no area", False)],
        [10, 20],
    ),
    "height zero": (
        changed("annotations", 1, bbox=[50, 2, 30, 0]),
        [("annotation 11", "box (50, 2, 80, 2) has no area", False)],
        [10, 20],
    ),
    "box outside the image": (
        changed("annotations", 1, bbox=[100, 2, 30, 4]),
        [("annotation 11", "box (100, 2, 130, 6) lies outside the image of 100x80 pixels", False)],
        [10, 20],
    ),
    "box partly outside is clipped": (
        changed("annotations", 1, bbox=[-9, 70, 20, 30]),
        [("annotation 11", "box (-9, 70, 11, 100) reaches over the image of 100x80", True)],
        ALL,
    ),
    "box a little outside is clipped": (changed("annotations", 1, bbox=[-1, 70, 20, 11]), [], ALL),
    # What annotations refer to
    "image_id unknown": (
        changed("annotations", 1, image_id=9),
        [("annotation 11", "has image_id 9, which does not exist", False)],
        [10, 20],
    ),
    "image_id a text": (
        changed("annotations", 1, image_id="1"),
        [("annotation 11", "has image_id '1'", False)],
        [10, 20],
    ),
    "image_id missing": (
        changed("annotations", 1, image_id=None),
        [("annotation 11", "has image_id None", False)],
        [10, 20],
    ),
    "category_id unknown": (
        changed("annotations", 1, category_id=4),
        [("annotation 11", "has category_id 4", False)],
        [10, 20],
    ),
    "category_id larger than all": (
        changed("annotations", 1, category_id=2**70),
        [("annotation 11", "has category_id 1180591620717411303424", False)],
        [10, 20],
    ),
    # Ids of annotations
    "annotation twice": (
        added("annotations", sound_content()["annotations"][1]),
        [("annotation 11", "is listed again", False)],
        ALL,
    ),
    "annotation twice, and broken": (
        sound_content() | {"annotations": [{"id": 4, "image_id": 1, "category_id": 3}] * 2},
        [("annotation 4", "has bbox None", False)] * 2,
        [],
    ),
    "annotation id twice": (
        changed("annotations", 1, id=10),
        [("annotation 10", "has an id that another annotation has too", True)],
        [10, 10, 20],
    ),
    "annotation id a text": (
        changed("annotations", 1, id="x11"),
        [("annotation at place 1", "has id 'x11', which is not used", True)],
        [10, 1, 20],
    ),
    "annotation no record": (
        added("annotations", [1, 2]),
        [("annotation at place 3", "has image_id None", False)],
        ALL,
    ),
    # Other values of annotations
    "area NaN": (
        changed("annotations", 1, area=math.nan),
        [("annotation 11", "has area nan", True)],
        ALL,
    ),
    "area a text": (
        changed("annotations", 1, area="large"),
        [("annotation 11", "has area 'large'", True)],
        ALL,
    ),
    "iscrowd neither 0 nor 1": (
        changed("annotations", 1, iscrowd="maybe"),
        [("annotation 11", "has iscrowd 'maybe'", True)],
        ALL,
    ),
    # Images
    "image twice": (
        added("images", sound_content()["images"][0]),
        [("image 1", "is listed again", False)],
        ALL,
    ),
    "image id twice": (
        added("images", {"id": 1, "file_name": "b.jpg"}),
        [
            (
                "image 1",
                "has an id that another image has too (this one: 'a.jpg'); "
                "annotations lost with it: 2",
                False,
            ),
            ("image 1", "has an id that another image has too (this one: 'b.jpg')", False),
        ],
        [20],
    ),
    "image id a text": (
        changed("images", 1, id="2"),
        [
            ("image at place 1", "has id '2', expected a whole number", False),
            ("annotation 20", "has image_id 2", False),
        ],
        [10, 11],
    ),
    "image id true": (
        changed("images", 0, id=True),
        [
            ("image at place 0", "has id True", False),
            ("annotation 10", "has image_id 1", False),
            ("annotation 11", "has image_id 1", False),
        ],
        [20],
    ),
    "image id 1.5": (
        added("images", {"id": 1.5, "file_name": "a.jpg"}),
        [("image at place 2", "has id 1.5", False)],
        ALL,
    ),
    "image and annotation both without id": (
        # Two ids that are not there are not the same id.
        added("images", {"file_name": "a.jpg"})
        | {"annotations": [{"id": 10, "category_id": 3, "bbox": [1, 2, 3, 4]}]},
        [
            ("image at place 2", "has id None", False),
            ("annotation 10", "has image_id None", False),
        ],
        [],
    ),
    "file_name missing": (
        changed("images", 1, file_name=None),
        [("image 2", "has file_name None, expected a path; annotations lost with it: 1", False)],
        [10, 11],
    ),
    "image file missing": (
        changed("images", 1, file_name="c.jpg"),
        [("image 2", "has no file c.jpg in FOLDER; annotations lost with it: 1", False)],
        [10, 11],
    ),
    "file_name that no file can have": (
        changed("images", 1, file_name="x\0y/c.jpg"),
        [("image 2", "has no file x\0y/c.jpg in FOLDER; annotations lost with it: 1", False)],
        [10, 11],
    ),
    "two images with one file": (
        added("images", {"id": 3, "file_name": "./a.jpg"}),
        [
            (
                "image 1",
                "has file a.jpg, which another image has too; annotations lost with it: 2",
                False,
            ),
            ("image 3", "has file ./a.jpg, which another image has too", False),
        ],
        [20],
    ),
    "height 0": (
        changed("images", 1, height=0),
        [("image 2", "has height 0 and width 100, taken as unknown", True)],
        ALL,
    ),
    "width missing": (
        changed("images", 1, width=None),
        [("image 2", "has height 80 and width None", True)],
        ALL,
    ),
    "size absurd": (
        changed("images", 1, height="tall", width=1e99),
        [("image 2", "has height 'tall' and width 1e+99", True)],
        ALL,
    ),
    # Categories
    "category without id": (
        added("categories", {"name": "cow"}),
        [("category at place 2", "has id None", False)],
        ALL,
    ),
    "category without name": (
        changed("categories", 1, name=None),
        [("category 5", "has name None, expected a text", True)],
        ALL,
    ),
    "categories with one name but for spaces": (
        changed("categories", 1, name=" cat "),
        [("", "has 2 categories called 'cat', told apart as cat (3), cat (5)", True)],
        ALL,
    ),
    "several come in the order of the file": (
        sound_content()
        | {"images": [{"id": 3}, *sound_content()["images"]]}
        | {
            "annotations": [
                {"id": 12, "image_id": 1, "category_id": 3},
                {"id": 10, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]},
                {"id": 11, "image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 4]},
            ]
        },
        [
            ("image 3", "has file_name None, expected a path", False),
            ("annotation 12", "has bbox None", False),
            ("annotation 11", "has image_id 8", False),
        ],
        [10],
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault(tmp_path, case):
    content, expected, left = FAULTS[case]
    root = write(tmp_path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        annotations, faults, _ = read_coco("val", data_dir=root)
    file = str(root / "annotations" / "instances_val.json")
    folder = str(root / "val")
    for fault, (item, what, kept) in zip(faults, expected, strict=True):
        assert (fault.file, fault.item, fault.kept) == (file, item, kept)
        assert fault.what.startswith(what.replace("FOLDER", folder))
    assert annotations.numbers.tolist() == left


SOUND = json.dumps(sound_content())

# name: (content of the JSON file, what the error says)
ERRORS = {
    "empty file": ("", "is not JSON, or only a part of it: Expecting value"),
    "not JSON": ("<xml/>", "is not JSON, or only a part of it: Expecting value"),
    "cut in the middle": (SOUND[: len(SOUND) // 2], "is not JSON, or only a part of it: .* line 1"),
    "nested too deeply": ("[" * 100_000, "is not JSON, or only a part of it: .*recursion"),
    "an integer of 5000 digits": (
        SOUND.replace('"id": 10', '"id": ' + "1" * 5000),
        "is not JSON, or only a part of it: .*digits",
    ),
    "not UTF-8": (SOUND.replace("cat", "Kätzchen").encode("latin-1"), "is not UTF-8 text"),
    "UTF-16": (SOUND.encode("utf-16"), "is not UTF-8 text"),
    "a list": (sound_content()["annotations"], "holds a list; expected a ground truth, a dict"),
    "an empty list": ([], "holds a list; expected a ground truth, a dict"),
    "null": ("null", "holds a NoneType; expected a ground truth, a dict"),
    "results": (
        [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}],
        r"holds results \(detections\); expected a ground truth, a dict with the lists "
        "images, annotations, categories",
    ),
    "no images": (without("images"), "has nothing under 'images'; expected a ground truth"),
    "no annotations": (without("annotations"), "has nothing under 'annotations'; expected"),
    "no categories": (without("categories"), "has nothing under 'categories'; expected"),
    "annotations by id": (sound_content() | {"annotations": {}}, "has a dict under 'annotations'"),
    "images empty": (sound_content() | {"images": []}, "the list 'images' is empty"),
    "categories empty": (sound_content() | {"categories": []}, "the list 'categories' is empty"),
    "no category usable": (
        sound_content() | {"categories": ["cat"]},
        "none of its categories can be used; the first: .*: category at place 0 has id None",
    ),
    "no image usable": (
        sound_content() | {"images": [{"id": 1, "file_name": "c.jpg"}]},
        "none of its images can be used; the first fault: .*: image 1 has no file c.jpg in .*val",
    ),
    "category with two names": (
        added("categories", {"id": 3, "name": "cow"}),
        "category 3 has two names, 'cat' and 'cow'",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(tmp_path, case):
    content, message = ERRORS[case]
    with pytest.raises(ValueError, match=rf"instances_val\.json:? {message}"):
        read_coco("val", data_dir=write(tmp_path, content))


def test_clipped_box(tmp_path):
    content = changed("annotations", 1, bbox=[-9, 70, 20, 30])
    annotations, _, _ = read_coco("val", data_dir=write(tmp_path, content))
    # x -9..11, y 70..100 in an image of 100x80
    assert annotations.boxes[1].tolist() == [0, 70, 11, 80]


def test_contested_id_takes_both_images_along(tmp_path):
    content = added("images", {"id": 1, "file_name": "b.jpg"})
    annotations, _, _ = read_coco("val", data_dir=write(tmp_path, content))
    assert annotations.image_ids.tolist() == [2]


def test_categories_with_one_name_stay_two_classes(tmp_path):
    content = changed("categories", 1, name="cat")
    annotations, _, _ = read_coco("val", data_dir=write(tmp_path, content))
    assert annotations.class_names == ("cat (3)", "cat (5)")
    assert annotations.labels.tolist() == [0, 1, 0]


def test_values_that_are_not_used(tmp_path):
    content = changed("annotations", 1, area=-4, iscrowd=7)
    annotations, _, _ = read_coco("val", data_dir=write(tmp_path, content))
    assert math.isnan(annotations.areas[1])
    assert not annotations.ignored[1]


def test_a_class_that_the_file_does_not_list(tmp_path):
    root = write(tmp_path, sound_content())
    annotations, faults, _ = read_coco("val", data_dir=root, class_names=["cow", "cat"])
    # As where a val file lists only what it uses: labels stay those of the model.
    assert annotations.class_names == ("cow", "cat")
    assert annotations.category_ids[0] not in (3, 5) and set(annotations.labels.tolist()) == {1}
    assert [(fault.what, fault.kept) for fault in faults] == [("has no category 'cow'", True)]
    with pytest.raises(ValueError, match="classes: expected some of cat, dog, got cow, hen"):
        read_coco("val", data_dir=root, class_names=["cow", "hen"])


def test_the_size_of_the_image_is_used_where_boxes_contradict_the_annotated_one(tmp_path):
    content = sound_content()
    image, annotation = content["images"][0], content["annotations"][0]
    content["annotations"] = [{**annotation, "bbox": [150, 150, 40, 40]}]
    assert annotation["image_id"] == image["id"] and image["width"] == 100
    root = write(tmp_path, content)
    (file,) = root.rglob(image["file_name"])
    Image.fromarray(np.zeros([200, 240, 3], np.uint8)).save(file)
    annotations, faults, _ = read_coco("val", data_dir=root)
    assert annotations.boxes.tolist() == [[150, 150, 190, 190]]
    assert annotations.sizes[0].tolist() == [200, 240]
    (fault,) = faults
    assert fault.kept and fault.file == str(file)
    assert fault.what.startswith("expected an image of 100x80 pixels, as annotated, got 240x200")


def test_no_annotation_file(tmp_path):
    root = write(tmp_path, sound_content())
    with pytest.raises(FileNotFoundError) as caught:
        read_coco("test", data_dir=root)
    assert str(caught.value) == (
        f"no annotation file {root}/annotations/instances_test.json or "
        f"{root}/annotations/test.json or {root}/test/_annotations.coco.json; JSON files in "
        f"{root}: annotations/instances_val.json; --annotations names another"
    )
    message = r"no annotation file .*nowhere\.json; JSON .*: annotations/instances_val\.json$"
    with pytest.raises(FileNotFoundError, match=message):
        read_coco("val", data_dir=root, annotations=root / "nowhere.json")


def test_no_images_folder(tmp_path):
    root = write(tmp_path, sound_content())
    (root / "val").rename(root / "photos")
    with pytest.raises(FileNotFoundError) as caught:
        read_coco("val", data_dir=root)
    assert str(caught.value) == (
        f"no images folder {root}/val or {root}/images/val or {root}/images"
    )
    with pytest.raises(FileNotFoundError, match=r"no images folder .*nowhere$"):
        read_coco("val", data_dir=root, images=root / "nowhere")


def test_neither_data_dir_nor_paths(tmp_path):
    with pytest.raises(ValueError, match="coco needs data_dir, or both"):
        read_coco("val")
    with pytest.raises(ValueError, match="coco needs data_dir, or both"):
        read_coco("val", images=write(tmp_path, sound_content()) / "val")
