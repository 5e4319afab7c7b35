"""Splits of data that has none: hash, lists of one's own, folders; images in two splits."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_tf import build
from fcos_tf.cli.dataset import write_lists
from fcos_tf.config import Config
from fcos_tf.data import read_annotations
from fcos_tf.data.annotations import Fault
from fcos_tf.data.formats import splits
from tests.data.formats.voc_trees import voc_object

NAMES = [f"photo_{number}.jpg" for number in range(1000)]


def chosen(names, split, val_fraction=0.2, root="/nowhere"):
    return [names[i] for i in splits.choose(names, split, Path(root), val_fraction).indices]


def test_the_hash_is_that_of_the_name_alone():
    # 0x4ce1c689 / 2^32 = .30032
    assert hashlib.sha256(b"photo_1").hexdigest().startswith("4ce1c689")
    for name in ("photo_1.jpg", "photo_1", "photo_1.PNG", "images/photo_1.jpg", "./photo_1.jpg"):
        assert splits.is_val(name, 0.3004) and not splits.is_val(name, 0.3003)
    assert splits.is_val("cam1/photo_1.jpg", 0.5) == splits.is_val("cam1\\photo_1.jpg", 0.5)
    # A letter with its accent, as one character and as two (macOS).
    assert splits.is_val("caf\xe9.jpg", 0.5) == splits.is_val("cafe\u0301.jpg", 0.5)


def test_the_hash_is_that_of_hashlib_and_the_share_near_the_fraction():
    names = [f"cam{number % 7}/img {number}.jpg" for number in range(2000)]
    expected = []
    for name in names:
        digest = hashlib.sha256(name.removesuffix(".jpg").encode()).hexdigest()
        if int(digest[:16], 16) / 2**64 < 0.2:
            expected.append(name)
    assert chosen(names, "val") == expected
    # Binomial: 400 expected, standard deviation sqrt(2000 * .2 * .8) = 17.9, four of them 72.
    assert 328 < len(expected) < 472
    assert chosen(names, "train+val") == names


def test_shares_are_near_val_fraction_and_splits_disjoint():
    for share in (0.1, 0.2, 0.5):
        val, train = chosen(NAMES, "val", share), chosen(NAMES, "train", share)
        # Binomial: the standard deviation of the count is at most 16.
        assert abs(len(val) - 1000 * share) < 4 * np.sqrt(1000 * share * (1 - share))
        assert sorted(val + train) == sorted(NAMES) == sorted(chosen(NAMES, "all", share))
    assert set(chosen(NAMES, "val", 0.1)) < set(chosen(NAMES, "val", 0.2))


def test_more_photos_change_nothing():
    few = NAMES[::3]
    assert chosen(few, "val") == [name for name in chosen(NAMES, "val") if name in few]


def test_the_split_is_stated():
    (note,) = splits.choose(NAMES[:5], "train", Path("/photos"), 0.5).notes
    count = sum(splits.is_val(name, 0.5) for name in NAMES[:5])
    assert note == (
        "/photos has no splits of its own: val_fraction=0.5 by a hash of the file names puts "
        f"{count} of 5 images into val; 'dataset.py --what=split' writes the lists"
    )


def test_splits_that_there_are_not():
    with pytest.raises(ValueError, match=r"no split 'test' in /x, which has none .* val or all"):
        chosen(NAMES, "test", root="/x")
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match="val_fraction: expected a number between 0 and 1"):
            chosen(NAMES, "val", share)
    name = next(name for name in NAMES if not splits.is_val(name, 0.2))
    with pytest.raises(ValueError, match="val has none of 1 images"):
        chosen([name], "val")


def test_folders_of_splits_are_the_splits():
    names = ["images/train/a.jpg", "images/valid/b.jpg", "test/c.jpg", "other/d.jpg"]
    assert chosen(names, "train") == names[:1] and chosen(names, "val") == names[1:2]
    assert chosen(names, "test") == names[2:3] and chosen(names, "all") == names
    (note,) = splits.choose(names, "val", Path("/x"), 0.2).notes
    assert note == "/x: 1 images are in no folder of a split and left out"
    with pytest.raises(FileNotFoundError, match="no split 'train' in /x; there are: test, val"):
        chosen(names[1:], "train", root="/x")


@pytest.fixture
def photos(tmp_path):
    """Twelve images with XML in two subfolders."""
    for number in range(12):
        stem = tmp_path / f"cam{number % 2}" / f"photo_{number}"
        stem.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(f"{stem}.jpg")
        Path(f"{stem}.xml").write_text(f"<annotation>{voc_object()}</annotation>")
    return tmp_path


def read_both(root, **where):
    where = where or {"data_dir": root}
    both = ("train", "val")
    return {split: read_annotations("xml", split, val_fraction=0.5, **where) for split in both}


def test_written_lists_are_read_back_and_may_be_edited(photos):
    before = read_both(photos)
    annotations = {split: found.annotations for split, found in before.items()}
    files = splits.write_lists(annotations)
    assert files == [photos / "splits" / "train.txt", photos / "splits" / "val.txt"]
    lines = {file.stem: file.read_text().splitlines() for file in files}
    assert sorted(lines["train"] + lines["val"]) == sorted(
        f"cam{number % 2}/photo_{number}" for number in range(12)
    )
    for split, found in read_both(photos).items():
        assert found.faults == []
        assert found.annotations.files == annotations[split].files
        assert found.annotations.notes == (
            f"{len(lines[split])} images by the list {photos}/splits/{split}.txt",
        )
    with pytest.raises(ValueError, match="has a split train of its own; nothing to write"):
        splits.write_lists({"train": read_both(photos)["train"].annotations})
    with pytest.raises(FileExistsError, match=r"train\.txt is there already; edit it, or remove"):
        splits.write_lists(annotations)

    (photos / "splits" / "test.txt").write_text(
        "# mine\ncam1/photo_1\n\n cam0/photo_2.jpg \ncam1/photo_1.jpg\ncam3/photo_3.jpg\n"
    )
    found, faults, _ = read_annotations("xml", "test", data_dir=photos)
    assert [Path(file).name for file in found.files] == ["photo_2.jpg", "photo_1.jpg"]
    file = str(photos / "splits" / "test.txt")
    assert faults == [
        Fault(file, "line 5", "names 'cam1/photo_1.jpg' once more"),
        Fault(file, "line 6", "names 'cam3/photo_3.jpg', which is no image"),
    ]
    with pytest.raises(FileNotFoundError, match=r"no split 'x' in .*splits; there are: test, tr"):
        read_annotations("xml", "x", data_dir=photos)


def test_the_tool_writes_lists_of_a_hash_alone(photos):
    config = Config(data_dir=str(photos), val_fraction=0.5)
    before = {split: found.annotations.files for split, found in read_both(photos).items()}
    files = write_lists(config, ["train", "val"])
    assert files == [photos / "splits" / "train.txt", photos / "splits" / "val.txt"]
    texts = [file.read_text() for file in files]
    assert {s: found.annotations.files for s, found in read_both(photos).items()} == before
    with pytest.raises(ValueError, match="has a split train of its own; nothing to write"):
        write_lists(config, ["train", "val"])
    assert [file.read_text() for file in files] == texts


def add_photo(root, name, labels, text):
    """Adds images/NAME of 40x30 pixels and its annotation file."""
    for file in (root / "images" / name, root / labels):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(root / "images" / name)
    (root / labels).write_text(text)


def xml_in_annots(root):
    for number in range(8):
        xml = f"<annotation>{voc_object()}</annotation>"
        add_photo(root, f"{number}.jpg", f"annots/{number}.xml", xml)
    return {"dataset": "xml", "data_dir": root}


def labelme_in_annots(root):
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[2, 2], [9, 9]]}
    for number in range(8):
        text = json.dumps({"imagePath": f"{number}.jpg", "shapes": [shape]})
        add_photo(root, f"{number}.jpg", f"annots/{number}.json", text)
    return {"dataset": "labelme", "data_dir": root}


def coco_in_a_folder_of_its_name(root, names=tuple(f"{number}.jpg" for number in range(8))):
    for name in names:
        add_photo(root, name, "annotations/set.json", "")
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations" / "set.json").write_text(json.dumps(content))
    (root / "images").rename(root / "set")
    return {"dataset": "coco", "data_dir": root}


def yolo_by_its_config(root):
    for number in range(8):
        add_photo(root, f"{number}.jpg", f"labels/{number}.txt", "0 .5 .5 .2 .2\n")
    (root / "data.yaml").write_text("names: [cat]\n")
    return {"dataset": "yolo", "annotations": root / "data.yaml"}


def csv_by_its_table(root):
    for number in range(8):
        add_photo(root, f"{number}.jpg", "boxes.csv", "")
    lines = "".join(f"images/{number}.jpg,1,2,3,4,cat\n" for number in range(8))
    (root / "boxes.csv").write_text(lines)
    return {"dataset": "csv", "annotations": root / "boxes.csv"}


def odd_names(root):
    """Names that a list would read as comments, as another name, or without their blanks."""
    names = ["#1.jpg", "#2.jpg", " 3.jpg", " 4.jpg", "5.jpg", "images/5.jpg", "6.jpg", "'7'.jpg"]
    (root / "images" / "images").mkdir(parents=True)
    return coco_in_a_folder_of_its_name(root, names)


@pytest.mark.parametrize(
    "layout",
    [xml_in_annots, labelme_in_annots, coco_in_a_folder_of_its_name, yolo_by_its_config,
     csv_by_its_table, odd_names],
)  # fmt: skip
def test_lists_of_every_layout_are_read_back(tmp_path, monkeypatch, layout):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # nothing is written into the working directory
    where = layout(tmp_path / "data")
    config = Config(**{name: str(value) for name, value in where.items()}, val_fraction=0.4)
    before = {split: build.read_annotations(config, split) for split in ("train", "val")}
    files = write_lists(config, ["train", "val"])
    assert files == [tmp_path / "data" / "splits" / f"{split}.txt" for split in before]
    for (split, expected), file in zip(before.items(), files, strict=True):
        found = build.read_annotations(config, split)
        assert found.annotations.files == expected.annotations.files != []
        assert found.faults == []
        count = found.annotations.num_images
        assert f"{count} images by the list {file}" in found.annotations.notes


@pytest.mark.parametrize("layout", [xml_in_annots, coco_in_a_folder_of_its_name])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# mine\nx.jpg\n", "; the first fault: {0}: line 2 names 'x.jpg', which is no image"),
        ("", ""),
    ],
)
def test_a_list_that_names_no_image_is_told(tmp_path, layout, text, fault):
    where = layout(tmp_path)
    file = tmp_path / "splits" / "train.txt"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_annotations(split="train", **where)
    assert str(error.value) == (
        f"{tmp_path}: train has none of 8 images; 0 images by the list {file}{fault.format(file)}"
    )


def test_a_list_is_utf_8_with_or_without_a_byte_order_mark(tmp_path):
    where = xml_in_annots(tmp_path)
    file = tmp_path / "splits" / "train.txt"
    file.parent.mkdir()
    file.write_bytes(b"\xef\xbb\xbfannots/3\n")
    found, faults, _ = read_annotations(split="train", **where)
    assert faults == [] and found.files == [str(tmp_path / "images" / "3.jpg")]
    file.write_bytes(b"annots/3\nK\xe4tzchen\n")
    with pytest.raises(ValueError, match=rf"^{file}: expected text in UTF-8, got 'utf-8' codec"):
        read_annotations(split="train", **where)


def test_the_tool_writes_no_lists_where_folders_are_the_splits(photos):
    (photos / "cam0").rename(photos / "train"), (photos / "cam1").rename(photos / "valid")
    with pytest.raises(ValueError, match="has a split train of its own; nothing to write"):
        write_lists(Config(data_dir=str(photos)), ["train", "val"])
    assert not (photos / "splits").exists()


def test_no_list_is_written_for_two_splits_at_once(photos):
    with pytest.raises(ValueError, match=r"not several joined by '\+'; got 'train\+val'"):
        write_lists(Config(data_dir=str(photos)), ["train+val"])
    assert not (photos / "splits").exists()


def test_images_in_two_splits_are_found_by_file(photos, tmp_path_factory):
    found = {split: result.annotations for split, result in read_both(photos).items()}
    assert splits.shared_images(found["train"], found["val"]) == []
    assert splits.shared_images(found["train"], found["train"]) == list(found["train"].files)
    # The same photo by a link in another folder.
    other = tmp_path_factory.mktemp("other")
    source = Path(found["train"].files[0])
    os.symlink(source, other / "renamed.jpg")
    (other / "renamed.xml").write_text(f"<annotation>{voc_object()}</annotation>")
    linked = read_annotations("xml", "all", data_dir=other).annotations
    assert splits.shared_images(found["train"], linked) == [str(other / "renamed.jpg")]
