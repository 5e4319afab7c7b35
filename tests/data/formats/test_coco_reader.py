import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fcos_tf.data.annotations import Annotations
from fcos_tf.data.formats.coco import read_coco, write_coco
from fcos_tf.data.formats.records import Frame

# Ids in no order, and category ids with gaps, as in COCO itself.
CONTENT = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 80, "width": 100, "license": 1},
        {"id": 5, "file_name": "empty.jpg", "height": 30, "width": 40},
        {"id": 3, "file_name": "a.jpg"},
    ],
    "annotations": [
        {"id": 31, "image_id": 3, "category_id": 18, "bbox": [1, 2, 3, 4.5], "area": 11.25},
        {
            "id": 30,
            "image_id": 7,
            "category_id": 2,
            "bbox": [10.5, 20.25, 30.0, 40.0],
            "area": 700.0,
            "iscrowd": 0,
            "segmentation": [[10.5, 20.25, 40.5, 20.25, 40.5, 60.25]],
        },
        {
            "id": 29,
            "image_id": 7,
            "category_id": 90,
            "bbox": [0, 0, 50, 60],
            "iscrowd": 1,
            "segmentation": {"counts": [10, 20], "size": [80, 100]},
            "keypoints": [1, 2, 2],
        },
    ],
    "categories": [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 2, "name": "bicycle"},
        {"id": 18, "name": "dog"},
    ],
}
COLUMNS = ("image_ids", "sizes", "owners", "boxes", "labels", "areas", "ignored", "numbers")


def write_split(
    root, content=CONTENT, *, json_name="annotations/instances_val2017.json", images="val2017"
):
    """Writes a JSON and an empty file for each image that it names."""
    file = root / json_name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    (root / images).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        (root / images / image["file_name"]).touch()
    return root


def assert_same(got: Annotations, expected: Annotations):
    for name in COLUMNS:
        column, other = getattr(got, name), getattr(expected, name)
        assert column.dtype == other.dtype, name
        np.testing.assert_array_equal(column, other, name)
    assert got.class_names == expected.class_names
    assert got.category_ids == expected.category_ids


def test_every_column(tmp_path):
    annotations, faults, other_classes = read_coco("val2017", data_dir=write_split(tmp_path))
    assert faults == []
    assert other_classes == {}
    assert annotations.files == [
        str(tmp_path / "val2017" / name) for name in ("b.jpg", "empty.jpg", "a.jpg")
    ]
    assert_same(
        annotations,
        Annotations(
            files=annotations.files,
            image_ids=np.array([7, 5, 3]),
            sizes=np.array([[80, 100], [30, 40], [0, 0]], np.int32),
            # By image, and within an image in the order of the file.
            owners=np.array([0, 0, 2]),
            # x2 = 10.5 + 30, y2 = 20.25 + 40; 0 + 50, 0 + 60; 1 + 3, 2 + 4.5
            boxes=np.array([[10.5, 20.25, 40.5, 60.25], [0, 0, 50, 60], [1, 2, 4, 6.5]]),
            # Categories 2, 18, 90 are labels 0, 1, 2.
            labels=np.array([0, 2, 1], np.int32),
            areas=np.array([700, np.nan, 11.25]),
            ignored=np.array([False, True, False]),
            numbers=np.array([30, 29, 31]),
            class_names=("bicycle", "dog", "toothbrush"),
            category_ids=(2, 18, 90),
        ),
    )


@pytest.mark.parametrize(
    ("json_name", "images"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/val2017.json", "val2017"),
        ("annotations/val2017.json", "images"),
    ],
)
def test_layouts(tmp_path, json_name, images):
    root = write_split(tmp_path, json_name=json_name, images=images)
    annotations, faults, _ = read_coco("val2017", data_dir=root)
    assert faults == []
    assert annotations.files[0] == str(root / images / "b.jpg")


