"""ResNet-18/34/50/101 and ResNeXt-50/101 as pyramid backbones.

He et al., Deep Residual Learning, 1512.03385; Xie et al., Aggregated Transformations, 1611.05431.

Layers against torchvision's modules, where a `_conv` holds `weight` (kernel, transposed) and a
`_norm` the batch norm:

    stem_conv, stem_norm                            conv1, bn1
    stage{s}_block{b}_{i}_conv, _norm               layer{s}.{b - 1}.conv{i}, bn{i}
    stage{s}_block{b}_shortcut_conv, _norm          layer{s}.{b - 1}.downsample.0, .1
"""

import keras

from fcos_tf.layers.blocks import check_freezing, conv_norm, image_input
from fcos_tf.layers.norms import NORM_EPSILON

# Blocks in each of the four stages; whether they are bottlenecks of three convolutions.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


def resnet(
    depth: int = 50,
    *,
    groups: int = 1,
    group_width: int = 64,
    stride_in_3x3: bool = True,
    norm: str = "batch",
    norm_epsilon: float = NORM_EPSILON,
    frozen_stages: int = 0,
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNet or ResNeXt without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        groups: of a bottleneck's 3x3 convolution; more than 1 makes a ResNeXt.
        group_width: channels per group in the first stage, doubled in every further one.
            ResNeXt-50-32x4d has 32 groups of width 4.
        stride_in_3x3: whether a bottleneck halves the map in its 3x3 convolution (torchvision) or
            in its first 1x1 (original MSRA weights, `keras.applications`).
        norm: "batch" (trained), "sync" (statistics over all replicas) or "frozen".
        norm_epsilon: added to the variance.
        frozen_stages: number of parts from the input on with frozen weights and statistics: 1 is
            the stem, 2 the stem and the first stage, ... 5 everything.
        name: of the model.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of feature maps `c2` to `c5` with
        strides 4, 8, 16 and 32; their channels are 64-512, or 256-2048 for 50 and deeper.

    Raises:
        ValueError: for an unknown depth or norm, `frozen_stages` outside 0..5, or groups without
            bottlenecks.
    """
    if depth not in DEPTHS:
        raise ValueError(f"ResNet depth must be one of {sorted(DEPTHS)}; got {depth!r}")
    check_freezing(norm, frozen_stages)
    blocks, has_bottlenecks = DEPTHS[depth]
    if (groups, group_width) != (1, 64) and not has_bottlenecks:
        raise ValueError(
            f"groups need a depth with bottlenecks, 50 or 101; got {depth} with groups={groups}, "
            f"group_width={group_width}"
        )

    images = image_input()
    options = {"norm": norm, "norm_epsilon": norm_epsilon, "trainable": frozen_stages < 1}
    x = conv_norm(images, 64, 7, stride=2, name="stem", **options)
    # After a ReLU, zero padding of a maximum is the same as padding with -inf.
    x = keras.layers.ZeroPadding2D(1, name="pool_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool")(x)

    features = {}
    for stage, repeats in enumerate(blocks):
        options["trainable"] = frozen_stages < stage + 2
        for block in range(repeats):
            stride = 2 if stage > 0 and block == 0 else 1
            prefix = f"stage{stage + 1}_block{block + 1}"
            if has_bottlenecks:
                width = groups * group_width * 2**stage
                strides = (1, stride) if stride_in_3x3 else (stride, 1)
                grouping = {"strides": strides, "groups": groups}
                x = bottleneck(x, width, 256 * 2**stage, name=prefix, **grouping, **options)
            else:
                x = _basic(x, 64 * 2**stage, stride, prefix, options)
        features[f"c{stage + 2}"] = x
    return keras.Model(images, features, name=name or f"resnet{depth}")


def _basic(x, width, stride, name, options):
    y = conv_norm(x, width, 3, stride=stride, name=f"{name}_1", **options)
    y = conv_norm(y, width, 3, activation=None, name=f"{name}_2", **options)
    return _add_shortcut(x, y, stride, name, options)


def bottleneck(
    x,
    width: int,
    filters: int,
    *,
    strides: tuple[int, int] = (1, 1),
    groups: int = 1,
    name: str,
    **options,
):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, with a 1x1 where the shapes differ.

    `width` are the channels of the 3x3 convolution, `filters` of the output; the strides are those
    of the first 1x1 and of the 3x3 convolution. All else is as of `conv_norm`.
    """
    y = conv_norm(x, width, 1, stride=strides[0], name=f"{name}_1", **options)
    y = conv_norm(y, width, 3, stride=strides[1], groups=groups, name=f"{name}_2", **options)
    y = conv_norm(y, filters, 1, activation=None, name=f"{name}_3", **options)
    return _add_shortcut(x, y, strides[0] * strides[1], name, options)


def _add_shortcut(x, y, stride, name, options):
    if stride != 1 or x.shape[-1] != y.shape[-1]:
        x = conv_norm(
            x, y.shape[-1], 1, stride=stride, activation=None, name=f"{name}_shortcut", **options
        )
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.ReLU(name=f"{name}_out")(x)
