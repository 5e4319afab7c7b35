"""The score thresholds of the best F1 of each class, kept with a detector."""

from collections.abc import Mapping, Sequence
from typing import Any

BEST_F1 = "best_f1"


def checked_best_f1(best_f1: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """The thresholds of the best F1 as numbers.

    Args:
        best_f1: `score_threshold`, the detector's when they were measured, and `by_class`, the
            least score of each of C classes.
        num_classes: C.

    Raises:
        ValueError: another form, or numbers outside 0 to 1.
    """
    try:
        threshold = float(best_f1["score_threshold"])
        by_class = tuple(map(float, best_f1["by_class"]))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        got = f"{best_f1!r:.200}"
        raise ValueError(f"best_f1: expected score_threshold and by_class, got {got}") from error
    if len(by_class) != num_classes or not all(0 <= x <= 1 for x in (threshold, *by_class)):
        raise ValueError(f"best_f1: expected {num_classes} scores of 0 to 1, got {list(by_class)}")
    return {"score_threshold": threshold, "by_class": by_class}


def resolve_word(word: str, best_f1: Mapping[str, Any] | None) -> tuple[float, Sequence[float]]:
    """The threshold of a detector and the least score of each class for "best_f1".

    Args:
        word: "best_f1".
        best_f1: see `checked_best_f1`; None: the model keeps none.

    Raises:
        ValueError: another word, or the model keeps no such thresholds.
    """
    if word != BEST_F1:
        raise ValueError(f"score_threshold: expected a number or {BEST_F1}, got {word!r}")
    if best_f1 is None:
        raise ValueError(
            "score_threshold: expected a number, as the model keeps no thresholds of the best F1, "
            f"got {BEST_F1}; run evaluate.py --analyse --keep_thresholds first"
        )
    return best_f1["score_threshold"], best_f1["by_class"]
