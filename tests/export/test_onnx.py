"""ONNX files beside `test_exported_files`: contents, padding, parts of models, the tools."""

import json

import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.cli import detect, export
from fcos_tf.detecting.resized import DESCRIPTION_KEY, open_session
from fcos_tf.export import export_onnx
from fcos_tf.training import checkpoints
from tests.export.runtimes import (
    IDS,
    PHOTOS,
    assert_same,
    run,
    small_detector,
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
