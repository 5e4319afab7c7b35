"""What is wrong with VOC trees is named, counted, and stops nothing that can go on."""

import shutil

import pytest

from fcos_tf.data.annotations import Fault
from tests.data.formats.voc_trees import add_image, read_voc, voc_object, write_list


@pytest.fixture
def root(tmp_path):
    """Three good images of a cat each, in train; b is what tests break."""
    for stem in "abc":
        add_image(tmp_path, stem, voc_object())
    return tmp_path


def bomb(levels):
    """An XML file of entities, each ten times the one before."""
    entities = "".join(
        f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, levels)
    )
    return (
        f'<!DOCTYPE annotation [<!ENTITY e0 "lol">{entities}]>'
        f"<annotation><filename>&e{levels - 1};</filename></annotation>"
    )


UNREADABLE = "is not readable XML: "
LATIN = "<annotation><filename>caf\xe9.jpg</filename></annotation>".encode("latin-1")
DECLARED = b'<?xml version="1.0" encoding="%s"?><annotation/>'
EXTERNAL = '<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/hostname">]>'


BROKEN_XML = {
    "zero bytes": (b"", UNREADABLE + "no element found"),
    "cut": (b"<annotation><object><name>cat", UNREADABLE + "no element found"),
    "no XML": (b"cat 1 1 10 20", UNREADABLE + "syntax error"),
    "Latin-1 that does not say so": (LATIN, UNREADABLE + "not well-formed"),
    "unknown encoding": (DECLARED % b"none", UNREADABLE + "unknown encoding"),
    "not in its encoding": (DECLARED % b"gb2312" + b"\xff", UNREADABLE + "'gb2312' codec can't"),
    "two file names": (
        b"<annotation><filename>b.jpg</filename><filename>c.jpg</filename></annotation>",
        "has several filename, expected one: b.jpg, c.jpg",
    ),
    "external entity": (
        f"{EXTERNAL}<annotation>&e;</annotation>".encode(),
        UNREADABLE + "undefined entity &e;",
    ),
    "entity bomb": (bomb(12).encode(), UNREADABLE + "limit on input amplification"),
    "web page": (
        b"<html>404</html>",
        "is no annotation: expected the root <annotation>, got <html>",
    ),
}


@pytest.mark.parametrize("content, what", BROKEN_XML.values(), ids=BROKEN_XML)
def test_annotations_that_cannot_be_read(root, content, what):
    xml = root / "Annotations" / "b.xml"
    xml.write_bytes(content)
    annotations, (fault,), _ = read_voc(root, "train")
    assert (fault.file, fault.item, fault.kept) == (str(xml), "", False)
    assert fault.what.startswith(what)
    assert [file[-5:] for file in annotations.files] == ["a.jpg", "c.jpg"]
    assert annotations.owners.tolist() == [0, 1]


@pytest.mark.parametrize(
    "broken, what",
    [
        ("<object/>", "has no name"),
        (voc_object(name="  "), "has no name"),
        ("<object><name>cat</name></object>", "has no bndbox, expected one"),
        (voc_object().replace("ymin", "top"), "ymin: expected a number, got ''"),
        (voc_object(corners=(1, 1, 2, "3,5")), "ymax: expected a number, got '3,5'"),
        (voc_object(extra="<name>dog</name>"), "has several name, expected one: cat, dog"),
        (
            voc_object(extra="<difficult>0</difficult><difficult>1</difficult>"),
            "has several difficult, expected one: 0, 1",
        ),
        (
            voc_object().replace("<xmin>1</xmin>", "<xmin>1</xmin><xmin>5</xmin>"),
            "has several xmin, expected one: 1, 5",
        ),
        (voc_object(corners=("nan", 1, 2, 3)), "box (nan, 0, 2, 3) is not finite"),
        (voc_object(corners=(1, 1, 2, "inf")), "box (0, 0, 2, inf) is not finite"),
        (voc_object(corners=(9, 1, 2, 3)), "box (9, 1, 2, 3) has no area"),
        (voc_object(corners=(2, 1, 1, 3)), "box (2, 1, 1, 3) has no area"),
        (voc_object(corners=(5, 6, 5, 6)), "box (5, 6, 5, 6) has no area"),
        # Pixel 41 of 40: begins where the image ends.
        (
            voc_object(corners=(41, 1, 50, 9)),
            "box (40, 0, 50, 9) lies outside the image of 40x30 pixels",
        ),
        (
            voc_object(corners=(-9, -9, -1, 9)),
            "box (-10, -10, -1, 9) lies outside the image of 40x30 pixels",
        ),
        (
            voc_object(corners=(50, 40, 45, 35), extra="<difficult>1</difficult>"),
            "box (50, 40, 45, 35) has no area",
        ),
    ],
)
def test_objects_that_cannot_be_learned(root, broken, what):
    good = voc_object(corners=(2, 3, 4, 5))
    add_image(root, "d", good, broken, good)
    annotations, faults, others = read_voc(root, "train")
    assert faults == [Fault(str(root / "Annotations" / "d.xml"), "object 2", what)]
    assert annotations.owners.tolist() == [0, 1, 2, 3, 3]
    assert annotations.numbers[-2:].tolist() == [1, 3] and others == {}


