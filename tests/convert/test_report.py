"""What fits is assigned, all or none; what does not is named."""

import os

import keras
import ml_dtypes
import numpy as np
import pytest

from fcos_tf.convert import read_tensors
from fcos_tf.convert.report import ConversionReport, Misshaped, assign, depthwise_to_keras, to_keras
from tests.convert.test_torch_files import GOLDEN


def built(layer, *shape):
    layer.build((None, *shape))
    return layer


def correlate(images, kernel, groups):
    """Cross-correlation by its definition: [B, C, H, W] with [O, C / groups, h, w], no padding."""
    out, per_group, height, width = kernel.shape
    batch, _, rows, columns = images.shape
    result = np.zeros((batch, out, rows - height + 1, columns - width + 1))
    for o in range(out):
        first = o // (out // groups) * per_group
        for y in range(result.shape[2]):
            for x in range(result.shape[3]):
                part = images[:, first : first + per_group, y : y + height, x : x + width]
                result[:, o, y, x] = (part * kernel[o]).sum((1, 2, 3))
    return result


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_compute_what_the_file_means(groups):
    layer = built(keras.layers.Conv2D(8, (2, 3), groups=groups), 5, 6, 4)
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(8, 4 // groups, 2, 3)).astype(np.float32)
    bias = generator.normal(size=8).astype(np.float32)
    images = generator.normal(size=(2, 4, 5, 6)).astype(np.float32)
    assign(
        {"k": layer.kernel, "b": layer.bias},
        {"conv.weight": kernel, "conv.bias": bias},
        {"k": "conv.weight", "b": "conv.bias"},
    ).raise_if_incomplete("f")
    got = keras.ops.convert_to_numpy(layer(images.transpose(0, 2, 3, 1)))
    expected = correlate(images, kernel, groups) + bias[:, None, None]
    np.testing.assert_allclose(got, expected.transpose(0, 2, 3, 1), atol=1e-5)


def test_depthwise_convolution():
    layer = built(keras.layers.DepthwiseConv2D((2, 3), use_bias=False), 5, 6, 4)
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(4, 1, 2, 3)).astype(np.float32)
    images = generator.normal(size=(2, 4, 5, 6)).astype(np.float32)
    variables = {"k": layer.trainable_variables[0]}
    transforms = {"k": depthwise_to_keras}
    assign(variables, {"w": kernel}, {"k": "w"}, transforms=transforms).raise_if_incomplete("f")
    got = keras.ops.convert_to_numpy(layer(images.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(got, correlate(images, kernel, 4).transpose(0, 2, 3, 1), atol=1e-5)


def test_a_square_dense_layer_is_transposed():
    layer = built(keras.layers.Dense(2), 2)
    weight = np.array([[1, 2], [3, 4]], np.float32)  # [out, in]: y0 = x0 + 2 x1, y1 = 3 x0 + 4 x1
    assign(
        {"k": layer.kernel, "b": layer.bias},
        {"w": weight, "b": np.array([10, 20], np.float32)},
        {"k": "w", "b": "b"},
    )
    got = keras.ops.convert_to_numpy(layer(np.array([[1, -1]], np.float32)))
    assert got.tolist() == [[10 - 1, 20 - 1]]


def test_to_keras_leaves_other_ranks():
    assert to_keras(np.zeros(3)).shape == (3,)
    assert to_keras(np.zeros(())).shape == ()
    assert to_keras(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    assert to_keras(np.zeros((8, 4, 2, 3))).shape == (2, 3, 4, 8)


def test_a_file_of_torch_into_layers():
    # Sequential(Conv2d(2, 4, 3, groups=2), BatchNorm2d(4), Linear(4, 3))
    tensors = read_tensors(GOLDEN / "checkpoint_zip.pth")
    conv = built(keras.layers.Conv2D(4, 3, groups=2), 5, 5, 2)
    norm = built(keras.layers.BatchNormalization(), 3, 3, 4)
    dense = built(keras.layers.Dense(3), 4)
    variables = {v.path: v for layer in (conv, norm, dense) for v in layer.weights}
    files = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
             "2.weight", "2.bias")  # fmt: skip
    report = assign(variables, tensors, dict(zip(variables, files, strict=True)))
    report.raise_if_incomplete("f")
    assert report.used == list(files)
    assert report.ignored == ["1.num_batches_tracked"]
    assert keras.ops.convert_to_numpy(conv.kernel).shape == (3, 3, 1, 4)
    for variable, name in ((norm.moving_variance, "1.running_var"), (dense.bias, "2.bias")):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), tensors[name])
    assert keras.ops.convert_to_numpy(conv.kernel)[1, 2, 0, 3] == tensors["0.weight"][3, 0, 1, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float64, np.int64])
