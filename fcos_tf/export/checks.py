"""Compares an exported detector with its source model.

Each step from the image file to the detections is compared on equal inputs, so that suppression
does not magnify the rounding of an earlier step.

D detections, C classes.
"""

import contextlib
import io
from importlib import resources
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from fcos_tf.data.images import ImageError, read_bytes
from fcos_tf.data.prepare import prepare_batch, read_pixels
from fcos_tf.detecting.batches import detect_batch
from fcos_tf.detecting.exported import FILES_SIGNATURE, FRAMES_SIGNATURE
from fcos_tf.export import signatures
from fcos_tf.image_size import ImageSize
from fcos_tf.models.detector import Detector, category_ids_of

# Tolerances. Predictions: of probabilities, and of distances relative to 1 + distance.
GREY_LEVELS, BOXES, SCORES = 0.01, 0.01, 1e-5  # boxes in pixels
# Of .onnx, .xml and .tflite files: scores, and the share of detections that may differ, as
# suppression magnifies rounding.
_FILE_SCORES, FILE_SHARE = 1e-4, 0.05
PREDICTIONS = {"float64": 1e-4, "float32": 1e-4, "bfloat16": 0.3, "float16": 0.05}


def read_sample(sample: str | Path | bytes | None, most_pixels: int = 2**31) -> bytes:
    """The image file for the check of an export.

    Args:
        sample: a path or the bytes of a file; None: a photo of scikit-learn's, made smaller where
            it has more than `most_pixels`.
        most_pixels: of an image that the export takes.

    Raises:
        ValueError: an unreadable image, or one that is too large.
    """
    is_given = sample is not None
    if not is_given:
        sample = resources.files("sklearn.datasets").joinpath("images/china.jpg")
    try:
        data = sample if isinstance(sample, bytes) else read_bytes(str(sample))
        height, width = read_pixels(data, name="" if data is sample else str(sample)).shape[:2]
    except ImageError as error:
        raise ValueError(f"sample: {error}") from error
    if height * width <= most_pixels:
        return data
    if is_given:
        raise ValueError(
            f"sample: expected at most {most_pixels} pixels, the limit of a request; got "
            f"{height} x {width}"
        )
    # The long side; rounding of the short one must not pass the limit.
    side = max(1, int(0.95 * (most_pixels * max(height, width) / min(height, width)) ** 0.5))
    image, file = Image.open(io.BytesIO(data)), io.BytesIO()
    image.thumbnail((side, side))
    image.save(file, "JPEG")
    return file.getvalue()


def sample_batch(rule: ImageSize) -> dict[str, np.ndarray]:
    """The inputs of an .onnx, .xml or .tflite file for a photo and for detections of any score."""
    batch = prepare_batch([read_sample(None)], rule)
    return batch | {"score_threshold": np.zeros(1, np.float32)}


@contextlib.contextmanager
def whole_float32():
    """Turns off TensorFloat-32, whose rounding differs from graph to graph."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


@whole_float32()
def check_export(
    folder: Path, model: Detector, copy: Detector, rule: ImageSize, *, precision: str, sample: bytes
) -> None:
    """Runs a SavedModel on a sample and compares it with its source model.

    Args:
        folder: the SavedModel.
        model: the source model.
        copy: its `inference_copy`, with the thresholds of the export.
        rule: the size that images are resized to.
        precision: of the export.
        sample: an image file, see `read_sample`.

    Raises:
        ValueError: a difference; names the output and the amount.
    """
    pixels = read_pixels(sample, name="sample", apply_exif=model.apply_exif)
    expected = prepare_batch([pixels], rule)
    serve = tf.saved_model.load(str(folder)).signatures

    def call(name, **inputs):
        inputs = {key: tf.constant(value) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in serve[name](**inputs).items()}

    prepared = call(signatures.PREPARE_IMAGE, image_bytes=[sample])
    for name, values in prepared.items():
        compare(f"prepared {name}", values, expected[name], GREY_LEVELS)

    inputs = {name: prepared[name] for name in ("images", "image_sizes")}
    raw = check_raw(call(signatures.RAW_OUTPUTS, **inputs), model, prepared, precision)
    if hasattr(model, "classify"):
        served = call(FILES_SIGNATURE, image_bytes=[sample])["probabilities"]
        compare(
            "probabilities", served, np.asarray(model.probabilities(raw["class_logits"])), SCORES
        )
        return
    found = expected_detections(copy, raw, prepared)
    for name, inputs in (
        (FILES_SIGNATURE, {"image_bytes": [sample]}),
        (FRAMES_SIGNATURE, {"images": pixels[None]}),
    ):
        compare_detections(name, call(name, **inputs), found)


def _comparable(name, values):
    """Predictions on a scale where differences of small and of large values are comparable."""
    if name.endswith("_logits"):
        return np.asarray(tf.sigmoid(values))
    return np.sign(values) * np.log1p(np.abs(values))


def compare(name: str, values: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raises a ValueError if values of an exported model differ from those of its source model."""
    if values.shape != expected.shape:
        raise ValueError(_message(name, list(values.shape), f"{list(expected.shape)}, its shape"))
    difference = np.abs(values - expected)
    if not (difference <= tolerance).all():  # nor NaN
        raise ValueError(_message(name, f"a difference of {difference.max():.3g}", tolerance))


