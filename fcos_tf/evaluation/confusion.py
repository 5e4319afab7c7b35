"""The confusion matrix of a detector. NumPy only. C classes."""

import numpy as np

from fcos_tf.evaluation.overlaps import covered, iou
from fcos_tf.evaluation.tide import Matches, rows_by_image, select

BACKGROUND = "background"
IOU_THRESHOLD = 0.5


def confusion_matrix(matches: Matches, score_threshold: float) -> np.ndarray:
    """Counts which class is detected for which class.

    Detections and objects of all classes are paired by falling IoU, at least 0.5, one to one.
    Unpaired detections more than half inside a crowd or a difficult object do not count.

    Args:
        matches: of `tide.match`.
        score_threshold: The lowest score of a detection that counts.

    Returns:
        int64 [C + 1, C + 1], a row for each true class, a column for each predicted one, by
        ascending category id. The last row counts the false positives, the last column the missed
        objects.
    """
    ids = np.array(list(matches.names))
    found, truth = matches.found, matches.truth
    found = select(found, found["score"] >= score_threshold)
    true_class = np.searchsorted(ids, truth["category_id"])
    found_class = np.searchsorted(ids, found["category_id"])
    matrix = np.zeros([len(ids) + 1, len(ids) + 1], np.int64)
    found_of, truth_of, crowds_of = map(rows_by_image, (found, truth, matches.crowds))
    nothing = np.zeros(0, np.int64)
    for image_id in {**found_of, **truth_of}:
        rows, objects = (of.get(image_id, nothing) for of in (found_of, truth_of))
        boxes = found["bbox"][rows]
        pairs = _pairs(iou(boxes[:, None], truth["bbox"][objects]))
        paired_rows, paired_objects = rows[pairs[:, 0]], objects[pairs[:, 1]]
        np.add.at(matrix, (true_class[paired_objects], found_class[paired_rows]), 1)
        crowds = matches.crowds["bbox"][crowds_of.get(image_id, nothing)]
        counts = ~(covered(boxes[:, None], crowds) > IOU_THRESHOLD).any(axis=1)
        false = np.setdiff1d(rows[counts], paired_rows)
        np.add.at(matrix, (-1, found_class[false]), 1)
        np.add.at(matrix, (true_class[np.setdiff1d(objects, paired_objects)], -1), 1)
    return matrix


def _pairs(overlap: np.ndarray) -> np.ndarray:
    """One-to-one pairs (row, column) of an IoU matrix by falling value, int64 [P, 2]."""
    candidates = np.argwhere(overlap >= IOU_THRESHOLD)
    order = np.argsort(-overlap[tuple(candidates.T)], kind="stable")
    rows, columns, pairs = set(), set(), []
    for row, column in candidates[order].tolist():
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs.append((row, column))
    return np.array(pairs, np.int64).reshape(-1, 2)
