"""A run over videos and cameras."""

import json

import cv2
import numpy as np
import pytest

from fcos_tf.data.images import ImageError
from fcos_tf.detecting import videos
from fcos_tf.detecting.files import VIDEO, Input
from fcos_tf.detecting.videos import VideoReader, VideoWriter
from fcos_tf.visualization import class_colour
from tests.detecting.stubs import WEAK, Stub, detect_with, flat, make_video

LEVELS = (200, 220, 160, 240, 180)


def read_lines(folder):
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame[..., ::-1].astype(int))
    return capture.get(cv2.CAP_PROP_FPS), frames


def test_a_line_and_a_drawn_frame_for_every_frame(tmp_path):
    video = make_video(tmp_path / "clip.mp4", LEVELS)
    stub = Stub()
    _, line = detect_with(stub, video, tmp_path / "out", batch_size=2)
    assert line == f"5 frames, 5 detections of score 0.5 or more; files in {tmp_path / 'out'}"
    assert list(map(len, stub.batches)) == [2, 2, 1]
    lines = read_lines(tmp_path / "out")
    assert [entry["frame"] for entry in lines] == [0, 1, 2, 3, 4]
    assert [entry["time"] for entry in lines] == [0.0, 0.08, 0.16, 0.24, 0.32]  # 1 / 12.5
    assert {entry["file_name"] for entry in lines} == {str(video)}
    for entry, level in zip(lines, LEVELS, strict=True):
        dog, cat = entry["detections"]
        assert dog["bbox"] == [0, 0, 160, 240] and dog["category_id"] == 3
        assert dog["score"] == pytest.approx(level / 255, abs=0.02)  # as well as mp4v keeps it
        assert cat == {"category_id": 90, "bbox": [160, 0, 160, 240], "score": WEAK}
    rate, frames = read_video(tmp_path / "out" / "clip.mp4")
    assert rate == 12.5 and len(frames) == 5
    for frame, level in zip(frames, LEVELS, strict=True):
        assert frame.shape == (240, 320, 3)
        assert np.abs(frame[120, 300] - level).max() < 12
        # The dog's frame is two pixels wide; lossy colours at half the resolution stay its own.
        assert np.abs(frame[120, 158:160].mean(axis=0) - class_colour(1)).max() < 80
        assert frame[120, 159, 2] > frame[120, 159, 0] + 60
    assert not (tmp_path / "out" / "detections.json").exists()


def test_the_first_frames_only_and_small_ones_enlarged(tmp_path):
    video = make_video(tmp_path / "clip.avi", LEVELS, rate=30, size=(160, 96))
    detect_with(Stub(), video, tmp_path / "out", max_frames=3)
    assert len(read_lines(tmp_path / "out")) == 3
    rate, frames = read_video(tmp_path / "out" / "clip.mp4")
    assert rate == 30 and len(frames) == 3 and frames[0].shape == (192, 320, 3)


def test_frames_come_as_rgb(tmp_path):
    video = make_video(tmp_path / "clip.mp4", [(20, 60, 200)])  # BGR
    (frame,) = VideoReader(Input(VIDEO, video))
    assert np.abs(frame[120, 160].astype(int) - (200, 60, 20)).max() < 12


def test_images_and_videos_together(tmp_path):
    flat(tmp_path / "in" / "a.png", 100)
    make_video(tmp_path / "in" / "b.mp4", LEVELS[:2])
    (tmp_path / "in" / "c.mp4").write_bytes(b"no video")
    detection, line = detect_with(Stub(), tmp_path / "in", tmp_path / "out")
    assert line.startswith("1 images, 2 frames, 2 detections of score 0.5 or more; ")
    assert detection.faults == [f"cannot open {tmp_path / 'in' / 'c.mp4'} as a video"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.png", "b.mp4", "detections.json", "detections.jsonl"}


def test_a_video_that_breaks_off_is_named(tmp_path, monkeypatch):
    video = make_video(tmp_path / "clip.mp4", LEVELS)
    whole = cv2.VideoCapture

    class BrokenOff:
        def __init__(self, path):
            self._capture, self._left = whole(path), 2
            self.get, self.isOpened = self._capture.get, self._capture.isOpened
            self.release = self._capture.release

        def read(self):
            self._left -= 1
            return self._capture.read() if self._left >= 0 else (False, None)

    monkeypatch.setattr(cv2, "VideoCapture", BrokenOff)
    detection, _ = detect_with(Stub(), video, tmp_path / "out")
    assert detection.faults == [f"{video}: only 2 of 5 frames can be read"]
    assert len(read_lines(tmp_path / "out")) == 2


def test_without_the_codec_the_error_says_so(tmp_path, monkeypatch):
    video = make_video(tmp_path / "clip.mp4", LEVELS)

    class Closed:
        def __init__(self, *arguments):
            pass

        def isOpened(self):  # noqa: N802
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoWriter", Closed)
    detection, line = detect_with(Stub(), video, tmp_path / "out")
    assert detection.faults == [
        f"cannot write {tmp_path / 'out' / 'clip.mp4'}: expected an OpenCV with the codec mp4v for "
        "320x240 pixels at 12.5 frames a second"
    ]
    assert line.startswith("5 frames, ") and len(read_lines(tmp_path / "out")) == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"detections.jsonl"}


