"""Precision, recall and F1 over the score; AP50 by size and aspect of the objects. NumPy only."""

from collections import Counter
from typing import Any

import numpy as np

from fcos_tf.evaluation.coco import Columns
from fcos_tf.evaluation.records import rows_by
from fcos_tf.evaluation.tide import Matches, average_precision, precisions_at_recalls

SCORES = np.arange(201) / 200
# name -> largest value. Those of COCO and of TIDE.
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}  # square pixels
ASPECTS = {"tall": 0.75, "square": 1.33, "wide": np.inf}  # width / height


def class_curves(matches: Matches) -> dict[str, dict[str, Any]]:
    """Precision and recall at IoU 0.5 of every class.

    Returns:
        Class name -> `num_ground_truths`; `AP50`; `precisions` at the 101 `RECALLS`, the best at
        that recall or more; `f1_curve` at the 201 `SCORES`, of the detections with that score or
        more; and at the best F1 `threshold`, `f1`, `precision` and `recall`. The threshold lies
        between the lowest score kept and the next. A class without objects has only its number; one
        without a right detection has the threshold None.
    """
    found, result = matches.found, {}
    order = np.argsort(-found["score"], kind="stable")
    order = order[~matches.ignored[order]]
    rows_of = rows_by(found["category_id"][order])
    counts = Counter(matches.truth["category_id"].tolist())
    for category_id, name in matches.names.items():
        objects, rows = counts[category_id], order[rows_of.get(category_id, [])]
        result[name] = {"num_ground_truths": objects}
        if objects:
            result[name] |= _curves(found["score"][rows], matches.owner[rows] >= 0, objects)
    return result


def mean_f1(curves: dict[str, dict[str, Any]]) -> tuple[np.ndarray, float, float]:
    """The mean F1 over the classes with objects at `SCORES`, its best score and value."""
    each = [curve["f1_curve"] for curve in curves.values() if "f1_curve" in curve]
    mean = np.mean(each, axis=0) if each else np.zeros(len(SCORES))
    best = np.flatnonzero(mean == mean.max())
    middle = best[len(best) // 2]  # of equally good scores
    return mean, float(SCORES[middle]), float(mean[middle])


def ap_by(matches: Matches, what: str) -> dict[str, dict[str, float]]:
    """AP50 of the objects of each size or aspect, the mean over the classes that have such.

    A true positive belongs to the range of its object, a false one to that of its own box.

    Args:
        matches: of `tide.match`.
        what: "size" (area in square pixels, by the annotation) or "aspect" (width / height).

    Returns:
        Range -> `AP50`, -1 without objects, and `num_ground_truths`.
    """
    limits = {"size": SIZES, "aspect": ASPECTS}[what]
    of_object, of_box = (_range_of(c, what, limits) for c in (matches.truth, matches.found))
    right = matches.owner >= 0
    if right.any():
        of_box[right] = of_object[matches.owner[right]]
    order = np.argsort(-matches.found["score"], kind="stable")
    order = order[~matches.ignored[order]]
    result = {}
    for number, name in enumerate(limits):
        kept = order[of_box[order] == number]
        rows_of = rows_by(matches.found["category_id"][kept])
        counts = Counter(matches.truth["category_id"][of_object == number].tolist())
        aps = [
            average_precision(right[kept[rows_of.get(category_id, [])]], counts[category_id])
            for category_id in matches.names
            if counts[category_id]
        ]
        total = counts.total()
        result[name] = {"AP50": float(np.mean(aps)) if aps else -1.0, "num_ground_truths": total}
    return result


def _curves(scores: np.ndarray, right: np.ndarray, objects: int) -> dict[str, Any]:
    """The numbers of one class from its detections by falling score, [N]."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    recall = hits / objects
    f1 = 2 * hits / (np.arange(1, len(right) + 1) + objects)  # 2TP / (2TP + FP + FN)
    kept = np.searchsorted(-scores, -SCORES, side="right")  # detections of at least each score
    best = {"threshold": None, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    if right.any():
        last_of_score = np.append(scores[1:] < scores[:-1], True)  # equal scores are cut together
        top = int(np.where(last_of_score, f1, -1.0).argmax())
        below = scores[top + 1] if top + 1 < len(scores) else scores[top]
        best = {
            "threshold": float((scores[top] + below) / 2),
            "f1": float(f1[top]),
            "precision": float(precision[top]),
            "recall": float(recall[top]),
        }
    return {
        "AP50": average_precision(right, objects),
        "precisions": precisions_at_recalls(right, objects).tolist(),
        "f1_curve": np.append(0.0, f1)[kept].tolist(),
        **best,
    }


def _range_of(columns: Columns, what: str, limits: dict[str, float]) -> np.ndarray:
    """The number of the range of each row, int64 [N]."""
    width, height = columns["bbox"][:, 2], columns["bbox"][:, 3]
    values = columns.get("area", width * height)
    if what == "aspect":
        values = np.divide(width, height, out=np.full_like(width, np.inf), where=height > 0)
    return np.searchsorted(list(limits.values()), values)
