"""The peers of benchmarks take steps, count operations, and say what is missing."""

import functools
import sys

import pytest

from benchmarks import contestants, keras_hub_peer, our_model
from benchmarks.processes import Contestant, Entrant
from fcos_tf.config import Config

SMALL = {"fpn_channels": 32, "head_convs": 1, "image_size": "64x64", "batch_size": 1}


def config_of(**options):
    return Config(**{"backbone": "resnet18", "precision": "float32", **SMALL, **options})


@pytest.mark.parametrize(
    ("peer", "module"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime")]
)
def test_an_exported_model_detects_as_often_as_it_is_asked(peer, module):
    pytest.importorskip(module)
    config = config_of()
    make = functools.partial(contestants.PEERS[peer].make, config, "inference")
    contestant = Contestant(peer, Entrant(make, contestants.PEERS[peer].libraries))
    try:
        assert contestant.run(2) > 0
        ours = our_model.tensorflow_side(config, "inference")
        assert contestant.ask("flops") == ours.flops() > 0
    finally:
        contestant.close()


@pytest.mark.parametrize("what", ["inference", "training"])
def test_keras_hubs_retinanet_takes_steps(what):
    pytest.importorskip("keras_hub")
    config = config_of(precision="mixed_bfloat16")
    make = functools.partial(keras_hub_peer.side, config, what)
    contestant = Contestant("keras_hub", Entrant(make, keras_hub_peer.import_keras_hub))
    try:
        assert contestant.run(2) > 0
        assert contestant.ask("flops") > 1e9
    finally:
        contestant.close()


def test_sizes_that_keras_hubs_pyramid_cannot_take_are_named():
    config = Config(backbone="resnet18", image_size="240x320")
    with pytest.raises(ValueError, match="multiples of 32, such as 256x320, got 240x320"):
        keras_hub_peer._check(config, (240, 320, 3))


def test_a_missing_keras_hub_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ValueError, match="--peer=keras_hub: expected KerasHub; pip install keras-"):
        keras_hub_peer.import_keras_hub()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_runtime_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    expected = rf"--peer={name}: an .* file needs the package {name}: pip install"
    with pytest.raises(ValueError, match=expected):
        our_model.import_reader(name)
