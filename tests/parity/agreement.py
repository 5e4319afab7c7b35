"""Whether two lists of detections agree, up to what rounding may decide."""

import numpy as np

BOXES, SCORES = 0.01, 1e-5  # pixels of the photo; probability
MARGIN = 1e-4  # between scores, or an IoU and its threshold, inside which rounding may decide


def differences(
    ours: dict, theirs: dict, model, candidates: dict | None = None
) -> tuple[list[str], list[str]]:
    """The detections that only we have and that only they have, each with its reason.

    Args:
        ours: `boxes` [n, 4], `scores` [n] descending and `labels` [n].
        theirs: likewise.
        model: for its thresholds and `max_detections`.
        candidates: ours before suppression; None: there must not be differences.

    Returns:
        Two lists with a line for each; empty if all have a partner of the same label, with its box
        within `BOXES` and its score within `SCORES`.

    Raises:
        AssertionError: if there is no reason for one, or one of theirs is no candidate of ours.
    """
    close = _are_close(ours, theirs)
    assert close.sum(axis=0).max(initial=0) <= 1 and close.sum(axis=1).max(initial=0) <= 1
    lines = {"ours": [], "theirs": []}
    for side, found, other, partners in (
        ("ours", ours, theirs, close.any(axis=1)),
        ("theirs", theirs, ours, close.any(axis=0)),
    ):
        for index in np.flatnonzero(~partners):
            one = {name: found[name][index] for name in ("boxes", "scores", "labels")}
            reason = _reason(one, found, other, model)
            line = f"only {side}: label {one['labels']} score {one['scores']:.6f} {one['boxes']}"
            assert reason and candidates is not None, f"{line}, for no reason"
            known = _are_close({name: values[None] for name, values in one.items()}, candidates)
            assert known.any(), f"{line}, which is no candidate"
            lines[side].append(f"{line}: {reason}")
    return lines["ours"], lines["theirs"]


def _are_close(some: dict, others: dict) -> np.ndarray:
    """Which are one and the same: [n, m] bool."""
    close = np.abs(some["boxes"][:, None] - others["boxes"][None]).max(axis=-1) <= BOXES
    close &= np.abs(some["scores"][:, None] - others["scores"][None]) <= SCORES
    return close & (some["labels"][:, None] == others["labels"][None])


def _reason(one: dict, found: dict, other: dict, model) -> str | None:
    if abs(one["scores"] - model.score_threshold) < MARGIN:
        return "its score is on the threshold"
    is_full = len(other["scores"]) == model.max_detections
    if is_full and abs(one["scores"] - other["scores"][-1]) < MARGIN:
        return "its rank is the last"
    for side in (found, other):
        same = side["labels"] == one["labels"]
        iou = overlaps(one["boxes"], side["boxes"][same])
        ahead = side["scores"][same] - one["scores"]
        if np.any((np.abs(iou - model.nms_threshold) < MARGIN) & (ahead > 0)):
            return "an IoU is on the threshold"
        if side is other and np.any((iou > model.nms_threshold) & (np.abs(ahead) < MARGIN)):
            return "one that overlaps it has the same score, and another rank"
    return None


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box [4] with others [n, 4]: [n]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(b[..., 2:] - b[..., :2], axis=-1) for b in (box, boxes)]
    return intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-9)
