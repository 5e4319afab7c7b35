"""COCO average precision and recall from plain records.

A record is what COCO's own JSON files hold: ground truth is one dictionary with `images`,
`annotations` and `categories`; detections are a list of `{image_id, category_id, bbox, score}`.
A `bbox` is (x, y, width, height) in pixels of the original image. Nothing here knows models or
TensorFlow, so result files can be scored wherever NumPy runs.

Source: the COCO detection challenge, https://cocodataset.org/#detection-eval; the matching itself
is done by faster-coco-eval.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

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
    names = _category_names(ground_truth, class_names)
    image_ids = _image_ids(ground_truth)
    annotations = _checked_annotations(ground_truth, image_ids, names)
    results = _checked_detections(detections, image_ids, names)

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


def _category_names(
    ground_truth: Mapping[str, Any], class_names: Sequence[str] | None
) -> dict[int, str]:
    """Returns category id -> a name that no other category has."""
    if not isinstance(ground_truth, Mapping):
        raise ValueError(
            f"expected the ground truth as a COCO dictionary, got a "
            f"{type(ground_truth).__name__}; are ground truth and detections swapped?"
        )
    categories = ground_truth.get("categories")
    if not categories and not class_names:
        raise ValueError("the ground truth lists no categories and no class names were given")
    if not categories:
        categories = [{"id": index + 1, "name": n} for index, n in enumerate(class_names)]
    _need_ids(categories, "category")
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    if len(names) != len(categories):
        twice = [key for key, n in Counter(c["id"] for c in categories).items() if n > 1]
        raise ValueError(f"category ids must be unique in the ground truth; twice or more: {twice}")
    if class_names is not None:
        if len(class_names) != len(names):
            raise ValueError(
                f"expected a name for each of the {len(names)} categories, got {len(class_names)}"
            )
        names = dict(zip(sorted(names), map(str, class_names), strict=True))
    uses = Counter(names.values())
    return {key: name if uses[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def _image_ids(ground_truth: Mapping[str, Any]) -> set[int]:
    images = ground_truth.get("images")
    if not images:
        raise ValueError("the ground truth lists no images")
    _need_ids(images, "image")
    counts = Counter(image["id"] for image in images)
    if len(counts) != len(images):
        twice = [key for key, n in counts.items() if n > 1]
        raise ValueError(f"image ids must be unique in the ground truth; twice or more: {twice}")
    return set(counts)


def _need_ids(records: Sequence[Any], kind: str) -> None:
    for position, record in enumerate(records):
        if not isinstance(record, Mapping) or "id" not in record:
            raise ValueError(f"{kind} at position {position}: expected an 'id', got {record!r}")


def _checked_annotations(
    ground_truth: Mapping[str, Any], image_ids: set[int], names: Mapping[int, str]
) -> list[dict]:
    if "annotations" not in ground_truth:
        raise ValueError("the ground truth has no 'annotations'")
    annotations = []
    for position, source in enumerate(ground_truth["annotations"]):
        what = f"annotation at position {position}"
        if isinstance(source, Mapping) and "id" in source:
            what = f"annotation {source['id']}"
        annotation = _common_keys(source, what, position, image_ids, names)
        area = source.get("area")
        if area is not None:
            if not _finite_floats([area]):
                raise ValueError(f"{what}: expected a finite area, got {area!r}")
            annotation["area"] = float(area)
        annotation["iscrowd"] = int(source.get("iscrowd") or 0)
        annotations.append(annotation)
    return annotations


def _checked_detections(
    detections: Iterable[Mapping[str, Any]], image_ids: set[int], names: Mapping[int, str]
) -> list[dict]:
    if isinstance(detections, Mapping):
        raise ValueError(
            "expected the detections as a list of COCO results, got a dictionary; are ground "
            "truth and detections swapped?"
        )
    results = []
    for position, source in enumerate(detections):
        what = f"detection at position {position}"
        result = _common_keys(source, what, position, image_ids, names)
        if "score" not in source:
            raise ValueError(f"{what} (image id {source['image_id']}) has no 'score'")
        score = _finite_floats([source["score"]])
        if not score:
            raise ValueError(
                f"{what} (image id {source['image_id']}): expected a finite score, "
                f"got {source['score']}"
            )
        result["score"] = score[0]
        results.append(result)
    return results


def _finite_floats(values: Any) -> list[float]:
    """Returns the values as floats, or nothing if any of them is not a finite number."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _common_keys(
    source: Mapping[str, Any],
    what: str,
    position: int,
    image_ids: set[int],
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Checks what annotations and detections share and returns a fresh record with it."""
    if not isinstance(source, Mapping):
        raise ValueError(f"{what}: expected a dictionary, got {source!r}")
    for key in ("image_id", "category_id", "bbox"):
        if key not in source:
            raise ValueError(f"{what} has no {key!r}; it has {sorted(source)}")
    image_id, category_id = source["image_id"], source["category_id"]
    if image_id not in image_ids:
        raise ValueError(f"{what} refers to image id {image_id!r}, which the ground truth lacks")
    if category_id not in names:
        raise ValueError(
            f"{what} (image id {image_id}) refers to category id {category_id!r}; "
            f"the ground truth has {sorted(names)}"
        )
    bbox = _finite_floats(source["bbox"])
    if len(bbox) != 4 or min(bbox[2:]) < 0:
        raise ValueError(
            f"{what} (image id {image_id}): expected a finite bbox (x, y, width >= 0, "
            f"height >= 0), got {source['bbox']}"
        )
    return {
        # The evaluator marks "unmatched" by id 0 and merges equal ids, so ids are ours, from 1.
        "id": position + 1,
        "image_id": int(image_id),
        "category_id": int(category_id),
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
    }
