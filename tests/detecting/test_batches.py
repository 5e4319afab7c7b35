"""Batches through a detector, and its boxes back in the original images."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.detecting import compile_detect, detect_batch, detect_samples
from fcos_tf.detecting.batches import boxes_to_original, complete_targets, original_scale

RESIZED = np.array([[50, 100], [30, 30]], np.float32)
ORIGINAL = np.array([[100, 300], [60, 45]], np.float32)


def test_each_axis_has_its_own_scale():
    # x: 300 / 100 and 45 / 30; y: 100 / 50 and 60 / 30.
    assert original_scale(RESIZED, ORIGINAL).tolist() == [[[3, 2, 3, 2]], [[1.5, 2, 1.5, 2]]]


def test_boxes_go_back_and_are_clipped():
    boxes = np.array([[[10, 5, 40, 30], [-1, 0, 101, 51]], [[2, 3, 4, 5], [0, 0, 30, 30]]])
    found = boxes_to_original(boxes.astype(np.float32), RESIZED, ORIGINAL)
    assert found.dtype == np.float64
    assert found.tolist() == [
        [[30, 10, 120, 60], [0, 0, 300, 100]],
        [[3, 6, 6, 10], [0, 0, 45, 60]],
    ]


def test_an_inclusive_box_gains_a_pixel_of_the_original():
    boxes = np.array([[[10, 5, 40, 30]], [[0, 0, 30, 29]]], np.float32)
    found = boxes_to_original(boxes, RESIZED, ORIGINAL, inclusive_pixels=True)
    # 40 * 3 + 1 and 30 * 2 + 1; 45 + 1 is over the border.
    assert found.tolist() == [[[30, 10, 121, 61]], [[0, 0, 45, 59]]]


class TopLeft:
    """Finds, in the image whose first pixel is v, a box of 10 v pixels, and padding."""

    class_names = ("cat", "dog", "cow")

    def __init__(self):
        self.batches, self.thresholds = [], []

    def detect(self, images, image_sizes, **options):
        self.batches.append(images.shape[0])
        self.thresholds.append(options.get("score_threshold"))
        side = 10 * tf.cast(images[:, :1, 0, 0], tf.float32)  # [B, 1]
        zero = tf.zeros_like(side)
        score = side * 0 + options.get("score_threshold", 0.25)
        box = tf.stack([zero, zero, side, side], axis=-1)  # [B, 1, 4]
        return {
            "boxes": tf.concat([box, tf.zeros_like(box)], axis=1),
            "scores": tf.concat([score, zero], 1),
            "labels": tf.tile([[1, -1]], [tf.shape(side)[0], 1]),
        }


def images_of(*values):
    images = np.zeros([len(values), 40, 40, 3], np.uint8)
    images[:, 0, 0] = np.array(values)[:, None]
    return images


SIZES = {"image_sizes": np.float32([[40, 20]] * 2), "original_sizes": np.float32([[80, 60]] * 2)}


def test_a_batch_comes_back_in_pixels_of_the_originals():
    found = detect_batch(compile_detect(TopLeft()), images_of(1, 3), SIZES)
    # x is multiplied by 60 / 20, y by 80 / 40; 30 * 3 is over the border, at 60.
    assert found["boxes"].dtype == np.float64
    assert found["boxes"][:, 0].tolist() == [[0, 0, 30, 20], [0, 0, 60, 60]]
    assert found["labels"].tolist() == [[1, -1], [1, -1]]
    assert found["scores"].tolist() == [[0.25, 0], [0.25, 0]]
    inclusive = detect_batch(
        compile_detect(TopLeft()), images_of(1, 3), SIZES, inclusive_pixels=True
    )
    assert inclusive["boxes"][:, 0].tolist() == [[0, 0, 31, 21], [0, 0, 60, 61]]
    # Without the originals they stay where they are.
    del (sizes := dict(SIZES))["original_sizes"]
    found = detect_batch(compile_detect(TopLeft()), images_of(1, 3), sizes)
    assert found["boxes"][:, 0].tolist() == [[0, 0, 10, 10], [0, 0, 30, 30]]


def test_a_smaller_batch_is_filled_up_and_needs_no_trace():
    model = TopLeft()
    detect = compile_detect(model)
    whole = detect_batch(detect, images_of(1, 3), SIZES, full_batch=2)
    part = {name: sizes[:1] for name, sizes in SIZES.items()}
    one = detect_batch(detect, images_of(3), part, full_batch=2)
    assert model.batches == [2]
    for name, values in one.items():
        np.testing.assert_array_equal(values, whole[name][1:])


def test_labels_of_a_data_set_by_name():
    detect = compile_detect(TopLeft(), ("dog", "cow"))  # the model's 1 is its 0
    assert detect_batch(detect, images_of(1, 3), SIZES)["labels"].tolist() == [[0, -1], [0, -1]]
    detect = compile_detect(TopLeft(), ("cow",))  # no dogs
    assert detect_batch(detect, images_of(1, 3), SIZES)["labels"].tolist() == [[-1, -1], [-1, -1]]
    with pytest.raises(ValueError, match="it does not know horse"):
        compile_detect(TopLeft(), ("dog", "horse"))


def test_another_threshold_needs_no_other_trace():
    model = TopLeft()
    detect = compile_detect(model)
    sizes = SIZES["image_sizes"]
    for threshold in (0.5, 0.75):
        found = detect(images_of(1, 3), sizes, np.array(threshold, np.float32))
        assert found["scores"][0, 0] == threshold
    assert len(model.batches) == 1
    assert detect(images_of(1, 3), sizes)["scores"][0, 0] == 0.25
    assert model.thresholds[1] is None


def test_what_the_targets_of_a_user_may_lack():
    images = np.zeros((2, 30, 40, 3))
    found = complete_targets({"labels": [[1], [2]]}, 5, images)
    assert found["image_ids"].tolist() == [6, 7]
    assert found["image_sizes"].tolist() == found["original_sizes"].tolist() == [[30, 40]] * 2
    sizes = [[30, 20], [10, 40]]
    found = complete_targets({"image_sizes": sizes, "image_ids": [3, -1]}, 5, images)
    assert found["image_ids"].tolist() == [3, -1] and found["original_sizes"].tolist() == sizes


def test_samples_are_the_first_images_without_fillers():
    model = TopLeft()
    targets = {"image_sizes": SIZES["image_sizes"], "image_ids": np.array([5, -1])}
    batches = [(images_of(1, 2), targets), (images_of(3, 4), {**targets, "image_ids": [6, 7]})]
    samples = detect_samples(iter(batches), compile_detect(model), 2)
    assert [truth["image_ids"] for truth in samples.ground_truth] == [5, 6]
    # In pixels of the images that are drawn.
    assert [found["boxes"][0].tolist() for found in samples.detections] == [
        [0, 0, 10, 10], [0, 0, 30, 30],
    ]  # fmt: skip
    assert [image[0, 0, 0] for image in samples.images] == [1, 3]
    assert len(detect_samples(batches, compile_detect(model), 9).images) == 3
