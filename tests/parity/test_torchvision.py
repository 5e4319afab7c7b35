"""FCOS ResNet-50 against torchvision 0.28.0 with PyTorch 2.13.0: what is stored of it.

`torchvision_fcos` says how to make the stored expectations, and what the weights are.
"""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fcos_tf.convert.fcos_names import FLAVOURS, parameters
from fcos_tf.layers.blocks import FrozenBatchNormalization
from fcos_tf.training.optimizers import SGD
from tests.parity import torchvision_fcos as reference
from tests.parity.ours import check_detections, converted, in_photo, photos, predict

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
    pairs = []
    for file, image, targets in photos(model, folder, files, annotations):
        found = model.detect(image, targets["image_sizes"])
        ours = in_photo(found, targets["original_sizes"][0], targets["image_sizes"][0])
        theirs = {name: golden[f"{file}/{name}"] for name in ("boxes", "scores", "labels")}
        pairs.append((file, ours, theirs))
    check_detections(model, pairs)


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


def test_gradients(golden, tmp_path):
    """In float64: in float32 rounding switches one unit in a million off, on either side, which
    changes a gradient by a thousandth."""
    model = converted(tmp_path, reference.LEARNING, dtype="float64")
    variables = {name: variable for variable, name in parameters(FLAVOURS["torchvision"], model)}
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
        return tape.gradient(loss, [variables[name].value for name in reference.GRADIENTS])

    for name, gradient in zip(reference.GRADIENTS, differentiate(), strict=True):
        gradient = gradient.numpy()
        if gradient.ndim == 4:  # ours: height, width, in, out
            gradient = gradient.transpose(3, 2, 0, 1)
        stored, norm = golden[f"gradients/{name}"], golden[f"gradients/{name}/norm"]
        assert norm > 0 and abs(np.linalg.norm(gradient) / norm - 1) < 1e-4, name
        difference = reference.samples(gradient, 100) - stored
        assert np.linalg.norm(difference) / np.linalg.norm(stored) < 1e-4, name


def test_losses_and_five_steps(golden, tmp_path):
    model = converted(tmp_path, reference.LEARNING)
    optimizer = SGD(
        reference.LEARNING_RATE,
        momentum=reference.MOMENTUM,
        weight_decay=reference.WEIGHT_DECAY,
        decay_vectors=True,  # torchvision's recipe leaves out nothing
    )
    model.compile(optimizer=optimizer)
    images, targets = reference.training_batch()
    assert len(golden["losses"]) == reference.STEPS + 1
    for step, expected in enumerate(golden["losses"]):
        model.reset_metrics()  # else these are the means of all steps so far
        losses = model.train_on_batch(images, targets, return_dict=True)
        ours = [losses[name] for name in model.loss_names]
        np.testing.assert_allclose(ours, expected, rtol=1e-4 if step == 0 else 1e-3)
