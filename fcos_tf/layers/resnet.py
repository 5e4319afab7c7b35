"""ResNet-18/34/50/101 (He et al., Deep Residual Learning) as a pyramid backbone."""

import keras

from fcos_tf.layers.blocks import NORMS, conv_norm

# Blocks in each of the four stages; whether a block is the bottleneck of three convolutions.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}


def resnet(
    depth: int = 50,
    *,
    stride_in_3x3: bool = True,
    norm: str = "batch",
    frozen_stages: int = 0,
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNet without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        stride_in_3x3: where a bottleneck halves the map: in its 3x3 convolution (torchvision) or
            in its first 1x1 (the original MSRA weights, `keras.applications`).
        norm: "batch" (trained), "sync" (statistics over all replicas) or "frozen".
        frozen_stages: how many parts from the input on do not learn, weights and statistics:
            1 is the stem, 2 the stem and the first stage, ... 5 everything.
        name: of the model.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of feature maps `c2` to `c5` with
        strides 4, 8, 16 and 32; their channels are 64-512, or 256-2048 for 50 and deeper.

    Raises:
        ValueError: for an unknown depth or norm, or `frozen_stages` outside 0..5.
    """
    if depth not in DEPTHS:
        raise ValueError(f"ResNet depth must be one of {sorted(DEPTHS)}; got {depth!r}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    if frozen_stages not in range(6):
        raise ValueError(f"frozen_stages must be 0 to 5; got {frozen_stages!r}")
    blocks, bottleneck = DEPTHS[depth]

    images = keras.Input((None, None, 3), name="images")
    x = conv_norm(images, 64, 7, stride=2, norm=norm, trainable=frozen_stages < 1, name="stem")
    # Zeros never win over the outputs of a ReLU, so zero padding stands for -inf.
    x = keras.layers.ZeroPadding2D(1, name="pool_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool")(x)

    features = {}
    for stage, repeats in enumerate(blocks):
        width = 64 * 2**stage
        options = {"norm": norm, "trainable": frozen_stages < stage + 2}
        for block in range(repeats):
            stride = 2 if stage > 0 and block == 0 else 1
            prefix = f"stage{stage + 1}_block{block + 1}"
            if bottleneck:
                x = _bottleneck(x, width, stride, stride_in_3x3, prefix, options)
            else:
                x = _basic(x, width, stride, prefix, options)
        features[f"c{stage + 2}"] = x
    return keras.Model(images, features, name=name or f"resnet{depth}")


def _basic(x, width, stride, name, options):
    y = conv_norm(x, width, 3, stride=stride, name=f"{name}_1", **options)
    y = conv_norm(y, width, 3, activation=False, name=f"{name}_2", **options)
    return _add_shortcut(x, y, stride, name, options)


def _bottleneck(x, width, stride, stride_in_3x3, name, options):
    first, second = (1, stride) if stride_in_3x3 else (stride, 1)
    y = conv_norm(x, width, 1, stride=first, name=f"{name}_1", **options)
    y = conv_norm(y, width, 3, stride=second, name=f"{name}_2", **options)
    y = conv_norm(y, 4 * width, 1, activation=False, name=f"{name}_3", **options)
    return _add_shortcut(x, y, stride, name, options)


def _add_shortcut(x, y, stride, name, options):
    if stride != 1 or x.shape[-1] != y.shape[-1]:
        x = conv_norm(
            x, y.shape[-1], 1, stride=stride, activation=False, name=f"{name}_shortcut", **options
        )
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.ReLU(name=f"{name}_out")(x)
