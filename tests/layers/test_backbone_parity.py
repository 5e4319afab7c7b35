"""Backbones against torchvision's: the same weights give the same features."""

import numpy as np
import pytest

from fcos_tf.layers.backbones import build_backbone
from tests.layers import torchvision_weights as peer

TOLERANCE = 1e-4  # of the largest value of the map


def filled(name):
    model = build_backbone(name)
    return model, peer.fill(model)


@pytest.mark.parametrize("name", peer.GOLDEN_BACKBONES)
def test_stored_features_of_torchvision(name):
    """torchvision 0.28.0 and torch 2.13.0 on a CPU; see `torchvision_weights` for how to make."""
    model, _ = filled(name)
    with np.load(peer.GOLDEN) as golden:
        for height, width in peer.SIZES:
            features = model(peer.image(height, width), training=False)
            for level in peer.LEVELS:
                key = f"{name}/{height}x{width}/{level}"
                feature = np.asarray(features[level])
                assert feature.shape == tuple(golden[f"{key}/shape"]), key
                largest = float(golden[f"{key}/max"])
                assert 0.1 < largest < 1000, key  # neither vanished nor exploded
                error = np.abs(peer.samples(feature) - golden[key]).max() / largest
                assert error < TOLERANCE, (key, error)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "regnetx_400mf",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "resnet34",
                "resnet101",
                "resnext101_32x8d",
                "resnext101_64x4d",
                "regnetx_800mf",
                "regnetx_1_6gf",
            )
        ),
    ],
)
def test_features_equal_torchvision(name):
    pytest.importorskip("torch")
    theirs = peer.Peer(name)
    ours, names = filled(name)
    assert names == theirs.names  # every tensor of theirs went somewhere, and no other
    for height, width in peer.SIZES:
        image = peer.image(height, width)
        features = ours(image, training=False)
        for level, expected in theirs(image).items():
            feature = np.asarray(features[level])
            assert feature.shape == expected.shape
            largest = np.abs(expected).max()
            assert 0.1 < largest < 1000, (level, largest)
            error = np.abs(feature - expected).max() / largest
            print(f"{name} {height}x{width} {level}: largest {largest:.2f}, error {error:.1e}")
            assert error < TOLERANCE, (height, width, level, error)
