"""MobileNetV2 as a pyramid backbone.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 1801.04381. Built as in
torchvision: padding is symmetric at stride 2, and batch norm has epsilon 1e-5.

Blocks are numbered within a stage. In each, `_1` is the expanding 1x1 convolution (none in the very
first block), `_2` the depthwise 3x3 and `_3` the projecting 1x1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from fcos_tf.layers.blocks import check_freezing, conv_norm, image_input
from fcos_tf.layers.norms import NORM_EPSILON


class Row(NamedTuple):
    """A row of the table of an architecture; the stride is that of the first block."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel_size: int = 3


Stages = Sequence[Sequence[Row]]  # each halves the map
# Table 2.
STAGES: Stages = (
    (Row(1, 16, 1, 1), Row(6, 24, 2, 2)),
    (Row(6, 32, 3, 2),),
    (Row(6, 64, 4, 2), Row(6, 96, 3, 1)),
    (Row(6, 160, 3, 2), Row(6, 320, 1, 1)),
)


def mobilenet_v2(
    *,
    norm: str = "batch",
    norm_epsilon: float = NORM_EPSILON,
    frozen_stages: int = 0,
    last_conv: bool = False,
    name: str = "mobilenet_v2",
) -> keras.Model:
    """Builds a MobileNetV2 of width 1 without its classifier.

    The arguments are those of `layers.resnet.resnet`, and `last_conv`: whether it has the 1x1
    convolution before the classifier, which gives a map `last` of 1280 channels and stride 32.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of feature maps `c2` to `c5` with
        strides 4, 8, 16 and 32 and 24, 32, 96 and 320 channels: the linear, possibly negative
        outputs of the last block of each stride.

    Raises:
        ValueError: for an unknown norm, or `frozen_stages` outside 0..5.
    """
    features = {"frozen_stages": frozen_stages, "last_conv": last_conv, "name": name}
    return inverted_residuals(STAGES, **features, norm=norm, norm_epsilon=norm_epsilon)


def inverted_residuals(
    stages: Stages, *, frozen_stages: int, last_conv: bool, name: str, **options: Any
) -> keras.Model:
    """The network of `mobilenet_v2` of other rows; `options` are those of `conv_norm`."""
    check_freezing(options["norm"], frozen_stages)
    images = image_input()
    options["trainable"] = frozen_stages < 1
    x = conv_norm(images, 32, 3, stride=2, activation="relu6", name="stem", **options)

    features = {}
    for stage, rows in enumerate(stages):
        options["trainable"] = frozen_stages < stage + 2
        block = 0
        for row in rows:
            for repeat in range(row.blocks):
                block += 1
                stride, prefix = 1 if repeat else row.stride, f"stage{stage + 1}_block{block}"
                x = _inverted_residual(x, row, stride=stride, name=prefix, **options)
        features[f"c{stage + 2}"] = x
    if last_conv:  # frozen with the last stage
        features["last"] = conv_norm(x, 1280, 1, activation="relu6", name="last", **options)
    return keras.Model(images, features, name=name)


def _inverted_residual(x, row, *, stride, name, **options):
    """Expansion, depthwise convolution, projection; a shortcut where the shapes agree."""
    width = row.expansion * x.shape[-1]
    y = x
    if row.expansion > 1:
        y = conv_norm(y, width, 1, activation="relu6", name=f"{name}_1", **options)
    spatial = {"stride": stride, "groups": width, "activation": "relu6", "name": f"{name}_2"}
    y = conv_norm(y, width, row.kernel_size, **spatial, **options)
    y = conv_norm(y, row.channels, 1, activation=None, name=f"{name}_3", **options)
    if stride == 1 and x.shape[-1] == row.channels:
        y = keras.layers.Add(name=f"{name}_add")([x, y])
    return y
