"""Wrong input of `fit`, `evaluate` and `predict` is refused before the first step."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import fcos_tf
from fcos_tf.data import from_keras_cv
from fcos_tf.models.input_checks import check_data
from fcos_tf.training.callbacks import DetectionMetrics

IMAGES = np.zeros((2, 64, 64, 3), np.uint8)
BOXES = np.tile(np.float32([8, 8, 40, 40]), (2, 1, 1))
LABELS = np.zeros((2, 1), np.int32)
TARGETS = {"boxes": BOXES, "labels": LABELS}


@pytest.fixture(scope="module")
def model():
    made = fcos_tf.FCOS(
        3, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0, image_size="64x64"
    )
    made.compile(keras.optimizers.SGD(0.0))
    return made


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([IMAGES[0]] * 2, r"got a list of 2; fcos_tf.detect"),
        (IMAGES[0], r"got the shape \[64, 64, 3\]; one image without the batch axis"),
        (np.zeros((1, 64, 64, 4), np.uint8), r"\[1, 64, 64, 4\]; with an alpha channel"),
        (np.zeros((1, 3, 64, 64), np.uint8), r"\[1, 3, 64, 64\]; channels first"),
        (np.zeros((2, 64, 64), np.uint8), r"got the shape \[2, 64, 64\]$"),
        (IMAGES[:0], r"got the shape \[0, 64, 64, 3\]"),
        (IMAGES.astype(bool), "got the dtype bool"),
        (np.array(["a.jpg"]), r"got the shape \[1\]"),
        ("a.jpg", "got a path or bytes; fcos_tf.detect"),
        ({"image": IMAGES}, "under the key 'images', got image"),
        (tf.data.Dataset.from_tensors(IMAGES[0]), r"got the shape \[64, 64, 3\]"),
    ],
)
def test_images_of_another_form(model, images, message):
    with pytest.raises(ValueError, match=message):
        model.predict(images)
    if not isinstance(images, tf.data.Dataset):
        with pytest.raises(ValueError, match=message):
            model.detect(images)


def changed(**targets):
    return {**TARGETS, **targets}


NAN, INVERTED = BOXES.copy(), BOXES[..., [2, 1, 0, 3]]
NAN[1, 0, 2] = np.nan
WRONG_VALUES = [
    (changed(labels=np.array([[0], [3]])), r"labels in 0..2, or -1 for padding; got .*3"),
    (changed(labels=np.array([[-2], [0]])), r"labels in 0..2.*-2"),
    (changed(labels=np.float32([[0.5], [0]])), "whole numbers as labels.*0.5"),
    (changed(boxes=NAN), "finite boxes.*nan"),
    (changed(boxes=INVERTED), "x1 < x2 and y1 < y2.*40"),
    (changed(boxes=BOXES / 64), "boxes in pixels, got none over 1"),
]


@pytest.mark.parametrize(("targets", "message"), WRONG_VALUES)
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_targets_that_nothing_can_learn(model, kind, targets, message):
    data = (IMAGES, targets)
    if kind == "dataset":
        data = (tf.data.Dataset.from_tensor_slices(data).batch(2),)
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_the_message_names_image_and_row(model):
    boxes = np.tile(BOXES, (1, 3, 1))
    labels = np.array([[0, -1, -1], [1, 7, -1]])
    with pytest.raises(ValueError, match=r"got label 7, box \[8.0.*\] in image 1, row 1$"):
        model.fit(IMAGES, {"boxes": boxes, "labels": labels}, verbose=0)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((BOXES, LABELS), "expected a dict.*got a tuple"),
        (None, "expected a dict.*got none"),
        ({"boxes": BOXES, "classes": LABELS}, "got boxes, classes; fcos_tf.data.from_keras_cv"),
        (changed(boxes=BOXES[:, 0]), r"got boxes \[2, 4\]"),
        (changed(labels=np.eye(3)[LABELS]), r"got labels \[2, 1, 3\]; one-hot"),
        (changed(labels=tf.ragged.constant([[0], [0]])), "labels padded.*ragged"),
        (changed(boxes=[[[8, 8, 40, 40]]] * 2), "boxes as an array, got a list; np.asarray"),
        (changed(labels=np.zeros((2, 2))), r"boxes \[2, 1, 4\] and labels \[2, 2\]"),
    ],
)
def test_targets_of_another_form(model, targets, message):
    with pytest.raises(ValueError, match=message):
        model.fit(IMAGES, targets, verbose=0)


def test_validation_data_is_checked_as_well(model):
    wrong = changed(labels=np.full((2, 1), 3))
    with pytest.raises(ValueError, match=r"labels in 0\.\.2"):
        model.fit(IMAGES, TARGETS, validation_data=(IMAGES, wrong), verbose=0)
    model.fit(IMAGES, TARGETS, validation_data=(IMAGES, TARGETS, None), verbose=0)
    for data in ([IMAGES, TARGETS], (IMAGES, TARGETS, np.ones(2))):
        message = f"validation_data: expected .* got a {type(data).__name__} of {len(data)}"
        with pytest.raises(ValueError, match=message):
            model.fit(IMAGES, TARGETS, validation_data=data, verbose=0)


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
def test_weights_of_examples_are_refused_by_name(model, name):
    with pytest.raises(ValueError, match=f"{name}: expected none, as the losses take no weights"):
        model.fit(IMAGES, TARGETS, verbose=0, **{name: {0: 1.0}})


def test_image_sizes_may_be_a_list(model):
    found = [model.detect(IMAGES, sizes) for sizes in ([[64, 48]] * 2, np.float32([[64, 48]] * 2))]
    np.testing.assert_array_equal(*(each["boxes"] for each in found))


def test_padding_is_no_fault(model):
    boxes, labels = np.zeros((2, 1, 4)), np.full((2, 1), -1)
    assert check_data(model, IMAGES, {"boxes": boxes, "labels": labels}, training=True) is IMAGES
    dataset = tf.data.Dataset.from_tensors((IMAGES, {"boxes": boxes, "labels": labels}))
    ((images, targets),) = check_data(model, dataset, training=True)
    np.testing.assert_array_equal(targets["labels"], labels)
    assert images.dtype == tf.uint8


@pytest.mark.parametrize("kind", ["arrays", "data set"])
def test_targets_of_any_numbers_are_taken(model, kind):
    targets = {"boxes": BOXES.astype(np.int64), "labels": LABELS.astype(np.uint8)}
    data = (IMAGES, targets)
    data = data if kind == "arrays" else (tf.data.Dataset.from_tensors(data),)
    expected = model.evaluate(IMAGES, TARGETS, verbose=0)
    np.testing.assert_allclose(model.evaluate(*data, verbose=0), expected, rtol=1e-6)


def test_prediction_does_not_look_at_targets(model):
    data = tf.data.Dataset.from_tensors((IMAGES, np.zeros(2)))  # as of image_dataset_from_directory
    assert len(model.predict(data, verbose=0)["scores"]) == 2
    with pytest.raises(ValueError, match="targets: expected a dict"):
        model.fit(((IMAGES, np.zeros(2)) for _ in range(1)), verbose=0)


def test_an_optimizer_that_cannot_be_saved_trains():
    class Warmup(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.0

    model = fcos_tf.FCOS(3, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    model.compile(keras.optimizers.SGD(Warmup()))
    model.fit(IMAGES, TARGETS, verbose=0)


def test_another_order_of_axes_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ValueError, match="image_data_format: expected channels_last"):
        fcos_tf.FCOS(3, backbone="simple_cnn")


def test_fit_on_a_data_set_warns_of_nothing(model):
    dataset = tf.data.Dataset.from_tensors((IMAGES, TARGETS))
    with warnings.catch_warnings(record=True) as caught:  # Keras' default is to shuffle
        warnings.simplefilter("always")
        model.fit(dataset, validation_data=dataset, verbose=0)
    assert not [warning for warning in caught if "shuffle" in str(warning.message)]


def test_batches_of_keras_are_shuffled_as_by_keras(model, monkeypatch):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return IMAGES, TARGETS

    seen = []
    monkeypatch.setattr(keras.Model, "fit", lambda self, *args, **options: seen.append(options))
    model.fit(Batches())
    model.fit(IMAGES, TARGETS)
    model.fit(tf.data.Dataset.from_tensors((IMAGES, TARGETS)))
    assert [options.get("shuffle", True) for options in seen] == [True, True, False]


@pytest.mark.parametrize("option", [{"loss": "mse"}, {"metrics": ["accuracy"]}])
def test_losses_and_metrics_of_compile_are_refused(option):
    model = fcos_tf.FCOS(3, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    model.compile("sgd", **option)
    with pytest.raises(ValueError, match=f"compile: expected no {next(iter(option))}"):
        model.fit(IMAGES, TARGETS, verbose=0)


def test_nothing_to_train():
    model = fcos_tf.FCOS(3, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    model.trainable = False
    model.compile("sgd")
    with pytest.raises(ValueError, match="trainable=False for all"):
        model.fit(IMAGES, TARGETS, verbose=0)


def test_data_of_other_classes(model):
    options = {"split": "val", "batch_size": 2, "image_size": (64, 64), "limit": 2}
    digits = fcos_tf.data.load("digits", **options)
    for run in (model.fit, model.evaluate, lambda data: fcos_tf.evaluation.evaluate(model, data)):
        with pytest.raises(ValueError, match="the model's 3 classes, got 10: "):
            run(digits)
    with pytest.raises(ValueError, match="the model's 3 classes, got 10: "):
        model.fit(IMAGES, TARGETS, callbacks=[DetectionMetrics(digits)], verbose=0)
    names = ("one", *digits.class_names[1:])
    other = fcos_tf.FCOS(
        class_names=names, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0
    )
    other.compile("sgd")
    with pytest.raises(ValueError, match=f"got {digits.class_names[0]!r} for label 0.*'one'"):
        other.fit(digits)


class Reader(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append("val_AP" in logs)


@pytest.mark.parametrize("first", [True, False])
def test_detection_metrics_works_at_any_place(first):
    options = {"batch_size": 2, "image_size": (64, 64), "limit": 2}
    val = fcos_tf.data.load("digits", split="val", **options)
    model = fcos_tf.FCOS(10, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=0)
    model.compile("sgd")
    reader = Reader()
    callbacks = [reader, DetectionMetrics(val)] if first else [DetectionMetrics(val), reader]
    model.fit(val, epochs=1, callbacks=callbacks, verbose=0)
    assert reader.seen == [True]


def test_nearly_black_images_are_named(model, caplog):
    with caplog.at_level("WARNING"):
        model.predict(np.full((1, 64, 64, 3), 0.5, np.float32), verbose=0)
    assert "floats up to 0.5" in caplog.text


def test_an_hdf5_file_is_called_one(model, tmp_path):
    file = tmp_path / "model.h5"
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=f"{file}: expected a .keras file, got an HDF5 file"):
        fcos_tf.load_model(file)


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("xyxy", [8, 16, 40, 32]),
        ("yxyx", [16, 8, 32, 40]),
        ("xywh", [8, 16, 32, 16]),
        ("center_xywh", [24, 24, 32, 16]),
        ("rel_xyxy", [0.125, 0.5, 0.625, 1.0]),
        ("rel_yxyx", [0.5, 0.125, 1.0, 0.625]),
        ("rel_xywh", [0.125, 0.5, 0.5, 0.5]),
    ],
)
def test_targets_of_keras_cv(form, box):
    # On an image of 64 wide and 32 high: (8, 16, 40, 32).
    given = {"boxes": [[box, [-1] * 4]], "classes": [[2, -1]]}
    targets = from_keras_cv(given, form, image_size=(32, 64))
    assert targets["boxes"].numpy().tolist() == [[[8, 16, 40, 32], [0] * 4]]
    assert targets["labels"].numpy().tolist() == [[2, -1]]


def test_ragged_targets_of_keras_cv():
    boxes = tf.ragged.constant([[[1.0, 2, 3, 4]], []], ragged_rank=1, inner_shape=(4,))
    targets = from_keras_cv({"boxes": boxes, "classes": tf.ragged.constant([[1], []])}, "xyxy")
    assert targets["boxes"].numpy().tolist() == [[[1, 2, 3, 4]], [[0] * 4]]
    assert targets["labels"].numpy().tolist() == [[1], [-1]]
    with pytest.raises(ValueError, match="image_size"):
        from_keras_cv({"boxes": boxes, "classes": [[1], []]}, "rel_xyxy")
    with pytest.raises(ValueError, match=r"expected one of xyxy.*got 'coco'"):
        from_keras_cv({"boxes": boxes, "classes": [[1], []]}, "coco")
