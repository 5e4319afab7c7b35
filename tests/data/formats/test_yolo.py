"""YOLO label files: what is read, and what is wrong with them."""

import pytest
from PIL import Image

from fcos_tf.data import read_annotations
from fcos_tf.data.annotations import Fault
from tests.data.formats.own_data import names_of


def add(root, image, lines=None, label=None):
    """Adds an image of 40x20 pixels, and its label file unless `lines` are None."""
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(root / image)
    if lines is not None:
        file = (root / (label or image.replace("images", "labels"))).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines))


def configure(root, text, name="data.yaml"):
    (root / name).write_text(text)


def test_boxes_are_fractions_of_the_image(tmp_path):
    # Of 40x20 pixels: centre (20, 5), size (20, 10); and centre (10, 15), size (4, 2).
    add(tmp_path, "images/a.jpg", ["1 0.5 0.25 0.5 0.5", "", "0 .25 0.75 1e-1 0.1"])
    configure(tmp_path, "names: [cat, dog]\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert faults == [] and found.boxes.tolist() == [[10, 0, 30, 10], [8, 14, 12, 16]]
    assert found.labels.tolist() == [1, 0] and found.class_names == ("cat", "dog")
    assert found.numbers.tolist() == [1, 3] and found.sizes.tolist() == [[20, 40]]


def test_fractions_of_images_that_viewers_turn(tmp_path):
    add(tmp_path, "images/a.jpg", ["0 0.5 0.25 0.5 0.5"])
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    configure(tmp_path, "names: ['cat ']\n")
    found, (fault,), _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert fault.kept and "has EXIF orientation 8, which other programs apply" in fault.what
    assert found.boxes.tolist() == [[10, 0, 30, 10]] and found.class_names == ("cat",)
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path, apply_exif=True)
    assert faults == [] and found.boxes.tolist() == [[5, 0, 15, 20]]


