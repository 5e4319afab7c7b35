"""Each ONNX form gives the numbers of its TensorFlow operation, in ONNX Runtime."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from fcos_tf.ops.nms import class_wise_nms

onnx = pytest.importorskip("onnx", reason="pip install 'fcos_tf[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'fcos_tf[onnx]'")

from fcos_tf.detecting.resized import open_session, run_session  # noqa: E402
from fcos_tf.export.onnx_graph import GraphWriter  # noqa: E402

RNG = np.random.default_rng(0)


def in_onnx(function, arrays, specs=None, num_labels=1):
    """The outputs of a function of float32 tensors, free in size: of TensorFlow, and of ONNX."""
    specs = specs or [[None] * np.ndim(array) for array in arrays]
    names = [f"x{index}" for index in range(len(arrays))]
    traced = tf.function(
        lambda **given: function(*(given[name] for name in names)), autograph=False
    ).get_concrete_function(
        **{
            name: tf.TensorSpec(spec, tf.float32, name=name)
            for name, spec in zip(names, specs, strict=True)
        }
    )
    writer = GraphWriter(num_labels=num_labels)
    outputs = writer.write(traced)
    types = {
        name: (x.dtype, list(x.shape) if x.shape.rank is not None else None)
        for name, x in zip(sorted(outputs), traced.outputs, strict=True)
    }
    inputs = dict(zip(names, specs, strict=True))
    model = writer.model(inputs, outputs, types)
    onnx.checker.check_model(model)
    given = dict(zip(names, (np.asarray(x, np.float32) for x in arrays), strict=True))
    expected = traced(**{name: tf.constant(x) for name, x in given.items()})
    return expected, run_session(open_session(model.SerializeToString()), given)


def assert_alike(expected, found, atol=1e-5):
    for name, values in expected.items():
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=atol)


def conv(stride, padding, dilation=1, groups=1):
    kernel = RNG.normal(size=(3, 3, 4 // groups, 6)).astype(np.float32)
    bias = RNG.normal(size=6).astype(np.float32)

    def run(x):
        y = tf.nn.conv2d(x, kernel, stride, padding, dilations=dilation)
        # The second one is read twice, so that its bias stays apart.
        z = tf.nn.conv2d(x, kernel + 1, 1, "SAME")
        return {"once": tf.nn.bias_add(y, bias), "twice": tf.nn.bias_add(z, bias), "alone": z}

    return run


def depthwise(x):
    kernel = RNG.normal(size=(3, 3, 4, 2)).astype(np.float32)
    return {"y": tf.nn.depthwise_conv2d(x, kernel, [1, 2, 2, 1], "SAME")}


@pytest.mark.parametrize("size", [(9, 8), (7, 12)])
@pytest.mark.parametrize(
    "function",
    [
        conv(1, "SAME"),
        conv(2, "SAME"),
        conv(2, "VALID"),
        conv(1, [[0, 0], [2, 1], [0, 3], [0, 0]]),
        conv(1, "SAME", dilation=2),
        conv(2, "SAME", groups=2),
        depthwise,
        lambda x: {"y": tf.nn.max_pool2d(x, 3, 2, "SAME"), "z": tf.nn.max_pool2d(x, 2, 2, "VALID")},
        lambda x: {"y": tf.nn.avg_pool2d(x, 3, 2, "SAME")},
        lambda x: {
            "y": tf.image.resize(x, [11, 13]),
            "z": tf.image.resize(x, tf.shape(x)[1:3] * 2),
        },
        lambda x: {"y": tf.image.resize(x, tf.shape(x)[1:3] * 2, "nearest")},
        lambda x: {"y": tf.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]], constant_values=2.0)},
        lambda x: {"y": tf.pad(x, [[0, 0], [0, tf.shape(x)[1]], [1, 0], [0, 0]])},
    ],
)
def test_windows(function, size):
    images = RNG.normal(size=(2, *size, 4))
    assert_alike(*in_onnx(function, [images], [[None, None, None, 4]]))


def integers(x):
    return tf.cast(tf.round(x * 9), tf.int32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: {"y": x[:, ::-1], "z": x[:, 1:-1, None], "end": x[..., -1], "row": x[1]},
        lambda x: {"y": x[:, tf.shape(x)[1] - 2 :], "z": x[:, tf.shape(x)[1] - 2]},
        lambda x: {"y": x[None, ..., 0, None], "z": x[:, :2, 0:3:2], "same": x[:]},
        lambda x: {"y": integers(x) // 4, "z": integers(x) % 4, "minus": -(-integers(x) // -5)},
        lambda x: {"y": x // 0.3, "z": tf.square(x), "root": tf.math.rsqrt(tf.abs(x) + 1)},
        lambda x: {"y": tf.reduce_any(x > 1, -1), "z": tf.reduce_all(x > -1, 1, keepdims=True)},
        lambda x: {"y": tf.reduce_mean(x, [0, 2]), "z": tf.reduce_max(integers(x), -1)},
        lambda x: {"y": tf.reshape(x, [tf.shape(x)[0], -1]), "z": tf.reshape(x, [-1])},
        lambda x: {"y": tf.tile(x, [1, 1, tf.shape(x)[0]]), "z": tf.transpose(x, [2, 0, 1])},
        lambda x: {"y": tf.fill(tf.shape(x)[:2], 3.0), "z": tf.broadcast_to(x[:1], tf.shape(x))},
        lambda x: {"y": tf.stack(tf.unstack(x[:, :2], 2, 1), -1), "z": tf.concat([x, x], -1)},
        lambda x: {"y": tf.range(tf.size(x)), "z": tf.squeeze(x[:, :1], 1)},
        lambda x: {"y": tf.where(x > 0, x, 0.0), "z": tf.clip_by_value(x, -1, 1)},
        lambda x: {"y": tf.math.top_k(x, tf.shape(x)[0]).indices, "z": tf.argsort(x, axis=1)},
        lambda x: {"y": tf.gather(x, [[2, 0]], axis=1), "z": tf.nn.relu6(x * 9)},
        lambda x: {"y": ops.take_along_axis(x, ops.argsort(x, axis=1), axis=1)},
        lambda x: {"y": tf.matmul(x, x, transpose_b=True), "z": tf.nn.softmax(x)},
        lambda x: {"y": tf.slice(x, [0, 1, 0], [1, -1, 2]), "z": tf.math.softplus(x)},
    ],
)
def test_numbers(function):
    assert_alike(*in_onnx(function, [RNG.normal(size=(3, 4, 5))], [[None, None, 5]]))


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize(("count", "most"), [(60, 20), (60, 100), (1, 5)])
def test_suppression_keeps_what_the_models_keeps(count, most, plus_one):
    """Coarse boxes and scores: many ties, equal boxes, an IoU at the threshold, and no area."""
    corners = RNG.integers(0, 6, (2, count, 2))
    boxes = np.concatenate([corners, corners + RNG.integers(0, 4, (2, count, 2))], axis=-1)
    scores = RNG.integers(-1, 5, (2, count)) / 4
    scores[1, : count // 2] = 0  # few candidates
    labels = RNG.integers(0, 3, (2, count))

    def suppress(boxes, scores, labels):
        return class_wise_nms(
            boxes,
            scores,
            tf.cast(labels, tf.int32),
            iou_threshold=0.5,
            max_detections=most,
            plus_one=plus_one,
            jit_compile=True,
        )

    specs = [[None, None, 4], [None, None], [None, None]]
    expected, found = in_onnx(suppress, [boxes, scores, labels], specs, num_labels=3)
    assert (expected["num_detections"].numpy() > 0).any()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_operations_without_a_form_are_named():
    with pytest.raises(ValueError, match="no ONNX form of TensorFlow's operation Erf is known"):
        in_onnx(lambda x: {"y": tf.math.erf(x)}, [np.zeros(3)])