def test_boxes_that_reach_out_are_cut_and_named(root):
    add_image(root, "d", voc_object(corners=(-3, 20, 45, 99)))
    annotations, (fault,), _ = read_voc(root, "train")
    what = "box (-4, 19, 45, 99) reaches over the image of 40x30 pixels and is cut"
    assert fault == Fault(str(root / "Annotations" / "d.xml"), "object 1", what, kept=True)
    assert annotations.boxes[-1].tolist() == [0, 19, 40, 30]


def test_missing_annotation(root):
    (root / "Annotations" / "b.xml").unlink()
    annotations, faults, _ = read_voc(root, "train")
    what = "is missing, though the split names it"
    assert faults == [Fault(str(root / "Annotations" / "b.xml"), "", what)]
    assert annotations.image_ids.tolist() == [1, 3]


def test_a_folder_in_place_of_an_annotation(root):
    xml = root / "Annotations" / "b.xml"
    xml.unlink(), xml.mkdir()
    annotations, faults, _ = read_voc(root, "train")
    assert faults == [Fault(str(xml), "", "cannot be read: Is a directory")]
    assert annotations.num_images == 2


def test_missing_image(root):
    image = root / "JPEGImages" / "b.jpg"
    image.unlink()
    annotations, faults, _ = read_voc(root, "train")
    what = f"expected its image {image}, got no such file"
    assert faults == [Fault(str(root / "Annotations" / "b.xml"), "", what)]
    assert annotations.owners.tolist() == [0, 1] and annotations.image_ids.tolist() == [1, 3]


def test_a_filename_outside_the_folder_is_not_followed(root):
    head = "<filename>../Annotations/a.xml</filename>"
    add_image(root, "d", voc_object(), head=head)
    (root / "JPEGImages" / "d.jpg").unlink()
    _, (fault,), _ = read_voc(root, "train")
    assert fault.what == f"expected its image {root / 'JPEGImages' / 'd.jpg'}, got no such file"


KINDS = (b"", b"no image", b"GIF89a", b"\xff\xd8\xff\xe0\0\x10JFIF")


@pytest.mark.parametrize(
    "contents, size, expected",
    [
        (KINDS, "", [0, 0]),
        (KINDS, "<width>64</width><height>48.0</height>", [48, 64]),
        ([b""], "<width>64</width>", [0, 0]),
        ([b""], "<width>64</width><height>0</height>", [0, 0]),
        ([b""], "<width>64</width><height>tall</height>", [0, 0]),
        ([b""], "<width>64</width><height>nan</height>", [0, 0]),
        ([b""], "<width>64</width><height>99999999999</height>", [0, 0]),
    ],
)
def test_images_that_cannot_be_read_count_when_they_are_decoded(root, contents, size, expected):
    add_image(root, "d", voc_object(), head=size and f"<size>{size}</size>")
    for content in contents:
        (root / "JPEGImages" / "d.jpg").write_bytes(content)
        annotations, faults, _ = read_voc(root, "train")
        assert faults == [] and annotations.sizes[-1].tolist() == expected


def test_a_size_without_sense_is_no_fault_where_the_image_has_one(root):
    add_image(root, "d", head="<size><width>0</width><height>0</height></size>")
    annotations, faults, _ = read_voc(root, "train")
    assert faults == [] and annotations.sizes[-1].tolist() == [30, 40]


