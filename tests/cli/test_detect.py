"""The tool that detects, on images; on a model small enough for it, and on stubs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import fcos_tf
from fcos_tf.cli.detect_backends import Classes, KerasBackend, Picture
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.evaluation.frames import boxes_to_original
from fcos_tf.visualization import class_colour
from tests.cli.detect_stubs import Stub, detect_with, flat, read_records, run

NAMES = ("帽子", "dog", "cat")
IDS = (7, 3, 90)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A detector with random weights, to which nearly every point is something."""
    keras.utils.set_random_seed(0)
    model = fcos_tf.FCOS(
        3, class_names=NAMES, category_ids=IDS, backbone="resnet18", fpn_channels=32, head_convs=1,
        score_threshold=0.001, max_detections=20, image_size="64x96", rules="official",
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
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either, and not asked for")
    return folder


def expected_records(weights, files, names):
    """What `model.predict` finds, each file on its own, as COCO results."""
    model = fcos_tf.load_model(weights)
    records = []
    for image_id, file in names.items():
        batch = prepare_batch([file], model.image_size)
        original = batch.pop("original_sizes")
        found = model.predict(batch, verbose=0)
        assert model.inclusive_pixels  # under the rules of the official code
        boxes = boxes_to_original(
            found["boxes"], batch["image_sizes"], original, inclusive_pixels=True
        )
        for box, score, label in zip(boxes[0], found["scores"][0], found["labels"][0], strict=True):
            if label >= 0:
                x1, y1, x2, y2 = box
                bbox = np.round([x1, y1, x2 - x1, y2 - y1], 3).tolist()
                records.append((image_id, str(file), IDS[label], bbox, float(score)))
    return records


def test_a_folder_gives_what_predict_gives(weights, photos, tmp_path, capsys):
    out = tmp_path / "found"
    code, text, error = run(
        capsys, f"--weights={weights}", f"--input={photos}", f"--output_dir={out}"
    )
    assert code == 0
    assert text == f"3 images, 60 detections; files in {out}\n"
    # What cannot be read is named at the end, and no reason to fail.
    assert error.startswith("not read, or not to the end (1):\ncannot decode image ")
    assert "broken.jpg" in error and len(error.splitlines()) == 2
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
    assert code == 0 and "broken.jpg" in error
    model = fcos_tf.load_model(weights)
    found = model.predict(
        {k: v for k, v in prepare_batch(files, "64x96").items() if k != "original_sizes"}, verbose=0
    )
    scores = [record[4] for record in read_records(tmp_path / "found")]
    assert scores == found["scores"].ravel().tolist()


class Middle:
    """A detector that finds the left half of every image, in the pixels it gets, and padding."""

    num_classes, class_names, category_ids = 1, None, None

    def __init__(self, image_size, inclusive_pixels=False):
        self.image_size, self.inclusive_pixels = image_size, inclusive_pixels

    def detect(self, images, image_sizes):
        height, width = tf.unstack(image_sizes[:, None], axis=-1)
        zero = tf.zeros_like(width)
        return {
            "boxes": tf.stack([zero, zero, width / 2, height], -1),  # [1, 1, 4]
            "scores": tf.cast([[tf.shape(images)[1], 0]], tf.float32),
            "labels": tf.constant([[0, -1]]),
            "num_detections": tf.constant([1]),
        }


def test_the_image_size_and_the_way_back():
    picture = Picture("a", np.zeros([100, 50, 3], np.uint8))
    for backend, canvas, right in (
        # 100 x 50 becomes 64 x 32 and is padded to 64 x 64; half of 32 is 25 of the original.
        (KerasBackend(Middle("64x64")), 64, 25),
        (KerasBackend(Middle("64x64"), image_size="96x96"), 96, 25),
        # The last pixel belongs to the box, but there is none below the image.
        (KerasBackend(Middle("64x64", inclusive_pixels=True)), 64, 26),
    ):
        (found,) = backend.detect([picture])
        assert found.boxes.tolist() == [[0, 0, right, 100]]
        assert found.scores.tolist() == [canvas] and found.labels.tolist() == [0]
        assert backend.classes == Classes(None, (1,))


def test_a_model_without_an_image_size_needs_one():
    with pytest.raises(
        ValueError, match=r"--image_size: expected, as m\.keras does not say its own"
    ):
        KerasBackend(Middle(None), name="m.keras")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--input=a.png"], "expected one of --weights, --model_dir, --saved_model, --server; got"),
        (["--weights=a", "--server=b", "--input=a.png"], "--server; got --weights and --server"),
        (["--weights=a", "--input=gone.jpg"], "--input: no file or folder gone.jpg"),
        (["--weights=a", "--input=*.jpg"], "--input: no file matches *.jpg"),
        (["--weights=a", "--input=empty"], "--input: no images or videos in the folder empty"),
        (["--weights=a", "--input=a.png,,b.png"], "--input: expected files, folders, patterns"),
        (["--weights=a.keras", "--input=a.png"], "no weights file a.keras"),
        (["--model_dir=gone", "--input=a.png"], "--model_dir: no folder gone"),
        (["--weights=a", "--description=b", "--input=a.png"], "--description: expected with --se"),
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


def test_pictures_show_what_was_found(tmp_path):
    flat(tmp_path / "in" / "grey.png", 153, 240, 400)  # the dog's score is 153 / 255 = 0.6
    detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "grey.png"))
    assert picture.shape == (240, 400, 3)
    # The box is the left half: its last row is 239, its last column 199; a dog is label 1.
    for row, column in ((239, 20), (120, 0), (120, 199)):
        assert tuple(picture[row, column]) == class_colour(1)
    assert (picture[120, 210:] == 153).all()  # the cat of score 0.01 is not drawn ...
    records = read_records(tmp_path / "out")
    assert [r[2] for r in records] == [3, 90] and records[0][3] == [0, 0, 200, 240]
    assert records[0][4] == pytest.approx(0.6) and records[1][4] == 0.01  # ... but written


