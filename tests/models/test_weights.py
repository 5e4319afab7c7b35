"""Files of saved detectors: loaded, refused, corrupt."""

import json
import resource
import subprocess
import sys
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from fcos_tf import FCOS
from fcos_tf.detecting import open_model
from fcos_tf.keras_files import MEMBERS, find_damage, replace_settings
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.models.weights import load_model
from fcos_tf.training.optimizers import SGD
from fcos_tf.training.schedules import WarmupConstant


@pytest.fixture
def small_file(tmp_path):
    """A file with the members of a checkpoint, and where their contents are."""
    path = tmp_path / "step_00000001.keras"
    with zipfile.ZipFile(path, "w") as archive:  # not compressed, as Keras writes it
        for name in MEMBERS:
            archive.writestr(name, f"what {name} holds")
    content = path.read_bytes()
    inside = set()
    for name in MEMBERS:
        begin = content.index(b"what " + name.encode())
        inside |= set(range(begin, begin + len(f"what {name} holds")))
    return path, inside


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in MEMBERS}


def test_every_flipped_bit_is_found_or_changes_nothing(small_file):
    path, inside = small_file
    content, before = path.read_bytes(), members(path)
    assert len(content) - len(inside) == 3 * (30 + 46) + 22 + 2 * sum(map(len, before))
    found = {True: 0, False: 0}
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            damage = find_damage(path)
            if damage is None:  # such as the time at which a member was written
                assert place not in inside and members(path) == before, (place, bit)
            found[damage is None] += 1
    assert min(found.values()) > 500


@pytest.mark.parametrize(
    "offset, value, words",
    [
        (8, 1, "not a whole zip file: File 'model.weights.h5' is encrypted"),
        (10, 8, "model.weights.h5 in it is compressed"),
    ],
)
def test_headers_that_zipfile_trips_over_are_damage(small_file, offset, value, words):
    # In a member's entry of the central directory: 8, the flags; 10, the kind of compression.
    path, _ = small_file
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    assert find_damage(path).startswith(words)


LOADING = """
import {imports}
model = keras.models.load_model({path!r})
assert fcos_tf.load_model({path!r}).class_names == model.class_names == ("a", "b")
print(type(model.optimizer).__module__, int(model.optimizer.iterations))
"""


