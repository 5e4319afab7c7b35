"""Colours change, boxes stay; mosaics carry their boxes; the key alone decides."""

import colorsys
import functools
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_tf.data.input import augment

COLOUR = ("color_jitter", "rand_augment")
EACH = [["color_jitter"], ["rand_augment"]]


def key(number, seed=5):
    return tf.constant([seed, number], tf.int64)


def photo(height=40, width=50):
    return np.random.default_rng(0).integers(0, 256, [height, width, 3], dtype=np.uint8)


def plain(colour, height=4, width=5):
    return np.full([height, width, 3], colour, np.uint8)


def changed(names, image, count):
    """The image changed with `count` keys, as a graph."""
    change = augment.augment_image(names)
    keys = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(9, tf.int64), i]))
    return np.stack(list(keys.map(lambda k: change(tf.constant(image), k)).as_numpy_iterator()))


@functools.cache
def compiled(*names):
    """The change as one graph for images of every size."""
    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int64)]
    return tf.function(augment.augment_image(names), input_signature=signature)


# Colours


@pytest.mark.parametrize("names", EACH, ids="+".join)
def test_the_key_alone_decides(names):
    change = compiled(*names)
    image = tf.constant(photo())
    results = [change(image, key(i)).numpy() for i in range(12)]
    assert len({result.tobytes() for result in results}) >= 11  # RandAugment may do nothing thrice
    assert (change(image, key(0, seed=6)).numpy() != results[0]).any()

    made_anew = augment.augment_image(names)
    mapped = tf.data.Dataset.range(12).map(
        lambda i: made_anew(image, tf.stack([tf.constant(5, tf.int64), i])), num_parallel_calls=4
    )
    for result, other in zip(results, mapped, strict=True):
        np.testing.assert_array_equal(result, other)
    for number in range(3):
        np.testing.assert_array_equal(made_anew(image, key(number)), results[number])  # eagerly


def test_one_augmentation_does_not_change_what_the_other_draws():
    jitter, rand, both, reverse = (
        compiled(*names) for names in (COLOUR[:1], COLOUR[1:], COLOUR, ("mosaic", *COLOUR[::-1]))
    )
    image = tf.constant(photo())
    for number in range(5):
        expected = rand(jitter(image, key(number)), key(number))
        np.testing.assert_array_equal(both(image, key(number)), expected)
        np.testing.assert_array_equal(reverse(image, key(number)), expected)


def test_no_colour_augmentation_changes_nothing():
    image = photo()
    np.testing.assert_array_equal(augment.augment_image([])(image, key(1)), image)
    others = augment.augment_image(["mosaic", "scale_jitter"])
    np.testing.assert_array_equal(others(image, key(1)), image)


def test_brightness_of_color_jitter():
    # One grey has no contrast, no saturation and no hue to change: 128 + (-32..32).
    levels = changed(["color_jitter"], plain(128), 200)
    assert (levels == levels[:, :1, :1, :1]).all()
    levels = levels[:, 0, 0, 0].astype(int)
    assert 96 <= levels.min() <= 98 and 158 <= levels.max() <= 160
    # Evenly: mean 128 +- 3 x 64 / sqrt(12 x 200)
    assert abs(levels.mean() - 128) < 4


def test_contrast_of_color_jitter():
    # Two greys 100 apart, far from 0 and 255, come to be 50 to 150 apart, symmetric about the mean.
    image = plain(78, 4, 6)
    image[:, 3:] = 178
    results = changed(["color_jitter"], image, 200).astype(int)
    apart = results[:, 0, 5, 0] - results[:, 0, 0, 0]
    assert 49 <= apart.min() <= 53 and 147 <= apart.max() <= 151
    assert abs(apart.mean() - 100) < 7  # 3 x 100 / sqrt(12 x 200) = 6.1
    # Drawn apart from brightness: correlation 0 +- 3 / sqrt(200) = 0.21
    brightness = results.mean(axis=(1, 2, 3))
    assert abs(np.corrcoef(brightness, apart)[0, 1]) < 0.21


