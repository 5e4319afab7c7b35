"""The signatures of an exported model: graphs of stock TensorFlow ops around its network.

    serving_default        image_bytes -> detections in pixels of each original image
    serving_with_options   the same with a score threshold and a detection limit for each image
    detect_images          uint8 images of one size -> the same
    prepare_image          image_bytes -> images, image_sizes, original_sizes
    raw_outputs            images, image_sizes -> the model's `raw_outputs`

Of a classifier: serving_default, from image_bytes to probabilities, and the last two.

The first axis of every input and output is the batch, for TensorFlow Serving's batching.

B images, D detections. h, w: the size of an image on disk. H, W: of a canvas.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fcos_tf.detecting.exported import FILES_SIGNATURE, FRAMES_SIGNATURE, OPTIONS_SIGNATURE
from fcos_tf.export import decoding, orientation, resizing
from fcos_tf.image_size import ImageSize
from fcos_tf.models.detector import Detector, category_ids_of
from fcos_tf.models.image_model import spatial_size

PREPARE_IMAGE = "prepare_image"
RAW_OUTPUTS = "raw_outputs"

_IMAGE_BYTES = tf.TensorSpec([None], tf.string, name="image_bytes")

# Meanings of inputs and outputs in the description.
MEANINGS = {
    "image_bytes": f"[B], contents of image files: {decoding.FORMATS}",
    "score_threshold": "[B], replaces the model's",
    "max_detections": "[B], detection limit of each image, up to the model's",
    "boxes": "[B, D, 4], (x1, y1, x2, y2) in pixels of the original image; padding 0",
    "scores": "[B, D], descending; padding 0",
    "labels": "[B, D], category ids; padding -1",
    "num_detections": "[B]",
    "probabilities": "[B, C], of the classes in the order of class_names",
    "original_sizes": "[B, 2], (height, width) of the original images",
    "image_sizes": "[B, 2], (height, width) of the resized images",
}
_PREPARED = "[B, H, W, 3], RGB 0-255, resized, padded with zeros"
_IMAGES = {FRAMES_SIGNATURE: "[B, h, w, 3], RGB", PREPARE_IMAGE: _PREPARED, RAW_OUTPUTS: _PREPARED}


def make_signatures(
    model: Detector, rule: ImageSize, limits: decoding.Limits = decoding.LIMITS
) -> dict[str, Any]:
    """Traces the signatures of a model: name -> concrete function with a dict of outputs.

    Args:
        model: a detector with the thresholds of the export, or a classifier.
        rule: the size that images are resized to, without randomness.
        limits: of a request; what is beyond them is refused before any decoding.
    """
    graph = _Graph(model, rule, limits)
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    options = [
        tf.TensorSpec([None], tf.float32, name="score_threshold"),
        tf.TensorSpec([None], tf.int32, name="max_detections"),
    ]
    inputs = {
        FILES_SIGNATURE: (graph.detect_files, [_IMAGE_BYTES]),
        OPTIONS_SIGNATURE: (graph.detect_files, [_IMAGE_BYTES, *options]),
        FRAMES_SIGNATURE: (graph.detect_images, [images]),
    }
    if hasattr(model, "classify"):
        inputs = {FILES_SIGNATURE: (graph.classify_files, [_IMAGE_BYTES])}
    inputs |= {
        PREPARE_IMAGE: (graph.prepare, [_IMAGE_BYTES]),
        RAW_OUTPUTS: (graph.predict, list(graph.predict.input_signature)),
    }
    return {name: _trace(function, specs) for name, (function, specs) in inputs.items()}


def describe(signatures: dict[str, Any], raw_outputs: Mapping[str, str]) -> dict:
    """Dtypes and meanings of the inputs and outputs of traced signatures, ready for JSON.

    Args:
        signatures: see `make_signatures`.
        raw_outputs: `Detector.raw_outputs` of the model.
    """

    def tell(name, tensors):
        meanings = {**MEANINGS, **raw_outputs, "images": _IMAGES.get(name)}
        return {
            key: {"dtype": tensor.dtype.name, "meaning": meanings[key]}
            for key, tensor in tensors.items()
        }

    return {
        name: {
            "inputs": tell(name, function.structured_input_signature[1]),
            "outputs": tell(name, function.structured_outputs),
        }
        for name, function in signatures.items()
    }


def _trace(function: Callable, specs: list[tf.TensorSpec]):
    def with_keywords(**inputs):
        return function(*(inputs[spec.name] for spec in specs))

    # No Python control flow on tensors, so nothing for autograph.
    traced = tf.function(with_keywords, autograph=False)
    return traced.get_concrete_function(**{spec.name: spec for spec in specs})


class _Graph:
    """The parts of the signatures, which share preparation and network."""

    def __init__(self, model: Detector, rule: ImageSize, limits: decoding.Limits):
        self._model = model
        self._rule = rule
        self._limits = limits
        self._image = tf.TensorSpec([*(rule.canvas or (None, None)), 3], tf.float32)
        self.prepare = tf.function(self._prepare, input_signature=[_IMAGE_BYTES], autograph=False)
        self.predict = tf.function(
            self._predict,
            input_signature=[
                tf.TensorSpec([None, *self._image.shape], tf.float32, name="images"),
                tf.TensorSpec([None, 2], tf.float32, name="image_sizes"),
            ],
            autograph=False,
        )

    def detect_files(self, image_bytes, score_threshold=None, max_detections=None):
        """Contents of files [B] and the options, float32 and int32 [B] or None, to detections."""
        count = tf.shape(image_bytes)[0]
        options = {"score_threshold": score_threshold, "max_detections": max_detections}
        for name, values in options.items():
            if values is not None:
                message = f"{name}: expected one value for each image"
                is_right = tf.shape(values)[0] == count
                image_bytes = decoding.checked(image_bytes, is_right, message)
        prepared = self.prepare(image_bytes)
        found = self._detect(**prepared, score_threshold=score_threshold)
        return found if max_detections is None else _first(found, max_detections)

    def classify_files(self, image_bytes):
        """Contents of files [B] to class probabilities."""
        prepared = self.prepare(image_bytes)
        raw = self.predict(prepared["images"], prepared["image_sizes"])
        return {"probabilities": self._model.probabilities(raw["class_logits"])}

    def detect_images(self, images):
        """uint8 [B, h, w, 3] to detections."""
        shape = tf.shape(decoding.check_count(images, self._limits, "images"))
        sizes = tf.repeat(shape[None, 1:3], shape[0], axis=0)
        original_size = decoding.check_pixels(sizes, self._limits, "images")[:1]  # [1, 2]
        size = resizing.resized_sizes(original_size, self._rule)
        canvas = resizing.canvas_of(size, self._rule)
        return self._detect(
            resizing.resize_and_pad(images, size[0], canvas),
            tf.repeat(tf.cast(size, tf.float32), shape[0], axis=0),  # [B, 2]
            tf.repeat(tf.cast(original_size, tf.float32), shape[0], axis=0),
        )

    def _prepare(self, image_bytes):
        """Contents of files [B] to images, image_sizes and original_sizes."""
        stored_sizes = original_sizes = decoding.read_sizes(image_bytes, self._limits)
        orientations = tf.ones_like(stored_sizes[:, 0])
        if self._model.apply_exif:
            orientations = orientation.read_orientations(image_bytes)
            original_sizes = orientation.turned(stored_sizes, orientations)
        image_sizes = resizing.resized_sizes(original_sizes, self._rule)
        canvas = resizing.canvas_of(image_sizes, self._rule)

        def finish(element):
            data, stored_size, orientation_of, size = element
            pixels = decoding.decode_image(data, stored_size)
            if self._model.apply_exif:
                pixels = orientation.turn_upright(pixels, orientation_of)
            return resizing.resize_and_pad(pixels, size, canvas)

        elements = (image_bytes, stored_sizes, orientations, image_sizes)
        images = tf.map_fn(finish, elements, fn_output_signature=self._image)
        return {
            "images": images,
            "image_sizes": tf.cast(image_sizes, tf.float32),
            "original_sizes": tf.cast(original_sizes, tf.float32),
        }

    def _predict(self, images, image_sizes):
        """The raw outputs of images on a canvas no larger than the size rule makes any."""
        images = decoding.check_count(images, self._limits, "images")
        most = resizing.largest_canvas(self._rule)
        is_right = tf.reduce_prod(tf.shape(images, tf.int64)[1:3]) <= most
        images = decoding.checked(images, is_right, f"images: expected at most {most} pixels each")
        return self._model({"images": images, "image_sizes": image_sizes})

    def _detect(self, images, image_sizes, original_sizes, score_threshold=None):
        model, predictions = self._model, self.predict(images, image_sizes)
        size = self._rule.canvas or spatial_size(images)
        found = model.decode(predictions, size, image_sizes, score_threshold=score_threshold)
        return in_originals(model, found, image_sizes, original_sizes)


def input_shapes(batch: Any, height: Any, width: Any) -> dict[str, list]:
    """Shapes of the inputs of an .onnx, .xml or .tflite file, see `export.openvino`."""
    return {
        "images": [batch, height, width, 3],
        "image_sizes": [batch, 2],
        "original_sizes": [batch, 2],
        "score_threshold": [batch],
    }


def trace_detector(
    model: Detector, canvas: tuple[int, int] | None, batch: int | None = None, dtype=tf.float64
):
    """Traces the graph of an .onnx or .tflite file: inputs and outputs are those of an .xml file.

    Args:
        model: a detector with the thresholds of the export.
        canvas: (H, W); None: free.
        batch: B; None: free.
        dtype: see `in_originals`.

    Returns:
        A concrete function of what `export.openvino` lists, which also gives the raw outputs.
    """
    shapes = input_shapes(batch, *(canvas or (None, None)))
    specs = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}

    @tf.function(autograph=False)
    def detect(images, image_sizes, original_sizes, score_threshold):
        inputs = {"images": images, "image_sizes": image_sizes}
        raw = model.predict_raw(inputs, jit_compile=True)  # operations that the runtimes have
        size = canvas or spatial_size(images)
        found = model.decode(
            raw, size, image_sizes, score_threshold=score_threshold, jit_compile=True
        )
        return raw | in_originals(model, found, image_sizes, original_sizes, dtype)

    return detect.get_concrete_function(**specs)


def is_suppression(operation) -> bool:
    """Whether an operation in a graph of `trace_detector` calls the suppression of `ops.nms`."""
    is_call = operation.type in ("PartitionedCall", "StatefulPartitionedCall")
    return is_call and "portable_nms" in operation.get_attr("f").name


def in_originals(
    model: Detector, found: dict, image_sizes, original_sizes, dtype=tf.float64
) -> dict:
    """Detections [B, D] as exports give them, from those of `model.decode`.

    Labels become category ids, and boxes lie in pixels of the originals, as by
    `detecting.batches.boxes_to_original`, computed in `dtype`. The sizes are [B, 2].
    """
    original = tf.cast(original_sizes, dtype)
    scale = tf.tile((original / tf.cast(image_sizes, dtype))[:, ::-1], [1, 2])
    limit = tf.tile(original[:, ::-1], [1, 2])  # [B, 4]
    last_pixel = [0, 0, 1, 1] if model.inclusive_pixels else [0, 0, 0, 0]
    boxes = tf.cast(found["boxes"], dtype) * scale[:, None] + last_pixel
    boxes = tf.cast(tf.clip_by_value(boxes, 0, limit[:, None]), tf.float32)
    ids = tf.constant([-1, *category_ids_of(model)], tf.int32)
    return {
        **found,
        "boxes": tf.where(found["labels"][..., None] < 0, 0.0, boxes),
        "labels": tf.gather(ids, found["labels"] + 1),
    }


def _first(found, counts):
    """The first `counts` [B] detections of each image; the others become padding."""
    kept = tf.range(tf.shape(found["scores"])[1])[None] < counts[:, None]  # [B, D]
    return {
        "boxes": tf.where(kept[..., None], found["boxes"], 0.0),
        "scores": tf.where(kept, found["scores"], 0.0),
        "labels": tf.where(kept, found["labels"], -1),
        "num_detections": tf.minimum(found["num_detections"], tf.maximum(counts, 0)),
    }
