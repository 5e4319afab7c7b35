"""COCO records -> columns that can be scored, or a ValueError that names the record at fault.

Records are read and checked as columns of NumPy arrays, a hundred thousand at a time. Only when
something in them is not as it should be are they looked at one by one, to say which and what.
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
        areas: float64 [N]; width * height where the annotation has none.
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


def category_names(
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
    categories = _as_list(categories, "'categories' of the ground truth")
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


def image_ids_of(ground_truth: Mapping[str, Any]) -> set[int]:
    """Returns the ids of all images, each of which must be there once."""
    images = ground_truth.get("images")
    if not images:
        raise ValueError("the ground truth lists no images")
    images = _as_list(images, "'images' of the ground truth")
    _need_ids(images, "image")
    counts = Counter(image["id"] for image in images)
    if len(counts) != len(images):
        twice = [key for key, n in counts.items() if n > 1]
        raise ValueError(f"image ids must be unique in the ground truth; twice or more: {twice}")
    return set(counts)


def _as_list(records: Any, what: str) -> list:
    """Returns the records as a list, or says that they are none."""
    if not isinstance(records, Iterable) or isinstance(records, Mapping | str | bytes):
        raise ValueError(f"{what}: expected a list, got {reprlib.repr(records)}")
    return list(records)


def _need_ids(records: Sequence[Any], kind: str) -> None:
    for position, record in enumerate(records):
        if not isinstance(record, Mapping) or "id" not in record:
            raise ValueError(
                f"{kind} at position {position}: expected an 'id', got {reprlib.repr(record)}"
            )
        number = record["id"]
        if not isinstance(number, int | np.integer):
            raise ValueError(
                f"{kind} at position {position}: expected a whole number as 'id', "
                f"got {reprlib.repr(number)}"
            )
        if not _ID_RANGE.min <= number <= _ID_RANGE.max:
            raise ValueError(
                f"{kind} at position {position}: expected an 'id' of at most 64 bits, "
                f"got {reprlib.repr(number)}"
            )


def checked_annotations(
    ground_truth: Mapping[str, Any], image_ids: set[int], names: Mapping[int, str]
) -> TruthColumns:
    """Returns the annotations with what is missing in them filled in.

    Args:
        ground_truth: a COCO dictionary.
        image_ids: ids that exist.
        names: category id -> name.

    Raises:
        ValueError: names the first annotation that is at fault.
    """
    if "annotations" not in ground_truth:
        raise ValueError("the ground truth has no 'annotations'")
    records = _as_list(ground_truth["annotations"], "'annotations' of the ground truth")
    return _checked(records, _truth_columns, _check_annotation, image_ids, names)


def checked_detections(
    detections: Iterable[Mapping[str, Any]], image_ids: set[int], names: Mapping[int, str]
) -> DetectionColumns:
    """Returns the detections; arguments and errors as for `checked_annotations`."""
    if isinstance(detections, Mapping):
        raise ValueError(
            "expected the detections as a list of COCO results, got a dictionary; are ground "
            "truth and detections swapped?"
        )
    records = _as_list(detections, "detections")
    return _checked(records, _detection_columns, _check_detection, image_ids, names)


def _checked(
    records: list,
    read: Callable[[list], Any],
    check: Callable[..., dict[str, Any]],
    image_ids: set[int],
    names: Mapping[int, str],
) -> Any:
    """Reads all records at once; one by one if anything about them is doubtful.

    Args:
        records: what came.
        read: records -> columns; may raise whatever records of a wrong form make it raise.
        check: (record, position, image_ids, names) -> the record in its plainest form, or a
            ValueError that names it.
        image_ids: ids that exist.
        names: category id -> name.
    """
    try:
        columns = read(records)
        if _is_sound(columns, image_ids, names):
            return columns
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        pass
    # What passes here has only unusual types: numbers as strings, whole numbers as floats.
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
    area = source.get("area")
    if area is not None:
        if not _finite_floats([area]):
            raise ValueError(f"{what}: expected a finite area, got {reprlib.repr(area)}")
        annotation["area"] = float(area)
    crowd = _finite_floats([source.get("iscrowd") or 0])
    if not crowd:
        raise ValueError(f"{what}: expected iscrowd 0 or 1, got {reprlib.repr(source['iscrowd'])}")
    return {**annotation, "iscrowd": int(crowd[0])}


def _check_detection(
    source: Any, position: int, image_ids: set[int], names: Mapping[int, str]
) -> dict[str, Any]:
    what = f"detection at position {position}"
    detection = _check_common(source, what, image_ids, names)
    if "score" not in source:
        raise ValueError(f"{what} (image id {source['image_id']}) has no 'score'")
    score = _finite_floats([source["score"]])
    if not score:
        raise ValueError(
            f"{what} (image id {source['image_id']}): expected a finite score, "
            f"got {reprlib.repr(source['score'])}"
        )
    return {**detection, "score": score[0]}


def _check_common(
    source: Any, what: str, image_ids: set[int], names: Mapping[int, str]
) -> dict[str, Any]:
    """Checks what annotations and detections share and returns a fresh record with it."""
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
    if not _is_one_of(category_id, names):
        raise ValueError(
            f"{what} (image id {image_id}) refers to category id {reprlib.repr(category_id)}; "
            f"the ground truth has {sorted(names)}"
        )
    bbox = _finite_floats(source["bbox"])
    if len(bbox) != 4 or min(bbox[2:]) < 0:
        raise ValueError(
            f"{what} (image id {image_id}): expected a finite bbox (x, y, width >= 0, "
            f"height >= 0), got {reprlib.repr(source['bbox'])}"
        )
    return {"image_id": int(image_id), "category_id": int(category_id), "bbox": bbox}


def _is_one_of(value: Any, ids: Iterable[int]) -> bool:
    """Whether it is among the ids; what cannot be looked up, such as a list, is not."""
    try:
        return value in ids
    except TypeError:
        return False


def _finite_floats(values: Any) -> list[float]:
    """Returns the values as floats, or nothing if any of them is not a finite number."""
    try:
        numbers = [float(value) for value in values]
    except (OverflowError, TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
