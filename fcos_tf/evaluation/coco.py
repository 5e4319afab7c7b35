"""COCO average precision and recall from plain records.

A record is what COCO's own JSON files hold: ground truth is one dictionary with `images`,
`annotations` and `categories`; detections are a list of `{image_id, category_id, bbox, score}`.
A `bbox` is (x, y, width, height) in pixels of the original image. Nothing here knows models or
TensorFlow, so result files can be scored wherever NumPy runs.

Source: the COCO detection challenge, https://cocodataset.org/#detection-eval; the matching itself
is done by faster-coco-eval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from fcos_tf.evaluation.record_checks import (
    category_names,
    checked_annotations,
    checked_detections,
    image_ids_of,
)

AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)

# name -> (precision or recall, IoU: None = mean over 0.50:0.95, area, detections per image)
_DEFINITIONS = {
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
COCO_METRIC_NAMES = tuple(_DEFINITIONS)


@dataclass(frozen=True)
class CocoResult:
    """What one COCO evaluation gives; -1 marks what had no ground truth to be measured on.

    Attributes:
        metrics: the twelve numbers, `AP` to `ARl`, each in [0, 1] or -1.
        per_class: category name -> AP (IoU 0.50:0.95, all areas, 100 detections), by category id.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]


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
) -> CocoResult:
    """Scores detections against ground truth by the COCO protocol. Neither argument is changed.

    Args:
        ground_truth: a COCO dictionary. `images` need only an `id`; `annotations` need
            `image_id`, `category_id` and `bbox`, and may lack `id`, `area` (then width * height),
            `iscrowd` (then 0) and `segmentation`.
        detections: COCO result records; may be empty.
        class_names: names of the categories in ascending order of id, in place of their own. If
            the ground truth lists no categories they are made from these, with ids 1..C.

    Returns:
        The twelve numbers and the AP of every category.

    Raises:
        ValueError: a record that lacks a key, refers to an unknown image or category, or holds a
            box or score that is not finite; ids that occur twice; no images; no categories.
    """
    names = category_names(ground_truth, class_names)
    image_ids = image_ids_of(ground_truth)
    annotations = checked_annotations(ground_truth, image_ids, names)
    results = checked_detections(detections, image_ids, names)

    evaluator = COCOeval_faster(
        _index(image_ids, names, annotations),
        _index(image_ids, names, results),
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

    metrics = {}
    for name, (kind, iou, area, limit) in _DEFINITIONS.items():
        table = tables[kind][..., AREAS.index(area), MAX_DETECTIONS.index(limit)]
        if iou is not None:
            table = table[np.isclose(thresholds, iou)]
        metrics[name] = _mean_of_measured(table)
    precision = tables["precision"][..., AREAS.index("all"), MAX_DETECTIONS.index(100)]
    # The evaluator's class axis runs over the sorted category ids.
    per_class = {
        names[category_id]: _mean_of_measured(precision[:, :, k])
        for k, category_id in enumerate(sorted(names))
    }
    return CocoResult(metrics, per_class)


def format_table(metrics: Mapping[str, float]) -> str:
    """Returns COCO's familiar table of the twelve numbers, one line each."""
    titles = {"precision": "Average Precision  (AP)", "recall": "Average Recall     (AR)"}
    lines = []
    for name, (kind, iou, area, limit) in _DEFINITIONS.items():
        iou_text = "0.50:0.95" if iou is None else f"{iou:.2f}"
        lines.append(
            f" {titles[kind]} @[ IoU={iou_text:<9} | area={area:>6} | maxDets={limit:>3} ]"
            f" = {metrics[name]:.3f}"
        )
    return "\n".join(lines)


def format_per_class(per_class: Mapping[str, float], columns: int = 3) -> str:
    """Returns the AP of every class in `columns` columns; `-` where there was no ground truth."""
    width = max(map(len, per_class), default=0)
    cells = [
        f"{name:<{width}}  {'    -' if ap < 0 else f'{ap:.3f}'}" for name, ap in per_class.items()
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return "\n".join("   ".join(row) for row in rows)


def _mean_of_measured(table: np.ndarray) -> float:
    """The mean of the entries that are not -1, or -1 where there are none."""
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else -1.0


def _silent(*_: Any) -> None:
    """Takes the evaluator's progress messages and drops them."""


def _index(image_ids: set[int], names: Mapping[int, str], annotations: list[dict]) -> COCO:
    dataset = {
        "images": [{"id": image_id} for image_id in sorted(image_ids)],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in sorted(names.items())],
    }
    return COCO(dataset, print_function=_silent)