def test_saturation_and_hue_of_color_jitter():
    # One colour has no contrast. Brightness adds the same to all channels, so hue keeps, and
    # max - min keeps too. hue (60, 120, 180): 210 degrees; saturation x f: max - min = 120 x f.
    results = changed(["color_jitter"], plain([60, 120, 180]), 300)[:, 0, 0] / 255.0
    hues = np.array([colorsys.rgb_to_hsv(*colour)[0] * 360 - 210 for colour in results])
    # Rounding to grey levels: 0.5 / 60 of the 60 degrees between two primary colours, twice.
    assert -19 <= hues.min() <= -17 and 17 <= hues.max() <= 19
    spread = (results.max(axis=1) - results.min(axis=1)) * 255 / 120
    # Twice the chroma would pass the pure colour only where the darkest channel is below 0:
    # 1.5 x 120 = 180 <= 180 - 32 is false, so saturation ends at 1 then, and max - min at max.
    assert 0.48 <= spread.min() <= 0.53 and 1.4 <= spread.max() <= 1.51


def two_greys():
    image = plain(64, 4, 6)
    image[:, 3:] = 192
    return image


def kind_of_operation(result):
    """What one operation of RandAugment did to `two_greys`."""
    low, high = int(result[0, 0, 0]), int(result[0, 5, 0])
    if (low, high) in [(64, 192), (0, 255)]:
        return {64: "unchanged", 0: "stretched"}[low]
    if abs(low + high - 256) <= 1:
        return "contrast"  # 128 -+ 64 x (0.5 to 1.5)
    if high - low == 128 or high == 255 or low == 0:  # both moved by -127 to 127 and clipped
        return "brighter" if high > 192 else "darker"
    return "solarized"


def test_each_operation_of_rand_augment(monkeypatch):
    monkeypatch.setattr(augment, "OPERATIONS_PER_IMAGE", 1)
    kinds = Counter(map(kind_of_operation, changed(["rand_augment"], two_greys(), 350)))
    # Seven operations, 50 times each. On two greys the colourless image looks unchanged, too.
    # Equalization: half of the pixels (12 of 24) are not in the last bin that is filled, over 255
    # bins: 0 in whole steps, so nothing changes. Each count: 50 +- 3 x sqrt(350 x 6 / 49) = 20.
    assert 110 <= kinds["unchanged"] <= 190
    for name in ("stretched", "contrast", "solarized"):
        assert 28 <= kinds[name] <= 72, kinds
    for name in ("brighter", "darker"):  # half of 50 each, +- 3 x sqrt(350 x 13 / 196) = 14
        assert 10 <= kinds[name] <= 40, kinds


def test_augmentations_draw_apart(monkeypatch):
    monkeypatch.setattr(augment, "OPERATIONS_PER_IMAGE", 1)
    # Which operation RandAugment chooses says nothing about colour jitter's brightness, whose
    # standard deviation is 64 / sqrt(12) = 18.5 also among the images of one operation.
    kinds = np.array([*map(kind_of_operation, changed(["rand_augment"], two_greys(), 350))])
    brightness = changed(["color_jitter"], plain(128), 350)[:, 0, 0, 0]
    for name in set(kinds):
        assert brightness[kinds == name].std() > 12


