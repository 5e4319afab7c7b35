"""FCOS: Fully Convolutional One-Stage Object Detection (Tian et al., arXiv:1904.01355v5).

    images -> preprocess -> backbone C3-C5 -> pyramid P3-P7 -> head -> predictions of N points
    training:    fcos_targets -> focal loss, box loss, centerness loss
    prediction:  scores and boxes -> best 1000 of each level -> class-wise NMS -> detections

Shape shorthand: B images, N points over all levels, M padded boxes, C classes, D detections.
"""

from collections.abc import Sequence

import keras
from keras import ops

from fcos_tf.layers.backbones import build_backbone, resolve_preset
from fcos_tf.layers.fpn import FeaturePyramid
from fcos_tf.layers.heads import FCOSHead
from fcos_tf.models.detector import Detector, sum_over_replicas, unpack_inputs
from fcos_tf.models.fcos_detections import fcos_detections
from fcos_tf.models.fcos_targets import SIZE_RANGES, expand_size_ranges, fcos_targets
from fcos_tf.ops import losses
from fcos_tf.ops.points import grid_sizes, pyramid_points

STRIDES = (8, 16, 32, 64, 128)
BOX_LOSSES = {"giou": losses.giou_loss, "iou": losses.iou_loss, "l1": losses.l1_loss}
QUALITIES = ("centerness", "iou")


