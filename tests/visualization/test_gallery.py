"""The picture of ground truth beside detections."""

import numpy as np
import pytest
from PIL import Image

from fcos_tf.visualization import class_colour, save_gallery

PANEL = 256
GAP, HEAD, FOOT = 8, 28, 21  # 256 // 32, 256 // 9, 256 // 12


def batch(num_images=3):
    """Images of 64 x 128 of which 64 x 64 count; one true and one other box found in each."""
    images = np.full((num_images, 64, 128, 3), 90, np.uint8)
    images[:, :, 64:] = 0
    truth = {
        "boxes": np.array([[[16, 16, 48, 48], [0, 0, 0, 0]]] * num_images, np.float32),
        "labels": np.array([[1, -1]] * num_images, np.int32),
        "image_sizes": np.array([[64, 64]] * num_images, np.float32),
        "image_ids": np.arange(num_images),
    }
    detections = {
        "boxes": np.array([[[0, 0, 32, 32], [8, 8, 60, 60]]] * num_images, np.float32),
        "scores": np.array([[0.9, 0.1]] * num_images, np.float32),
        "labels": np.array([[2, 3]] * num_images, np.int32),
    }
    return images, truth, detections


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def has_colour(pixels, label):
    return (pixels == class_colour(label)).all(axis=-1).any()


def test_every_image_has_its_two_panels(tmp_path):
    path = tmp_path / "new" / "gallery.png"
    assert save_gallery(path, *batch(), ["a", "b", "c", "d"], panel_size=PANEL) == path
    picture = read(path)
    # Two pairs a row, so two rows; a pair is two panels and four gaps wide.
    pair = 2 * PANEL + 4 * GAP
    row = PANEL + FOOT + GAP
    assert picture.shape == (HEAD + 2 * row, 2 * pair, 3)
    for index in range(3):
        top = HEAD + (index // 2) * row
        left = (index % 2) * pair + 2 * GAP
        right = left + PANEL + GAP
        # The 64 x 64 part fills the panel: 4 times as large. The true box begins at 4 * 16 = 64
        # and its edge passes (64, 128); the found one ends at 4 * 32 = 128, so column 127.
        assert tuple(picture[top + 128, left + 64]) == class_colour(1)
        assert tuple(picture[top + 96, right + 127]) == class_colour(2)
        panels = picture[top : top + PANEL]
        true_panel = panels[:, left : left + PANEL]
        found_panel = panels[:, right : right + PANEL]
        assert not has_colour(true_panel, 2)
        assert not has_colour(found_panel, 1)
        assert not has_colour(found_panel, 3)  # score 0.1
        assert tuple(true_panel[250, 250]) == (90, 90, 90)
    # Nothing at the fourth place.
    assert len(np.unique(picture[HEAD + row :, pair:].reshape(-1, 3), axis=0)) == 1


def test_dictionaries_of_single_images_give_the_same_picture(tmp_path):
    images, truth, detections = batch()
    one = read(save_gallery(tmp_path / "one.png", images, truth, detections))
    truths = [{key: value[i] for key, value in truth.items()} for i in range(3)]
    found = [{key: value[i] for key, value in detections.items()} for i in range(3)]
    other = read(save_gallery(tmp_path / "other.png", list(images), truths, found))
    np.testing.assert_array_equal(one, other)


def test_images_of_any_shape_and_without_boxes(tmp_path):
    images = [np.full(shape, 90, np.uint8) for shape in ((40, 400, 3), (900, 300, 3), (1, 1, 3))]
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "scores": np.zeros(0)}
    path = save_gallery(
        tmp_path / "g.png", images, [empty] * 3, [empty] * 3, columns=1, panel_size=PANEL
    )
    # Heights at long side 256: 26 (25.6), 256 and 256.
    assert read(path).shape[0] == HEAD + 26 + 256 + 256 + 3 * (FOOT + GAP)


def test_what_does_not_fit_is_named(tmp_path):
    images, truth, detections = batch()
    with pytest.raises(ValueError, match="expected detections of 2 images"):
        save_gallery(
            tmp_path / "g.png", images[:2], {k: v[:2] for k, v in truth.items()}, detections
        )
    with pytest.raises(ValueError, match="expected ground truth of 3 images, got 1"):
        save_gallery(tmp_path / "g.png", images, [truth], detections)
    with pytest.raises(ValueError, match="no images"):
        save_gallery(tmp_path / "g.png", images[:0], truth, detections)
    assert list(tmp_path.iterdir()) == []
