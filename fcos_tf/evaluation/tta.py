"""Test-time augmentation: detections on mirrored images and other image sizes, merged.

Shape shorthand: B images of H x W pixels, K detections in all views of an image, D kept.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from keras import ops

from fcos_tf.detecting.batches import COLUMNS, DetectFunction, compiled
from fcos_tf.ops.nms import class_wise_nms

# Images per merge: enough to keep the devices busy, with little memory.
_MERGE_BATCH = 64


def parse_tta(tta: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
    """Reads the items of `--tta=flip,640x640,800,1333`, which the flag has split at the commas.

    Args:
        tta: "flip", canvases such as "640x640", and pairs of items "800", "1333", the limits of
            the short and the long side; in any order.

    Returns:
        Whether to detect on mirrored images too; further image sizes.

    Raises:
        ValueError: an unknown or duplicate item.
    """
    text = ",".join(tta)
    found = re.findall(r"(flip|[1-9]\d*[xX][1-9]\d*|[1-9]\d*,[1-9]\d*)(?:,|$)", text)
    if ",".join(found) != text:
        raise ValueError(
            "--tta: expected flip and image sizes, such as flip,640x640 or flip,800,1333, "
            f"got {text!r}"
        )
    if len(set(found)) != len(found):
        raise ValueError(f"--tta: expected each item once, got {text!r}")
    return "flip" in found, tuple(size for size in found if size != "flip")


def mirror_images(images, image_sizes):
    """Mirrors the valid part, `image_sizes` [B, 2], of images [B, H, W, 3], but not the padding."""
    widths = ops.cast(image_sizes, "int32")[:, 1:]  # [B, 1]
    columns = ops.arange(ops.shape(images)[2], dtype="int32")[None]  # [1, W]
    columns = ops.where(columns < widths, widths - 1 - columns, columns)  # [B, W]
    return ops.vectorized_map(
        lambda pair: ops.take(pair[0], pair[1], axis=1), (ops.convert_to_tensor(images), columns)
    )


def mirror_boxes(
    boxes: np.ndarray, image_sizes: np.ndarray, inclusive_pixels: bool = False
) -> np.ndarray:
    """Brings boxes [B, D, 4] xyxy of mirrored images back to the images themselves."""
    widths = np.asarray(image_sizes, boxes.dtype)[:, None, 1] - inclusive_pixels  # [B, 1]
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return np.stack([widths - x2, y1, widths - x1, y2], axis=-1)


def mirrored_too(detect: DetectFunction, inclusive_pixels: bool = False) -> DetectFunction:
    """Returns a function that detects on images and their mirror images: [B, 2 D, ...].

    Boxes are mirrored back, in pixels of the resized images; with `inclusive_pixels` x2 and y2 are
    those of their last pixels.
    """
    mirror = compiled(mirror_images)

    def detect_twice(images, image_sizes):
        views = detect(images, image_sizes), detect(mirror(images, image_sizes), image_sizes)
        straight, mirrored = (
            {name: np.asarray(found[name]) for name in COLUMNS} for found in views
        )
        mirrored["boxes"] = mirror_boxes(mirrored["boxes"], image_sizes, inclusive_pixels)
        return {name: np.concatenate([straight[name], mirrored[name]], axis=1) for name in COLUMNS}

    return detect_twice


def merge_runs(
    runs: Sequence[Mapping[str, Sequence]], *, iou_threshold: float, max_detections: int
) -> dict[str, np.ndarray]:
    """Merges the detections of several runs, in the order of the images of the first.

    Each run has `image_ids` of N images, and `boxes`, `scores`, `labels` of each.

    Raises:
        ValueError: the runs have different images.
    """
    image_ids = list(runs[0]["image_ids"])
    parts = defaultdict(list)
    for run in runs:
        row_of = {image_id: row for row, image_id in enumerate(run["image_ids"])}
        odd = row_of.keys() ^ set(image_ids)
        if odd:
            raise ValueError(f"all views must have the same images; not all have id {min(odd)}")
        rows = [row_of[image_id] for image_id in image_ids]
        for name in COLUMNS:
            parts[name].append(np.stack(run[name])[rows])
    return merge_views(
        {name: np.concatenate(arrays, axis=1) for name, arrays in parts.items()},
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )


def merge_views(
    detections: Mapping[str, np.ndarray], *, iou_threshold: float, max_detections: int
) -> dict[str, np.ndarray]:
    """Merges detections of several views of each image by class-wise non-maximum suppression.

    `boxes` [B, K, 4] xyxy in one frame, `scores` [B, K] and `labels` [B, K], padding with score 0
    and label -1, become `max_detections` D in place of K, by descending score.
    """
    limits = {"iou_threshold": iou_threshold, "max_detections": max_detections}
    merge = compiled(partial(class_wise_nms, **limits))
    dtypes = {"boxes": np.float32, "scores": np.float32, "labels": np.int32}
    columns = [np.asarray(detections[name], dtype) for name, dtype in dtypes.items()]
    parts = []
    for start in range(0, len(columns[0]), _MERGE_BATCH):
        kept = merge(*(column[start : start + _MERGE_BATCH] for column in columns))
        parts.append([np.asarray(kept[name]) for name in COLUMNS])
    merged = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(COLUMNS, merged, strict=True))
