"""A small plain CNN as a pyramid backbone, for short reading and fast runs."""

import keras

from fcos_tf.layers.blocks import check_freezing, conv, conv_norm, image_input
from fcos_tf.layers.norms import NORM_EPSILON


def simple_cnn(
    *,
    norm: str = "batch",
    norm_epsilon: float = NORM_EPSILON,
    frozen_stages: int = 0,
    name: str = "simple_cnn",
) -> keras.Model:
    """Builds a CNN of six 3x3 convolutions, with batch norm in the block that makes `c3` only.

    =========  ===========================  ======  ========  ===  ==========
    part       convolutions 3x3             stride  channels  map  parameters
    =========  ===========================  ======  ========  ===  ==========
    stem       one with bias, ReLU               2        16              448
    stage 1    one with bias, ReLU               4        32            4,640
    stage 2    two with batch norm, ReLU         8        64  c3       55,552
    stage 3    one with bias, ReLU              16       128  c4       73,856
    stage 4    one with bias, ReLU              32       128  c5      147,584
    =========  ===========================  ======  ========  ===  ==========

    282,080 parameters learn; 128 more are the statistics of batch norm. The first convolution of
    each part has stride 2.

    The arguments are those of `layers.resnet.resnet`; `frozen_stages` counts from the top of the
    table on.

    Returns:
        A model from [B, H, W, 3] normalised images to a dict of feature maps `c3`, `c4` and `c5`.

    Raises:
        ValueError: for an unknown norm, or `frozen_stages` outside 0..5.
    """
    check_freezing(norm, frozen_stages)

    def conv_relu(x, filters, part_name, part):
        options = {"stride": 2, "use_bias": True, "trainable": part >= frozen_stages}
        x = conv(x, filters, 3, name=f"{part_name}_conv", **options)
        return keras.layers.Activation("relu", name=f"{part_name}_relu")(x)

    images = image_input()
    x = conv_relu(images, 16, "stem", 0)
    x = conv_relu(x, 32, "stage1", 1)
    options = {"norm": norm, "norm_epsilon": norm_epsilon, "trainable": frozen_stages <= 2}
    x = conv_norm(x, 64, 3, stride=2, name="stage2_1", **options)
    c3 = conv_norm(x, 64, 3, name="stage2_2", **options)
    c4 = conv_relu(c3, 128, "stage3", 3)
    c5 = conv_relu(c4, 128, "stage4", 4)
    return keras.Model(images, {"c3": c3, "c4": c4, "c5": c5}, name=name)