def test_the_threshold_is_for_pictures_only(tmp_path):
    flat(tmp_path / "in" / "grey.png", 153, 240, 400)
    detect_with(Stub(), tmp_path / "in", tmp_path / "low", score_threshold=0.01)
    detect_with(Stub(), tmp_path / "in", tmp_path / "high", score_threshold=0.61)
    low, high = (np.asarray(Image.open(tmp_path / n / "grey.png")) for n in ("low", "high"))
    assert tuple(low[120, 399]) == class_colour(2)
    assert (high == 153).all()
    assert read_records(tmp_path / "low") == read_records(tmp_path / "high")


def test_a_small_picture_is_enlarged(tmp_path):
    flat(tmp_path / "in" / "tiny.png", 204, 20, 30)
    detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "tiny.png"))
    assert picture.shape == (220, 330, 3)  # 11 = 320 / 30, rounded up
    assert tuple(picture[150, 164]) == class_colour(1) and (picture[150, 165:] == 204).all()
    assert read_records(tmp_path / "out")[0][3] == [0, 0, 15, 20]  # of the file


def test_only_some_classes(weights, tmp_path, capsys):
    flat(tmp_path / "in" / "grey.png", 153)
    detect_with(Stub(), tmp_path / "in", tmp_path / "out", classes=("cat", "帽子"))
    assert [record[2] for record in read_records(tmp_path / "out")] == [90]
    code, _, error = run(
        capsys, f"--weights={weights}", f"--input={tmp_path / 'in'}", "--classes=dog,cow,cat",
        f"--output_dir={tmp_path / 'x'}",
    )  # fmt: skip
    assert code == 1
    assert error == "detect.py: error: --classes: expected of 帽子, dog, cat; got cow\n"


def test_refused_and_unreadable_images_do_not_stop_the_others(tmp_path):
    for number, value in enumerate((50, 13, 60, 70, 80), 1):
        flat(tmp_path / "in" / f"{number}.png", value)
    (tmp_path / "in" / "2b.png").write_bytes(b"")
    stub = Stub()
    detection, line = detect_with(stub, tmp_path / "in", tmp_path / "out", batch_size=3)
    assert line.startswith("4 images, 8 detections; ")
    names = [[name[-5] for name in batch] for batch in stub.batches]
    # The batch with the refused image again, one by one; what is unreadable leaves no gap.
    assert names == [["1", "2", "3"], ["1"], ["2"], ["3"], ["4", "5"]]
    faults = sorted(detection.faults)
    assert len(faults) == 2
    assert faults[0].endswith("2.png: refused") and faults[1].endswith("2b.png: the file is empty")
    # Numbered as they lie there: 1, 2, 2b, 3, 4, 5.
    assert {record[0] for record in read_records(tmp_path / "out")} == {1, 4, 5, 6}


def test_nothing_to_read_is_an_error(tmp_path):
    flat(tmp_path / "in" / "1.png", 13)
    with pytest.raises(OSError, match=r"^\S+1\.png: refused$"):
        detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "2.png").write_bytes(b"")
    with pytest.raises(OSError, match=r"none of 2 inputs can be read; the first: \S+1\.png: ref"):
        detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_originals_are_never_overwritten(tmp_path):
    file = flat(tmp_path / "in" / "1.png", 50)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"--output_dir: .* \S+1\.png would be overwritten"):
        detect_with(Stub(), tmp_path / "in", tmp_path / "in" / ".." / "in")
    assert file.read_bytes() == before
