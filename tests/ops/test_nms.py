"""Class-wise suppression: by hand, and the native against the portable form."""

import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.ops.nms import class_wise_nms

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
def test_boxes_without_area_do_not_loop(jit_compile):
    result = run([[[5, 5, 5, 5]] * 2], [[0.5, 0.4]], [[0, 0]], jit_compile)
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
