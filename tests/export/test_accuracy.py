"""The accuracy gate: figures by hand, a refusal that leaves no file, the report, errors.

The objects of the data are the ten detections of the model in each photo, so its AP is 1. An
export with max_detections=2 finds fewer of them and nothing else: the precision is 1 up to the
recall m / n of a class, which COCO reads at 101 recalls from 0 on: (floor(100 m / n) + 1) / 101.
"""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.cli import export
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.export import (
    AccuracyGate,
    accuracy,
    export_litert,
    export_onnx,
    export_openvino,
    export_saved_model,
    measure,
)
from fcos_tf.training import checkpoints
from tests import tools
from tests.export.encoded import picture
from tests.models.test_folding import randomize

NAMES, IDS = ("hat", "dog", "cat"), (7, 3, 90)
# Of the model's aspect: no points lie in padding, where boxes have no area.
SIZES = {5: (48, 72), 2: (32, 48), 9: (96, 144)}
PHOTOS = {key: picture(*size, seed=key) for key, size in SIZES.items()}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    made = fcos_tf.FCOS(
        backbone="simple_cnn", fpn_levels=3, fpn_channels=32, head_convs=1, image_size="64x96",
        class_names=NAMES, category_ids=IDS, score_threshold=0.01, max_detections=10,
        nms_threshold=0.4,  # no detection fits the object of another one
    )  # fmt: skip
    kernel = made.head.class_logits.kernel
    kernel.assign(kernel * 20)  # scores far from each other
    randomize(made)
    made.head.ltrb.bias.assign([2.0] * 4)  # boxes of some pixels
    bias = made.head.class_logits.bias
    bias.assign(np.asarray(bias) + np.array([2.5, 0.5, 0]))  # all classes
    return made


@pytest.fixture(scope="module")
def found(model):
    return fcos_tf.detect(model, list(PHOTOS.values()))


