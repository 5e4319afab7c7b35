"""OpenVINO files beside `test_exported_files`: 16 and 8 bits, and what is refused."""

import pytest

import fcos_tf
from fcos_tf.cli import detect, export
from fcos_tf.detecting.resized import DESCRIPTION_KEY, OpenVinoModel
from fcos_tf.export import export_openvino
from fcos_tf.export import openvino as exporting
from tests.export.runtimes import (
    NAMES,
    PHOTOS,
    assert_eight_bits_are_close,
    run,
    small_detector,
    trained_detector,
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


def test_calibration_images_of_another_format(capsys):
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
