"""Padding, grouped convolution, frozen batch norm and scales."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf.layers import convolutions, norms
from fcos_tf.layers.blocks import Scale, conv, normalization
from fcos_tf.layers.convolutions import DepthwiseConv2D, GroupedConv2D
from fcos_tf.layers.norms import FrozenBatchNormalization


def test_stride_two_pads_both_sides():
    # A 3x3 sum over a 4x4 image of ones, padded by 1 on every side: the corner sees 2x2, the
    # others 2x3 or 3x3. "same" would pad right and bottom only: 9 first.
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, conv(image, 1, 3, stride=2, name="c"))
    model.get_layer("c").set_weights([np.ones((3, 3, 1, 1))])
    np.testing.assert_array_equal(model(np.ones((1, 4, 4, 1)))[0, :, :, 0], [[4, 6], [6, 9]])


def random_statistics(layer, channels=5, seed=0):
    rng = np.random.default_rng(seed)
    layer.build((None, 4, 4, channels))
    layer.set_weights([rng.uniform(0.5, 2, channels) for _ in range(4)])
    return layer


def test_frozen_equals_batch_norm_in_inference():
    frozen = random_statistics(normalization("frozen", name="a"))
    trained = random_statistics(normalization("batch", name="b"))
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 5)).astype("float32")
    np.testing.assert_allclose(frozen(x), trained(x, training=False), atol=1e-5)
    # (x - mean) / sqrt(variance + epsilon) * gamma + beta, for one number.
    layer = FrozenBatchNormalization(epsilon=1.0)
    layer.build((None, 1))
    layer.set_weights([np.array([v], "float32") for v in (2, 5, 1, 3)])
    np.testing.assert_allclose(layer(np.float32([[7]])), [[(7 - 1) / 2 * 2 + 5]])


def test_factors_of_a_frozen_norm_are_not_rounded_in_half_precision():
    layer = FrozenBatchNormalization(epsilon=0.0, dtype="mixed_bfloat16")
    layer.build((None, 1))
    layer.set_weights([np.array([v], "float32") for v in (1.001, 100.3, 100.2, 1)])
    # 1.001 * 0 + 100.3 - 1.001 * 100.2: with each number rounded to 8 bits it is 100.5 - 100 = 0.5.
    y = layer(np.zeros((1, 1), "float32"))
    np.testing.assert_allclose(np.asarray(y, "float32"), [[100.3 - 1.001 * 100.2]], atol=1e-3)


def test_frozen_stays_frozen():
    layer = random_statistics(normalization("frozen", name="a"))
    before = layer.get_weights()
    layer.trainable = True
    assert layer.trainable_weights == []
    layer(np.ones((2, 4, 4, 5), "float32"), training=True)
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_norm_follows_pytorch():
    layer = normalization("batch", name="a")
    assert (layer.momentum, layer.epsilon, layer.synchronized) == (0.9, 1e-5, False)
    assert normalization("sync", name="a").synchronized
    with pytest.raises(ValueError, match=r"batch, sync, frozen.*'group'"):
        normalization("group", name="a")


def test_scale():
    layer = Scale()
    np.testing.assert_array_equal(layer(np.float32([3])), [3])
    layer.set_weights([np.float32(2)])
    np.testing.assert_array_equal(layer(np.float32([3])), [6])


def grouped_and_inputs(*, channels, filters, groups, stride=1, layer_class=GroupedConv2D):
    """A layer with seeded weights, and an image; the same for either class of layer."""
    layer = layer_class(filters, 3, strides=stride, groups=groups, use_bias=False)
    layer.build((None, 7, 9, channels))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=layer.kernel.shape)])
    return layer, rng.normal(size=(2, 7, 9, channels)).astype("float32")


def output_and_gradients(layer, x):
    """Output, and the gradients of the sum of its squares by input and kernel, in a graph."""

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y * y)
        return y, *tape.gradient(loss, [x, layer.kernel.value])

    return [np.asarray(v) for v in run(tf.constant(x))]


def assert_close(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_grouped_convolution_by_hand():
    # 1x1 kernels of ones: each output channel is the sum of its group's two input channels.
    layer = GroupedConv2D(4, 1, groups=2, use_bias=False)
    layer.build((None, 1, 1, 4))
    layer.set_weights([np.ones((1, 1, 2, 4))])
    np.testing.assert_array_equal(layer(np.float32([[[[1, 2, 30, 40]]]]))[0, 0, 0], [3, 3, 70, 70])


@pytest.fixture(params=[True, False], ids=["native", "split"])
def native(request, monkeypatch):
    """Both ways to do a grouped convolution; the native one only where it has a gradient."""
    if request.param and not convolutions._has_grouped_gradient("float32"):
        pytest.skip("TensorFlow has no gradient of grouped convolutions on this CPU")
    monkeypatch.setattr(convolutions, "_has_grouped_gradient", lambda dtype: request.param)
    return request.param


# As many filters as channels, fewer, more; the reference is Keras' layer, compiled by XLA on a CPU.
@pytest.mark.parametrize(
    ("channels", "filters", "groups", "stride"),
    [(32, 32, 2, 1), (40, 20, 5, 2), (12, 24, 3, 2), (8, 8, 8, 1)],
)
def test_grouped_convolution_equals_keras(native, channels, filters, groups, stride):
    shape = {"channels": channels, "filters": filters, "groups": groups, "stride": stride}
    ours, x = grouped_and_inputs(**shape)
    theirs, _ = grouped_and_inputs(**shape, layer_class=keras.layers.Conv2D)
    assert_close(output_and_gradients(ours, x), output_and_gradients(theirs, x), 1e-5)
    assert [v.path.split("/")[-1] for v in ours.weights] == ["kernel"]
    assert ours.kernel.shape == theirs.kernel.shape == (3, 3, channels // groups, filters)


def test_grouped_convolution_in_eager_mode_and_under_xla(native):
    layer, x = grouped_and_inputs(channels=12, filters=12, groups=3)
    expected = tf.function(layer)(x).numpy()
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)
    np.testing.assert_allclose(tf.function(layer, jit_compile=True)(x), expected, atol=1e-4)


def test_grouped_convolution_equals_pytorch(native):
    torch = pytest.importorskip("torch")
    layer, image = grouped_and_inputs(channels=24, filters=12, groups=6, stride=2)
    x = torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True)
    kernel = torch.tensor(layer.get_weights()[0].transpose(3, 2, 0, 1), requires_grad=True)
    y = torch.nn.functional.conv2d(x, kernel, stride=2, groups=6)
    (y * y).sum().backward()
    theirs = [
        y.detach().numpy().transpose(0, 2, 3, 1),
        x.grad.numpy().transpose(0, 2, 3, 1),
        kernel.grad.numpy().transpose(2, 3, 1, 0),
    ]
    assert_close(output_and_gradients(layer, image), theirs, 1e-5)


def convolutions_in_graph(layer, x):
    """Input channels of each convolution in the layer's graph."""
    graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.constant(x)).graph
    return [op.inputs[0].shape[-1] for op in graph.get_operations() if op.type == "Conv2D"]


