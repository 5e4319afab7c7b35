"""What a detector gets wrong, from plain records, and what to do about it. NumPy only."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fcos_tf.evaluation.curves import ap_by, class_curves, mean_f1
from fcos_tf.evaluation.overlaps import covered, iou
from fcos_tf.evaluation.records import rows_by
from fcos_tf.evaluation.tide import FOREGROUND_IOU, Matches, match, select, tide

# Error type -> what it is, and what to do.
EXPLANATIONS = {
    "Cls": (
        "the right place, a wrong class",
        "Check the labels of the classes that are confused, and add training images of them.",
    ),
    "Loc": (
        "the right class, IoU 0.1 to 0.5",
        "Check that the annotated boxes are tight; train longer, or at a larger --image_size.",
    ),
    "Both": (
        "a wrong class, and a box that fits badly",
        "Train longer; check labels and boxes of the images with most errors.",
    ),
    "Dupe": ("a second detection of a found object", "Use a lower --nms_threshold."),
    "Bkg": (
        "no object there",
        "Look for objects there that nobody annotated; add training images without objects.",
    ),
    "Miss": (
        "objects with no detection near them",
        "Add training images of such objects; use a lower --score_threshold for evaluation, and a "
        "larger --image_size if they are small.",
    ),
}
_BACKGROUND = "background"
_SMALL_COST, _LARGE_GAP = 0.01, 0.15  # of AP50
_FEW_OBJECTS, _FEW_CONFUSIONS = 30, 3


def analyse_records(
    ground_truth: Mapping[str, Any], detections: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Finds the errors of detections, all at IoU 0.5; a JSON object.

    Args, Raises: see `coco_evaluation`, and scores must be in 0 to 1; crowds and difficult objects
    are neither right nor wrong.

    Returns:
        `tide`: see `tide.tide`; `per_class`: see `curves.class_curves`; `mean_f1`: the
        `score_threshold` of the best mean F1, `f1` and `f1_curve`; `by_size`, `by_aspect`: see
        `curves.ap_by`;
        `confusion`: `class_names`, the last of them "background", and `matrix`, rows true, columns
        predicted, at that threshold; `images`: `image_id`, `false_positives` and `missed` at that
        threshold of each image with any, the worst first; `advice`: sentences, the most important
        first.
    """
    matches = match(ground_truth, detections)
    scores = matches.found["score"]
    if len(odd := np.flatnonzero((scores < 0) | (scores > 1))):
        image_id = matches.found["image_id"][odd[0]]
        raise ValueError(
            f"score: expected 0 to 1 in all detections, got {scores[odd[0]]:g} of image {image_id}"
        )
    per_class = class_curves(matches)
    curve, threshold, f1 = mean_f1(per_class)
    result = {
        "tide": tide(matches),
        "per_class": per_class,
        "mean_f1": {"score_threshold": threshold, "f1": f1, "f1_curve": curve.tolist()},
        "by_size": ap_by(matches, "size"),
        "by_aspect": ap_by(matches, "aspect"),
        "confusion": {
            "class_names": [*matches.names.values(), _BACKGROUND],
            "matrix": confusion_matrix(matches, threshold).tolist(),
        },
        "images": _images(matches, threshold),
    }
    return {**result, "advice": _advice(result)}


