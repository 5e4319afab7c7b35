"""The pyramid's arithmetic and the head's sharing, priors and branches."""

import keras
import numpy as np
import pytest

from fcos_tf import FCOS
from fcos_tf.layers.fpn import FeaturePyramid
from fcos_tf.layers.heads import FCOSHead


def test_nearest_enlargement_to_odd_sizes():
    # Laterals pass channel sums of zero maps except C5; outputs copy the centre: P4 and P3 show
    # where each C5 cell went. 3 rows of P4 from 2 of P5: cells 0 0 1; 5 of P3 from 3: 0 0 0 0 1.
    fpn = FeaturePyramid(1)
    maps = {
        "c3": np.zeros((1, 5, 6, 1), "float32"),
        "c4": np.zeros((1, 3, 3, 1), "float32"),
        "c5": np.float32([[1, 2], [3, 4]]).reshape(1, 2, 2, 1),
    }
    fpn(maps)
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 1
    for lateral in fpn.laterals:
        lateral.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    for output in (*fpn.output_convs, *fpn.extra_convs):
        output.set_weights([centre, np.zeros(1)])
    out = {name: x.numpy()[0, :, :, 0] for name, x in fpn(maps).items()}
    np.testing.assert_array_equal(out["p5"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(out["p4"], [[1, 1, 2], [1, 1, 2], [3, 3, 4]])
    corners = out["p3"][[0, 3, 4]][:, [0, 3, 4, 5]]
    np.testing.assert_array_equal(corners, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]])
    # Stride 2 with symmetric padding is centred on cell (0, 0).
    np.testing.assert_array_equal(out["p6"], [[1]])


def test_p7_sees_only_what_is_positive_in_p6():
    fpn = FeaturePyramid(1)
    maps = {f"c{k}": np.ones((1, 2 ** (6 - k), 2 ** (6 - k), 1), "float32") for k in (3, 4, 5)}
    fpn(maps)
    p6, p7 = fpn.extra_convs
    p6.set_weights([np.zeros((3, 3, 1, 1)), np.float32([-2])])
    p7.set_weights([np.ones((3, 3, 1, 1)), np.float32([0.5])])
    out = fpn(maps)
    assert float(out["p6"][0, 0, 0, 0]) == -2 and float(out["p7"][0, 0, 0, 0]) == 0.5


def test_bilinear_enlargement():
    # Half-pixel centres: of 4 cells made from (1, 5) the outer two keep their value and the inner
    # ones lie a quarter of the way in: 1 + 4 / 4 = 2 and 5 - 1 = 4. Both levels have one row.
    fpn = FeaturePyramid(1, levels=3, upsampling="bilinear")
    maps = {
        "c3": np.zeros((1, 1, 7, 1), "float32"),
        "c4": np.zeros((1, 1, 4, 1), "float32"),
        "c5": np.float32([1, 5]).reshape(1, 1, 2, 1),
    }
    fpn(maps)
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 1
    for lateral in fpn.laterals:
        lateral.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    for output in fpn.output_convs:
        output.set_weights([centre, np.zeros(1)])
    out = fpn(maps)
    assert list(out) == ["p3", "p4", "p5"]
    np.testing.assert_allclose(out["p4"][0, 0, :, 0], [1, 2, 4, 5], atol=1e-6)
    # 7 cells over 4: cell i has its centre at (i + .5) * 4 / 7 - .5, clamped to 0..3.
    centres = np.clip((np.arange(7) + 0.5) * 4 / 7 - 0.5, 0, 3)
    expected = np.interp(centres, range(4), [1, 2, 4, 5])
    np.testing.assert_allclose(out["p3"][0, 0, :, 0], expected, atol=1e-5)


def test_a_pyramid_from_c2_with_every_other_cell_on_top():
    # P2-P6 of Faster R-CNN: no weights for P6, and strides from 4 on.
    fpn = FeaturePyramid(2, first_level=2, extra="pool")
    assert fpn.levels == ("p2", "p3", "p4", "p5", "p6")
    assert fpn.strides == (4, 8, 16, 32, 64)
    rng = np.random.default_rng(0)
    sizes = {k: (96 // 2**k, -(-104 // 2**k)) for k in (2, 3, 4, 5)}
    maps = {f"c{k}": rng.normal(size=(1, *size, k)).astype("float32") for k, size in sizes.items()}
    out = fpn(maps)
    assert len(fpn.weights) == 4 * 2 + 4 * 2
    np.testing.assert_array_equal(out["p6"], np.asarray(out["p5"])[:, ::2, ::2])  # 3 x 4 to 2 x 2
    assert out["p2"].shape == (1, 24, 26, 2) and out["p6"].shape == (1, 2, 2, 2)
    # Each level holds what lies above it: without C5 P2 would be another.
    other = fpn({**maps, "c5": maps["c5"] + 1})
    assert np.abs(other["p2"] - out["p2"]).min(axis=(0, 3)).max() > 0
    again = FeaturePyramid.from_config(fpn.get_config())
    assert (again.levels, again.extra, again.strides) == (fpn.levels, "pool", fpn.strides)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"levels": 2}, "levels must be 3 to 5, from P3 on; got 2"),
        ({"levels": 3, "first_level": 2}, "levels must be 4 to 6, from P2 on"),
        ({"first_level": 1}, "first_level must be a whole number from 2 to 5; got 1"),
        ({"upsampling": "cubic"}, "nearest, bil"),
        ({"extra": "p6p7"}, "extra must be one of conv, pool; got 'p6p7'"),
    ],
)
def test_pyramid_refuses(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        FeaturePyramid(8, **arguments)


def build_head(**kwargs):
    head = FCOSHead(3, channels=32, strides=(8, 16), num_convs=2, **kwargs)
    head.build([(None, None, None, 32)] * 2)
    return head


def features(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, n, n, 32)).astype("float32") for n in (4, 2)]


