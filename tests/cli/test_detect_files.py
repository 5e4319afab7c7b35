"""What the tool that detects takes, and what it gives out."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from fcos_tf.cli.detect_inputs import CAMERA, IMAGE, VIDEO, find_inputs
from fcos_tf.cli.detect_output import Progress, Results, Window, image_ids, output_names
from fcos_tf.visualization import class_colour
from tests.cli.detect_stubs import CLASSES, Stub, detect_with, flat, read_records, run


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


def test_results_appear_whole_or_not_at_all(tmp_path):
    found = Stub()._one(np.full([4, 4, 3], 51, np.uint8))
    with pytest.raises(KeyError), Results(tmp_path, CLASSES) as results:
        results.add_image(1, "a.png", found)
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    empty = found.rows(np.zeros(2, bool))
    with Results(tmp_path, CLASSES) as results:
        results.add_image(1, "a.png", empty)
    assert json.loads((tmp_path / "detections.json").read_text()) == []


def test_without_a_display_show_is_an_error(monkeypatch, tmp_path, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    flat(tmp_path / "a.png", 50)
    code, _, error = run(
        capsys, "--weights=x", f"--input={tmp_path}", "--output_dir=x", "--show=true"
    )
    assert code == 1 and len(error.splitlines()) == 1
    assert "error: --show: expected a display, and an OpenCV with windows; got none" in error


def test_a_window_shows_until_q(monkeypatch, tmp_path):
    shown, keys = [], iter([ord("n"), ord("q")])
    monkeypatch.setattr("cv2.imshow", lambda name, pixels: shown.append(pixels))
    monkeypatch.setattr("cv2.waitKey", lambda wait: shown.append(wait) or next(keys))
    monkeypatch.setattr(Window, "__init__", lambda self: None)
    for name in ("1", "2", "3"):
        flat(tmp_path / "in" / f"{name}.png", 153)
    _, line = detect_with(Stub(), tmp_path / "in", tmp_path / "out", window=Window())
    assert line.startswith("2 images, 4 detections; ")
    assert shown[1] == 0 and shown[3] == 0  # wait for a key, however long
    # OpenCV's order of channels; the dog's box, as above.
    assert tuple(shown[0][150, 0]) == class_colour(1)[::-1]
    assert {record[0] for record in read_records(tmp_path / "out")} == {1, 2}


def test_the_progress_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with Progress("images", 4) as progress:
            progress.show(1)
            progress.show(4)
        lines = stream.getvalue().split("\r")
        assert len(lines) == (3 if is_shown else 1)
        if is_shown:
            # A quarter of 30 is 7, and a blank each for the rest.
            assert lines[1].startswith("[" + "=" * 7 + " " * 23 + "] 1/4 images, ")
            assert lines[2].startswith("[" + "=" * 30 + "] 4/4 images, ")
            assert lines[2].endswith("/s \n")
