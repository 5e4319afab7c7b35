"""LiteRT files: what they hold, and that they are checked."""

import numpy as np
import pytest

import fcos_tf
from fcos_tf.export import converters, export_litert
from tests.models.test_faster_rcnn import SMALL
from tests.models.test_folding import randomize

CANVAS = (64, 96)


@pytest.fixture(scope="module")
def model():
    return randomize(
        fcos_tf.FCOS(
            3, backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=1,
            image_size="64x96",
        )
    )  # fmt: skip


def test_points_become_boxes_and_scores(model):
    images = np.random.default_rng(0).uniform(0, 255, (1, *CANVAS, 3)).astype(np.float32)
    inputs = {"images": images, "image_sizes": np.array([[50, 90]], np.float32)}
    found = converters._candidate_function(model, CANVAS)(**inputs)
    raw = model(inputs)
    # Points of the three levels: 8 * 12 + 4 * 6 + 2 * 3. The first one lies at (4, 4), of stride 8;
    # the last at (2 * 32 + 16, 32 + 16) = (80, 48).
    assert found["boxes"].shape == (1, 126, 4)
    for index, point, stride in ((0, (4, 4), 8), (125, (80, 48), 32)):
        left, top, right, bottom = np.asarray(raw["ltrb"])[0, index] * stride
        x, y = point
        expected = np.clip([x - left, y - top, x + right, y + bottom], 0, [90, 50, 90, 50])
        np.testing.assert_allclose(found["boxes"][0, index], expected, rtol=1e-5)
        quality = 1 / (1 + np.exp(-np.asarray(raw["centerness_logits"])[0, index]))
        probability = 1 / (1 + np.exp(-np.asarray(raw["class_logits"])[0, index]))
        np.testing.assert_allclose(
            found["scores"][0, index], np.sqrt(probability * quality), rtol=1e-5
        )


@pytest.mark.parametrize(("precision", "share"), [("float32", 1.0), ("float16", 0.5)])
def test_litert(model, tmp_path, precision, share):
    file = export_litert(model, tmp_path / "new" / "a.tflite", precision=precision)
    assert [path.name for path in file.parent.iterdir()] == ["a.tflite"]
    weights = 4 * sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert 0.9 < file.stat().st_size / (share * weights) < 1.3
    interpreter = converters._litert_interpreter()(model_path=str(file))
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == ["image_sizes", "images"]
    assert sorted(signature["outputs"]) == ["boxes", "scores"]


def test_a_file_that_gives_other_numbers_is_not_written(model, tmp_path, monkeypatch):
    right = converters.inference_copy

    def wrong(*args):
        copy = right(*args)
        copy.head.centerness.bias.assign(copy.head.centerness.bias + 0.1)
        return copy

    monkeypatch.setattr(converters, "inference_copy", wrong)
    with pytest.raises(ValueError, match=r"disagrees with the source model: \.tflite scores: "):
        export_litert(model, tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_are_wrong(model, tmp_path):
    (tmp_path / "there.tflite").touch()
    for file, options, error, message in (
        ("a.keras", {}, ValueError, "expected a file that ends in .tflite"),
        ("there.tflite", {}, FileExistsError, "expected a new file"),
        ("a.tflite", {"precision": "bfloat16"}, ValueError, "expected float32 or float16"),
        ("a.tflite", {"image_size": "80,133"}, ValueError, "expected HEIGHTxWIDTH .* got '80,133'"),
    ):
        with pytest.raises(error, match=message):
            export_litert(model, tmp_path / file, **options)


def test_proposals_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    two_stage = fcos_tf.FasterRCNN(3, image_size="64x96", **SMALL)
    monkeypatch.setattr(converters, "inference_copy", None)
    with pytest.raises(ValueError, match=r"\.tflite file has no .* got a FasterRCNN; export a S"):
        export_litert(two_stage, tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []
