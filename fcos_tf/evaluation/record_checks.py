"""What is wrong with COCO records, before they are scored: ValueErrors that name the record."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


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


def checked_annotations(
    ground_truth: Mapping[str, Any], image_ids: set[int], names: Mapping[int, str]
) -> list[dict]:
    """Returns fresh annotations with what is missing in them filled in.

    Args:
        ground_truth: a COCO dictionary.
        image_ids: ids that exist.
        names: category id -> name.
    """
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


def checked_detections(
    detections: Iterable[Mapping[str, Any]], image_ids: set[int], names: Mapping[int, str]
) -> list[dict]:
    """Returns fresh records of the detections; arguments as for `checked_annotations`."""
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
