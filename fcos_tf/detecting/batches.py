"""A detector as one compiled function of batches, and its boxes back in the original images.

    model -> compile_detect -> function (images, image_sizes) -> boxes in pixels of `images`
          -> detect_batch -> boxes in pixels of the original images

All detection uses it: `fcos_tf.detect`, the tool, evaluation, the check of an export, the pictures
of a run.

Shape shorthand: B images of a canvas H x W, D detections of each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# (images [B, H, W, 3], image_sizes [B, 2]) -> detections. `compile_detect` adds an optional third
# argument, a scalar tensor in place of the model's score threshold.
DetectFunction = Callable[..., Mapping[str, Any]]
COLUMNS = ("boxes", "scores", "labels")


def compile_detect(model: Any, class_names: Sequence[str] | None = None) -> DetectFunction:
    """Returns `model.detect` as one compiled function of `(images, image_sizes)`.

    TensorFlow traces it at most once per canvas. The trace fixes thresholds and other plain
    attributes of the model, but not its weights. Under a strategy with several replicas on this
    host each detects on its part of the batch.

    Args:
        model: a detector.
        class_names: the classes of a data set. The model's labels are mapped to them by name;
            classes that the data set lacks become padding, label -1.

    Raises:
        ValueError: the data set has a class that the model does not know.
    """
    names, count = (getattr(model, name, None) for name in ("class_names", "num_classes"))
    table = label_table(names, class_names, count)
    options = {"jit_compile": True} if _on_tpu(model) else {}

    def detect(images, image_sizes, score_threshold=None):
        from keras import ops

        threshold = {} if score_threshold is None else {"score_threshold": score_threshold}
        found = model.detect(images, image_sizes, **options, **threshold)
        if table is None:
            return found
        return {**found, "labels": ops.take(ops.convert_to_tensor(table), found["labels"] + 1)}

    return _on_devices(detect, model)


def compile_classify(model: Any, features: bool = False) -> DetectFunction:
    """Returns `model.classify` as one compiled function, as `compile_detect` does.

    Args:
        model: an `ImageClassifier`.
        features: to give `features` [B, F] as well.

    Returns:
        A function of `(images, image_sizes)` to a dict with `probabilities` [B, C].
    """
    options = {"jit_compile": True} if _on_tpu(model) else {}

    def classify(images, image_sizes):
        if not features:
            return {"probabilities": model.classify(images, image_sizes, **options)}
        found = model.image_features({"images": images, "image_sizes": image_sizes})
        return {"features": found, "probabilities": model.probabilities(model.class_logits(found))}

    return _on_devices(classify, model)


def _on_tpu(model: Any) -> bool:
    """Whether only XLA-compiled functions run."""
    return type(getattr(model, "distribute_strategy", None)).__name__.startswith("TPU")


def _on_devices(function: DetectFunction, model: Any) -> DetectFunction:
    """The compiled function, on the devices of the model's strategy on this host."""
    strategy = getattr(model, "distribute_strategy", None)
    several = strategy is not None and strategy.num_replicas_in_sync > 1
    if not _on_tpu(model) and not (several and len(strategy.extended.worker_devices) > 1):
        return compiled(function)
    return _detect_on_replicas(function, strategy)


