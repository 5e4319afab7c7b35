"""Batch norms folded into convolutions, and weights of other precisions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import fcos_tf
from fcos_tf.detecting import models, open_model
from fcos_tf.layers.blocks import conv_norm
from fcos_tf.layers.norms import add_shift, subtract_shift
from fcos_tf.models import folding


def randomize(model, seed=0):
    """Gives every norm and bias of a model numbers as training would."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.split("/")[-1]
        if name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif name == "gamma":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif name in ("beta", "moving_mean", "bias"):
            weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))
    return model


def detector(backbone, **options):
    small = {"fpn_levels": 3, "fpn_channels": 32, "head_convs": 1}
    return randomize(fcos_tf.FCOS(3, backbone=backbone, **small, **options))


def images():
    return np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)


def largest_difference(model, other):
    one, two = model(images()), other(images())
    return max(np.abs(np.asarray(one[key]) - np.asarray(two[key])).max() for key in one)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_factor_goes_into_the_kernel_and_a_shift_is_left(norm):
    inputs = keras.Input((None, None, 1))
    output = conv_norm(inputs, 1, 1, name="a", norm=norm, norm_epsilon=1.0, activation=None)
    model = keras.Model(inputs, output)
    convolution, layer = model.get_layer("a_conv"), model.get_layer("a_norm")
    convolution.set_weights([np.full((1, 1, 1, 1), 2.0)])
    # gamma 6, beta 1, mean 4, variance 8 with epsilon 1: (2 x - 4) * 6 / sqrt(9) + 1 = 4 x - 7
    layer.set_weights([np.full(1, v) for v in (6.0, 1.0, 4.0, 8.0)])
    ((convolution, layer),) = folding.foldable(model)
    folding._fold(convolution, layer)
    assert float(convolution.kernel[0, 0, 0, 0]) == 4
    assert float(layer.beta[0]) == -7
    assert float(model(np.full((1, 1, 1, 1), 5.0))[0, 0, 0, 0]) == 4 * 5 - 7


