"""FCOS ResNet-50 against torchvision 0.28.0 with PyTorch 2.13.0: what is stored of it.

`torchvision_fcos` says how to make the stored expectations, and what the weights are.
"""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.convert.fcos_names import FLAVOURS
from fcos_tf.layers.norms import FrozenBatchNormalization
from fcos_tf.training.optimizers import SGD
from tests.parity import torchvision_fcos as reference
from tests.parity.ours import check_detections, converted, detections, photos, predict

OUTPUTS = ("class_logits", "ltrb", "centerness_logits")


@pytest.fixture(scope="module")
def golden():
    with np.load(reference.GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("weights"), reference.DETECTING)


def test_parameter_count(model, golden):
    frozen = sum(
        layer.count_params()
        for layer in model.backbone.layers
        if isinstance(layer, FrozenBatchNormalization)
    )
    assert golden["num_parameters"] == 32_269_600  # as torchvision's documentation has it
    assert model.count_params() - frozen == 32_269_600


@pytest.mark.parametrize("canvas", reference.CANVASES)
def test_raw_outputs(model, golden, canvas):
    predictions = predict(model, reference.canvas_image(*canvas))
    for name in OUTPUTS:
        key = f"{name}/{canvas[0]}x{canvas[1]}"
        largest = float(golden[f"{key}/max"])
        error = np.abs(reference.samples(predictions[name]) - golden[key]).max() / largest
        assert 1 < largest < 100 and error < 1e-4, (key, largest, error)


def compare_detections(model, golden, folder, files, annotations):
    assert model.image_size == reference.IMAGE_SIZE
    cases = []
    for file, image, targets in photos(model, folder, files, annotations):
        predictions = model({"images": image, "image_sizes": targets["image_sizes"]})
        sizes = (targets[name][0] for name in ("image_sizes", "original_sizes"))
        ours = detections(model, predictions, image, *sizes)
        theirs = {name: golden[f"{file}/{name}"] for name in ("boxes", "scores", "labels")}
        cases.append((file, ours, theirs))
    check_detections(model, cases)


def test_detections_of_sample_photos(model, golden, tmp_path):
    pixels = reference.sample_photos()
    for file, photo in pixels.items():
        Image.fromarray(photo).save(tmp_path / file)
    compare_detections(model, golden, tmp_path, tuple(pixels), tmp_path / "annotations.json")


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(reference.PHOTOS[:2], id="two"),
        pytest.param(reference.PHOTOS[2:], id="eight", marks=pytest.mark.slow),
    ],
)
def test_detections_of_real_photos(model, golden, tmp_path, shared_data, files):
    compare_detections(model, golden, shared_data, files, tmp_path / "annotations.json")


def as_in_torch(values):
    """A tensor of ours in PyTorch's layout: kernels are height, width, in, out here."""
    values = np.asarray(values)
    return values.transpose(3, 2, 0, 1) if values.ndim == 4 else values


def relative_error(values, golden, name):
    """Of the stored samples and of the norm, the larger."""
    norm = float(golden[f"{name}/norm"])
    assert norm > 0, name
    values = as_in_torch(values)
    difference = np.linalg.norm(reference.samples(values, 100) - golden[name])
    return max(difference / np.linalg.norm(golden[name]), abs(np.linalg.norm(values) / norm - 1))


def test_gradients(golden, tmp_path):
    """In float64: in float32 rounding switches one unit in a million off, on either side, which
    changes a gradient by a thousandth."""
    model = converted(tmp_path, reference.LEARNING, dtype="float64")
    variables = FLAVOURS["torchvision"].variables(model)
    images, targets = reference.training_batch()
    normalised = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    sizes = targets["image_sizes"].astype(int)
    for image, (height, width) in zip(normalised, sizes, strict=True):
        image[height:], image[:, width:] = 0, 0

    @tf.function(autograph=False)
    def differentiate():
        with tf.GradientTape() as tape:
            losses = model.compute_losses(predict(model, normalised), targets, images.shape[1:3])
            loss = sum(losses[name] for name in model.loss_names)
        return tape.gradient(loss, [variables[name].value for name in reference.TENSORS])

    for name, gradient in zip(reference.TENSORS, differentiate(), strict=True):
        error = relative_error(gradient, golden, f"gradient/{name}")
        assert error < 1e-4, (name, error)


def test_losses_and_five_steps(golden, tmp_path):
    model = converted(tmp_path, reference.LEARNING)
    variables = FLAVOURS["torchvision"].variables(model)
    before = {name: np.asarray(variables[name]) for name in reference.TENSORS}
    optimizer = SGD(
        reference.LEARNING_RATE,
        momentum=reference.MOMENTUM,
        weight_decay=reference.WEIGHT_DECAY,
        decay_vectors=True,  # torchvision's recipe leaves out nothing
    )
    model.compile(optimizer=optimizer)
    images, targets = reference.training_batch()
    losses = []
    for _ in range(reference.STEPS):
        model.reset_metrics()  # else these are the means of all steps so far
        losses.append(model.train_on_batch(images, targets, return_dict=True))
    for name in reference.TENSORS:
        change = np.asarray(variables[name]) - before[name]
        error = relative_error(change, golden, f"change/{name}")
        assert error < 0.02, (name, error)  # float32, see above
    model.reset_metrics()
    losses.append(model.test_on_batch(images, targets, return_dict=True))
    ours = [[each[name] for name in model.loss_names] for each in losses]
    np.testing.assert_allclose(ours, golden["losses"], rtol=1e-5)
