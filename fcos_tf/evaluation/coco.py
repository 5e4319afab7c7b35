"""COCO average precision and recall from plain records.

Records have the form of COCO's JSON files: ground truth is one dictionary with `images`,
`annotations` and `categories`; detections are a list of `{image_id, category_id, bbox, score}`.
A `bbox` is (x, y, width, height) in pixels of the original image. Needs no TensorFlow.

Source: the COCO detection challenge, https://cocodataset.org/#detection-eval; matching by
faster-coco-eval.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from fcos_tf.evaluation.record_checks import Columns, check_records
from fcos_tf.evaluation.records import Scores, to_dicts

AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)

# name -> (precision or recall, IoU: None = mean over 0.50:0.95, area, detections per image)
COCO_DEFINITIONS = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.50, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APs": ("precision", None, "small", 100),
    "APm": ("precision", None, "medium", 100),
    "APl": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "ARs": ("recall", None, "small", 100),
    "ARm": ("recall", None, "medium", 100),
    "ARl": ("recall", None, "large", 100),
}
PER_CLASS = ("AP", "AP50")


def coco_metrics(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Returns COCO's twelve numbers; arguments and errors are those of `coco_evaluation`.

    Example:
        >>> truth = {
        ...     "images": [{"id": 1}],
        ...     "categories": [{"id": 1, "name": "cat"}],
        ...     "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
        ... }
        >>> hit = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.9}
        >>> round(coco_metrics(truth, [hit])["AP"], 3)
        1.0
    """
    return coco_evaluation(ground_truth, detections, class_names).metrics


def coco_evaluation(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
) -> Scores:
    """Scores detections against ground truth by the COCO protocol. Neither argument is changed.

    Args:
        ground_truth: a COCO dictionary. `images` need an `id`; `annotations` need `image_id`,
            `category_id` and `bbox`; optional: `id`, `area` (default width * height) and
            `iscrowd` (default 0).
        detections: COCO result records; may be empty.
        class_names: names of the categories in ascending order of id, in place of their own. If
            the ground truth has no categories, they become its categories, with ids 1..C.

    Returns:
        The twelve numbers, `AP` to `ARl`; and for every category, by id, `AP`, `AP50` and
        `num_ground_truths` (without crowds). -1: no ground truth to measure on.

    Raises:
        ValueError: a record that lacks a key, has an unknown image or category id, or a non-finite
            box or score; duplicate ids; no images; no categories.
    """
    names, image_ids, truth, found = check_records(ground_truth, detections, class_names)
    areas = found["bbox"][:, 2] * found["bbox"][:, 3]
    found = {**found, "area": areas, "iscrowd": np.zeros(len(areas), int)}
    evaluator = COCOeval_faster(
        _index(image_ids, names, truth),
        _index(image_ids, names, found),
        iouType="bbox",
        print_function=_silent,
    )
    evaluator.evaluate()
    evaluator.accumulate()
    thresholds = np.asarray(evaluator.params.iouThrs)
    tables = {
        "precision": np.asarray(evaluator.eval["precision"]),  # [IoU, recall, C, area, max]
        "recall": np.asarray(evaluator.eval["recall"])[:, None],  # [IoU, 1, C, area, max]
    }

    def table_of(name):
        kind, iou, area, limit = COCO_DEFINITIONS[name]
        table = tables[kind][..., AREAS.index(area), MAX_DETECTIONS.index(limit)]
        return table if iou is None else table[np.isclose(thresholds, iou)]  # [IoU, recall, C]

    metrics = {name: _mean_of_measured(table_of(name)) for name in COCO_DEFINITIONS}
    per_class = {}
    # The evaluator's class axis runs over the sorted category ids.
    for k, category_id in enumerate(sorted(names)):
        own = (truth["category_id"] == category_id) & (truth["iscrowd"] == 0)
        per_class[names[category_id]] = {
            **{name: _mean_of_measured(table_of(name)[..., k]) for name in PER_CLASS},
            "num_ground_truths": int(own.sum()),
        }
    return Scores(metrics, per_class)


def _mean_of_measured(table: np.ndarray) -> float:
    """The mean of the entries that are not -1, or -1 where there are none."""
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else -1.0


def _silent(*_: Any) -> None:
    """Drops the evaluator's progress messages."""


def _index(image_ids: set[int], names: Mapping[int, str], columns: Columns) -> COCO:
    """The evaluator's index of annotations or detections."""
    # The evaluator marks "unmatched" by id 0 and merges equal ids, so ids are ours, from 1.
    ids = np.arange(1, len(columns["bbox"]) + 1)
    dataset = {
        "images": [{"id": image_id} for image_id in sorted(image_ids)],
        "annotations": list(to_dicts({**columns, "id": ids})),
        "categories": [{"id": key, "name": name} for key, name in sorted(names.items())],
    }
    return COCO(dataset, print_function=_silent)
