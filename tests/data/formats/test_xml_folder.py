"""Images and VOC-style XML in any folders."""

from pathlib import Path

import pytest
from PIL import Image

from fcos_tf.data import read_annotations
from fcos_tf.data.annotations import Fault
from tests.data.formats.own_data import names_of
from tests.data.formats.voc_trees import voc_object


def add(root, image="", xml="", *objects, filename=""):
    """Adds an image of 40x30 pixels, an XML file, or both."""
    if image:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / image)
    if xml:
        (root / xml).parent.mkdir(parents=True, exist_ok=True)
        head = f"<filename>{filename}</filename>" if filename else ""
        (root / xml).write_text(f"<annotation>{head}{''.join(objects)}</annotation>")


@pytest.mark.parametrize(
    ("orientation", "size", "is_told"),
    [(3, "", True), (3, (40, 30), True), (6, "", True), (6, (40, 30), False), (1, "", False)],
)
def test_boxes_that_may_be_of_the_turned_image_are_told(tmp_path, orientation, size, is_told):
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = size and "<size><width>{}</width><height>{}</height></size>".format(*size)
    add(tmp_path, "", "a.xml", size, voc_object())
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    found, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    what = f"has EXIF orientation {orientation}, which other programs apply; --apply_exif does"
    assert faults == [Fault(str(tmp_path / "a.xml"), "", what, kept=True)] * is_told
    assert len(found.boxes) == 1


def test_an_ending_in_capitals(tmp_path):
    add(tmp_path, "a.jpg", "a.XML", voc_object())
    found, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert faults == [] and len(found.boxes) == 1
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match=r"a\.xml: expected one file of its name, got .*a\.XML"):
        read_annotations("xml", "all", data_dir=tmp_path)


def test_images_in_folders_of_splits_and_xml_in_one(tmp_path):
    for number in range(6):
        folder = "train" if number < 4 else "val"
        xml = f"annotations/p{number}.xml"
        add(tmp_path, f"images/{folder}/p{number}.jpg", xml, voc_object(str(number)))
    for split, numbers in (("train", "0123"), ("val", "45")):
        found, faults, _ = read_annotations("xml", split, data_dir=tmp_path)
        assert faults == [] and found.notes == ()
        names = [f"images/{split}/p{number}.jpg" for number in numbers]
        assert names_of(found, tmp_path) == names and found.class_names == tuple("012345")
    add(tmp_path, "images/val/p0.jpg")  # now p0.xml may be of either
    found, faults, _ = read_annotations("xml", "val", data_dir=tmp_path)
    assert names_of(found, tmp_path) == ["images/val/p4.jpg", "images/val/p5.jpg"]
    assert "1 images are in no folder of a split and left out" in " ".join(found.notes)


def test_splits_are_the_folders_of_images_that_only_filename_names(tmp_path):
    for number in range(6):
        image = f"images/{'train' if number < 3 else 'val'}/p{number}.jpg"
        xml = f"annotations/t_{number}.xml"
        add(tmp_path, image, xml, voc_object(), filename=f"p{number}.jpg")
    add(tmp_path, "images/val/p9.jpg")
    found, faults, _ = read_annotations("xml", "val", data_dir=tmp_path)
    names = names_of(found, tmp_path / "images" / "val")
    assert faults == [] and names == ["p3.jpg", "p4.jpg", "p5.jpg"]
    what = "1 images without annotations are left out, first images/val/p9.jpg"
    assert found.notes == (f"{tmp_path}: {what}",)


def test_the_name_of_an_image_may_be_too_long_for_a_file(tmp_path):
    add(tmp_path, "a.jpg", "a.xml", voc_object())
    add(tmp_path, "", "b.xml", voc_object("dog"), filename=f"{'b' * 300}.jpg")
    found, (fault,), _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert fault.file == str(tmp_path / "b.xml") and "got no such file" in fault.what
    # The classes do not depend on which images are there.
    assert names_of(found, tmp_path) == ["a.jpg"] and found.class_names == ("cat", "dog")


def test_one_folder_with_both(tmp_path):
    add(tmp_path, "b.jpg", "b.xml", voc_object("dog", corners=(1, 1, 10, 20)))
    add(tmp_path, "a.png", "a.xml")
    add(tmp_path, "c.jpg")  # nobody has labelled it yet
    annotations, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert faults == [] and names_of(annotations, tmp_path) == ["a.png", "b.jpg"]
    # One-based inclusive corners: the left edge of pixel 1 is 0.
    assert annotations.boxes.tolist() == [[0, 0, 10, 20]] and annotations.owners.tolist() == [1]
    assert annotations.class_names == ("dog",) and annotations.sizes.tolist() == [[30, 40]] * 2
    assert annotations.notes == (
        f"{tmp_path}: 1 images without annotations are left out, first c.jpg",
    )


def test_subfolders_as_cvat_and_datumaro_write_them(tmp_path):
    for camera in ("cam1", "cam2"):
        xml = f"Annotations/{camera}/f.xml"
        add(tmp_path, f"JPEGImages/{camera}/f.jpg", xml, voc_object(), filename="f.jpg")
    annotations, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert faults == []
    assert names_of(annotations, tmp_path / "JPEGImages") == ["cam1/f.jpg", "cam2/f.jpg"]
    annotations, faults, _ = read_annotations(
        "xml", "all", annotations=tmp_path / "Annotations", images=tmp_path / "JPEGImages"
    )
    assert faults == [] and annotations.num_images == 2


