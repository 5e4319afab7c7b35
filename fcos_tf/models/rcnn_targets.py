"""What anchors and proposals learn: matching by IoU, samples of an image, targets.

Shape shorthand: B images, A anchors over all levels, R proposals, S sampled regions, M padded
boxes, C classes.
"""

from keras import ops

from fcos_tf.models.image_model import replica_index
from fcos_tf.models.rcnn_detections import RPN_WEIGHTS
from fcos_tf.models.rcnn_rules import RCNNRules
from fcos_tf.ops.anchors import encode_deltas
from fcos_tf.ops.boxes import pairwise_iou
from fcos_tf.ops.matching import (
    IGNORED,
    best_by_iou,
    match_by_best,
    match_by_iou,
    pad_with_background,
    sample_balanced,
    sample_indices,
)

STEP_FACTOR = 2654435761  # odd: no two steps of a run have one seed
ANCHORS, REGIONS = 0, 1  # kinds of samples
POSITIVE_ANCHORS, POSITIVE_REGIONS = 0.5, 0.25  # most positives in a sample
BOXES_AT_ONCE = 100  # compared with all anchors


def match_anchors(anchors, boxes, labels, rules: RCNNRules):
    """The box that each anchor learns.

    Args:
        anchors: [A, 4] float32, xyxy pixels.
        boxes: [B, M, 4] float32, xyxy pixels, M at least 1; padding 0.
        labels: [B, M] int32; padding -1.
        rules: limits of the IoU, low-quality matches.

    Returns:
        [B, A] int32, index into the M boxes; -1 background, -2 ignored.
    """
    boxes = ops.cast(boxes, anchors.dtype)
    # Image by image, and many boxes in parts: 100 boxes and the 217,413 anchors of 800 x 1088
    # pixels are 87 MB an array.
    count = ops.shape(boxes)[1]  # a tensor where not static
    parts = -(-count // BOXES_AT_ONCE)
    size = -(-count // parts)

    def best_of_part(part):
        boxes, labels = part
        return best_by_iou(pairwise_iou(anchors, boxes), labels >= 0, low_quality=rules.low_quality)

    def match(image):
        boxes, labels = image
        if isinstance(count, int) and count <= BOXES_AT_ONCE:
            found = best_of_part(image)
        else:
            missing = [0, parts * size - count]
            boxes = ops.reshape(ops.pad(boxes, [missing, [0, 0]]), (parts, size, 4))
            labels = ops.reshape(ops.pad(labels, [missing], constant_values=-1), (parts, size))
            best, index, is_best = ops.map(best_of_part, (boxes, labels))  # [parts, A] each
            part = ops.cast(ops.argmax(best, axis=0), "int32")  # the first of equals
            index = ops.take_along_axis(index, part[None], axis=0)[0]
            found = ops.max(best, axis=0), part * size + index, ops.any(is_best, axis=0)
        return match_by_best(*found, high=rules.rpn_high, low=rules.rpn_low)

    return ops.map(match, (boxes, labels))


def rpn_targets(anchors, boxes, labels, *, rules: RCNNRules, seeds) -> dict:
    """The training targets of all anchors, and the sample that counts.

    Args:
        anchors: [A, 4] float32, xyxy pixels.
        boxes: [B, M, 4] float32, xyxy pixels; padding 0.
        labels: [B, M] int32; padding -1.
        rules: limits of the IoU, size of the sample.
        seeds: see `image_seeds`.

    Returns:
        dict: `positive_mask` and `negative_mask` [B, A] bool, the sample; `delta_targets`
        [B, A, 4] float32, 0 where not positive.
    """
    boxes, labels = pad_with_background(boxes, labels, anchors.dtype)
    matched = match_anchors(anchors, boxes, labels, rules)
    positive, negative = sample_balanced(matched, rules.anchors_per_image, POSITIVE_ANCHORS, seeds)
    targets = _delta_targets(anchors[None], boxes, matched, positive, RPN_WEIGHTS)
    return {"positive_mask": positive, "negative_mask": negative, "delta_targets": targets}


def roi_targets(first: dict, boxes, labels, *, num_classes: int, rules: RCNNRules, seeds) -> dict:
    """A sample of the proposals and the true boxes of each image, and what they learn.

    Args:
        first: `proposals` [B, R, 4] and `proposal_scores` [B, R], 0 for padding.
        boxes: [B, M, 4] float32, xyxy pixels; padding 0.
        labels: [B, M] int32, 0..C-1; padding -1.
        num_classes: C, also the label of background.
        rules: limit of the IoU, size of the sample, weights of the deltas.
        seeds: see `image_seeds`.

    Returns:
        dict: `rois` [B, S, 4] float32; `class_targets` [B, S] int32, C for background;
        `delta_targets` [B, S, 4] float32, 0 where not positive; `valid` and `positive_mask`
        [B, S] bool.
    """
    boxes, labels = pad_with_background(boxes, labels, first["proposals"].dtype)
    is_box = labels >= 0
    rois = ops.concatenate([first["proposals"], boxes], axis=1)  # [B, R + M + 1, 4]
    limits = {"high": rules.roi_overlap, "low": rules.roi_overlap}
    matched = match_by_iou(pairwise_iou(rois, boxes), is_box, low_quality=False, **limits)
    exists = ops.concatenate([first["proposal_scores"] > 0, is_box], axis=1)
    matched = ops.where(exists, matched, IGNORED)
    masks = sample_balanced(matched, rules.rois_per_image, POSITIVE_REGIONS, seeds)
    index, valid = sample_indices(*masks, rules.rois_per_image)  # [B, S]
    rois = ops.take_along_axis(rois, index[..., None], axis=1)
    matched = ops.take_along_axis(matched, index, axis=1)
    positive = valid & (matched >= 0)
    found = ops.take_along_axis(labels, ops.maximum(matched, 0), axis=1)
    return {
        "rois": rois,
        "class_targets": ops.where(positive, found, num_classes),
        "delta_targets": _delta_targets(rois, boxes, matched, positive, rules.box_weights),
        "valid": valid,
        "positive_mask": positive,
    }


def image_seeds(state, batch, kind: int):
    """A seed for each image of a replica, the same for any division of a batch among replicas.

    Args:
        state: [2] int, the seed and the number of the step.
        batch: B, the same on all replicas.
        kind: `ANCHORS` or `REGIONS`.

    Returns:
        [B, 2] uint32: one of seed and step, and 2 * row in the whole batch + kind.
    """
    rows = replica_index() * batch + ops.arange(batch, dtype="int32")
    seed, step = ops.unstack(ops.cast(state, "uint32"), 2)
    number = seed + step * ops.convert_to_tensor(STEP_FACTOR, dtype="uint32")
    rows = ops.cast(2 * rows + kind, "uint32")
    return ops.stack([ops.broadcast_to(number, ops.shape(rows)), rows], axis=1)


def _delta_targets(references, boxes, matched, positive, weights):
    """[B, N, 4]; a reference box that is not positive learns itself, of deltas 0."""
    index = ops.maximum(matched, 0)[..., None]
    wanted = ops.take_along_axis(boxes, index, axis=1)
    wanted = ops.where(positive[..., None], wanted, references)
    deltas = encode_deltas(references, wanted, weights=weights)
    return ops.where(positive[..., None], deltas, 0.0)
