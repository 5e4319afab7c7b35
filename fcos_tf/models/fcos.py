"""FCOS: Fully Convolutional One-Stage Object Detection (Tian et al., arXiv:1904.01355v5).

    images -> preprocess -> backbone C3-C5 -> pyramid P3-P7 -> head -> predictions of N points
    training:    fcos_targets -> focal loss, box loss, centerness loss
    prediction:  scores and boxes -> best 1000 of each level -> class-wise NMS -> detections

Shape shorthand: B images, N points over all levels, M padded boxes, C classes, D detections.
"""

from collections.abc import Mapping, Sequence

import keras

from fcos_tf.layers.backbones import build_backbone, resolve_preset
from fcos_tf.layers.blocks import EPSILON
from fcos_tf.layers.fpn import FeaturePyramid
from fcos_tf.layers.heads import FCOSHead
from fcos_tf.models.detector import Detector
from fcos_tf.models.fcos_detections import decode_points, fcos_detections, place_points
from fcos_tf.models.fcos_losses import BOX_LOSSES, QUALITIES, fcos_losses, loss_totals
from fcos_tf.models.fcos_presets import PRESETS
from fcos_tf.models.fcos_rules import RULES
from fcos_tf.models.fcos_targets import (
    ASSIGNERS,
    expand_size_ranges,
    fcos_targets,
    level_size_ranges,
)
from fcos_tf.models.image_model import unpack_inputs
from fcos_tf.ops.points import grid_sizes


