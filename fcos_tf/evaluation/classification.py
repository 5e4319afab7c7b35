"""Average precision of image classification, by the protocol of PASCAL VOC.

The images of a class are ranked by its probability. Those where the class is left out, as all its
objects there are difficult, do not count. AP of the ranking by 11 points (VOC to 2009) and by all
points (from 2010), see `evaluation.voc`.

N images, C classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fcos_tf.evaluation.records import Scores
from fcos_tf.evaluation.voc import AVERAGE_PRECISION

POINTS = {"all": "voc12", "11": "voc07"}  # in the names of metrics


class ClassifiedImages(NamedTuple):
    """The result of `run_classifier`.

    Attributes:
        image_ids: int64 [N].
        probabilities: float32 [N, C].
        labels: int8 [N, C], VOC's: 1 in the image, -1 not, 0 left out.
        class_names: of the C classes.
        single: whether the model gives each image one class.
        features: float32 [N, F], if asked for.
    """

    image_ids: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    single: bool = False
    features: np.ndarray | None = None

    def scores(self) -> Scores:
        """The result of `classification_evaluation`."""
        return classification_evaluation(*self[1:5])


def classification_evaluation(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str], single: bool = False
) -> Scores:
    """Scores class probabilities of images.

    Args:
        probabilities: [N, C], or any scores that rank the images of a class; equal ones count in
            the order of the images.
        labels: [N, C], 1 in the image, -1 not, 0 left out.
        class_names: C names.
        single: whether to give `accuracy` too, for images of one class.

    Returns:
        `accuracy`, the share of the images whose most probable class is right; `mAP_all` and
        `mAP_11`, means over the classes that are in an image; and for every class `AP_all`,
        `AP_11` and `num_ground_truths`, the number of images with it. -1: no image.

    Raises:
        ValueError: arrays of other shapes, or probabilities that are not finite.

    Example:
        >>> scores = np.float32([[6, 5, 4, 3, 2, 1]]).T
        >>> labels = np.array([[1, -1, 1, 1, -1, 1]]).T
        >>> classification_evaluation(scores, labels, ["cat"]).metrics["mAP_all"]
        0.7916666666666666
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.shape != labels.shape or labels.shape[1:] != (len(class_names),):
        raise ValueError(
            f"expected probabilities and labels [N, {len(class_names)}], got "
            f"{list(probabilities.shape)} and {list(labels.shape)}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities: expected finite numbers, got others")
    per_class = {}
    measures = {key: AVERAGE_PRECISION[points] for key, points in POINTS.items()}
    for name, scores, marks in zip(class_names, probabilities.T, labels.T, strict=True):
        order = np.argsort(-scores[marks != 0], kind="stable")
        right = (marks[marks != 0] > 0)[order]
        count = int(right.sum())
        aps = {f"AP_{key}": ap(right, count) if count else -1.0 for key, ap in measures.items()}
        per_class[name] = {**aps, "num_ground_truths": count}
    measured = [row for row in per_class.values() if row["num_ground_truths"]]
    metrics = {
        f"mAP_{key}": float(np.mean([row[f"AP_{key}"] for row in measured])) if measured else -1.0
        for key in POINTS
    }
    if single:
        marks = labels[(labels > 0).any(axis=1)]
        best = probabilities[(labels > 0).any(axis=1)].argmax(axis=1)
        right = marks[np.arange(len(marks)), best] > 0
        metrics = {"accuracy": float(right.mean()) if len(right) else -1.0, **metrics}
    return Scores(metrics, per_class)


def run_classifier(
    model: Any,
    dataset: Iterable,
    *,
    classify: Callable[..., Mapping[str, Any]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ClassifiedImages:
    """Runs a classifier over a data set, batch by batch; leaves out rows without an image.

    Args:
        model: an `ImageClassifier`.
        dataset: finite batches of `(images, targets)`, as `fcos_tf.data.load` gives them.
        classify: result of `detecting.compile_classify(model)`, to trace a model only once, or to
            get its features as well.
        progress: called after every batch with the number of images done.

    Raises:
        ValueError: an endless or empty data set, or other classes than the model's.
    """
    from fcos_tf.detecting.batches import compile_classify, complete_targets
    from fcos_tf.evaluation.evaluate import refuse_endless
    from fcos_tf.models.classifier import image_labels
    from fcos_tf.models.input_checks import check_class_names

    refuse_endless(dataset)
    names = getattr(dataset, "class_names", None) or model.class_names
    check_class_names(model, names)
    classify = classify or compile_classify(model)
    parts, done, seen = [], 0, 0
    for images, targets in dataset:
        complete = complete_targets(targets, seen, images)
        image_ids = complete["image_ids"]
        rows = image_ids >= 0
        seen += len(rows)
        found = classify(images, complete["image_sizes"])
        found = [np.asarray(found[key]) for key in ("probabilities", "features") if key in found]
        positive, known = (np.asarray(x) for x in image_labels(targets, model.num_classes))
        labels = np.where(known, np.where(positive, 1, -1), 0).astype(np.int8)
        parts.append([column[rows] for column in (image_ids, labels, *found)])
        done += int(rows.sum())
        if progress is not None:
            progress(done)
    if not done:
        raise ValueError("the data set has no image to evaluate on")
    names = names or tuple(map(str, range(model.num_classes)))
    image_ids, labels, probabilities, *features = map(np.concatenate, zip(*parts, strict=True))
    single = model.label_mode == "single"
    return ClassifiedImages(image_ids, probabilities, labels, tuple(names), single, *features)