def test_explicit_paths_go_before_the_layout(tmp_path):
    write_split(tmp_path)
    fewer = CONTENT | {"images": CONTENT["images"][:1]}
    write_split(tmp_path, fewer, json_name="train/_annotations.coco.json", images="train")
    file, images = tmp_path / "train/_annotations.coco.json", tmp_path / "train"
    annotations, _, _ = read_coco("", annotations=file, images=images)
    assert annotations.files == [str(images / "b.jpg")]
    annotations, _, _ = read_coco("val2017", data_dir=tmp_path, annotations=file)
    assert annotations.files == [str(tmp_path / "val2017" / "b.jpg")]
    annotations, faults, _ = read_coco("val2017", data_dir=tmp_path, images=images)
    assert annotations.files == [str(images / "b.jpg")]
    assert [fault.item for fault in faults] == ["image 5", "image 3"]


def test_file_names_of_windows(tmp_path):
    folder = tmp_path / "photos"
    (folder / "night").mkdir(parents=True)
    (folder / "night" / "1.jpg").touch(), (folder / "2.jpg").touch()
    names = ["night\\1.jpg", "..\\media\\2.jpg"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(CONTENT | {"images": images, "annotations": []}))
    annotations, faults, _ = read_coco("", annotations=file, images=folder)
    assert faults == []
    assert annotations.files == [str(folder / "night" / "1.jpg"), str(folder / "2.jpg")]


def test_the_last_part_of_a_name_counts_only_where_one_record_has_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").touch(), (folder / "2.jpg").touch()
    names = ["a/1.jpg", "b/1.jpg", "c/2.jpg"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(CONTENT | {"images": images, "annotations": []}))
    annotations, faults, _ = read_coco("", annotations=file, images=folder)
    assert annotations.files == [str(folder / "2.jpg")]
    assert [fault.what for fault in faults] == [
        f"has no file a/1.jpg in {folder}, and 1.jpg there may be that of b/1.jpg",
        f"has no file b/1.jpg in {folder}, and 1.jpg there may be that of a/1.jpg",
    ]


@pytest.mark.parametrize(
    ("stated", "file"),
    [
        ("a.JPG", "a.jpg"),
        ("photos/caf\u00e9.jpg", "cafe\u0301.jpg"),  # NFC, NFD
        ("a%20b.jpg", "a b.jpg"),
        ("100%25.jpg", "100%25.jpg"),
        ("https://host/data/a%20b.jpg?token=1%2F2", "a b.jpg"),
        ("/data/local-files/?d=set/a%20b.jpg", "a b.jpg"),
        (" a.jpg\n", "a.jpg"),
    ],
)
def test_names_in_other_spellings(tmp_path, stated, file):
    content = {**CONTENT, "images": [{"id": 7, "file_name": file}]}
    root = write_split(tmp_path, content)
    content["images"][0]["file_name"] = stated
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    annotations = read_coco("val2017", data_dir=root).annotations
    assert annotations.files == [str(root / "val2017" / file)]


def test_a_spelling_that_fits_two_files_or_two_records_is_none(tmp_path):
    content = {**CONTENT, "images": [{"id": 7, "file_name": n} for n in ("a.jpg", "A.jpg")]}
    root = write_split(tmp_path, content)
    file = root / "annotations" / "instances_val2017.json"
    content["images"] = [{"id": 7, "file_name": "a.JPG"}, {"id": 3, "file_name": "a.jpg"}]
    file.write_text(json.dumps(content))
    result = read_coco("val2017", data_dir=root)
    assert result.annotations.image_ids.tolist() == [3]
    assert "image 7 has no file a.JPG in" in str(result.faults[0])
    (root / "val2017" / "A.jpg").unlink()
    with pytest.raises(ValueError, match=r"image 7 has file a\.JPG, which another image has too"):
        read_coco("val2017", data_dir=root)


def test_photos_that_were_resized_after_annotation(tmp_path):
    root = write_split(tmp_path, {**CONTENT, "images": CONTENT["images"][:1]})
    Image.new("RGB", (50, 40)).save(root / "val2017" / "b.jpg")  # annotated as 100x80
    frame = Frame(scale_boxes=True)
    found = read_coco("val2017", data_dir=root, frame=frame).annotations
    assert found.boxes.tolist() == [[5.25, 10.125, 20.25, 30.125], [0, 0, 25, 30]]
    assert found.areas[0] == 700 / 4 and found.sizes.tolist() == [[40, 50]]


