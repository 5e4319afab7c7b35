"""Boxes and labels in the pixels."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.visualization import class_colour, detections, draw_boxes, draw_detections
from fcos_tf.visualization.text import text_mask

GREY = 90


def grey_image(height=60, width=80):
    return np.full((height, width, 3), GREY, np.uint8)


def changed_box(picture, image):
    """The xyxy box of all pixels that differ."""
    rows, columns = np.nonzero((picture != image).any(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_the_frame_lies_on_the_edges_of_the_box():
    image = grey_image()
    picture = draw_boxes(image, [[10, 20, 30, 50]], [3], line_width=1, text_size=0)
    # Box [10, 30) x [20, 50): first column 10, last 29; first row 20, last 49.
    expected = image.copy()
    for rows, columns in (
        (20, slice(10, 30)),
        (49, slice(10, 30)),
        (slice(20, 50), 10),
        (slice(20, 50), 29),
    ):
        expected[rows, columns] = class_colour(3)
    np.testing.assert_array_equal(picture, expected)


def test_a_wide_line_grows_inwards():
    picture = draw_boxes(grey_image(), [[10, 20, 50, 55]], [0], line_width=4, text_size=0)
    for column in (10, 13, 46, 49):  # the first and last of four columns on each side
        assert tuple(picture[35, column]) == class_colour(0)
    assert tuple(picture[35, 30]) == (GREY, GREY, GREY)


def test_the_input_is_untouched():
    image = grey_image()
    picture = draw_boxes(image, [[1, 1, 20, 20]], [0], [0.5])
    assert picture.dtype == np.uint8
    assert (image == GREY).all()
    assert not np.shares_memory(picture, image)
    assert not np.shares_memory(draw_boxes(image, []), image)


def test_a_shade_sets_a_wide_frame_off_from_the_photo():
    picture = draw_boxes(grey_image(), [[10, 20, 50, 55]], [0], line_width=3, text_size=0)
    # One third of the line on each side: columns 9 and 13 beside 10, 11 and 12.
    dark = round(GREY * 0.72)
    assert [tuple(picture[35, column]) == (dark,) * 3 for column in range(8, 15)] == [
        False,
        True,
        False,
        False,
        False,
        True,
        False,
    ]


def test_no_boxes_leave_the_picture_as_it_is():
    np.testing.assert_array_equal(draw_boxes(grey_image(), np.zeros((0, 4)), []), grey_image())


def test_other_kinds_of_image():
    image = grey_image()
    boxes, labels = [[10, 20, 30, 50]], [1]
    expected = draw_boxes(image, boxes, labels)
    for other in (
        image.astype(np.float32) + 0.3,
        image[..., 0],
        image[..., :1],
        tf.constant(image),
        image[::-1][::-1],
    ):
        np.testing.assert_array_equal(draw_boxes(other, boxes, labels), expected)
    with pytest.raises(ValueError, match=r"expected an image .* got shape \(1, 60, 80, 3\)"):
        draw_boxes(image[None], boxes, labels)


def test_threshold_and_padding_of_detections():
    detections = {
        "boxes": np.array([[5, 5, 20, 20], [30, 5, 45, 20], [50, 5, 65, 20]], np.float32),
        "scores": np.array([0.9, 0.5, 0.4999], np.float32),
        "labels": np.array([0, 1, 2], np.int32),
    }
    picture = draw_detections(grey_image(), detections, score_threshold=0.5, text_size=0)
    assert tuple(picture[5, 12]) == class_colour(0)
    assert tuple(picture[5, 37]) == class_colour(1)  # at the threshold
    assert tuple(picture[5, 57]) == (GREY, GREY, GREY)
    detections["labels"][1] = -1
    picture = draw_detections(grey_image(), detections, score_threshold=0.5, text_size=0)
    assert tuple(picture[5, 37]) == (GREY, GREY, GREY)


def test_a_batch_of_one_is_one_image():
    detections = {
        "boxes": np.array([[5, 5, 20, 20]], np.float32),
        "scores": np.array([0.9], np.float32),
        "labels": np.array([0], np.int32),
        "num_detections": np.int32(1),
    }
    batch = {key: tf.constant(value)[None] for key, value in detections.items()}
    np.testing.assert_array_equal(
        draw_detections(grey_image(), batch, ["cat"]),
        draw_detections(grey_image(), detections, ["cat"]),
    )
    with pytest.raises(ValueError, match="one image, got 2 images"):
        draw_detections(grey_image(), {k: np.concatenate([v, v]) for k, v in batch.items()})


@pytest.mark.parametrize(
    "box", [[-40, -40, 20, 20], [70, 50, 500, 500], [0, 0, 80, 60], [200, 200, 300, 300]]
)
def test_boxes_and_labels_stay_inside(box):
    image = grey_image()
    picture = draw_boxes(image, [box], [0], [0.5], class_names=["a long name of a class"])
    assert picture.shape == image.shape
    assert (picture == class_colour(0)).all(axis=-1).any()


def test_boxes_without_area_or_turned_round_are_drawn():
    picture = draw_boxes(grey_image(), [[30, 20, 30, 20]], [0], line_width=1, text_size=0)
    assert changed_box(picture, grey_image()) == (30, 20, 31, 21)
    turned = draw_boxes(grey_image(), [[30, 50, 10, 20]], [0], text_size=0)
    np.testing.assert_array_equal(
        turned, draw_boxes(grey_image(), [[10, 20, 30, 50]], [0], text_size=0)
    )


def test_the_label_lies_on_its_box_or_inside_at_the_upper_border():
    image = grey_image(100, 200)
    picture = draw_boxes(image, [[50, 40, 120, 90]], [1], class_names=["cat"], text_size=12)
    x1, y1, _, y2 = changed_box(picture, image)
    assert (x1, y2) == (50, 90)
    assert 40 - 2 * 12 < y1 < 40 - 12  # a line of 12 pixel text, with its margins
    assert tuple(picture[y1, 50]) == class_colour(1)
    picture = draw_boxes(image, [[50, 0, 120, 90]], [1], class_names=["cat"], text_size=12)
    assert changed_box(picture, image) == (50, 0, 120, 90)
    assert tuple(picture[8, 52]) == class_colour(1)


def test_labels_of_equal_boxes_do_not_cover_each_other():
    image = grey_image(100, 200)
    picture = draw_boxes(
        image, [[50, 40, 120, 90]] * 2, [0, 1], [0.9, 0.8], class_names=["cat", "dog"], text_size=12
    )
    above, inside = picture[40 - 12, 51], picture[40 + 8, 51]
    assert tuple(above) == class_colour(0)  # the surer one has the better place
    assert tuple(inside) == class_colour(1)


@pytest.mark.parametrize("side", [128, 4000])
def test_lines_and_text_grow_with_the_image(side):
    image = np.full((side, side, 3), GREY, np.uint8)
    box = np.array([[0.3, 0.3, 0.8, 0.8]]) * side
    picture = draw_boxes(image, box, [0], class_names=["cat"])
    row = (picture[side // 2] == class_colour(0)).all(axis=-1)
    line_width = row[: side // 2].sum()
    assert line_width == max(1, round(side / 150))
    _, y1, _, _ = changed_box(picture, image)
    text_height = round(0.3 * side) - y1
    assert text_height >= 10
    assert 0.02 * side <= text_height <= 0.12 * side


def test_colours_are_fixed_and_far_apart():
    colours = np.array([class_colour(label) for label in range(100)], float)
    assert len({tuple(c) for c in colours}) == 100
    assert class_colour(np.int32(3)) == class_colour(3)
    first = colours[:10]
    distances = np.linalg.norm(first[:, None] - first[None], axis=-1) + 1e9 * np.eye(10)
    assert distances.min() > 75  # of 255 per channel
    for red, green, blue in colours / 255:
        _, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
        assert 0.3 < lightness < 0.75
        assert saturation > 0.5


@pytest.mark.parametrize("name", ["Шляпа", "Ωμέγα", "Größe", "ğışç", "صورة", "שלום"])
def test_names_of_other_scripts_have_their_own_shapes(name):
    # A character that a font lacks is drawn as its "not defined" box; none of these is.
    undefined = bytes(text_mask("\U000e0fff", 20).tobytes())
    for character in name:
        assert text_mask(character, 20).tobytes() != undefined, character
    image = grey_image(80, 160)
    one = draw_boxes(image, [[10, 30, 150, 70]], [0], class_names=[name])
    other = draw_boxes(image, [[10, 30, 150, 70]], [0], class_names=["?" * len(name)])
    assert (one != other).any()


def test_a_character_that_no_font_has_is_no_error():
    draw_boxes(grey_image(), [[5, 5, 50, 50]], [0], class_names=["\U000e0fff\nx"])


def test_names_fall_back_to_numbers():
    image, box = grey_image(), [[5, 25, 70, 55]]
    expected = draw_boxes(image, box, [0], class_names=["4"])
    expected = (expected == class_colour(0)).all(axis=-1)
    for class_names in (None, ["a", "b"]):
        picture = draw_boxes(image, box, [4], class_names=class_names)
        np.testing.assert_array_equal((picture == class_colour(4)).all(axis=-1), expected)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"expected labels \[1\], got shape \(2,\)"):
        draw_boxes(grey_image(), [[1, 1, 5, 5]], [0, 1])
    with pytest.raises(ValueError, match=r"expected scores \[1\], got shape \(\)"):
        draw_boxes(grey_image(), [[1, 1, 5, 5]], [0], 0.5)
    with pytest.raises(ValueError, match=r"expected boxes \[K, 4\], got shape \(4,\)"):
        draw_boxes(grey_image(), [1, 1, 5, 5], [0])
    with pytest.raises(ValueError, match=r"finite boxes, got \[1.0, nan, 5.0, 5.0\] in row 1"):
        draw_boxes(grey_image(), [[1, 1, 5, 5], [1, np.nan, 5, 5]], [0, 0])


def test_a_real_photo(shared_data):
    files = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))
    if not files:
        pytest.skip(f"no photos under {shared_data}/bccd")
    photo = np.asarray(Image.open(files[0]).convert("RGB"))
    picture = draw_boxes(photo, [[100, 100, 200, 250]], [0], [0.9], class_names=["RBC"])
    # 150 rows of the left edge in the colour of the class; far from box and label, the photo.
    assert (picture[100:250, 100] == class_colour(0)).all()
    np.testing.assert_array_equal(picture[300:], photo[300:])
    np.testing.assert_array_equal(picture[:, 300:], photo[:, 300:])


def test_a_label_too_wide_for_the_image_loses_the_score_and_then_letters(monkeypatch):
    written = []

    def text_mask(line, size):
        written.append(line)
        return Image.new("L", (10 * len(line), size))  # ten pixels for each letter

    monkeypatch.setattr(detections, "text_mask", text_mask)
    # At a text size of 12 there are 2 pixels on each side: 80, 79, 30, 29 and 5 for the text.
    for width, expected in ((84, "dog 0.90"), (83, "dog"), (34, "dog"), (33, "d…"), (9, "d…")):
        draw_boxes(grey_image(60, width), [[0, 0, 9, 50]], [0], [0.9], class_names=["dog"],
                   text_size=12)  # fmt: skip
        assert written[-1] == expected, width
    written.clear()
    draw_boxes(grey_image(60, 144), [[0, 0, 9, 50]], [0], [0.9], class_names=["w" * 10**6],
               text_size=12)  # fmt: skip
    assert written[-1] == "w" * 13 + "…" and len(written) < 15  # 140 pixels for the text
    assert max(map(len, written)) <= detections.LONGEST_NAME


def test_only_the_best_of_many_boxes_have_labels(monkeypatch):
    monkeypatch.setattr(detections, "MOST_TAGS", 2)
    boxes, scores = [[10 + 60 * i, 30, 50 + 60 * i, 70] for i in range(3)], [0.5, 0.9, 0.7]
    found = draw_boxes(grey_image(100, 200), boxes, [0, 1, 2], scores, text_size=12)
    outlines = draw_boxes(grey_image(100, 200), boxes, [0, 1, 2], scores, text_size=0)
    assert [(found[:, x : x + 60] != outlines[:, x : x + 60]).any() for x in (5, 65, 125)] == [
        False, True, True
    ]  # fmt: skip


def test_where_every_place_is_taken_a_label_covers_least():
    taken = [(0, 0, 40, 10), (0, 10, 40, 20), (0, 40, 40, 50), (0, 30, 40, 34)]
    # A box at columns 0 to 39, rows 10 to 39; labels of 40 x 10 pixels. All four places overlap
    # with another label: by 10, 10 and 10 rows, and inside at the bottom (30 to 39) by only 4.
    place = detections._place((0, 10, 39, 39), (40, 10), (40, 60), taken)
    assert place == (0, 30, 40, 40)
    assert detections._place((0, 10, 39, 39), (40, 10), (40, 60), taken[1:]) == (0, 0, 40, 10)


def test_a_text_of_each_box_replaces_its_name():
    image, box = np.full([80, 80, 3], 90, np.uint8), [[10, 30, 60, 70]]
    texts = draw_boxes(image, box, [1], [0.5], class_names=["a", "b"], texts=["cell"])
    np.testing.assert_array_equal(texts, draw_boxes(image, box, [1], class_names=["", "cell"]))


def test_twenty_classes_have_twenty_colours():
    colours = np.array([class_colour(label) for label in range(20)], float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1e3 * np.eye(20)
    assert apart.min() > 60  # of 442
