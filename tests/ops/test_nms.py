"""Class-wise suppression: by hand, and the native against the portable form."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos_tf.ops.boxes import paired_iou
from fcos_tf.ops.nms import _scale_apart, class_wise_nms

FORMS = pytest.mark.parametrize("jit_compile", [False, True], ids=["native", "portable"])


def run(boxes, scores, labels, jit_compile, iou_threshold=0.6, max_detections=4):
    result = class_wise_nms(
        np.asarray(boxes, "float32"),
        np.asarray(scores, "float32"),
        np.asarray(labels, "int32"),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        jit_compile=jit_compile,
    )
    return {name: np.asarray(value) for name, value in result.items()}


@FORMS
def test_by_hand(jit_compile):
    # Against the first: IoU 80/100 = .8 (same class: dropped), .8 (other class: kept),
    # 60/100 = .6 (not above .6: kept). The last has score 0: padding.
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 8], [0, 0, 10, 6], [50, 50, 60, 60]]
    result = run([boxes], [[0.9, 0.8, 0.7, 0.95, 0.0]], [[1, 1, 0, 1, 1]], jit_compile, 0.61)
    # .95 first: with .9 IoU .6, with .8 IoU 60/80 = .75 -> dropped.
    np.testing.assert_array_equal(result["num_detections"], [3])
    np.testing.assert_allclose(result["scores"], [[0.95, 0.9, 0.7, 0]])
    np.testing.assert_array_equal(result["labels"], [[1, 1, 0, -1]])
    np.testing.assert_array_equal(result["boxes"][0], [boxes[3], boxes[0], boxes[2], [0, 0, 0, 0]])


@FORMS
def test_no_candidate_at_all(jit_compile):
    result = run(np.zeros((2, 3, 4)), np.zeros((2, 3)), np.zeros((2, 3)), jit_compile)
    np.testing.assert_array_equal(result["num_detections"], [0, 0])
    np.testing.assert_array_equal(result["labels"], np.full((2, 4), -1))


@FORMS
def test_equal_scores_keep_the_earlier(jit_compile):
    boxes = [[[0, 0, 10, 10], [1, 0, 10, 10]]]
    result = run(boxes, [[0.5, 0.5]], [[0, 0]], jit_compile)
    np.testing.assert_array_equal(result["boxes"][0, 0], boxes[0][0])
    np.testing.assert_array_equal(result["num_detections"], [1])


@FORMS
@pytest.mark.parametrize(
    "box",
    [[5, 5, 5, 5], [5, 5, 0, 0], [0, 0, np.nan, 5], [0, 0, np.inf, np.inf], [0, 0, 1e30, 1e30]],
    ids=["no area", "inside out", "not a number", "infinite", "infinite area"],
)
def test_boxes_without_an_overlap_are_kept_and_do_not_loop(jit_compile, box):
    result = run([[box] * 2], [[0.5, 0.4]], [[0, 0]], jit_compile)
    np.testing.assert_array_equal(result["num_detections"], [2])


@FORMS
def test_unknown_sizes(jit_compile):
    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, 4)),
            tf.TensorSpec((None, None)),
            tf.TensorSpec((None, None), tf.int32),
        ]
    )
    def keep_two(boxes, scores, labels):
        return class_wise_nms(
            boxes, scores, labels, iou_threshold=0.5, max_detections=2, jit_compile=jit_compile
        )

    boxes = tf.constant([[[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]]])
    result = keep_two(boxes, tf.constant([[0.9, 0.8, 0.7]]), tf.zeros((1, 3), tf.int32))
    np.testing.assert_allclose(result["scores"], [[0.9, 0.7]])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_native_equals_portable_equals_xla(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-50, 1200, (3, 800, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 300, (3, 800, 2))], axis=-1)
    scores = np.maximum(rng.uniform(-0.3, 1, (3, 800)), 0)
    labels = rng.integers(0, 5, (3, 800))
    native = run(boxes, scores, labels, False, 0.5, 100)
    portable = run(boxes, scores, labels, True, 0.5, 100)
    compiled = tf.function(
        lambda b, s, c: class_wise_nms(
            b, s, c, iou_threshold=0.5, max_detections=100, jit_compile=True
        ),
        jit_compile=True,
    )(tf.cast(boxes, tf.float32), tf.cast(scores, tf.float32), tf.cast(labels, tf.int32))
    assert native["num_detections"].min() > 50  # the comparison is of something
    for name, value in native.items():
        np.testing.assert_array_equal(value, portable[name], err_msg=name)
        np.testing.assert_array_equal(value, compiled[name], err_msg=name)


@FORMS
@pytest.mark.parametrize("width, kept", [(0.5, 3), (0.5 + 2**-20, 2)])
def test_no_digit_is_lost(jit_compile, width, kept):
    # The IoU of the last two is the width of the last, and 0.5 is not above 0.5. Beside a box of
    # another class as large as this a shift would round the width: at 10,000 the float32 numbers
    # are 2**-10 apart.
    boxes = [[0, 0, 9999, 9999], [0, 0, 1, 1], [0, 0, width, 1]]
    result = run([boxes], [[0.9, 0.8, 0.7]], [[0, 1, 1]], jit_compile, 0.5)
    np.testing.assert_array_equal(result["num_detections"], [kept])


@FORMS
def test_very_small_boxes_overlap_too(jit_compile):
    # Sides of 1e-5: areas of 1e-10, and the IoU of the two is 1.
    result = run([[[0, 0, 1e-5, 1e-5]] * 2], [[0.5, 0.4]], [[0, 0]], jit_compile)
    np.testing.assert_array_equal(result["num_detections"], [1])


@FORMS
def test_fewer_candidates_than_detections(jit_compile):
    one = run([[[0, 0, 2, 2]]], [[0.5]], [[3]], jit_compile)
    np.testing.assert_array_equal(one["labels"], [[3, -1, -1, -1]])
    none = run(np.zeros((2, 0, 4)), np.zeros((2, 0)), np.zeros((2, 0)), jit_compile)
    np.testing.assert_array_equal(none["num_detections"], [0, 0])
    np.testing.assert_array_equal(none["labels"], np.full((2, 4), -1))


@cache
def traced(jit_compile, iou_threshold, max_detections, plus_one=False):
    """One form of the suppression for images and candidates in any number."""
    return tf.function(
        lambda boxes, scores, labels: class_wise_nms(
            boxes,
            scores,
            labels,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            plus_one=plus_one,
            jit_compile=jit_compile,
        ),
        input_signature=[
            tf.TensorSpec((None, None, 4)),
            tf.TensorSpec((None, None)),
            tf.TensorSpec((None, None), tf.int32),
        ],
    )


def check_forms(boxes, scores, labels, *options):
    inputs = np.float32(boxes), np.float32(scores), np.int32(labels)
    native, portable = (traced(form, *options)(*inputs) for form in (False, True))
    for name, value in portable.items():
        np.testing.assert_array_equal(native[name], value, err_msg=name)
    return native["num_detections"].numpy()


def scene(seed, num_boxes, canvas, sides, num_classes, images=2):
    """Pairs of boxes of one class with much in common, and scores of which many are equal."""
    rng = np.random.default_rng(seed)
    shape = images, num_boxes // 2
    low = rng.uniform(0, canvas, (*shape, 2))
    size = np.exp(rng.uniform(*np.log(sides), (*shape, 2)))
    labels = rng.integers(0, num_classes, shape)
    lows = np.concatenate([low, low + rng.uniform(-0.4, 0.4, low.shape) * size], axis=1)
    boxes = np.concatenate([lows, lows + np.concatenate([size, size], axis=1)], axis=-1)
    scores = np.round(rng.uniform(-0.1, 1, (images, num_boxes)), 3).clip(0)
    return boxes, scores, np.concatenate([labels, labels], axis=1)


@pytest.mark.parametrize("num_classes", [1, 80])
@pytest.mark.parametrize(
    "canvas, sides",
    [
        (10_000, (1, 3)),
        (10_000, (0.01, 3)),
        (1333, (8, 600)),
        (10_000, (1e-4, 1e4)),
        (1e-25, (1e-25, 1)),
    ],
    ids=["2 pixels", "slivers", "usual", "all sizes", "beyond scaling"],
)
def test_native_equals_portable(num_classes, canvas, sides):
    for seed in range(3):
        boxes = scene(seed, 1200, canvas, sides, num_classes)
        assert check_forms(*boxes, 0.5, 600).min() > 100


def test_thousands_of_candidates():
    assert check_forms(*scene(0, 6000, 10_000, (1, 3), 80), 0.3, 100).tolist() == [100, 100]


_SIDE = st.sampled_from([-1, 0, 1e-6, 0.1, 1, 1, 2, 3, 1e4, np.inf, np.nan])
_CANDIDATE = st.tuples(
    st.tuples(*[st.sampled_from([-1e4, -0.3, 0, 0.1, 1, 1e4 / 3])] * 2, _SIDE, _SIDE),
    st.sampled_from([0, 0.25, 0.5, 0.75]),
    st.integers(-1, 2),
)


@given(
    images=st.integers(0, 9).flatmap(
        lambda count: st.lists(
            st.lists(_CANDIDATE, min_size=count, max_size=count), min_size=1, max_size=3
        )
    ),
    iou_threshold=st.sampled_from([0.0, 0.5]),
    plus_one=st.booleans(),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_native_equals_portable_on_whatever_comes(images, iou_threshold, plus_one):
    shape = len(images), len(images[0])
    boxes = np.float32([[c[0] for c in image] for image in images]).reshape(*shape, 4)
    boxes[..., 2:] += boxes[..., :2]
    scores, labels = ([[c[i] for c in image] for image in images] for i in (1, 2))
    check_forms(boxes, scores, labels, iou_threshold, 5, plus_one)


@pytest.mark.parametrize("least_side, calls", [(2, 1), (0.001, 4)])
def test_eighty_classes_take_few_calls_of_the_kernel(least_side, calls):
    # Sides of 2 to 1333: at least 2**1, less than 2**11. A column takes those 10 powers, one for
    # the threshold .6 and one to be sure: 12. Of 120 the last needs 10: 1 + 110 // 12 = 10
    # columns, 100 places. From .001 = 2**-9.97: 21 powers, 23 a column, 1 + 99 // 23 = 5
    # columns; 25 places for 81 classes (that of boxes without area is one) are 4 grids.
    boxes = [[0, 0, least_side, 1333], *[[0, 0, 9, 9]] * 79, [0, 0, 0, 9]]
    _, _, num_calls = _scale_apart(
        tf.constant(boxes, tf.float32), tf.ones(81), tf.range(81), iou_threshold=0.6
    )
    assert num_calls == calls


@pytest.mark.parametrize("iou_threshold", [0.02, 0.3, 0.6, 1.0])
def test_classes_do_not_overlap_too_much(iou_threshold):
    # All at one corner, of sides that fill the range 2**1 to 2**5, each of a class of its own.
    sides = np.exp(np.random.default_rng(0).uniform(*np.log([2.01, 31.9]), (90, 2)))
    boxes = tf.constant(np.concatenate([np.zeros_like(sides), sides], axis=1), tf.float32)
    scaled, grids, _ = _scale_apart(boxes, tf.ones(90), tf.range(90), iou_threshold)
    alike = (grids[:, None] == grids[None]) & ~tf.eye(90, dtype=tf.bool)
    overlaps = tf.boolean_mask(paired_iou(scaled[:, None], scaled[None]), alike)
    assert tf.size(overlaps) > 1000 and tf.reduce_max(overlaps) < iou_threshold
