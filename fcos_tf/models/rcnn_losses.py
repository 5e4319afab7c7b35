"""The four losses of Faster R-CNN, normalised (Ren et al., arXiv:1506.01497, equation 1).

Shape shorthand: B images, A anchors over all levels, S sampled regions, C classes.
"""

from keras import ops

from fcos_tf.models.image_model import sum_over_replicas
from fcos_tf.models.rcnn_rules import RCNNRules
from fcos_tf.ops.dtypes import at_least_float32
from fcos_tf.ops.losses import binary_cross_entropy, smooth_l1_loss


def rcnn_losses(
    first: dict, anchors_learn: dict, second: dict, rois_learn: dict, *, rules: RCNNRules
) -> dict:
    """Objectness and box loss of the RPN, classification and box loss of the box head.

    Args:
        first: `objectness_logits` [B, A] and `anchor_deltas` [B, A, 4].
        anchors_learn: outputs of `rpn_targets`.
        second: of the sampled regions, `class_logits` [B, S, C + 1], the last of background, and
            `box_deltas` [B, S, C or 1, 4], or none.
        rois_learn: outputs of `roi_targets`.
        rules: normaliser of the RPN, smoothness of the box losses.

    Returns:
        dict of float32 scalars: the losses of `FasterRCNN.loss_names`, each this replica's sum
        divided by the normaliser of all replicas; and its counts, of all replicas.
    """
    is_object = anchors_learn["positive_mask"]
    sampled = is_object | anchors_learn["negative_mask"]
    valid, positive = rois_learn["valid"], rois_learn["positive_mask"]
    class_logits = second["class_logits"]
    dtype = at_least_float32(class_logits.dtype)
    counts = [ops.sum(ops.cast(x, dtype)) for x in (sampled, is_object, valid, positive)]
    sums = ops.stack([ops.cast(ops.shape(valid)[0], dtype), *counts])
    images, anchors, objects, regions, positives = ops.unstack(sum_over_replicas(sums), 5)
    if rules.rpn_normaliser == "all":
        anchors = images * rules.anchors_per_image
    anchors, regions = ops.maximum(anchors, 1.0), ops.maximum(regions, 1.0)

    objectness = binary_cross_entropy(first["objectness_logits"], is_object)
    rpn_box = smooth_l1_loss(
        first["anchor_deltas"], anchors_learn["delta_targets"], beta=rules.box_beta
    )
    classes = rois_learn["class_targets"]
    log_probability = ops.log_softmax(ops.cast(class_logits, dtype))
    classification = -ops.take_along_axis(log_probability, classes[..., None], axis=-1)[..., 0]
    box = ops.zeros_like(classification)
    if "box_deltas" in second:
        deltas = second["box_deltas"]  # [B, S, C or 1, 4]
        own = ops.minimum(classes, ops.shape(deltas)[2] - 1)[..., None, None]
        deltas = ops.take_along_axis(deltas, own, axis=2)[..., 0, :]
        box = smooth_l1_loss(deltas, rois_learn["delta_targets"], beta=rules.box_beta)
    return {
        "rpn_objectness_loss": _sum_of(objectness, sampled) / anchors,
        "rpn_box_loss": _sum_of(rpn_box, is_object) / anchors,
        "classification_loss": _sum_of(classification, valid) / regions,
        "box_loss": _sum_of(box, positive) / regions,
        "num_positive_anchors": objects,
        "num_positive_regions": positives,
    }


def _sum_of(values, mask):
    return ops.sum(ops.where(mask, values, 0.0))
