"""What a run cannot do with its data: boxes without points, levels or evaluations without boxes."""

import numpy as np

from fcos_tf.data.annotations import Annotations
from fcos_tf.image_size import MULTIPLE, parse_image_size
from fcos_tf.models.image_model import ImageModel

_MOST_IMAGES = 100
_SHARE = 0.01  # of boxes without a point, above which a warning is worth it


def unmeasurable(model: ImageModel, annotations: Annotations) -> list[str]:
    """The warning about a validation split without a box, for a detector."""
    if not model.protocols or not annotations.ignored.all():
        return []
    return [
        f"none of the {annotations.num_images} images to evaluate on has a box to find, so nothing "
        "can be measured and no best model is kept, only the last one; check --val_split"
    ]


def unlearnable(model: ImageModel, annotations: Annotations, image_size: str) -> list[str]:
    """Warnings about boxes without a point and pyramid levels without a box.

    Args:
        model: A detector that assigns boxes to points; for others there are no warnings.
        annotations: Of the training split; at most 100 images, evenly spread, are looked at.
        image_size: As of `fcos_tf.data.load`; without its random part.

    Returns:
        A line for each problem, with counts and what to change.
    """
    rule = parse_image_size(image_size).fixed()
    learned = annotations.rows(~annotations.ignored)
    known = np.flatnonzero((annotations.sizes > 0).all(axis=1))
    known = known[np.isin(known, learned.owners)]
    if not len(known) or not hasattr(model, "assigned_boxes"):
        return []
    chosen = known[np.unique(np.linspace(0, len(known) - 1, _MOST_IMAGES).astype(int))]
    missed, num_boxes, used, strides = [], 0, set(), ()
    for index in chosen:
        before = annotations.sizes[index]
        after = rule.resized(*before.tolist())
        boxes = learned.boxes[learned.owners == index] * np.tile((after / before)[::-1], 2)
        canvas = rule.canvas or tuple(-(-side // MULTIPLE) * MULTIPLE for side in after)
        targets = {"boxes": boxes[None].astype("float32"), "labels": np.zeros([1, len(boxes)], int)}
        assigned = model.assigned_boxes(targets, canvas)
        if assigned is None:
            return []
        matched, point_strides = np.asarray(assigned[0])[0], np.asarray(assigned[1])
        strides = np.unique(point_strides)
        used |= set(point_strides[matched >= 0].tolist())
        without = boxes[~np.isin(np.arange(len(boxes)), matched)]
        missed += np.sqrt(np.prod(without[:, 2:] - without[:, :2], axis=1)).tolist()
        num_boxes += len(boxes)
    where = f"{num_boxes} boxes in {len(chosen)} training images at --image_size={image_size}"
    lines = []
    if len(missed) > _SHARE * num_boxes:
        lines.append(
            f"{len(missed)} of {where} have no point that learns them (median side "
            f"{np.median(missed):.1f} px after resizing); a larger --image_size gives small boxes "
            "points"
        )
    idle = [str(round(stride)) for stride in strides if stride not in used]
    if idle:
        lines.append(
            f"none of {where} is learnt by points of stride {', '.join(idle)}; another "
            "--image_size, or fewer --fpn_levels, makes use of the whole pyramid"
        )
    return lines