def test_one_convolution_or_one_per_group(native):
    layer, x = grouped_and_inputs(channels=24, filters=24, groups=6)
    graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.constant(x)).graph
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    channels = [op.inputs[0].shape[-1] for op in convolutions]
    assert channels == ([24] if native else [4] * 6)


def refuse(**arguments):
    raise tf.errors.InvalidArgumentError(None, None, "not supported on CPU")


@pytest.mark.parametrize("operation", ["Conv2DBackpropInput", "Conv2DBackpropFilter"])
@pytest.mark.parametrize(("devices", "expected"), [({}, False), ({"TPU": ["a TPU"]}, True)])
def test_native_only_where_there_is_a_gradient(monkeypatch, operation, devices, expected):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices.get(kind, []))
    monkeypatch.setattr(tf.raw_ops, operation, refuse)
    assert convolutions._has_grouped_gradient.__wrapped__("float32") == expected


def test_gradient_where_it_is_said_to_be():
    # The answer must hold in the first trace of a graph too, with a tape outside.
    layer, x = grouped_and_inputs(channels=8, filters=8, groups=2)
    convolutions._has_grouped_gradient.cache_clear()
    assert all(np.abs(v).max() > 0 for v in output_and_gradients(layer, x))
    assert convolutions._has_grouped_gradient.cache_info().currsize == 1


def test_grouped_convolution_saves_and_loads(tmp_path):
    image = keras.Input((6, 6, 8))
    model = keras.Model(image, conv(image, 16, 3, groups=4, stride=2, name="c"))
    assert isinstance(model.get_layer("c"), GroupedConv2D)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    layer = loaded.get_layer("c")
    assert (type(layer), layer.groups, layer.strides) == (GroupedConv2D, 4, (2, 2))
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 8)).astype("float32")
    assert loaded(x).shape == (1, 3, 3, 16)
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)