def test_a_split_whose_only_image_has_another_size_is_refused(tmp_path):
    # The box reaches over 100x80, so the image is looked at: it has 50x40.
    box = {**CONTENT["annotations"][1], "bbox": [0, 0, 120, 60]}
    content = {**CONTENT, "images": CONTENT["images"][:1], "annotations": [box]}
    root = write_split(tmp_path, content)
    Image.new("RGB", (50, 40)).save(root / "val2017" / "b.jpg")
    with pytest.raises(ValueError, match=r"none of its images can be used; .* got 50x40"):
        read_coco("val2017", data_dir=root)
    # That there is no zebra is told, too, but is not why.
    with pytest.raises(ValueError, match=r"the first fault: .* got 50x40"):
        read_coco("val2017", data_dir=root, class_names=("dog", "bicycle", "zebra"))


def test_file_name_with_a_folder(tmp_path):
    images = [
        {"id": 1, "file_name": "night/1.jpg"},  # in val2017/night
        {"id": 2, "file_name": "val2017/2.jpg"},  # in val2017 itself
        {"id": 3, "file_name": "/somebody/elses/disk/3.jpg"},
        {"id": 4, "file_name": "day/1.jpg"},  # 1.jpg is there, but not in day
    ]
    folder = tmp_path / "val2017"
    (folder / "night").mkdir(parents=True)
    (folder / "night" / "1.jpg").touch()
    (folder / "2.jpg").touch(), (folder / "3.jpg").touch()
    file = tmp_path / "a.json"
    file.write_text(json.dumps(CONTENT | {"images": images, "annotations": []}))
    annotations, faults, _ = read_coco("", annotations=file, images=folder)
    assert annotations.files == [str(folder / name) for name in ("night/1.jpg", "2.jpg", "3.jpg")]
    assert [str(fault) for fault in faults] == [
        f"{file}: image 4 has no file day/1.jpg in {folder}"
    ]


def test_sizes_that_are_spelled_otherwise(tmp_path):
    images = [
        {"id": 1, "file_name": "1.jpg", "height": "480", "width": 640.0},
        {"id": 2, "file_name": "2.jpg", "height": None, "width": None},
    ]
    root = write_split(tmp_path, CONTENT | {"images": images, "annotations": []})
    annotations, faults, _ = read_coco("val2017", data_dir=root)
    assert annotations.sizes.tolist() == [[480, 640], [0, 0]]
    assert annotations.boxes.shape == (0, 4)
    assert faults == []


def test_class_names_choose_and_order(tmp_path):
    annotations, faults, other_classes = read_coco(
        "val2017", data_dir=write_split(tmp_path), class_names=["toothbrush", "bicycle"]
    )
    assert annotations.class_names == ("toothbrush", "bicycle")
    assert annotations.category_ids == (90, 2)
    assert annotations.numbers.tolist() == [30, 29]
    assert annotations.labels.tolist() == [1, 0]
    assert annotations.num_images == 3
    assert other_classes == {"dog": 1}
    assert faults == []


def test_limit_counts_images_and_is_silent_about_the_others(tmp_path):
    # Of the image that is over the limit, the annotation is no fault, nor is the missing file.
    root = write_split(tmp_path)
    (root / "val2017" / "a.jpg").unlink()
    annotations, faults, _ = read_coco("val2017", data_dir=root, limit=2)
    assert annotations.image_ids.tolist() == [7, 5]
    assert annotations.numbers.tolist() == [30, 29]
    assert faults == []
    assert len(read_coco("val2017", data_dir=root).faults) == 1
    names = ["bicycle", "toothbrush"]
    assert read_coco("val2017", data_dir=root, class_names=names, limit=2).other_classes == {}


def test_whole_numbers_with_a_point(tmp_path):
    # JSON knows one kind of number: 7.0 is 7.
    text = json.dumps(CONTENT).replace('"image_id": 7', '"image_id": 7.0')
    root = write_split(tmp_path)
    (root / "annotations/instances_val2017.json").write_text(text)
    annotations, faults, _ = read_coco("val2017", data_dir=root)
    assert annotations.numbers.tolist() == [30, 29, 31]
    assert faults == []


