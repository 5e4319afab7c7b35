"""The architectures of keras_cv's presets, to build them without a download.

keras_cv 0.9 keeps the arguments of its backbone classes at Kaggle, beside the weights. These are
the published designs as those arguments: He et al. 1512.03385 and 1603.05027 (ResNet), Huang et al.
1608.06993 (DenseNet), Ge et al. 2107.08430 (CSPDarkNet, as in YOLOX), Howard et al. 1905.02244
(MobileNetV3), Tan and Le 1905.11946 and 2104.00298 (EfficientNet).

Left out: MiT and ViTDet, which are built for one image size, and VideoSwin, for videos.
"""

from typing import Any


def _resnets():
    blocks = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
    for depth, repeats in {**blocks, 152: [3, 8, 36, 3]}.items():
        arguments = {
            "stackwise_filters": [64, 128, 256, 512],
            "stackwise_blocks": repeats,
            "stackwise_strides": [1, 2, 2, 2],
            "block_type": "basic_block" if depth < 50 else "block",
        }
        yield f"resnet{depth}", ("ResNetBackbone", arguments)
        yield f"resnet{depth}_v2", ("ResNetV2Backbone", arguments)


def _densenets():
    for depth, repeats in {121: (12, 24, 16), 169: (12, 32, 32), 201: (12, 48, 32)}.items():
        yield f"densenet{depth}", ("DenseNetBackbone", {"stackwise_num_repeats": [6, *repeats]})


def _darknets():
    sizes = {"tiny": (48, 1), "s": (64, 1), "m": (96, 2), "l": (128, 3), "xl": (170, 4)}
    for size, (width, depth) in sizes.items():
        arguments = {
            "stackwise_channels": [width * 2**stage for stage in range(4)],
            "stackwise_depth": [depth, 3 * depth, 3 * depth, depth],
        }
        yield f"csp_darknet_{size}", ("CSPDarkNetBackbone", arguments)


def _mobilenets():
    # Tables 1 and 2 by columns.
    relu, swish = "relu", "hard_swish"
    large = {
        "stackwise_kernel_size": [3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5],
        "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
        "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
        "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
        "stackwise_activation": [relu] * 6 + [swish] * 9,
        "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    }
    small = {
        "stackwise_kernel_size": [3, 3, 3] + [5] * 8,
        "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
        "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
        "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
        "stackwise_activation": [relu] * 3 + [swish] * 8,
        "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    }
    for size, arguments in (("small", small), ("large", large)):
        yield f"mobilenet_v3_{size}", ("MobileNetV3Backbone", arguments)


# Width and depth of B0 to B7 against B0.
_COMPOUND_SCALING = (
    (1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1),
)  # fmt: skip


def _efficientnets_v1():
    for index, (width, depth) in enumerate(_COMPOUND_SCALING):
        lite = {
            "width_coefficient": width,
            "depth_coefficient": depth,
            "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
            "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
            "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
            "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
            "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
            "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        }
        squeezed = {**lite, "stackwise_squeeze_and_excite_ratios": [0.25] * 7}
        yield f"efficientnetv1_b{index}", ("EfficientNetV1Backbone", squeezed)
        if index < 5:
            yield f"efficientnetlite_b{index}", ("EfficientNetLiteBackbone", lite)


def _efficientnets_v2():
    b0 = ([1, 2, 2, 3, 5, 8], [32, 16, 32, 48, 96, 112, 192])
    # Repeats; filters from the stem on; width and depth.
    sizes = {f"b{index}": (*b0, *scaling) for index, scaling in enumerate(_COMPOUND_SCALING[:4])}
    sizes["s"] = ([2, 4, 4, 6, 9, 15], [24, 24, 48, 64, 128, 160, 256], 1.0, 1.0)
    sizes["m"] = ([3, 5, 5, 7, 14, 18, 5], [24, 24, 48, 80, 160, 176, 304, 512], 1.0, 1.0)
    sizes["l"] = ([4, 7, 7, 10, 19, 25, 7], [32, 32, 64, 96, 192, 224, 384, 640], 1.0, 1.0)
    for size, (repeats, filters, width, depth) in sizes.items():
        stages = len(repeats)
        arguments = {
            "width_coefficient": width,
            "depth_coefficient": depth,
            "stackwise_kernel_sizes": [3] * stages,
            "stackwise_num_repeats": repeats,
            "stackwise_input_filters": filters[:-1],
            "stackwise_output_filters": filters[1:],
            "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6, 6][:stages],
            "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25, 0.25][:stages],
            "stackwise_strides": [1, 2, 2, 2, 1, 2, 1][:stages],
            "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * (stages - 3),
        }
        yield f"efficientnetv2_{size}", ("EfficientNetV2Backbone", arguments)


# Name of a preset without weights -> its class in keras_cv.models, the arguments of the class.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = dict(
    (*_resnets(), *_densenets(), *_darknets(), *_mobilenets(), *_efficientnets_v1(),
     *_efficientnets_v2())
)  # fmt: skip