@keras.saving.register_keras_serializable(package="fcos_tf")
class FCOS(Detector):
    """An anchor-free detector: every point predicts a class, a box and its centerness.

    `model(images)` gives raw predictions, `model.predict(images)` detections. The losses are part
    of the model: `compile` takes an optimizer only. Batches for `fit` are `(images, targets)` with
    the keys `boxes`, `labels` and, for padded images, `image_sizes`.

    On a backend other than TensorFlow, `predict` gives raw predictions (use `detect`), and the
    sizes of padded images have to be part of the inputs: `{"images": ..., "image_sizes": ...}`.

    Args:
        num_classes: C; None: as many as `class_names`.
        backbone: a name of `layers.backbones`, such as "resnet50", "regnetx_400mf" or
            "keras_cv/efficientnetv2_b0_imagenet".
        backbone_weights: None (random), "imagenet" (what Keras distributes, for the backbones that
            have it) or a `.keras` file of the backbone.
        backbone_norm: "batch", "sync" or "frozen" batch normalisation. None: "frozen" with
            backbone weights, "batch" without.
        norm_epsilon: of the backbone's batch normalisation.
        frozen_stages: how many parts of the backbone do not learn: 1 the stem, 2 the stem and
            the first stage, ... None: 2 with backbone weights, 0 without.
        stride_in_3x3: where a bottleneck halves the map. None, here and for `channel_order`,
            `mean` and `std`: what the backbone weights were trained with; without weights
            the 3x3 convolution, RGB and the ImageNet mean and deviation.
        fpn_levels: levels of the pyramid, from 3 (P3-P5) to 5 (P3-P7).
        fpn_channels: of the pyramid and of the head's towers.
        fpn_upsampling: "nearest" or "bilinear", on the pyramid's way down.
        head_convs: convolutions in a tower.
        head_norm: "group" or "none", after each of them.
        centerness_on: the tower that carries centerness, "box" or "class".
        quality: what the third output learns, "centerness", or "iou": the IoU of the predicted
            box with its target. With "iou" the box loss is not weighted.
        rules: the conventions in which published implementations differ, by the name of one of
            them: a key of `models.fcos_rules.RULES`.
        assigner: which point learns which box: a key of `models.fcos_targets.ASSIGNERS`.
        box_loss: "giou", "iou" or "l1".
        box_loss_weight: its factor in the total.
        size_ranges: for each level the smallest and largest ltrb distance, in pixels, it learns.
            None: limits at 64, 128, 256 and 512 pixels, the last level's without an end.
        center_sampling_radius: in strides; None or 0 turns centre sampling off.
        score_threshold: least class probability of a candidate, before centerness; or its least
            score, under rules that have it so.
        nms_threshold: IoU above which the weaker of two boxes of a class goes.
        topk_per_level: candidates of each level that reach NMS.
        max_detections: D.
        channel_order: "rgb" or "bgr", what the backbone sees. Images come in as RGB.
        mean: three numbers in 0-255, in `channel_order`.
        std: three numbers, likewise.
        **kwargs: `class_names`, `category_ids` and `image_size`, kept with the model, see
            `ImageModel`; `name` and `dtype`.

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

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        backbone_norm: str | None = None,
        norm_epsilon: float = EPSILON,
        frozen_stages: int | None = None,
        stride_in_3x3: bool | None = None,
        fpn_levels: int = 5,
        fpn_channels: int = 256,
        fpn_upsampling: str = "nearest",
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
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        topk_per_level: int = 1000,
        max_detections: int = 100,
        channel_order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs,
    ):
        for name, value, choices in (
            ("box_loss", box_loss, BOX_LOSSES),
            ("quality", quality, QUALITIES),
            ("rules", rules, RULES),
            ("assigner", assigner, ASSIGNERS),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        preset = resolve_preset(
            backbone,
            backbone_weights,
            norm=backbone_norm,
            frozen_stages=frozen_stages,
            stride_in_3x3=stride_in_3x3,
            channel_order=channel_order,
            mean=mean,
            std=std,
        )
        numbers = range(3, 3 + fpn_levels)
        super().__init__(
            num_classes,
            channel_order=preset.channel_order,
            mean=preset.mean,
            std=preset.std,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
            count_names={
                "num_positives": "positive points on all levels, at least 1",
                **{f"num_positives_p{k}": f"positive points on P{k}" for k in numbers},
            },
            **kwargs,
        )
        self.detail_names = tuple(f"num_positives_p{k}" for k in numbers)
        # What the model was built from; loading a saved model needs no backbone weights.
        self._architecture = {
            "backbone": backbone,
            "backbone_norm": preset.norm,
            "norm_epsilon": norm_epsilon,
            "frozen_stages": preset.frozen_stages,
            "stride_in_3x3": preset.stride_in_3x3,
            "fpn_levels": fpn_levels,
            "fpn_channels": fpn_channels,
            "fpn_upsampling": fpn_upsampling,
            "head_convs": head_convs,
            "head_norm": head_norm,
            "centerness_on": centerness_on,
            "rules": rules,
        }
        self.quality = quality
        self.rules = RULES[rules]
        self.inclusive_pixels = self.rules.inclusive_pixels
        self.assigner = assigner
        self.box_loss = box_loss
        self.box_loss_weight = box_loss_weight
        self.center_sampling_radius = center_sampling_radius
        self.topk_per_level = topk_per_level

        self.backbone = build_backbone(
            backbone,
            weights=backbone_weights,
            stride_in_3x3=preset.stride_in_3x3,
            norm=preset.norm,
            norm_epsilon=norm_epsilon,
            frozen_stages=preset.frozen_stages,
            dtype=self.dtype_policy,
        )
        self.fpn = FeaturePyramid(
            fpn_channels,
            levels=fpn_levels,
            upsampling=fpn_upsampling,
            dtype=self.dtype_policy,
            name="fpn",
        )
        self.strides = self.fpn.strides
        self.size_ranges = level_size_ranges(fpn_levels, size_ranges)
        self.head = FCOSHead(
            self.num_classes,
            strides=self.strides,
            channels=fpn_channels,
            num_convs=head_convs,
            norm=head_norm,
            centerness_on=centerness_on,
            box_activation=self.rules.box_activation,
            level_scales=self.rules.level_scales,
            dtype=self.dtype_policy,
            name="head",
        )
        self.build((None, None, None, 3))

    def build(self, input_shape):
        """Creates all variables; their shapes do not depend on the image size."""
        if self.built:
            return
        self.fpn.build({name: x.shape for name, x in self.backbone.output.items()})
        self.head.build([(None, None, None, self.fpn.channels)] * len(self.strides))
        super().build(input_shape)

    def call(self, inputs, training=False):
        """Raw predictions.

        Args:
            inputs: images [B, H, W, 3], uint8 or float RGB 0-255, or a dict of `images` and
                `image_sizes` [B, 2], the (height, width) of each image before padding.
            training: whether batch normalisation, where it is not frozen, uses the batch.

        Returns:
            dict of float32: `class_logits` [B, N, C], `ltrb` [B, N, 4] in strides,
            `centerness_logits` [B, N].
        """
        images, image_sizes = unpack_inputs(inputs)
        x = self.preprocess(images, image_sizes)
        features = self.fpn(self.backbone(x, training=training))
        return self.head(list(features.values()))

    def compute_losses(self, predictions, targets, image_size, totals=None):
        """Focal, box and centerness loss of a batch (FCOS, equation 2 and section 3.4).

        Args:
            predictions: what `call` returns.
            targets: dict with `boxes` [B, M, 4] xyxy pixels and `labels` [B, M], padding -1.
            image_size: (height, width) of the padded images.
            totals: `compute_totals` of the batch that these images are a part of, on all
                replicas; None: they are all of this replica's.

        Returns:
            dict of float32 scalars: `loss_names`, each this replica's sum over the normaliser of
            all replicas; `num_positives`, the number of positive points on all replicas, at least
            1; and how many of them each level has, `num_positives_p3` and so on.
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
        """The loss normalisers of this replica's images: `fcos_losses.loss_totals`."""
        if ASSIGNERS[self.assigner].uses_predictions:
            return None
        return loss_totals(*self._assign_targets(targets, image_size), self.strides)

    def _assign_targets(self, targets, image_size, predictions=None):
        """What `fcos_targets` returns, and the stride of every point."""
        grids = grid_sizes(*image_size, self.strides)
        points, point_strides = place_points(grids, self.strides, image_size, self.rules)
        learnt = fcos_targets(
            points,
            point_strides,
            expand_size_ranges(self.size_ranges, grids),
            targets["boxes"],
            targets["labels"],
            num_classes=self.num_classes,
            center_sampling_radius=self.center_sampling_radius,
            rules=self.rules,
            assigner=self.assigner,
            predictions=predictions,
        )
        return learnt, point_strides

    def decode(
        self,
        raw,
        image_size,
        image_sizes=None,
        *,
        score_threshold=None,
        max_detections=None,
        jit_compile=False,
    ):
        """Detections from raw predictions, see `Detector.decode` and `fcos_detections`."""
        return fcos_detections(
            raw,
            image_size,
            image_sizes,
            strides=self.strides,
            score_threshold=self.score_threshold if score_threshold is None else score_threshold,
            nms_threshold=self.nms_threshold,
            topk_per_level=self.topk_per_level,
            max_detections=self.max_detections if max_detections is None else max_detections,
            rules=self.rules,
            jit_compile=jit_compile,
        )

    def candidates(self, raw, image_size):
        """The boxes and scores of all N points, see `Detector.candidates`."""
        boxes, scores, _ = decode_points(raw, image_size, strides=self.strides, rules=self.rules)
        return {"boxes": boxes, "scores": scores}

    def get_config(self):
        """The constructor's arguments, with every None resolved."""
        return {
            **super().get_config(),
            **self._architecture,
            "quality": self.quality,
            "assigner": self.assigner,
            "box_loss": self.box_loss,
            "box_loss_weight": self.box_loss_weight,
            "size_ranges": self.size_ranges,
            "center_sampling_radius": self.center_sampling_radius,
            "topk_per_level": self.topk_per_level,
        }