@pytest.mark.parametrize("imports", ["keras, fcos_tf", "fcos_tf, keras"])
def test_a_fresh_process_loads_a_trained_model(tmp_path, imports):
    model = FCOS(2, backbone="simple_cnn", fpn_channels=32, head_convs=0, class_names=("a", "b"))
    model.compile(SGD(WarmupConstant(0.01, warmup_steps=2, warmup_factor=0.1), momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7)
    path = str(tmp_path / "model.keras")
    model.save(path)
    code = LOADING.format(imports=imports, path=path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["fcos_tf.training.optimizers", "7"], done.stderr


class Foreign(keras.layers.Layer):
    """Of another package, not registered."""


def copied_kernels(backbone):
    """The kernels of a new network of the same config."""
    return [np.asarray(x) for x in keras.models.clone_model(backbone).weights if x.name == "kernel"]


def test_loading_draws_no_random_weights_and_building_does_again_afterwards(tmp_path, monkeypatch):
    model = FCOS(2, backbone="simple_cnn", fpn_channels=32, head_convs=0)
    model.save(tmp_path / "a.keras")
    drawn = []
    draw = keras.initializers.VarianceScaling.__call__

    def count(self, shape, dtype=None):
        if tf.executing_eagerly():  # in a graph only the shape is asked for
            drawn.append((self.mode, tuple(shape)))
        return draw(self, shape, dtype)

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", count)
    read = load_model(tmp_path / "a.keras")
    assert drawn == []
    for one, other in zip(read.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "b.keras").write_bytes(b"no model")
    with pytest.raises(ValueError, match="expected"):
        load_model(tmp_path / "b.keras")
    assert all(np.ptp(kernel) > 0 for kernel in copied_kernels(read.backbone))  # drawn again
    assert {mode for mode, _ in drawn} == {"fan_out"}


def test_load_model_refuses_what_is_no_model_of_this_package(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_model(tmp_path / "nothing.keras")
    keras.Sequential([keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    with pytest.raises(
        ValueError, match=r"dense\.keras: expected a model of this package, got a Seq"
    ):
        load_model(tmp_path / "dense.keras")
    foreign = keras.Sequential([Foreign()])
    foreign.save(tmp_path / "foreign.keras")
    with pytest.raises(ValueError, match=r"foreign\.keras: expected a model of this package"):
        load_model(tmp_path / "foreign.keras")
    (tmp_path / "dense.keras").write_bytes(b"PK and so on")
    with pytest.raises(ValueError, match="corrupt"):
        load_model(tmp_path / "dense.keras")


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "model.keras"
    FCOS(2, backbone="simple_cnn", fpn_channels=32, head_convs=0).save(path)
    return path


def altered(source, target, name, change, compression=zipfile.ZIP_STORED):
    """The file with another content of one member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, change(content) if member == name else content)
    return target


def with_setting(**settings):
    def change(content):
        config = json.loads(content)
        config["config"] |= settings
        return json.dumps(config).encode()

    return change


def of_class(module, class_name, registered_name):
    return lambda content: json.dumps(
        {
            **json.loads(content),
            "module": module,
            "class_name": class_name,
            "registered_name": registered_name,
        }
    ).encode()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: b"[" * 100_000, "maximum recursion depth"),
        (lambda content: b"[]", "expected a model of this package"),
        (lambda content: b"no JSON", "expected a model of this package"),
        (lambda content: content + b" " * 2**24, "a config of at most 16777216 bytes"),
        (
            with_setting(backbone_weights="imagenet"),
            "expected none, got 'imagenet'",
        ),
        (with_setting(backbone_weights="/etc/passwd"), "got '/etc/passwd'"),
        (with_setting(fpn_levels="many"), "expected a model of this package"),
        (with_setting(num_classes=500_000), "got one with more than the [0-9]+ weights in the"),
        (with_setting(fpn_channels=1 << 14), "got one with more than the [0-9]+ weights in the"),
        (with_setting(head_convs=1 << 40), "got head_convs 1099511627776, of which it holds no"),
        (
            of_class("keras.layers", "TFSMLayer", None),
            "expected a model of this package, got a TFSMLayer",
        ),
        (of_class("antigravity", "FCOS", "FCOS"), "expected a model of this package, got a FCOS"),
    ],
)
def test_configs_that_are_no_detectors(detector_file, tmp_path, change, words):
    path = altered(detector_file, tmp_path / "x.keras", "config.json", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"x\.keras: .*{words}"):
        load_model(path)
    # In KiB. A kernel of 3 x 3 x 32 x 500,000 alone has 550 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("image_size", ["60000x60000", "500,999999"])
def test_an_image_size_out_of_proportion(detector_file, tmp_path, image_size):
    change = with_setting(image_size=image_size)
    path = altered(detector_file, tmp_path / "x.keras", "config.json", change)
    words = rf"image_size of .*x\.keras: expected at most 67108864 pixels, got {image_size}"
    with pytest.raises(ValueError, match=words):
        open_model(path)
    open_model(path, image_size="64x64")


def test_a_backbone_file_may_not_ask_for_more_weights_than_it_holds(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save(tmp_path / "small.keras")
    path, units = tmp_path / "x.keras", (b'"units": 3', b'"units": 20000000')
    altered(tmp_path / "small.keras", path, "config.json", lambda text: text.replace(*units))
    with pytest.raises(ValueError, match=r"x\.keras: one with more than the 15 weights in the"):
        FCOS(2, backbone="simple_cnn", backbone_weights=str(path))


def test_weights_of_a_diverged_training_are_refused(detector_file, tmp_path):
    model = load_model(detector_file)
    variable = model.head.weights[0]
    variable.assign(np.where(np.arange(variable.shape[-1]) == 1, np.nan, variable))
    model.save(tmp_path / "x.keras")
    with pytest.raises(ValueError, match=rf"x\.keras: expected finite .* in {variable.path}$"):
        load_model(tmp_path / "x.keras")


def test_weights_that_are_elsewhere_or_larger_than_the_file(detector_file, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["a"] = np.ones(3)
    (tmp_path / "raw").write_bytes(bytes(12))
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "a", (3,))
    made = {
        "an external link": lambda f: f.__setitem__("x", h5py.ExternalLink(str(secret), "a")),
        "a soft link": lambda f: f.__setitem__("x", h5py.SoftLink("/fpn")),
        "external data": lambda f: f.create_dataset(
            "x", (3,), "f4", external=[(str(tmp_path / "raw"), 0, 12)]
        ),
        "virtual data": lambda f: f.create_virtual_dataset("x", layout),
        "nothing but a shape": lambda f: f.create_dataset("x", (1 << 40,), "f4"),
        "compressed zeros": lambda f: f.create_dataset(
            "x", data=np.zeros(10_000), compression="gzip"
        ),
    }
    for name, add in made.items():
        weights = tmp_path / "weights.h5"
        with zipfile.ZipFile(detector_file) as archive:
            weights.write_bytes(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            add(file)
        content = weights.read_bytes()
        path = tmp_path / "x.keras"
        altered(detector_file, path, "model.weights.h5", lambda _, new=content: new)
        with pytest.raises(ValueError, match=r"x\.keras: model\.weights\.h5 in it: .*expected"):
            load_model(path)
            pytest.fail(name)


def test_settings_are_replaced_and_all_else_stays(detector_file, tmp_path):
    path = tmp_path / "x.keras"
    path.write_bytes(detector_file.read_bytes())
    replace_settings(path, max_detections=7)
    before, after = members(detector_file), members(path)
    config, changed = (json.loads(each.pop("config.json")) for each in (before, after))
    assert before == after
    config["config"]["max_detections"] = 7
    assert changed == config
    assert load_model(path).max_detections == 7
    assert [each.name for each in tmp_path.iterdir()] == ["x.keras"]


def test_a_compressed_file_is_not_expanded(detector_file, tmp_path):
    path = tmp_path / "x.keras"
    altered(detector_file, path, "config.json", lambda _: bytes(100 << 20), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2 * detector_file.stat().st_size
    tracemalloc.start()
    for load in (load_model, lambda file: build_backbone("simple_cnn", weights=str(file))):
        with pytest.raises(ValueError, match=r"x\.keras is corrupt \(.* in it is compressed\)"):
            load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
