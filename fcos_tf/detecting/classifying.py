"""`classify`: a classifier and images -> the probability of each class in each image."""

from typing import Any

import numpy as np

from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.batches import compile_classify
from fcos_tf.detecting.models import list_images, read_picture
from fcos_tf.models.weights import load_model


def classify(
    model: Any,
    images: Any,
    *,
    image_size: str | None = None,
    batch_size: int = 1,
    apply_exif: bool | None = None,
) -> list[dict[str, float]]:
    """Class probabilities of images; several classes may be in one.

    Args:
        model: an `ImageClassifier`, or the `.keras` file of one.
        images: see `fcos_tf.detect`.
        image_size: size of the resized images, such as "224x224"; None: the model's own.
        batch_size: images at a time.
        apply_exif: whether images are turned upright by their EXIF orientation; None: as the model
            was trained.

    Returns:
        For each image its classes by name (by number of a model without names) with their
        probabilities, the most probable first.

    Raises:
        ImageError: an image cannot be read; names it.
        ValueError: not a classifier, or no image size is known.

    Example:
        >>> model = fcos_tf.ImageClassifier(2, backbone="simple_cnn", image_size="64x64")
        >>> (found,) = fcos_tf.detecting.classify(model, np.zeros([48, 64, 3], np.uint8))
        >>> sorted(found)
        ['0', '1']
    """
    if not hasattr(model, "predict"):
        model = load_model(model)
    if not hasattr(model, "classify"):
        raise ValueError(f"model: expected a classifier, got a {type(model).__name__}")
    size = image_size or model.image_size
    if size is None:
        raise ValueError("image_size: expected one, as the model has none of its own; got none")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    upright = model.apply_exif if apply_exif is None else apply_exif
    names = model.class_names or tuple(map(str, range(model.num_classes)))
    sources, results = list_images(images), []
    # Kept with the model: traced once. `vars` avoids the tracking of attributes by Keras.
    run = vars(model).setdefault("_opened_for_classifying", compile_classify(model))
    for start in range(0, len(sources), batch_size):
        part = enumerate(sources[start : start + batch_size], start)
        pixels = [read_picture(source, i, apply_exif=upright).pixels for i, source in part]
        batch = prepare_batch(pixels, size)
        for row in np.asarray(run(batch["images"], batch["image_sizes"])["probabilities"]):
            order = np.argsort(-row, kind="stable")
            results.append({names[label]: float(row[label]) for label in order})
    return results
