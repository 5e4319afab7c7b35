"""PASCAL VOC average precision at IoU 0.5, from the records of coco.py.

The protocol of the VOC development kit: the detections of a class, over all images, are sorted by
descending score. Each is assigned to the object of its class and image with the largest IoU, even
if an earlier detection has that object. With IoU >= 0.5 the first detection of an object is right
and later ones are wrong; those of an object marked difficult are ignored. Below 0.5 a detection is
wrong. Two forms of the average precision are in use:

    voc07   mean of 11 numbers: the best precision at a recall of at least 0, 0.1 ... 1 (to 2009)
    voc12   area under the precision envelope, at all points (from 2010)

Implementations differ: an IoU of exactly 0.5 is right here as in the kit, and wrong in Python ports
that test `>`; a recall of 3/10 reaches the point 0.3, but misses a 0.3 summed from tenths. The
kit's "+ 1" on widths belongs to its one-based inclusive corners; with continuous edges
(x1 = xmin - 1, x2 = xmax) the same areas result without it.

Source: The PASCAL VOC Challenge (IJCV 2010), section 4.2; VOCevaldet.m and VOCap.m of the kits of
2007 and 2012. NumPy only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fcos_tf.evaluation.coco import Columns, check_records
from fcos_tf.evaluation.overlaps import iou
from fcos_tf.evaluation.records import Scores, rows_by

IOU_THRESHOLD = 0.5


def voc_metrics(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
    points: str = "voc07",
) -> dict[str, float]:
    """Returns {"mAP_voc07": mean over the classes}; arguments are those of `voc_evaluation`.

    Example:
        >>> truth = {
        ...     "images": [{"id": 1}],
        ...     "categories": [{"id": 1, "name": "cat"}],
        ...     "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
        ... }
        >>> hit = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 25], "score": 0.9}
        >>> voc_metrics(truth, [hit], points="voc12")
        {'mAP_voc12': 1.0}
    """
    return voc_evaluation(ground_truth, detections, class_names, points).metrics


def voc_evaluation(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
    points: str = "voc07",
) -> Scores:
    """Scores detections against ground truth by the VOC protocol. Neither argument is changed.

    Detections of equal score count in the order of the records.

    Args:
        ground_truth: a COCO dictionary, see `coco_evaluation`; `iscrowd` 1 means difficult.
        detections: COCO result records; may be empty.
        class_names: names of the categories in ascending order of id, in place of their own.
        points: "voc07" or "voc12".

    Returns:
        `mAP_voc07` (or `mAP_voc12`), the mean over the classes with objects; and for every class,
        by id, `AP_voc07` (or `AP_voc12`) and `num_ground_truths` (without difficult ones). -1: no
        ground truth to measure on.

    Raises:
        ValueError: `points` is neither; see also `coco_evaluation`.
    """
    if points not in AVERAGE_PRECISION:
        raise ValueError(f"points: expected one of {', '.join(AVERAGE_PRECISION)}, got {points!r}")
    names, _, truth, found = check_records(ground_truth, detections, class_names)
    category_ids, is_right = _rank(truth, found)
    counts = Counter(truth["category_id"][truth["iscrowd"] == 0].tolist())
    rows, per_class = rows_by(category_ids), {}
    for category_id in sorted(names):
        objects, right = counts[category_id], is_right[rows.get(category_id, [])]
        per_class[names[category_id]] = {
            f"AP_{points}": AVERAGE_PRECISION[points](right, objects) if objects else -1.0,
            "num_ground_truths": objects,
        }
    measured = [row[f"AP_{points}"] for row in per_class.values() if row["num_ground_truths"]]
    mean = float(np.mean(measured)) if measured else -1.0
    return Scores({f"mAP_{points}": mean}, per_class)


def _rank(truth: Columns, found: Columns) -> tuple[np.ndarray, np.ndarray]:
    """The detections that are not ignored, by descending score: category ids [N], right [N]."""
    iou, owner = _best_overlap(truth, found)  # [D]
    order = np.argsort(-found["score"], kind="stable")
    hit = (iou >= IOU_THRESHOLD)[order]
    owner = owner[order]
    counts = np.ones(len(order), bool)
    counts[hit] = truth["iscrowd"][owner[hit]] == 0
    right = np.zeros(len(order), bool)
    candidates = np.flatnonzero(hit & counts)
    _, first = np.unique(owner[candidates], return_index=True)
    right[candidates[first]] = True
    return found["category_id"][order][counts], right[counts]


def _best_overlap(truth: Columns, found: Columns) -> tuple[np.ndarray, np.ndarray]:
    """For each of D detections the largest IoU with an object of its class and image, and its row.

    Returns:
        float64 [D], -1 without such an object; int64 [D], a row of `truth`, the first of equals.
    """
    pairs = [np.stack([rows["image_id"], rows["category_id"]], axis=1) for rows in (truth, found)]
    _, group = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    truth_group, found_group = np.split(group.reshape(-1), [len(truth["bbox"])])
    by_group = np.argsort(truth_group, kind="stable")  # [T]
    start = np.searchsorted(truth_group[by_group], found_group, side="left")  # [D]
    count = np.searchsorted(truth_group[by_group], found_group, side="right") - start

    best = np.full(len(start), -1.0)
    owner = np.zeros(len(start), np.int64)
    # Round j compares every detection with the j-th object of its class and image.
    for j in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > j)
        candidate = by_group[start[rows] + j]
        overlap = iou(found["bbox"][rows], truth["bbox"][candidate])
        better = overlap > best[rows]
        best[rows[better]] = overlap[better]
        owner[rows[better]] = candidate[better]
    return best, owner


def best_precision(right: np.ndarray) -> np.ndarray:
    """The best precision at each detection's rank or below, float64 [N]."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _eleven_points(right: np.ndarray, objects: int) -> float:
    # Recall >= t / 10, exact in whole numbers.
    rank = np.searchsorted(10 * np.cumsum(right), np.arange(11) * objects)
    return float(np.append(best_precision(right), 0.0)[rank].mean())


def _all_points(right: np.ndarray, objects: int) -> float:
    # Each right detection increases recall by 1 / objects; others do not change it.
    return float(best_precision(right)[right].sum() / objects)


# Ranked hits, bool [N], and the number of objects -> AP.
AVERAGE_PRECISION = {"voc07": _eleven_points, "voc12": _all_points}