def test_dtypes_are_those_of_the_variable(dtype, stored):
    variable = keras.Variable(np.zeros(2), dtype=dtype)
    assign({"v": variable}, {"t": np.array([1, 3]).astype(stored)}, {"v": "t"})
    assert keras.backend.standardize_dtype(variable.dtype) == dtype
    assert keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")).tolist() == [1, 3]


@pytest.fixture
def variables():
    layer = built(keras.layers.Dense(3, kernel_initializer="ones", name="d"), 2)
    return {"d/kernel": layer.kernel, "d/bias": layer.bias}


NAMES = {"d/kernel": "fc.weight", "d/bias": "fc.bias"}
WEIGHT, BIAS = np.full((3, 2), 5, np.float32), np.full(3, 6, np.float32)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"fc.weight": WEIGHT}, ConversionReport(["fc.weight"], missing=["fc.bias"])),
        (
            {"fc.weight": WEIGHT, "fc.bias": BIAS, "x": BIAS, "n.num_batches_tracked": BIAS},
            ConversionReport(
                ["fc.weight", "fc.bias"], unused=["x"], ignored=["n.num_batches_tracked"]
            ),
        ),
        (
            {"fc.weight": WEIGHT.T, "fc.bias": BIAS},
            ConversionReport(
                ["fc.bias"], misshaped=[Misshaped("fc.weight", (2, 3), (3, 2))]
            ),
        ),
        (
            {"fc.weight": WEIGHT, "fc.bias": BIAS[:0]},
            ConversionReport(["fc.weight"], misshaped=[Misshaped("fc.bias", (3,), (0,))]),
        ),
        (
            {"fc.weight": WEIGHT, "fc.bias": BIAS[0]},
            ConversionReport(["fc.weight"], misshaped=[Misshaped("fc.bias", (3,), ())]),
        ),
    ],
)  # fmt: skip
def test_nothing_is_assigned_unless_all_fits(variables, tensors, expected):
    report = assign(variables, tensors, NAMES)
    assert report == expected
    assert not report.is_complete
    assert keras.ops.convert_to_numpy(variables["d/kernel"]).tolist() == [[1] * 3] * 2
    assert keras.ops.convert_to_numpy(variables["d/bias"]).tolist() == [0] * 3
    with pytest.raises(ValueError, match=r"^dir/a\.pth: expected the tensors of this model"):
        report.raise_if_incomplete(os.path.join("dir", "a.pth"))


def test_what_is_ignored_is_a_choice(variables):
    tensors = {"fc.weight": WEIGHT, "fc.bias": BIAS, "old.weight": BIAS}
    assert assign(variables, tensors, NAMES, ignore=("old.*",)).ignored == ["old.weight"]
    assert keras.ops.convert_to_numpy(variables["d/bias"]).tolist() == [6] * 3


def test_a_transform_that_cannot_take_the_tensor_is_a_wrong_shape(variables):
    tensors = {"fc.weight": WEIGHT, "fc.bias": BIAS}
    report = assign(variables, tensors, NAMES, transforms={"d/bias": depthwise_to_keras})
    assert report.misshaped == [Misshaped("fc.bias", (3,), (3,))]
    assert not report.is_complete


def test_names_that_do_not_go_with_the_variables(variables):
    with pytest.raises(ValueError, match="got a difference in d/bias"):
        assign(variables, {}, {"d/kernel": "fc.weight"})
    with pytest.raises(ValueError, match="got a difference in other"):
        assign(variables, {}, NAMES, transforms={"other": to_keras})


def test_numbers_that_no_variable_holds(variables):
    tensors = {"fc.weight": WEIGHT, "fc.bias": BIAS.astype(np.complex64)}
    with pytest.raises(ValueError, match=r"fc\.bias: expected real numbers, got complex64"):
        assign(variables, tensors, NAMES)
    assert keras.ops.convert_to_numpy(variables["d/kernel"]).tolist() == [[1] * 3] * 2


def test_text_of_a_report():
    report = ConversionReport(
        used=["a", "b"],
        missing=[f"m{i}" for i in range(23)],
        unused=["u"],
        misshaped=[Misshaped("s.weight", (3, 3), (2,)), Misshaped("t", (), (1,))],
    )
    assert str(report).splitlines() == [
        "used           2  in the file and in the model",
        "missing       23  in the model, not in the file",
        "unused         1  in the file, not in the model",
        "misshaped      2  in both, of different shapes",
        "ignored        0  in the file, irrelevant to the model",
        "missing:",
        *(f"  m{i}" for i in range(20)),
        "  ... and 3 more",
        "unused:",
        "  u",
        "misshaped:",
        "  s.weight  expected (3, 3), got (2,)",
        "  t         expected (), got (1,)",
    ]
    assert ConversionReport(used=["a"]).is_complete
    ConversionReport(used=["a"]).raise_if_incomplete("a.pth")
