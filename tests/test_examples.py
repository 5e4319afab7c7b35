"""The examples of docstrings run, and give what they say."""

import doctest
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import fcos_tf
from fcos_tf import FCOS
from fcos_tf.config import Config
from fcos_tf.convert import read_tensors
from fcos_tf.training.callbacks import Checkpoint, DetectionMetrics
from fcos_tf.training.optimizers import SGD
from tests.convert import pickle_bytes as pb

ROOT = Path(fcos_tf.__file__).parents[1]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in ROOT.glob("fcos_tf/**/*.py")
    if ">>> " in file.read_text()
)
# What the tests of these do on small files of their own.
NOT_RUN = {
    "fcos_tf.jobs.train.train": "trains 600 steps",
    "fcos_tf.convert.backbones.load_imagenet_file": "a published file, 100 MB",
    "fcos_tf.convert.checkpoints.from_torch": "a published file, 130 MB",
    "fcos_tf.convert.fetching.fetch_weights": "a published file, 130 MB",
    "fcos_tf.convert.torch_files.read_tensors": "a published file, 130 MB",
    "fcos_tf.data.formats.tfds.read_tfds": "a data set to be downloaded",
    "fcos_tf.data.formats.tfds_writer.write_tfds": "a bucket",
    "fcos_tf.export.saved_model.export_saved_model": "20 seconds, and tests/export does the same",
}


class Checker(doctest.OutputChecker):
    """Where an example says no result, any will do."""

    def check_output(self, want, got, flags):
        return not want or super().check_output(want, got, flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that examples name."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.new("RGB", (48, 40)).save(folder / name / "photo.png")
    weight = pb.tensor(pb.storage("FloatStorage", "0", 6), 0, (3, 2), (2, 1))
    bias = pb.tensor(pb.storage("FloatStorage", "1", 3), 0, (3,), (1,))
    names = pb.text("fc.weight") + weight + pb.text("fc.bias") + bias
    pb.zip_file(folder / "fc.pth", b"}(" + names + b"u", {"0": bytes(24), "1": bytes(12)})
    return folder


@pytest.fixture(scope="module")
def stand_ins(folder):
    """What examples take as given: modules, two data sets, a compiled model and its file."""
    small = {
        "backbone": "simple_cnn", "fpn_levels": 3, "fpn_channels": 32, "head_convs": 0,
        "image_size": "64x64",
    }  # fmt: skip
    options = {"batch_size": 2, "image_size": (64, 64), "limit": 2}
    model = FCOS(10, class_names=tuple("0123456789"), **small)
    model.compile(SGD(0.01, use_ema=True), run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    for path in ("fcos.keras", "runs/demo/model.keras"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        model.save(folder / path)
    return {
        "Checkpoint": Checkpoint, "DetectionMetrics": DetectionMetrics, "FCOS": FCOS,
        "fcos_tf": fcos_tf, "keras": keras, "np": np, "read_tensors": read_tensors, "tf": tf,
        "config": Config(**small), "names": ("cat", "dog", "cow"),
        "model": model, "detector": model,
        "train": fcos_tf.data.load("digits", split="train", training=True, **options),
        "val": fcos_tf.data.load("digits", split="val", **options),
        "image": tf.zeros((40, 48, 3), tf.uint8), "seed": 0, "position": 1,
    }  # fmt: skip


def examples_of(name):
    """The docstrings with examples of a module; of a nested one too."""
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, stand_ins, folder, monkeypatch):
    monkeypatch.chdir(folder)
    tests = examples_of(module)
    assert tests, "'>>> ' in no docstring"
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS)
    for test in tests:
        if test.name not in NOT_RUN:
            test.globs = {**stand_ins, **test.globs}
            said = []
            runner.run(test, out=said.append)
            assert not runner.failures, "".join(said)


def test_what_is_not_run_is_there():
    modules = {name.rpartition(".")[0] for name in NOT_RUN}
    assert set(NOT_RUN) <= {test.name for module in modules for test in examples_of(module)}
