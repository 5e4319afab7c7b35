"""The best proposals of a two-stage detector, beside the ground truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from PIL import Image

from fcos_tf.models.detector import Detector
from fcos_tf.ops.boxes import pairwise_iou
from fcos_tf.visualization.gallery import draw_gallery

COVERED = 0.5  # least IoU of a proposal with the object that it covers


def draw_proposals(
    model: Detector,
    images: Sequence[Any],
    targets: Sequence[dict],
    class_names: Sequence[str],
    *,
    num_boxes: int = 20,
) -> Image.Image:
    """Draws the objects of each image, and its best proposals with their objectness.

    A proposal that covers an object, with an IoU of `COVERED` or more, has another colour and
    name, "object", than one that covers none, "other".

    Args:
        model: a detector with `proposals` among its `raw_outputs`.
        images: B arrays [H, W, 3], 0-255.
        targets: B dictionaries of `boxes` [M, 4] xyxy in pixels of the image, `labels` [M] with -1
            as padding, and `image_sizes` [2].
        class_names: of the labels.
        num_boxes: most proposals of an image.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: the model has no proposals; names it.
    """
    if "proposals" not in getattr(model, "raw_outputs", ()):
        raise ValueError(
            f"a {type(model).__name__} has no proposals to draw; expected a model with them, such "
            "as FasterRCNN"
        )
    found = []
    for image, target in zip(images, targets, strict=True):
        inputs = {"images": image[None], "image_sizes": np.float32(target["image_sizes"])[None]}
        raw = model.predict_raw(inputs)
        boxes, scores = (
            ops.convert_to_numpy(raw[name])[0, :num_boxes]
            for name in ("proposals", "proposal_scores")
        )
        overlaps = ops.convert_to_numpy(pairwise_iou(boxes, np.float32(target["boxes"])))
        covers = overlaps.max(axis=-1, initial=0) >= COVERED
        labels = len(class_names) + np.where(covers, 0, 1)
        found.append({"boxes": boxes, "scores": scores, "labels": np.where(scores > 0, labels, -1)})
    names = (*class_names, "object", "other")
    return draw_gallery(
        images, targets, found, names, score_threshold=0.0, panel_size=512, noun="proposal"
    )
