"""COCO average precision and recall from plain records.

A record is what COCO's own JSON files hold: ground truth is one dictionary with `images`,
`annotations` and `categories`; detections are a list of `{image_id, category_id, bbox, score}`.
A `bbox` is (x, y, width, height) in pixels of the original image. Nothing here knows models or
TensorFlow, so result files can be scored wherever NumPy runs.

Source: the COCO detection challenge, https://cocodataset.org/#detection-eval; the matching itself
is done by faster-coco-eval.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from fcos_tf.evaluation.record_checks import (
    DetectionColumns,
    TruthColumns,
    category_names,
    checked_annotations,
    checked_detections,
    image_ids_of,
)
from fcos_tf.evaluation.records import Scores

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
        ground_truth: a COCO dictionary. `images` need only an `id`; `annotations` need
            `image_id`, `category_id` and `bbox`, and may lack `id`, `area` (then width * height),
            `iscrowd` (then 0) and `segmentation`.
        detections: COCO result records; may be empty.
        class_names: names of the categories in ascending order of id, in place of their own. If
            the ground truth lists no categories they are made from these, with ids 1..C.

    Returns:
        The twelve numbers, `AP` to `ARl`; and for every category, by id, `AP`, `AP50` and
        `num_ground_truths` (crowds not counted). -1 marks what had nothing to be measured on.

    Raises:
        ValueError: a record that lacks a key, refers to an unknown image or category, or holds a
            box or score that is not finite; ids that occur twice; no images; no categories.
    """
    names = category_names(ground_truth, class_names)
    image_ids = image_ids_of(ground_truth)
    truth = checked_annotations(ground_truth, image_ids, names)
    found = checked_detections(detections, image_ids, names)

    evaluator = COCOeval_faster(
        _index(image_ids, names, _truth_records(truth)),
        _index(image_ids, names, _detection_records(found)),
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
        own = (truth.category_ids == category_id) & ~truth.ignored
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
    """Takes the evaluator's progress messages and drops them."""


def _truth_records(truth: TruthColumns) -> list[dict[str, Any]]:
    columns = (column.tolist() for column in truth)
    return [
        {
            # The evaluator marks "unmatched" by id 0 and merges equal ids, so ids are ours, from 1.
            "id": position,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": area,
            "iscrowd": int(ignored),
        }
        for position, (image_id, category_id, box, area, ignored) in enumerate(
            zip(*columns, strict=True), start=1
        )
    ]


def _detection_records(found: DetectionColumns) -> list[dict[str, Any]]:
    columns = (column.tolist() for column in found)
    return [
        {
            "id": position,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for position, (image_id, category_id, box, score) in enumerate(
            zip(*columns, strict=True), start=1
        )
    ]


def _index(image_ids: set[int], names: Mapping[int, str], annotations: list[dict]) -> COCO:
    dataset = {
        "images": [{"id": image_id} for image_id in sorted(image_ids)],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in sorted(names.items())],
    }
    return COCO(dataset, print_function=_silent)
