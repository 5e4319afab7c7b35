"""What ONNX, OpenVINO and LiteRT files have in common: the model's detections, and refusals."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import fcos_tf
from fcos_tf.cli import export
from fcos_tf.export import export_litert, export_onnx, export_openvino
from fcos_tf.export import litert as litert_module
from fcos_tf.export import onnx as onnx_module
from fcos_tf.export import openvino as openvino_module
from fcos_tf.models.fcos_rules import RULES
from tests.export.runtimes import PHOTOS, assert_same, run, small_detector, two_stage


class Format(NamedTuple):
    export: Callable
    module: ModuleType
    suffixes: tuple[str, ...]
    packages: tuple[str, ...] = ()

    def write(self, model, folder, **options):
        return self.export(model, folder / f"a{self.suffixes[0]}", **options)


FORMATS = {
    "onnx": Format(export_onnx, onnx_module, (".onnx",), ("onnx", "onnxruntime")),
    "openvino": Format(export_openvino, openvino_module, (".xml", ".bin"), ("openvino",)),
    "litert": Format(export_litert, litert_module, (".tflite",)),
}


@pytest.fixture(scope="module")
def model():
    return small_detector()


@pytest.fixture(scope="module", params=FORMATS)
def kind(request):
    for package in FORMATS[request.param].packages:
        pytest.importorskip(package, reason=f"pip install 'fcos_tf[{request.param}]'")
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def file(model, kind, tmp_path_factory):
    return kind.write(model, tmp_path_factory.mktemp("export") / "new")


def only(*names):
    return pytest.mark.parametrize("kind", names, indirect=True)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_detections_of_photos_of_any_size_are_the_models(model, kind, file, batch_size):
    assert {path.name for path in file.parent.iterdir()} == {f"a{each}" for each in kind.suffixes}
    opened = fcos_tf.detecting.open_model(str(file))
    photos = [*PHOTOS, *load_sample_images().images, load_sample_images().images[0][:301, :77]]
    for threshold in (None, 0.03):
        options = {"batch_size": batch_size, "score_threshold": threshold}
        assert_same(
            fcos_tf.detect(opened, photos, **options), fcos_tf.detect(model, photos, **options)
        )


@only("onnx", "openvino")
def test_image_sizes_stay_free_and_thresholds_are_those_of_the_export(model, kind, tmp_path):
    options = {"image_size": "64,128", "score_threshold": 0.02}
    free = kind.write(model, tmp_path, max_detections=9, **options)
    expected = fcos_tf.detect(model, PHOTOS, **options)
    for one, other in zip(fcos_tf.detect(free, PHOTOS), expected, strict=True):
        assert len(one) == 9
        np.testing.assert_allclose(one.boxes, other.boxes[:9], rtol=0, atol=0.01)


@only("onnx", "litert")
@pytest.mark.parametrize("rules", sorted(RULES.keys() - {"fcos_tf"}))
def test_rules(kind, tmp_path, rules):
    other = small_detector(rules=rules)
    assert_same(fcos_tf.detect(kind.write(other, tmp_path), PHOTOS), fcos_tf.detect(other, PHOTOS))


@only("onnx", "openvino")
def test_proposals_are_suppressed_inside(kind, tmp_path):
    other = two_stage()
    assert_same(fcos_tf.detect(kind.write(other, tmp_path), PHOTOS), fcos_tf.detect(other, PHOTOS))


def test_a_file_that_gives_other_numbers_is_not_written(model, kind, tmp_path, monkeypatch):
    right = kind.module.inference_copy

    def wrong(*args, **options):
        copy = right(*args, **options)
        copy.head.centerness.bias.assign(copy.head.centerness.bias + 0.1)
        return copy

    monkeypatch.setattr(kind.module, "inference_copy", wrong)
    with pytest.raises(ValueError, match="disagrees with the source model: centerness_logits: "):
        kind.write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


NEEDS = r"needs the package {}: pip install 'fcos_tf\[{}"
# Wrong options of some formats, and what is said.
WRONG = {
    "onnx": [({}, NEEDS.format("onnx", "onnx"))],
    "openvino": [
        ({}, NEEDS.format("openvino", "openvino")),
        ({"precision": "int8"}, "float32, bfloat16, float16; got 'int8'"),
    ],
    "litert": [
        ({"precision": "bfloat16"}, "expected float32 or float16"),
        ({"image_size": "80,133"}, "expected HEIGHTxW.*80,133"),
    ],
}


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_arguments_are_refused_before_anything_is_made(model, tmp_path, monkeypatch, name):
    kind = FORMATS[name]
    for package in kind.packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(kind.module, "inference_copy", None)
    suffix, there = kind.suffixes[0], tmp_path / f"there{kind.suffixes[-1]}"
    there.touch()
    classifier = fcos_tf.ImageClassifier(2, backbone="simple_cnn", image_size="64x64")
    for each, file, options, error, message in (
        (classifier, f"a{suffix}", {}, ValueError, "expected a detector, got a ImageClassifier"),
        (model, "a.keras", {}, ValueError, f"file: expected a path that ends in {suffix}"),
        (model, f"there{suffix}", {}, FileExistsError, f"a new one; got .*{there.name}"),
        (model, f"a{suffix}", {"score": 0.1}, ValueError, "score_threshold, .* got score"),
        *((model, f"a{suffix}", options, ValueError, text) for options, text in WRONG[name]),
    ):
        with pytest.raises(error, match=message):
            kind.export(each, tmp_path / file, **options)
    assert [*tmp_path.iterdir()] == [there]


@pytest.mark.parametrize(
    ("name", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")]
)
def test_without_the_package(capsys, tmp_path, monkeypatch, name, package):
    if package == "onnxruntime":
        pytest.importorskip("onnx", reason="needs onnx, which is asked for first (make runtimes)")
    monkeypatch.setitem(sys.modules, package, None)
    file = f"{tmp_path}/a{FORMATS[name].suffixes[0]}"
    code, _, error = run(capsys, export, "--weights=no.keras", f"--{name}={file}")
    assert code == 1
    assert f"needs the package {package}: pip install 'fcos_tf[{name}]'" in error
    if package != "onnx":  # which writes only
        with pytest.raises(ValueError, match=NEEDS.format(package, name)):
            fcos_tf.detect(file, PHOTOS[0])
