"""COCO records, checked, and their average precision and recall.

Records have the form of COCO's JSON files: ground truth is one dictionary with `images`,
`annotations` and `categories`; detections are a list of `{image_id, category_id, bbox, score}`.
A `bbox` is (x, y, width, height) in pixels of the original image. Needs no TensorFlow.

Records are checked as columns of NumPy arrays, and one by one only to name an invalid one.

Source: the COCO detection challenge, https://cocodataset.org/#detection-eval; matching by
faster-coco-eval.
"""

import math
import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from fcos_tf.evaluation.records import Scores, to_dicts

AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)

# name -> (precision or recall, IoU: None = mean over 0.50:0.95, area, detections per image)
COCO_DEFINITIONS = {
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
PER_CLASS = ("AP", "AP50")
# The evaluator keeps about 1 KiB for each pair of a class and an image: 25 GB for LVIS, if at once.
PAIRS_AT_ONCE = 500_000

# A row for each of N records: `image_id` and `category_id` int64 [N]; `bbox` float64 [N, 4], (x, y,
# width, height) in pixels; of annotations `area` float64 [N], by default width * height, and
# `iscrowd` int [N], 0 or 1; of detections `score` float64 [N].
Columns = dict[str, np.ndarray]
_PLACES = {
    "image": "'images' of the ground truth",
    "category": "'categories' of the ground truth",
    "annotation": "'annotations' of the ground truth",
    "detection": "detections",
}


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
) -> Scores:
    """Scores detections against ground truth by the COCO protocol. Neither argument is changed.

    Args:
        ground_truth: a COCO dictionary. `images` need an `id`; `annotations` need `image_id`,
            `category_id` and `bbox`; optional: `id`, `area` (default width * height) and
            `iscrowd` (default 0).
        detections: COCO result records; may be empty.
        class_names: names of the categories in ascending order of id, in place of their own. If
            the ground truth has no categories, they become its categories, with ids 1..C.

    Returns:
        The twelve numbers, `AP` to `ARl`; and for every category, by id, `AP`, `AP50` and
        `num_ground_truths` (without crowds). -1: no ground truth to measure on.

    Raises:
        ValueError: a record that lacks a key, has an unknown image or category id, or a non-finite
            box or score; duplicate ids; no images; no categories.
    """
    names, image_ids, truth, found = check_records(ground_truth, detections, class_names)
    areas = found["bbox"][:, 2] * found["bbox"][:, 3]
    found = {**found, "area": areas, "iscrowd": np.zeros(len(areas), int)}
    indices = _index(image_ids, names, truth), _index(image_ids, names, found)
    ids, parts = sorted(names), []
    numbers = list(range(1, len(ids) + 1))  # as in the indices
    step = max(1, PAIRS_AT_ONCE // len(image_ids))
    for start in range(0, len(ids), step):
        evaluator = COCOeval_faster(*indices, iouType="bbox", print_function=_silent)
        evaluator.params.catIds = numbers[start : start + step]
        evaluator.evaluate()
        evaluator.accumulate()
        parts.append([np.asarray(evaluator.eval[kind]) for kind in ("precision", "recall")])
    thresholds = np.asarray(evaluator.params.iouThrs)
    precision, recall = (np.concatenate(each, axis=-3) for each in zip(*parts, strict=True))
    # [IoU, recall, C, area, max] and [IoU, 1, C, area, max]
    tables = {"precision": precision, "recall": recall[:, None]}

    def table_of(name):
        kind, iou, area, limit = COCO_DEFINITIONS[name]
        table = tables[kind][..., AREAS.index(area), MAX_DETECTIONS.index(limit)]
        return table if iou is None else table[np.isclose(thresholds, iou)]  # [IoU, recall, C]

    metrics = {name: _mean_of_measured(table_of(name)) for name in COCO_DEFINITIONS}
    # Outside the loop, which else is quadratic in classes.
    own_tables = {name: table_of(name) for name in PER_CLASS}
    counts = Counter(truth["category_id"][truth["iscrowd"] == 0].tolist())
    per_class = {}
    for k, category_id in enumerate(ids):
        per_class[names[category_id]] = {
            **{name: _mean_of_measured(table[..., k]) for name, table in own_tables.items()},
            "num_ground_truths": counts[category_id],
        }
    return Scores(metrics, per_class)


def _mean_of_measured(table: np.ndarray) -> float:
    """The mean of the entries that are not -1, or -1 where there are none."""
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else -1.0


def _silent(*_: Any) -> None:
    """Drops the evaluator's progress messages."""


def _index(image_ids: set[int], names: Mapping[int, str], columns: Columns) -> COCO:
    """The evaluator's index of annotations or detections; all ids count from 1.

    It keeps ids as float64, which rounds those above 2 ** 53, marks "unmatched" by id 0, and merges
    equal ids.
    """
    places = {"image_id": sorted(image_ids), "category_id": sorted(names)}
    numbers = {"id": np.arange(1, len(columns["bbox"]) + 1)}
    for key, ids in places.items():
        numbers[key] = np.searchsorted(ids, columns[key]) + 1
    images, categories = (range(1, len(ids) + 1) for ids in places.values())
    dataset = {
        "images": [{"id": number} for number in images],
        "annotations": list(to_dicts({**columns, **numbers})),
        "categories": [{"id": number, "name": str(number)} for number in categories],
    }
    return COCO(dataset, print_function=_silent)


def check_records(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
) -> tuple[dict[int, str], set[int], Columns, Columns]:
    """Checks the arguments of `coco_evaluation`, and fills in defaults.

    Returns:
        Category id -> a name that no other category has; the ids of all images; the annotations;
        the detections.
    """
    names = _category_names(ground_truth, class_names)
    if not ground_truth.get("images"):
        raise ValueError("the ground truth lists no images")
    image_ids = set(_unique_ids(ground_truth["images"], "image"))
    if "annotations" not in ground_truth:
        raise ValueError("the ground truth has no 'annotations'")
    truth = _checked_columns(ground_truth["annotations"], "annotation", image_ids, names)
    if isinstance(detections, Mapping):
        raise ValueError(
            "expected the detections as a list of COCO results, got a dictionary; are ground "
            "truth and detections swapped?"
        )
    return names, image_ids, truth, _checked_columns(detections, "detection", image_ids, names)


def _category_names(
    ground_truth: Mapping[str, Any], class_names: Sequence[str] | None
) -> dict[int, str]:
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
    categories = _unique_ids(categories, "category")
    names = {key: str(category.get("name", key)) for key, category in categories.items()}
    if class_names is not None:
        if len(class_names) != len(names):
            raise ValueError(
                f"expected a name for each of the {len(names)} categories, got {len(class_names)}"
            )
        names = dict(zip(sorted(names), map(str, class_names), strict=True))
    uses = Counter(names.values())
    for key, name in names.items():
        if uses[name] > 1:
            while name in uses:
                name = f"{name} ({key})"
            uses[name], names[key] = 1, name
    return names


def _as_list(records: Any, kind: str) -> list:
    if not isinstance(records, Iterable) or isinstance(records, Mapping | str | bytes):
        raise ValueError(f"{_PLACES[kind]}: expected a list, got {reprlib.repr(records)}")
    return list(records)


def _unique_ids(records: Any, kind: str) -> dict[int, Mapping[str, Any]]:
    """Returns id -> record, for records of the ground truth that must have different ids."""
    records = _as_list(records, kind)
    for position, record in enumerate(records):
        has_id = isinstance(record, Mapping) and "id" in record
        got = record["id"] if has_id else record
        if not has_id or not isinstance(got, int | np.integer) or not -(2**63) <= got < 2**63:
            expected = "a whole number as 'id', at most 64 bits" if has_id else "an 'id'"
            raise ValueError(
                f"{kind} at position {position}: expected {expected}, got {reprlib.repr(got)}"
            )
    twice = [key for key, n in Counter(record["id"] for record in records).items() if n > 1]
    if twice:
        got = reprlib.repr(twice)
        raise ValueError(f"{kind} ids must be unique in the ground truth; twice or more: {got}")
    return {record["id"]: record for record in records}


def _checked_columns(
    records: Any, kind: str, image_ids: set[int], names: Mapping[int, str]
) -> Columns:
    """Reads all records at once; checks and normalises them one by one if that fails."""
    records = _as_list(records, kind)
    try:
        columns = _columns(records, kind)
        if (
            all(np.isfinite(column).all() for column in columns.values())
            and (columns["bbox"][:, 2:] >= 0).all()
            and np.isin(columns["image_id"], list(image_ids)).all()
            and np.isin(columns["category_id"], list(names)).all()
        ):
            return columns
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        pass
    # Valid records here have unusual types: numbers as strings, whole numbers as floats.
    return _columns([_checked(r, kind, i, image_ids, names) for i, r in enumerate(records)], kind)


def _columns(records: list, kind: str) -> Columns:
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(len(records), 4)
    columns = {"image_id": _ids(records, "image_id"), "category_id": _ids(records, "category_id")}
    columns["bbox"] = boxes
    if kind == "detection":
        return {**columns, "score": np.array([record["score"] for record in records], np.float64)}
    areas = [record.get("area") for record in records]
    missing = np.array([area is None for area in areas], bool)
    return {
        **columns,
        "area": np.where(missing, boxes[:, 2] * boxes[:, 3], np.array(areas, np.float64)),
        "iscrowd": np.array([int(record.get("iscrowd") or 0) != 0 for record in records], int),
    }


def _ids(records: list, key: str) -> np.ndarray:
    ids = np.array([record[key] for record in records]) if records else np.zeros(0, np.int64)
    if ids.dtype.kind != "i" or ids.ndim != 1:
        raise TypeError(f"expected whole numbers, got {ids.dtype} {ids.shape}")
    return ids.astype(np.int64)


def _checked(
    record: Any, kind: str, position: int, image_ids: set[int], names: Mapping[int, str]
) -> dict[str, Any]:
    """A valid record with the keys of `Columns`."""
    what = f"{kind} at position {position}"
    if not isinstance(record, Mapping):
        raise ValueError(f"{what}: expected a dictionary, got {reprlib.repr(record)}")
    if kind == "annotation" and "id" in record:
        what = f"annotation {record['id']}"
    for key in ("image_id", "category_id", "bbox"):
        if key not in record:
            raise ValueError(f"{what} has no {key!r}; it has {sorted(record)}")
    image_id, category_id = record["image_id"], record["category_id"]
    if not isinstance(image_id, Hashable) or image_id not in image_ids:
        raise ValueError(
            f"{what} refers to image id {reprlib.repr(image_id)}, which the ground truth lacks"
        )
    what = f"{what} (image id {image_id})"
    if not isinstance(category_id, Hashable) or category_id not in names:
        raise ValueError(
            f"{what} refers to category id {reprlib.repr(category_id)}; the ground truth has "
            f"{reprlib.repr(sorted(names))}"
        )
    bbox = _finite_floats(record["bbox"])
    if len(bbox) != 4 or min(bbox[2:]) < 0:
        raise ValueError(
            f"{what}: expected a finite bbox (x, y, width >= 0, height >= 0), got "
            f"{reprlib.repr(record['bbox'])}"
        )
    checked = {"image_id": int(image_id), "category_id": int(category_id), "bbox": bbox}
    if kind == "detection":
        if "score" not in record:
            raise ValueError(f"{what} has no 'score'")
        return {**checked, "score": _finite(record["score"], f"{what}: expected a finite score")}
    if record.get("area") is not None:
        checked["area"] = _finite(record["area"], f"{what}: expected a finite area")
    crowd = _finite(record.get("iscrowd") or 0, f"{what}: expected iscrowd 0 or 1")
    return {**checked, "iscrowd": int(crowd)}


def _finite(value: Any, expected: str) -> float:
    numbers = _finite_floats([value])
    if not numbers:
        raise ValueError(f"{expected}, got {reprlib.repr(value)}")
    return numbers[0]


def _finite_floats(values: Any) -> list[float]:
    """Returns the values as floats; [] if any of them is not a finite number."""
    try:
        numbers = [float(value) for value in values]
    except (OverflowError, TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
