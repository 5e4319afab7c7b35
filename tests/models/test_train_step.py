"""The train step: gradients in parts, their length, and steps that are not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import fcos_tf
from fcos_tf.models.train_steps import BadSteps
from fcos_tf.training.optimizers import SGD
from tests.models.test_fcos import scene


def small(parts=1, norm="frozen", **options):
    keras.utils.set_random_seed(0)
    model = fcos_tf.FCOS(
        3, backbone="simple_cnn", backbone_norm=norm, fpn_levels=3, fpn_channels=32,
        head_convs=0,
    )  # fmt: skip
    model.compile(optimizer=SGD(0.01, momentum=0.9, global_clipnorm=1.0), **options)
    model.accumulation_steps = parts
    return model


def fit(model, batch, steps=3):
    data = tf.data.Dataset.from_tensors(batch).repeat()
    return model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0).history


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_batch_in_parts_is_the_same_step(jit_compile):
    images, targets = scene(batch=4, size=(64, 64))
    # The boxes of one image are gone: its part has no positives, and is divided by all of them.
    targets = {**targets, "labels": np.where(np.arange(4)[:, None] == 1, -1, targets["labels"])}
    whole = small(jit_compile=jit_compile)
    expected = fit(whole, (images, targets))
    for parts in (2, 4):
        model = small(parts, jit_compile=jit_compile)
        found = fit(model, (images, targets))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
        for a, b in zip(model.weights, whole.weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=a.path)


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match=r"expected a divisor of 4, .* got 3"):
        fit(small(3), scene(batch=4, size=(64, 64)))


def test_parts_must_divide_the_last_batch_too():
    data = tf.data.Dataset.from_tensor_slices(scene(batch=3, size=(64, 64))).batch(2)
    words = "^accumulation_steps: expected a divisor of the images of a batch on a device, got 2$"
    with pytest.raises(ValueError, match=words):
        small(2).fit(data, verbose=0)


def test_the_norm_is_that_of_the_gradient_before_clipping():
    # The first step of SGD without decay moves the weights by rate * clipped gradient, whose
    # length is 1; so the weights move by 0.01, whatever the norm was.
    model = small()
    before = [np.array(w) for w in model.trainable_weights]
    logs = fit(model, scene(batch=2, size=(64, 64)), steps=1)
    pairs = zip(model.trainable_weights, before, strict=True)
    moved = np.sqrt(sum(np.square(w - b).sum() for w, b in pairs))
    np.testing.assert_allclose(moved, 0.01, rtol=1e-4)
    images, targets = scene(batch=2, size=(64, 64))
    model = small()
    with tf.GradientTape() as tape:
        inputs = {"images": images, "image_sizes": targets["image_sizes"]}
        loss, _ = model.total_loss(inputs, targets, training=True)
    length = tf.linalg.global_norm(tape.gradient(loss, model.trainable_weights))
    np.testing.assert_allclose(logs["gradient_norm"], [length], rtol=1e-4)
    assert length > 1
    assert "gradient_norm" not in model.evaluate(images, targets, return_dict=True, verbose=0)


@pytest.mark.parametrize(
    ("optimizer", "step"), [(keras.optimizers.SGD(1.0), 0.25), (SGD(1.0), 1.0)]
)
def test_what_is_added_up_already_is_not_added_up_again(optimizer, step, monkeypatch):
    # Keras' own add up over replicas: of 4 with a quarter each comes the whole, and the one that
    # there is here moves by its quarter.
    model = small()
    model.compile(optimizer)
    optimizer.build(model.trainable_weights)
    before = np.array(model.head.ltrb.kernel)

    class FourReplicas:
        num_replicas_in_sync = 4

    monkeypatch.setattr(tf.distribute, "get_strategy", FourReplicas)
    model._apply_sums([tf.ones_like(weight) for weight in model.trainable_weights])
    np.testing.assert_allclose(model.head.ltrb.kernel, before - step, rtol=1e-6)


def test_clipping_by_each_replica_alone_is_refused(monkeypatch):
    model = small()
    model.compile(keras.optimizers.SGD(1.0, global_clipnorm=1.0))

    class FourReplicas:
        num_replicas_in_sync = 4

    monkeypatch.setattr(tf.distribute, "get_strategy", FourReplicas)
    with pytest.raises(ValueError, match="Keras' SGD clips the part of each device; with several"):
        model._apply_sums([tf.ones_like(weight) for weight in model.trainable_weights])


def test_a_last_batch_counts_by_its_images():
    model, (images, targets) = small(), scene(batch=3, size=(64, 64))
    targets = {**targets, "labels": np.where(np.arange(3)[:, None] == 2, -1, targets["labels"])}

    def losses(start, end, batch_size):
        part = {name: value[start:end] for name, value in targets.items()}
        options = {"batch_size": batch_size, "return_dict": True, "verbose": 0}
        return np.array([*model.evaluate(images[start:end], part, **options).values()])

    first, last, both = losses(0, 2, 2), losses(2, 3, 1), losses(0, 3, 2)
    np.testing.assert_allclose(both, (2 * first + last) / 3, rtol=1e-5, atol=1e-6)
    assert abs(first - last).max() > 0.1


def with_a_hole(value):
    """A batch in which one pixel of one image is no number."""
    images, targets = scene(batch=2, size=(64, 64))
    images = images.astype("float32")
    images[1, 3, 5, 0] = value
    return images, targets


@pytest.mark.parametrize("skips", [False, True])
def test_steps_that_are_not_finite_are_counted_and_in_no_mean_if_skipped(skips):
    model, good = small(), scene(batch=2, size=(64, 64))
    if skips:
        scaled = keras.optimizers.LossScaleOptimizer(model.optimizer, initial_scale=1.0)
        model.compile(optimizer=scaled)
    batches = [good, with_a_hole(np.inf), good]  # only the gradient of the second is not finite
    data = tf.data.Dataset.from_generator(
        lambda: ((np.float32(images), targets) for images, targets in batches),
        output_signature=tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), batches[1]
        ),
    )
    logs = model.fit(data, verbose=0).history
    assert model.bad_steps.read() == (1 if skips else 2, 2)
    expected = fit(small(), good, steps=2)["loss"] if skips else [np.nan]
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-6)
    assert np.isnan(model.head.ltrb.kernel).any() != skips


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_loss_scale_leaves_such_steps_out(norm):
    model = small(norm=norm)
    scaled = keras.optimizers.LossScaleOptimizer(SGD(0.01), initial_scale=1.0)
    model.compile(optimizer=scaled, jit_compile=False)
    before = [np.array(w) for w in model.weights]
    fit(model, with_a_hole(np.nan), steps=1)
    assert model.bad_steps.read() == (1, 1)
    for a, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(a, b)
    images, targets = scene(batch=2, size=(64, 64))
    fit(model, (images.astype("float32"), targets), steps=1)  # of this dtype, the trace is there
    assert model.bad_steps.read() == (1, 1)
    assert not np.array_equal(model.head.ltrb.kernel, before[-1])
    assert all(np.isfinite(w).all() for w in model.weights)


def test_means_of_nothing_are_no_numbers():
    model, (images, targets) = small(), with_a_hole(np.nan)
    model.compile(keras.optimizers.LossScaleOptimizer(model.optimizer, initial_scale=1.0))
    logs = fit(model, (images, targets), steps=2)
    assert np.isnan(logs["loss"]) and np.isnan(logs["num_positives"])
    for weight in model.trainable_weights:
        weight.assign(weight * np.nan)
    evaluated = model.evaluate(*scene(batch=2, size=(64, 64)), return_dict=True, verbose=0)
    assert np.isnan([evaluated["loss"], evaluated["classification_loss"]]).all()


def test_parts_add_the_loss_of_weights_once():
    batch = scene(batch=2, size=(64, 64))
    losses = []
    for parts in (1, 2):
        model = small(parts)
        model.head.ltrb.kernel.regularizer = keras.regularizers.L2(1000.0)
        losses.append(fit(model, batch, steps=1)["loss"][0])
    assert losses[0] > fit(small(), batch, steps=1)["loss"][0] + 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_first_and_number_of_faults():
    faults = BadSteps()
    for finite in (True, True, False, True, False):
        faults.count(finite)
    assert faults.read() == (2, 3)
    faults.reset()
    assert faults.read() == (0, 0)
    faults.count(False)
    assert faults.read() == (1, 1)
