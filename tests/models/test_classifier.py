"""The image classifier: labels from boxes, loss, pooling, files, metrics, training, export."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import fcos_tf
from fcos_tf import build
from fcos_tf.cli import detect as cli_detect
from fcos_tf.cli import evaluate as cli_evaluate
from fcos_tf.cli import export as cli_export
from fcos_tf.config import Config
from fcos_tf.evaluation import evaluate, run_classifier
from fcos_tf.jobs.train import train
from fcos_tf.layers import backbones
from fcos_tf.layers.backbones import build_backbone
from fcos_tf.models.classifier import ImageClassifier, image_labels, mean_of_valid
from fcos_tf.models.fcos import FCOS
from tests.tools import run

SMALL = {"backbone": "simple_cnn", "image_size": "64x64"}
LABELS = np.int32([[2, 0, 2], [1, -1, -1], [-1, -1, -1]])
IGNORED = np.int32([[0, 1], [-1, -1], [2, 2]])
# VOC's labels: 1 in the image, 0 only difficult ones, -1 not.
MARKS = [[1, 0, 1], [-1, 1, -1], [-1, -1, 0]]


def marks_of(targets, count=3):
    positive, known = (np.asarray(x) for x in image_labels(targets, count))
    return np.where(known, np.where(positive, 1, -1), 0).tolist()


def test_labels_by_hand():
    assert marks_of({"labels": LABELS, "ignored_labels": IGNORED}) == MARKS
    assert marks_of({"labels": LABELS, "ignored_labels": IGNORED[:, :0]}) == [
        [1, -1, 1], [-1, 1, -1], [-1, -1, -1]
    ]  # fmt: skip
    assert marks_of({"labels": LABELS}) == marks_of(
        {"labels": np.pad(LABELS, [[0, 0], [0, 2]], constant_values=-1)}
    )


def test_loss_by_hand_and_in_parts():
    model = ImageClassifier(3, **SMALL)
    logits = np.float32([[0, 9, 0], [0, 0, 0], [0, 0, 9]])
    targets = {"labels": LABELS, "ignored_labels": IGNORED}
    # Seven known pairs, all of logit 0, each ln 2; the nines are left out.
    loss = model.compute_losses({"class_logits": logits}, targets, (64, 64))["classification_loss"]
    assert float(loss) == pytest.approx(np.log(2))
    totals = model.compute_totals(targets, (64, 64))
    assert float(totals) == 7
    whole = 0.0
    for i in range(3):
        one = {name: values[i : i + 1] for name, values in targets.items()}
        part = model.compute_losses({"class_logits": logits[i : i + 1]}, one, (64, 64), totals)
        whole += float(part["classification_loss"])
    assert whole == pytest.approx(np.log(2))
    nothing = {"labels": np.full([1, 1], -1), "ignored_labels": np.int32([[0, 1, 2]])}
    loss = model.compute_losses({"class_logits": logits[:1]}, nothing, (64, 64))
    assert float(loss["classification_loss"]) == 0


def test_loss_and_probabilities_of_one_class_an_image_by_hand():
    model = ImageClassifier(3, label_mode="single", **SMALL)
    logits = np.log(np.float32([[1, 2, 5], [1, 1, 2], [9, 1, 1]]))
    np.testing.assert_allclose(model.probabilities(logits)[0], [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)
    # -ln(5/8); half of -ln(1/4) and -ln(2/4) each; the third image has no class.
    targets = {"labels": np.int32([[2, -1], [0, 2], [-1, -1]])}
    expected = (np.log(8 / 5) + (np.log(4) + np.log(2)) / 2) / 2
    loss = model.compute_losses({"class_logits": logits}, targets, (64, 64))
    assert float(loss["classification_loss"]) == pytest.approx(expected)
    assert float(model.compute_totals(targets, (64, 64))) == 2
    assert ImageClassifier.from_config(model.get_config()).label_mode == "single"
    assert next(iter(model.best_metrics)) == "accuracy"
    assert next(iter(ImageClassifier(3, **SMALL).best_metrics)) == "mAP_all"
    with pytest.raises(ValueError, match="label_mode must be one of single, multi; got 'both'"):
        ImageClassifier(3, label_mode="both", **SMALL)


def test_the_mean_of_the_valid_part_by_hand():
    x = np.arange(4, dtype="float32").reshape(1, 2, 2, 1)  # 0 1 / 2 3
    assert float(mean_of_valid(x, (64, 64))[0, 0]) == 1.5
    # 48 of 64 rows and 32 of 64 columns: cells 0 and 2 with shares 1 and 1/2.
    assert float(mean_of_valid(x, (64, 64), np.float32([[48, 32]]))[0, 0]) == pytest.approx(2 / 3)
    # 40 rows without padding: the second row of cells has a quarter.
    assert float(mean_of_valid(x, (40, 64))[0, 0]) == pytest.approx((0.5 + 2.5 / 4) / 1.25)


def test_padding_changes_little_and_single_is_batch():
    model = ImageClassifier(3, **SMALL)
    images = np.random.default_rng(0).integers(0, 256, [2, 96, 128, 3]).astype("uint8")
    sizes = np.float32([[96, 128], [64, 96]])
    together = np.asarray(model.classify(images, sizes))
    for i in range(2):
        alone = np.asarray(model.classify(images[i : i + 1], sizes[i : i + 1]))
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-6)
    other = images.copy()
    other[1, 64:], other[1, :, 96:] = 0, 255
    np.testing.assert_allclose(np.asarray(model.classify(other, sizes)), together, atol=1e-6)
    predicted = model.predict({"images": images, "image_sizes": sizes}, verbose=0)
    np.testing.assert_allclose(predicted, together, atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(ops.sigmoid(model.class_logits(model.image_features(images)))),
        np.asarray(model.classify(images)),
        atol=1e-6,
    )


def test_files_classes_and_mixed_precision(tmp_path):
    model = ImageClassifier(class_names=("rod", "ring"), category_ids=(3, 9), **SMALL)
    images = np.random.default_rng(1).integers(0, 256, [1, 64, 64, 3]).astype("uint8")
    file = tmp_path / "model.keras"
    model.save(file)
    loaded = fcos_tf.load_model(file)
    assert type(loaded) is fcos_tf.ImageClassifier
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded.classify(images), model.classify(images))
    other = loaded.with_classes(("ring", "rod", "cup"))
    assert other.classify(images).shape == (1, 3)
    np.testing.assert_array_equal(other.image_features(images), model.image_features(images))
    half = model.with_classes(model.class_names, dtype="mixed_bfloat16")
    assert half(images)["class_logits"].dtype == "float32"
    np.testing.assert_allclose(half.classify(images), model.classify(images), atol=0.02)
    (found,) = fcos_tf.detecting.classify(file, images[0])
    assert list(found.values()) == sorted(found.values(), reverse=True)
    rod, ring = model.predict(images, verbose=0)[0]
    assert found == pytest.approx({"rod": float(rod), "ring": float(ring)}, abs=1e-6)
    with pytest.raises(ValueError, match="backbone_weights in a config: expected none"):
        ImageClassifier.from_config({**model.get_config(), "backbone_weights": "imagenet"})


def test_a_backbone_goes_to_a_detector_and_back(tmp_path):
    given = {"class_names": ("rod", "ring"), "mean": (1, 2, 3), "norm_epsilon": 1e-3, **SMALL}
    classifier = ImageClassifier(**given)
    for weight in classifier.backbone.weights:
        weight.assign(weight + 0.25)
    detector = FCOS(**given, fpn_channels=32, head_convs=1)
    for source, kind, others in (
        (classifier, "fcos", {"fpn_channels": 32, "head_convs": 1}),
        (detector, "classifier", {}),
    ):
        file = str(tmp_path / f"{kind}.keras")
        source.save(file)
        config = Config(model=kind, initial_weights=file, frozen_stages=0, **others)
        model = build.make_model(config, ("a", "b", "c"))
        assert type(model) is build.MODELS[kind] and model.num_classes == 3
        assert model.mean == (1, 2, 3) and model.get_config()["backbone"] == "simple_cnn"
        # The default with weights; it has no influence on the values.
        assert model.get_config()["backbone_norm"] == "frozen"
        for ours, theirs in zip(model.backbone.weights, source.backbone.weights, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=ours.path)
        changed = Config(model=kind, initial_weights=file, backbone="resnet18", **others)
        with pytest.warns(UserWarning, match=r"\.keras; of no effect: --backbone=resnet18$"):
            build.make_model(changed, ("a",))
    with pytest.raises(ValueError, match="--fpn_levels: not an option of --model=classifier"):
        build.make_model(Config(model="classifier", initial_weights=file, fpn_levels=3), ("a",))


def test_the_convolution_before_the_classifier(tmp_path):
    classifier = ImageClassifier(2, backbone="mobilenet_v2")
    classifier.backbone.get_layer("last_norm").beta.assign(np.arange(1280) % 8.0)
    images = np.zeros([1, 64, 64, 3], "uint8")
    features = np.asarray(classifier.image_features(images))
    # After a ReLU of at most 6.
    assert features.shape == (1, 1280) and features.min() >= 0 and features.max() <= 6
    file = str(tmp_path / "classifier.keras")
    classifier.save(file)
    of_a_detector = build_backbone("mobilenet_v2", weights=file)
    assert list(of_a_detector.output) == ["c2", "c3", "c4", "c5"]
    shared = classifier.backbone.weights[: len(of_a_detector.weights)]
    for ours, theirs in zip(of_a_detector.weights, shared, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.warns(UserWarning, match="has no last_conv; it stays random"):
        backbones._copy_layers(of_a_detector, classifier.backbone, "a.keras")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = {
        "model": "classifier", "backbone": "simple_cnn", "dataset": "digits", "overfit": 8,
        "image_size": "64x64", "batch_size": 8, "schedule": "constant", "warmup_steps": 0,
        "optimizer": "adamw", "learning_rate": 0.01, "eval_every": 20, "accumulation_steps": 1,
    }  # fmt: skip
    metrics = train(Config(**options, steps=40, model_dir=str(folder)), report=lambda line: None)
    return folder, metrics


def test_it_learns_a_few_images_and_keeps_the_best(run_folder):
    folder, metrics = run_folder
    assert metrics["mAP_all"] > 0.9 and metrics["mAP_11"] > 0.9
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    evaluations = [line for line in lines if line["kind"] == "val"]
    assert [line["step"] for line in evaluations] == [20, 40]
    best = json.loads((folder / "best.json").read_text())
    assert best["value"] == max(line["mAP_all"] for line in evaluations)
    model = keras.models.load_model(folder / "model.keras", compile=False)
    data = fcos_tf.data.load("digits", split="train", batch_size=3, image_size=(64, 64), limit=8)
    assert evaluate(model, data)["mAP_all"] == pytest.approx(metrics["mAP_all"])
    kept = ("boxes", "labels", "image_sizes")
    own = [(images, {name: targets[name] for name in kept}) for images, targets in data]
    assert evaluate(model, own)["mAP_all"] == pytest.approx(metrics["mAP_all"])
    images = sum(len(targets["labels"]) for _, targets in own)
    assert run_classifier(model, own).image_ids.tolist() == list(range(1, images + 1))
    assert not (folder / "detections.png").exists()


def test_the_tools_take_it(run_folder, tmp_path, capsys):
    folder, metrics = run_folder
    data = ["--dataset=digits", "--overfit=8", "--batch_size=3"]
    code, text, error = run(
        capsys, cli_evaluate, f"--flagfile={folder / 'config.cfg'}", "--batch_size=3",
        f"--output_dir={tmp_path}", f"--model_dir={folder}",
    )  # fmt: skip
    assert code == 0, error
    assert f"mAP_all = {metrics['mAP_all']:.4g}" in text and "AP_11" in text
    found = json.loads((tmp_path / "probabilities.json").read_text())
    assert np.shape(found["probabilities"]) == (8, 10) and len(found["image_ids"]) == 8
    assert (tmp_path / "per_class.json").exists()
    weights = f"--weights={folder / 'model.keras'}"
    code, _, error = run(capsys, cli_evaluate, *data, weights, "--metrics=voc07")
    assert code == 1 and "--metrics: not used with the classifier" in error

    photos = tmp_path / "photos"
    photos.mkdir()
    keras.utils.save_img(str(photos / "a.png"), np.full([40, 60, 3], 200.0), scale=False)
    (photos / "b.png").write_bytes(b"no image")
    code, text, error = run(capsys, cli_detect, str(photos), weights)
    (line,) = text.splitlines()
    shown = line.split("a.png: ")[1].split(", ")
    assert code == 0 and len(shown) == 5 and "unreadable (1)" in error
    probabilities = [float(each.split()[-1]) for each in shown]
    assert probabilities == sorted(probabilities, reverse=True)
    code, _, error = run(capsys, cli_detect, str(photos), weights, f"--output_dir={tmp_path}")
    assert code == 1 and "--output_dir: not used with the classifier" in error


def test_an_export_gives_probabilities_from_bytes(run_folder, tmp_path, capsys):
    folder, _ = run_folder
    weights, output = f"--weights={folder / 'model.keras'}", tmp_path / "export" / "1"
    code, _, error = run(capsys, cli_export, weights, f"--output_dir={output}")
    assert code == 0, error
    serve = tf.saved_model.load(str(output)).signatures
    assert set(serve) == {"serving_default", "prepare_image", "raw_outputs"}
    pixels = np.random.default_rng(2).integers(0, 256, [50, 90, 3]).astype("uint8")
    data = tf.io.encode_png(pixels).numpy()
    served = serve["serving_default"](image_bytes=tf.constant([data, data]))["probabilities"]
    model = fcos_tf.load_model(folder / "model.keras")
    (found,) = fcos_tf.detecting.classify(model, data)
    for row in served.numpy():
        expected = dict(zip(model.class_names, row.tolist(), strict=True))
        assert expected == pytest.approx(found, abs=1e-5)
    description = json.loads((output / "assets" / "description.json").read_text())
    outputs = description["signatures"]["serving_default"]["outputs"]
    assert list(outputs) == ["probabilities"]
    assert description["class_names"] == list(model.class_names)
    # Opened as any exported model: from files and, as PNG, from pixels.
    for images in (data, pixels):
        (other,) = fcos_tf.detecting.classify(output, images)
        assert list(other) == list(found) and other == pytest.approx(found, abs=1e-5)
    for classifier in (output, folder / "model.keras", model):
        with pytest.raises(ValueError, match=r"expected a detector, .* fcos_tf.detecting.classify"):
            fcos_tf.detect(classifier, data)
    (tmp_path / "a.png").write_bytes(data)
    texts = [
        run(capsys, cli_detect, str(tmp_path / "a.png"), flag)[:2]
        for flag in (weights, f"--saved_model={output.parent}")
    ]
    assert texts[0] == texts[1] and texts[0][0] == 0 and texts[0][1].count(",") == 4
    code, _, error = run(capsys, cli_export, weights, f"--litert={tmp_path / 'a.tflite'}")
    assert code == 1 and "expected a detector, got a ImageClassifier" in error


def test_folders_of_images_by_class_through_the_tools(tmp_path, capsys):
    random = np.random.default_rng(4)
    for split, count in (("train", 6), ("val", 3)):
        for name, colour in (
            ("red", [200, 40, 40]),
            ("green", [40, 200, 40]),
            ("sky", [0, 0, 250]),
        ):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(colour, 20, [40, 60, 3]), 0, 255)
                keras.utils.save_img(str(folder / f"{i}.png"), pixels, scale=False)
    options = {
        "backbone": "simple_cnn", "image_size": "64x64", "batch_size": 6, "optimizer": "adamw",
        "schedule": "constant", "warmup_steps": 0, "data_dir": str(tmp_path / "photos"),
    }  # fmt: skip
    made = tmp_path / "run"
    lines = []
    config = Config(model="classifier", **options, steps=30, eval_every=30, model_dir=str(made))
    metrics = train(config, report=lines.append)
    assert any(
        "is read as folders: it has no annotations, and images in green, red" in x for x in lines
    )
    assert metrics["accuracy"] == 1 and metrics["mAP_all"] == 1
    assert json.loads((made / "best.json").read_text())["monitor"] == "accuracy"
    model = fcos_tf.load_model(made / "best.keras")
    assert model.label_mode == "single" and model.class_names == ("green", "red", "sky")
    (found,) = fcos_tf.detecting.classify(model, np.full([40, 60, 3], [200, 40, 40], np.uint8))
    assert next(iter(found)) == "red" and sum(found.values()) == pytest.approx(1)
    code, text, error = run(
        capsys, cli_evaluate, f"--model_dir={made}", f"--data_dir={tmp_path / 'photos'}"
    )
    assert code == 0 and "accuracy = 1" in text, error

    # Small logits, of which sigmoids would be about .5 each.
    model.class_logits.set_weights([1e-3 * value for value in model.class_logits.get_weights()])
    fcos_tf.export.export_saved_model(model, tmp_path / "unsure" / "1")
    pixels = np.full([40, 60, 3], [200, 40, 40], np.uint8)
    (served,) = fcos_tf.detecting.classify(tmp_path / "unsure", pixels)
    (found,) = fcos_tf.detecting.classify(model, pixels)
    assert max(served.values()) < 0.9 and served == pytest.approx(found, abs=1e-4)
    assert next(iter(served)) == "red" and sum(served.values()) == pytest.approx(1)

    file = str(made / "model.keras")
    sets = {single: SimpleNamespace(single_label=single) for single in (True, False)}
    config = Config(model="classifier", initial_weights=file)
    names = model.class_names
    assert build.make_model(config, names, dataset=sets[True]).label_mode == "single"
    with pytest.raises(ValueError, match=r"--label_mode=multi, as the data need it, got single"):
        build.make_model(config, names, dataset=sets[False])

    probed = train(
        Config(model="classifier", probe=True, **options, model_dir=str(tmp_path / "probe")),
        report=lambda line: None,
    )
    assert probed["accuracy"] == 1 and probed["held_out_accuracy"] == 1
    for name, size in (("fcos", {"fpn_channels": 32, "head_convs": 1}), ("faster_rcnn", {})):
        config = Config(model=name, **options, **size, steps=1, model_dir=str(tmp_path / name))
        with pytest.raises(
            ValueError, match=r"expected data with boxes for the detector .*--model="
        ):
            train(config, report=lambda line: None)
    data = fcos_tf.data.load(
        "folders", split="val", batch_size=3, image_size=(64, 64), data_dir=tmp_path / "photos"
    )
    detector = FCOS(class_names=data.class_names, fpn_channels=32, head_convs=1, **SMALL)
    for refused in (evaluate, lambda model, data: model.predict(data)):
        with pytest.raises(ValueError, match="expected data with boxes for the detector FCOS"):
            refused(detector, data)
