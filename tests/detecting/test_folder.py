"""A run over images into a folder: what it takes, and what it gives out."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcos_tf import image_files
from fcos_tf.detecting.files import (
    CAMERA,
    IMAGE,
    VIDEO,
    Results,
    find_inputs,
    image_ids,
    output_names,
)
from fcos_tf.detecting.pictures import Picture
from fcos_tf.detecting.videos import Window
from fcos_tf.image_files import files_below
from fcos_tf.visualization import class_colour
from tests.detecting.stubs import WEAK, Stub, detect_with, flat, read_records


def test_pictures_show_what_was_found(tmp_path):
    flat(tmp_path / "in" / "grey.png", 153, 240, 400)  # the dog's score is 153 / 255 = 0.6
    detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "grey.png"))
    assert picture.shape == (240, 400, 3)
    # The box is the left half: its last row is 239, its last column 199; a dog is label 1.
    for row, column in ((239, 20), (120, 0), (120, 199)):
        assert tuple(picture[row, column]) == class_colour(1)
    assert (picture[120, 210:] == 153).all()  # the weak cat is not drawn ...
    records = read_records(tmp_path / "out")
    assert [r[2] for r in records] == [3, 90] and records[0][3] == [0, 0, 200, 240]
    assert records[0][4] == pytest.approx(0.6) and records[1][4] == WEAK  # ... but written


def test_the_threshold_is_for_pictures_only(tmp_path):
    flat(tmp_path / "in" / "grey.png", 153, 240, 400)
    detect_with(Stub(), tmp_path / "in", tmp_path / "low", score_threshold=WEAK)
    detect_with(Stub(), tmp_path / "in", tmp_path / "high", score_threshold=0.61)
    low, high = (np.asarray(Image.open(tmp_path / n / "grey.png")) for n in ("low", "high"))
    assert tuple(low[120, 399]) == class_colour(2)
    assert (high == 153).all()
    assert read_records(tmp_path / "low") == read_records(tmp_path / "high")


def test_a_threshold_below_that_of_the_model_replaces_it(tmp_path):
    flat(tmp_path / "in" / "grey.png", 153)
    asked = []

    class Strict(Stub):
        def find(self, pictures, score_threshold):
            asked.append(score_threshold)
            return super().find(pictures, score_threshold)

    model = Strict()
    model.score_threshold = 0.2
    model.best_f1 = {"score_threshold": 0.05, "by_class": (0.1, 0.1, 0.1)}
    for threshold in (0.5, 0.2, 0.1, "best_f1"):
        detect_with(model, tmp_path / "in", tmp_path / "out", score_threshold=threshold)
    assert asked == [None, None, 0.1, 0.05]
    # Of the JSON, the score of a class in `best_f1` takes nothing away.
    assert [record[4] for record in read_records(tmp_path / "out")] == pytest.approx([0.6, WEAK])


def test_a_small_picture_is_enlarged(tmp_path):
    flat(tmp_path / "in" / "tiny.png", 204, 20, 30)
    detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "tiny.png"))
    assert picture.shape == (220, 330, 3)  # 11 = 320 / 30, rounded up
    assert tuple(picture[150, 164]) == class_colour(1) and (picture[150, 165:] == 204).all()
    assert read_records(tmp_path / "out")[0][3] == [0, 0, 15, 20]  # of the file


def test_refused_and_unreadable_images_do_not_stop_the_others(tmp_path):
    for number, value in enumerate((50, 13, 60, 70, 80), 1):
        flat(tmp_path / "in" / f"{number}.png", value)
    (tmp_path / "in" / "2b.png").write_bytes(b"")
    stub = Stub()
    detection, line = detect_with(stub, tmp_path / "in", tmp_path / "out", batch_size=3)
    assert line.startswith("4 images, 0 detections of score 0.5 or more; ")
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
    with pytest.raises(ValueError, match=r"^output_dir: .* \S+1\.png would be overwritten"):
        detect_with(Stub(), tmp_path / "in", tmp_path / "in" / ".." / "in")
    assert file.read_bytes() == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").hardlink_to(file)
    with pytest.raises(ValueError, match=r"^output_dir: .* \S+out/1\.png would be overwritten"):
        detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    assert file.read_bytes() == before


def test_pictures_are_not_written_through_a_link(tmp_path):
    file = flat(tmp_path / "in" / "1.png", 50)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    for target in (victim, tmp_path / "nowhere"):
        (tmp_path / "out" / "1.png").symlink_to(target)
        with pytest.raises(ValueError, match=r"^output_dir: .*/out/1\.png is a link"):
            detect_with(Stub(), file, tmp_path / "out")
        (tmp_path / "out" / "1.png").unlink()
    assert victim.read_text() == "mine" and not (tmp_path / "nowhere").exists()


def test_names_do_not_move_the_cursor(tmp_path):
    flat(tmp_path / "in" / "a\x1b[2J\n.png", 153)
    (tmp_path / "in" / "b\x1b\n.png").write_bytes(b"no image")
    lines = []
    run, _ = detect_with(Stub(), tmp_path / "in", tmp_path / "out", report=lines.append)
    assert lines == [rf"{tmp_path}/in/a\x1b[2J\n.png: 1 dog"]
    (fault,) = run.faults
    assert rf"{tmp_path}/in/b\x1b\n.png" in fault and fault.isprintable()


def test_links_that_form_circles_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p/a.png", "p/q/b.png", "p/.hidden/c.png", "other/d.png"):
        flat(tmp_path / name, 50)
    (tmp_path / "p" / "elsewhere").symlink_to(tmp_path / "other")
    expected = ["p/a.png", "p/elsewhere/d.png", "p/q/b.png"]
    for i in range(8):  # 8^40 paths for those who follow them
        (tmp_path / "p" / f"loop{i}").symlink_to(tmp_path / "p")
    for pattern in ("p/**/*.png", "p/**", "?/**/[abd].*", f"{tmp_path}/p/**/?.png"):
        found = [os.path.relpath(item.path) for item in find_inputs(pattern)]
        assert found == expected, pattern
    assert [str(item.path) for item in find_inputs("p/**/q/**/*.png")] == ["p/q/b.png"]


def test_links_to_each_other_end_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_LINKS", 50)
    for i in range(5):  # 5 x 4 links, but 5 x 4 + 5 x 4 x 3 + ... ways along them
        flat(tmp_path / f"f{i}" / "a.png", 50)
        for j in range(5):
            if j != i:
                (tmp_path / f"f{i}" / f"to{j}").symlink_to(tmp_path / f"f{j}")
    with pytest.raises(ValueError, match=r"more than 50 links to folders, perhaps in a circle"):
        files_below(tmp_path)
    for i in range(60):  # folders that are none
        (tmp_path / "plain" / str(i)).mkdir(parents=True)
    assert files_below(tmp_path / "plain") == []


def test_many_names_that_a_shell_has_expanded(tmp_path):
    names = [str(tmp_path / f"{i:04d}.png") for i in range(200)]  # more than a path may have
    for name in names:
        Path(name).touch()
    assert [str(item.path) for item in find_inputs(names)] == names
    assert [str(item.path) for item in find_inputs(",".join(names))] == names


def test_inputs_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p/b.JPG", "p/a.png", "p/q/c.png", "a,b.png", "7"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"")
    (tmp_path / "p" / "clip.MP4").write_bytes(b"")
    (tmp_path / "p" / "notes.txt").write_bytes(b"")

    def found(text):
        return [(kind, str(path)) for kind, path in find_inputs(text)]

    folder = [(IMAGE, "p/a.png"), (IMAGE, "p/b.JPG"), (VIDEO, "p/clip.MP4")]
    assert found("p") == folder
    assert found("p/**/*.png") == [(IMAGE, "p/a.png"), (IMAGE, "p/q/c.png")]
    assert found("a,b.png") == [(IMAGE, "a,b.png")]  # a name with a comma
    assert found("0, p ,p/a.png") == [(CAMERA, "0"), *folder]  # each once
    assert found("7") == [(IMAGE, "7")]  # a file, though its name is a number
    assert found("p/notes.txt") == [(IMAGE, "p/notes.txt")]  # named, so it is tried


def test_files_of_a_folder_that_are_skipped_are_named(tmp_path, caplog):
    for name in ("a.jfif", "b.JPG", "c.mp4", "d.heic", "e.txt", ".DS_Store", "._b.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")  # a fault when it is read
    assert [item.path.name for item in find_inputs(str(tmp_path))] == [
        "a.jfif", "b.JPG", "broken.png", "c.mp4",
    ]  # fmt: skip
    assert caplog.messages == [f"{tmp_path}: skipped 2 files by their endings: d.heic, e.txt"]


def test_ids_and_names_of_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("000139.jpg"), Path("000285.png")]
    assert image_ids(paths) == [139, 285]
    assert image_ids([*paths, Path("139.bmp")]) == [1, 2, 3]  # 139 twice
    assert image_ids([*paths, Path("x.bmp")]) == [1, 2, 3]
    for name in ("a/One.webp", "b/one.jpg", "b/One.JPG", "one.tif", "clip.avi"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")
    inputs = find_inputs("a,b/one.jpg,b/One.JPG,one.tif,clip.avi,0")
    assert list(output_names(inputs).values()) == [
        "One.jpg", "one_2.jpg", "One_3.jpg", "one.png", "clip.mp4", "camera_0.mp4",
    ]  # fmt: skip


def test_results_are_whole_also_after_an_error(tmp_path):
    (found,) = Stub().detect([Picture("a.png", np.full([4, 4, 3], 51, np.uint8))])
    for kind in (KeyboardInterrupt, ConnectionError, ValueError):
        with pytest.raises(kind), Results(tmp_path) as results:
            results.add_image(1, "a.png", found)
            raise kind
        assert len(json.loads((tmp_path / "detections.json").read_text())) == 2
        (tmp_path / "detections.json").unlink()
    empty = found[np.zeros(2, bool)]
    with Results(tmp_path) as results:
        results.add_image(1, "a.png", empty)
    assert json.loads((tmp_path / "detections.json").read_text()) == []


def test_a_window_shows_until_q(monkeypatch, tmp_path):
    shown, keys = [], iter([ord("n"), ord("q")])
    monkeypatch.setattr("cv2.imshow", lambda name, pixels: shown.append(pixels))
    monkeypatch.setattr("cv2.waitKey", lambda wait: shown.append(wait) or next(keys))
    monkeypatch.setattr(Window, "__init__", lambda self: None)
    for name in ("1", "2", "3"):
        flat(tmp_path / "in" / f"{name}.png", 153)
    _, line = detect_with(Stub(), tmp_path / "in", tmp_path / "out", window=Window())
    assert line.startswith("2 images, 2 detections of score 0.5 or more; ")
    assert shown[1] == 0 and shown[3] == 0  # wait for a key, however long
    # OpenCV's order of channels; the dog's box, as above.
    assert tuple(shown[0][150, 0]) == class_colour(1)[::-1]
    assert {record[0] for record in read_records(tmp_path / "out")} == {1, 2}


def test_the_progress_bar(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in ("1", "2", "3"):
        flat(tmp_path / "in" / f"{name}.png", 153)
    (tmp_path / "in" / "4.png").write_bytes(b"no image")
    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        detect_with(Stub(), tmp_path / "in", tmp_path / "out")
        shown = stream.getvalue().split("\r")[-1]
        assert ("100%" in shown and "4/4" in shown and "image/s" in shown) == is_shown
        assert shown.endswith("\n") == is_shown and bool(shown) == is_shown