@keras.saving.register_keras_serializable(package="fcos_tf")
class FCOS(Detector):
    """An anchor-free detector: every point predicts a class, a box and its centerness.

    `model(images)` gives raw predictions, `model.predict(images)` detections. The losses are part
    of the model: `compile` takes an optimizer only. Batches for `fit` are `(images, targets)` with
    the keys `boxes`, `labels` and, for padded images, `image_sizes`.

    On a backend other than TensorFlow, `predict` gives raw predictions (use `detect`), and the
    sizes of padded images have to be part of the inputs: `{"images": ..., "image_sizes": ...}`.

    Args:
        num_classes: C.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101".
        backbone_weights: None (random), "imagenet" (what `keras.applications` distributes;
            ResNet-50 and 101) or a `.keras` file of the backbone.
        backbone_norm: "batch", "sync" or "frozen" batch normalisation. None: "frozen" with
            backbone weights, "batch" without.
        frozen_stages: how many parts of the backbone do not learn: 1 the stem, 2 the stem and
            the first stage, ... None: 2 with backbone weights, 0 without.
        stride_in_3x3: where a bottleneck halves the map. None, here and for `channel_order`,
            `mean` and `std`: what the backbone weights were trained with; without weights
            the 3x3 convolution, RGB and the ImageNet mean and deviation.
        fpn_channels: of the pyramid and of the head's towers.
        head_convs: convolutions in a tower.
        centerness_on: the tower that carries centerness, "box" or "class".
        quality: what the third output learns, "centerness", or "iou": the IoU of the predicted
            box with its target. With "iou" the box loss is not weighted.
        box_loss: "giou", "iou" or "l1".
        size_ranges: for each level the smallest and largest ltrb distance, in pixels, it learns.
        center_sampling_radius: in strides; None or 0 turns centre sampling off.
        score_threshold: least class probability of a candidate, before centerness.
        nms_threshold: IoU above which the weaker of two boxes of a class goes.
        topk_per_level: candidates of each level that reach NMS.
        max_detections: D.
        class_names: kept with the model; C of them.
        channel_order: "rgb" or "bgr", what the backbone sees. Images come in as RGB.
        mean: three numbers in 0-255, in `channel_order`.
        std: three numbers, likewise.

    Raises:
        ValueError: names the argument that is out of its range.

    Example:
        >>> model = FCOS(num_classes=3, backbone="resnet18", fpn_channels=32)
        >>> model(keras.ops.zeros((1, 64, 64, 3)))["class_logits"].shape
        (1, 86, 3)
    """

    loss_names = ("classification_loss", "box_loss", "centerness_loss")

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        backbone_norm: str | None = None,
        frozen_stages: int | None = None,
        stride_in_3x3: bool | None = None,
        fpn_channels: int = 256,
        head_convs: int = 4,
        centerness_on: str = "box",
        quality: str = "centerness",
        box_loss: str = "giou",
        size_ranges: Sequence[tuple[float, float]] = SIZE_RANGES,
        center_sampling_radius: float | None = 1.5,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        topk_per_level: int = 1000,
        max_detections: int = 100,
        class_names: Sequence[str] | None = None,
        channel_order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs,
    ):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1; got {num_classes}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"expected {num_classes} class_names; got {len(class_names)}")
        if box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss must be one of {', '.join(BOX_LOSSES)}; got {box_loss!r}")
        if quality not in QUALITIES:
            raise ValueError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}")
        if len(size_ranges) != len(STRIDES):
            raise ValueError(f"expected {len(STRIDES)} size_ranges; got {len(size_ranges)}")
        preset = resolve_preset(
            backbone_weights,
            norm=backbone_norm,
            frozen_stages=frozen_stages,
            stride_in_3x3=stride_in_3x3,
            channel_order=channel_order,
            mean=mean,
            std=std,
        )
        super().__init__(
            channel_order=preset.channel_order,
            mean=preset.mean,
            std=preset.std,
            class_names=class_names,
            **kwargs,
        )
        # What the model was built from; loading a saved model needs no backbone weights.
        self._architecture = {
            "num_classes": num_classes,
            "backbone": backbone,
            "backbone_norm": preset.norm,
            "frozen_stages": preset.frozen_stages,
            "stride_in_3x3": preset.stride_in_3x3,
            "fpn_channels": fpn_channels,
            "head_convs": head_convs,
            "centerness_on": centerness_on,
        }
        self.num_classes = num_classes
        self.quality = quality
        self.box_loss = box_loss
        self.size_ranges = tuple((float(low), float(high)) for low, high in size_ranges)
        self.center_sampling_radius = center_sampling_radius
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.topk_per_level = topk_per_level
        self.max_detections = max_detections

        self.backbone = build_backbone(
            backbone,
            weights=backbone_weights,
            stride_in_3x3=preset.stride_in_3x3,
            norm=preset.norm,
            frozen_stages=preset.frozen_stages,
            dtype=self.dtype_policy,
        )
        self.fpn = FeaturePyramid(fpn_channels, dtype=self.dtype_policy, name="fpn")
        self.head = FCOSHead(
            num_classes,
            channels=fpn_channels,
            num_levels=len(STRIDES),
            num_convs=head_convs,
            centerness_on=centerness_on,
            dtype=self.dtype_policy,
            name="head",
        )
        self.build((None, None, None, 3))

    def build(self, input_shape):
        """Creates all variables; their shapes do not depend on the image size."""
        if self.built:
            return
        self.fpn.build({name: x.shape for name, x in self.backbone.output.items()})
        self.head.build([(None, None, None, self.fpn.channels)] * len(STRIDES))
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

    def compute_losses(self, predictions, targets, image_size):
        """Focal, box and centerness loss of a batch (FCOS, equation 2 and section 3.4).

        Args:
            predictions: what `call` returns.
            targets: dict with `boxes` [B, M, 4] xyxy pixels and `labels` [B, M], padding -1.
            image_size: (height, width) of the padded images.

        Returns:
            dict of float32 scalars: `classification_loss`, `box_loss`, `centerness_loss`, each
            this replica's sum over the normaliser of all replicas, and `num_positives`, the
            number of positive points on all replicas, at least 1.
        """
        grids = grid_sizes(*image_size, STRIDES)
        points, point_strides = pyramid_points(grids, STRIDES)
        learnt = fcos_targets(
            points,
            point_strides,
            expand_size_ranges(self.size_ranges, grids),
            targets["boxes"],
            targets["labels"],
            num_classes=self.num_classes,
            center_sampling_radius=self.center_sampling_radius,
        )
        positive = learnt["positive_mask"]
        ltrb, ltrb_targets = predictions["ltrb"], learnt["ltrb_targets"]
        num_positives = ops.sum(ops.cast(positive, "float32"))
        num_positives = ops.maximum(sum_over_replicas(num_positives), 1.0)

        if self.quality == "iou":
            quality_targets = ops.stop_gradient(losses.ltrb_iou(ltrb, ltrb_targets))
            box_weights, box_normaliser = 1.0, num_positives
        else:
            quality_targets = box_weights = learnt["centerness_targets"]
            box_normaliser = sum_over_replicas(ops.sum(box_weights))
            # Few or no positives: keep the quotient finite, as the official code does.
            box_normaliser = ops.maximum(box_normaliser, 1e-6)

        classification = losses.sigmoid_focal_loss(
            predictions["class_logits"], learnt["class_targets"]
        )
        box = BOX_LOSSES[self.box_loss](ltrb, ltrb_targets) * box_weights
        centerness = losses.binary_cross_entropy(predictions["centerness_logits"], quality_targets)
        return {
            "classification_loss": ops.sum(classification) / num_positives,
            "box_loss": ops.sum(ops.where(positive, box, 0.0)) / box_normaliser,
            "centerness_loss": ops.sum(ops.where(positive, centerness, 0.0)) / num_positives,
            "num_positives": num_positives,
        }

    def decode(self, predictions, image_size, image_sizes=None, *, jit_compile=False):
        """Detections from raw predictions, see `fcos_detections`.

        Args:
            predictions: what `call` returns.
            image_size: (height, width) of the padded images.
            image_sizes: [B, 2] (height, width) to clip the boxes to; None: the padded size.
            jit_compile: whether the caller is being compiled by XLA.

        Returns:
            dict, see `detect`.
        """
        return fcos_detections(
            predictions,
            image_size,
            image_sizes,
            strides=STRIDES,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            topk_per_level=self.topk_per_level,
            max_detections=self.max_detections,
            jit_compile=jit_compile,
        )

    def get_config(self):
        """The constructor's arguments, with every None resolved."""
        return {
            **super().get_config(),
            **self._architecture,
            "quality": self.quality,
            "box_loss": self.box_loss,
            "size_ranges": self.size_ranges,
            "center_sampling_radius": self.center_sampling_radius,
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            "topk_per_level": self.topk_per_level,
            "max_detections": self.max_detections,
        }
