"""The first images of a data set with what is there and what is found, to be drawn."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np


class Samples(NamedTuple):
    """So many images, in the form that `save_gallery` takes.

    Attributes:
        images: Arrays [H, W, 3], 0-255.
        ground_truth: The targets of each.
        detections: What was found in each.
    """

    images: list[np.ndarray]
    ground_truth: list[dict[str, np.ndarray]]
    detections: list[dict[str, np.ndarray]]


def detect_samples(batches: Iterable, detect: Callable[[Any, Any], Any], count: int) -> Samples:
    """Detects on the first images of a data set.

    Whole batches go through `detect`, so that it need not be traced for another size of batch.

    Args:
        batches: `(images, targets)`, as `fcos_tf.data.load` gives them; rows with a negative
            image id fill up batches and are no images.
        detect: What `evaluation.compile_detect` returns.
        count: How many images; fewer come where there are fewer.
    """
    samples = Samples([], [], [])
    for batch, targets in batches:
        found = detect(batch, targets["image_sizes"])
        rows = np.flatnonzero(np.asarray(targets["image_ids"]) >= 0)
        for i in rows[: count - len(samples.images)]:
            samples.images.append(np.asarray(batch[i]))
            samples.ground_truth.append(_row(targets, i))
            samples.detections.append(_row(found, i))
        if len(samples.images) == count:
            break
    return samples


def _row(columns: Any, i: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(values[i]) for name, values in columns.items()}
