"""One data set in all forms of own data, and how each is recognised."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.data.formats.recognise import recognise
from tests.data.formats import own_data
from tests.data.formats.voc_trees import add_image, read_voc, voc_object

FORMAT = {form: form.split()[0] for form in own_data.FORMS}


@pytest.fixture(scope="module")
def blood_cells(shared_data):
    if not (shared_data / "bccd").is_dir():
        pytest.skip(f"no folder {shared_data / 'bccd'}")
    return read_voc(shared_data / "bccd", "trainval").annotations


@pytest.mark.parametrize("form", own_data.FORMS)
def test_blood_cells_read_back_the_same(blood_cells, shared_data, tmp_path, form):
    own_data.FORMS[form](blood_cells, tmp_path)
    assert recognise(data_dir=tmp_path)[0] == FORMAT[form]
    split = "train" if form == "coco" else "all"
    found = fcos_tf.data.read_annotations("auto", split, data_dir=tmp_path)
    assert found.faults == [] and found.other_classes == {}
    own_data.assert_same(found.annotations, blood_cells)
    options = {"batch_size": 3, "image_size": (96, 128), "limit": 6}
    expected = fcos_tf.data.load("voc", split="trainval", data_dir=shared_data / "bccd", **options)
    for ours, theirs in zip(
        fcos_tf.data.load("auto", split=split, data_dir=tmp_path, **options), expected, strict=True
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])
        for key in theirs[1]:
            # COCO states the areas of the boxes, in float64 before the corners are rounded.
            np.testing.assert_allclose(ours[1][key], theirs[1][key], rtol=1e-6, err_msg=key)


@pytest.fixture
def photos(tmp_path):
    """A function that makes a photo of 40x30 pixels, and the text files beside it."""

    def add(name, **files):
        image = tmp_path / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(image)
        for suffix, text in files.items():
            image.with_suffix(f".{suffix}").write_text(text)
        return tmp_path

    return add


XML = "<annotation><object/></annotation>"
LABELME = json.dumps({"version": "5.5.0", "flags": {}, "shapes": []})
COCO = json.dumps({"info": {}, "images": [], "annotations": [], "categories": []})


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"a.xml": XML}, "xml"),
        ({"Annotations/cam1/a.xml": XML, "JPEGImages/cam1/a.txt": "notes"}, "xml"),
        ({"my.yaml": "names: [cat]\ntrain: images\n"}, "yolo"),
        ({"labels/a.txt": "", "labels/b.txt": "0 0.5 0.5 0.1 0.1\n"}, "yolo"),
        ({"x/labels.csv": "filename,class,xmin,ymin,xmax,ymax\n"}, "csv"),
        ({"a.csv": "photos/a.jpg,,,,,\n", "classes.csv": "cat,0\n"}, "csv"),
        ({"train/_annotations.coco.json": COCO, "README.dataset.txt": "cells 1 2 3"}, "coco"),
        ({"sub/a.json": LABELME}, "labelme"),
        ({"a.xml": XML, "export.csv": f'a,"{"b" * 200_000}"'}, "xml"),
        ({"a.xml": XML, ".gitlab-ci.yml": "names: [cat]\n", "ci.yml": "a: &a b\nc: *a\n"}, "xml"),
        # Label Studio's notes have categories, too.
        ({"labels/a.txt": "0 0.5 0.5 0.1 0.1\n", "notes.json": '{"categories": []}'}, "yolo"),
        ({"obj.data": "classes = 1\ntrain = data/train.txt\n", "obj.names": "cat\n"}, "yolo"),
        ({"labels/a.txt": "0 0.5 0.5 0.1 0.1\n", "latin.yaml": "caf\udce9: b"}, "yolo"),
        ({"cats.yaml": "names: [cat]\n", "a.yml": "day: 2024-13-45\n"}, "yolo"),
    ],
)
def test_a_format_is_recognised_by_its_files(tmp_path, files, name):
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, "utf-8", "surrogateescape")
    found, (note,) = recognise(data_dir=tmp_path)
    assert found == name and note.startswith(f"{tmp_path} is read as {name}: it has ")


def test_a_voc_tree_and_several_are_recognised(tmp_path):
    add_image(tmp_path / "VOC2007", "a", voc_object())
    assert recognise(data_dir=tmp_path / "VOC2007")[0] == "voc"
    assert recognise(data_dir=tmp_path)[0] == "voc"
    assert recognise(data_dir=f"{tmp_path}/VOC2007,{tmp_path}/VOC2012")[0] == "voc"
    (tmp_path / "data").mkdir()
    (tmp_path / "VOC2007").rename(tmp_path / "data" / "VOC2007")
    found = fcos_tf.data.read_annotations("auto", "train", data_dir=tmp_path).annotations
    assert found.files == [str(tmp_path / "data" / "VOC2007" / "JPEGImages" / "a.jpg")]


def test_a_folder_with_a_comma_and_places_of_a_split(tmp_path):
    folder = tmp_path / "photos, 2024"
    folder.mkdir()
    (folder / "a.xml").write_text(XML)
    assert recognise(data_dir=folder)[0] == recognise(data_dir=str(folder))[0] == "xml"
    (tmp_path / "instances_val2017.json").write_text(COCO)
    assert recognise("val2017", annotations=tmp_path / "instances_{split}.json")[0] == "coco"


def test_a_file_says_what_it_is(tmp_path):
    (tmp_path / "a.json").write_text(COCO), (tmp_path / "b.yaml").write_text("names: [cat]")
    assert recognise(annotations=tmp_path / "a.json", images=tmp_path)[0] == "coco"
    assert recognise(data_dir=tmp_path / "b.yaml")[0] == "yolo"


def test_what_cannot_be_told_is_refused_with_the_choices(photos):
    choices = re.escape(
        "give --dataset, one of coco, voc, xml, yolo, csv, labelme, folders or tfds:NAME"
    )
    root = photos("a.jpg")
    with pytest.raises(ValueError, match=f"cannot tell what .*: none of them; {choices}"):
        recognise(data_dir=root)
    photos("a.jpg", xml=XML, txt="0 0.5 0.5 0.1 0.1")
    with pytest.raises(ValueError, match=rf"yolo \(.*a\.txt\); xml \(a\.xml\); {choices}"):
        recognise(data_dir=root)
    with pytest.raises(FileNotFoundError, match=r"no folder or file .*nowhere"):
        recognise(data_dir=root / "nowhere")


def test_places_that_a_format_does_not_use_are_refused(tmp_path):
    add_image(tmp_path, "a", voc_object())
    for dataset, place in (
        ("digits", {"data_dir": tmp_path}),
        ("digits", {"images": tmp_path}),
        ("voc", {"data_dir": tmp_path, "annotations": tmp_path}),
        ("voc", {"data_dir": tmp_path, "images": tmp_path}),
        ("tfds:voc", {"data_dir": tmp_path, "images": tmp_path}),
    ):
        *_, (name, value) = place.items()
        message = re.escape(f"{name}: dataset {dataset} takes none, got '{value}'")
        with pytest.raises(ValueError, match=message):
            fcos_tf.data.read_annotations(dataset, "train", **place)
        with pytest.raises(ValueError, match=message):
            fcos_tf.data.load(dataset, split="train", batch_size=1, **place)


def test_what_was_recognised_and_how_it_is_split_is_told(photos):
    for name in "abcdefgh":
        root = photos(f"{name}.jpg", xml=f"<annotation>{voc_object()}</annotation>")
    data = fcos_tf.data.load("auto", split="train", batch_size=1, data_dir=root, val_fraction=0.5)
    recognised, split = data.notes
    assert recognised == f"{root} is read as xml: it has a.xml"
    assert split.startswith(f"{root} has no splits of its own: val_fraction=0.5 by a hash of the ")
    assert data.annotations.num_images == data.num_images < 8


_ANNOTATIONS = {
    "xml": ("xml", "<annotation><size><width>40</width><height>30</height></size><object><name>cell"
            "</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
            "</object></annotation>"),
    "yolo": ("txt", "0 .5 .5 .2 .2\n"),
    "labelme": ("json", json.dumps({"imagePath": "a.png", "shapes": [
        {"label": "cell", "shape_type": "rectangle", "points": [[2, 2], [9, 9]]}]})),
}  # fmt: skip


@pytest.mark.parametrize("dataset", _ANNOTATIONS)
def test_a_pipe_among_the_annotations_is_a_fault(photos, dataset):
    suffix, text = _ANNOTATIONS[dataset]
    photos("images/a.png")
    root = photos("images/b.png")
    (root / "labels").mkdir()
    folder = root / ("labels" if dataset == "yolo" else "images")
    (folder / f"a.{suffix}").write_text(text)
    os.mkfifo(folder / f"b.{suffix}")
    if dataset == "yolo":
        (root / "classes.txt").write_text("cell\n")
    assert recognise(data_dir=root)[0] == dataset
    found = fcos_tf.data.read_annotations(dataset, "all", data_dir=root)
    (fault,) = [fault for fault in found.faults if "regular file" in str(fault)]
    assert f"b.{suffix}" in str(fault)
    assert len(found.annotations.boxes) == 1
