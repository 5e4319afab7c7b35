"""Folders of images by class: classes, splits, boxes around whole images, and what is wrong."""

import numpy as np
import pytest

import fcos_tf
from fcos_tf.data import read_annotations
from fcos_tf.data.formats.recognise import recognise
from tests.data.formats.own_data import add, names_of


def test_splits_with_a_folder_for_each_class(tmp_path):
    add(tmp_path, "train/dog/1.jpg", "train/dog/x/2.png", "train/cat/1.jpg", "valid/dog/3.jpg")
    add(tmp_path, "valid/cat/4.jpg", "valid/test/5.jpg")
    found, faults, _ = read_annotations("folders", "train", data_dir=tmp_path)
    # The first image of each class before the second.
    assert names_of(found, tmp_path) == ["train/cat/1.jpg", "train/dog/1.jpg", "train/dog/x/2.png"]
    assert found.class_names == ("cat", "dog", "test") and found.labels.tolist() == [0, 1, 1]
    assert found.boxes.tolist() == 3 * [[0, 0, 40, 30]] and found.single_label
    (fault,) = faults
    assert str(fault) == (
        f"{tmp_path}: class 'test' was asked for, but no object of split 'train' has it"
    )
    classes = ("dog", "cat", "test")
    found, faults, _ = read_annotations("folders", "val", data_dir=tmp_path, classes=classes)
    assert faults == [] and found.labels.tolist() == [1, 0, 2]
    found, _, _ = read_annotations("folders", "val", data_dir=tmp_path, limit=2)
    assert names_of(found, tmp_path) == [
        "valid/cat/4.jpg", "valid/dog/3.jpg"
    ]  # fmt: skip


def test_classes_without_splits_are_divided_by_a_hash_or_lists(tmp_path):
    add(tmp_path, *(f"{name}/{i}.jpg" for name in ("photos", "labels") for i in range(20)))
    splits = ("train", "val", "all")
    parts = [read_annotations("folders", split, data_dir=tmp_path) for split in splits]
    sizes = [found.num_images for found, _, _ in parts]
    assert sizes[0] + sizes[1] == sizes[2] == 40 and 0 < sizes[1] < 20
    assert "has no splits of its own: val_fraction=0.2" in parts[0].annotations.notes[0]
    assert parts[1].annotations.class_names == ("labels", "photos")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("labels/1.jpg\nphotos/3\n")
    found, faults, _ = read_annotations("folders", "train", data_dir=tmp_path)
    assert names_of(found, tmp_path) == ["labels/1.jpg", "photos/3.jpg"] and faults == []


def test_what_is_wrong_is_named(tmp_path):
    add(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    add(tmp_path, "stray.jpg", "train/stray.png", "extra/cup/1.jpg")
    (tmp_path / "train" / "emu").mkdir()
    (tmp_path / "train" / "cat" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "train" / "cat" / "notes.doc").write_bytes(b"no image")
    found, faults, _ = read_annotations("folders", "train", data_dir=tmp_path)
    assert found.class_names == ("cat", "dog") and found.num_images == 2
    outside = "lies outside the folders of the classes"
    assert [str(fault).removeprefix(str(tmp_path)) for fault in faults] == [
        f"/extra/cup/1.jpg: {outside}",
        f"/stray.jpg: {outside}",
        f"/train/stray.png: {outside}",
        ": folder 'emu' has no images",
        "/train/cat/broken.jpg: cannot be read; its size is needed for its boxes",
    ]
    assert not any(fault.kept for fault in faults)
    assert found.notes[0].endswith("of no image, first train/cat/notes.doc")
    for place, got in ((tmp_path / "train" / "cat", "none"), (tmp_path / "extra", "cup")):
        with pytest.raises(ValueError, match=f"folders of two classes or more, .* got {got}$"):
            read_annotations("folders", "train", data_dir=place)


def test_recognised_where_there_are_no_annotations(tmp_path):
    add(tmp_path, "train/1.jpg", "val/2.jpg")
    with pytest.raises(ValueError, match="none of them"):
        recognise(data_dir=tmp_path)
    add(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    name, (note,) = recognise(data_dir=tmp_path)
    assert name == "folders" and note.endswith("it has no annotations, and images in cat, dog")


def test_a_random_crop_keeps_the_class(tmp_path):
    add(tmp_path, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)))
    data = fcos_tf.data.load(
        "folders", split="all", batch_size=8, data_dir=tmp_path, image_size=(32, 32), training=True,
        augment=("scale_jitter",), scale_jitter=(3.0, 4.0),
    )  # fmt: skip
    assert data.single_label
    ((images, targets),) = data
    assert sorted(np.ravel(targets["labels"])) == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_array_equal(targets["boxes"], np.full([8, 1, 4], [0, 0, 32, 32]))
    assert images.shape == (8, 32, 32, 3)


def test_a_class_named_as_a_split_is_no_split_in_silence(tmp_path):
    add(tmp_path, "car/1.png", "train/2.png", "boat/3.png")
    with pytest.raises(ValueError, match=r"train is named as a split, and boat, car beside it"):
        read_annotations("folders", "val", data_dir=tmp_path)
    add(tmp_path / "deep", "x/car/1.png", "x/train/old/2.png", "x/train/new/3.png")
    with pytest.raises(ValueError, match=r"x/train is named as a split, and car beside it"):
        read_annotations("folders", "val", data_dir=tmp_path / "deep")