def test_grouped_convolution_in_mixed_precision():
    full, x = grouped_and_inputs(channels=24, filters=24, groups=6)
    mixed = GroupedConv2D(24, 3, groups=6, use_bias=False, dtype="mixed_bfloat16")
    mixed.build(x.shape)
    mixed.set_weights(full.get_weights())
    y = mixed(x)
    assert (keras.backend.standardize_dtype(y.dtype), mixed.kernel.dtype) == ("bfloat16", "float32")
    # bfloat16 has 8 bits: each of the 36 products is off by up to 2 ** -8 of its size.
    assert_close([np.asarray(y, "float32")], [np.asarray(full(x))], 2e-2)


def depthwise(layer_class, dtype, stride):
    options = {"strides": stride, "dtype": dtype, "depth_multiplier": 2}
    layer = layer_class(3, padding="same", bias_initializer="ones", activation="relu6", **options)
    layer.build((None, 7, 9, 5))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 2))
    layer.set_weights([kernel.astype("bfloat16"), np.ones(10)])
    return layer


def test_a_depthwise_kernel_takes_a_scale_of_each_output_channel():
    plain, scaled = (depthwise(DepthwiseConv2D, "float32", 2) for _ in range(2))
    plain.activation = scaled.activation = lambda x: x
    x = np.random.default_rng(1).normal(size=(2, 7, 9, 5)).astype("float32")
    scale = np.arange(1, 11, dtype="float32")
    scaled.kernel_scale = lambda: scale
    expected = (np.asarray(plain(x)) - 1) * scale + 1  # the bias is 1
    np.testing.assert_allclose(scaled(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("stride", "learns", "dtype"),
    [(1, True, tf.bfloat16), (2, True, tf.float32), (2, False, tf.bfloat16)],
)
def test_depthwise_convolutions_with_a_stride_learn_in_float32_on_a_cpu(stride, learns, dtype):
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 7, 9, 5)), tf.bfloat16)
    layer = depthwise(DepthwiseConv2D, "mixed_bfloat16", stride)
    layer.trainable = learns

    @tf.function
    def run(x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
        return y, *tape.gradient(loss, [x, layer.kernel.value])

    def dtypes(training):
        graph = run.get_concrete_function(x, training).graph
        return {x.outputs[0].dtype for x in graph.get_operations() if "Depthwise" in x.type}

    assert (dtypes(training=True), dtypes(training=False)) == ({dtype}, {tf.bfloat16})
    found = run(x, True)
    assert [x.dtype for x in found] == [tf.bfloat16, tf.bfloat16, tf.float32]
    exact = depthwise(keras.layers.DepthwiseConv2D, "float32", stride)
    expected = output_and_gradients(exact, np.asarray(x, "float32"))
    assert_close([np.asarray(x, "float32") for x in found], expected, 2e-2)


def test_a_gpu_learns_depthwise_convolutions_in_bfloat16(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] * (kind == "GPU"))
    assert not depthwise(DepthwiseConv2D, "mixed_bfloat16", 2)._is_slow()


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_group_norm_is_exact_on_large_maps(dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 90, 110, 32)) + 3).astype("float32")
    layer = norms.GroupNormalization(4, epsilon=1e-5, dtype=dtype)
    layer.build(x.shape)
    gamma, beta = rng.uniform(0.5, 2, 32), rng.normal(size=32)
    layer.set_weights([gamma, beta])
    if dtype == "mixed_bfloat16":
        x = np.asarray(tf.cast(tf.cast(x, "bfloat16"), "float32"))
    parts = x.astype("float64").reshape(2, -1, 4, 8)
    mean = parts.mean((1, 3), keepdims=True)
    variance = np.square(parts - mean).mean((1, 3), keepdims=True)
    expected = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta
    result = layer(x)
    assert result.dtype == layer.compute_dtype
    # bfloat16 has 8 digits: half of 2 ** -8 of the largest value.
    atol = 2e-6 if dtype == "float32" else np.abs(expected).max() / 2**8
    np.testing.assert_allclose(np.asarray(tf.cast(result, "float64")), expected, atol=atol)


@pytest.mark.parametrize("options", [{}, {"scale": False, "center": False}])
def test_group_norm_is_that_of_keras(options):
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 8)).astype("float32")
    ours, theirs = (
        norms.GroupNormalization(2, **options),
        keras.layers.GroupNormalization(2, **options),
    )
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    assert ours.get_config().keys() == theirs.get_config().keys()
