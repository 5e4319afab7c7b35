"""Arrays of boxes -> plain records, for scoring and result files.

In the package boxes are (x1, y1, x2, y2) and labels run from 0; records have (x, y, width, height)
and the data set's own category ids. The conversion is only here. NumPy only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Widths are differences: rounded to a thousandth of a pixel, 30.3 - 10.1 is 20.2 again, an area of
# exactly 32 * 32 stays that, and JSON is short.
COORDINATE_DECIMALS = 3


@dataclass(frozen=True)
class Records:
    """Ground truth and detections, both in pixels of the original images.

    Attributes:
        ground_truth: a COCO dictionary (`images`, `annotations`, `categories`).
        detections: COCO result records.
    """

    ground_truth: dict[str, list]
    detections: list[dict[str, Any]]


@dataclass(frozen=True)
class Scores:
    """The result of scoring; -1: no ground truth to measure on.

    Attributes:
        metrics: name -> number over all classes.
        per_class: class name -> its numbers, with `num_ground_truths`, the number of objects.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def ground_truth_to_coco(
    image_ids: Sequence[int],
    image_sizes: Sequence[Sequence[float]],
    boxes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
    *,
    areas: Sequence[np.ndarray] | None = None,
    ignored_boxes: Sequence[np.ndarray] | None = None,
    ignored_labels: Sequence[np.ndarray] | None = None,
) -> dict[str, list]:
    """Returns ground truth as a COCO dictionary.

    Args:
        image_ids: one id for each of B images.
        image_sizes: [B, 2] (height, width) in pixels.
        boxes: B arrays [M, 4] xyxy in pixels of their image; M may differ.
        labels: B arrays [M] of 0..C-1; negative ones are padding and left out.
        class_names: C names.
        category_ids: the data set's own id of each label; by default 1..C.
        areas: B arrays [M], each object's square pixels by the data set; NaN and by default: the
            area of the box.
        ignored_boxes: B arrays [K, 4] of ignored regions, as annotations with `iscrowd` 1, after
            all others.
        ignored_labels: B arrays [K], as `labels`.

    Returns:
        `images`, `annotations` (with `id` from 1, `area` and `iscrowd`) and `categories`.

    Raises:
        ValueError: a label of C or more; names and ids that differ in number.
    """
    ids = default_category_ids(class_names, category_ids)
    parts = [(_Rows(image_ids, boxes, labels, ids), areas, 0)]
    if ignored_boxes is not None:
        parts.append((_Rows(image_ids, ignored_boxes, ignored_labels, ids), None, 1))
    annotations: list[dict[str, Any]] = []
    for rows, row_areas, is_crowd in parts:
        of_box = np.prod(rows.xywh[:, 2:], axis=1).round(2 * COORDINATE_DECIMALS)
        given = rows.column(row_areas) if row_areas is not None else np.full_like(of_box, np.nan)
        columns = {
            "id": len(annotations) + 1 + np.arange(len(of_box)),
            **rows.columns,
            "area": np.where(np.isnan(given), of_box, given),
            "iscrowd": np.full(len(of_box), is_crowd),
        }
        annotations += to_dicts(columns)
    images = [
        {"id": int(image_id), "height": round(float(height)), "width": round(float(width))}
        for image_id, (height, width) in zip(image_ids, image_sizes, strict=True)
    ]
    categories = [{"id": key, "name": str(n)} for key, n in zip(ids, class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detections_to_records(
    image_ids: Sequence[int],
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Returns detections as COCO result records, image by image in the order given.

    Args:
        image_ids: one id for each of B images.
        boxes: B arrays [D, 4] xyxy in pixels of the original image; D may differ.
        scores: B arrays [D].
        labels: B arrays [D] of 0..C-1; negative ones are padding and left out.
        category_ids: the data set's own id of each of C labels.

    Returns:
        A list of `{image_id, category_id, bbox, score}`.

    Raises:
        ValueError: a label of C or more.
    """
    rows = _Rows(image_ids, boxes, labels, category_ids)
    return list(to_dicts({**rows.columns, "score": rows.column(scores)}))


def to_dicts(columns: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Columns [N, ...] by name -> N dictionaries of Python numbers and lists."""
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, row, strict=True))


def rows_by(values: np.ndarray) -> dict[int, np.ndarray]:
    """Value -> its rows in their order, int64; one sort, however many values differ."""
    order = np.argsort(values, kind="stable")
    different, starts = np.unique(values[order], return_index=True)
    return dict(zip(different.tolist(), np.split(order, starts[1:]), strict=False))


def default_category_ids(
    class_names: Sequence[str], category_ids: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Returns the category id of each label: those given, else 1..C.

    Raises:
        ValueError: names and ids that differ in number.
    """
    if category_ids is None:
        return tuple(range(1, len(class_names) + 1))
    if len(category_ids) != len(class_names):
        raise ValueError(
            f"expected a category id for each of {len(class_names)} class names, "
            f"got {len(category_ids)}"
        )
    return tuple(int(key) for key in category_ids)


class _Rows:
    """The boxes of all images without padding, N together.

    Attributes:
        xywh: float64 [N, 4], rounded.
        columns: `image_id` int64 [N], `category_id` int64 [N] and `bbox`, which is `xywh`.
    """

    def __init__(
        self,
        image_ids: Sequence[int],
        boxes: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        category_ids: Sequence[int],
    ):
        counts = [len(row_labels) for row_labels in labels]
        owners = np.repeat(np.asarray(image_ids, np.int64), counts)
        flat_labels = _concatenate(labels, np.int64)
        self._kept = flat_labels >= 0
        owners, flat_labels = owners[self._kept], flat_labels[self._kept]
        wrong = np.flatnonzero(flat_labels >= len(category_ids))
        if wrong.size:
            raise ValueError(
                f"image id {owners[wrong[0]]}: expected labels below {len(category_ids)}, "
                f"the number of classes of the data set, got {flat_labels[wrong[0]]}"
            )
        corners = _concatenate(boxes, np.float64).reshape(-1, 4)[self._kept]
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        self.xywh = np.round(xywh, COORDINATE_DECIMALS)
        ids = np.asarray(category_ids, np.int64)[flat_labels]
        self.columns = {"image_id": owners, "category_id": ids, "bbox": self.xywh}

    def column(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """B arrays with a number for each box -> float64 [N]."""
        return _concatenate(values, np.float64)[self._kept]


def _concatenate(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    """All numbers of the arrays in one dimension."""
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(a, dtype).ravel() for a in arrays)])
