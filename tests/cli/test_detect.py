"""The tool that detects: its flags, its messages, and all of it on a small model."""

import keras
import numpy as np
import pytest
from PIL import Image

import fcos_tf
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.models.folding import fold_norms
from tests.detecting.stubs import (
    Stub,
    answer_like,
    detect_with,
    flat,
    read_records,
    run,
    save_stub,
    serve,
)

READABLE = ("a.png", "b.jpg", "c.png")
NAMES = ("帽子", "dog", "cat")
IDS = (7, 3, 90)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A detector with random weights, to which nearly every point is something."""
    keras.utils.set_random_seed(0)
    model = fcos_tf.FCOS(
        3, class_names=NAMES, category_ids=IDS, backbone="simple_cnn", fpn_channels=32,
        head_convs=1, score_threshold=0.001, max_detections=20, image_size="64x96",
        rules="official",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Three noisy images of different sizes and two files that are none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (50, 90)), ("b.jpg", (120, 70)), ("c.png", (33, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "broken\n.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either, and not asked for")
    return folder


def expected_records(weights, files, names):
    """What `model.predict` finds, each file on its own, as COCO results."""
    model = fcos_tf.load_model(weights)
    assert model.inclusive_pixels  # under the rules of the official code
    fold_norms(model)  # as the tool does
    records = []
    for image_id, file in names.items():
        batch = prepare_batch([file], model.image_size)
        (height, width), (rows, columns) = batch.pop("original_sizes")[0], batch["image_sizes"][0]
        found = model.predict(batch, verbose=0)
        scale = np.float64([width, height, width, height]) / [columns, rows, columns, rows]
        boxes = found["boxes"][0] * scale + (0, 0, 1, 1)
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
        for box, score, label in zip(boxes, found["scores"][0], found["labels"][0], strict=True):
            if label >= 0:
                x1, y1, x2, y2 = box.tolist()
                bbox = np.round([x1, y1, x2 - x1, y2 - y1], 3).tolist()
                records.append((image_id, str(file), IDS[label], bbox, float(score)))
    return records


def test_a_folder_gives_what_predict_gives(weights, photos, tmp_path, capsys):
    out = tmp_path / "found"
    code, text, error = run(
        capsys, f"--weights={weights}", f"--input={photos}", f"--output_dir={out}",
        "--score_threshold=0",
    )  # fmt: skip
    assert code == 0
    *lines, last = text.splitlines()
    assert last == f"3 images, 60 detections of score 0 or more; files in {out}"
    assert [line.partition(": ")[0] for line in lines] == [str(photos / n) for n in READABLE]
    # What cannot be read is named at the end, and no reason to fail.
    assert error.startswith("unreadable, not to the end, or not drawn (1):\ncannot decode image ")
    assert "broken\\n.jpg" in error and len(error.splitlines()) == 2
    assert {path.name for path in out.iterdir()} == {"a.png", "b.jpg", "c.png", "detections.json"}
    files = {1: photos / "a.png", 2: photos / "b.jpg", 4: photos / "c.png"}  # the third is broken
    found = read_records(out)
    assert found == expected_records(weights, files, files)
    assert len(found) == 60 and len({record[2] for record in found}) > 1


def test_a_batch_gives_what_predict_gives_for_it(weights, photos, tmp_path, capsys):
    files = [photos / "a.png", photos / "b.jpg"]
    code, _, error = run(
        capsys, f"--weights={weights}", f"--input={files[0]},{photos}/*.jpg", "--batch_size=4",
        f"--output_dir={tmp_path / 'found'}",
    )  # fmt: skip
    assert code == 0 and "broken\\n.jpg" in error
    model = fcos_tf.load_model(weights)
    fold_norms(model)  # as the tool does
    found = model.predict(
        {k: v for k, v in prepare_batch(files, "64x96").items() if k != "original_sizes"}, verbose=0
    )
    scores = [record[4] for record in read_records(tmp_path / "found")]
    assert scores == found["scores"].ravel().tolist()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--input=a.png"], "expected one of --weights, --model_dir, --saved_model, --openvino,"),
        (["--weights=a", "--server=b", "--input=a.png"], "--server; got --weights and --server"),
        (["--weights=a", "--input=gone.jpg"], "--input: no file or folder gone.jpg"),
        (["--weights=a", "--input=*.jpg"], "--input: no file matches *.jpg"),
        (["--weights=a", "--input=empty"], "--input: no images or videos in the folder empty"),
        (["--weights=a", "--input=a.png,,b.png"], "--input: expected files, folders, patterns"),
        (["--weights=a.keras", "--input=a.png"], "no weights file a.keras"),
        (["--model_dir=gone", "--input=a.png"], "--model_dir: no folder gone"),
        (
            ["--weights=a", "--description=b", "a.png"],
            "--description: not used with --weights; leav",
        ),
        (["--server=a", "--image_size=64x64", "a.png"], "--image_size: not used with --server"),
        (["--saved_model=a", "--image_size=64x64", "a.png"], "not used with --saved_model"),
        (["--weights=a", "--model_dir=b", "a.png"], "--server; got --weights and --model_dir"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    flat(tmp_path / "a.png", 5)
    code, _, error = run(capsys, "--output_dir=found", *flags)
    assert code == 1 and message in error
    assert error.startswith("detect.py: error: ") and len(error.splitlines()) == 1
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--input=", "--input: expected a value, got none"),
        ("--show=yes", "--show: expected true or false"),
        ("--max_frames=0", "--max_frames: expected a number"),
    ],
)
def test_wrong_values_are_refused(capsys, flag, message):
    code, _, error = run(capsys, "--weights=a", "--input=a.png", "--output_dir=found", flag)
    assert code == 2 and message in error and len(error.splitlines()) == 1


def test_only_some_classes(weights, tmp_path, capsys):
    flat(tmp_path / "in" / "grey.png", 153)
    detect_with(Stub(), tmp_path / "in", tmp_path / "out", classes=("cat", "帽子"))
    assert [record[2] for record in read_records(tmp_path / "out")] == [90]
    flags = [f"--weights={weights}", f"--input={tmp_path / 'in'}", "--classes=dog,cow,cat"]
    code, _, error = run(capsys, *flags, f"--output_dir={tmp_path / 'x'}")
    assert code == 1
    assert error == "detect.py: error: --classes: expected of 帽子, dog, cat; got cow\n"
    code, _, error = run(capsys, *flags[:2], f"--output_dir={tmp_path / 'in'}")
    assert code == 1 and error.startswith("detect.py: error: --output_dir: expected another folder")


def test_the_tool_takes_an_export_and_a_server(tmp_path, capsys):
    export = save_stub(tmp_path / "export")
    images = flat(tmp_path / "in" / "a.png", 51).parent
    flat(images / "b.png", 102, 30, 20)
    arguments = [f"--input={images}/a.png,{images}/b.png", "--classes=cat,帽子"]
    code, _, error = run(
        capsys, f"--saved_model={export}", *arguments, f"--output_dir={tmp_path / 'saved'}"
    )
    assert (code, error) == (0, "")
    with serve(answer_like(Stub())) as (address, _):
        url = f"--server={address}/v1/models/stub"
        description = f"--description={export}/1/assets/description.json"
        code, _, error = run(
            capsys, url, description, *arguments, f"--output_dir={tmp_path / 'served'}"
        )
        assert (code, error) == (0, "")
        assert read_records(tmp_path / "saved") == read_records(tmp_path / "served")
        assert [record[2] for record in read_records(tmp_path / "served")] == [90, 90]
        # Without a description classes go by their ids.
        arguments[1] = "--classes=3"
        code, _, _ = run(capsys, url, *arguments, f"--output_dir={tmp_path / 'ids'}")
        assert code == 0 and [record[2] for record in read_records(tmp_path / "ids")] == [3, 3]
        code, _, error = run(capsys, url, arguments[0], "--classes=dog", "--output_dir=x")
        assert code == 1 and "--classes: expected category ids; got dog" in error
    # Errors of the library name its arguments, those of the tool its flags.
    for flag, message in (
        (f"--saved_model={tmp_path}/x", f"--saved_model: no folder {tmp_path}/x"),
        (f"--server={address}/v1/models/stub", "--server: cannot reach http://127"),
        ("--server=host:8501", "--server: expected http://host:8501/v1/models/NAME or grpc"),
    ):
        code, _, error = run(capsys, flag, arguments[0], f"--output_dir={tmp_path / 'x'}")
        assert code == 1 and error.startswith(f"detect.py: error: {message}")


def test_without_a_display_show_is_an_error(monkeypatch, tmp_path, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    flat(tmp_path / "a.png", 50)
    code, _, error = run(
        capsys, "--weights=x", f"--input={tmp_path}", "--output_dir=x", "--show=true"
    )
    assert code == 1 and len(error.splitlines()) == 1
    assert "error: --show: expected a display, and an OpenCV with windows; got none" in error


def test_inputs_without_a_flag_and_results_in_a_new_folder(weights, photos, tmp_path, monkeypatch,
                                                            capsys):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x, y.png").write_bytes((photos / "a.png").read_bytes())
    for folder in ("detections", "detections2"):
        code, text, _ = run(
            capsys, "x, y.png", "photos", f"--weights={weights}", "--score_threshold=0"
        )
        assert code == 0 and text.splitlines()[-1].endswith(f"; files in {folder}")
        found = {path.name for path in (tmp_path / folder).iterdir()}
        assert found == {"x, y.png", *READABLE, "detections.json"}
    # The line of an image counts what is drawn, by class.
    line = next(line for line in text.splitlines() if line.startswith("x, y.png: "))
    records = [r for r in read_records(tmp_path / folder) if r[1] == "x, y.png"]
    counts = dict(reversed(part.split(" ")) for part in line.partition(": ")[2].split(", "))
    assert {name: int(number) for name, number in counts.items()} == {
        NAMES[IDS.index(category)]: sum(r[2] == category for r in records)
        for category in {record[2] for record in records}
    }
    _, text, _ = run(capsys, "x, y.png", f"--weights={weights}", "--score_threshold=1")
    assert text.splitlines()[0] == "x, y.png: nothing"
    code, _, error = run(capsys, "x, y.png", "--input=photos", f"--weights={weights}")
    assert code == 2 and "expected --input or arguments without a flag, got both" in error
