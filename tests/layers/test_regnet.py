"""RegNetX: the stages from the family's parameters, published sizes."""

import keras
import numpy as np
import pytest

from fcos_tf.layers import backbones
from fcos_tf.layers.regnet import VARIANTS, RegNetParameters, regnet, stages


def test_stages_by_hand():
    # Widths 16 + 8 j for j = 0..4: 16, 24, 32, 40, 48. In powers of 2 over 16: 0, .58, 1, 1.32,
    # 1.58, so the exponents 0, 1, 1, 1, 2 and widths 16, 32, 32, 32, 64. Groups of 24: 16 is
    # narrower, 32 / 24 = 1.33 gives 1 group, 64 / 24 = 2.67 gives 3.
    parameters = RegNetParameters(depth=5, w_0=16, w_a=8, w_m=2, group_width=24)
    assert stages(parameters) == [(16, 1), (24, 3), (72, 1)]


# Appendix of the paper (the 384 of 400MF: halves to even); torchvision rounds 392 up to 400.
@pytest.mark.parametrize(
    ("variant", "widths", "depths"),
    [
        ("regnetx_200mf", [24, 56, 152, 368], [1, 1, 4, 7]),
        ("regnetx_400mf_384", [32, 64, 160, 384], [1, 2, 7, 12]),
        ("regnetx_400mf", [32, 64, 160, 400], [1, 2, 7, 12]),
        ("regnetx_800mf", [64, 128, 288, 672], [1, 3, 7, 5]),
        ("regnetx_1_6gf", [72, 168, 408, 912], [2, 4, 10, 2]),
    ],
)
def test_published_stages(variant, widths, depths):
    assert stages(VARIANTS[variant]) == list(zip(widths, depths, strict=True))


# torchvision's published totals less the classifier: 1000 weights per channel of C5, 1000 biases.
# That of 400MF follows from the stored shapes, see `test_backbone_parity`.
@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("regnetx_800mf", 7_259_656 - 673_000),
        ("regnetx_1_6gf", 9_190_136 - 913_000),
    ],
)
def test_parameter_counts(variant, parameters):
    model = backbones.build_backbone(variant)
    assert sum(np.prod(v.shape) for v in model.trainable_weights) == parameters


@pytest.fixture(scope="module")
def model():
    return regnet("regnetx_400mf")


def test_strides_and_channels_on_an_odd_size(model):
    features = model(np.zeros((1, 97, 130, 3), "float32"))
    # ceil(97 / s), ceil(130 / s)
    assert {name: tuple(x.shape[1:]) for name, x in features.items()} == {
        "c2": (25, 33, 32),
        "c3": (13, 17, 64),
        "c4": (7, 9, 160),
        "c5": (4, 5, 400),
    }


def test_every_stage_halves_the_map_in_its_first_3x3(model):
    strided = {la.name for la in model.layers if getattr(la, "strides", None) == (2, 2)}
    first = {f"stage{s}_block1_{part}_conv" for s in (1, 2, 3, 4) for part in ("2", "shortcut")}
    assert strided == {"stem_conv", *first}
    groups = [model.get_layer(f"stage{s}_block1_2_conv").groups for s in (1, 2, 3, 4)]
    assert groups == [32 // 16, 64 // 16, 160 // 16, 400 // 16]


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"regnetx_200mf, .*'regnety_400mf'"):
        regnet("regnety_400mf")


def test_saved_backbone_is_a_weights_file(tmp_path):
    file = str(tmp_path / "r.keras")
    keras.utils.set_random_seed(0)
    source = regnet("regnetx_200mf")
    source.save(file)
    target = backbones.build_backbone("regnetx_200mf", weights=file, norm="frozen")
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    expected = np.asarray(source(images)["c5"])
    assert expected.max() > 1e-3
    np.testing.assert_allclose(target(images)["c5"], expected, atol=1e-5 * expected.max())
