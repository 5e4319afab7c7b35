"""ONNX files of strangers: each is refused with one line that names the file."""

import json

import numpy as np
import pytest

import fcos_tf
from fcos_tf.detecting.resized import DESCRIPTION_KEY

onnx = pytest.importorskip("onnx", reason="pip install 'fcos_tf[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'fcos_tf[onnx]'")

DESCRIPTION = {
    "class_names": ["a", "b"], "category_ids": [7, 3], "image_size": "32x32",
    "score_threshold": 0.1,
}  # fmt: skip
PHOTO = np.zeros([20, 30, 3], np.uint8)


def write(file, description=DESCRIPTION, label=3, name="images"):
    """A file whose one detection is the size of the original image."""
    helper = onnx.helper
    batch = {"batch": ["batch"], "pairs": ["batch", 2], "images": ["batch", 32, 32, 3]}
    kinds = {
        name: "images", "image_sizes": "pairs", "original_sizes": "pairs",
        "score_threshold": "batch",
    }  # fmt: skip
    constants = {
        "one": np.array([1, 1], np.int64), "zeros": np.zeros([1, 1, 2], np.float32),
        "label": np.array([[label]], np.int32), "count": np.array([1], np.int32),
        "swap": np.array([1, 0], np.int64), "axis": np.array([1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["original_sizes", "swap"], ["size"], axis=1),
        helper.make_node("Unsqueeze", ["size", "axis"], ["sizes"]),
        helper.make_node("Concat", ["zeros", "sizes"], ["boxes"], axis=2),
        helper.make_node("Unsqueeze", ["score_threshold", "axis"], ["scores"]),
        helper.make_node("Identity", ["label"], ["labels"]),
        helper.make_node("Identity", ["count"], ["num_detections"]),
    ]
    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info(key, real, batch[kind]) for key, kind in kinds.items()],
        [
            helper.make_tensor_value_info("boxes", real, ["batch", 1, 4]),
            helper.make_tensor_value_info("scores", real, ["batch", 1]),
            helper.make_tensor_value_info("labels", whole, ["batch", 1]),
            helper.make_tensor_value_info("num_detections", whole, ["batch"]),
        ],
        [onnx.numpy_helper.from_array(x, key) for key, x in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if description is not None:
        helper.set_model_props(model, {DESCRIPTION_KEY: json.dumps(description)})
    file.write_bytes(model.SerializeToString())
    return file


def test_a_file_is_read_as_it_says(tmp_path):
    file = write(tmp_path / "a.onnx")
    for threshold, score in ((None, 0.1), (0.25, 0.25)):
        (found,) = fcos_tf.detect(file, PHOTO, score_threshold=threshold)
        np.testing.assert_array_equal(found.boxes, [[0, 0, 30, 20]])
        np.testing.assert_allclose(found.scores, [score])
        assert found.labels.tolist() == [1] and found.class_names == ("a", "b")


@pytest.mark.parametrize(
    "description",
    [
        None,
        {**DESCRIPTION, "image_size": "99999x99999"},
        {**DESCRIPTION, "score_threshold": 7},
        {**DESCRIPTION, "score_threshold": "best_f1"},
        {
            **DESCRIPTION,
            "score_threshold": "best_f1",
            "best_f1": {"score_threshold": 0.1, "by_class": [0.3, 0.4]},
        },
        {key: DESCRIPTION[key] for key in ("class_names", "image_size", "score_threshold")},
    ],
)
def test_wrong_descriptions(tmp_path, description):
    file = write(tmp_path / "a.onnx", description)
    with pytest.raises(
        ValueError, match=r"expected a file of tools/export.* --onnx, got .*a\.onnx"
    ):
        fcos_tf.detect(file, PHOTO)


def test_wrong_files_and_outputs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.onnx"):
        fcos_tf.detect(tmp_path / "a.onnx", PHOTO)
    file = write(tmp_path / "a.onnx")
    content = file.read_bytes()
    for wrong in (b"", b"onnx", content[: len(content) // 2]):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"expected a file of tools/export.* --onnx"):
            fcos_tf.detect(file, PHOTO)
    with pytest.raises(ValueError, match="category id 5, which its description"):
        fcos_tf.detect(write(file, label=5), PHOTO)
    with pytest.raises(ValueError, match="ONNX Runtime fails: "):
        fcos_tf.detect(write(file, name="pixels"), PHOTO)