def expected_detections(copy: Detector, raw: dict, prepared: dict) -> dict[str, np.ndarray]:
    """What an export has to give for raw outputs of its inputs."""

    def decode(images, image_sizes):
        threshold = prepared.get("score_threshold")
        return copy.decode(raw, images.shape[1:3], image_sizes, score_threshold=threshold)

    inclusive = copy.inclusive_pixels
    found = detect_batch(decode, prepared["images"], prepared, inclusive_pixels=inclusive)
    found["num_detections"] = (found["labels"] >= 0).sum(axis=1)
    found["labels"] = np.array([-1, *category_ids_of(copy)])[found["labels"] + 1]
    return found


def check_raw(found: dict, model: Detector, batch: dict, precision: str = "float32") -> dict:
    """The raw outputs among those of an export for the images of `prepare_batch`.

    Raises:
        ValueError: they differ from those of the source model.
    """
    inputs = {name: batch[name] for name in ("images", "image_sizes")}
    own = model(inputs | {name: found[name] for name in model.chosen_outputs})
    if missing := own.keys() - found.keys():
        raise ValueError(_message("raw outputs", ", ".join(found), ", ".join(sorted(missing))))
    tolerance = max(PREDICTIONS[precision], PREDICTIONS[model.compute_dtype])
    for name in own:
        values, expected = (_comparable(name, np.asarray(each[name])) for each in (found, own))
        compare(name, values, expected, tolerance)
    return {name: found[name] for name in own}


def compare_detections(
    name: str, found: dict, expected: dict, scores: float = SCORES, share: float = 0
) -> None:
    """Raises a ValueError unless the detections of one image match, equal scores in any order.

    `scores` is the tolerance of scores; `share` the part of all that may lack a match.
    """
    count, expected_count = (int(each["num_detections"][0]) for each in (found, expected))
    if count != expected_count and not share:
        raise ValueError(_message(name, f"{count} detections", expected_count))
    columns = {
        key: (found[key][0, :count, None], expected[key][0, None, :expected_count])
        for key in ("boxes", "scores", "labels")
    }
    differences = {key: np.abs(one - other) for key, (one, other) in columns.items()}
    alike = (
        (differences["boxes"].max(axis=-1) <= BOXES)
        & (differences["scores"] <= scores)
        & (differences["labels"] == 0)
    )  # [D, D]
    odd = max((~alike.any(axis=axis)).sum() for axis in (0, 1))
    if odd > share * expected_count:
        raise ValueError(_message(name, f"{odd} of {count} detections without a match", "none"))


def compare_file(name: str, found: dict, expected: dict, share: float = FILE_SHARE) -> None:
    """`compare_detections` with the tolerances of .onnx, .xml and .tflite files."""
    compare_detections(name, found, expected, _FILE_SCORES, share)


def _message(name, got, expected):
    return (
        f"exported model disagrees with the source model: {name}: expected {expected}, got {got}; "
        "nothing was written"
    )
