"""Backbones against torchvision's and timm's: the same weights give the same features."""

import numpy as np
import pytest

from fcos_tf.layers.backbones import build_backbone
from tests.layers import torchvision_weights as peer

TOLERANCE = 1e-4  # of the largest value of the map
CLOSER = {"efficientnet_lite0": 1e-5}
QUICK = ("resnet18", "resnet50", "resnext50_32x4d", "regnetx_400mf", "mobilenet_v2")


def filled(name, source="torchvision"):
    model = build_backbone(name)
    return model, peer.fill(model, source)


def quick_or_slow(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(("name", "source"), peer.GOLDEN_BACKBONES.items())
def test_stored_features(name, source):
    """torch 2.13.0, torchvision 0.28.0 and timm 1.0.31 on a CPU; see `torchvision_weights`."""
    model, _ = filled(name, source)
    check_names(model, name, source)
    with np.load(peer.GOLDEN) as golden:
        for height, width in peer.SIZES:
            features = model(peer.image(height, width, name), training=False)
            for level in peer.LEVELS:
                key = f"{name}/{height}x{width}/{level}"
                feature = np.asarray(features[level])
                assert feature.shape == tuple(golden[f"{key}/shape"]), key
                largest = float(golden[f"{key}/max"])
                assert 0.1 < largest < 1000, key  # neither vanished nor exploded
                error = np.abs(peer.samples(feature) - golden[key]).max() / largest
                assert error < CLOSER.get(name, TOLERANCE), (key, error)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(set(peer.CONVERTIBLE_FROM["torchvision"]) - set(peer.GOLDEN_BACKBONES))
)
def test_stored_names_of_torchvision(name):
    check_names(build_backbone(name), name, "torchvision")


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        peer.CONVERTIBLE_FROM["timm"],
        quick=(
            "resnet18",
            "regnetx_200mf",
            "regnetx_400mf_384",
            "mobilenet_v2",
            "efficientnet_lite1",
            "efficientnet_lite2",
        ),
    ),
)
def test_stored_names_of_timm(name):
    check_names(build_backbone(name), name, "timm")


def check_names(model, name, source):
    """The names and shapes of all tensors, of torchvision 0.28.0 and timm 1.0.31."""
    drawn = peer.drawn_tensors(model, source)
    with np.load(peer.GOLDEN) as golden:
        assert peer.digest({k: v.shape for k, v in drawn.items()}) == golden[f"{source}/{name}"]


@pytest.mark.parametrize("name", quick_or_slow(peer.CONVERTIBLE_FROM["torchvision"], QUICK))
def test_features_equal_torchvision(name):
    pytest.importorskip("torch")
    compare(name, "torchvision")


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        peer.CONVERTIBLE_FROM["timm"], ("regnetx_400mf_384", "mobilenet_v2", "efficientnet_lite0")
    ),
)
def test_features_equal_timm(name):
    pytest.importorskip("torch")
    from benchmarks.torchvision_peer import import_torchvision

    import_torchvision()
    pytest.importorskip("timm")
    compare(name, "timm")


def compare(name, source):
    theirs = peer.Peer(name, source)
    ours, names = filled(name, source)
    assert names == set(theirs.shapes)  # every tensor of theirs went somewhere, and no other
    for height, width in peer.SIZES:
        image = peer.image(height, width, name)
        features = ours(image, training=False)
        for level, expected in theirs(image).items():
            feature = np.asarray(features[level])
            assert feature.shape == expected.shape
            largest = np.abs(expected).max()
            assert 0.1 < largest < 1000, (level, largest)
            error = np.abs(feature - expected).max() / largest
            print(f"{name} {height}x{width} {level}: largest {largest:.2f}, error {error:.1e}")
            assert error < CLOSER.get(name, TOLERANCE), (height, width, level, error)
