"""Base class of models on one backbone: its name, weights, frozen part and preprocessing."""

from collections.abc import Sequence
from typing import Any

from fcos_tf.layers.backbones import build_backbone, resolve_preset
from fcos_tf.models.folding import scale_kernels
from fcos_tf.models.image_model import ImageModel


class BackboneModel(ImageModel):
    """Base class of models on a backbone.

    Args:
        num_classes: C; None: the number of `class_names`.
        backbone: a name of `layers.backbones`, such as "resnet50", "efficientnet_lite0" or
            "keras_cv/efficientnetv2_b0_imagenet".
        backbone_weights: None (random), "imagenet" or another name of `build_backbone`, or the
            `.keras` file of a backbone or of a model on it.
        backbone_norm: "batch", "sync" or "frozen" batch normalisation. None: "frozen" with
            backbone weights, "batch" without.
        norm_epsilon: of the backbone's batch normalisation. None: the network's own.
        frozen_stages: number of frozen parts of the backbone: 1 the stem, 2 the stem and the first
            stage, ... None: 2 with backbone weights, 0 without. Unlike `trainable` of layers, it
            is saved with the model.
        stride_in_3x3: whether a bottleneck halves the map in its 3x3 convolution. None, here and
            for `channel_order`, `mean` and `std`: as the backbone weights need it; without
            weights True, RGB and what `layers.backbones.resolve_preset` says.
        channel_order: input of the backbone, "rgb" or "bgr". Images are always given as RGB.
        mean: three numbers in 0-255, in `channel_order`.
        std: likewise.
        **kwargs: of `ImageModel`, or of the next base class.

    Attributes:
        last_conv: whether the backbone has the convolution before its classifier, see
            `build_backbone`.

    Raises:
        ValueError: names the argument that is out of its range.
    """

    last_conv = False

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        backbone_norm: str | None = None,
        norm_epsilon: float | None = None,
        frozen_stages: int | None = None,
        stride_in_3x3: bool | None = None,
        channel_order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs,
    ):
        preset = resolve_preset(
            backbone,
            backbone_weights,
            norm=backbone_norm,
            norm_epsilon=norm_epsilon,
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
            "norm_epsilon": preset.norm_epsilon,
            "frozen_stages": preset.frozen_stages,
            "stride_in_3x3": preset.stride_in_3x3,
        }
        # Without backbone weights, which a saved model does not need.
        self._architecture = {**shared, "backbone": backbone, "backbone_norm": preset.norm}
        self.backbone = build_backbone(
            backbone,
            weights=backbone_weights,
            norm=preset.norm,
            last_conv=self.last_conv,
            dtype=self.dtype_policy,
            **shared,
        )
        scale_kernels(self.backbone)
        for variable in self.backbone.variables:
            variable.of_backbone = True  # for `backbone_lr_factor` of the optimizers

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BackboneModel":
        """The model of a config, which reads no other file and downloads nothing."""
        if (weights := config.get("backbone_weights")) is not None:
            raise ValueError(f"backbone_weights in a config: expected none, got {weights!r}")
        return super().from_config(config, custom_objects)

    def get_config(self):
        """The constructor's arguments, with every None resolved."""
        return super().get_config() | self._architecture

    def backbone_settings(self) -> dict[str, Any]:
        """The arguments of another model that is to take this backbone with its weights."""
        names = ("backbone", "norm_epsilon", "stride_in_3x3", "channel_order", "mean", "std")
        config = self.get_config()
        return {name: config[name] for name in names}
