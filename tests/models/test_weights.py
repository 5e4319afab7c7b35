"""Files of saved detectors: loaded, refused, corrupt."""

import subprocess
import sys
import zipfile

import keras
import pytest

from fcos_tf import FCOS
from fcos_tf.models.weights import MEMBERS, find_damage, load_model
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
    [(8, 1, "File 'model.weights.h5' is encrypted"), (10, 8, "Error -3 while decompressing")],
)
def test_headers_that_zipfile_trips_over_are_damage(small_file, offset, value, words):
    # In a member's entry of the central directory: 8, the flags; 10, the kind of compression.
    path, _ = small_file
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    assert find_damage(path).startswith(f"not a whole zip file: {words}")


LOADING = """
import {imports}
assert fcos_tf.load_model({path!r}).class_names == ("a", "b")
model = keras.models.load_model({path!r})
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