def test_byte_order_mark(tmp_path):
    root = write_split(tmp_path)
    text = json.dumps(CONTENT)
    (root / "annotations/instances_val2017.json").write_text(text, encoding="utf-8-sig")
    assert read_coco("val2017", data_dir=root).annotations.num_images == 3


def test_numbers_of_annotations_without_id(tmp_path):
    annotations = [dict(annotation) for annotation in CONTENT["annotations"]]
    del annotations[0]["id"], annotations[2]["id"]
    root = write_split(tmp_path, CONTENT | {"annotations": annotations})
    found, faults, _ = read_coco("val2017", data_dir=root)
    assert found.numbers.tolist() == [30, 2, 0]  # their places where there is no id
    assert faults == []


def names_of(annotations):
    return [os.path.basename(file) for file in annotations.files]


def random_annotations(tmp_path, seed=0, num_images=20, num_boxes=400) -> Annotations:
    """Boxes on thousandths of a pixel, as all readers give them."""
    rng = np.random.default_rng(seed)
    files = [tmp_path / "photos" / f"{index}.jpg" for index in range(num_images)]
    files[0].parent.mkdir()
    for file in files:
        file.touch()
    corners = rng.integers(0, 300_000, [num_boxes, 2])
    sides = rng.integers(1, 100_000, [num_boxes, 2])
    return Annotations(
        files=[str(file) for file in files],
        image_ids=rng.permutation(1000)[:num_images],
        sizes=np.tile(np.array([[480, 640]], np.int32), [num_images, 1]),
        owners=np.sort(rng.integers(0, num_images, num_boxes)),
        boxes=np.concatenate([corners, corners + sides], axis=1) / 1000,
        labels=rng.integers(0, 3, num_boxes).astype(np.int32),
        areas=rng.random(num_boxes) * 1000,
        ignored=rng.random(num_boxes) < 0.1,
        numbers=1 + rng.permutation(5000)[:num_boxes],
        class_names=("cat", "dog", "Käfer"),
        category_ids=(3, 17, 20),
    )


def test_written_and_read_again_is_the_same(tmp_path):
    annotations = random_annotations(tmp_path)
    write_coco(annotations, tmp_path / "new" / "a.json", names_of(annotations))
    again, faults, _ = read_coco(
        "", annotations=tmp_path / "new" / "a.json", images=tmp_path / "photos"
    )
    assert faults == []
    assert again.files == annotations.files
    assert_same(again, annotations)


def test_what_is_written_where_something_is_unknown(tmp_path):
    annotations = Annotations(
        files=["x/1.png", "y/1.png"],
        image_ids=np.array([1, 2]),
        sizes=np.array([[0, 0], [20, 30]], np.int32),
        owners=np.array([0, 1]),
        boxes=np.array([[0.1, 0.2, 0.4, 4.2], [5, 5, 6, 7]]),
        labels=np.array([1, 0], np.int32),
        areas=np.array([np.nan, 1.5]),
        ignored=np.array([False, True]),
        numbers=np.array([1, 1]),  # as in a VOC tree, where each file counts its own
        class_names=("cat", "dog"),
        category_ids=(9, 4),
    )
    file = tmp_path / "a.json"
    write_coco(annotations, file, ["x/1.png", "y/1.png"])
    content = json.loads(file.read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "x/1.png"},
        {"id": 2, "file_name": "y/1.png", "height": 20, "width": 30},
    ]
    assert content["categories"] == [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}]
    first, second = content["annotations"]
    # 0.4 - 0.1 is 0.30000000000000004 in float64; thousandths are written.
    assert first["bbox"] == [0.1, 0.2, 0.3, 4.0]
    assert first["area"] == pytest.approx(0.3 * 4.0, abs=1e-12)
    assert second == {
        "id": 2,
        "image_id": 2,
        "category_id": 9,
        "bbox": [5, 5, 1, 2],
        "area": 1.5,
        "iscrowd": 1,
    }


