"""Whether two lists of detections agree, up to what rounding may decide."""

import numpy as np

BOXES, SCORES = 0.01, 1e-5  # pixels of the photo; probability
MARGIN = 1e-4  # of a score, a rank's score or an IoU to its threshold, inside which either is right


def differences(ours: dict, theirs: dict, model) -> list[str]:
    """The detections that only one side has, each with the threshold that it lies on.

    Args:
        ours: `boxes` [n, 4], `scores` [n] descending and `labels` [n].
        theirs: likewise.
        model: for its thresholds and `max_detections`.

    Returns:
        A line for each; an empty list if all have a partner of the same label, with its box within
        `BOXES` and its score within `SCORES`.

    Raises:
        AssertionError: if one is on no threshold.
    """
    close = np.abs(ours["boxes"][:, None] - theirs["boxes"][None]).max(axis=-1) <= BOXES
    close &= np.abs(ours["scores"][:, None] - theirs["scores"][None]) <= SCORES
    close &= ours["labels"][:, None] == theirs["labels"][None]
    assert close.sum(axis=0).max(initial=0) <= 1 and close.sum(axis=1).max(initial=0) <= 1
    lines = []
    for side, found, other, partners in (
        ("ours", ours, theirs, close.any(axis=1)),
        ("theirs", theirs, ours, close.any(axis=0)),
    ):
        for index in np.flatnonzero(~partners):
            one = {name: found[name][index] for name in ("boxes", "scores", "labels")}
            reason = _reason(one, found, other, model)
            line = f"only {side}: label {one['labels']} score {one['scores']:.6f} {one['boxes']}"
            assert reason, f"{line}, and on no threshold"
            lines.append(f"{line}: {reason}")
    return lines


def _reason(one: dict, found: dict, other: dict, model) -> str | None:
    if abs(one["scores"] - model.score_threshold) < MARGIN:
        return "its score is on the threshold"
    is_full = len(other["scores"]) == model.max_detections
    if is_full and abs(one["scores"] - other["scores"][-1]) < MARGIN:
        return "its rank is the last"
    for side in (found, other):
        better = (side["labels"] == one["labels"]) & (side["scores"] > one["scores"])
        iou = overlaps(one["boxes"], side["boxes"][better])
        if np.any(np.abs(iou - model.nms_threshold) < MARGIN):
            return "an IoU is on the threshold"
    return None


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box [4] with others [n, 4]: [n]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(b[..., 2:] - b[..., :2], axis=-1) for b in (box, boxes)]
    return intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-9)
