"""A model of another kind goes through the tools: they know what it declares, and no more."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from fcos_tf import build
from fcos_tf.cli.train import train
from fcos_tf.config import Config
from fcos_tf.models.image_model import ImageModel, sum_over_replicas, unpack_inputs


@keras.saving.register_keras_serializable(package="tests")
class BoxCounter(ImageModel):
    """Learns from the mean colour how many boxes an image has."""

    loss_names = {"count_loss": "mean squared error of the number of boxes"}  # noqa: RUF012

    def __init__(self, num_classes=None, **kwargs):
        super().__init__(num_classes, **kwargs)
        self.dense = keras.layers.Dense(1)
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


def test_what_it_does_not_take_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"--fpn_levels: .*--model=counter"):
        run(tmp_path, 3, {**options, "fpn_levels": 3})
    with pytest.raises(ValueError, match=r"accumulation_steps: expected 1, .* of BoxCounter"):
        run(tmp_path, 3, {**options, "accumulation_steps": 2})
    with pytest.raises(
        ValueError, match=r"--model: expected one of fcos, faster_rcnn, counter, got 'x'"
    ):
        run(tmp_path, 3, {**options, "model": "x"})
