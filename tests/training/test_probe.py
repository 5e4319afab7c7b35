"""The linear probe: the minimum that scikit-learn and end-to-end training also find."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import fcos_tf
from fcos_tf.cli import train as train_tool
from fcos_tf.config import Config
from fcos_tf.jobs.train import train
from fcos_tf.models.classifier import ImageClassifier
from fcos_tf.training import optimizers
from fcos_tf.training.probe import fit_logistic, fit_probe
from tests.tools import run


def test_it_is_the_logistic_regression_of_scikit_learn():
    random = np.random.default_rng(0)
    features = random.normal(3.0, [0.2, 1, 2, 1, 0.5], [60, 5])
    labels = np.sign((features - 3) @ random.normal(size=[5, 3]) + random.normal(size=[60, 3]))
    labels[random.random(labels.shape) < 0.2] = 0
    weight_decay = 1e-3
    fit = fit_logistic(features, labels, weight_decay)
    strength = 1 / (weight_decay * np.count_nonzero(labels))
    for label, marks in enumerate(labels.T):
        peer = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
        peer.fit(features[marks != 0], marks[marks != 0] > 0)
        np.testing.assert_allclose(fit.kernel[:, label], peer.coef_[0], atol=2e-4)
        np.testing.assert_allclose(fit.bias[label], peer.intercept_[0], atol=1e-3)
    again = fit_logistic(features, labels, weight_decay, start=fit)
    assert again.passes < 5
    np.testing.assert_allclose(again.kernel, fit.kernel, atol=1e-4)


def test_one_class_an_image_is_the_softmax_regression_of_scikit_learn():
    random = np.random.default_rng(0)
    features = random.normal(3.0, [0.2, 1, 2, 1, 0.5], [60, 5])
    classes = ((features - 3) @ random.normal(size=[5, 3]) + random.normal(size=[60, 3])).argmax(
        axis=1
    )
    labels = 2 * np.eye(3)[classes] - 1
    nothing = np.pad(labels, [[0, 1], [0, 0]], constant_values=-1)  # an image without a class
    weight_decay = 1e-3
    for more in (0, 1):
        x = np.concatenate([features, features[:more]])
        fit = fit_logistic(x, nothing[: 60 + more], weight_decay, single=True)
        peer = LogisticRegression(C=1 / (weight_decay * 60), tol=1e-8, max_iter=10_000)
        peer.fit(features, classes)
        np.testing.assert_allclose(fit.kernel, peer.coef_.T, atol=2e-4)
        # A constant in all biases changes nothing.
        ours, theirs = fit.bias - fit.bias.mean(), peer.intercept_ - peer.intercept_.mean()
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_it_is_end_to_end_training_of_the_frozen_model():
    data = {"split": "train", "image_size": (64, 64), "limit": 16}
    dataset = fcos_tf.data.load("digits", batch_size=8, **data)
    frozen = {"backbone": "simple_cnn", "frozen_stages": 5, "backbone_norm": "frozen"}
    model = ImageClassifier(class_names=dataset.class_names, **frozen)
    (images, targets) = next(iter(fcos_tf.data.load("digits", batch_size=16, **data)))
    sizes = targets["image_sizes"]
    features = np.asarray(model.image_features({"images": images, "image_sizes": sizes}))
    # A quarter bounds the second derivative of the loss of a logit; with the 1 of the bias.
    with_bias = np.pad(features, [[0, 0], [0, 1]], constant_values=1)
    steepest = float(np.linalg.norm(with_bias, 2) ** 2 / 4 / (16 * 10))
    weight_decay = steepest / 50
    fit_probe(model, dataset, weight_decays=[weight_decay])
    expected = model.predict({"images": images, "image_sizes": sizes}, verbose=0)
    assert expected.std() > 0.05

    assert len(model.trainable_weights) == 2  # of the class logits
    model.class_logits.set_weights([0 * weight for weight in model.class_logits.get_weights()])
    sgd = optimizers.SGD(1 / steepest, momentum=0.9, weight_decay=weight_decay)
    model.compile(optimizer=sgd, jit_compile=False)
    for _ in range(400):
        model.train_on_batch(images, {k: np.asarray(v) for k, v in targets.items()})
    found = model.predict({"images": images, "image_sizes": sizes}, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_weight_decay_is_chosen_on_a_held_out_part():
    dataset = fcos_tf.data.load(
        "digits", split="train", batch_size=8, image_size=(64, 64), limit=40
    )
    model = ImageClassifier(class_names=dataset.class_names, backbone="simple_cnn")
    lines = []
    found = fit_probe(model, dataset, report=lines.append)
    *tried, last = lines
    values = [float(line.split("mAP_all ")[1].split()[0]) for line in tried]
    best = int(np.argmax(values))
    assert len(tried) == min(12, best + 3) and all("of 8 images held out" in x for x in tried)
    assert found["weight_decay"] == pytest.approx(10 ** (-(best + 1) / 2))
    assert found["held_out_mAP_all"] == pytest.approx(values[best], abs=1e-4)
    assert "of 40 images" in last
    before = model.class_logits.get_weights()
    fit_probe(model, dataset, weight_decays=[found["weight_decay"]])
    for ours, theirs in zip(model.class_logits.get_weights(), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02 * np.abs(theirs).max())


def test_a_run_and_what_is_refused(tmp_path):
    options = {
        "model": "classifier", "backbone": "simple_cnn", "dataset": "digits", "overfit": 20,
        "image_size": "64x64", "batch_size": 8, "probe": True, "model_dir": str(tmp_path / "run"),
    }  # fmt: skip
    metrics = train(Config(**options), report=lambda line: None)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.keras", "metrics.json", "per_class.json", "config.cfg"} <= files
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert metrics["mAP_all"] > 0.5
    model = fcos_tf.load_model(tmp_path / "run" / "model.keras")
    data = {"split": "train", "image_size": (64, 64), "limit": 20, "batch_size": 8}
    dataset = fcos_tf.data.load("digits", **data)
    found = fcos_tf.evaluation.evaluate(model, dataset)
    assert found["mAP_all"] == pytest.approx(metrics["mAP_all"])
    with pytest.raises(ValueError, match="--probe: expected with --model=classifier, got --model="):
        train(Config(**{**options, "model": "fcos"}), report=lambda line: None)


@pytest.mark.parametrize("flag", ["--learning_rate=0.1", "--epochs=3", "--best_metric=mAP_all"])
def test_options_of_training_are_refused_beside_it(capsys, flag):
    code, _, error = run(capsys, train_tool, "--probe", "--model=classifier", flag)
    assert code == 1 and flag.partition("=")[0] in error
