"""OpenVINO files: their detections are those of the model, and what is refused."""

import sys

import numpy as np
import pytest

import fcos_tf
from fcos_tf.cli import detect, export
from fcos_tf.detecting.openvino import DESCRIPTION_KEY, OpenVinoModel
from fcos_tf.export import export_openvino
from fcos_tf.export import openvino as exporting
from tests.export.runtimes import (
    NAMES,
    PHOTOS,
    assert_eight_bits_are_close,
    assert_same,
    refuses_other_numbers,
    run,
    small_detector,
    trained_detector,
    two_stage,
    write_run,
)  # fmt: skip

CALIBRATION = "--calibration_images={}/*.png"


@pytest.fixture(scope="module")
def model():
    return small_detector()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    pytest.importorskip("openvino", reason="pip install 'fcos_tf[openvino]'")
    return export_openvino(model, tmp_path_factory.mktemp("openvino") / "new" / "a.xml")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_detections_of_photos_of_any_size_are_the_models(model, file, batch_size):
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.bin", "a.xml"]
    opened = fcos_tf.detecting.open_model(str(file))
    for threshold in (None, 0.03):
        options = {"batch_size": batch_size, "score_threshold": threshold}
        assert_same(
            fcos_tf.detect(opened, PHOTOS, **options), fcos_tf.detect(model, PHOTOS, **options)
        )


def test_image_sizes_stay_free_and_thresholds_are_those_of_the_export(model, file, tmp_path):
    free = export_openvino(
        model, tmp_path / "a.xml", image_size="64,128", score_threshold=0.02, max_detections=9
    )
    expected = fcos_tf.detect(model, PHOTOS, image_size="64,128", score_threshold=0.02)
    for one, other in zip(fcos_tf.detect(free, PHOTOS), expected, strict=True):
        assert len(one) == 9
        np.testing.assert_allclose(one.boxes, other.boxes[:9], rtol=0, atol=0.01)


def test_proposals_are_suppressed_inside(tmp_path):
    pytest.importorskip("openvino", reason="pip install 'fcos_tf[openvino]'")
    other = two_stage()
    file = export_openvino(other, tmp_path / "a.xml")
    assert_same(fcos_tf.detect(file, PHOTOS), fcos_tf.detect(other, PHOTOS))


def test_weights_of_16_bits(model, file, tmp_path):
    half = export_openvino(model, tmp_path / "a.xml", precision="bfloat16")
    sizes = [each.with_suffix(".bin").stat().st_size for each in (half, file)]
    assert 0.45 < sizes[0] / sizes[1] < 0.7
    assert OpenVinoModel(half).class_names == NAMES
    (found,), (expected,) = (fcos_tf.detect(each, PHOTOS[0]) for each in (half, model))
    assert abs(found.scores[0] - expected.scores[0]) < 0.05


@pytest.fixture(scope="module")
def trained():
    return trained_detector()


def test_the_tools_and_eight_bits(trained, capsys, tmp_path):
    pytest.importorskip("nncf", reason="pip install 'fcos_tf[openvino]'")
    model, images = trained
    weights, whole, small = tmp_path / "a.keras", tmp_path / "whole.xml", tmp_path / "a.xml"
    write_run(model, images, weights)
    for flags in ([f"--openvino={whole}"], [f"--openvino={small}", CALIBRATION.format(tmp_path)]):
        code, out, _ = run(capsys, export, f"--weights={weights}", *flags)
        assert (code, out.splitlines()[-1]) == (0, flags[0].partition("=")[2])
    sizes = [each.with_suffix(".bin").stat().st_size for each in (small, whole)]
    assert sizes[0] / sizes[1] < 0.45

    assert_eight_bits_are_close(capsys, tmp_path, weights, "openvino", small)
    code, _, error = run(
        capsys, detect, tmp_path / "7.png", f"--openvino={small}", "--image_size=64x64"
    )
    assert code == 1 and "--image_size: not used with --openvino" in error


def test_a_whole_that_differs_from_its_parts_is_not_written(model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="pip install 'fcos_tf[openvino]'")
    runner = exporting._runner

    def shifted(graph):
        run = runner(graph)
        whole = graph.get_friendly_name() == "fcos_tf"
        return lambda arrays: {
            name: x + 3 if whole and name == "boxes" else x for name, x in run(arrays).items()
        }

    monkeypatch.setattr(exporting, "_runner", shifted)
    with pytest.raises(ValueError, match="detections without a match; nothing was written"):
        export_openvino(model, tmp_path / "a.xml")
    assert not any(tmp_path.iterdir())


def test_a_file_that_gives_other_numbers_is_not_written(model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="pip install 'fcos_tf[openvino]'")
    refuses_other_numbers(exporting, export_openvino, model, tmp_path / "a.xml", monkeypatch)


def test_wrong_arguments_and_a_missing_package(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(exporting, "inference_copy", None)  # nothing is made
    (tmp_path / "there.bin").touch()
    classifier = fcos_tf.ImageClassifier(2, backbone="simple_cnn", image_size="64x64")
    for each, name, options, error, message in (
        (classifier, "a.xml", {}, ValueError, "expected a detector, got a ImageClassifier"),
        (model, "a.onnx", {}, ValueError, "expected a file that ends in .xml"),
        (model, "there.xml", {}, FileExistsError, "expected a new file; got .*there.bin"),
        (model, "a.xml", {"precision": "int8"}, ValueError, "float32, bfloat16, float16; got 'int"),
        (model, "a.xml", {"score": 0.1}, ValueError, "expected score_threshold, .* got score"),
        (model, "a.xml", {}, ValueError, r"needs the package openvino: pip install 'fcos_tf\[o"),
    ):
        with pytest.raises(error, match=message):
            export_openvino(each, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.bin"]
    with pytest.raises(ValueError, match="needs the package openvino"):
        fcos_tf.detect(tmp_path / "a.xml", PHOTOS[0])


def test_the_tool_without_the_package(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, error = run(capsys, export, "--weights=no.keras", f"--openvino={tmp_path}/a.xml")
    assert code == 1 and "needs the package openvino: pip install 'fcos_tf[openvino]'" in error
    code, _, error = run(
        capsys, export, "--weights=no.keras", "--output_dir=x/1", "--calibration_images=a"
    )
    assert (
        code == 1
        and "--calibration_images: not used with export without --openvino or --litert" in error
    )


def test_files_of_strangers(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.xml"):
        fcos_tf.detect(tmp_path / "a.xml", PHOTOS[0])
    text, weights = file.read_text(), file.with_suffix(".bin").read_bytes()
    copy = tmp_path / "a.xml"
    copy.write_text(text)
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.bin"):
        fcos_tf.detect(copy, PHOTOS[0])
    assert DESCRIPTION_KEY in text
    for xml, data in (
        ("<net>", weights),
        (text[:-100], weights),
        (text, weights[:-100]),
        (text.replace("category_ids", "ids"), weights),
        (text.replace("64x96", "99999x99999"), weights),
        (text.replace("float32", "float8"), weights),
    ):
        copy.write_text(xml)
        copy.with_suffix(".bin").write_bytes(data)
        with pytest.raises(ValueError, match=r"expected a file of tools/export.* --openvino"):
            fcos_tf.detect(copy, PHOTOS[0])