def best_f1_of(analysis: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The thresholds of the best F1, to keep with a detector as its `best_f1`.

    Args:
        analysis: Of `analyse_records`, from detections of this model.
        model: The detector, with the threshold that it had then.

    Returns:
        `score_threshold`, that of the model, and `by_class`, the threshold of each of its classes;
        of a class without a right detection that of the best mean F1.

    Example:
        records = fcos_tf.evaluation.run_detector(model, val)
        analysis = fcos_tf.evaluation.analyse(records, "analysis")
        model.best_f1 = fcos_tf.evaluation.best_f1_of(analysis, model)
        model.save("model.keras")
    """
    names = model.class_names or map(str, range(model.num_classes))
    own = [analysis["per_class"].get(name, {}).get("threshold") for name in names]
    usual = analysis["mean_f1"]["score_threshold"]
    return {
        "score_threshold": model.score_threshold,
        "by_class": [usual if each is None else each for each in own],
    }


def confused_pairs(confusion: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """Number, true and predicted class of the confusions among classes, the most frequent first."""
    matrix, names = np.array(confusion["matrix"])[:-1, :-1], confusion["class_names"]
    np.fill_diagonal(matrix, 0)
    pairs = [(int(matrix[i, j]), names[i], names[j]) for i, j in np.argwhere(matrix)]
    return sorted(pairs, key=lambda pair: -pair[0])


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
    together = found, truth, matches.crowds
    found_of, truth_of, crowds_of = (rows_by(columns["image_id"]) for columns in together)
    nothing = np.zeros(0, np.int64)
    for image_id in {**found_of, **truth_of}:
        rows, objects = (of.get(image_id, nothing) for of in (found_of, truth_of))
        boxes = found["bbox"][rows]
        pairs = _pairs(iou(boxes[:, None], truth["bbox"][objects]))
        paired_rows, paired_objects = rows[pairs[:, 0]], objects[pairs[:, 1]]
        np.add.at(matrix, (true_class[paired_objects], found_class[paired_rows]), 1)
        crowds = matches.crowds["bbox"][crowds_of.get(image_id, nothing)]
        counts = ~(covered(boxes[:, None], crowds) > FOREGROUND_IOU).any(axis=1)
        false = np.setdiff1d(rows[counts], paired_rows)
        np.add.at(matrix, (-1, found_class[false]), 1)
        np.add.at(matrix, (true_class[np.setdiff1d(objects, paired_objects)], -1), 1)
    return matrix


def _pairs(overlap: np.ndarray) -> np.ndarray:
    """One-to-one pairs (row, column) of an IoU matrix by falling value, int64 [P, 2]."""
    candidates = np.argwhere(overlap >= FOREGROUND_IOU)
    order = np.argsort(-overlap[tuple(candidates.T)], kind="stable")
    rows, columns, pairs = set(), set(), []
    for row, column in candidates[order].tolist():
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs.append((row, column))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _images(matches: Matches, threshold: float) -> list[dict[str, int]]:
    """The images with errors at this threshold, most errors first."""
    kept = matches.found["score"] >= threshold
    false = kept & (matches.owner < 0) & ~matches.ignored
    missed = np.ones(len(matches.truth["bbox"]), bool)
    missed[matches.owner[kept & (matches.owner >= 0)]] = False
    found = Counter(matches.found["image_id"][false].tolist())
    lost = Counter(matches.truth["image_id"][missed].tolist())
    rows = [
        {"image_id": image_id, "false_positives": found[image_id], "missed": lost[image_id]}
        for image_id in sorted({*found, *lost})
    ]
    return sorted(rows, key=lambda row: -row["false_positives"] - row["missed"])


def _advice(result: Mapping[str, Any]) -> list[str]:
    whole, costs, counts = (result["tide"][name] for name in ("AP50", "costs", "counts"))
    if whole < 0:
        return ["No objects to measure on: check the split and its annotations."]
    ranked = sorted(EXPLANATIONS, key=lambda kind: -costs[kind])
    ranked = [kind for kind in ranked if costs[kind] >= _SMALL_COST][:3]
    sentences = []
    for kind in ranked:
        what, to_do = EXPLANATIONS[kind]
        most = " most" if kind == ranked[0] else ""
        sentences.append(
            f"{kind} ({what}) costs{most}: without these {counts[kind]} errors AP50 would be "
            f"{whole + costs[kind]:.3f} instead of {whole:.3f}. {to_do}"
        )
    if not ranked:
        sentences.append(
            f"AP50 is {whole:.3f}, and no type of error alone costs {_SMALL_COST:g} of it."
        )
    pairs = confused_pairs(result["confusion"])
    if pairs and pairs[0][0] >= _FEW_CONFUSIONS:
        count, true, predicted = pairs[0]
        sentences.append(f"Most confused: {true} is taken for {predicted}, {count} times.")
    for what in ("by_size", "by_aspect"):
        ranges = result[what]
        enough = [n for n, row in ranges.items() if row["num_ground_truths"] >= _FEW_OBJECTS]
        enough.sort(key=lambda name: ranges[name]["AP50"])
        if not enough or ranges[enough[-1]]["AP50"] - ranges[enough[0]]["AP50"] < _LARGE_GAP:
            continue
        low, high = enough[0], enough[-1]
        larger = "use a larger --image_size, or " if low == "small" else ""
        to_do = f"{larger}add training images with {low} ones"
        sentences.append(
            f"AP50 of {low} objects is {ranges[low]['AP50']:.3f}, that of {high} ones "
            f"{ranges[high]['AP50']:.3f}: {to_do}."
        )
    measured = {n: row for n, row in result["per_class"].items() if row["num_ground_truths"]}
    few = [n for n, row in measured.items() if row["num_ground_truths"] < _FEW_OBJECTS]
    ap50 = {name: row["AP50"] for name, row in measured.items() if name not in few}
    weakest = min(ap50, key=ap50.get, default=None)
    if weakest and whole - ap50[weakest] >= _LARGE_GAP:
        sentences.append(
            f"The weakest class is {weakest}: AP50 {ap50[weakest]:.3f}. Add training images of it."
        )
    if few:
        some = ", ".join(few[:5]) + (" ..." if len(few) > 5 else "")
        sentences.append(
            f"{len(few)} of {len(measured)} classes have fewer than {_FEW_OBJECTS} objects here "
            f"({some}): their numbers vary by chance."
        )
    best = result["mean_f1"]
    if best["f1"] > 0:
        sentences.append(
            f"In use: --score_threshold={best['score_threshold']:g} has the best mean F1, "
            f"{best['f1']:.3f}."
        )
    return sentences