@pytest.mark.parametrize(
    ("corners", "kept"),
    [
        ((1, 1, 10, 20), False),  # in the image of 40x30 and in one of 30x40
        ((1, 1, 36, 20), True),  # only the image holds it: the annotated size is wrong
        ((1, 1, 36, 39), False),  # neither does
    ],
)
def test_a_size_that_disagrees_is_a_fault(root, corners, kept):
    head = "<size><width>30</width><height>40</height></size>"  # exchanged
    add_image(root, "d", voc_object(corners=corners), head=head)
    annotations, faults, _ = read_voc(root, "train")
    what = "expected an image of 30x40 pixels, as annotated, got 40x30; for photos resized after "
    what += "annotation there is --scale_boxes"
    assert faults == [Fault(str(root / "Annotations" / "d.xml"), "size", what, kept=kept)]
    assert annotations.num_images == 3 + kept


def test_an_annotation_without_objects_is_no_fault(root):
    (root / "Annotations" / "b.xml").write_text("<annotation/>")
    annotations, faults, _ = read_voc(root, "train")
    assert faults == [] and annotations.owners.tolist() == [0, 2]


def test_names_that_are_there_twice(root):
    write_list(root, "train", "a", "b", "", "a", "c", "a")
    annotations, faults, _ = read_voc(root, "train")
    file = str(root / "ImageSets" / "Main" / "train.txt")
    assert faults == [Fault(file, "line 4", "names 'a' once more"),
                      Fault(file, "line 6", "names 'a' once more")]  # fmt: skip
    assert annotations.image_ids.tolist() == [1, 2, 3] and len(annotations.boxes) == 3


def test_names_that_are_in_two_splits(root):
    write_list(root, "val", "b")
    annotations, faults, _ = read_voc(root, "train+val")
    file = str(root / "ImageSets" / "Main" / "val.txt")
    assert faults == [Fault(file, "line 1", "names 'b' once more")]
    assert annotations.num_images == 3


def test_classes_that_do_not_occur(root):
    add_image(root, "d", voc_object("dog"), split="val")
    result = read_voc(root, "train", class_names=["dog", "cat", "cta"])
    what = "was asked for, but no object of split 'train' has it"
    assert result.faults == [
        Fault(str(root), "class 'dog'", what, kept=True),
        Fault(str(root), "class 'cta'", what, kept=True),
    ]
    assert result.annotations.labels.tolist() == [1, 1, 1]
    # The first images need not have all of them.
    assert read_voc(root, "train", class_names=["dog", "cat"], limit=2).faults == []
    # Nor does anybody ask for the classes of other splits by default.
    assert read_voc(root, "train").faults == []


def test_faults_come_in_the_order_of_the_files(root):
    stray, cow = voc_object(corners=(5, 5, 5, 5)), "<object/>"
    add_image(root, "e", stray, cow, stray, head="<size><width>1</width><height>1</height></size>")
    add_image(root, "d", voc_object(), stray)
    (root / "Annotations" / "b.xml").write_text("")
    write_list(root, "train", "e", "d", "c", "b", "a", "a")
    annotations, faults, _ = read_voc(root, "train")
    places = [(fault.file[-9:], fault.item) for fault in faults]
    assert places == [
        ("train.txt", "line 6"),
        ("ons/e.xml", "size"),
        ("ons/e.xml", "object 1"),
        ("ons/e.xml", "object 2"),
        ("ons/e.xml", "object 3"),
        ("ons/d.xml", "object 2"),
        ("ons/b.xml", ""),
    ]
    assert annotations.owners.tolist() == [1, 2, 3]


def remove(name):
    return lambda root: shutil.rmtree(root / name)


def remove_list(root):
    (root / "ImageSets" / "Main" / "train.txt").unlink()


def break_all(root):
    for file in (root / "Annotations").iterdir():
        file.write_text("")


def remove_images(root):
    for file in (root / "JPEGImages").iterdir():
        file.unlink()


def write_split(content):
    return lambda root: (root / "ImageSets" / "Main" / "train.txt").write_bytes(content)


def add_val(root):
    write_list(root, "val", "a")


