"""TIDE: the types of a detector's errors, and what each type costs in AP50. NumPy only.

C classes, T objects without crowds and difficult ones, D detections.

Source: Bolya et al., "TIDE", arXiv:2008.08115, and its package tidecv 1.0.1. Different from it: a
class without objects has no AP, as in COCO (there it is 0), and detections of equal score keep the
order of the records in every AP (there wrong ones come first after mending).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_tf.evaluation.coco import Columns, check_records
from fcos_tf.evaluation.overlaps import covered, iou
from fcos_tf.evaluation.records import rows_by
from fcos_tf.evaluation.voc import best_precision

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
MAX_DETECTIONS = 100  # of an image
# Each as near as a recall of that value; COCO's np.linspace(0, 1, 101) may be one rank off.
RECALLS = np.arange(101) / 100
ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
_CLS, _LOC, _BOTH, _DUPE, _BKG, _ = range(len(ERRORS))


@dataclass(frozen=True)
class Matches:
    """Detections matched with objects of their class at IoU 0.5, by falling score.

    Attributes:
        names: Category id -> name, of C classes, by ascending id.
        truth: The T objects.
        crowds: The crowds and difficult objects.
        found: The D detections, by image, then by falling score; at most 100 of an image.
        owner: int64 [D], the matched row of `truth`, or -1.
        ignored: bool [D], unmatched and more than half inside a crowd of their class.
        error: int64 [D], index in `ERRORS`, or -1 of the matched and the ignored.
        target: int64 [D], the row of `truth` that a Cls or Loc detection overlaps, or -1.
    """

    names: dict[int, str]
    truth: Columns
    crowds: Columns
    found: Columns
    owner: np.ndarray
    ignored: np.ndarray
    error: np.ndarray
    target: np.ndarray

    @property
    def missed(self) -> np.ndarray:
        """Objects that no detection matches, nor a Cls or Loc detection overlaps, bool [T]."""
        missed = np.ones(len(self.truth["bbox"]), bool)
        missed[self.owner[self.owner >= 0]] = False
        missed[self.target[self.target >= 0]] = False
        return missed


def match(ground_truth: Mapping[str, Any], detections: Iterable[Mapping[str, Any]]) -> Matches:
    """Matches detections with objects, and finds the error type of each false positive.

    A detection takes the object of its class with the largest IoU among those not taken, if that
    is at least 0.5. A false positive has the first type that fits, IoU with taken objects included:
    Loc, 0.1 <= best IoU with its class <= 0.5; Cls, IoU >= 0.5 with another class; Dupe, IoU >= 0.5
    with a taken object of its class; Bkg, best IoU <= 0.1; else Both.

    Args, Raises: see `coco_evaluation`.
    """
    names, _, truth, found = check_records(ground_truth, detections)
    real = truth["iscrowd"] == 0
    crowds, truth = select(truth, ~real), select(truth, real)
    found = _best_of_each_image(found)
    count = len(found["bbox"])
    owner, error, target = (np.full(count, -1) for _ in range(3))
    ignored = np.zeros(count, bool)
    objects_of, crowds_of = rows_by(truth["image_id"]), rows_by(crowds["image_id"])
    nothing = np.zeros(0, np.int64)
    for image_id, rows in rows_by(found["image_id"]).items():
        objects = objects_of.get(image_id, nothing)
        owner[rows], error[rows], target[rows] = _match_image(found, rows, truth, objects)
        around = crowds_of.get(image_id, nothing)
        if len(around):
            same = found["category_id"][rows, None] == crowds["category_id"][around]
            inside = covered(found["bbox"][rows, None], crowds["bbox"][around]) > FOREGROUND_IOU
            ignored[rows] = (inside & same).any(axis=1) & (owner[rows] < 0)
    error[ignored] = target[ignored] = -1
    return Matches(dict(sorted(names.items())), truth, crowds, found, owner, ignored, error, target)


def tide(matches: Matches) -> dict[str, dict[str, float]]:
    """The cost of each error type: the AP50 after mending it alone, less the AP50; at least 0.

    Mended, a Loc or Cls detection becomes right if its object is not taken and no other of them has
    a higher score for it; the rest of the type is deleted, as are Dupe, Bkg and Both. A missed
    object leaves the number of objects. The costs do not add up to 1 - AP50. FalsePos: all false
    positives below all true ones. FalseNeg: no unmatched object counts.

    Returns:
        `AP50`, 0 to 1, -1 without objects; `costs` and `counts` of the types in `ERRORS`, `costs`
        also of FalsePos and FalseNeg. Ignored detections are not counted.
    """
    ids = np.array(list(matches.names))
    objects = np.searchsorted(ids, matches.truth["category_id"])  # class of each object [T]
    classes = np.searchsorted(ids, matches.found["category_id"])  # [D]
    totals = np.bincount(objects, minlength=len(ids))  # [C]
    scores, right = matches.found["score"], matches.owner >= 0
    counted = ~matches.ignored

    def mean_ap(kept, classes=classes, right=right, scores=scores, totals=totals):
        """Of the classes that have objects, or had some and still have detections."""
        order = np.flatnonzero(kept)
        order = order[np.argsort(-scores[order], kind="stable")]
        rows = rows_by(classes[order])
        aps = [
            average_precision(right[order[rows.get(c, [])]], totals[c])
            for c in measured
            if totals[c] or c in rows
        ]
        return float(np.mean(aps)) if aps else -1.0

    measured = np.flatnonzero(totals).tolist()  # before anything is mended
    whole = mean_ap(counted)
    costs = {}
    best = _best_for_each_object(matches)
    for kind, name in enumerate(ERRORS[:-1]):
        own = matches.error == kind
        mended = own & best & (kind in (_LOC, _CLS))
        moved = np.where(mended, objects[matches.target], classes) if mended.any() else classes
        costs[name] = mean_ap((counted & ~own) | mended, classes=moved, right=right | mended)
    found = matches.owner[right]
    lost = np.bincount(objects[matches.missed], minlength=len(ids))
    costs["Miss"] = mean_ap(counted, totals=totals - lost)
    costs["FalsePos"] = mean_ap(counted, scores=right.astype(float))
    costs["FalseNeg"] = mean_ap(counted, totals=np.bincount(objects[found], minlength=len(ids)))
    numbers = {n: int(((matches.error == k) & counted).sum()) for k, n in enumerate(ERRORS)}
    return {
        "AP50": whole,
        # Where nothing is left to measure on, the mended type was all that was wrong.
        "costs": {
            name: max((1.0 if ap < 0 else ap) - whole, 0.0) if whole >= 0 else 0.0
            for name, ap in costs.items()
        },
        "counts": {**numbers, "Miss": int(matches.missed.sum())},
    }


def average_precision(right: np.ndarray, num_objects: int) -> float:
    """The mean precision at `RECALLS` of detections by falling score, bool [D].

    0 without objects.
    """
    if not num_objects:
        return 0.0
    return float(precisions_at_recalls(right, num_objects).mean())


def precisions_at_recalls(right: np.ndarray, num_objects: int) -> np.ndarray:
    """The best precision at each of `RECALLS` or more, float64 [101], as `average_precision`."""
    rank = np.searchsorted(np.cumsum(right) / num_objects, RECALLS)
    return np.append(best_precision(right), 0.0)[rank]


def select(columns: Columns, rows: np.ndarray) -> Columns:
    """These rows, by mask or index, of all columns."""
    return {name: values[rows] for name, values in columns.items()}


def _best_of_each_image(found: Columns) -> Columns:
    order = np.lexsort((-found["score"], found["image_id"]))  # stable
    rows = rows_by(found["image_id"][order]).values()
    kept = [order[each[:MAX_DETECTIONS]] for each in rows]
    return select(found, np.concatenate([np.zeros(0, np.int64), *kept]))


def _match_image(
    found: Columns, rows: np.ndarray, truth: Columns, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owner, error and target of the detections of one image."""
    none = np.full(len(rows), -1)
    if not len(objects):
        return none, np.full(len(rows), _BKG), none
    overlap = iou(found["bbox"][rows, None], truth["bbox"][objects])  # [rows, objects]
    same = found["category_id"][rows, None] == truth["category_id"][objects]
    same_iou, other_iou = overlap * same, overlap * ~same
    owner, left = none.copy(), same_iou.copy()
    for row in np.flatnonzero(same_iou.max(axis=1) >= FOREGROUND_IOU):
        column = left[row].argmax()
        if left[row, column] >= FOREGROUND_IOU:
            owner[row] = column
            left[:, column] = 0
    taken = np.isin(np.arange(len(objects)), owner)
    best = same_iou.max(axis=1)
    conditions = {
        _LOC: (best >= BACKGROUND_IOU) & (best <= FOREGROUND_IOU),
        _CLS: other_iou.max(axis=1) >= FOREGROUND_IOU,
        _DUPE: (same_iou * taken).max(axis=1) >= FOREGROUND_IOU,
        _BKG: overlap.max(axis=1) <= BACKGROUND_IOU,
    }
    error = np.select(list(conditions.values()), list(conditions), _BOTH)
    target = np.select(
        [error == _LOC, error == _CLS],
        [objects[same_iou.argmax(axis=1)], objects[other_iou.argmax(axis=1)]],
        -1,
    )
    right = owner >= 0
    return (
        np.where(right, objects[owner], -1), np.where(right, -1, error), np.where(right, -1, target)
    )  # fmt: skip


def _best_for_each_object(matches: Matches) -> np.ndarray:
    """Whether a Cls or Loc detection is the best of both for an object not taken, bool [D]."""
    candidates = np.flatnonzero((matches.target >= 0) & ~np.isin(matches.target, matches.owner))
    order = candidates[np.argsort(-matches.found["score"][candidates], kind="stable")]
    _, first = np.unique(matches.target[order], return_index=True)
    best = np.zeros(len(matches.owner), bool)
    best[order[first]] = True
    return best
