from functools import partial

import keras
import numpy as np
import pytest

from fcos_tf.models.classifier import ImageClassifier
from fcos_tf.training.optimizers import SGD, AdamW, averaged_weights, swap_averages
from fcos_tf.training.schedules import WarmupStepDecay
from tests.training import sgd_rule


def variable(value):
    return keras.Variable(np.array(value, "float32"))


def apply(optimizer, variables, gradients):
    optimizer.apply_gradients(
        [
            (keras.ops.convert_to_tensor(g, "float32"), v)
            for g, v in zip(gradients, variables, strict=True)
        ]
    )


def test_two_steps_with_momentum_and_decay():
    # lr 0.1, momentum 0.5, decay 0.25, gradient 1 both times, w0 = 2:
    #   step 1: g = 1 + 0.25 * 2    = 1.5     b = 1.5                     w = 2 - 0.15 = 1.85
    #   step 2: g = 1 + 0.25 * 1.85 = 1.4625  b = 0.75 + 1.4625 = 2.2125  w = 1.85 - 0.22125
    w = variable([[2.0]])
    optimizer = SGD(0.1, momentum=0.5, weight_decay=0.25)
    apply(optimizer, [w], [[[1.0]]])
    np.testing.assert_allclose(w.numpy(), [[1.85]], rtol=1e-6)
    apply(optimizer, [w], [[[1.0]]])
    np.testing.assert_allclose(w.numpy(), [[1.62875]], rtol=1e-6)


def test_decay_is_not_that_of_keras():
    # One step with gradient 0 is w - lr * decay * w for both; in the second, ours has momentum:
    #   Keras: 1 -> 0.9 -> 0.81      ours: b = 0.1, w = 0.9; b = 0.09 + 0.09 = 0.18, w = 0.72
    ours, theirs = variable([[1.0]]), variable([[1.0]])
    options = {"learning_rate": 1.0, "momentum": 0.9, "weight_decay": 0.1}
    mine, keras_sgd = SGD(**options), keras.optimizers.SGD(**options)
    for _ in range(2):
        apply(mine, [ours], [[[0.0]]])
        apply(keras_sgd, [theirs], [[[0.0]]])
    np.testing.assert_allclose(ours.numpy(), [[0.72]], rtol=1e-6)
    np.testing.assert_allclose(theirs.numpy(), [[0.81]], rtol=1e-6)


def test_clipping_comes_before_the_decay():
    # Gradients 3 and 4 have norm 5; clipped to 1 they are 0.6 and 0.8. The decay adds
    # 0.5 * 10 = 5 to each after that: w = 10 - 0.1 * 5.6 and 10 - 0.1 * 5.8.
    a, b = variable([[10.0]]), variable([[10.0]])
    apply(SGD(0.1, weight_decay=0.5, global_clipnorm=1.0), [a, b], [[[3.0]], [[4.0]]])
    np.testing.assert_allclose([a.numpy()[0, 0], b.numpy()[0, 0]], [9.44, 9.42], rtol=1e-6)


