import pytest
import tensorflow as tf

from fcos_tf.training import strategy as strategies
from fcos_tf.training.strategy import describe_devices, make_strategy


def test_one_device_is_the_default_strategy():
    strategy = make_strategy("one_device")
    assert strategy is tf.distribute.get_strategy()
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize("gpus, mirrored", [(0, False), (1, False), (2, True)])
def test_auto_mirrors_over_several_gpus_only(monkeypatch, gpus, mirrored):
    made = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"] * gpus)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: made.append(1) or "mirrored")
    assert (make_strategy("auto") == "mirrored") is mirrored
    assert len(made) == mirrored


def test_devices_in_words(monkeypatch):
    class Strategy:
        num_replicas_in_sync = 4

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["gpu"] * 4)
    assert describe_devices(Strategy()) == "4 GPUs"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"strategy: expected one of auto.*got 'gpus'"):
        make_strategy("gpus")


def test_an_idle_gpu_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    monkeypatch.setattr(strategies, "_NVIDIA_DRIVER", tmp_path / "none")
    assert describe_devices(make_strategy("one_device")) == "CPU"
    monkeypatch.setattr(strategies, "_NVIDIA_DRIVER", tmp_path)
    words = describe_devices(make_strategy("one_device"))
    assert words.startswith("CPU although there is an NVIDIA GPU") and "fcos_tf[gpu]" in words
