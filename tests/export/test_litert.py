"""LiteRT files beside `test_exported_files`: contents, suppression, 8 bits, and what is refused."""

import json
import re
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.lite.tools import flatbuffer_utils

import fcos_tf
from fcos_tf.cli import export
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.exported import DESCRIPTION_FILE
from fcos_tf.detecting.resized import LiteRtModel, open_interpreter
from fcos_tf.export import export_litert, litert_suppression
from fcos_tf.export.calibration import CalibrationImages
from fcos_tf.image_size import parse_image_size
from fcos_tf.ops.nms import class_wise_nms, select_detections
from tests.export.runtimes import (
    IDS,
    NAMES,
    PHOTOS,
    assert_eight_bits_are_close,
    run,
    small_detector,
    trained_detector,
    two_stage,
    write_run,
)  # fmt: skip

DOCS = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
BLACK = np.zeros([40, 60, 3], np.uint8)


@pytest.fixture(scope="module")
def model():
    return small_detector()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return export_litert(model, tmp_path_factory.mktemp("litert") / "new" / "a.tflite")


def operations(file):
    """The number of operations of each kind and type of output in a file."""
    read = flatbuffer_utils.read_model(str(file))
    graph = read.subgraphs[0]
    return Counter(
        (
            flatbuffer_utils.opcode_to_name(read, x.opcodeIndex),
            flatbuffer_utils.type_to_name(graph.tensors[x.outputs[0]].type),
        )
        for x in graph.operators
    )


def readers_of(file, kind):
    """The kinds of operations that read an output of an operation of one kind."""
    read = flatbuffer_utils.read_model(str(file))
    graph = read.subgraphs[0]
    kinds = [flatbuffer_utils.opcode_to_name(read, x.opcodeIndex) for x in graph.operators]
    pairs = list(zip(kinds, graph.operators, strict=True))
    outputs = {i for name, operation in pairs if name == kind for i in operation.outputs}
    return {name for name, operation in pairs if outputs & set(operation.inputs)}


def test_what_the_file_holds(model, file):
    interpreter = open_interpreter(model_path=str(file))
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == [
        "image_sizes", "images", "original_sizes", "score_threshold",
    ]  # fmt: skip
    assert sorted(signature["outputs"]) == ["boxes", "labels", "num_detections", "scores"]
    about = json.loads(zipfile.ZipFile(file).read(DESCRIPTION_FILE))
    assert (about["category_ids"], about["image_size"]) == (list(IDS), "64x96")
    assert (about["precision"], about["int8"]) == ("float32", False)
    assert operations(file)["NON_MAX_SUPPRESSION_V4", "INT32"] == 1
    weights = 4 * sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert 0.9 < file.stat().st_size / weights < 1.3


def test_weights_of_16_bits_and_thresholds_of_the_export(model, file, tmp_path):
    half = export_litert(
        model, tmp_path / "a.tflite", precision="float16", max_detections=9, score_threshold=0.02
    )
    assert 0.45 < half.stat().st_size / file.stat().st_size < 0.6
    for one, other in zip(
        fcos_tf.detect(half, PHOTOS),
        fcos_tf.detect(model, PHOTOS, score_threshold=0.02),
        strict=True,
    ):
        assert len(one) == 9 and abs(one.scores[0] - other.scores[0]) < 0.05


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_suppression(threshold):
    """That of `ops.nms`: equal scores, overlaps of exactly .5, boxes without area, 40 classes."""
    size, most = 500, 100

    def suppress(boxes, scores, labels):
        keep, valid = litert_suppression._suppress(
            boxes, scores, labels, tf.constant(threshold), most=most, num_labels=40
        )
        return {"keep": keep, "valid": valid}

    specs = {
        "boxes": tf.TensorSpec([1, size, 4]),
        "scores": tf.TensorSpec([1, size]),
        "labels": tf.TensorSpec([1, size], tf.int32),
    }
    function = tf.function(suppress, autograph=False).get_concrete_function(**specs)
    module = tf.Module()
    module.function = function
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function)
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    runner = open_interpreter(model_content=content).get_signature_runner()
    rng = np.random.default_rng(0)
    for num_labels in (1, 3, 40):
        corner, sides = rng.integers(-9, 30, (1, size, 2)), rng.integers(0, 9, (1, size, 2))
        inputs = {
            "boxes": np.concatenate([corner, corner + sides], -1).astype(np.float32),
            "scores": rng.integers(0, 40, (1, size)).astype(np.float32) / 40,
            "labels": rng.integers(0, num_labels, (1, size)).astype(np.int32),
        }
        found = runner(**inputs)
        found = select_detections(*inputs.values(), found["keep"], found["valid"])
        expected = class_wise_nms(
            *inputs.values(), iou_threshold=threshold, max_detections=most, jit_compile=True
        )
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.fixture(scope="module")
def trained():
    return trained_detector()