@pytest.fixture(scope="module")
def places(found, tmp_path_factory):
    """A COCO file and its images. The best detection in the last photo is a crowd, so ignored."""
    folder = tmp_path_factory.mktemp("coco")
    images, annotations = [], []
    for (image_id, pixels), each in zip(PHOTOS.items(), found, strict=True):
        name = f"{image_id}.png"
        Image.fromarray(pixels).save(folder / name)
        height, width = pixels.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for rank, record in enumerate(each.to_coco(image_id)):
            crowd = int(image_id == 9 and rank == 0)
            area = record["bbox"][2] * record["bbox"][3]
            annotations.append(
                {**record, "id": len(annotations) + 1, "iscrowd": crowd, "area": area}
            )
    categories = [{"id": key, "name": name} for key, name in zip(IDS, NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return {"annotations": str(folder / "{split}.json"), "images": str(folder)}


def load(places, **options):
    return fcos_tf.data.load(
        "coco", split="val", batch_size=1, image_size="64x96", **places, **options
    )


def ap_of_the_best(found, count):
    """The AP of an export that gives the best so many of each photo; see the module docstring."""
    labels = [each.labels for each in found]
    labels[-1] = labels[-1][1:]  # its first is ignored
    shares = [count, count, count - 1]
    aps = []
    for label in range(len(NAMES)):
        objects = sum(int((each == label).sum()) for each in labels)
        hits = sum(int((each[:k] == label).sum()) for each, k in zip(labels, shares, strict=True))
        aps.append((100 * hits // objects + 1) / 101 if hits else 0)
    return sum(aps) / len(aps)


def test_all_detections_are_far_from_degenerate(found):
    assert [len(each) for each in found] == [10, 10, 10]
    boxes = np.concatenate([each.boxes for each in found])
    assert (boxes[:, 2:] - boxes[:, :2]).min() > 4
    labels = np.concatenate([each.labels for each in found])
    assert (np.bincount(labels) > 2).all(), np.bincount(labels)


@pytest.mark.parametrize("classes", [None, ("cat", "hat", "dog"), ("dog",)])
def test_figures_of_a_model(model, places, classes, monkeypatch):
    # Pairs of readings around the three images: 10, 30 and 20 ms.
    clock = iter([0, 0.010, 1, 1.030, 2, 2.020])
    monkeypatch.setattr(accuracy, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    figures = measure(model, load(places, classes=classes))
    assert figures.AP == 1  # labels go by name, other classes are left out
    assert figures.latency_ms == pytest.approx(20)
    assert figures.size_bytes == 4 * model.count_params()
    assert figures.device


def test_images_are_spread_evenly(model, places):
    dataset, read = load(places), []
    source = dataset.source

    def noted(index, size_for):
        read.append(index)
        return source.read(index, size_for)

    dataset.source = dataclasses.replace(source, read=noted)
    measure(model, dataset)
    assert read == [0, 1, 2]
    dataset.num_images = 5  # as of a longer data set
    measure(model, dataset, num_images=2)
    assert read[3:] == [0, 2]  # 0 * 5 // 2 and 1 * 5 // 2


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "model.keras"
    checkpoints.write_model(model, path)
    return path


def run(capsys, *arguments):
    code, out, error = tools.run(capsys, export, *arguments)
    return code, out.splitlines(), error.splitlines()


def data_flags(places):
    return ["--dataset=coco", *(f"--{name}={place}" for name, place in places.items())]


def test_one_export_passes_and_others_are_refused(model, weights, found, places, capsys, tmp_path):
    flags = [f"--weights={weights}", *data_flags(places), "--val_images=3"]
    flags.append(f"--report={tmp_path}/new/table.md")
    folder, title = tmp_path / "fcos" / "1", f"{weights} on coco val"
    table = tmp_path / "new" / "table.md"
    code, out, error = run(capsys, *flags, f"--output_dir={folder}")
    assert (code, error) == (0, []) and folder.is_dir() and str(folder) in out
    assert f"measuring {weights} and its exports on 3 images of coco val" in out
    lines = table.read_text().splitlines()
    assert lines[0] == f"{title}: 3 images" and lines[2:] == out[-4:]
    assert lines[-1].startswith("| SavedModel | float32 | 1.0000 | 0.0000 | ")

    expected = ap_of_the_best(found, 2)
    assert 0 < expected < 0.5
    few = ["--max_detections=2", "--max_ap_loss=.01", f"--output_dir={tmp_path}/fcos/2"]
    code, _, error = run(capsys, *flags, *few)
    assert (code, len(error)) == (1, 1)
    message = (
        "SavedModel {} is refused: expected an AP of at least {}, that of the model (1.0000) less "
        f"max_ap_loss={{}}; got {expected:.4f}, a loss of {1 - expected:.4f}, on 3 images"
    )
    assert error[0].endswith(message.format("float32", "0.9900", "0.01"))
    assert [path.name for path in folder.parent.iterdir()] == ["1"]

    # Rounding to bfloat16 would change a random model too much for numbers by hand.
    gate = AccuracyGate(model, load(places), report=tmp_path / "new" / "table", title=title)
    exported = export_saved_model(model, tmp_path / "1", max_detections=2)
    refusal = re.escape(message.format("bfloat16", "0.9950", "0.005"))
    with pytest.raises(ValueError, match=refusal):
        gate(exported, {"precision": "bfloat16"})
    read = json.loads((tmp_path / "new" / "table.json").read_text())
    assert (read["title"], read["num_images"], read["rows"]) == (title, 3, gate.rows)
    rows = [(row["format"], row["precision"], row["accepted"]) for row in gate.rows]
    # The refused export took the row of the one of the same format, precision and device.
    assert rows == [
        ("Keras", "float32", True),
        ("SavedModel", "float32", False),
        ("SavedModel", "bfloat16", False),
    ]
    first, *refused = gate.rows
    assert (first["AP"], first["AP_loss"], first["size_bytes"]) == (1, 0, 4 * model.count_params())
    for row in refused:
        assert (row["AP"], row["AP_loss"]) == pytest.approx((expected, 1 - expected))
    size = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())
    assert refused[1]["size_bytes"] == size
    cells = [cell.strip() for cell in table.read_text().splitlines()[-1].split("|")[1:-1]]
    assert cells[:4] == ["SavedModel", "bfloat16", f"{expected:.4f}", f"{1 - expected:.4f}"]
    assert cells[4] == f"{refused[1]['latency_ms']:.1f}"
    assert cells[5:] == [f"{size / 1e6:.2f}", first["device"], "no"]

    gate = AccuracyGate(model, load(places), max_ap_loss=1 - expected + 1e-9)
    gate(exported, {"precision": "bfloat16"})
    assert gate.rows[-1]["accepted"]


@pytest.mark.parametrize(
    ("title", "export_file", "suffix", "calibration"),
    [
        ("OpenVINO", export_openvino, ".xml", ()),
        ("ONNX", export_onnx, ".onnx", ()),
        ("LiteRT", export_litert, ".tflite", list(PHOTOS.values())),
    ],
)
def test_formats(model, places, tmp_path, title, export_file, suffix, calibration):
    for package in {"OpenVINO": ["openvino"], "ONNX": ["onnx", "onnxruntime"]}.get(title, []):
        pytest.importorskip(package, reason=f"pip install 'fcos_tf[{title.lower()}]'")
    gate = AccuracyGate(model, load(places), report=tmp_path / "table")
    file = export_file(model, tmp_path / "a" / f"a{suffix}", accept=gate)
    row = gate.rows[-1]
    assert (row["format"], row["precision"], row["accepted"]) == (title, "float32", True)
    assert row["AP"] > 0.995
    assert row["size_bytes"] == sum(path.stat().st_size for path in file.parent.iterdir())
    options = {"calibration": calibration} if calibration else {}
    refusal = f"{title} {'int8' if calibration else 'float32'} is refused: expected an AP of at"
    with pytest.raises(ValueError, match=rf"{refusal} least 0\.995"):
        export_file(model, tmp_path / "b" / f"b{suffix}", max_detections=2, accept=gate, **options)
    assert list((tmp_path / "b").iterdir()) == []


def test_eight_bits_have_a_row_of_their_own(model, places, tmp_path):
    pytest.importorskip("nncf", reason="pip install 'fcos_tf[openvino]'")
    options = {"max_ap_loss": 1, "report": tmp_path / "table"}
    for calibration in ((), list(PHOTOS.values())):  # two runs, one table
        gate = AccuracyGate(model, load(places), **options)
        name = f"{len(calibration)}.xml"
        export_openvino(model, tmp_path / name, calibration=calibration, accept=gate)
    assert [row["precision"] for row in gate.rows] == ["float32", "float32", "int8"]
    assert gate.rows[2]["size_bytes"] < 0.7 * gate.rows[1]["size_bytes"]


def test_reports_of_other_models_are_kept(model, places, tmp_path):
    file, row = tmp_path / "table.json", {"format": "OpenVINO", "precision": "int8", "AP": 0.5}
    row |= {"latency_ms": 1.0, "size_bytes": 1, "device": "x", "AP_loss": 0.25, "accepted": False}
    content = {"title": "a", "num_images": 3, "rows": [row]}
    before = json.dumps(content)
    file.write_text(before)
    dataset, report = load(places), tmp_path / "table"
    with pytest.raises(
        ValueError, match=r"report: expected a report of 'b' on 3 images, got .*'a'"
    ):
        AccuracyGate(model, dataset, report=report, title="b")
    with pytest.raises(ValueError, match=r"report: expected a report of 'a' on 2 images, got .* 3"):
        AccuracyGate(model, dataset, 2, report=report, title="a")
    gate = AccuracyGate(model, dataset, report=report, title="a")
    # .5 + .25 of the row are no 1.
    with pytest.raises(ValueError, match=r"rows of a model of AP 1\.0000, got one of AP 0\.7500"):
        gate(tmp_path / "1", {"precision": "float32"})
    assert file.read_text() == before and [*tmp_path.iterdir()] == [file]
    file.write_text("[]")
    with pytest.raises(ValueError, match=r"report: expected a report in .*table\.json, got "):
        AccuracyGate(model, dataset, report=report)


def test_wrong_arguments(model, places, tmp_path):
    dataset = load(places)
    with pytest.raises(ValueError, match=r"num_images: expected 1 to 3, .* got 4"):
        AccuracyGate(model, dataset, 4)
    with pytest.raises(ValueError, match=r"num_images: expected 1 to 3, .* got 0"):
        measure(model, dataset, 0)
    classifier = fcos_tf.ImageClassifier(3, backbone="simple_cnn", image_size="64x64")
    with pytest.raises(ValueError, match=r"model: expected a detector, .* got a classifier"):
        measure(classifier, dataset)
    with pytest.raises(ValueError, match=r"expected an export with its description\.json"):
        measure(OpenedModel(), dataset)
    other = fcos_tf.FCOS(2, backbone="simple_cnn", head_convs=0, image_size="64x64")
    with pytest.raises(ValueError, match="expected data of the model's 2 classes, got 3"):
        measure(other, dataset)
    content = json.loads(Path(places["annotations"].format(split="val")).read_text())
    content["annotations"] = []
    (tmp_path / "val.json").write_text(json.dumps(content))
    none = load({**places, "annotations": str(tmp_path / "{split}.json")})
    with pytest.raises(ValueError, match="dataset: expected images with objects, got none in 3"):
        measure(model, none)
    content["images"][1]["file_name"] = "broken.png"
    Path(places["images"], "broken.png").write_bytes(b"no image")
    (tmp_path / "val.json").write_text(json.dumps(content))
    broken = load({**places, "annotations": str(tmp_path / "{split}.json")})
    with pytest.raises(ValueError, match=r"dataset: .*broken\.png"):
        measure(model, broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--val_images=2"], "--val_images: expected a data set by one of --dataset, --data_dir"),
        (
            ["DATA", "--val_images=4"],
            "--val_images: expected 1 to 3, the images of the data; got 4",
        ),
        (["DATA"], "--annotations, --dataset, --images: not used with export without --val_images"),
        (["--max_ap_loss=.1"], "--max_ap_loss: not used with export without --val_images"),
        (["--report=a"], "--report: not used with export without --val_images"),
        (
            ["DATA", "--val_images=2", "--classes=bird"],
            "classes: expected some of dog, hat, cat, got bird",
        ),
        (
            ["--dataset=coco", "--data_dir=gone", "--val_images=2"],
            "no annotation file gone/annotations/instances_val.json",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    weights, places, capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fcos_tf.export.saved_model, "inference_copy", None)  # nothing is made
    flags = [x for each in arguments for x in (data_flags(places) if each == "DATA" else [each])]
    code, _, error = run(capsys, f"--weights={weights}", "--output_dir=x/1", *flags)
    assert (code, len(error)) == (1, 1) and message in error[0]
    assert [*tmp_path.iterdir()] == []


def test_the_tool_refuses_a_classifier(places, capsys, tmp_path):
    file = tmp_path / "a.keras"
    checkpoints.write_model(
        fcos_tf.ImageClassifier(2, backbone="simple_cnn", image_size="64x64"), file
    )
    code, _, error = run(
        capsys, f"--weights={file}", f"--output_dir={tmp_path}/1", *data_flags(places),
        "--val_images=2",
    )  # fmt: skip
    assert code == 1
    assert error[0].endswith(f"--val_images: expected a detector, got a ImageClassifier in {file}")
    assert [*tmp_path.iterdir()] == [file]