def test_the_image_is_found_by_filename_where_the_names_differ(tmp_path):
    add(tmp_path, "photos/x.jpg", "xml/1.xml", voc_object(), filename="x.jpg")
    add(tmp_path, "photos/2.jpg", "xml/2.xml", filename="x.jpg")  # copied: 2.jpg is its image
    add(tmp_path, "photos/3.png", "xml/3.xml", filename="3.png")
    add(tmp_path, "photos/3.jpg")
    annotations, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert faults == []
    assert names_of(annotations, tmp_path / "photos") == ["x.jpg", "2.jpg", "3.png"]


def test_an_image_that_may_be_one_of_several_is_a_fault(tmp_path):
    add(tmp_path, "a/f.jpg", "xml/f.xml", voc_object(), filename="f.jpg")
    add(tmp_path, "b/f.jpg", "xml/g.xml", voc_object())
    add(tmp_path, "h.jpg", "xml/h.xml", voc_object())
    annotations, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    xml = tmp_path / "xml"
    assert names_of(annotations, tmp_path) == ["h.jpg"]
    assert faults == [
        Fault(str(xml / "f.xml"), "", "expected one image f.jpg, got a/f.jpg, b/f.jpg"),
        Fault(str(xml / "g.xml"), "", f"expected its image {xml / 'g'}.jpg, got no such file"),
    ]


def test_two_annotations_of_one_image_are_faults(tmp_path):
    add(tmp_path, "f.jpg", "f.xml", voc_object())
    add(tmp_path, "g.jpg", "g.xml", voc_object())
    add(tmp_path, xml="old/Annotations/f.xml", filename="f.jpg")
    annotations, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    first, second = tmp_path / "f.xml", tmp_path / "old/Annotations/f.xml"
    assert names_of(annotations, tmp_path) == ["g.jpg"]
    what = f"has image {tmp_path / 'f.jpg'}, which "
    assert faults == [
        Fault(str(first), "", f"{what}{second} has too"),
        Fault(str(second), "", f"{what}{first} has too"),
    ]


def test_objects_with_faults_are_named_and_others_counted(tmp_path):
    stray = voc_object(corners=(5, 5, 5, 5))
    two = voc_object().replace("</object>", voc_object()[len("<object><name>cat</name>") :])
    add(tmp_path, "a.jpg", "a.xml", stray, voc_object("dog"), two, voc_object())
    annotations, faults, others = read_annotations("xml", "all", data_dir=tmp_path, classes=["cat"])
    xml = str(tmp_path / "a.xml")
    assert faults == [
        Fault(xml, "object 1", "box (5, 5, 5, 5) has no area"),
        Fault(xml, "object 3", "has 2 bndbox, expected one"),
    ]
    assert annotations.numbers.tolist() == [4] and others == {"dog": 1}


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("", False), ("0", False), ("0.0", False), ("no", False), ("False", False),
        ("Unspecified", False), ("1", True), ("1.0", True), ("true", True), ("yes", True),
    ],
)  # fmt: skip
def test_what_difficult_may_say(tmp_path, text, ignored):
    add(tmp_path, "a.jpg", "a.xml", voc_object(extra=f"<difficult>{text}</difficult>"))
    annotations, faults, _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert faults == [] and annotations.ignored.tolist() == [ignored]
    annotations, _, _ = read_annotations("xml", "all", data_dir=tmp_path, include_difficult=True)
    assert annotations.ignored.tolist() == [False]


def test_another_difficult_is_a_fault(tmp_path):
    add(tmp_path, "a.jpg", "a.xml", voc_object(extra="<difficult>maybe</difficult>"))
    found, (fault,), _ = read_annotations("xml", "all", data_dir=tmp_path)
    assert found.class_names == ("cat",)  # the number of a class does not depend on its boxes
    assert fault.what == "difficult: expected 0 or 1, got 'maybe'"


@pytest.mark.parametrize("suffix", [".Jpg", ".tif", ".BMP", ".jpeg", ".webp"])
def test_suffixes_of_images_in_any_case(tmp_path, suffix):
    add(tmp_path, xml="a.xml", image="a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / f"a{suffix}")
    annotations, _, _ = read_annotations("xml", "all", data_dir=tmp_path, classes=["cat"], limit=1)
    assert Path(annotations.files[0]).suffix == suffix


def test_folders_of_splits(tmp_path):
    for name in ("train/a", "train/b", "valid/c", "test/d"):
        add(tmp_path, f"{name}.jpg", f"{name}.xml", voc_object())
    for split, expected in (
        ("train", ["train/a.jpg", "train/b.jpg"]), ("val", ["valid/c.jpg"]),
        ("valid", ["valid/c.jpg"]), ("test", ["test/d.jpg"]),
        ("train+val", ["train/a.jpg", "train/b.jpg", "valid/c.jpg"]),
    ):  # fmt: skip
        found, _, _ = read_annotations("xml", split, data_dir=tmp_path)
        assert names_of(found, tmp_path) == expected
    with pytest.raises(FileNotFoundError, match=r"no split 'x' in .*; there are: test, train, val"):
        read_annotations("xml", "x", data_dir=tmp_path)


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(ValueError, match="xml needs data_dir, or both annotations and images"):
        read_annotations("xml", "train", images=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read_annotations("xml", "train", data_dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no XML files in"):
        read_annotations("xml", "train", data_dir=tmp_path)
    add(tmp_path, xml="a.xml")
    with pytest.raises(ValueError, match="no object in any annotation of"):
        read_annotations("xml", "all", data_dir=tmp_path)
