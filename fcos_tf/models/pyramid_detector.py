"""Base class of detectors on a feature pyramid: backbone and pyramid, and their settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from fcos_tf.layers.backbones import build_backbone, resolve_preset
from fcos_tf.layers.blocks import NORM_EPSILON
from fcos_tf.layers.fpn import FeaturePyramid
from fcos_tf.models.detector import Detector
from fcos_tf.models.image_model import unpack_inputs


class PyramidDetector(Detector):
    """Base class of detectors on a feature pyramid.

    A subclass adds its own layers and arguments, builds them in `build`, and calls `features`.

    Args:
        num_classes: C; None: the number of `class_names`.
        backbone: a name of `layers.backbones`, such as "resnet50", "regnetx_400mf" or
            "keras_cv/efficientnetv2_b0_imagenet".
        backbone_weights: None (random), "imagenet" or another name of `build_backbone`, or a
            backbone's `.keras` file.
        backbone_norm: "batch", "sync" or "frozen" batch normalisation. None: "frozen" with
            backbone weights, "batch" without.
        norm_epsilon: of the backbone's batch normalisation.
        frozen_stages: number of frozen parts of the backbone: 1 the stem, 2 the stem and the first
            stage, ... None: 2 with backbone weights, 0 without.
        stride_in_3x3: whether a bottleneck halves the map in its 3x3 convolution. None, here and
            for `channel_order`, `mean` and `std`: as the backbone weights need it; without
            weights True, RGB and the ImageNet mean and deviation.
        fpn_levels: levels of the pyramid.
        fpn_channels: of the pyramid and of the heads.
        fpn_upsampling: "nearest" or "bilinear", in the top-down path.
        pyramid: further arguments of `FeaturePyramid`, set by the subclass.
        channel_order: input of the backbone, "rgb" or "bgr". Images are always given as RGB.
        mean: three numbers in 0-255, in `channel_order`.
        std: likewise.
        **kwargs: `score_threshold`, `nms_threshold` and `max_detections`, see `Detector`;
            `class_names`, `category_ids`, `image_size`, `name` and `dtype`, see `ImageModel`.

    Attributes:
        strides: of the levels, in pixels.

    Raises:
        ValueError: names the argument that is out of its range.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        backbone_norm: str | None = None,
        norm_epsilon: float = NORM_EPSILON,
        frozen_stages: int | None = None,
        stride_in_3x3: bool | None = None,
        fpn_levels: int = 5,
        fpn_channels: int = 256,
        fpn_upsampling: str = "nearest",
        pyramid: Mapping[str, Any] | None = None,
        channel_order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs,
    ):
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
        super().__init__(
            num_classes,
            channel_order=preset.channel_order,
            mean=preset.mean,
            std=preset.std,
            **kwargs,
        )
        shared = {
            "norm_epsilon": norm_epsilon,
            "frozen_stages": preset.frozen_stages,
            "stride_in_3x3": preset.stride_in_3x3,
        }
        # Without backbone weights, which a saved model does not need.
        self._architecture = {
            **shared,
            "backbone": backbone,
            "backbone_norm": preset.norm,
            "fpn_levels": fpn_levels,
            "fpn_channels": fpn_channels,
            "fpn_upsampling": fpn_upsampling,
        }
        self.backbone = build_backbone(
            backbone, weights=backbone_weights, norm=preset.norm, dtype=self.dtype_policy, **shared
        )
        self.fpn = FeaturePyramid(
            fpn_channels,
            levels=fpn_levels,
            upsampling=fpn_upsampling,
            dtype=self.dtype_policy,
            name="fpn",
            **(pyramid or {}),
        )
        if missing := [name for name in self.fpn.input_names if name not in self.backbone.output]:
            raise ValueError(
                f"backbone must have maps {', '.join(self.fpn.input_names)}; got {backbone!r}, "
                f"which has no {', '.join(missing)}"
            )
        self.strides = self.fpn.strides

    def build(self, input_shape):
        """Creates all variables, for any image size."""
        if self.built:
            return
        self.fpn.build({name: x.shape for name, x in self.backbone.output.items()})
        self.build_heads((None, None, None, self.fpn.channels))
        super().build(input_shape)

    def build_heads(self, shape):
        """For subclasses: builds the layers after the pyramid, from the shape of a level."""
        raise NotImplementedError

    def features(self, inputs, *, training: bool) -> list:
        """The levels of the pyramid, finest first, from the inputs of `call`."""
        x = self.preprocess(*unpack_inputs(inputs))
        levels = self.fpn(self.backbone(x, training=training), training=training)
        return list(levels.values())

    def get_config(self):
        """The constructor's arguments, with every None resolved."""
        return super().get_config() | self._architecture