def test_the_tools_and_eight_bits(trained, capsys, tmp_path):
    model, images = trained
    weights, whole, small = (tmp_path / name for name in ("a.keras", "b.tflite", "a.tflite"))
    write_run(model, images, weights)
    flag = f"--calibration_images={tmp_path}/*.png"
    for flags in ([f"--litert={whole}"], [f"--litert={small}", flag]):
        code, out, _ = run(capsys, export, f"--weights={weights}", *flags)
        assert (code, out.splitlines()[-1]) == (0, flags[0].partition("=")[2])
    assert small.stat().st_size / whole.stat().st_size < 0.45
    assert LiteRtModel(small).class_names == model.class_names
    kinds = operations(small)
    # Three levels with three outputs, of float32 as the steps after them.
    assert kinds["CONV_2D", "FLOAT32"] == 9 < kinds["CONV_2D", "INT8"]
    assert not {kind for kind, type_ in kinds if type_ == "INT8"} & {
        "LOGISTIC", "MEAN", "MUL", "RSQRT", "SQUARED_DIFFERENCE", "SUB", "TOPK_V2",
    }  # fmt: skip
    assert readers_of(small, "QUANTIZE") <= {"CONV_2D", "PAD"}  # boxes stay as they are
    assert_eight_bits_are_close(capsys, tmp_path, weights, "litert", small)


def test_calibration_on_black_images_is_refused(model, capsys, tmp_path):
    with pytest.raises(ValueError, match="expected photos, got 2 images of one colour each"):
        export_litert(model, tmp_path / "a.tflite", calibration=[BLACK, BLACK + 9])
    red = CalibrationImages([BLACK + np.uint8([255, 0, 0])], parse_image_size("64x96"), False)
    with pytest.raises(ValueError, match="got 1 images of one colour each"):
        list(red)
    with pytest.raises(ValueError, match=r"precision: expected float32 .* got 'float16'"):
        export_litert(model, tmp_path / "a.tflite", calibration=PHOTOS, precision="float16")
    batches = CalibrationImages([BLACK, *PHOTOS], parse_image_size("64x96"), False)
    assert len(batches) == 4 and [x["images"].shape for x in batches] == [(1, 64, 96, 3)] * 4
    (tmp_path / "none").mkdir()
    code, _, error = run(
        capsys, export, "--weights=no.keras", f"--litert={tmp_path}/a.tflite",
        f"--calibration_images={tmp_path}/none",
    )  # fmt: skip
    assert code == 1 and "--calibration_images: " in error
    assert [path.name for path in tmp_path.iterdir()] == ["none"]


def test_proposals_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has one suppression: .* got a FasterRCNN; export a"):
        export_litert(two_stage(), tmp_path / "a.tflite")


def test_files_of_strangers(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.tflite"):
        fcos_tf.detect(tmp_path / "a.tflite", PHOTOS[0])
    text = zipfile.ZipFile(file).read(DESCRIPTION_FILE).decode()
    content = file.read_bytes()
    content = content[: content.rindex(b"PK\x03\x04")]
    copy = tmp_path / "a.tflite"
    damaged = bytearray(file.read_bytes())
    start = damaged.rindex(b"PK\x03\x04") + 30 + len(DESCRIPTION_FILE)
    damaged[start : start + 40] = b"\xff" * 40
    for data, description in (
        (content, None),
        (b"", text),
        (b"no model", text),
        (content, text.replace("category_ids", "ids")),
        (content, text.replace("64x96", "99999x99999")),
        (content, text.replace("64x96", "96x64")),
        (content, " " * (1 << 25)),
        (damaged, None),
    ):
        copy.write_bytes(data)
        if description is not None:
            with zipfile.ZipFile(copy, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(DESCRIPTION_FILE, description)
        with pytest.raises(ValueError, match=r"expected a file of tools/export.* --litert"):
            fcos_tf.detect(copy, PHOTOS[0])


def test_the_example_of_the_documentation(model, file, capsys, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="pip install 'fcos_tf[litert]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc.tflite").write_bytes(file.read_bytes())
    Image.fromarray(PHOTOS[2]).save("photo.png")
    (code,) = re.findall(r"```python\n(import json, zipfile\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 35
    names: dict = {}
    exec(code.replace("photo.jpg", "photo.png"), names)
    batch = prepare_batch([PHOTOS[2]], "64x96")
    # Pillow rounds resized pixels to whole numbers.
    np.testing.assert_allclose(names["image"], batch["images"], rtol=0, atol=1.01)
    sizes = batch["image_sizes"]
    expected = model.predict({"images": names["image"], "image_sizes": sizes}, verbose=0)
    scale = np.tile((batch["original_sizes"] / sizes)[:, ::-1], 2)
    found = names["found"]
    assert found["num_detections"][0] == expected["num_detections"][0] > 5
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        found["boxes"][0, :2], expected["boxes"][0, :2] * scale, rtol=0, atol=0.01
    )
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == found["num_detections"][0]
    assert printed[0].split()[0] == NAMES[int(expected["labels"][0, 0])]