def _detect_on_replicas(detect: DetectFunction, strategy: Any) -> DetectFunction:
    """Divides each batch between the replicas of this host. TensorFlow only."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def on_replicas(*inputs):
        return strategy.run(detect, args=inputs)

    def detect_all(images, image_sizes, *options):
        num_images, replicas = len(image_sizes), len(strategy.extended.worker_devices)
        # Padded to a multiple of the replicas with copies of the last image.
        rows = np.minimum(np.arange(-(-num_images // replicas) * replicas), num_images - 1)
        with tf.device("CPU:0"):  # else all parts would be copied to the first replica's device
            parts = [
                (tf.gather(images, part), tf.gather(image_sizes, part))
                for part in np.split(rows, replicas)
            ]
        following = iter(parts)  # the function is called once for each replica
        inputs = strategy.experimental_distribute_values_from_function(lambda _: next(following))
        return {
            name: np.concatenate(strategy.experimental_local_results(value))[:num_images]
            for name, value in on_replicas(*inputs, *options).items()
        }

    return detect_all


def detect_batch(
    detect: DetectFunction,
    images: Any,
    sizes: Mapping[str, Any],
    *,
    inclusive_pixels: bool = False,
    full_batch: int = 0,
) -> dict[str, np.ndarray]:
    """Detects on a batch of resized images, and scales the boxes to the original ones.

    Args:
        detect: result of `compile_detect`.
        images: [B, H, W, 3] RGB 0-255, resized and padded.
        sizes: `image_sizes` [B, 2], (height, width) after resizing and before padding, and
            `original_sizes` [B, 2], those on disk: the targets of a batch, or the result of
            `prepare_batch`. Without `original_sizes` the boxes stay in pixels of `images`.
        inclusive_pixels: whether x2 and y2 are the last pixel inside, see `Detector`.
        full_batch: a smaller batch is padded to this size, to avoid another trace.

    Returns:
        `boxes` float64 [B, D, 4] xyxy, inside the original images; `scores` [B, D]; `labels`
        [B, D], padding -1.

    Example:
        batch = prepare_batch(["a.jpg", "b.jpg"], model.image_size)
        found = detect_batch(compile_detect(model), batch["images"], batch)
    """
    image_sizes = np.asarray(sizes["image_sizes"])
    rows = np.arange(len(image_sizes))
    if len(rows) < full_batch:
        # Copies of the last image: an input of zeros could be an edge case of the model.
        rows = np.minimum(np.arange(full_batch), len(rows) - 1)
        images = np.asarray(images)[rows]
    detections = detect(images, image_sizes[rows].astype(np.float32))
    found = {name: np.asarray(detections[name])[: len(image_sizes)] for name in COLUMNS}
    if "original_sizes" in sizes:
        found["boxes"] = boxes_to_original(
            found["boxes"],
            image_sizes,
            np.asarray(sizes["original_sizes"]),
            inclusive_pixels=inclusive_pixels,
        )
    return found


def complete_targets(
    targets: Mapping[str, Any], rows_before: int, images: Any
) -> dict[str, np.ndarray]:
    """Targets of a batch as arrays, with what a user's own may lack.

    Args:
        targets: of B images.
        rows_before: images in the batches before.
        images: [B, H, W, 3].

    Returns:
        The same. If missing, `image_ids` count from 1, `image_sizes` are those of the canvas, and
        `original_sizes` are `image_sizes`.
    """
    targets = {key: np.asarray(value) for key, value in targets.items()}
    ids = np.arange(len(images)) + rows_before + 1
    targets.setdefault("image_sizes", np.tile(np.int32(images.shape[1:3]), (len(ids), 1)))
    return {"image_ids": ids, "original_sizes": targets["image_sizes"], **targets}


def boxes_to_original(
    boxes: np.ndarray,
    image_sizes: np.ndarray,
    original_sizes: np.ndarray,
    *,
    inclusive_pixels: bool = False,
) -> np.ndarray:
    """Boxes [B, D, 4] of resized images -> float64 [B, D, 4], inside the original images.

    The arguments are those of `detect_batch`.
    """
    last_pixel = [0, 0, 1, 1] if inclusive_pixels else [0, 0, 0, 0]
    limit = np.tile(original_sizes[:, ::-1].astype(np.float64), 2)[:, None]  # [B, 1, 4]
    return np.clip(boxes * original_scale(image_sizes, original_sizes) + last_pixel, 0.0, limit)


def original_scale(image_sizes: np.ndarray, original_sizes: np.ndarray) -> np.ndarray:
    """The factors from resized to original boxes, float64 [B, 1, 4].

    Sizes are whole pixels, so the axes differ slightly.
    """
    scale = original_sizes.astype(np.float64) / image_sizes.astype(np.float64)
    return np.tile(scale[:, ::-1], 2)[:, None]


class Samples(NamedTuple):
    """Images [H, W, 3] for `visualization.save_gallery`; targets and detections in their pixels."""

    images: list[np.ndarray]
    ground_truth: list[dict[str, np.ndarray]]
    detections: list[dict[str, np.ndarray]]


def detect_samples(batches: Iterable, detect: DetectFunction, count: int) -> Samples:
    """Detects on the first images of a data set, to be drawn beside the ground truth.

    Args:
        batches: `(images, targets)`, as `fcos_tf.data.load` gives them; rows with a negative
            image id are padding.
        detect: result of `compile_detect`; gets whole batches, to avoid another trace.
        count: number of images; fewer if the data set has fewer.
    """
    samples = Samples([], [], [])
    for batch, targets in batches:
        found = detect_batch(detect, batch, {"image_sizes": targets["image_sizes"]})
        rows = np.flatnonzero(np.asarray(targets["image_ids"]) >= 0)
        for i in rows[: count - len(samples.images)]:
            samples.images.append(np.asarray(batch[i]))
            for columns, each in ((targets, samples.ground_truth), (found, samples.detections)):
                each.append({name: np.asarray(values[i]) for name, values in columns.items()})
        if len(samples.images) == count:
            break
    return samples


def compiled(function: Callable) -> Callable:
    """Returns the function as a TensorFlow graph; on other backends as a function of arrays."""
    # Imported here so that scoring result files does not import TensorFlow.
    import keras

    if keras.config.backend() != "tensorflow":
        return lambda *inputs: function(*(np.asarray(each) for each in inputs))
    import tensorflow as tf

    # No Python control flow on tensors to convert; tracing is faster without autograph.
    return tf.function(function, reduce_retracing=True, autograph=False)


def label_table(
    model_names: Sequence[str] | None, class_names: Sequence[str] | None, count: int | None
) -> np.ndarray | None:
    """The data set's label for each of the model's from -1 on, int32 [C + 1]; None: the same.

    `count` is that of the model's classes.
    """
    if class_names and not model_names and count not in (None, len(class_names)):
        raise ValueError(
            f"expected data of the model's {count} classes, got {len(class_names)}: "
            f"{', '.join(class_names[:5])}"
        )
    if not model_names or not class_names or tuple(model_names) == tuple(class_names):
        return None
    unknown = [name for name in class_names if name not in model_names]
    if unknown:
        raise ValueError(
            f"expected a model with the data set's classes; it does not know {', '.join(unknown)}"
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    return np.array([-1, *(label_of.get(name, -1) for name in model_names)], np.int32)
