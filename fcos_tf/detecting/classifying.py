"""`classify`: a classifier and images -> the probability of each class in each image."""

from typing import Any

import numpy as np

from fcos_tf.detecting.models import open_model


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
        model: a classifier, as an argument of `fcos_tf.detecting.open_model` or its result.
        images: see `fcos_tf.detect`.
        image_size: size of the resized images, such as "224x224"; None: the model's own. Fixed
            in an exported model.
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
    opened = open_model(model, image_size=image_size)
    if not opened.classifies:
        raise ValueError("model: expected a classifier, got a detector; use fcos_tf.detect")
    results = []
    for pictures in opened.read(images, batch_size, apply_exif):
        probabilities = np.asarray(opened.find(pictures, None)["probabilities"])
        names = opened.class_names or tuple(map(str, range(probabilities.shape[1])))
        for row in probabilities:
            order = np.argsort(-row, kind="stable")
            results.append({names[label]: float(row[label]) for label in order})
    return results