def test_polygons_become_their_boxes(tmp_path):
    # x from .1 to .5 of 40, y from .2 to .9 of 20; then the four corners of a rotated box.
    triangle = "0 0.1 0.2 0.5 0.3 0.2 0.9"
    add(tmp_path, "images/a.jpg", [triangle, "0 0 0.5 0.5 0 1 0.5 0.5 1"])
    configure(tmp_path, "names: {0: cat}\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert faults == [] and found.boxes.tolist() == [[4, 4, 20, 18], [0, 0, 40, 20]]


def test_keypoints_are_not_used(tmp_path):
    # Centre (20, 5), size (20, 10) of 40x20 pixels; two points with visibility.
    points = "0.1 0.2 2 0 0 0"
    lines = [f"0 0.5 0.25 0.5 0.5 {points}", "0 0.5 0.25 0.5 0.5", f"0 .1 .2 .5 .3 .2 .9 {points}"]
    add(tmp_path, "images/a.jpg", lines)
    configure(tmp_path, "kpt_shape: [2, 3]\nnames: [cat]\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert found.boxes.tolist() == [[10, 0, 30, 10]]
    what = "has {} numbers, expected 11, a box and the keypoints of kpt_shape"
    file = str(tmp_path / "labels" / "a.txt")
    assert faults == [
        Fault(file, "line 2", what.format(5)),
        Fault(file, "line 3", what.format(13)),
    ]


def test_an_empty_or_missing_label_file_is_an_image_without_objects(tmp_path):
    add(tmp_path, "images/a.jpg", [])
    add(tmp_path, "images/b.jpg")
    add(tmp_path, "images/c.jpg", ["0 0.5 0.5 1 1"])
    configure(tmp_path, "names: [cat]\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert faults == [] and found.num_images == 3 and found.owners.tolist() == [2]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("2 0.5 0.5 0.1 0.1", "has class 2, expected 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "has class -1, expected 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "has class 0.5, expected 0 to 1"),
        ("0 0.5 0.5 0.1", "has 4 numbers, expected 5, or a class and 3 points or more"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 6 numbers, expected 5, or a class and 3 points or more"),
        ("0 0 0 1 1 1 0 1", "has 8 numbers, expected 5, or a class and 3 points or more"),
        ("cat 0.5 0.5 0.1 0.1", "expected numbers, got 'cat 0.5 0.5 0.1 0.1'"),
        ("0 0.5 1.02 0.1 0.1", "has 1.02, expected fractions of the image from 0 to 1"),
        ("0 -0.02 0.5 0.1 0.1", "has -0.02, expected fractions of the image from 0 to 1"),
        ("0 20 10 8 4", "has 20, expected fractions of the image from 0 to 1"),
        ("0 nan 0.5 0.1 0.1", "has nan, expected fractions of the image from 0 to 1"),
        ("0 0.5 0.5 0 0.1", "box (20, 9, 20, 11) has no area"),
        ("1 0.5 0.5 0.2 0.2", "repeats line 1"),
    ],
)
def test_lines_with_faults_are_named(tmp_path, line, what):
    add(tmp_path, "images/a.jpg", ["1 0.5 0.5 0.2 0.2", line, "0 0.5 0.5 0.2 0.2"])
    configure(tmp_path, "names: [cat, dog]\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert faults == [Fault(str(tmp_path / "labels" / "a.txt"), "line 2", what)]
    assert found.numbers.tolist() == [1, 3]


def test_boxes_that_overhang_a_little_are_cut(tmp_path):
    # Centre (40, 10), size (8, 4): from 36 to 44 of 40 pixels.
    add(tmp_path, "images/a.jpg", ["0 1.0 0.5 0.2 0.2"])
    configure(tmp_path, "names: [cat]\n")
    found, (fault,), _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert found.boxes.tolist() == [[36, 8, 40, 12]] and fault.kept


SPLITS = {
    "folders of ultralytics": (
        "path: .\ntrain: images/train\nval: images/val\n", "images/train/a.jpg", "images/val/b.jpg"
    ),
    "folders of Roboflow": (
        "train: ../train/images\nval: ../valid/images\n", "train/images/a.jpg", "valid/images/b.jpg"
    ),
    "the key validation": (
        "train: [images/x, images/z]\nvalidation: images/y\n", "images/x/a.jpg", "images/y/b.jpg"
    ),
    "a path of another machine": (
        "path: /datasets/cats\ntrain: t/images\nval: v/images\n", "t/images/a.jpg", "v/images/b.jpg"
    ),
    "lists": ("train: train.txt\nval: val.txt\n", "images/a.jpg", "images/b.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_splits_of_data_yaml(tmp_path, name):
    text, train, val = SPLITS[name]
    add(tmp_path, train, ["0 0.5 0.5 1 1"]), add(tmp_path, val, ["1 0.5 0.5 1 1"])
    (tmp_path / "images" / "z").mkdir(parents=True, exist_ok=True)
    (tmp_path / "train.txt").write_text(
        f"./{train}\n\nimages/lost.jpg\n" if "lists" in name else ""
    )
    (tmp_path / "val.txt").write_text(f"{tmp_path / val}\n")
    configure(tmp_path, f"{text}nc: 2\nnames: ['cat', 'dog']\n")
    for split, image, label in (("train", train, 0), ("val", val, 1)):
        found, faults, _ = read_annotations("yolo", split, data_dir=tmp_path)
        lost = [Fault(str(tmp_path / "train.txt"), "line 3", "names 'images/lost.jpg', which is no "
                                                             "file")]  # fmt: skip
        assert faults == (lost if (name, split) == ("lists", "train") else [])
        assert names_of(found, tmp_path) == [image] and found.labels.tolist() == [label]
    found, _, _ = read_annotations("yolo", "val", annotations=tmp_path / "data.yaml")
    assert names_of(found, tmp_path) == [val]
    assert read_annotations("yolo", "train+val", data_dir=tmp_path).annotations.num_images == 2
    with pytest.raises(FileNotFoundError, match=r"data\.yaml: no split 'test'; there are: train, "):
        read_annotations("yolo", "test", data_dir=tmp_path)


def test_the_path_of_data_yaml_is_relative_to_it(tmp_path):
    add(tmp_path, "cats/images/a.jpg", ["0 0.5 0.5 1 1"])
    configure(tmp_path, "path: cats\ntrain: images\nnames: [cat]\n", "cats.yml")
    found, _, _ = read_annotations("yolo", "train", data_dir=tmp_path)
    assert names_of(found, tmp_path) == ["cats/images/a.jpg"] and found.notes == ()
    configure(tmp_path, "path: gone\ntrain: cats/images\nnames: [cat]\n", "cats.yml")
    (note,) = read_annotations("yolo", "train", data_dir=tmp_path).annotations.notes
    assert note == f"{tmp_path / 'cats.yml'}: its path gone is not there; {tmp_path} is used"


@pytest.mark.parametrize("data", ["train: images/x\nval: images/y\n", "train: t.txt\nval: v.txt\n"])
def test_labels_without_image_are_told_of_splits(tmp_path, data):
    for name in ("x/a", "x/b", "x/lost", "y/c", "y/gone"):
        add(tmp_path, f"images/{name}.jpg", ["0 0.5 0.5 1 1"])
    lost, gone = "x/lost", "y/gone"
    for name in (lost, gone):
        (tmp_path / "images" / f"{name}.jpg").unlink()
    (tmp_path / "labels" / "x" / "._a.txt").write_text("of macOS")
    configure(tmp_path, f"{data}names: [cat]\n")
    # By lists, b is an image of no split, which is no fault.
    configure(tmp_path, "images/x/a.jpg\n", "t.txt"), configure(tmp_path, "images/y/c.jpg", "v.txt")
    for split, name in (("train", lost), ("val", gone)):
        _, faults, _ = read_annotations("yolo", split, data_dir=tmp_path)
        file = str(tmp_path / "labels" / f"{name}.txt")
        assert faults == [Fault(file, "", "has no image of its name")]


def test_lists_that_share_their_folders_have_no_labels_without_image(tmp_path):
    for name in "ab":
        add(tmp_path, f"images/{name}.jpg", ["0 0.5 0.5 1 1"])
        configure(tmp_path, f"images/{name}.jpg\n", f"{name}.txt")
    configure(tmp_path, "train: a.txt\nval: b.txt\nnames: [cat]\n")
    for split in ("train", "val"):
        assert read_annotations("yolo", split, data_dir=tmp_path).faults == []


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_names_of_classes_beside_the_labels(tmp_path, place):
    add(tmp_path, "images/a.jpg", ["1 0.5 0.5 1 1"])
    (tmp_path / place).write_text("cat\ndog\n\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert faults == [] and found.class_names == ("cat", "dog") and found.labels.tolist() == [1]
    found, _, others = read_annotations("yolo", "all", data_dir=tmp_path, classes=["cat"])
    assert found.labels.tolist() == [] and others == {"dog": 1}


def test_names_that_differ_from_folder_to_folder_are_refused(tmp_path):
    for split, names in (("train", "cat\ndog\n"), ("val", "dog\ncat\n")):
        add(tmp_path, f"images/{split}/a.jpg", ["0 0.5 0.5 1 1"])
        (tmp_path / "labels" / split / "classes.txt").write_text(names)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read_annotations("yolo", "train", data_dir=tmp_path).faults == []  # the one above counts
    (tmp_path / "classes.txt").unlink()
    message = (
        r"val/classes\.txt: expected the names of .*train/classes\.txt, cat, dog, got dog, cat"
    )
    with pytest.raises(ValueError, match=message):
        read_annotations("yolo", "train", data_dir=tmp_path)


def test_darknet_names_splits_in_obj_data(tmp_path):
    add(tmp_path, "obj_train_data/a.jpg", ["0 0.5 0.5 1 1"])
    add(tmp_path, "obj_valid_data/b.jpg", ["1 0.5 0.5 1 1"])
    data = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    configure(tmp_path, data, "obj.data"), configure(tmp_path, "cat\ndog\n", "obj.names")
    configure(tmp_path, "data/obj_train_data/a.jpg\n", "train.txt")
    configure(tmp_path, "/home/somebody/data/obj_valid_data/b.jpg\n", "valid.txt")
    for split, image, label in (
        ("train", "obj_train_data/a.jpg", 0),
        ("val", "obj_valid_data/b.jpg", 1),
    ):
        found, faults, _ = read_annotations("yolo", split, data_dir=tmp_path)
        assert faults == [] and found.class_names == ("cat", "dog")
        assert names_of(found, tmp_path) == [image] and found.labels.tolist() == [label]
    (tmp_path / "valid.txt").rename(tmp_path / "other.txt")  # one list alone is of no split
    assert read_annotations("yolo", "all", data_dir=tmp_path).annotations.num_images == 2
    (tmp_path / "other.txt").rename(tmp_path / "valid.txt")
    configure(tmp_path, "data/lost.jpg\n", "train.txt")
    with pytest.raises(
        FileNotFoundError, match=r"train has no images; the first fault: .*lost\.jpg"
    ):
        read_annotations("yolo", "train", data_dir=tmp_path)


@pytest.mark.parametrize("place", ["classes.txt", "my.names", "train.txt"])
def test_texts_are_utf_8_with_or_without_a_byte_order_mark(tmp_path, place):
    add(tmp_path, "images/k\xe4tzchen.jpg", ["0 0.5 0.5 1 1"])
    if place == "train.txt":
        configure(tmp_path, "train: train.txt\nnames: [cat]\n")
    split = "train" if place == "train.txt" else "all"
    text = "images/k\xe4tzchen.jpg\n" if place == "train.txt" else "k\xe4tzchen\n"
    (tmp_path / place).write_text(text, "utf-8-sig")
    found, faults, _ = read_annotations("yolo", split, data_dir=tmp_path)
    assert faults == [] and found.num_images == 1
    assert found.class_names == ("cat" if place == "train.txt" else "k\xe4tzchen",)
    (tmp_path / place).write_text(text, "latin-1")
    with pytest.raises(ValueError, match=rf"^{tmp_path / place}: expected text in UTF-8, got 'utf"):
        read_annotations("yolo", split, data_dir=tmp_path)


def test_given_names_of_classes(tmp_path):
    add(tmp_path, "photos/a.jpg", ["1 0.5 0.5 1 1"], label="boxes/a.txt")
    where = {"images": tmp_path / "photos", "annotations": tmp_path / "boxes"}
    found, faults, _ = read_annotations("yolo", "all", classes=["cat", "dog"], **where)
    assert found.labels.tolist() == [1]
    assert [fault.item for fault in faults if not fault.kept] == []
    with pytest.raises(ValueError, match=r"names of the classes in data\.yaml, classes\.txt or"):
        read_annotations("yolo", "all", **where)


@pytest.mark.parametrize("data_dir", ["", "."])
def test_labels_beside_the_images(tmp_path, monkeypatch, data_dir):
    add(tmp_path, "a.jpg", ["0 0.5 0.5 1 1"])
    add(tmp_path, "b.jpg")
    (tmp_path / "classes.txt").write_text("cat\n")
    monkeypatch.chdir(tmp_path)
    found, faults, _ = read_annotations("yolo", "all", data_dir=data_dir or tmp_path)
    assert faults == [] and found.owners.tolist() == [0] and found.num_images == 2


def test_labels_without_image_and_images_that_cannot_be_read(tmp_path):
    for name in "abc":
        add(tmp_path, f"images/{name}.jpg", ["0 0.5 0.5 1 1"])
    (tmp_path / "images" / "b.jpg").unlink(), (tmp_path / "images" / "c.jpg").write_text("none")
    configure(tmp_path, "names: [cat]\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert names_of(found, tmp_path / "images") == ["a.jpg"]
    what = "cannot be read; its size is needed for its boxes"
    assert faults == [
        Fault(str(tmp_path / "labels" / "b.txt"), "", "has no image of its name"),
        Fault(str(tmp_path / "images" / "c.jpg"), "", what),
    ]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a.jpg", "IMG_1.JPG"], ["a.txt", "img_1.txt"]),
        (["a.jpg", "\u00e9.jpg"], ["a.txt", "e\u0301.txt"]),
        (["images/val/a.jpg", "images/train/b.jpg"], ["labels/val/a.txt", "labels/training/b.txt"]),
        (["images/a.jpg", "images/s2/b.jpg"], ["labels/a.txt", "labels/S2/b.txt"]),
        (["images/a.jpg", "images/b.jpg"], ["labels/a.txt", "labels/sub/b.txt"]),
        (["images/a.jpg", "images/b.jpg"], ["labels/a.txt", "labels/b.TXT"]),
        (["images/a.jpg", "images/b.jpg"], ["labels/a.txt", "images/c.txt"]),
    ],
)
def test_a_label_that_belongs_to_no_image_is_named(tmp_path, images, labels):
    for image in images:
        add(tmp_path, image)
    for label in labels:
        (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / label).write_text("0 0.5 0.5 1 1\n")
    (tmp_path / images[0]).with_name("notes.txt").write_text("0 of 5 cats\n")  # no label
    configure(tmp_path, "names: [cat]\n")
    found, faults, _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert len(found.boxes) == 1 and found.num_images == 2
    assert faults == [Fault(str(tmp_path / labels[1]), "", "has no image of its name")]


def test_labels_of_a_split_without_images_and_of_other_data_are_not_looked_at(tmp_path):
    root = tmp_path / "images" / "set"
    add(root, "images/val/a.jpg", ["0 0.5 0.5 1 1"])
    for label in (
        root / "labels/train/b.txt",
        root / "labels/VAL/c.txt",
        tmp_path / "labels/d.txt",
    ):
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 1 1\n")
    configure(root, "train: images/train\nval: images/val\nnames: [cat]\n")
    found, (fault,), _ = read_annotations("yolo", "val", data_dir=root)
    assert found.num_images == 1 and fault.file == str(root / "labels/VAL/c.txt")


def test_the_image_of_a_label_that_cannot_be_read_is_left_out(tmp_path):
    for name in "ab":
        add(tmp_path, f"images/{name}.jpg", ["0 0.5 0.5 1 1"])
    (tmp_path / "labels/b.txt").write_text("0 0.5 0.5 1 1\n", encoding="utf-16")
    configure(tmp_path, "names: [cat]\n")
    found, (fault,), _ = read_annotations("yolo", "all", data_dir=tmp_path)
    assert names_of(found, tmp_path / "images") == ["a.jpg"]
    assert fault.file == str(tmp_path / "labels/b.txt") and not fault.kept
    assert fault.what.startswith("cannot be read, so its image is left out: 'utf-8' codec")


def test_no_label_file_at_all_is_an_error(tmp_path):
    add(tmp_path, "images/a.jpg")
    configure(tmp_path, "names: [cat]\n")
    with pytest.raises(FileNotFoundError, match="none of 1 images has a label file; expected one"):
        read_annotations("yolo", "all", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\n", "is not YAML: while parsing"),
        ("[" * 10_000, "is not YAML: maximum recursion"),
        # 9^40 names.
        (
            "a0: &a0 [cat]\n"
            + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(40))
            + "names: *a40\n",
            r"is not YAML: expected values, got the alias \*a0",
        ),
        ("- cat\n", r"expected train, val and names, got \['cat'\]"),
        ("names: [cat, cat]\n", r"names: expected different names, got \['cat', 'cat'\]"),
        ("names: cat\n", "names: expected different names, got 'cat'"),
        (
            "names: [yes, no]\n",
            "names: expected texts, got True; put yes, no, null and the like in",
        ),
        ("names: [cat, ]\nnc: '2'\n", "expected nc=1, as names has, got '2'"),
        ("names: {1: cat}\n", r"names: expected the classes 0 to 0, got \[1\]"),
        ("names: [cat]\nnc: 2\n", "expected nc=1, as names has, got 2"),
        ("day: 2024-13-45\n", "is not YAML: month must be in 1..12"),
        *(
            (
                f"names: [cat]\nkpt_shape: {shape}\n",
                r"kpt_shape: expected \[number of keypoints, numbers of each\], got ",
            )
            for shape in ("17", "[17]", "[17, 0]", "[17, three]", "[1, 2, 3]")
        ),
        ("names: [cat]\ntrain: nowhere\n", "no folder or list .*nowhere"),
    ],
)
def test_a_wrong_data_yaml_is_refused(tmp_path, text, message):
    add(tmp_path, "images/a.jpg", ["0 0.5 0.5 1 1"])
    configure(tmp_path, text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"data\.yaml:? {message}"):
        read_annotations("yolo", "train", data_dir=tmp_path)
