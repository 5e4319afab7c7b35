"""FCOS: Fully Convolutional One-Stage Object Detection (Tian et al., arXiv:1904.01355v5).

    images -> preprocess -> backbone C3-C5 -> pyramid P3-P7 -> head -> predictions of N points
    training:    fcos_targets -> focal loss, box loss, centerness loss
    prediction:  scores and boxes -> best 1000 of each level -> class-wise NMS -> detections

Shape shorthand: B images, N points over all levels, M padded boxes, C classes, D detections.
"""

import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from fcos_tf.layers.blocks import check_choices, check_range
from fcos_tf.layers.heads import CENTERNESS_BRANCHES, INITIAL_DISTANCE, FCOSHead
from fcos_tf.models.detector import PyramidDetector
from fcos_tf.models.fcos_detections import decode_points, fcos_detections, place_points
from fcos_tf.models.fcos_presets import PRESETS
from fcos_tf.models.fcos_rules import RULES
from fcos_tf.models.fcos_training import (
    ASSIGNERS,
    BOX_LOSSES,
    JOINT_LOSSES,
    QUALITIES,
    count_names,
    fcos_losses,
    fcos_targets,
    level_size_ranges,
    loss_totals,
    point_levels,
)
from fcos_tf.ops.dtypes import at_least_float32
from fcos_tf.ops.points import grid_sizes


