"""ONNX files: their detections are those of the model, and what is refused."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import fcos_tf
from fcos_tf.cli import detect, export
from fcos_tf.detecting.onnx import DESCRIPTION_KEY, open_session
from fcos_tf.export import export_onnx
from fcos_tf.export import onnx as exporting
from fcos_tf.models.fcos_rules import RULES
from fcos_tf.training import checkpoints
from tests.export.runtimes import (
    IDS,
    PHOTOS,
    assert_same,
    refuses_other_numbers,
    run,
    small_detector,
    two_stage,
)  # fmt: skip

EXTRA = "pip install 'fcos_tf[onnx]'"


@pytest.fixture(scope="module")
def model():
    return small_detector()


@pytest.fixture(scope="module")
def packages():
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=EXTRA)


@pytest.fixture(scope="module")
def file(packages, model, tmp_path_factory):
    return export_onnx(model, tmp_path_factory.mktemp("onnx") / "new" / "a.onnx")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_detections_of_photos_of_any_size_are_the_models(model, file, batch_size):
    assert [path.name for path in file.parent.iterdir()] == ["a.onnx"]
    opened = fcos_tf.detecting.open_model(str(file))
    photos = [*PHOTOS, *load_sample_images().images, load_sample_images().images[0][:301, :77]]
    for threshold in (None, 0.03):
        options = {"batch_size": batch_size, "score_threshold": threshold}
        assert_same(
            fcos_tf.detect(opened, photos, **options), fcos_tf.detect(model, photos, **options)
        )


def test_what_the_file_says(file):
    import onnx

    graph = onnx.load(file)
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", 18)]
    values = onnx.shape_inference.infer_shapes(graph).graph.value_info
    kinds = {x.type.tensor_type.elem_type for x in values} | {
        x.data_type for x in graph.graph.initializer
    }
    types = onnx.TensorProto  # TensorRT has no float64
    assert kinds == {types.FLOAT, types.INT32, types.INT64, types.BOOL}
    weights = [x for x in graph.graph.initializer if len(x.raw_data) > 1000]
    contents = [(x.data_type, *x.dims, x.raw_data) for x in weights]
    # A head's weights are stored once, not for each level.
    assert weights and len(set(contents)) == len(contents)
    session = open_session(str(file))
    sizes = {each.name: each.shape for each in [*session.get_inputs(), *session.get_outputs()]}
    pair, row = ["batch", 2], ["batch", 100]
    assert sizes == {
        "images": ["batch", 64, 96, 3], "image_sizes": pair, "original_sizes": pair,
        "score_threshold": ["batch"], "boxes": ["batch", 100, 4], "scores": row, "labels": row,
        "num_detections": ["batch"],
    }  # fmt: skip
    about = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION_KEY])
    assert (about["category_ids"], about["image_size"]) == (list(IDS), "64x96")


def test_padding(model, file):
    session = open_session(str(file))
    inputs = {
        "images": np.zeros([2, 64, 96, 3], np.float32),
        "image_sizes": np.array([[64, 96]] * 2, np.float32),
        "original_sizes": np.array([[64, 96]] * 2, np.float32),
        "score_threshold": np.array([1, 0], np.float32),  # exclusive: nothing in the first image
    }
    boxes, scores, labels, count = session.run(
        ["boxes", "scores", "labels", "num_detections"], inputs
    )
    assert count[0] == 0 < count[1] and (labels.dtype, count.dtype) == (np.int32, np.int32)
    assert not boxes[0].any() and not scores[0].any() and (labels[0] == -1).all()
    assert set(labels[1, : count[1]]) <= set(IDS)


def test_image_sizes_stay_free_and_thresholds_are_those_of_the_export(model, packages, tmp_path):
    free = export_onnx(
        model, tmp_path / "a.onnx", image_size="64,128", score_threshold=0.02, max_detections=9
    )
    expected = fcos_tf.detect(model, PHOTOS, image_size="64,128", score_threshold=0.02)
    for one, other in zip(fcos_tf.detect(free, PHOTOS), expected, strict=True):
        assert len(one) == 9
        np.testing.assert_allclose(one.boxes, other.boxes[:9], rtol=0, atol=0.01)


@pytest.mark.parametrize("rules", sorted(RULES.keys() - {"fcos_tf"}))
def test_rules(packages, tmp_path, rules):
    other = small_detector(rules=rules)
    file = export_onnx(other, tmp_path / "a.onnx")
    assert_same(fcos_tf.detect(file, PHOTOS), fcos_tf.detect(other, PHOTOS))


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "resnet18"},
        {"backbone": "mobilenet_v2", "fpn_upsampling": "bilinear"},
        {"backbone": "regnetx_400mf", "head_norm": "none"},
        {"backbone": "efficientnet_lite0", "quality": "joint"},
    ],
)
def test_parts(packages, tmp_path, options):
    other = small_detector(**options)
    file = export_onnx(other, tmp_path / "a.onnx")
    assert_same(fcos_tf.detect(file, PHOTOS), fcos_tf.detect(other, PHOTOS))


def test_proposals_are_suppressed_inside(packages, tmp_path):
    other = two_stage()
    file = export_onnx(other, tmp_path / "a.onnx")
    assert_same(fcos_tf.detect(file, PHOTOS), fcos_tf.detect(other, PHOTOS))


def test_the_tools(model, packages, capsys, tmp_path):
    weights, file = tmp_path / "a.keras", tmp_path / "a.onnx"
    checkpoints.write_model(model, weights)
    code, out, _ = run(
        capsys, export, f"--weights={weights}", f"--onnx={file}", "--max_detections=5"
    )
    assert (code, out.splitlines()[-1]) == (0, str(file))
    photo = tmp_path / "7.png"
    Image.fromarray(PHOTOS[0]).save(photo)
    found = {}
    for source, there in (("onnx", file), ("weights", weights)):
        folder = tmp_path / source
        code, _, _ = run(capsys, detect, photo, f"--{source}={there}", f"--output_dir={folder}")
        assert code == 0
        found[source] = json.loads((folder / "detections.json").read_text())
    assert len(found["onnx"]) == 5
    for one, other in zip(found["onnx"], found["weights"][:5], strict=True):
        assert one["category_id"] == other["category_id"]
        np.testing.assert_allclose(one["bbox"], other["bbox"], rtol=0, atol=0.02)
    code, _, error = run(capsys, detect, photo, f"--onnx={file}", "--image_size=64x64")
    assert code == 1 and "--image_size: not used with --onnx" in error


def test_a_file_that_gives_other_numbers_is_not_written(model, packages, tmp_path, monkeypatch):
    refuses_other_numbers(exporting, export_onnx, model, tmp_path / "a.onnx", monkeypatch)


def test_wrong_arguments_and_a_missing_package(model, tmp_path, monkeypatch):
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(exporting, "inference_copy", None)  # nothing is made
    (tmp_path / "there.onnx").touch()
    classifier = fcos_tf.ImageClassifier(2, backbone="simple_cnn", image_size="64x64")
    for each, name, options, error, message in (
        (classifier, "a.onnx", {}, ValueError, "expected a detector, got a ImageClassifier"),
        (model, "a.xml", {}, ValueError, "expected a file that ends in .onnx"),
        (model, "there.onnx", {}, FileExistsError, "expected a new file; got .*there.onnx"),
        (model, "a.onnx", {"score": 0.1}, ValueError, "expected score_threshold, .* got score"),
        (model, "a.onnx", {}, ValueError, r"needs the package onnx: pip install 'fcos_tf\[onnx"),
    ):
        with pytest.raises(error, match=message):
            export_onnx(each, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    with pytest.raises(ValueError, match=r"needs the package onnxruntime: pip install 'fcos_tf\[o"):
        fcos_tf.detect(tmp_path / "a.onnx", PHOTOS[0])


def test_the_tool_without_the_packages(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, error = run(capsys, export, "--weights=no.keras", f"--onnx={tmp_path}/a.onnx")
    assert code == 1 and f"needs the package onnx: {EXTRA}" in error