def test_head_is_shared_but_for_the_scales():
    head = build_head()
    x = features()[0]
    head.scales[1].set_weights([np.float32(3)])
    out = head([x, x])  # the same map on both levels, 16 points each
    first, second = (out["ltrb"][:, s] for s in (slice(16), slice(16, 32)))
    assert np.max(first) > 0
    np.testing.assert_allclose(second, 3 * np.asarray(first), rtol=1e-5)
    np.testing.assert_allclose(out["class_logits"][:, :16], out["class_logits"][:, 16:], rtol=1e-5)


def test_prior_probability():
    head = build_head()
    logits = np.asarray(head(features())["class_logits"])
    # -ln((1 - .01) / .01) = -4.595 on the class logits, nothing on the others.
    np.testing.assert_allclose(head.class_logits.bias, [-4.59512] * 3, rtol=1e-5)
    assert abs(1 / (1 + np.exp(-logits)).mean() - 0.01) < 0.003
    assert not np.any(head.ltrb.bias) and not np.any(head.centerness.bias)


@pytest.mark.parametrize(("branch", "other"), [("box", "class"), ("class", "box")])
def test_centerness_branch(branch, other):
    head = build_head(centerness_on=branch)
    before = np.asarray(head(features())["centerness_logits"])
    towers = {"box": head.box_tower, "class": head.class_tower}
    towers[other][0].set_weights([w + 1 for w in towers[other][0].get_weights()])
    np.testing.assert_array_equal(before, head(features())["centerness_logits"])
    towers[branch][0].set_weights([w + 1 for w in towers[branch][0].get_weights()])
    assert np.any(before != np.asarray(head(features())["centerness_logits"]))


def test_exponential_distances_are_pixels_before_they_are_strides():
    head = build_head(box_activation="exp")
    head.ltrb.set_weights([np.zeros((3, 3, 32, 4)), np.log(np.float32([8, 16, 32, 1e30]))])
    head.scales[1].set_weights([np.float32(2)])
    ltrb = np.asarray(head(features())["ltrb"])
    # 8, 16 and 32 pixels on stride 8; squared by the scale on stride 16. The fourth overflows
    # nowhere: it is held at e^18.
    np.testing.assert_allclose(ltrb[0, 0, :3], [1, 2, 4], rtol=1e-5)
    np.testing.assert_allclose(ltrb[0, -1, :3], [4, 16, 64], rtol=1e-5)
    np.testing.assert_allclose(ltrb[0, 0, 3], np.exp(18) / 8, rtol=1e-4)


def test_without_scales_and_norms():
    head = build_head(level_scales=False, norm="none")
    # Two towers of two convolutions 9 * 32 * 32 + 32, outputs for 3 + 4 + 1 numbers.
    assert head.count_params() == 4 * (9 * 32 * 32 + 32) + 8 * (9 * 32 + 1)
    x = features()[0]
    out = head([x, x])
    np.testing.assert_allclose(out["ltrb"][:, :16], out["ltrb"][:, 16:], rtol=1e-5)
    # Twice the input gives twice of everything but the biases, as no norm takes the size away.
    for conv in head.box_tower[::2]:
        assert not np.any(conv.bias)
    doubled = head([2 * x, 2 * x])
    np.testing.assert_allclose(doubled["ltrb"], 2 * np.asarray(out["ltrb"]), rtol=1e-4, atol=1e-7)


def test_a_head_without_centerness():
    head, other = build_head(centerness_on=None), build_head()
    for layer, source in zip(head.output_layers(), other.output_layers()[:2], strict=True):
        layer.set_weights(source.get_weights())
    for tower in ("class_tower", "box_tower"):
        for layer, source in zip(getattr(head, tower), getattr(other, tower), strict=True):
            layer.set_weights(source.get_weights())
    found, expected = head(features()), other(features())
    assert set(found) == {"class_logits", "ltrb"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])
    assert len(head.weights) == len(other.weights) - 2
    assert FCOSHead.from_config(head.get_config()).centerness is None


@pytest.mark.parametrize("name", ["norm", "centerness_on", "box_activation"])
def test_head_names_its_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*got 'none of these'"):
        FCOSHead(3, **{name: "none of these"})


def test_parameters_of_the_published_detector():
    # torchvision's fcos_resnet50_fpn has 32,269,600 (91 classes, frozen norm not counted); others
    # have five scales besides.
    model = FCOS(91, backbone="resnet50", backbone_norm="frozen", rules="torchvision")
    assert sum(np.prod(v.shape) for v in model.trainable_weights) == 32_269_600
    model = FCOS(91, backbone="resnet50", backbone_norm="frozen")
    assert sum(np.prod(v.shape) for v in model.trainable_weights) == 32_269_600 + 5


@pytest.mark.parametrize(
    "layer",
    [
        FeaturePyramid(32, levels=4, upsampling="bilinear"),
        FeaturePyramid(32, first_level=2, extra="pool", norm="batch"),
        FCOSHead(3, channels=32, norm="none", level_scales=False, box_activation="exp"),
    ],
)
def test_config_round_trip(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert keras.saving.deserialize_keras_object(config).get_config() == layer.get_config()


def test_layers_of_a_detector_give_their_config():
    # Their dtype is a policy, which Keras' automatic configs do not hold.
    model = FCOS(3, backbone="simple_cnn", head_convs=2, dtype="mixed_bfloat16")
    for layer in (model.fpn, model.head):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert again.get_config() == layer.get_config()
        assert again.compute_dtype == "bfloat16"
    assert model.head.get_config()["num_convs"] == 2
    assert model.fpn.get_config()["levels"] == 5
