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
    for output in (*fpn.output_convs, fpn.p6, fpn.p7):
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
    fpn.p6.set_weights([np.zeros((3, 3, 1, 1)), np.float32([-2])])
    fpn.p7.set_weights([np.ones((3, 3, 1, 1)), np.float32([0.5])])
    out = fpn(maps)
    assert float(out["p6"][0, 0, 0, 0]) == -2 and float(out["p7"][0, 0, 0, 0]) == 0.5


def build_head(**kwargs):
    head = FCOSHead(3, channels=32, num_levels=2, num_convs=2, **kwargs)
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


def test_parameters_of_the_published_detector():
    # torchvision's fcos_resnet50_fpn has 32,269,600 (91 classes, frozen norm not counted); ours
    # has the five scales besides.
    model = FCOS(91, backbone="resnet50", backbone_norm="frozen")
    assert sum(np.prod(v.shape) for v in model.trainable_weights) == 32_269_600 + 5


@pytest.mark.parametrize("layer", [FeaturePyramid(32), FCOSHead(3, channels=32)])
def test_config_round_trip(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert keras.saving.deserialize_keras_object(config).get_config() == layer.get_config()
