"""Targets of KerasCV and KerasHub as this package's."""

from collections.abc import Mapping

import keras
import tensorflow as tf

FORMATS = ("xyxy", "yxyx", "xywh", "center_xywh", "rel_xyxy", "rel_yxyx", "rel_xywh")


def from_keras_cv(
    bounding_boxes: Mapping[str, tf.Tensor],
    bounding_box_format: str,
    image_size: tuple[int, int] | None = None,
) -> dict[str, tf.Tensor]:
    """Targets for `fit` from a KerasCV dictionary of `boxes` and `classes` (or `labels`).

    Args:
        bounding_boxes: `boxes` [B, M, 4] and `classes` [B, M], dense with padding -1, or ragged.
        bounding_box_format: One of `FORMATS`; the corner (x, y) comes first in "xywh", and "rel_"
            are fractions of the image.
        image_size: (height, width) of the images; needed for the relative formats.

    Returns:
        `boxes` float32 [B, M, 4] xyxy in pixels, padding 0; `labels` int32 [B, M], padding -1.

    Raises:
        ValueError: An unknown format, or a relative one without `image_size`.

    Example:
        >>> boxes = {"boxes": [[[10.0, 20.0, 30.0, 40.0]]], "classes": [[2]]}
        >>> from_keras_cv(boxes, "xywh")["boxes"].numpy().tolist()
        [[[10.0, 20.0, 40.0, 60.0]]]
    """
    if bounding_box_format not in FORMATS:
        raise ValueError(
            f"bounding_box_format: expected one of {', '.join(FORMATS)}, "
            f"got {bounding_box_format!r}"
        )
    relative = bounding_box_format.startswith("rel_")
    if relative and image_size is None:
        raise ValueError(f"image_size: expected (height, width) with {bounding_box_format}")
    boxes = bounding_boxes["boxes"]
    labels = bounding_boxes["classes" if "classes" in bounding_boxes else "labels"]
    if isinstance(labels, tf.RaggedTensor):
        labels = labels.to_tensor(-1)
    if isinstance(boxes, tf.RaggedTensor):
        boxes = boxes.to_tensor(-1, shape=[None, None, 4])
    labels = tf.cast(labels, tf.int32)
    height, width = image_size if relative else (None, None)
    boxes = keras.utils.bounding_boxes.convert_format(
        tf.cast(boxes, tf.float32), bounding_box_format, "xyxy", height=height, width=width
    )
    return {"boxes": tf.where(labels[..., None] >= 0, boxes, 0.0), "labels": labels}
