"""VOC trees: what is read, what is left out, what is refused."""

import cv2
import numpy as np
import pytest

from fcos_tf.data.voc import read_voc


def voc_object(name="cat", corners=(1, 1, 10, 20), extra=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


@pytest.fixture
def tree(tmp_path):
    """A function that adds an image with its annotation to a tree and returns the tree."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)

    def add(stem, *objects, split="train", head="", suffix=".jpg"):
        image = np.full((30, 40, 3), 128, np.uint8)
        cv2.imwrite(str(tmp_path / "JPEGImages" / (stem + suffix)), image)
        xml = f"<annotation>{head}{''.join(objects)}</annotation>"
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(xml)
        with open(tmp_path / "ImageSets" / "Main" / f"{split}.txt", "a") as file:
            file.write(stem + "\n")
        return tmp_path

    return add


def test_one_based_inclusive_corners_become_continuous_edges(tree):
    # The first pixel alone in x (a 1 is its left edge 0); all 30 rows; a fraction kept.
    root = tree("a", voc_object(corners=(1, 1, 40, 30)), voc_object(corners=(2.5, 3, 4, 5.25)))
    (example,) = read_voc(root, "train").examples
    np.testing.assert_array_equal(example.boxes, [[0, 0, 40, 30], [1.5, 2, 4, 5.25]])
    assert (example.height, example.width) == (30, 40)
    assert example.file == str(root / "JPEGImages" / "a.jpg")


def test_zero_based_boxes_of_other_tools_are_clipped(tree):
    root = tree("a", voc_object(corners=(0, 0, 41, 30)))
    (example,) = read_voc(root, "train").examples
    np.testing.assert_array_equal(example.boxes, [[0, 0, 40, 30]])


def test_boxes_without_area_are_dropped_and_named(tree):
    root = tree("a", voc_object(corners=(7, 8, 7, 8)), voc_object(corners=(1, 9, 5, 9)))
    tree("b", voc_object(), voc_object(corners=(1, 2, 9, 1)))
    found = read_voc(root, "train")
    a, b = (root / "JPEGImages" / name for name in ("a.jpg", "b.jpg"))
    assert found.dropped == (
        f"{a}: box 1 (7, 8, 7, 8) has no area",
        f"{a}: box 2 (1, 9, 5, 9) has no area",
        f"{b}: box 2 (1, 2, 9, 1) has no area",
    )
    assert [len(e.labels) for e in found.examples] == [0, 1]


def test_difficult_objects_are_left_out_and_named_apart(tree):
    hard = voc_object("dog", extra="<difficult>1</difficult>")
    stray = voc_object(corners=(3, 3, 3, 3))
    root = tree("a", hard, voc_object(extra="<difficult>0</difficult>"), stray)
    found = read_voc(root, "train")
    assert found.class_names == ("cat", "dog")
    assert found.examples[0].labels.tolist() == [0]
    file = root / "JPEGImages" / "a.jpg"
    assert found.difficult == (f"{file}: object 1 (dog) is difficult",)
    assert found.dropped == (f"{file}: box 3 (3, 3, 3, 3) has no area",)  # its number in the file
    everything = read_voc(root, "train", include_difficult=True)
    assert everything.examples[0].labels.tolist() == [1, 0]
    assert everything.difficult == ()


def test_class_names_are_those_of_all_splits(tree):
    root = tree("a", voc_object("dog"))
    tree("b", voc_object("ant"), split="val")
    assert read_voc(root, "train").class_names == ("ant", "dog")
    assert read_voc(root, "train").examples[0].labels.tolist() == [1]
    found = read_voc(root, "train", class_names=["dog", "ant"])
    assert found.class_names == ("dog", "ant") and found.examples[0].labels.tolist() == [0]


def test_image_ids(tree):
    root = tree("000012")
    tree("000003", voc_object())
    tree("x", split="mixed"), tree("000012", split="mixed"), tree("y", split="single")
    assert [e.image_id for e in read_voc(root, "train").examples] == [12, 3]
    assert [e.image_id for e in read_voc(root, "mixed").examples] == [1, 2]
    assert [e.image_id for e in read_voc(root, "single").examples] == [1]
    (root / "JPEGImages" / "12.jpg").write_bytes((root / "JPEGImages/000012.jpg").read_bytes())
    (root / "Annotations" / "12.xml").write_text("<annotation/>")
    (root / "ImageSets" / "Main" / "same.txt").write_text("000012\n12\n")  # the same number
    assert [e.image_id for e in read_voc(root, "same").examples] == [1, 2]


def test_limit_and_second_column(tree):
    root = tree("a", voc_object())
    tree("b")
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("b -1\na  1\n")
    assert [e.file[-5:] for e in read_voc(root, "cat_train").examples] == ["b.jpg", "a.jpg"]
    assert len(read_voc(root, "train", limit=1).examples) == 1


def test_the_image_is_the_one_that_filename_names(tree):
    root = tree("a", voc_object(), head="<filename>a.png</filename>", suffix=".png")
    tree("b", head="<filename>renamed.jpg</filename>")  # there is none: b.jpg is taken
    files = [e.file for e in read_voc(root, "train").examples]
    assert files == [str(root / "JPEGImages" / name) for name in ("a.png", "b.jpg")]


def test_the_image_is_believed_over_the_annotation(tree, caplog):
    head = "<size><width>400</width><height>300</height></size>"
    root = tree("a", voc_object(corners=(1, 1, 100, 20)), head=head)
    (example,) = read_voc(root, "train").examples
    assert (example.height, example.width) == (30, 40)
    np.testing.assert_array_equal(example.boxes, [[0, 0, 40, 20]])
    assert "1 annotations give another image size" in caplog.text and "a.jpg" in caplog.text


def refused(root, error, *parts, split="train", **kwargs):
    with pytest.raises(error) as caught:
        read_voc(root, split, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


def test_missing_things_are_named(tree, tmp_path):
    refused(tmp_path / "nowhere", FileNotFoundError, tmp_path / "nowhere", "JPEGImages")
    root = tree("a", voc_object())
    tree("b", split="val")
    refused(root, FileNotFoundError, "no split 'test'", "train, val", split="test")
    (root / "JPEGImages" / "b.jpg").unlink()
    refused(root, FileNotFoundError, root / "JPEGImages" / "b.jpg", "b.xml", split="val")
    (root / "Annotations" / "b.xml").unlink()
    refused(root, FileNotFoundError, root / "Annotations" / "b.xml", split="val")
    (root / "Annotations" / "a.xml").unlink()
    (root / "Annotations").rmdir()
    refused(root, FileNotFoundError, f"no folder {root / 'Annotations'}")


def test_broken_files_are_named(tree):
    root = tree("a", voc_object())
    tree("empty_split")
    (root / "ImageSets" / "Main" / "none.txt").write_text("\n")
    refused(root, ValueError, "none.txt names no image", split="none")
    (root / "ImageSets" / "Main" / "twice.txt").write_text("a\na\n")
    refused(root, ValueError, "twice.txt", "more than once: a", split="twice")

    xml = root / "Annotations" / "a.xml"
    for text in ("<annotation><object>", "", "not XML"):
        xml.write_text(text)
        refused(root, ValueError, xml, "not readable XML")
    for text in (
        voc_object(name=" "),
        voc_object(corners=("one", 1, 2, 3)),
        "<object><name>cat</name></object>",
    ):
        xml.write_text(f"<annotation>{text}</annotation>")
        refused(root, ValueError, xml, "object 1 needs a name and a bndbox")

    xml.write_text(f"<annotation>{voc_object()}{voc_object('cow')}</annotation>")
    refused(root, ValueError, xml, "object 2", "'cow'", "cat, dog", class_names=["cat", "dog"])

    (root / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    refused(root, ValueError, root / "JPEGImages" / "a.jpg", "not a readable image")


def test_a_tree_without_any_object_has_no_class_names(tree):
    root = tree("a")
    refused(root, ValueError, "no object in any annotation")
    assert read_voc(root, "train", class_names=["cat"]).examples[0].boxes.shape == (0, 4)


def test_blood_cells(shared_data):
    root = shared_data / "bccd"
    found = {split: read_voc(root, split) for split in ("train", "val", "test", "trainval")}
    assert {split: len(f.examples) for split, f in found.items()} == {
        "train": 205, "val": 87, "test": 72, "trainval": 292,
    }  # fmt: skip
    assert all(f.class_names == ("Platelets", "RBC", "WBC") for f in found.values())
    first = f"{root}/JPEGImages/BloodImage_00338.jpg: box 13 (504, 337, 504, 337) has no area"
    second = f"{root}/JPEGImages/BloodImage_00343.jpg: box 4 (181, 329, 181, 329) has no area"
    assert found["trainval"].dropped == (first, second)
    assert found["val"].dropped == (first,)
    assert found["train"].dropped == (second,)
    assert found["test"].dropped == ()
    labels = np.concatenate([e.labels for s in ("trainval", "test") for e in found[s].examples])
    # The data's README counts 361 platelets, 4155 red (two of them without area), 372 white.
    assert np.bincount(labels).tolist() == [361, 4153, 372]


def test_voc2007(shared_data):
    root = shared_data / "voc2007"
    train, val = read_voc(root, "train"), read_voc(root, "val")
    assert (len(train.examples), len(val.examples)) == (2400, 600)
    names = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse"
    names += " motorbike person pottedplant sheep sofa train tvmonitor"
    assert train.class_names == val.class_names == tuple(names.split())
    assert train.dropped == val.dropped == ()
    # grep -h "<difficult>1" Annotations/*.xml | wc -l
    assert len(train.difficult) + len(val.difficult) == 1816
    first = val.examples[0]  # 000002.xml: train (111, 160, 166, 241) in 268x400
    assert first.image_id == 2 and (first.height, first.width) == (400, 268)
    np.testing.assert_array_equal(first.boxes, [[110, 159, 166, 241]])
    assert [names.split()[i] for i in first.labels] == ["train"]