def add_good_tree(root):
    add_image(root.parent / "more", "d", voc_object())


def no_folder(name):
    needed = "a VOC data_dir holds JPEGImages, Annotations, ImageSets/Main"
    return f"no folder {{root}}/{name}; {needed}"


# What is done to the tree; data_dir and split; the error.
REFUSED = {
    "no folder": (None, "{root}/x", "train", no_folder("x")),
    "no images": (remove("JPEGImages"), "{root}", "train", no_folder("JPEGImages")),
    "no annotations": (
        remove("Annotations"), "{root}", "train", no_folder("Annotations")
    ),
    "no lists": (remove("ImageSets"), "{root}", "train", no_folder("ImageSets/Main")),
    "one wrong path": (
        add_good_tree, "{root},{root}/../nowhere", "train", no_folder("../nowhere")
    ),
    "no path": (None, " , ", "train", "data_dir: expected one or several folders, got none"),
    "empty list": (None, [], "train", "data_dir: expected one or several folders, got none"),
    "a tree twice": (
        None, "{root},{root}/../tree", "train",
        "data_dir: expected different trees, got {root}, {root}/../tree",
    ),
    "unknown split": (
        add_val, "{root}", "test", "no split 'test' in {lists}; there are: train, val"
    ),
    "unknown split of two": (
        None, "{root}", "train+test", "no split 'test' in {lists}; there are: train"
    ),
    "no split at all": (
        remove_list, "{root}", "train",
        "no split 'train' in {lists}; there are: none",
    ),
    "a split that the second tree lacks": (
        lambda root: (add_val(root), add_good_tree(root)), "{root},{root}/../more", "val",
        "no split 'val' in {root}/../more/ImageSets/Main; there are: train",
    ),
    "empty split": (write_split(b""), "{root}", "train", "{lists}/train.txt names no image"),
    "blank split": (
        write_split(b"\n  \r\n\t\n"), "{root}", "train", "{lists}/train.txt names no image"
    ),
    "split in another encoding": (
        write_split("caf\xe9".encode("latin-1")), "{root}", "train",
        "{lists}/train.txt: expected text in UTF-8, got 'utf-8' codec can't decode",
    ),
    "no annotation left": (
        break_all, "{root}", "train",
        "no object in any annotation of {root}; the first that is broken: "
        "{root}/Annotations/a.xml: is not readable XML: no element found: line 1, column 0",
    ),
    "no image left": (
        remove_images, "{root}", "train",
        "split 'train' of {root}: none of 3 images is left; the first fault: "
        "{root}/Annotations/a.xml: expected its image {root}/JPEGImages/a.jpg, got no such file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("prepare, data_dir, split, message", REFUSED.values(), ids=REFUSED)
def test_what_leaves_nothing_to_read(tmp_path, prepare, data_dir, split, message):
    root = tmp_path / "tree"
    for stem in "abc":
        add_image(root, stem, voc_object())
    if prepare is not None:
        prepare(root)
    missing = message.startswith(("no folder", "no split"))
    with pytest.raises(FileNotFoundError if missing else ValueError) as caught:
        read_voc(data_dir.format(root=root) if data_dir else data_dir, split)
    assert str(caught.value).startswith(message.format(root=root, lists=root / "ImageSets/Main"))
    assert "\n" not in str(caught.value)


def test_a_tree_in_the_folder_above_that_is_not_whole(tmp_path):
    for name in ("VOC2007", "VOC2012"):
        add_image(tmp_path / name, "a", voc_object())
    shutil.rmtree(tmp_path / "VOC2012" / "Annotations")
    with pytest.raises(FileNotFoundError, match=r"no folder .*VOC2012/Annotations"):
        read_voc(tmp_path, "train")
    shutil.rmtree(tmp_path / "VOC2012" / "ImageSets")  # then it does not have the split
    assert read_voc(tmp_path, "train").annotations.num_images == 1
    with pytest.raises(FileNotFoundError) as caught:
        read_voc(tmp_path, "test")
    folders = f"{tmp_path}/VOC2007/ImageSets/Main, {tmp_path}/VOC2012/ImageSets/Main"
    assert str(caught.value) == f"no split 'test' in {folders}; there are: train"
