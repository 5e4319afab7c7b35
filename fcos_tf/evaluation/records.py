"""Arrays of boxes -> the plain records that are scored and written to result files.

Inside the package boxes are (x1, y1, x2, y2) and labels run from 0; records hold
(x, y, width, height) and the data set's own category ids. Both directions of that border are
crossed here and nowhere else. NumPy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Boxes went through float32 and back; a thousandth of a pixel restores the whole numbers and
# hundredths of the annotation files (an area of exactly 32 * 32 stays that) and keeps JSON short.
COORDINATE_DECIMALS = 3


def ground_truth_to_coco(
    image_ids: Sequence[int],
    image_sizes: Sequence[Sequence[float]],
    boxes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> dict[str, list]:
    """Returns ground truth as a COCO dictionary.

    Args:
        image_ids: one id for each of B images.
        image_sizes: [B, 2] (height, width) in pixels.
        boxes: B arrays [M, 4] xyxy in pixels of their image; M may differ.
        labels: B arrays [M] of 0..C-1; negative ones are padding and left out.
        class_names: C names.
        category_ids: the data set's own id of each label; by default 1..C.

    Returns:
        `images`, `annotations` (with `id` from 1, `area` and `iscrowd`) and `categories`.

    Raises:
        ValueError: a label of C or more; names and ids that differ in number.
    """
    ids = default_category_ids(class_names, category_ids)
    annotations = []
    for image_id, rows, row_labels in zip(image_ids, boxes, labels, strict=True):
        _, xywh, categories = _rows(image_id, rows, row_labels, ids)
        for bbox, category_id in zip(xywh, categories, strict=True):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": int(image_id),
                "category_id": category_id,
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], 2 * COORDINATE_DECIMALS),
                "iscrowd": 0,
            }
            annotations.append(annotation)
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
    records = []
    for image_id, rows, row_scores, row_labels in zip(
        image_ids, boxes, scores, labels, strict=True
    ):
        kept, xywh, categories = _rows(image_id, rows, row_labels, category_ids)
        for bbox, category_id, score in zip(
            xywh, categories, np.asarray(row_scores)[kept].tolist(), strict=True
        ):
            records.append(
                {
                    "image_id": int(image_id),
                    "category_id": category_id,
                    "bbox": bbox,
                    "score": score,
                }
            )
    return records


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


def _rows(
    image_id: int, boxes: np.ndarray, labels: np.ndarray, category_ids: Sequence[int]
) -> tuple[np.ndarray, list[list[float]], list[int]]:
    """Returns the mask of rows that are no padding, and their xywh boxes and category ids."""
    labels = np.asarray(labels)
    kept = labels >= 0
    if np.any(labels >= len(category_ids)):
        raise ValueError(
            f"image id {image_id}: expected labels below {len(category_ids)}, the number of "
            f"classes of the data set, got {int(labels.max())}"
        )
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)[kept]
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    categories = [int(category_ids[label]) for label in labels[kept]]
    return kept, np.round(xywh, COORDINATE_DECIMALS).tolist(), categories
