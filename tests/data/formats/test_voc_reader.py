"""VOC trees: what is read. Broken ones: test_broken_voc."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats.records import Frame
from tests.data.formats.voc_trees import add_image, read_voc, voc_object, write_list

COLUMNS = ("image_ids", "sizes", "owners", "boxes", "labels", "areas", "ignored", "numbers")


@pytest.fixture
def tree(tmp_path):
    """A function that adds an image with its annotation to a tree and returns the tree."""

    def add(*args, **kwargs):
        add_image(tmp_path, *args, **kwargs)
        return tmp_path

    return add


def read(*args, **kwargs):
    """The annotations of a split that has no faults."""
    annotations, faults, _ = read_voc(*args, **kwargs)
    assert faults == []
    return annotations


def names_of(annotations):
    return [Path(file).name for file in annotations.files]


def test_one_based_inclusive_corners_become_continuous_edges(tree):
    # The first pixel alone in x (a 1 is its left edge 0); all 30 rows; a fraction kept.
    root = tree("a", voc_object(corners=(1, 1, 40, 30)), voc_object(corners=(2.5, 3, 4, 5.25)))
    found = read(root, "train")
    np.testing.assert_array_equal(found.boxes, [[0, 0, 40, 30], [1.5, 2, 4, 5.25]])
    assert found.sizes.tolist() == [[30, 40]]
    assert found.files == [str(root / "JPEGImages" / "a.jpg")]
    assert found.numbers.tolist() == [1, 2] and np.isnan(found.areas).all()


def test_columns_of_several_images(tree):
    root = tree("a", voc_object("dog"), voc_object())
    tree("b")  # no object: kept
    tree("c", voc_object())
    found = read(root, "train")
    assert found.owners.tolist() == [0, 0, 2]
    assert found.labels.tolist() == [1, 0, 0] and found.category_ids == (1, 2)
    columns = [getattr(found, name) for name in COLUMNS]
    expected = ["int64", "int32", "int64", "float64", "int32", "float64", "bool", "int64"]
    assert [str(column.dtype) for column in columns] == expected


def test_zero_based_boxes_of_other_tools_are_clipped(tree):
    root = tree("a", voc_object(corners=(0, 0, 41, 30)))
    np.testing.assert_array_equal(read(root, "train").boxes, [[0, 0, 40, 30]])


def test_boxes_without_area_are_dropped_and_named(tree):
    root = tree("a", voc_object(corners=(7, 8, 7, 8)), voc_object(corners=(1, 9, 5, 9)))
    tree("b", voc_object(), voc_object(corners=(1, 2, 9, 1)))
    annotations, faults, _ = read_voc(root, "train")
    a, b = (str(root / "Annotations" / name) for name in ("a.xml", "b.xml"))
    assert faults == [
        Fault(a, "object 1", "box (7, 8, 7, 8) has no area"),
        Fault(a, "object 2", "box (1, 9, 5, 9) has no area"),
        Fault(b, "object 2", "box (1, 2, 9, 1) has no area"),
    ]
    assert annotations.owners.tolist() == [1]


def test_difficult_objects_are_kept_but_ignored(tree):
    hard = voc_object("dog", extra="<difficult>1</difficult>")
    stray = voc_object(corners=(3, 3, 3, 3))
    root = tree("a", hard, voc_object(extra="<difficult>0</difficult>"), stray)
    found, faults, _ = read_voc(root, "train")
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [1, 0] and found.ignored.tolist() == [True, False]
    xml = str(root / "Annotations" / "a.xml")  # its number in the file:
    assert faults == [Fault(xml, "object 3", "box (3, 3, 3, 3) has no area")]
    everything = read_voc(root, "train", include_difficult=True).annotations
    assert everything.labels.tolist() == [1, 0] and not everything.ignored.any()


def test_other_ways_to_say_difficult(tree):
    words = ("True", " 1 ", "", "false", " 0 ")
    root = tree("a", *(voc_object(extra=f"<difficult>{word}</difficult>") for word in words))
    assert read(root, "train").ignored.tolist() == [True, True, False, False, False]


def test_optional_fields_and_unknown_ones_do_not_matter(tree):
    extra = "<pose>Left</pose><truncated>1</truncated><occluded>1</occluded><difficult/>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    root = tree("a", voc_object(extra=extra + part), head="<folder>x</folder><size/>")
    found = read(root, "train")
    assert found.class_names == ("cat",)  # parts are not objects
    np.testing.assert_array_equal(found.boxes, [[0, 0, 10, 20]])


def test_class_names_are_those_of_all_splits(tree):
    root = tree("a", voc_object("dog"))
    tree("b", voc_object("ant"), split="val")
    assert read(root, "train").class_names == ("ant", "dog")
    assert read(root, "train").labels.tolist() == [1]
    found = read_voc(root, "train", class_names=["dog", "ant"]).annotations
    assert found.class_names == ("dog", "ant") and found.labels.tolist() == [0]


def test_broken_annotations_of_other_splits_do_not_count(tree):
    root = tree("a", voc_object())
    tree("b", voc_object("ant"), voc_object(" "), split="val")
    (root / "Annotations" / "stray.xml").write_text("<annotation>")
    assert read(root, "train").class_names == ("ant", "cat")


def test_given_class_names_spare_a_look_at_the_other_splits(tree, monkeypatch):
    root = tree("a", voc_object())
    tree("b", voc_object("ant"), split="val")
    opened = []
    parse = ElementTree.parse
    monkeypatch.setattr(ElementTree, "parse", lambda file: opened.append(file.name) or parse(file))
    read(root, "train", class_names=["cat"])
    assert opened == ["a.xml"]


def test_objects_of_other_classes_are_counted(tree):
    # The broken box of a class that nobody asked for is nobody's business.
    root = tree("a", voc_object(), voc_object("dog"), voc_object("cow", corners="1234"))
    tree("b", voc_object("dog", corners=("x", 1, 2, 3)))
    annotations, faults, others = read_voc(root, "train", class_names=["cat"])
    assert annotations.labels.tolist() == [0] and annotations.num_images == 2
    assert faults == [] and others == {"dog": 2, "cow": 1}
    assert read_voc(tree("c"), "train", class_names=["cat", "dog", "cow"]).other_classes == {}


def test_image_ids_are_the_digits_of_the_names(tree):
    root = tree("000012")
    tree("000003", voc_object())
    tree("x", split="mixed"), tree("000012", split="mixed"), tree("y", split="single")
    assert read(root, "train").image_ids.tolist() == [12, 3]
    assert read(root, "mixed").image_ids.tolist() == [1, 2]  # x has none: the positions
    assert read(root, "single").image_ids.tolist() == [1]
    tree("12", split="same"), tree("000012", split="same")  # the same number
    assert read(root, "same").image_ids.tolist() == [1, 2]
    tree("2008_000008", split="voc2012"), tree("2010_001234_b", split="voc2012")
    assert read(root, "voc2012").image_ids.tolist() == [2008000008, 2010001234]
    tree("1" * 18, split="long")
    assert read(root, "long").image_ids.tolist() == [int("1" * 18)]
    tree("2" * 19, split="long")  # too long for int64
    assert read(root, "long").image_ids.tolist() == [1, 2]


def test_image_ids_do_not_depend_on_what_is_dropped_or_left_out(tree):
    root = tree("a")
    tree("b", voc_object()), tree("c")
    (root / "Annotations" / "a.xml").unlink()
    annotations, (fault,), _ = read_voc(root, "train", limit=2)
    assert annotations.image_ids.tolist() == [2] and fault.file.endswith("a.xml")


def test_limit_and_second_column(tree):
    root = tree("a", voc_object())
    tree("b")
    write_list(root, "cat_train", "b -1", "", "  a  1 ")
    assert names_of(read(root, "cat_train")) == ["b.jpg", "a.jpg"]
    assert names_of(read(root, "train", limit=1)) == ["a.jpg"]
    assert names_of(read(root, "train", limit=9)) == ["a.jpg", "b.jpg"]


def test_names_that_end_in_what_looks_like_a_second_column(tree):
    root = tree("photo 0", voc_object())
    tree("photo 1")
    tree("photo 2", split="val"), tree("photo 1", split="val")
    assert names_of(read(root, "train")) == ["photo 0.jpg", "photo 1.jpg"]
    assert names_of(read(root, "val")) == ["photo 2.jpg", "photo 1.jpg"]
    write_list(root, "cat_train", "photo 0  1", "photo 1 -1")
    assert names_of(read(root, "cat_train")) == ["photo 0.jpg", "photo 1.jpg"]
    (root / "Annotations" / "photo 1.xml").unlink()  # a line that is no column speaks for all
    _, (fault,), _ = read_voc(root, "val")
    assert fault.file.endswith("photo 1.xml")


def test_names_with_spaces_and_lists_of_other_editors(tree):
    root = tree("my cat (1)", voc_object())
    file = root / "ImageSets" / "Main" / "windows.txt"
    file.write_bytes(b"\xef\xbb\xbfmy cat (1)\r\n\r\n")  # a byte order mark, CR LF
    assert names_of(read(root, "windows")) == ["my cat (1).jpg"]


def test_the_image_is_the_one_that_filename_names(tree):
    root = tree("a", voc_object(), head="<filename>a.png</filename>", suffix=".png")
    tree("b", head="<filename>renamed.jpg</filename>")  # there is none: b.jpg is taken
    tree("c", head="<filename>d.png</filename>", suffix=".tmp.png")
    (root / "JPEGImages" / "c.tmp.png").rename(root / "JPEGImages" / "d.png")
    assert names_of(read(root, "train")) == ["a.png", "b.jpg", "d.png"]


def test_of_two_images_with_one_name_filename_names_the_one(tree):
    root = tree("a", voc_object(), head="<filename>a.png</filename>")
    for stem in ("b", "c"):  # no filename, and one without suffix: .jpg before others
        tree(stem, head="<filename>c</filename>" * (stem == "c"))
    for stem in "abc":
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{stem}.png")
    assert names_of(read(root, "train")) == ["a.png", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG", ".bmp", ".webp", ".gif"])
def test_images_with_other_endings(tree, suffix):
    # A copied annotation still names the image that it was copied from.
    root = tree("a", voc_object())
    tree("b", voc_object(), head="<filename>a.jpg</filename>", suffix=suffix)
    found = read(root, "train")
    assert names_of(found) == ["a.jpg", f"b{suffix}"]
    assert found.sizes.tolist() == [[30, 40]] * 2


def test_photos_that_were_resized_after_annotation(tree):
    # Annotated at 400x300 and at 81x60; the images have 40x30, of the latter 29.6 rounded up.
    sizes = "<size><width>{}</width><height>{}</height></size>"
    root = tree("a", voc_object(corners=(1, 1, 100, 60)), head=sizes.format(400, 300))
    tree("b", voc_object(corners=(41, 31, 81, 60)), head=sizes.format(81, 60))
    with pytest.raises(ValueError, match=r"none of 2 images is left; the first fault: .*400x300"):
        read_voc(root, "train")
    found = read(root, "train", frame=Frame(scale_boxes=True))
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 6], [19.753, 15, 40, 30]], atol=5e-4)
    assert found.sizes.tolist() == [[30, 40]] * 2
    assert found.notes == ("boxes scaled by 0.1 to 0.5",)
    tree("c", voc_object(), head=sizes.format(300, 400))
    message = r"got 1 of 3 others; the first: .*c\.xml: annotated 300x400, the image has 40x30"
    with pytest.raises(ValueError, match=message):
        read_voc(root, "train", frame=Frame(scale_boxes=True))
    tree("c", voc_object())
    with pytest.raises(ValueError, match="annotated no size"):
        read_voc(root, "train", frame=Frame(scale_boxes=True))


def test_photos_that_were_annotated_as_viewers_turn_them(tree):
    head = "<size><width>30</width><height>40</height></size>"
    root = tree("a", voc_object(corners=(1, 1, 30, 40)), head=head)
    tree("b", voc_object())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / "a.jpg", exif=exif)
    _, (fault,), _ = read_voc(root, "train")
    assert not fault.kept and "viewers turn it by EXIF orientation 6, as --apply_exif" in fault.what
    found = read(root, "train", frame=Frame(apply_exif=True))
    assert found.sizes.tolist() == [[40, 30], [30, 40]]
    assert found.boxes.tolist() == [[0, 0, 30, 40], [0, 0, 10, 20]]


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "shift_jis", "big5", "iso-8859-2", "utf-16"])
def test_encodings(tree, encoding):
    root = tree("a")
    name = "\u4e2d" if encoding[0] in "gsb" or encoding == "utf-16" else "\u0161"  # 中, š
    text = f'<?xml version="1.0" encoding="{encoding}"?><annotation>{voc_object(name)}</annotation>'
    (root / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert read(root, "train").class_names == (name,)


def test_lists_with_endings_and_folders(tree):
    root = tree("a", voc_object())
    tree("b"), tree("c"), tree("d")
    write_list(root, "train", "a.jpg", "JPEGImages/b.jpg", ".\\c", "d.xml")
    assert names_of(read(root, "train")) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    write_list(root, "val", '"/home/x/VOC/JPEGImages/d.png"', "Annotations/a.xml")
    assert names_of(read(root, "val")) == ["d.jpg", "a.jpg"]


def test_the_case_of_an_ending_does_not_decide(tree):
    root = tree("a", voc_object(), head="<filename>a.PNG</filename>", suffix=".jpg")
    tree("a", suffix=".png", split="val")
    (root / "Annotations" / "a.xml").write_text(
        f"<annotation><filename>a.PNG</filename>{voc_object()}</annotation>"
    )
    assert names_of(read(root, "train")) == ["a.png"]


def test_files_that_are_no_images_are_counted(tree):
    root = tree("a", voc_object())
    for name in ("b.heic", "c.psd", "notes.txt", ".hidden"):
        (root / "JPEGImages" / name).touch()
    note = f"{root / 'JPEGImages'}: skipped 2 files whose endings are of no image, first b.heic"
    assert read(root, "train").notes == (note,)


def test_sizes_are_those_of_the_stored_pixels(tree):
    """A viewer would turn this photo upright, to 30 pixels wide; its boxes were drawn unturned."""
    root = tree("a", voc_object(corners=(1, 1, 40, 30)))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / "a.jpg", exif=exif)
    found = read(root, "train")
    assert found.sizes.tolist() == [[30, 40]] and found.boxes.tolist() == [[0, 0, 40, 30]]


def test_large_images_are_nothing_special(tree, recwarn):
    root = tree("a", voc_object())
    # Only the header says 12000x9000; Pillow warns of such sizes.
    data = bytearray((root / "JPEGImages" / "a.jpg").read_bytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = (9000).to_bytes(2, "big") + (12000).to_bytes(2, "big")
    (root / "JPEGImages" / "a.jpg").write_bytes(data)
    assert read(root, "train").sizes.tolist() == [[9000, 12000]]
    assert len(recwarn) == 0


@pytest.fixture
def devkit(tmp_path):
    """Two trees side by side, as the published archives unpack."""
    early, late = tmp_path / "VOC2007", tmp_path / "VOC2012"
    add_image(early, "000012", voc_object("dog"), split="trainval")
    add_image(early, "000007", voc_object("cow"), split="test")
    add_image(late, "2008_000012", voc_object("cat"), split="trainval")
    (tmp_path / "notes").mkdir()
    return tmp_path


@pytest.mark.parametrize("form", ["list", "commas", "folder above"])
def test_several_trees(devkit, form):
    trees = [devkit / "VOC2007", devkit / "VOC2012"]
    forms = {"list": trees, "commas": f"{trees[0]}, {trees[1]}", "folder above": devkit}
    found = read(forms[form], "trainval")
    assert found.files == [
        str(trees[0] / "JPEGImages" / "000012.jpg"),
        str(trees[1] / "JPEGImages" / "2008_000012.jpg"),
    ]
    assert found.image_ids.tolist() == [12, 2008000012]
    assert found.class_names == ("cat", "cow", "dog") and found.labels.tolist() == [2, 0]


def test_trees_in_the_folder_above_are_read_by_name(tmp_path):
    for name in ("VOC2012", "b", "VOC2007", "a", "c"):
        add_image(tmp_path / name, name, voc_object())
    names = ["VOC2007.jpg", "VOC2012.jpg", "a.jpg", "b.jpg", "c.jpg"]
    assert names_of(read(tmp_path, "train")) == names


def test_a_list_of_trees_keeps_its_order(devkit):
    found = read([devkit / "VOC2012", str(devkit / "VOC2007")], "trainval")
    assert found.image_ids.tolist() == [2008000012, 12]


def test_the_folder_above_stands_for_the_trees_that_have_the_split(devkit):
    found = read(devkit, "test")
    assert found.image_ids.tolist() == [7]
    assert found.class_names == ("cat", "cow", "dog")  # as in the other splits
    assert read(devkit, "trainval+test").image_ids.tolist() == [12, 7, 2008000012]


def test_the_same_name_in_two_trees_is_two_images(devkit):
    add_image(devkit / "VOC2012", "000012", split="trainval")
    assert read(devkit, "trainval").image_ids.tolist() == [1, 2, 3]


def test_a_folder_with_a_comma_in_its_name(tmp_path):
    add_image(tmp_path / "cats, dogs", "a", voc_object())
    assert names_of(read(str(tmp_path / "cats, dogs"), "train")) == ["a.jpg"]


def test_splits_together(tree):
    root = tree("b", voc_object())
    tree("a", split="val")
    assert names_of(read(root, "train+val")) == ["b.jpg", "a.jpg"]
    assert names_of(read(root, "val+train")) == ["a.jpg", "b.jpg"]


def test_folders_are_listed_once(tree, monkeypatch):
    for stem in "abcd":
        root = tree(stem, voc_object())
    calls = []
    walk = os.walk
    monkeypatch.setattr(
        os, "walk", lambda path, **options: calls.append(path) or walk(path, **options)
    )
    read(root, "train")
    assert calls.count(root / "JPEGImages") == 1


def test_a_tree_without_any_object_has_no_class_names(tree):
    root = tree("a")
    with pytest.raises(ValueError, match="no object in any annotation"):
        read_voc(root, "train")
    annotations = read_voc(root, "train", class_names=["cat"]).annotations
    assert annotations.boxes.shape == (0, 4) and annotations.num_images == 1


def test_blood_cells(shared_data):
    root = shared_data / "bccd"
    found = {split: read_voc(root, split) for split in ("train", "val", "test", "trainval")}
    assert {split: result.annotations.num_images for split, result in found.items()} == {
        "train": 205, "val": 87, "test": 72, "trainval": 292,
    }  # fmt: skip
    names = ("Platelets", "RBC", "WBC")
    assert all(result.annotations.class_names == names for result in found.values())
    first, second = (
        Fault(f"{root}/Annotations/BloodImage_{name}.xml", f"object {number}", what)
        for name, number, what in (
            ("00338", 13, "box (504, 337, 504, 337) has no area"),
            ("00343", 4, "box (181, 329, 181, 329) has no area"),
        )
    )
    assert found["trainval"].faults == [first, second]
    assert found["val"].faults == [first]
    assert found["train"].faults == [second]
    assert found["test"].faults == []
    labels = np.concatenate([found[s].annotations.labels for s in ("trainval", "test")])
    # The data's README counts 361 platelets, 4155 red (two of them without area), 372 white.
    assert np.bincount(labels).tolist() == [361, 4153, 372]
    assert not found["trainval"].annotations.ignored.any()


def test_voc2007(shared_data):
    root = shared_data / "voc2007"
    train, val = read(root, "train"), read(root, "val")
    assert (train.num_images, val.num_images) == (2400, 600)
    names = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse"
    names += " motorbike person pottedplant sheep sofa train tvmonitor"
    assert train.class_names == val.class_names == tuple(names.split())
    # grep -h "<difficult>1" Annotations/*.xml | wc -l
    assert train.ignored.sum() + val.ignored.sum() == 1816
    # 000002.xml: train (111, 160, 166, 241) in 268x400
    assert val.image_ids[0] == 2 and val.sizes[0].tolist() == [400, 268]
    mine = val.owners == 0
    np.testing.assert_array_equal(val.boxes[mine], [[110, 159, 166, 241]])
    assert [names.split()[i] for i in val.labels[mine]] == ["train"]


def test_subfolders_as_datumaro_writes_them(tree):
    for stem in ("cam1/f", "cam2/f"):
        for folder in ("JPEGImages", "Annotations"):
            (tree("g") / folder / stem).parent.mkdir(parents=True, exist_ok=True)
        root = tree(stem, voc_object(), head="<filename>f.jpg</filename>")
    write_list(root, "train", "cam1/f", "g", "cam2/f")
    found = read(root, "train")
    names = [os.path.relpath(file, root / "JPEGImages") for file in found.files]
    assert names == ["cam1/f.jpg", "g.jpg", "cam2/f.jpg"]


def test_names_in_quotes(tree):
    root = tree("my photo", voc_object())
    tree('"b"'), tree("c")
    write_list(root, "train", '"my photo"', '"b"', '"c"')
    assert names_of(read(root, "train")) == ["my photo.jpg", '"b".jpg', "c.jpg"]
    write_list(root, "cat_train", '"my photo"  1', "c -1")
    assert names_of(read(root, "cat_train")) == ["my photo.jpg", "c.jpg"]