@pytest.mark.parametrize("decay_vectors, expected", [(False, 1.0), (True, 0.9)])
def test_biases_and_scalars_are_decayed_on_request_only(decay_vectors, expected):
    # Gradient 0, lr 1, decay 0.1: a decayed 1 becomes 0.9.
    bias, scalar, kernel = variable([1.0]), variable(1.0), variable([[1.0]])
    optimizer = SGD(1.0, weight_decay=0.1, decay_vectors=decay_vectors)
    apply(optimizer, [bias, scalar, kernel], [[0.0], 0.0, [[0.0]]])
    np.testing.assert_allclose(bias.numpy(), [expected], rtol=1e-6)
    np.testing.assert_allclose(scalar.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(kernel.numpy(), [[0.9]], rtol=1e-6)


def test_excluded_variables_are_not_decayed():
    kernel, excluded = variable([[1.0]]), variable([[1.0]])
    optimizer = SGD(1.0, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[excluded.value])
    apply(optimizer, [kernel, excluded], [[[0.0]], [[0.0]]])
    np.testing.assert_allclose(kernel.numpy(), [[0.9]], rtol=1e-6)
    np.testing.assert_allclose(excluded.numpy(), [[1.0]])


@pytest.mark.parametrize("nesterov", [False, True])
def test_at_a_constant_rate_without_decay_it_is_keras_sgd(nesterov):
    # Few binary digits: no result is rounded, in whichever order it is computed.
    options = {"learning_rate": 0.125, "momentum": 0.5, "nesterov": nesterov}
    ours, theirs = variable([[1.0, -2.0]]), variable([[1.0, -2.0]])
    mine, keras_sgd = SGD(**options), keras.optimizers.SGD(**options)
    for gradient in ([[1.0, 2.0]], [[-3.0, 0.5]], [[0.25, 0.75]]):
        apply(mine, [ours], [gradient])
        apply(keras_sgd, [theirs], [gradient])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # Gradient 1, momentum 0.5: the buffer is 1, 1.5, 1.75, 1.875. The rate is 1, 1, then 0.25:
        # w = -1, -1 - 1.5 = -2.5, -2.5 - 0.4375 = -2.9375, -2.9375 - 0.46875 = -3.40625.
        (SGD, [-1, -2.5, -2.9375, -3.40625]),
        # Steps of 1 + half the buffer: 1.5, 1.75, then 0.25 * 1.875 = 0.46875 and
        # 0.25 * 1.9375 = 0.484375.
        (partial(SGD, nesterov=True), [-1.5, -3.25, -3.71875, -4.203125]),
        # The velocity keeps the old rate: -1, -1.5, -0.75 - 0.25 = -1, -0.5 - 0.25 = -0.75.
        (keras.optimizers.SGD, [-1, -2.5, -3.5, -4.25]),
    ],
    ids=["ours", "nesterov", "Keras"],
)
def test_a_new_rate_holds_at_once(make, expected):
    w = variable([[0.0]])
    optimizer = make(WarmupStepDecay(1.0, decay_steps=(2,), decay_factor=0.25), momentum=0.5)
    path = []
    for _ in range(4):
        apply(optimizer, [w], [[[1.0]]])
        path.append(w.numpy().item())
    assert path == expected


@pytest.mark.parametrize("options", sgd_rule.CASES.values(), ids=sgd_rule.CASES)
def test_fifty_steps_of_the_rule_of_pytorch(options):
    ours, rule = sgd_rule.by_ours(options), sgd_rule.by_the_rule(options)
    for name, path in rule.items():
        np.testing.assert_allclose(ours[name], path, rtol=0, atol=1e-6, err_msg=name)


def test_serialises_with_all_its_options():
    optimizer = SGD(0.1, momentum=0.9, weight_decay=1e-4, decay_vectors=True, global_clipnorm=10.0)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is SGD
    assert copy.get_config() == optimizer.get_config()


def named(name, value):
    return keras.Variable(np.array(value, "float32"), name=name)


@pytest.mark.parametrize("name, rate", [("bias", 0.2), ("beta", 0.2), ("kernel", 0.1)])
def test_biases_and_offsets_learn_at_a_rate_of_their_own(name, rate):
    # Gradient 1, learning rate 0.1, factor 2.
    w = named(name, [1.0])
    apply(SGD(0.1, bias_lr_factor=2.0), [w], [[1.0]])
    np.testing.assert_allclose(w.numpy(), [1.0 - rate], rtol=1e-6)


def test_adamw_by_hand():
    # The first step of Adam is lr * g / |g| (epsilon aside), here 0.1; before it the decay takes
    # 0.1 * 0.5 = 5 % of the kernel and nothing of the bias.
    kernel, bias = named("kernel", [[2.0]]), named("bias", [2.0])
    apply(AdamW(0.1, weight_decay=0.5), [kernel, bias], [[[3.0]], [3.0]])
    np.testing.assert_allclose(kernel.numpy(), [[2.0 * 0.95 - 0.1]], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [2.0 - 0.1], rtol=1e-6)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(AdamW(0.1, bias_lr_factor=2.0)))
    assert type(copy) is AdamW and copy.bias_lr_factor == 2.0