def test_equalization_of_rand_augment_spreads_grey_levels(monkeypatch):
    # 16x16 pixels of the levels 100 to 115, 16 each: 15 x 16 = 240 pixels before the last level,
    # 240 // 255 = 0 would do nothing; so 64x64, 256 each: step = 3840 // 255 = 15, and level k has
    # 256 k below it, which becomes (256 k + 15 // 2) // 15.
    monkeypatch.setattr(augment, "OPERATIONS_PER_IMAGE", 1)
    levels = np.repeat(np.arange(16), 256).reshape(64, 64)
    image = np.repeat((100 + levels).astype(np.uint8)[..., None], 3, axis=-1)
    expected = np.minimum((256 * levels + 7) // 15, 255)
    results = changed(["rand_augment"], image, 40)
    assert any((result == expected[..., None]).all() for result in results)


@pytest.mark.parametrize("names", EACH, ids="+".join)
@pytest.mark.parametrize(
    "image",
    [plain([7, 200, 90], 1, 1), photo(1, 300), photo(300, 1), plain(0), plain(255), plain(100)],
    ids=["1x1", "1x300", "300x1", "black", "white", "grey"],
)
def test_odd_images(names, image):
    change = compiled(*names)
    results = np.stack([change(tf.constant(image), key(i)) for i in range(40)])
    assert results.dtype == np.uint8 and results.shape[1:] == image.shape
    if (image == image[:1, :1]).all():  # still of one colour
        assert (results == results[:, :1, :1]).all()


def test_auto_contrast_of_one_grey_is_not_nan(monkeypatch):
    # Stretching it divides by 0. Of the seven operations only solarization and brightness change
    # it: 5/7 of 100 draws, -+ 3 x sqrt(100 x 5/7 x 2/7) = 14. A NaN would become 0.
    monkeypatch.setattr(augment, "OPERATIONS_PER_IMAGE", 1)
    levels = changed(["rand_augment"], plain(100), 100)[:, 0, 0, 0]
    assert 57 <= (levels == 100).sum() <= 86


def test_mixed_precision_does_not_coarsen_colours():
    image = tf.constant(photo())
    expected = augment.augment_image(COLOUR)(image, key(3))
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        result = augment.augment_image(COLOUR)(image, key(3))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_array_equal(result, expected)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.integers(0, 10**9),
    st.sampled_from([*EACH, COLOUR]),
)
def test_colours_change_and_the_box_stays(size, corners, number, names):
    """All pixels of a plain box on a plain ground still have one colour each, so it is there."""
    (height, width), (a, b, c, d) = size, corners
    y1, y2 = sorted((round(a * height), round(b * height)))
    x1, x2 = sorted((round(c * width), round(d * width)))
    image = plain([90, 120, 100], height, width)
    image[y1:y2, x1:x2] = [160, 140, 190]
    result = compiled(*names)(tf.constant(image), key(number)).numpy()
    inside = np.zeros([height, width], bool)
    inside[y1:y2, x1:x2] = True
    for part in (result[inside], result[~inside]):
        assert len(part) == 0 or (part == part[0]).all()


# Mosaic


def batch(sizes, canvas, boxes):
    """Images that are plain 50 + their number where they are valid, with one label each."""
    images = np.zeros([len(sizes), *canvas, 3], np.uint8)
    for number, (height, width) in enumerate(sizes):
        images[number, :height, :width] = 50 + number
    targets = {
        "boxes": tf.constant(boxes, tf.float32),
        "labels": tf.constant([[i if any(box) else -1 for box in b] for i, b in enumerate(boxes)]),
        "image_sizes": tf.constant(sizes, tf.float32),
        "image_ids": tf.range(len(sizes), dtype=tf.int64),
    }
    return images, targets


