"""The embedded data set: the same for everybody, honest boxes, disjoint splits."""

import cv2
import numpy as np
import pytest

from fcos_tf.data.formats import digit_scenes, digits


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_scene_is_a_function_of_split_and_index():
    scene = digits.make_scene(5, "train")
    assert same(scene, digits.make_scene(5, "train"))
    for other in ((6, "train"), (5, "val")):
        assert not np.array_equal(scene.image, digits.make_scene(*other).image)


def test_scenes_are_the_same_on_every_machine():
    """Drawn once, with NumPy 2.4 and OpenCV 5.0; to change this is to change the data set."""
    alpha = digit_scenes.draw_glyph(digit_scenes.glyph_masks()[0][0], 30.0, 1.0, 10.0)
    assert (alpha.shape, int(alpha.sum())) == ((44, 44), 78599)
    scene = digits.make_scene(2, "val")
    assert scene.boxes.astype(int).tolist() == [[66, 15, 97, 58], [24, 61, 50, 106]]
    assert scene.glyphs.tolist() == [201, 375]
    # The background comes out of a JPEG decoder, which may differ by a grey level.
    assert abs(float(scene.image.mean()) - 14.006) < 0.5


def test_no_glyph_of_val_occurs_in_train():
    train, val = digits.split_glyphs("train"), digits.split_glyphs("val")
    assert sorted([*train, *val]) == list(range(1797))
    masks, labels = digit_scenes.glyph_masks()
    pictures = {split: {masks[i].tobytes() for i in digits.split_glyphs(split)} for split in
                ("train", "val")}  # fmt: skip
    assert not pictures["train"] & pictures["val"]  # nor the same drawing twice
    # 174 to 183 glyphs a class, every fifth from the first on: ceil(174 / 5) = 35, at most 37.
    assert set(np.bincount(labels[val])) <= {35, 36, 37}
    used = {split: {g for i in range(60) for g in digits.make_scene(i, split).glyphs}
            for split in ("train", "val")}  # fmt: skip
    assert used["train"] <= set(train) and used["val"] <= set(val)


def test_labels_are_the_digits():
    labels = digit_scenes.glyph_masks()[1]
    scene = digits.make_scene(3, "train")
    assert scene.labels.dtype == np.int32
    np.testing.assert_array_equal(scene.labels, labels[scene.glyphs])


def test_scenes_keep_their_rules():
    sizes, counts = [], []
    for index in range(200):
        scene = digits.make_scene(index, "train")
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        boxes = scene.boxes
        counts.append(len(boxes))
        assert boxes.min() >= 0 and boxes.max() <= 128
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert area.min() > 0
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(-1) * (1 - np.eye(len(boxes)))
        assert (shared / (area[:, None] + area - shared)).max() <= digit_scenes.MAX_IOU
        assert (shared / area).max() <= digit_scenes.MAX_COVERED
        sizes.extend(boxes[:, 3] - boxes[:, 1])
    assert set(counts) == {1, 2, 3, 4, 5, 6}
    # Cells of 18 to 72 pixels; ink adds or lacks part of a cell, and turning by 20 degrees adds
    # up to sin(20) * 1.2 of the height.
    assert 12 < min(sizes) < 20 and 60 < max(sizes) < 72 * (1 + 0.25 + 0.41)


def test_the_box_is_tight_around_the_painted_pixels(monkeypatch):
    """Against pixels: the difference between a scene of one digit and its bare background."""
    backgrounds = []
    draw = digit_scenes.draw_background
    monkeypatch.setattr(
        digit_scenes, "draw_background", lambda r: backgrounds.append(draw(r)) or backgrounds[-1]
    )
    checked = 0
    for index in range(60):
        scene = digits.make_scene(index, "train")
        if len(scene.boxes) > 1:
            continue
        changed = np.abs(scene.image.astype(int) - backgrounds[index]).max(-1)
        x1, y1, x2, y2 = scene.boxes[0].astype(int)
        # Alpha under 64 of 255 changes a channel by less than a quarter of 255.
        outside = changed.copy()
        outside[y1:y2, x1:x2] = 0
        assert outside.max() <= 64
        inside = changed[y1:y2, x1:x2] > 0
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()
        checked += 1
    assert checked >= 5


def test_tight_box_by_hand():
    alpha = np.zeros((10, 12), np.uint8)
    alpha[2, 3] = alpha[7, 9] = 64
    alpha[0, 0] = 63  # too faint
    assert digit_scenes.tight_box(alpha) == (3, 2, 10, 8)


def test_an_unturned_glyph_of_eight_pixels_a_cell_is_its_mask():
    # Height 64 = 8 cells of 8 pixels: the output grid is the mask's, offset by a cell (12 - 10
    # cells, half of it on each side), and every sample falls on a mask pixel.
    mask = digit_scenes.glyph_masks()[0][7]
    np.testing.assert_array_equal(digit_scenes.draw_glyph(mask, 64.0, 1.0, 0.0), mask[8:-8, 8:-8])


def test_turning_is_clockwise():
    mask = np.zeros((96, 96), np.uint8)
    mask[16:80, 44:52] = 255  # an upright bar
    alpha = digit_scenes.draw_glyph(mask, 64.0, 1.0, 20.0)
    middle = alpha.shape[0] // 2
    top, bottom = (np.flatnonzero(alpha[middle + d] >= 128).mean() for d in (-20, 20))
    assert top > bottom  # its top leans to the right


def test_digits_stand_out_from_their_ground():
    random = np.random.default_rng(0).random
    for level in (0, 60, 127, 128, 200, 255):
        for _ in range(20):
            colour = digit_scenes._contrasting_colour(np.full((9, 3), level), random(4))
            assert colour.min() >= 0 and colour.max() <= 255
            # One grey level for rounding.
            assert abs(colour @ (0.299, 0.587, 0.114) - level) >= digit_scenes.MIN_CONTRAST - 1


def test_source():
    source = digits.digits_source("val", limit=10)
    assert (source.num_images, source.most_boxes, source.can_flip) == (10, 6, False)
    assert source.class_names[3] == "3" and source.category_ids == tuple(range(1, 11))
    assert digits.digits_source("val").num_images == 256
    assert digits.digits_source("train", limit=9999).num_images == 8192
    record = source.read(4, lambda h, w: (h, w))
    scene = digits.make_scene(4, "val")
    assert same((record.image, record.boxes, record.labels), scene[:3])
    assert record.image_id == 5 and record.original_size.tolist() == [128, 128]
    widths, heights = (scene.boxes[:, 2:] - scene.boxes[:, :2]).T
    assert record.areas.tolist() == (widths * heights).tolist()
    small = source.read(4, lambda h, w: (h // 2, w // 4))
    assert small.image.shape == (64, 32, 3) and same(small[3:], record[3:])


def test_unknown_split():
    for call in (lambda: digits.make_scene(0, "test"), lambda: digits.digits_source("test")):
        with pytest.raises(ValueError, match="no split 'test' in digits; there are: train, val"):
            call()


def test_annotations_and_files_are_those_of_the_scenes():
    annotations, faults, _ = digits.read_digits("val", limit=5)
    assert annotations.image_ids.tolist() == [1, 2, 3, 4, 5] and faults == []
    for index in range(5):
        scene = digits.make_scene(index, "val")
        mine = annotations.owners == index
        assert same((annotations.boxes[mine], annotations.labels[mine]), scene[1:3])
        assert annotations.numbers[mine].tolist() == list(range(1, len(scene.labels) + 1))
        data = np.frombuffer(digits.read_scene_bytes(annotations.files[index]), np.uint8)
        assert same(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], scene.image)
