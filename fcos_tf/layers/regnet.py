"""RegNetX (Radosavovic et al., Designing Network Design Spaces, 2003.13678) as a pyramid backbone.

Layers against torchvision's modules, where a `_conv` is `.0` with `weight` (kernel, transposed) and
a `_norm` is `.1`, the batch norm:

    stem                                stem
    stage{s}_block{b}_1, _2, _3         trunk_output.block{s}.block{s}-{b - 1}.f.a, f.b, f.c
    stage{s}_block{b}_shortcut          trunk_output.block{s}.block{s}-{b - 1}.proj
"""

import dataclasses
import math

import keras

from fcos_tf.layers.blocks import check_choices, check_freezing, conv_norm, image_input
from fcos_tf.layers.norms import NORM_EPSILON
from fcos_tf.layers.resnet import bottleneck


@dataclasses.dataclass(frozen=True)
class RegNetParameters:
    """The parameters of one member of the family (section 3.3 and appendix of the paper).

    Attributes:
        depth: total number of blocks.
        w_0: width of the first block.
        w_a: slope of the block widths before quantisation.
        w_m: factor between the widths of neighbouring stages.
        group_width: channels per group of the 3x3 convolutions.
        half_up: rounding of a width halfway between two multiples of the group width: up
            (torchvision), or to the even multiple (the paper).
    """

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    half_up: bool = True


VARIANTS = {
    "regnetx_200mf": RegNetParameters(depth=13, w_0=24, w_a=36.44, w_m=2.49, group_width=8),
    # 392 channels lie halfway between 24 and 25 groups of 16: 400 in torchvision, 384 in the paper.
    "regnetx_400mf": RegNetParameters(depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16),
    "regnetx_400mf_384": RegNetParameters(
        depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16, half_up=False
    ),
    "regnetx_800mf": RegNetParameters(depth=16, w_0=56, w_a=35.73, w_m=2.28, group_width=16),
    "regnetx_1_6gf": RegNetParameters(depth=18, w_0=80, w_a=34.01, w_m=2.25, group_width=24),
}


def stages(parameters: RegNetParameters) -> list[tuple[int, int]]:
    """Width and depth of each stage.

    The linear width w_0 + w_a * j of block j is quantised to the nearest w_0 * w_m ** s with a
    whole s, rounded to a multiple of 8. Neighbours of equal width make a stage. Its width is then
    rounded to a multiple of the group width (one group, if it is narrower).

    Returns:
        (width, depth) per stage, from the input on.
    """
    p = parameters
    depths = {}  # by width; widths only grow
    for j in range(p.depth):
        s = round(math.log((p.w_0 + p.w_a * j) / p.w_0) / math.log(p.w_m))
        width = 8 * round(p.w_0 * p.w_m**s / 8)
        depths[width] = depths.get(width, 0) + 1

    rounded = []
    for width, depth in depths.items():
        group = min(width, p.group_width)
        groups = math.floor(width / group + 0.5) if p.half_up else round(width / group)
        rounded.append((groups * group, depth))
    return rounded


def regnet(
    variant: str = "regnetx_400mf",
    *,
    norm: str = "batch",
    norm_epsilon: float = NORM_EPSILON,
    frozen_stages: int = 0,
    name: str | None = None,
) -> keras.Model:
    """Builds a RegNetX without its classifier.

    `variant` is a key of `VARIANTS`; all else is as of `layers.resnet.resnet`.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of feature maps `c2` to `c5` with
        strides 4, 8, 16 and 32; regnetx_400mf has 32, 64, 160 and 400 channels there.

    Raises:
        ValueError: for an unknown variant or norm, or `frozen_stages` outside 0..5.
    """
    check_choices(variant=(variant, VARIANTS))
    check_freezing(norm, frozen_stages)
    parameters = VARIANTS[variant]
    images = image_input()
    options = {"norm": norm, "norm_epsilon": norm_epsilon, "trainable": frozen_stages < 1}
    x = conv_norm(images, 32, 3, stride=2, name="stem", **options)

    features = {}
    for stage, (width, depth) in enumerate(stages(parameters)):
        options["trainable"] = frozen_stages < stage + 2
        groups = width // min(width, parameters.group_width)
        for block in range(depth):
            strides, prefix = (1, 1 if block else 2), f"stage{stage + 1}_block{block + 1}"
            x = bottleneck(x, width, width, strides=strides, groups=groups, name=prefix, **options)
        features[f"c{stage + 2}"] = x
    return keras.Model(images, features, name=name or variant)
