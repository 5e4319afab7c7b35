"""A model of another kind goes through the tools: they know what it declares, and no more."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from fcos_tf import build
from fcos_tf.config import Config
from fcos_tf.detecting import open_model
from fcos_tf.evaluation import evaluate
from fcos_tf.jobs.train import train
from fcos_tf.models.image_model import ImageModel, sum_over_replicas, unpack_inputs
from fcos_tf.models.weights import load_detector, load_model
from fcos_tf.training import strategy


@keras.saving.register_keras_serializable(package="tests")
class BoxCounter(ImageModel):
    """Learns from the mean colour how many boxes an image has."""

    loss_names = {"count_loss": "mean squared error of the number of boxes"}  # noqa: RUF012

    def __init__(self, num_classes=None, **kwargs):
        super().__init__(num_classes, **kwargs)
        self.dense = keras.layers.Dense(1, name="dense")
        self.build((None, None, None, 3))

    def build(self, input_shape):
        self.dense.build((None, 3))
        super().build(input_shape)

    def call(self, inputs, training=False):
        return self.dense(ops.mean(self.preprocess(*unpack_inputs(inputs)), axis=(1, 2)))[:, 0]

    def forward_losses(self, inputs, targets, *, training, totals=None):
        predictions = self(inputs, training=training)
        counts = ops.sum(ops.cast(targets["labels"] >= 0, "float32"), axis=1)
        images = sum_over_replicas(ops.cast(ops.shape(counts)[0], "float32"))
        return {"count_loss": ops.sum((predictions - counts) ** 2) / images}


@pytest.fixture
def options(monkeypatch, tmp_path):
    monkeypatch.setitem(build.MODELS, "counter", BoxCounter)
    return {
        "model": "counter", "dataset": "digits", "image_size": "64x64", "batch_size": 4,
        "overfit": 8, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.1,
        "log_every": 2, "eval_every": 3, "checkpoint_every": 3,
    }  # fmt: skip


def run(folder, steps, options):
    told = []
    metrics = train(Config(**options, steps=steps, model_dir=str(folder)), report=told.append)
    return metrics, told


def test_it_trains_resumes_and_saves(options, tmp_path):
    whole, _ = run(tmp_path / "whole", 6, options)
    run(tmp_path / "parts", 3, options)
    parts, told = run(tmp_path / "parts", 6, options)
    assert told[0].startswith("resuming at step 3 of 6")
    assert parts == pytest.approx(whole, rel=1e-5)
    models = [
        keras.models.load_model(tmp_path / name / "model.keras", compile=False)
        for name in ("whole", "parts")
    ]
    assert all(isinstance(model, BoxCounter) for model in models)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert np.abs(models[0].get_weights()[1]).max() > 0.1  # it has learnt: the bias began at 0
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").open()]
    assert [(line["step"], line["kind"]) for line in lines] == [
        (2, "train"), (3, "train"), (3, "val"), (4, "train"), (6, "train"), (6, "val"),
    ]  # fmt: skip
    assert lines[-1]["count_loss"] == lines[-1]["loss"] == whole["loss"]
    # The lower, the better: that of the last evaluation here.
    best = json.loads((tmp_path / "parts" / "best.json").read_text())
    assert best["step"] == 6 and best["value"] == lines[-1]["loss"] < lines[2]["loss"]
    assert not (tmp_path / "parts" / "detections.png").exists()


def test_it_is_loaded_and_trained_on_from_but_does_not_detect(options, tmp_path):
    file = tmp_path / "counter.keras"
    model = BoxCounter(class_names=("a", "b"))
    model.save(file)
    config = Config(**options, initial_weights=str(file))
    for copy in (load_model(file), build.make_model(config, ("c", "d", "e"))):
        assert type(copy) is BoxCounter
        np.testing.assert_array_equal(copy.dense.kernel, model.dense.kernel)
    assert copy.class_names == ("c", "d", "e")
    for needs_detections in (load_detector, open_model):
        with pytest.raises(ValueError, match=r"expected a detector.* a BoxCounter in .*\.keras"):
            needs_detections(file)
    with pytest.raises(ValueError, match="flip and views: expected none, as BoxCounter is evaluat"):
        evaluate(model, [], flip=True)


def test_several_hosts_are_refused_before_anything_is_read(options, monkeypatch):
    share = strategy.Share(num_hosts=2, host=0)
    monkeypatch.setattr(build, "share_of", lambda _: share)
    with pytest.raises(ValueError, match=r"expected one host for --model=counter, .* got 2"):
        build.check_devices(Config(**options), tf.distribute.get_strategy())


def test_what_it_does_not_take_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"--fpn_levels: .*--model=counter"):
        run(tmp_path, 3, {**options, "fpn_levels": 3})
    with pytest.raises(ValueError, match=r"accumulation_steps: expected 1, .* of BoxCounter"):
        run(tmp_path, 3, {**options, "accumulation_steps": 2})
    with pytest.raises(ValueError, match=r"--metrics: .* --model=counter .* got voc07; leave"):
        run(tmp_path, 3, {**options, "metrics": ("voc07",)})
    with pytest.raises(
        ValueError,
        match=r"--model: expected one of fcos, faster_rcnn, classifier, counter, got 'x'",
    ):
        run(tmp_path, 3, {**options, "model": "x"})
