"""JAX beside TensorFlow: the same numbers, and each loads what the other saved.

Needs the extra `backends`. A process has one backend, so JAX has a process of its own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.backends import cases

if importlib.util.find_spec("jax") is None:
    pytest.skip("needs JAX (make backends)", allow_module_level=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The arrays of every case by TensorFlow, and the folder of what JAX wrote meanwhile."""
    folder = tmp_path_factory.mktemp("backends")
    cases.detector().save(folder / cases.SAVED)
    command = [sys.executable, "-m", "tests.backends.cases", str(folder)]
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as jax:
        expected = {name: cases.arrays(name, folder) for name in cases.CASES}
        _, errors = jax.communicate()
    assert jax.returncode == 0, errors
    return expected, folder


def by_jax(name, folder):
    error = folder / f"{name}.txt"
    if error.exists():
        pytest.fail(error.read_text(), pytrace=False)
    return np.load(folder / f"{name}.npz")


def assert_same(found, expected):
    """Floats within 1e-4 of the largest of an array, or of 1; all else equal."""
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key].dtype == values.dtype and found[key].shape == values.shape, key
        is_float = values.dtype == "float32"
        most = 1e-4 * max(1.0, np.abs(values).max(initial=0)) if is_float else 0
        np.testing.assert_allclose(found[key], values, atol=most, rtol=0, err_msg=key)


@pytest.mark.parametrize("name", cases.CASES)
def test_same_numbers(both, name):
    expected, folder = both
    assert_same(by_jax(name, folder), expected[name])


def test_there_is_something_to_compare(both):
    expected, _ = both
    assert (expected["built"]["detected_num_detections"] == 20).all()
    few = expected["built"]["few_num_detections"]
    assert (few > 0).all() and (few < 30).all()  # the output is not full
    levels = [expected["fitted"][f"num_positives_p{level}"] for level in (3, 4)]
    assert (np.array(levels)[:, -1] > 0).all()


def test_tensorflow_loads_what_jax_saved(both):
    _, folder = both
    found = by_jax("fitted", folder)
    model = keras.models.load_model(folder / f"jax_{cases.FITTED}")
    for i, weight in enumerate(model.weights):
        np.testing.assert_array_equal(weight, found[f"weight_{i}"], err_msg=weight.path)
    assert int(model.optimizer.iterations) == cases.STEPS
    detections = {name: np.asarray(x) for name, x in cases.detections(model).items()}
    assert_same(detections, {name: found[name] for name in detections})
