import pytest
import tensorflow as tf

from fcos_tf.training import strategy as strategies
from fcos_tf.training.strategy import (
    ALONE,
    Share,
    any_host,
    check_same,
    describe_devices,
    distribute,
    make_strategy,
    share_of,
)


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


CLUSTER = '{"cluster": {"worker": [%s]}, "task": {"type": "worker", "index": 0}}'


@pytest.mark.parametrize("name", ["auto", "multi_worker"])
@pytest.mark.parametrize(
    "addresses, hosts", [('"a:1", "b:1"', True), ('"a:1"', False), (None, None)]
)
def test_several_hosts_in_tf_config_are_several_workers(monkeypatch, name, addresses, hosts):
    monkeypatch.setenv("TF_CONFIG", CLUSTER % addresses if addresses else "")
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: "hosts")
    told = []
    if hosts:
        assert make_strategy(name, report=told.append) == "hosts"
        (line,) = told
        assert line.startswith("waiting until all hosts are there: a:1")
    elif name == "auto" or hosts is False:
        assert make_strategy(name) is tf.distribute.get_strategy()
    else:
        with pytest.raises(ValueError, match=r"multi_worker: expected .* TF_CONFIG, got none"):
            make_strategy(name)


@pytest.mark.parametrize("name", ["auto", "multi_worker"])
def test_one_host_does_without_the_others(monkeypatch, name):
    monkeypatch.setenv("TF_CONFIG", CLUSTER % '"a:1", "b:1"')
    assert make_strategy(name, one_host=True) is tf.distribute.get_strategy()


def test_a_wrong_tf_config_is_named_unless_it_does_not_matter(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(ValueError, match="TF_CONFIG: expected JSON"):
        make_strategy("auto")
    make_strategy("one_device")


def test_a_port_that_is_taken_is_named(monkeypatch):
    def fail():
        raise tf.errors.UnknownError(None, None, "Could not start gRPC server")

    monkeypatch.setenv("TF_CONFIG", CLUSTER % '"a:1", "b:1"')
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fail)
    with pytest.raises(OSError, match=r"TF_CONFIG: expected a:1 to be free .* start gRPC server"):
        make_strategy("auto")


@pytest.mark.parametrize("name, tpu", [("tpu", ""), ("auto", "local")])
def test_a_tpu_has_a_name(name, tpu):
    with pytest.raises(ValueError, match=f"--strategy={name} and --tpu={tpu}"):
        make_strategy(name, tpu=tpu)


def test_a_tpu_that_is_not_there_is_named(monkeypatch):
    def nothing(tpu):
        raise ValueError(f"no {tpu}\nthere")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", nothing)
    with pytest.raises(ValueError, match=r"--tpu=mine: expected a TPU .* got: no mine there"):
        make_strategy("tpu", tpu="mine")


@pytest.mark.parametrize("tpu, num_hosts", [("local", 1), ("mine", 1), ("mine", 4)])
def test_tpus_are_connected_to_and_have_one_host(monkeypatch, tpu, num_hosts):
    class Strategy:
        def __init__(self, resolver):
            self.resolver = resolver
            self.extended = self
            self.num_hosts = num_hosts

    done = []
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda tpu: tpu)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", done.append)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", done.append)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", Strategy)
    if num_hosts == 1:
        assert make_strategy("tpu", tpu=tpu).resolver == tpu
    else:
        with pytest.raises(ValueError, match="expected a TPU with one host, got one with 4"):
            make_strategy("tpu", tpu=tpu)
    assert done == ([tpu] if tpu == "local" else [tpu, tpu])  # connected to, initialised


def test_alone_there_is_nothing_to_share_or_to_agree_about():
    strategy = make_strategy("one_device")
    assert share_of(strategy) == ALONE == Share(1, 0) and ALONE.is_chief
    assert not Share(2, 1).is_chief
    assert any_host(True, strategy) and not any_host(False, strategy)
    check_same({"step": 3}, strategy)
    data = tf.data.Dataset.range(3)
    assert distribute(data, strategy, batch_size=1) is data


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