# 20 convolutions of a ResNet-18 have a norm, as have 1 + 1 * 2 + 16 * 3 of a MobileNetV2 and one
# block less of an EfficientNet-Lite0; two of the small CNN.
@pytest.mark.parametrize(
    ("backbone", "norm", "count"),
    [
        ("resnet18", "batch", 20),
        ("resnet18", "frozen", 20),
        ("mobilenet_v2", "batch", 51),
        ("efficientnet_lite0", "batch", 48),
        ("simple_cnn", "sync", 2),
    ],
)
def test_predictions_stay(backbone, norm, count):
    model = detector(backbone, backbone_norm=norm)
    before = model.get_weights()
    copy = folding.inference_copy(model)
    assert len(folding.batch_norms(model)) == count
    assert folding.batch_norms(copy) == []
    assert largest_difference(model, copy) < 1e-4
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def features_and_gradients(backbone, kernel):
    """Of a backbone with frozen norms in training: features and a kernel's gradient."""
    x = tf.constant(images() / 255, backbone.inputs[0].dtype)
    with tf.GradientTape() as tape:
        features = [tf.cast(y, tf.float64) for y in backbone(x, training=True).values()]
        loss = tf.add_n([tf.reduce_sum(y**2) for y in features])
    return [*features, tape.gradient(loss, backbone.get_layer(kernel).kernel.value)]


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("resnet18", "stage1_block1_1_conv"),
        ("regnetx_200mf", "stage1_block1_2_conv"),  # grouped
        ("mobilenet_v2", "stage2_block1_2_conv"),  # depthwise
    ],
)
def test_every_step_multiplies_kernels_by_the_scales_of_frozen_norms(name, kernel):
    # In float32 rounding takes an activation across the kink of a ReLU6 in some draws of weights.
    options = {"backbone_norm": "frozen", "fpn_channels": 32, "dtype": "float64"}
    model = randomize(fcos_tf.FCOS(3, backbone=name, **options))
    plain = keras.models.clone_model(model.backbone)  # of the configs: it is not rewritten
    plain.set_weights(model.backbone.get_weights())
    norm = kernel.replace("conv", "norm")
    assert model.backbone.get_layer(kernel).kernel_scale is not None
    assert model.backbone.get_layer(norm).shift_only is not None
    assert plain.get_layer(kernel).kernel_scale is None
    assert plain.get_layer(norm).shift_only is None
    found, expected = (features_and_gradients(x, kernel) for x in (model.backbone, plain))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-12 * np.abs(two).max())
    for one, two in zip(model.backbone.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_in_bfloat16_a_kernel_with_its_scale_is_nearer_to_the_truth():
    exact = detector("resnet18", backbone_norm="frozen").backbone
    *expected, _ = features_and_gradients(exact, "stem_conv")
    rounded = detector("resnet18", backbone_norm="frozen", dtype="mixed_bfloat16").backbone
    plain = keras.models.clone_model(rounded)
    errors = []
    for backbone in (rounded, plain):
        backbone.set_weights(exact.get_weights())
        *found, _ = features_and_gradients(backbone, "stem_conv")
        errors.append([np.abs(a - b).mean() for a, b in zip(found, expected, strict=True)])
    assert np.all(np.array(errors[0]) < errors[1])


def test_batch_norms_that_learn_keep_their_scale():
    model = detector("resnet18", backbone_norm="batch", frozen_stages=1)
    scaled = [x.name for x in model.backbone.layers if getattr(x, "kernel_scale", None)]
    assert scaled == ["stem_conv"]


def test_detecting_folds_what_it_read_from_a_file_and_nothing_else(tmp_path):
    model = detector(
        "resnet18", class_names=("a", "b", "c"), image_size="64x96", score_threshold=0.0
    )
    model.save(tmp_path / "a.keras")
    pixels = images()[0].astype(np.uint8)
    expected, found = (fcos_tf.detect(one, pixels)[0] for one in (model, tmp_path / "a.keras"))
    assert len(expected) == 100
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert len(folding.batch_norms(model)) == 20
    read = models.load_model(tmp_path / "a.keras")
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_model", lambda file: opened.append(read) or read)
        open_model(tmp_path / "a.keras")
    assert folding.batch_norms(read) == [] and opened == [read]


def test_grouped_convolutions_are_folded_without_a_bias():
    # TensorFlow would fuse it with the convolution, and refuse that on CPUs without oneDNN.
    model = detector("regnetx_400mf")
    copy = folding.inference_copy(model)
    assert largest_difference(model, copy) < 1e-4
    layer = copy.backbone.get_layer
    assert layer("stage4_block1_2_conv").groups > 1 == layer("stem_conv").groups
    assert layer("stage4_block1_2_norm").shift_only is subtract_shift
    assert layer("stem_norm").shift_only is add_shift


@pytest.mark.parametrize(
    ("backbone", "norm"), [("simple_cnn", "batch"), ("resnet18", "frozen"), ("regnetx_200mf", None)]
)
def test_what_was_traced_before_and_what_is_saved_after_predict_the_same(tmp_path, backbone, norm):
    model = detector(backbone, backbone_norm=norm, image_size="64x96", score_threshold=0.0)
    pixels = images()[0].astype(np.uint8)
    expected, found = model.predict(images(), verbose=0), fcos_tf.detect(model, pixels)[0]
    count = len(folding.batch_norms(model))
    assert folding.fold_norms(model) and folding.batch_norms(model) == []
    model.save(tmp_path / "fast.keras")
    loaded = fcos_tf.load_model(tmp_path / "fast.keras")
    assert len(folding.batch_norms(loaded)) == count and largest_difference(model, loaded) < 1e-4
    for one in (model, loaded):
        scores = one.predict(images(), verbose=0)["scores"]
        np.testing.assert_allclose(scores, expected["scores"], atol=1e-5)
        np.testing.assert_allclose(fcos_tf.detect(one, pixels)[0].scores, found.scores, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_without_folding_and_in_files_every_bit_stays(tmp_path, norm):
    model = detector("simple_cnn", backbone_norm=norm)
    copy = folding.inference_copy(model, fold=False)
    assert len(folding.batch_norms(copy)) == 2
    assert largest_difference(model, copy) == 0
    model.save(tmp_path / "a.keras")
    assert largest_difference(model, fcos_tf.load_model(tmp_path / "a.keras")) == 0
    model.backbone.save(tmp_path / "b.keras")
    weights = {"backbone_weights": str(tmp_path / "b.keras"), "backbone_norm": norm}
    other = fcos_tf.FCOS(3, backbone="simple_cnn", fpn_channels=32, head_convs=1, **weights)
    for one, two in zip(model.backbone.weights, other.backbone.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_cannot_be_folded():
    inputs = keras.Input((None, None, 1))
    conv, norm = keras.layers.Conv2D, keras.layers.BatchNormalization

    def pairs(*outputs):
        return len(folding.foldable(keras.Model(inputs, outputs)))

    assert pairs(norm()(conv(1, 1, use_bias=False)(inputs))) == 1
    assert pairs(norm()(conv(1, 1)(inputs))) == 0
    assert pairs(norm()(conv(1, 1, use_bias=False, activation="relu")(inputs))) == 0
    assert pairs(norm()(keras.layers.ReLU()(conv(1, 1, use_bias=False)(inputs)))) == 0
    shared = conv(1, 1, use_bias=False)(inputs)
    assert pairs(norm()(shared), shared) == 0
    shared = conv(1, 1, use_bias=False)(inputs)
    assert pairs(keras.layers.Add()([norm()(shared), shared])) == 0


@pytest.mark.parametrize(
    ("precision", "tolerance", "norm"), [("bfloat16", 0.1, "batch"), ("float16", 0.01, "frozen")]
)
def test_precisions(precision, tolerance, norm):
    model = detector("resnet18", backbone_norm=norm)
    copy = folding.inference_copy(model, precision=precision)
    assert copy.backbone.get_layer("stem_conv").kernel.dtype == precision
    assert copy.head.class_logits.kernel.dtype == "float32"
    assert {x.dtype.name for x in copy(images()).values()} == {"float32"}
    assert 0 < largest_difference(model, copy) < tolerance


def test_weights_stay_float32_where_norms_are_left():
    copy = folding.inference_copy(detector("simple_cnn"), precision="bfloat16", fold=False)
    assert copy.backbone.get_layer("stem_conv").kernel.dtype == "float32"
    assert copy.backbone.get_layer("stem_conv").compute_dtype == "bfloat16"


def test_an_unknown_precision():
    with pytest.raises(ValueError, match=r"precision: expected one of float32, .*; got 'int8'"):
        folding.inference_copy(detector("simple_cnn"), precision="int8")
