"""Targets of KerasCV and KerasHub as this package's."""

from collections.abc import Mapping

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
    a, b, c, d = tf.unstack(tf.cast(boxes, tf.float32), axis=-1)
    form = bounding_box_format.removeprefix("rel_")
    if form == "yxyx":
        a, b, c, d = b, a, d, c
    elif form == "xywh":
        c, d = a + c, b + d
    elif form == "center_xywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    boxes = tf.stack([a, b, c, d], axis=-1)
    if relative:
        height, width = image_size
        boxes *= tf.constant([width, height, width, height], tf.float32)
    return {"boxes": tf.where(labels[..., None] >= 0, boxes, 0.0), "labels": labels}
