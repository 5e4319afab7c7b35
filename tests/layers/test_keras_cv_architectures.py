"""The table of keras_cv's architectures against published parameter counts."""

import pytest

from fcos_tf.layers.keras_cv_architectures import ARCHITECTURES

QUICK = ("resnet18", "resnet18_v2", "mobilenet_v3_small", "efficientnetv2_b0")
# Of these keras_cv has no counts, or those of a version before 0.9: keras.applications' counts of
# the networks without top. Its EfficientNets hold a mean and a variance of their input besides, and
# a counter.
PUBLISHED = {
    "densenet121": 7_037_504,
    "densenet169": 12_642_880,
    "densenet201": 18_321_984,
    "mobilenet_v3_small": 939_120,
    "mobilenet_v3_large": 2_996_352,
    "efficientnetv1_b0": 4_049_571 - 7,
    "efficientnetv1_b1": 6_575_239 - 7,
    "efficientnetv1_b2": 7_768_569 - 7,
    "efficientnetv1_b3": 10_783_535 - 7,
    "efficientnetv1_b4": 17_673_823 - 7,
    "efficientnetv1_b5": 28_513_527 - 7,
    "efficientnetv1_b6": 40_960_143 - 7,
    "efficientnetv1_b7": 64_097_687 - 7,
    # keras_cv's own counts, of a version whose first block expanded the 32 channels of the stem to
    # w, 32 or rounded by the width; 0.9 leaves that out. It was 32 * w weights and 4 * w of batch
    # norm, and for w > 32 each further channel costs 9 + 4 depthwise and c to project it, c = 24.
    "efficientnetlite_b0": 3_414_176 - 36 * 32,
    "efficientnetlite_b1": 4_190_496 - 36 * 32,
    "efficientnetlite_b2": 4_870_320 - 36 * 32,
    "efficientnetlite_b3": 6_994_504 - 36 * 40 - 8 * (13 + 24),
    "efficientnetlite_b4": 11_840_256 - 36 * 48 - 16 * (13 + 24),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_parameter_counts(name):
    import keras_cv

    class_name, arguments = ARCHITECTURES[name]
    backbone = getattr(keras_cv.models, class_name)
    expected = PUBLISHED.get(name) or backbone.presets[name]["metadata"]["params"]
    assert backbone(include_rescaling=False, **arguments).count_params() == expected


def test_all_presets_of_its_pyramid_backbones_are_known():
    import keras_cv

    known = set(ARCHITECTURES)
    for class_name in {class_name for class_name, _ in ARCHITECTURES.values()}:
        presets = getattr(keras_cv.models, class_name).presets
        assert {preset.removesuffix("_imagenet") for preset in presets} <= known
        known -= {preset.removesuffix("_imagenet") for preset in presets}
    assert not known