def test_mosaic_by_hand(monkeypatch):
    canvas = (6, 8)
    images, targets = batch(
        [(6, 8), (4, 8), (6, 3), (2, 2)],
        canvas,
        [
            [[0, 0, 8, 6], [7, 5, 8, 6]],
            [[0, 0, 2, 4], [0, 0, 0, 0]],
            [[0, 0, 3, 0.5], [1, 1, 3, 5]],
            [[0.5, 0.5, 2, 2], [0, 0, 0, 0]],
        ],
    )
    targets["ignored_labels"] = tf.constant([[4], [-1], [5], [6]])
    centre = (2, 5)  # y, x
    monkeypatch.setattr(
        augment,
        "_draw_mosaics",
        lambda *_: (tf.constant([[0, 1, 2, 3]] * 4), tf.constant([centre] * 4)),
    )
    mosaics, result = augment.mosaic(tf.constant(images), targets, key(0))
    # Top left 2x5 of image 0's end; top right 2x3 of image 1's lower left; bottom left 4x5: image
    # 2 is 3 wide and ends at x = 5; bottom right 4x3: image 3 is 2x2 and begins at (2, 5).
    np.testing.assert_array_equal(
        mosaics[0, ..., 0],
        [
            [50, 50, 50, 50, 50, 51, 51, 51],
            [50, 50, 50, 50, 50, 51, 51, 51],
            [0, 0, 52, 52, 52, 53, 53, 0],
            [0, 0, 52, 52, 52, 53, 53, 0],
            [0, 0, 52, 52, 52, 0, 0, 0],
            [0, 0, 52, 52, 52, 0, 0, 0],
        ],
    )
    # Shifts (x, y): image 0 (5 - 8, 2 - 6) = (-3, -4), image 1 (5, 2 - 4) = (5, -2), image 2
    # (5 - 3, 2) = (2, 2), image 3 (5, 2); clipped to 8x6.
    np.testing.assert_array_equal(
        result["boxes"][0],
        [
            [0, 0, 5, 2],
            [4, 1, 5, 2],
            [5, 0, 7, 2],
            # image 2's first box is half a pixel high: gone
            [3, 3, 5, 6],  # (1, 1, 3, 5) + (2, 2) = (3, 3, 5, 7)
            [5.5, 2.5, 7, 4],
            *[[0, 0, 0, 0]] * 3,
        ],
    )
    np.testing.assert_array_equal(result["labels"][0], [0, 0, 1, 2, 3, -1, -1, -1])
    np.testing.assert_array_equal(result["ignored_labels"], [[4, -1, 5, 6]] * 4)
    without = {**targets, "ignored_labels": targets["ignored_labels"][:, :0]}
    _, result = augment.mosaic(tf.constant(images), without, key(0))
    assert result["ignored_labels"].shape == (4, 0)
    np.testing.assert_array_equal(result["image_sizes"], [[6, 8]] * 4)
    np.testing.assert_array_equal(result["image_ids"], [0, 1, 2, 3])


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None, None, 3], tf.uint8),
        tf.TensorSpec([None, None, 4], tf.float32),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec([None, 2], tf.float32),
        tf.TensorSpec([2], tf.int64),
    ]
)
def mosaic(images, boxes, labels, image_sizes, key):
    targets = {"boxes": boxes, "labels": labels, "image_sizes": image_sizes}
    return augment.mosaic(images, targets, key)


def inputs(images, targets):
    return images, targets["boxes"], targets["labels"], targets["image_sizes"]


@st.composite
def batches(draw):
    """Canvas, sizes of 1 to 5 images and up to 2 boxes of whole pixels in each."""
    canvas = draw(st.integers(2, 50)), draw(st.integers(2, 50))
    images = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.integers(1, canvas[0])), draw(st.integers(1, canvas[1]))
        boxes = []
        for _ in range(draw(st.integers(0, 2))):
            y1, x1 = (draw(st.integers(0, length - 1)) for length in size)
            y2 = draw(st.integers(y1 + 1, size[0]))
            boxes.append((x1, y1, draw(st.integers(x1 + 1, size[1])), y2))
        images.append((size, boxes))
    return canvas, images


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(batches(), st.integers(0, 10**9))
def test_mosaic_boxes_are_where_their_pixels_are(drawn, number):
    """The boxes of image i have grey level 100 + i, and label i.

    A mosaic moves images by whole pixels, so in each the pixels of level 100 + i must be exactly
    those that the boxes with label i cover.
    """
    canvas, scenes = drawn
    images = np.zeros([len(scenes), *canvas, 3], np.uint8)
    boxes = np.zeros([len(scenes), 2, 4], np.float32)
    labels = np.full([len(scenes), 2], -1, np.int32)
    for i, ((height, width), found) in enumerate(scenes):
        images[i, :height, :width] = 40
        for row, (x1, y1, x2, y2) in enumerate(found):
            images[i, y1:y2, x1:x2] = 100 + i
            boxes[i, row], labels[i, row] = (x1, y1, x2, y2), i
    sizes = np.array([size for size, _ in scenes], np.float32)

    mosaics, targets = mosaic(images, boxes, labels, sizes, key(number))

    assert mosaics.shape == images.shape
    np.testing.assert_array_equal(targets["image_sizes"], [canvas] * len(scenes))
    for picture, boxes_, labels_ in zip(
        mosaics.numpy(), targets["boxes"].numpy(), targets["labels"].numpy(), strict=True
    ):
        count = (labels_ >= 0).sum()
        assert (labels_[:count] >= 0).all() and (labels_[count:] == -1).all()
        assert not boxes_[count:].any()
        for i in range(len(scenes)):
            covered = np.zeros(canvas, bool)
            for x1, y1, x2, y2 in boxes_[labels_ == i].astype(int):
                assert x1 < x2 and y1 < y2
                covered[y1:y2, x1:x2] = True
            np.testing.assert_array_equal(covered, picture[..., 0] == 100 + i)