@pytest.mark.parametrize(
    ("numbers", "ids"), [([8, 3], [8, 3]), ([8, 8], [1, 2]), ([0, 1], [1, 2]), ([-1, 1], [1, 2])]
)
def test_numbers_become_ids_where_they_can(tmp_path, numbers, ids):
    annotations = random_annotations(tmp_path, num_boxes=2)
    annotations = replace(annotations, numbers=np.array(numbers))
    write_coco(annotations, tmp_path / "a.json", names_of(annotations))
    content = json.loads((tmp_path / "a.json").read_text())
    assert [record["id"] for record in content["annotations"]] == ids


def test_labels_in_another_order_come_back_by_class_names(tmp_path):
    annotations = replace(random_annotations(tmp_path), category_ids=(20, 3, 17))
    write_coco(annotations, tmp_path / "a.json", names_of(annotations))
    again = read_coco(
        "",
        annotations=tmp_path / "a.json",
        images=tmp_path / "photos",
        class_names=annotations.class_names,
    )
    assert_same(again.annotations, annotations)


@pytest.mark.parametrize(
    # Counted in the JSON files: annotations, and crowds among them.
    ("split", "num_boxes", "num_crowds"),
    [("train2017", 470, 5), ("val2017", 382, 5)],
)
def test_real_coco(shared_data, tmp_path, split, num_boxes, num_crowds):
    root = shared_data / "coco"
    annotations, faults, _ = read_coco(split, data_dir=root)
    raw = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    assert faults == []
    assert annotations.num_images == 50
    assert len(annotations.boxes) == num_boxes
    assert annotations.ignored.sum() == num_crowds
    assert len(annotations.class_names) == 80
    assert annotations.class_names[0] == "person"
    assert annotations.category_ids[-1] == 90
    assert annotations.class_names[-1] == "toothbrush"

    by_id = {annotation["id"]: annotation for annotation in raw["annotations"]}
    assert sorted(annotations.numbers.tolist()) == sorted(by_id)
    originals = [by_id[number] for number in annotations.numbers.tolist()]
    x, y, width, height = np.array([original["bbox"] for original in originals]).T
    # Boxes are clipped to the image; COCO's own go over its edge by rounding only.
    expected = np.stack([x, y, x + width, y + height], axis=1)
    np.testing.assert_allclose(annotations.boxes, expected, rtol=0, atol=0.0051)
    assert annotations.areas.tolist() == [original["area"] for original in originals]
    for name, key in (("image_ids", "image_id"), ("category_ids", "category_id")):
        index = annotations.owners if name == "image_ids" else annotations.labels
        got = np.array(getattr(annotations, name))[index].tolist()
        assert got == [original[key] for original in originals]

    write_coco(annotations, tmp_path / "a.json", names_of(annotations))
    again = read_coco("", annotations=tmp_path / "a.json", images=root / split)
    assert again.faults == []
    assert again.annotations.files == annotations.files
    assert_same(again.annotations, annotations)


def test_ids_below_zero_are_renumbered(tmp_path):
    ids = {7: -7, 5: 5, 3: 3}
    images = [{**image, "id": ids[image["id"]]} for image in CONTENT["images"]]
    objects = [{**each, "image_id": ids[each["image_id"]]} for each in CONTENT["annotations"]]
    root = write_split(tmp_path / "a", {**CONTENT, "images": images, "annotations": objects})
    found, (fault,), _ = read_coco("val2017", data_dir=root)
    assert "has 1 image ids below 0, now 6 and up" in str(fault) and fault.kept
    expected, _, _ = read_coco("val2017", data_dir=write_split(tmp_path / "b"))
    assert found.image_ids.tolist() == [6, 5, 3]
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.owners, expected.owners)


def test_boxes_in_fractions_are_refused(tmp_path):
    objects = [{**each, "bbox": [0.1, 0.2, 0.3, 0.4]} for each in CONTENT["annotations"]]
    root = write_split(tmp_path, {**CONTENT, "annotations": objects})
    with pytest.raises(
        ValueError, match=r"json: expected bbox in pixels, got no corner above 0\.6"
    ):
        read_coco("val2017", data_dir=root)