@keras.saving.register_keras_serializable(package="fcos_tf")
class FCOS(PyramidDetector):
    """An anchor-free detector: every point predicts a class, a box and its centerness.

    `model(images)` gives raw predictions, `model.predict(images)` detections. The losses are part
    of the model: `compile` takes an optimizer only. Batches for `fit` are `(images, targets)` with
    the keys `boxes`, `labels` and, for padded images, `image_sizes`.

    On a backend other than TensorFlow, `predict` gives raw predictions (use `detect`), and the
    sizes of padded images are part of the inputs: `{"images": ..., "image_sizes": ...}`.

    Args:
        num_classes: C; None: the number of `class_names`.
        fpn_levels: levels of the pyramid, from 3 (P3-P5) to 5 (P3-P7).
        head_convs: convolutions in a tower.
        head_norm: "group" or "none", after each of them.
        centerness_on: the tower of the centerness output, "box" or "class".
        quality: target of the third output: "centerness", or "iou", the IoU of the predicted box
            with its target, without weights in the box loss; "joint" or "varifocal": there is no
            such output, and the class score learns the IoU, see `models.fcos_training`.
        rules: conventions of a published implementation: a key of `models.fcos_rules.RULES`.
        assigner: assignment of boxes to points: a key of `models.fcos_training.ASSIGNERS`.
        box_loss: "giou", "iou" or "l1".
        box_loss_weight: its factor in the total.
        size_ranges: smallest and largest ltrb distance of each level, in pixels. None: limits at
            64, 128, 256 and 512 pixels, the last level without an upper limit. Of "fcos" only.
        center_sampling_radius: in strides; None or 0: no centre sampling. Likewise.
        topk_per_level: candidates of each level that reach NMS.
        **kwargs: `backbone`, `fpn_channels` and more, see `PyramidDetector`; `score_threshold` (of
            the class probability or the score, as the rules say).

    Raises:
        ValueError: names the argument that is out of its range.

    Example:
        >>> model = FCOS(num_classes=3, backbone="resnet18", fpn_channels=32)
        >>> tuple(model(keras.ops.zeros((1, 64, 64, 3)))["class_logits"].shape)
        (1, 86, 3)
    """

    loss_names: Mapping[str, str] = {
        "classification_loss": "focal loss of all points and classes",
        "box_loss": "loss of the boxes of positive points",
        "centerness_loss": "binary cross-entropy of the centerness of positive points",
    }
    raw_outputs: Mapping[str, str] = {
        "class_logits": "[B, N, C]",
        "ltrb": "[B, N, 4], distances from the points to the sides of their boxes, in strides",
        "centerness_logits": "[B, N]",
    }
    thresholds = ("score_threshold", "nms_threshold", "topk_per_level", "max_detections")
    class_layers = ("class_logits",)
    presets = PRESETS
    weight_arguments = (
        "backbone", "stride_in_3x3", "fpn_levels", "fpn_channels", "head_convs", "head_norm",
        "centerness_on", "quality", "rules", "channel_order",
    )  # fmt: skip

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        fpn_levels: int = 5,
        head_convs: int = 4,
        head_norm: str = "group",
        centerness_on: str = "box",
        quality: str = "centerness",
        rules: str = "fcos_tf",
        assigner: str = "fcos",
        box_loss: str = "giou",
        box_loss_weight: float = 1.0,
        size_ranges: Sequence[tuple[float, float]] | None = None,
        center_sampling_radius: float | None = 1.5,
        topk_per_level: int = 1000,
        **kwargs,
    ):
        check_choices(
            box_loss=(box_loss, BOX_LOSSES),
            quality=(quality, QUALITIES),
            centerness_on=(centerness_on, CENTERNESS_BRANCHES),
            rules=(rules, RULES),
            assigner=(assigner, ASSIGNERS),
        )
        radius = 0 if center_sampling_radius is None else center_sampling_radius
        check_range(
            head_convs=(head_convs, 0, 100),
            box_loss_weight=(box_loss_weight, 0.0, 1e6),
            center_sampling_radius=(radius, 0.0, math.inf),
            topk_per_level=(topk_per_level, 1, 10**9),
        )
        if ASSIGNERS[assigner].uses_predictions and RULES[rules].box_activation != "relu":
            raise ValueError(
                f"assigner {assigner!r} needs first boxes of some strides; expected rules whose "
                f"distances are of a relu, got {rules!r}"
            )
        ranges = level_size_ranges(fpn_levels, size_ranges)
        if assigner != "fcos" and (
            center_sampling_radius not in (None, 0, 1.5)
            or ranges != level_size_ranges(fpn_levels, None)
        ):
            raise ValueError(
                f"center_sampling_radius and size_ranges: not used with assigner {assigner!r}; "
                f"leave them out, got {center_sampling_radius} and {ranges}"
            )
        joint = quality in JOINT_LOSSES
        if joint and centerness_on != "box":
            raise ValueError(
                f"centerness_on: not used with quality {quality!r}, which has no such output; "
                f"leave it out, got {centerness_on!r}"
            )
        counts, loss_names, raw = count_names(fpn_levels), dict(self.loss_names), self.raw_outputs
        if joint:
            del loss_names["centerness_loss"]
            kind = {"joint": "quality focal"}.get(quality, quality)
            loss_names["classification_loss"] = f"{kind} loss of all points and classes"
            raw = {name: raw[name] for name in ("class_logits", "ltrb")}
        kwargs |= {"count_names": counts, "loss_names": loss_names}
        super().__init__(num_classes, fpn_levels=fpn_levels, **kwargs)
        self.raw_outputs = raw
        self.detail_names = tuple(counts)[1:]
        self._architecture |= {
            "head_convs": head_convs,
            "head_norm": head_norm,
            "centerness_on": centerness_on,
            "rules": rules,
        }
        self.quality, self.assigner = quality, assigner
        self.rules = RULES[rules]
        self.inclusive_pixels = self.rules.inclusive_pixels
        self.box_loss, self.box_loss_weight = box_loss, box_loss_weight
        self.center_sampling_radius = center_sampling_radius
        self.topk_per_level, self.size_ranges = topk_per_level, ranges
        self.head = FCOSHead(
            self.num_classes,
            strides=self.strides,
            channels=self.fpn.channels,
            num_convs=head_convs,
            norm=head_norm,
            centerness_on=centerness_on if "centerness_logits" in raw else None,
            box_activation=self.rules.box_activation,
            level_scales=self.rules.level_scales,
            # Boxes of an IoU of 0 would teach the class scores to fall at the positive points.
            initial_distance=INITIAL_DISTANCE if assigner != "fcos" or joint else 0.0,
            dtype=self.dtype_policy,
            name="head",
        )
        self.build((None, None, None, 3))

    def build_heads(self, shape):
        """Builds the head."""
        self.head.build([shape] * len(self.strides))

    def call(self, inputs, training=False):
        """Raw predictions.

        Args:
            inputs: images [B, H, W, 3], uint8 or float RGB 0-255, or a dict of `images` and
                `image_sizes` [B, 2], the (height, width) of each image before padding.
            training: whether batch normalisation uses the batch, unless frozen.

        Returns:
            dict of `raw_outputs`, float32.
        """
        return self.head(self.features(inputs, training=training))

    def compute_losses(self, predictions, targets, image_size, totals=None):
        """The three losses of a batch and its counts, see `forward_losses` and `fcos_losses`.

        The targets hold `boxes` [B, M, 4] xyxy pixels and `labels` [B, M], padding -1.
        """
        learnt, point_strides = self._assign_targets(targets, image_size, predictions)
        return fcos_losses(
            predictions,
            learnt,
            point_strides,
            strides=self.strides,
            quality=self.quality,
            box_loss=self.box_loss,
            box_loss_weight=self.box_loss_weight,
            rules=self.rules,
            totals=totals,
        )

    def compute_totals(self, targets, image_size):
        """The loss normalisers of this replica's images: `loss_totals`."""
        if self.quality == "joint" or ASSIGNERS[self.assigner].uses_predictions:
            return None
        return loss_totals(*self._assign_targets(targets, image_size), self.strides)

    def points(self, image_size):
        """See `Detector.points`."""
        grids = grid_sizes(*image_size, self.strides)
        points = place_points(grids, self.strides, image_size, self.rules)
        return tuple(ops.cast(x, at_least_float32(self.compute_dtype)) for x in points)

    def assigned_boxes(self, targets, image_size, predictions=None):
        """See `Detector.assigned_boxes`; None for an assigner that lacks its predictions."""
        if ASSIGNERS[self.assigner].uses_predictions and predictions is None:
            return None
        learnt, point_strides = self._assign_targets(targets, image_size, predictions)
        return learnt["matched_gt_index"], point_strides

    def _assign_targets(self, targets, image_size, predictions=None):
        """The outputs of `fcos_targets`, and the stride of every point."""
        grids = grid_sizes(*image_size, self.strides)
        levels = point_levels(*self.points(image_size), self.size_ranges, grids)
        learnt = fcos_targets(
            levels,
            targets["boxes"],
            targets["labels"],
            num_classes=self.num_classes,
            center_sampling_radius=self.center_sampling_radius,
            rules=self.rules,
            assigner=self.assigner,
            predictions=predictions,
        )
        return learnt, levels.strides

    def choose(self, raw, image_size, image_sizes, **limits):
        """Detections from raw predictions, see `Detector.decode` and `fcos_detections`."""
        return fcos_detections(
            raw,
            image_size,
            image_sizes,
            strides=self.strides,
            topk_per_level=self.topk_per_level,
            rules=self.rules,
            **limits,
        )

    def point_predictions(self, raw, image_size):
        """See `Detector.point_predictions`; the score is sqrt(class score * quality)."""
        boxes, scores, class_scores = decode_points(raw, image_size, self.strides, self.rules)
        found = {"boxes": boxes, "scores": scores, "class_scores": class_scores}
        if "centerness_logits" in raw:
            found["quality"] = ops.sigmoid(raw["centerness_logits"])
        return found

    def get_config(self):
        """The constructor's arguments, with every None resolved."""
        names = ("quality", "assigner", "box_loss", "box_loss_weight", "size_ranges")
        names += ("center_sampling_radius", "topk_per_level")
        return super().get_config() | {name: getattr(self, name) for name in names}
