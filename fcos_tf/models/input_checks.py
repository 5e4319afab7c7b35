"""Checks of what `fit`, `evaluate` and `predict` are given, before the first step.

Arrays are checked at once. Of a `tf.data.Dataset` the form is checked at once, and the values of
each batch when it is read. Generators and other iterables are checked by the step alone.

Shape shorthand: B images, M padded boxes of each, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

TARGETS = "targets with boxes [B, M, 4], xyxy pixels, and labels [B, M], 0..C-1, padding -1"
_MARK = "targets: "  # begins every message about values, also those out of TensorFlow
PARTS_MARK = "accumulation_steps: "  # likewise, of the train step


class CheckedInputs:
    """Keras' entry points behind checks; mixed into `ImageModel`."""

    def fit(self, x=None, y=None, *args, callbacks=None, validation_data=None, **kwargs):
        """`keras.Model.fit`; see `check_data` for what is refused.

        Callbacks that evaluate, such as `DetectionMetrics`, run before those that use their
        numbers, wherever they are in the list.
        """
        if not self.trainable_weights:
            raise ValueError(
                f"{type(self).__name__}: expected weights to train, got trainable=False for all"
            )
        for name in ("class_weight", "sample_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(f"{name}: expected none, as the losses take no weights")
        x = check_data(self, x, y, training=True)
        if validation_data is not None:
            if isinstance(validation_data, list) or (
                isinstance(validation_data, tuple)
                and any(part is not None for part in validation_data[2:])
            ):
                raise ValueError(
                    "validation_data: expected a data set or a tuple (images, targets), got a "
                    f"{type(validation_data).__name__} of {len(validation_data)}"
                )
            parts = validation_data if isinstance(validation_data, tuple) else (validation_data,)
            first = check_data(self, *parts[:2], training=True)
            validation_data = (first, *parts[1:]) if isinstance(validation_data, tuple) else first
        options = {"validation_data": validation_data, "callbacks": _in_order(callbacks)}
        if hasattr(x, "element_spec"):
            options["shuffle"] = False  # Keras warns that it does not shuffle data sets
        options.update(kwargs)
        return _with_value_errors(super().fit, x, y, *args, **options)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate`; see `check_data` for what is refused."""
        x = check_data(self, x, y, training=True)
        return _with_value_errors(super().evaluate, x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict`; see `check_data` for what is refused."""
        return super().predict(check_data(self, x), *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """`keras.Model.train_on_batch`; see `check_data` for what is refused."""
        return super().train_on_batch(check_data(self, x, y, training=True), y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """`keras.Model.test_on_batch`; see `check_data` for what is refused."""
        return super().test_on_batch(check_data(self, x, y, training=True), y, *args, **kwargs)

    def predict_on_batch(self, x):
        """`keras.Model.predict_on_batch`; see `check_data` for what is refused."""
        return super().predict_on_batch(check_data(self, x))


def check_data(model: Any, x: Any, y: Any = None, *, training: bool = False) -> Any:
    """Refuses input of a wrong form, targets that no detector can learn, and other classes.

    Args:
        model: An `ImageModel`.
        x: Images, a dict with them, or a data set.
        y: Targets of arrays.
        training: Whether losses are computed.

    Returns:
        `x`; a `tf.data.Dataset` that also checks the values of its batches.

    Raises:
        ValueError: What was expected, and what came.
    """
    if training:
        _check_compiled(model)
    checks_boxes = training and model.learns_boxes
    if hasattr(x, "element_spec") and hasattr(x, "map"):  # a tf.data.Dataset
        check_class_names(model, getattr(x, "class_names", None))
        check_labels(model, x)
        spec = x.element_spec
        images, targets = spec[:2] if isinstance(spec, tuple) and len(spec) > 1 else (spec, None)
        check_images(images)
        if not checks_boxes:
            return x
        _check_target_form(targets)
        return x.map(lambda *batch: _assert_values(batch, model.num_classes))
    if x is None or not (isinstance(x, Mapping | Sequence) or hasattr(x, "shape")):
        return x
    check_images(x)
    if checks_boxes:
        _check_target_form(y)
        labels = np.asarray(y["labels"])
        labels = labels.astype(np.int64) if labels.dtype.kind == "u" else labels
        _check_values(np.asarray(y["boxes"]), labels, model.num_classes)
    return x


def check_images(inputs: Any) -> None:
    """Refuses what is no batch of RGB images; takes arrays, tensors or their specifications.

    Args:
        inputs: [B, H, W, 3] of numbers, or a dict that has them as `images`.

    Raises:
        ValueError: What was expected, and what came.
    """
    wanted = "images: expected an array [B, H, W, 3] of RGB pixels 0-255"
    if isinstance(inputs, Mapping):
        if "images" not in inputs:
            raise ValueError(f"{wanted} under the key 'images', got {', '.join(map(str, inputs))}")
        inputs = inputs["images"]
    if isinstance(inputs, str | bytes) or hasattr(inputs, "__fspath__"):
        raise ValueError(f"{wanted}, got a path or bytes; fcos_tf.detect(model, ...) reads files")
    if isinstance(inputs, Sequence):
        raise ValueError(
            f"{wanted}, got a {type(inputs).__name__} of {len(inputs)}; fcos_tf.detect(model, "
            "[...]) takes images of any sizes, np.stack makes one array of equal ones"
        )
    shape = _shape_of(inputs)
    if shape is None:
        return
    hint = ""
    if len(shape) == 3 and shape[-1] == 3:
        hint = "; one image without the batch axis? images[None] adds it"
    elif len(shape) == 4 and shape[-1] == 4:
        hint = "; with an alpha channel? images[..., :3] drops it"
    elif len(shape) == 4 and shape[1] == 3 and shape[-1] != 3:
        hint = "; channels first? np.moveaxis(images, 1, -1) moves them"
    if len(shape) != 4 or shape[-1] not in (3, None) or shape[0] == 0:
        raise ValueError(f"{wanted}, got the shape {list(shape)}{hint}")
    dtype = getattr(inputs, "dtype", "")
    kind = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    if not kind.startswith(("uint", "int", "float", "bfloat")):
        raise ValueError(f"{wanted}, got the dtype {kind}")
    if isinstance(inputs, np.ndarray) and kind.startswith("float") and 0 < inputs.max() <= 1:
        logging.warning("%s, got floats up to %g, nearly black", wanted, inputs.max())


def check_class_names(model: Any, class_names: Sequence[str] | None) -> None:
    """Refuses a data set of other classes than the model's, where both are known.

    Raises:
        ValueError: Both numbers, or the first class that differs.
    """
    if not class_names:
        return
    if len(class_names) != model.num_classes:
        few = ", ".join(map(str, class_names[:5])) + ", ..." * (len(class_names) > 5)
        raise ValueError(
            f"expected data of the model's {model.num_classes} classes, got {len(class_names)}: "
            f"{few}"
        )
    for label, (ours, theirs) in enumerate(zip(model.class_names or (), class_names, strict=False)):
        if ours != theirs:
            raise ValueError(
                f"expected data of the model's classes, got {theirs!r} for label {label}, which "
                f"is {ours!r} of the model; model.with_classes(...) makes one of these classes"
            )


def check_labels(model: Any, dataset: Any) -> None:
    """Refuses data of a class for each image, without boxes, for a detector or its class.

    Raises:
        ValueError: What was expected, and what came.
    """
    if getattr(dataset, "single_label", False) and hasattr(model, "detect"):
        name = getattr(model, "__name__", type(model).__name__)
        raise ValueError(
            f"expected data with boxes for the detector {name}, got folders of images by class; "
            "ImageClassifier (--model=classifier) learns these"
        )


def _check_compiled(model) -> None:
    """Losses and metrics given to `compile` would not be used."""
    # Not `get_compile_config`, which serialises the optimizer, and fails where that cannot be.
    config = getattr(getattr(model, "_compile_config", None), "config", {})
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if config.get(name):
            raise ValueError(
                f"compile: expected no {name}, since {type(model).__name__} has losses of its "
                "own; the callback DetectionMetrics computes AP"
            )


def _check_target_form(targets: Any) -> None:
    if not isinstance(targets, Mapping):
        what = "none" if targets is None else f"a {type(targets).__name__}"
        raise ValueError(f"{_MARK}expected a dict, {TARGETS}; got {what}")
    for name, rank in (("boxes", 3), ("labels", 2)):
        if name not in targets:
            hint = "; fcos_tf.data.from_keras_cv converts those of KerasCV"
            raise ValueError(
                f"{_MARK}expected {TARGETS}; got {', '.join(map(str, targets))}"
                f"{hint if 'classes' in targets else ''}"
            )
        value = targets[name]
        if "Ragged" in type(value).__name__:
            raise ValueError(f"{_MARK}expected {name} padded to one length, got a ragged tensor")
        shape = _shape_of(value)
        if shape is None:
            if not hasattr(value, "shape"):
                raise ValueError(
                    f"{_MARK}expected {name} as an array, got a {type(value).__name__}; np.asarray "
                    "makes one of equally long rows"
                )
            continue
        one_hot = "; one-hot? argmax(-1) gives the numbers" * (rank == 2 and len(shape) == 3)
        if len(shape) != rank or (rank == 3 and shape[-1] not in (4, None)):
            raise ValueError(f"{_MARK}expected {TARGETS}; got {name} {list(shape)}{one_hot}")


def _faults(boxes, labels, num_classes: int) -> dict[str, Any]:
    """Message -> bool [B, M], of NumPy arrays or tensors alike."""
    real = labels >= 0
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    finite = (abs(x1) < 1e9) & (abs(y1) < 1e9) & (abs(x2) < 1e9) & (abs(y2) < 1e9)
    last = f"0..{num_classes - 1}, or -1 for padding"
    return {
        f"{_MARK}expected labels in {last}": (labels < -1) | (labels >= num_classes),
        f"{_MARK}expected whole numbers as labels": labels != labels // 1,
        f"{_MARK}expected finite boxes": real & ~finite,
        f"{_MARK}expected boxes x1, y1, x2, y2 with x1 < x2 and y1 < y2": real
        & finite
        & ((x1 >= x2) | (y1 >= y2)),
    }


_FRACTIONS = f"{_MARK}expected boxes in pixels, got none over 1; fractions of the image?"


def _check_values(boxes: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if boxes.shape[:2] != labels.shape:
        raise ValueError(
            f"{_MARK}expected a label for each box, got boxes {list(boxes.shape)} and labels "
            f"{list(labels.shape)}"
        )
    for message, wrong in _faults(boxes, labels, num_classes).items():
        if wrong.any():
            image, row = np.argwhere(wrong)[0]
            what = f"label {labels[image, row]}, box {boxes[image, row].tolist()}"
            more = f", and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
            raise ValueError(f"{message}; got {what} in image {image}, row {row}{more}")
    real = labels >= 0
    if real.any() and boxes[real].max() <= 1:
        raise ValueError(_FRACTIONS)


def _assert_values(batch: tuple, num_classes: int):
    """The same checks in the graph of a data set."""
    import tensorflow as tf

    boxes, labels = batch[1]["boxes"], batch[1]["labels"]
    boxes = boxes if boxes.dtype.is_floating else tf.cast(boxes, tf.float64)
    labels = labels if labels.dtype.is_floating else tf.cast(labels, tf.int64)  # with signs
    checks = [
        tf.debugging.Assert(
            ~tf.reduce_any(wrong),
            [tf.strings.format(message + "; got label {}, box {}", (labels[wrong], boxes[wrong]))],
        )
        for message, wrong in _faults(boxes, labels, num_classes).items()
    ]
    real = labels >= 0
    fractions = tf.reduce_any(real) & tf.reduce_all(boxes[real] <= 1)
    checks.append(tf.debugging.Assert(~fractions, [_FRACTIONS]))
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, batch)


def _with_value_errors(run, *args, **kwargs):
    """Runs a method of Keras; what checks in its graphs find becomes a `ValueError`."""
    try:
        return run(*args, **kwargs)
    except Exception as error:
        text = str(error)
        marks = [mark for mark in (_MARK, PARTS_MARK) if mark in text]
        if type(error).__name__ != "InvalidArgumentError" or not marks:
            raise
        message = text[text.index(marks[0]) :].partition("\n")[0].partition("] [Condition")[0]
        raise ValueError(message.replace("'", "").rstrip().removesuffix("]")) from None


def _in_order(callbacks: Any) -> Any:
    """Callbacks that evaluate before all others but those that close the last step."""
    if not isinstance(callbacks, Sequence):
        return callbacks
    places = [i for i, each in enumerate(callbacks) if getattr(each, "evaluates", False)]
    if not places:
        return callbacks
    before, first, after = callbacks[: places[0]], callbacks[places[0]], callbacks[places[0] + 1 :]
    steps = [each for each in before if getattr(each, "precedes_evaluation", False)]
    return [*steps, first, *(each for each in before if each not in steps), *after]


def _shape_of(value: Any) -> tuple[int | None, ...] | None:
    """The shape of an array, tensor or specification; None if it is not known."""
    shape = getattr(value, "shape", None)
    try:
        return None if shape is None else tuple(shape)
    except ValueError:  # of a tensor of unknown rank
        return None