def test_a_folder_that_cannot_be_written_to_is_no_matter_of_the_codec(tmp_path):
    (tmp_path / "out" / "clip.mp4").mkdir(parents=True)
    writer = VideoWriter(tmp_path / "out" / "clip.mp4" / "none" / "a.mp4", 25)
    with pytest.raises(FileNotFoundError):
        writer.write(np.zeros([240, 320, 3], np.uint8))


def test_a_video_that_is_not_whole_at_the_end_is_an_error(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = VideoWriter(path, 25)
    writer.write(np.zeros([240, 320, 3], np.uint8))

    class OnFullDisk:
        def release(self, release=writer._writer.release):
            release()
            path.write_bytes(path.read_bytes()[:100])

    writer._writer = OnFullDisk()
    with pytest.raises(OSError, match=r"cannot write \S+clip\.mp4: it is not complete; \d+ MiB"):
        writer.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("rate", "written"),
    [(211.222, 211.22), (29.97003, 29.97), (1000.04, 1000), (65.535, 65.535), (1e6, 65535),
     (0.0001, 0.01)],
)  # fmt: skip
def test_any_rate_can_be_written(tmp_path, rate, written):
    with VideoWriter(tmp_path / "a.mp4", rate) as writer:
        writer.write(np.zeros([48, 64, 3], np.uint8))
    assert read_video(tmp_path / "a.mp4")[0] == pytest.approx(written, rel=1e-5)


def test_wide_frames_are_written_smaller_and_a_video_that_cannot_be_leaves_the_others(
    tmp_path, monkeypatch
):
    for name, size in (("a.avi", (8200, 1000)), ("b.avi", (320, 240))):
        codec = cv2.VideoWriter_fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(tmp_path / name), codec, 211.222, size)
        writer.write(np.full([*size[::-1], 3], 200, np.uint8))
        writer.release()
    detection, line = detect_with(Stub(), f"{tmp_path}/a.avi,{tmp_path}/b.avi", tmp_path / "out")
    assert detection.faults == [] and line.startswith("2 frames, 2 detections ")
    # 8190 / 8200 * 1000 = 998.8, and OpenCV leaves out an odd row.
    assert [read_video(tmp_path / "out" / name)[1][0].shape[:2] for name in ("a.mp4", "b.mp4")] == [
        (998, 8190), (240, 320),
    ]  # fmt: skip
    assert read_lines(tmp_path / "out")[0]["detections"][0]["bbox"] == [0, 0, 4100, 1000]
    monkeypatch.setattr(videos, "_LONGEST_SIDE", 9000)
    detection, line = detect_with(Stub(), f"{tmp_path}/a.avi,{tmp_path}/b.avi", tmp_path / "two")
    (fault,) = detection.faults
    assert fault.startswith(f"cannot write {tmp_path}/two/a.mp4: ") and "8200x1000" in fault
    assert line.startswith("2 frames, ") and len(read_video(tmp_path / "two" / "b.mp4")[1]) == 1


def test_refused_frames_are_named_as_such_and_counted(tmp_path):
    video = make_video(tmp_path / "clip.avi", (200, 13, 200))
    refusing = Stub()
    refusing.find = lambda pictures, threshold: refuse_dark(Stub(), pictures)
    detection, _ = detect_with(refusing, video, tmp_path / "out")
    assert detection.faults == [f"a frame of {video}: refused"]
    assert [entry["frame"] for entry in read_lines(tmp_path / "out")] == [0, 2]


def refuse_dark(stub, pictures):
    if pictures[0].pixels.mean() < 100:
        raise ImageError(f"{pictures[0].name}: refused")
    return stub.find(pictures, None)


class Camera:
    """A camera of grey frames that says nothing of its rate."""

    def __init__(self, number):
        assert number == 2
        self._left = 3

    def isOpened(self):  # noqa: N802
        return True

    def get(self, what):
        return -1.0 if what == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def read(self):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return True, np.full([240, 320, 3], 204, np.uint8)

    def release(self):
        pass


def test_a_camera_until_it_is_interrupted(tmp_path, monkeypatch):
    written = cv2.VideoCapture
    opened = lambda place: Camera(place) if place == 2 else written(place)  # noqa: E731
    monkeypatch.setattr(cv2, "VideoCapture", opened)
    _, line = detect_with(Stub(), "2", tmp_path / "out")
    assert line.startswith("3 frames, 3 detections of score 0.5 or more; ")
    lines = read_lines(tmp_path / "out")
    assert [entry["time"] for entry in lines] == [0.0, 0.04, 0.08]  # 25 a second, for want of one
    assert {entry["file_name"] for entry in lines} == {"camera 2"}
    rate, frames = read_video(tmp_path / "out" / "camera_2.mp4")
    assert rate == 25 and len(frames) == 3


def test_no_such_camera(tmp_path):
    with pytest.raises(OSError, match=r"^cannot open camera 7$"):
        detect_with(Stub(), "7", tmp_path / "out")
