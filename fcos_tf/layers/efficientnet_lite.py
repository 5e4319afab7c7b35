"""EfficientNet-Lite0 to Lite2 as pyramid backbones.

EfficientNet-B0 to B2 (Tan and Le, 1905.11946) for mobile devices: ReLU6, no squeeze-and-excitation;
the stem, the last convolution and the number of blocks of the first and last row are not scaled.
Padding is TensorFlow's SAME, of the size at hand; batch norm has epsilon 1e-3. The published
weights expect RGB images, (x - 127) / 128.

Source: models/official/efficientnet/lite of github.com/tensorflow/tpu. Layers are named as in
`layers.mobilenet`.
"""

import math

import keras

from fcos_tf.layers.blocks import check_choices
from fcos_tf.layers.mobilenet import Row, Stages, inverted_residuals

NORM_EPSILON = 1e-3
# Width and depth against Lite0.
VARIANTS = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
# Table 1.
_STAGES: Stages = (
    (Row(1, 16, 1, 1), Row(6, 24, 2, 2)),
    (Row(6, 40, 2, 2, 5),),
    (Row(6, 80, 3, 2), Row(6, 112, 3, 1, 5)),
    (Row(6, 192, 4, 2, 5), Row(6, 320, 1, 1)),
)


def stages(variant: str) -> Stages:
    """The rows of a variant by stage: channels to the nearest multiple of 8, blocks rounded up."""
    width, depth = VARIANTS[variant]

    def scaled(row):
        channels = 8 * math.floor(row.channels * width / 8 + 0.5)
        # The first and the last row are those of one block.
        blocks = row.blocks if row.blocks == 1 else math.ceil(row.blocks * depth)
        return row._replace(channels=channels, blocks=blocks)

    return tuple(tuple(map(scaled, rows)) for rows in _STAGES)


def efficientnet_lite(
    variant: str = "efficientnet_lite0",
    *,
    norm: str = "batch",
    norm_epsilon: float = NORM_EPSILON,
    frozen_stages: int = 0,
    last_conv: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds an EfficientNet-Lite without its classifier.

    `variant` is a key of `VARIANTS`; all else is as of `layers.mobilenet.mobilenet_v2`.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of feature maps `c2` to `c5` with
        strides 4, 8, 16 and 32: the linear outputs of the last block of each stride.
        efficientnet_lite0 has 24, 40, 112 and 320 channels there.

    Raises:
        ValueError: for an unknown variant or norm, or `frozen_stages` outside 0..5.
    """
    check_choices(variant=(variant, VARIANTS))
    features = {"frozen_stages": frozen_stages, "last_conv": last_conv, "name": name or variant}
    options = {"norm": norm, "norm_epsilon": norm_epsilon, "symmetric": False}
    return inverted_residuals(stages(variant), **features, **options)
