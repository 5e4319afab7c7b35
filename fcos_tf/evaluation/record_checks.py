"""COCO records -> columns to score, or a ValueError that names the invalid record.

Records are checked as columns of NumPy arrays, and one by one only to name an invalid one.
"""

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_ID_RANGE = np.iinfo(np.int64)


class TruthColumns(NamedTuple):
    """N annotations.

    Attributes:
        image_ids: int64 [N].
        category_ids: int64 [N].
        boxes: float64 [N, 4], (x, y, width, height) in pixels.
        areas: float64 [N]; by default width * height.
        ignored: bool [N], its `iscrowd`.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray


class DetectionColumns(NamedTuple):
    """N detections: `image_ids`, `category_ids` and `boxes` as above; `scores` float64 [N]."""

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class CheckedRecords(NamedTuple):
    """Valid records.

    Attributes:
        names: category id -> a name that no other category has.
        image_ids: of all images.
        truth: the annotations.
        found: the detections.
    """

    names: dict[int, str]
    image_ids: set[int]
    truth: TruthColumns
    found: DetectionColumns


def check_records(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
) -> CheckedRecords:
    """Checks ground truth and detections, and fills in defaults.

    Args:
        ground_truth: a COCO dictionary.
        detections: COCO result records.
        class_names: names of the categories in ascending order of id, in place of their own.

    Returns:
        Both as columns, with the names of the categories and the ids of the images.

    Raises:
        ValueError: names the first invalid record.
    """
    names = _category_names(ground_truth, class_names)
    if not ground_truth.get("images"):
        raise ValueError("the ground truth lists no images")
    image_ids = set(_unique_ids(ground_truth["images"], "image", "'images' of the ground truth"))
    if "annotations" not in ground_truth:
        raise ValueError("the ground truth has no 'annotations'")
    records = _as_list(ground_truth["annotations"], "'annotations' of the ground truth")
    truth = _checked(records, _truth_columns, _check_annotation, image_ids, names)
    if isinstance(detections, Mapping):
        raise ValueError(
            "expected the detections as a list of COCO results, got a dictionary; are ground "
            "truth and detections swapped?"
        )
    records = _as_list(detections, "detections")
    found = _checked(records, _detection_columns, _check_detection, image_ids, names)
    return CheckedRecords(names, image_ids, truth, found)


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
    categories = _unique_ids(categories, "category", "'categories' of the ground truth")
    names = {key: str(category.get("name", key)) for key, category in categories.items()}
    if class_names is not None:
        if len(class_names) != len(names):
            raise ValueError(
                f"expected a name for each of the {len(names)} categories, got {len(class_names)}"
            )
        names = dict(zip(sorted(names), map(str, class_names), strict=True))
    uses = Counter(names.values())
    return {key: name if uses[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def _as_list(records: Any, what: str) -> list:
    if not isinstance(records, Iterable) or isinstance(records, Mapping | str | bytes):
        raise ValueError(f"{what}: expected a list, got {reprlib.repr(records)}")
    return list(records)


def _unique_ids(records: Any, kind: str, what: str) -> dict[int, Mapping[str, Any]]:
    """Returns id -> record, for records that must have different ids."""
    records = _as_list(records, what)
    for position, record in enumerate(records):
        has_id = isinstance(record, Mapping) and "id" in record
        got = record["id"] if has_id else record
        if not has_id:
            expected = "an 'id'"
        elif not isinstance(got, int | np.integer):
            expected = "a whole number as 'id'"
        elif not _ID_RANGE.min <= got <= _ID_RANGE.max:
            expected = "an 'id' of at most 64 bits"
        else:
            continue
        raise ValueError(
            f"{kind} at position {position}: expected {expected}, got {reprlib.repr(got)}"
        )
    twice = [key for key, n in Counter(record["id"] for record in records).items() if n > 1]
    if twice:
        raise ValueError(f"{kind} ids must be unique in the ground truth; twice or more: {twice}")
    return {record["id"]: record for record in records}


def _checked(
    records: list,
    read: Callable[[list], Any],
    check: Callable[..., dict[str, Any]],
    image_ids: set[int],
    names: Mapping[int, str],
) -> Any:
    """Reads all records at once; normalises them one by one with `check` if that fails."""
    try:
        columns = read(records)
        if _is_sound(columns, image_ids, names):
            return columns
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        pass
    # Valid records here have unusual types: numbers as strings, whole numbers as floats.
    return read([check(record, i, image_ids, names) for i, record in enumerate(records)])


def _is_sound(
    columns: TruthColumns | DetectionColumns, image_ids: set[int], names: Mapping[int, str]
) -> bool:
    return (
        all(np.isfinite(column).all() for column in columns)
        and bool((columns.boxes[:, 2:] >= 0).all())
        and bool(np.isin(columns.image_ids, list(image_ids)).all())
        and bool(np.isin(columns.category_ids, list(names)).all())
    )


def _truth_columns(records: list) -> TruthColumns:
    boxes = _boxes(records)
    areas = [record.get("area") for record in records]
    missing = np.array([area is None for area in areas], bool)
    return TruthColumns(
        _ids(records, "image_id"),
        _ids(records, "category_id"),
        boxes,
        np.where(missing, boxes[:, 2] * boxes[:, 3], np.array(areas, np.float64)),
        np.array([int(record.get("iscrowd") or 0) for record in records], bool),
    )


def _detection_columns(records: list) -> DetectionColumns:
    return DetectionColumns(
        _ids(records, "image_id"),
        _ids(records, "category_id"),
        _boxes(records),
        np.array([record["score"] for record in records], np.float64),
    )


def _ids(records: list, key: str) -> np.ndarray:
    ids = np.array([record[key] for record in records]) if records else np.zeros(0, np.int64)
    if ids.dtype.kind != "i" or ids.ndim != 1:
        raise TypeError(f"expected whole numbers, got {ids.dtype} {ids.shape}")
    return ids.astype(np.int64)


def _boxes(records: list) -> np.ndarray:
    boxes = np.array([record["bbox"] for record in records], np.float64)
    return boxes.reshape(len(records), 4)


def _check_annotation(
    source: Any, position: int, image_ids: set[int], names: Mapping[int, str]
) -> dict[str, Any]:
    what = f"annotation at position {position}"
    if isinstance(source, Mapping) and "id" in source:
        what = f"annotation {source['id']}"
    annotation = _check_common(source, what, image_ids, names)
    if source.get("area") is not None:
        annotation["area"] = _finite(source["area"], f"{what}: expected a finite area")
    crowd = _finite(source.get("iscrowd") or 0, f"{what}: expected iscrowd 0 or 1")
    return {**annotation, "iscrowd": int(crowd)}


def _check_detection(
    source: Any, position: int, image_ids: set[int], names: Mapping[int, str]
) -> dict[str, Any]:
    what = f"detection at position {position}"
    detection = _check_common(source, what, image_ids, names)
    what = f"{what} (image id {source['image_id']})"
    if "score" not in source:
        raise ValueError(f"{what} has no 'score'")
    return {**detection, "score": _finite(source["score"], f"{what}: expected a finite score")}


def _check_common(
    source: Any, what: str, image_ids: set[int], names: Mapping[int, str]
) -> dict[str, Any]:
    """Checks the common keys of annotations and detections; returns a new record with them."""
    if not isinstance(source, Mapping):
        raise ValueError(f"{what}: expected a dictionary, got {reprlib.repr(source)}")
    for key in ("image_id", "category_id", "bbox"):
        if key not in source:
            raise ValueError(f"{what} has no {key!r}; it has {sorted(source)}")
    image_id, category_id = source["image_id"], source["category_id"]
    if not _is_one_of(image_id, image_ids):
        raise ValueError(
            f"{what} refers to image id {reprlib.repr(image_id)}, which the ground truth lacks"
        )
    what = f"{what} (image id {image_id})"
    if not _is_one_of(category_id, names):
        raise ValueError(
            f"{what} refers to category id {reprlib.repr(category_id)}; the ground truth has "
            f"{sorted(names)}"
        )
    bbox = _finite_floats(source["bbox"])
    if len(bbox) != 4 or min(bbox[2:]) < 0:
        raise ValueError(
            f"{what}: expected a finite bbox (x, y, width >= 0, height >= 0), got "
            f"{reprlib.repr(source['bbox'])}"
        )
    return {"image_id": int(image_id), "category_id": int(category_id), "bbox": bbox}


def _is_one_of(value: Any, ids: Iterable[int]) -> bool:
    """Whether it is among the ids; an unhashable value, such as a list, is not."""
    try:
        return value in ids
    except TypeError:
        return False


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