def one_weight(optimizer):
    """A model y = w * x with w = 1, and a function that does a step with gradient g of w."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=optimizer)
    model.trainable_variables[0].assign([[1.0]])
    return model, lambda g: apply(model.optimizer, model.trainable_variables, [[[g]]])


@pytest.mark.parametrize("wrapped", [False, True])
def test_averages_are_swapped_in_and_out(wrapped, tmp_path):
    optimizer = SGD(1.0, use_ema=True, ema_momentum=0.75)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    model, step = one_weight(optimizer)
    (w,) = model.trainable_variables
    with averaged_weights(model):  # nothing averaged yet
        assert w.numpy() == 1.0
    step(0.5)  # w = 0.5, where the average begins
    step(0.4)  # w = 0.1; average 0.75 * 0.5 + 0.25 * 0.1 = 0.4
    with averaged_weights(model):
        np.testing.assert_allclose(w.numpy(), 0.4, rtol=1e-6)
        model.save_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(w.numpy(), 0.1, rtol=1e-6)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    np.testing.assert_allclose(w.numpy(), 0.1, rtol=1e-6)
    # What was saved has the average in its weights and the weights in its averages.
    step(0.3)
    model.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(w.numpy(), 0.4, rtol=1e-6)
    swap_averages(model)
    np.testing.assert_allclose(w.numpy(), 0.1, rtol=1e-6)
    # Alone, what is saved has the average in both, and the model is as it was afterwards.
    with averaged_weights(model, alone=True):
        model.save_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(w.numpy(), 0.1, rtol=1e-6)
    swap_averages(model)
    np.testing.assert_allclose(w.numpy(), 0.4, rtol=1e-6)
    model.load_weights(tmp_path / "a.weights.h5")
    swap_averages(model)
    np.testing.assert_allclose(w.numpy(), 0.4, rtol=1e-6)
    step(0.2)  # w = 0.2; average 0.75 * 0.4 + 0.25 * 0.2 = 0.35
    swap_averages(model)
    np.testing.assert_allclose(w.numpy(), 0.35, rtol=1e-6)


def test_without_averages_nothing_is_swapped():
    for optimizer in (SGD(1.0), keras.optimizers.SGD(1.0)):
        model, step = one_weight(optimizer)
        step(0.5)
        with averaged_weights(model):
            assert model.trainable_variables[0].numpy() == 0.5


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_the_backbone_learns_at_a_rate_of_its_own(kind):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [2, 64, 64, 3]).astype("uint8")
    targets = {"boxes": np.float32([[[0, 0, 9, 9]]] * 2), "labels": np.int32([[0], [1]])}
    model = ImageClassifier(2, backbone="simple_cnn", image_size="64x64")
    before = [weight.numpy() for weight in model.trainable_variables]
    count = len(model.backbone.trainable_variables)

    def updates(factor):
        for weight, value in zip(model.trainable_variables, before, strict=True):
            weight.assign(value)
        optimizer = kind(0.5, weight_decay=0.25, backbone_lr_factor=factor)
        model.compile(optimizer=keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)))
        model.train_on_batch(images, targets)
        changes = [w.numpy() - b for w, b in zip(model.trainable_variables, before, strict=True)]
        return changes[:count], changes[count:]

    backbone, head = updates(1.0)
    assert len(head) == 2 and all(np.abs(change).max() > 1e-4 for change in backbone + head)
    slow, same = updates(0.125)
    for ours, full in zip(slow, backbone, strict=True):
        np.testing.assert_allclose(ours, 0.125 * full, rtol=1e-4, atol=1e-6)
    for ours, full in zip(same, head, strict=True):
        np.testing.assert_allclose(ours, full, rtol=1e-5, atol=1e-7)
    fixed, same = updates(0.0)
    assert not any(change.any() for change in fixed)
    for ours, full in zip(same, head, strict=True):
        np.testing.assert_allclose(ours, full, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"weight_decay": -1.0}, {"bias_lr_factor": 0.0}, {"backbone_lr_factor": -1.0}]
)
def test_options_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}: expected"):
        SGD(0.1, **options)
