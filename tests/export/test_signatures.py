"""The graph around the network: frames, ids, padding, options. The network is a known answer."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.export import decoding, signatures
from fcos_tf.image_size import parse_image_size
from tests.export.encoded import picture, save

# Of each image; in pixels of the resized one.
BOXES = np.array([[2, 4, 6, 8], [0, 0, 9, 9], [1, 1, 30, 30]], np.float32)
SCORES = np.array([0.75, 0.5, 0.25], np.float32)
LABELS = np.array([1, 0, 2])


class KnownAnswers:
    """Finds the boxes above whose score is over the threshold; all else is padding.

    Its raw outputs are none of FCOS'.
    """

    raw_outputs = {"heat": "[B, 1, 3]", "offset": "[B, 1, 3], in rods"}  # noqa: RUF012

    score_threshold = 0.0
    category_ids = (7, 9, 40)
    apply_exif = False

    def __init__(self, inclusive_pixels=False):
        self.inclusive_pixels = inclusive_pixels

    def __call__(self, inputs):
        zeros = tf.zeros([tf.shape(inputs["images"])[0], 1, 3])
        return {"heat": zeros, "offset": zeros}

    def decode(self, raw, image_size, image_sizes, *, score_threshold=None):
        count = tf.shape(raw["heat"])[0]
        limit = self.score_threshold if score_threshold is None else score_threshold
        threshold = tf.reshape(tf.convert_to_tensor(limit), [-1, 1])
        kept = tf.broadcast_to(threshold < SCORES, [count, 3])
        return {
            "boxes": tf.where(kept[..., None], BOXES, 0.0),
            "scores": tf.where(kept, SCORES, 0.0),
            "labels": tf.where(kept, tf.constant(LABELS, tf.int32), -1),
            "num_detections": tf.reduce_sum(tf.cast(kept, tf.int32), axis=1),
        }


def call(name, image_size, model=None, **inputs):
    traced = signatures.make_signatures(model or KnownAnswers(), parse_image_size(image_size))
    inputs = {key: tf.constant(value) for key, value in inputs.items()}
    return {key: value.numpy() for key, value in traced[name](**inputs).items()}


# 20 x 40 at "10,100" becomes 10 x 20: boxes times 2 on both axes. 20 x 12 at "10,100" becomes
# floor(20 * 10 / 12) = 16 x 10: y times 20 / 16 = 1.25, x times 1.2, and the third box is cut.
FILES = [save(picture(20, 40), "PNG"), save(picture(20, 12), "PNG")]
IN_ORIGINAL = [
    [[4, 8, 12, 16], [0, 0, 18, 18], [2, 2, 40, 20]],
    [[2.4, 5, 7.2, 10], [0, 0, 10.8, 11.25], [1.2, 1.25, 12, 20]],
]


def test_boxes_are_in_pixels_of_each_original_and_labels_are_ids():
    found = call("serving_default", "10,100", image_bytes=FILES)
    np.testing.assert_allclose(found["boxes"], IN_ORIGINAL, rtol=1e-6)
    np.testing.assert_array_equal(found["scores"], [SCORES] * 2)
    np.testing.assert_array_equal(found["labels"], [[9, 7, 40]] * 2)
    np.testing.assert_array_equal(found["num_detections"], [3, 3])


def test_pixels_give_the_same():
    images = np.stack([picture(20, 40)] * 2)
    found = call("detect_images", "10,100", images=images)
    np.testing.assert_allclose(found["boxes"], [IN_ORIGINAL[0]] * 2, rtol=1e-6)


def test_a_last_pixel_that_belongs_to_the_box_is_added_in_the_original():
    found = call("serving_default", "10,100", KnownAnswers(True), image_bytes=FILES[:1])
    # Cut at 40 x 20 once more.
    expected = [[4, 8, 13, 17], [0, 0, 19, 19], [2, 2, 40, 20]]
    np.testing.assert_allclose(found["boxes"], [expected], rtol=1e-6)


@pytest.mark.parametrize("inclusive_pixels", [False, True])
def test_padding_is_zero_and_minus_one(inclusive_pixels):
    model = KnownAnswers(inclusive_pixels)
    model.score_threshold = 0.6
    found = call("serving_default", "10,100", model, image_bytes=FILES[:1])
    np.testing.assert_array_equal(found["boxes"][0, 1:], np.zeros((2, 4)))
    np.testing.assert_array_equal(found["labels"], [[9, -1, -1]])
    np.testing.assert_array_equal(found["num_detections"], [1])


def test_each_image_has_its_own_options():
    model = KnownAnswers()
    found = call(
        "serving_with_options", "10,100", model,
        image_bytes=FILES, score_threshold=[0.3, 0.0], max_detections=[9, 1],
    )  # fmt: skip
    np.testing.assert_array_equal(found["num_detections"], [2, 1])
    np.testing.assert_array_equal(found["labels"], [[9, 7, -1], [9, -1, -1]])
    np.testing.assert_array_equal(found["scores"], [[0.75, 0.5, 0], [0.75, 0, 0]])
    np.testing.assert_allclose(found["boxes"][1], [IN_ORIGINAL[1][0], [0] * 4, [0] * 4], rtol=1e-6)
    assert model.score_threshold == 0.0
    found = call(
        "serving_with_options", "10,100",
        image_bytes=FILES[:1], score_threshold=[0.0], max_detections=[-1],
    )  # fmt: skip
    assert found["num_detections"] == [0] and (found["labels"] == -1).all()


def test_what_is_beyond_the_limits_is_refused():
    rule, limits = parse_image_size("10,100"), decoding.Limits(images=2, pixels=20 * 40 + 20 * 12)
    traced = signatures.make_signatures(KnownAnswers(), rule, limits)

    def refuses(name, message, **inputs):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            traced[name](**{key: tf.constant(value) for key, value in inputs.items()})

    traced["serving_default"](image_bytes=tf.constant(FILES))
    for name in ("serving_default", "prepare_image"):
        refuses(name, "expected 1 to 2 images, got 3", image_bytes=[FILES[1]] * 3)
        refuses(name, "expected 1 to 1040 pixels in all", image_bytes=[FILES[0]] * 2)
    for shape, message in (
        ([3, 2, 2, 3], "expected 1 to 2 images, got 3"),
        ([2, 20, 40, 3], "got 40 x 20, 40 x 20"),
    ):
        refuses("detect_images", message, images=np.zeros(shape, np.uint8))
    # The long side of 100 is padded to 128: both an upright and a lying image fit into 128 x 128.
    for shape, message in (
        ([3, 8, 8, 3], "expected 1 to 2 images, got 3"),
        ([1, 129, 128, 3], "expected at most 16384 pixels each"),
    ):
        sizes = np.ones([shape[0], 2], np.float32)
        refuses("raw_outputs", message, images=np.zeros(shape, np.float32), image_sizes=sizes)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["score_threshold", "max_detections"])
def test_options_are_one_for_each_image(name, count):
    options = {"score_threshold": [0.0] * 2, "max_detections": [9] * 2}
    options[name] = options[name][:1] * count
    message = f"{name}: expected one value for each image"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call("serving_with_options", "10,100", image_bytes=FILES, **options)


def test_prepared_images_share_the_smallest_canvas():
    found = call("prepare_image", "40,200", image_bytes=FILES)
    # 40 x 80 and floor(20 * 40 / 12) = 66 x 40, so 96 x 96.
    assert found["images"].shape == (2, 96, 96, 3)
    np.testing.assert_array_equal(found["image_sizes"], [[40, 80], [66, 40]])
    np.testing.assert_array_equal(found["original_sizes"], [[20, 40], [20, 12]])
    assert found["images"][0, :40, :80].min(axis=-1).max() > 0
    assert found["images"][0, 40:].max() == 0 and found["images"][1, :, 40:].max() == 0


def test_a_fixed_canvas_is_static():
    traced = signatures.make_signatures(KnownAnswers(), parse_image_size("64x96"))
    assert traced["prepare_image"].structured_outputs["images"].shape == (None, 64, 96, 3)
    (_, inputs) = traced["raw_outputs"].structured_input_signature
    assert inputs["images"].shape == (None, 64, 96, 3)
    # 20 x 40 fits 64 x 96 as 48 x 96: by 2.4.
    found = call("serving_default", "64x96", image_bytes=FILES[:1])
    np.testing.assert_allclose(found["boxes"][0, 0], np.array([2, 4, 6, 8]) / 2.4, rtol=1e-6)


def test_images_without_pixels_are_an_error():
    for shape in ((0, 8, 8, 3), (1, 0, 8, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="images: expected 1 to"):
            call("detect_images", "10,100", images=np.zeros(shape, np.uint8))


def test_every_input_and_output_is_described():
    traced = signatures.make_signatures(KnownAnswers(), parse_image_size("10,100"))
    told = signatures.describe(traced, KnownAnswers.raw_outputs)
    assert set(told) == set(traced)
    assert told["serving_default"]["inputs"] == {
        "image_bytes": {
            "dtype": "string",
            "meaning": "[B], contents of image files: JPEG, PNG, BMP or WebP",
        }
    }
    assert told["raw_outputs"]["outputs"] == {
        name: {"dtype": "float32", "meaning": meaning}
        for name, meaning in KnownAnswers.raw_outputs.items()
    }
    meanings = [
        each["meaning"]
        for signature in told.values()
        for side in signature.values()
        for each in side.values()
    ]
    assert all(meanings)
