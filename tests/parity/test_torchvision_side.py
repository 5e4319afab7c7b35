"""torchvision's detector in benchmarks: its operations are those of ours, and it compiles."""

import functools

import numpy as np
import pytest

from benchmarks import our_model, torchvision_side
from fcos_tf.config import Config

torch = pytest.importorskip("torch")
torchvision_side.import_torchvision()

SMALL = {"fpn_channels": 32, "head_convs": 1, "image_size": "64x64", "batch_size": 2}


def config_of(**options):
    return Config(**{"backbone": "resnet18", "precision": "float32", **SMALL, **options})


@pytest.mark.parametrize("what", ["inference", "training"])
def test_pytorch_counts_the_same_operations_for_the_same_network(what):
    config = config_of(head_norm="none")
    peer = torchvision_side.side(config, what)
    ours = our_model.tensorflow_side(config, what)
    # torchvision's class and box towers are as ours, its centerness is on the box tower, too. In
    # training both leave out the gradient of the images.
    assert peer.flops() == pytest.approx(ours.flops(), rel=0.001)


def test_compiled_networks_give_the_same_detections(monkeypatch):
    config = config_of(score_threshold=1e-6)
    peer, _ = torchvision_side._make(config, "inference")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = peer.detect(images)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        torchvision_side.compile_networks(peer.model)
    found = peer.detect(images)
    assert type(peer.model.backbone).__name__ == type(peer.model.head).__name__ == "OptimizedModule"
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4)


def test_a_network_that_does_not_compile_runs_as_it_is_and_says_why(monkeypatch):
    def fail(model):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torchvision_side, "compile_networks", fail)
    side = torchvision_side.compiled_side(config_of(), "inference")
    expected = "not compiled, as torch.compile fails: No working C++ compiler found"
    assert side.note == expected and side.run(1) > 0
