"""VOC trees that are written read back the same."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_tf.data.annotations import Annotations
from fcos_tf.data.formats.voc import write_voc
from tests.data.formats.voc_trees import read_voc

COLUMNS = ("image_ids", "sizes", "owners", "boxes", "labels", "areas", "ignored", "numbers")


def same(first, second):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
    assert first.class_names == second.class_names
    assert first.category_ids == second.category_ids


def one_image(boxes, size=(500, 600), ignored=None, file="x/photo.png"):
    """An image with boxes of one class, as `read_voc` would give it."""
    count = len(boxes)
    return Annotations(
        files=[file],
        image_ids=np.array([7]),
        sizes=np.array([size]),
        owners=np.zeros(count, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.zeros(count, np.int32),
        areas=np.full(count, np.nan),
        ignored=np.zeros(count, bool) if ignored is None else np.array(ignored),
        numbers=np.arange(1, count + 1),
        class_names=("cat",),
        category_ids=(1,),
    )


def test_the_text_that_is_written(tmp_path):
    annotations = one_image([[9, 19.5, 30, 40.125]], ignored=[True])
    write_voc(annotations, tmp_path, "val", ["img 7.png"])
    # (9 + 1, 19.5 + 1, 30, 40.125): one-based and inclusive.
    assert (
        (tmp_path / "Annotations" / "img 7.xml").read_text()
        == """<annotation>
  <filename>img 7.png</filename>
  <size>
    <width>600</width>
    <height>500</height>
    <depth>3</depth>
  </size>
  <object>
    <name>cat</name>
    <difficult>1</difficult>
    <bndbox>
      <xmin>10</xmin>
      <ymin>20.5</ymin>
      <xmax>30</xmax>
      <ymax>40.125</ymax>
    </bndbox>
  </object>
</annotation>"""
    )
    assert (tmp_path / "ImageSets" / "Main" / "val.txt").read_text() == "img 7\n"
    assert list((tmp_path / "JPEGImages").iterdir()) == []


def reread(annotations, root):
    """Writes one image and reads it back; its file cannot be decoded, so its size is written."""
    write_voc(annotations, root, "train", ["000007.png"])
    (root / "JPEGImages" / "000007.png").touch()
    found, faults, _ = read_voc(root, "train", class_names=annotations.class_names)
    assert all(fault.kept for fault in faults)  # without boxes: nothing of the class
    return found


def test_boxes_of_one_pixel_and_narrower_come_back(tmp_path):
    # Equal corners are stray clicks to the reader: (5, 6) must not be written as xmin = xmax = 6.
    boxes = [[5, 5, 6, 9], [0.14, 7, 1.14, 8], [0, 0, 0.001, 30], [8.2, 1, 8.9, 1.5]]
    boxes += [[5, 5, 6.001, 5.999]]
    same(reread(one_image(boxes), tmp_path), one_image(boxes))


THOUSANDTHS = st.integers(0, 500_000)


@settings(max_examples=100, deadline=None)
@given(boxes=st.lists(st.tuples(*[THOUSANDTHS] * 4), max_size=5))
def test_any_box_in_thousandths_comes_back(boxes, tmp_path_factory):
    ordered = [
        [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        for x1, y1, x2, y2 in boxes
        if x1 != x2 and y1 != y2
    ]
    annotations = one_image(np.array(ordered) / 1000)
    same(reread(annotations, tmp_path_factory.mktemp("tree")), annotations)


def test_unknown_sizes_and_odd_class_names_come_back(tmp_path):
    annotations = one_image([[1, 2, 3, 4]], size=(0, 0))
    annotations = Annotations(**{**vars(annotations), "class_names": ("<Käse & 猫>",)})
    same(reread(annotations, tmp_path), annotations)
    assert "size" not in (tmp_path / "Annotations" / "000007.xml").read_text()


def test_real_splits_come_back(shared_data, tmp_path):
    root = shared_data / "voc2007"
    for split in ("val", "train"):
        found = read_voc(root, split, limit=150).annotations
        write_voc(found, tmp_path, split, [Path(file).name for file in found.files])
        for file in found.files:
            shutil.copy(file, tmp_path / "JPEGImages")
        same(read_voc(tmp_path, split, class_names=found.class_names).annotations, found)
    assert found.ignored.any()


@pytest.mark.parametrize("stem", [" a", "a\nb"])
def test_names_that_would_not_read_back_are_refused(tmp_path, stem):
    message = re.escape(f"expected names that a split file can hold, got {stem!r}")
    with pytest.raises(ValueError, match=message):
        write_voc(one_image([]), tmp_path, "train", [f"{stem}.png"])
    assert list(tmp_path.iterdir()) == []