def test_every_mosaic_holds_its_own_image_in_every_quadrant_at_times():
    images, targets = batch([(20, 20)] * 6, (20, 20), [[[0, 0, 0, 0]]] * 6)
    quadrants = Counter()
    for number in range(40):
        mosaics, result = mosaic(*inputs(images, targets), key(number))
        assert (result["labels"].numpy() == -1).all() and not result["boxes"].numpy().any()
        for i, picture in enumerate(mosaics.numpy()[..., 0]):
            corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]]
            assert 50 + i in corners
            quadrants.update(np.flatnonzero(corners == 50 + i).tolist())
    # A quadrant holds the own image with chance 1/4 + 3/4 x 1/6 = 3/8: 90 of 240; +- 3 x 7.5
    assert sorted(quadrants) == [0, 1, 2, 3]
    assert all(67 <= count <= 113 for count in quadrants.values()), quadrants


def test_mosaics_meet_in_the_middle_half():
    # Images that fill the canvas: where the level changes along an axis is the centre.
    images, targets = batch([(40, 80)] * 200, (40, 80), [[[0, 0, 0, 0]]] * 200)
    pixels, _ = mosaic(*inputs(images, targets), key(0))
    pixels = pixels.numpy()[..., 0].astype(int)
    _, rows = np.nonzero(np.diff(pixels[:, :, 0], axis=1))
    _, columns = np.nonzero(np.diff(pixels[:, 0], axis=1))
    # A quarter to three quarters: rows 10 to 29, columns 20 to 59; diff 0 is between 0 and 1.
    assert {*(rows + 1)} == {*range(10, 30)}
    assert {*(columns + 1)} <= {*range(20, 60)} and len({*columns}) >= 36


def test_the_key_alone_decides_mosaics():
    random = np.random.default_rng(0)
    images = tf.constant(random.integers(0, 256, [3, 30, 40, 3], dtype=np.uint8))
    targets = {
        "boxes": tf.constant([[[2.0, 3.0, 20.0, 25.0], [0.0, 0.0, 0.0, 0.0]]] * 3),
        "labels": tf.constant([[4, -1]] * 3),
        "image_sizes": tf.constant([[30.0, 40.0], [25.0, 40.0], [30.0, 31.0]]),
    }
    eager = [augment.mosaic(images, targets, key(i)) for i in range(6)]
    graph = tf.data.Dataset.range(6).map(
        lambda i: augment.mosaic(images, targets, tf.stack([tf.constant(5, tf.int64), i])),
        num_parallel_calls=4,
    )
    for one, other in zip(eager, graph, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)
    assert len({pixels.numpy().tobytes() for pixels, _ in eager}) == 6
    # Sizes known beforehand stay known, for XLA.
    pixels, result = graph.element_spec
    assert pixels.shape == (3, 30, 40, 3) and result["boxes"].shape == (3, 8, 4)
    assert result["labels"].shape == (3, 8)
