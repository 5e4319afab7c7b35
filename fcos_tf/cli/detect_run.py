"""A model over images and videos, into a folder: what `tools/detect.py` does."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf.cli.detect_backends import Found, Picture
from fcos_tf.cli.detect_inputs import CAMERA, IMAGE, Input
from fcos_tf.cli.detect_output import (
    Progress,
    Results,
    Stopped,
    Window,
    draw,
    image_ids,
    output_names,
    save_picture,
)
from fcos_tf.cli.detect_video import VideoReader, VideoWriter
from fcos_tf.data.example import ImageError
from fcos_tf.data.images import decode_image, read_bytes
from fcos_tf.training.run import PICTURE_THRESHOLD


class Detection:
    """One run of the tool.

    Args:
        backend: of `detect_backends` or `detect_server`.
        output_dir: where to write; made if it is not there.
        classes: names of the only classes to keep; empty: all.
        batch_size: images at a time.
        score_threshold: least score of what is drawn.
        max_frames: of a video or camera; None: all.
        window: where to show pictures as well.

    Attributes:
        faults: what could not be read, and why.

    Raises:
        ValueError: a class that the model does not have.
    """

    def __init__(
        self,
        backend: Any,
        output_dir: str | Path,
        *,
        classes: Sequence[str] = (),
        batch_size: int = 1,
        score_threshold: float = PICTURE_THRESHOLD,
        max_frames: int | None = None,
        window: Window | None = None,
    ):
        self._backend = backend
        self._folder = Path(output_dir)
        self._labels = backend.classes.select(classes) if classes else None
        self._batch_size = batch_size
        self._score_threshold = score_threshold
        self._max_frames = max_frames
        self._window = window
        self.faults: list[str] = []
        self._counts = {"images": 0, "frames": 0, "detections": 0}

    def run(self, inputs: Sequence[Input]) -> str:
        """Detects on everything, and writes all files.

        Returns:
            What was done, in a line.

        Raises:
            OSError: none of the inputs can be read, or a file cannot be written.
            ValueError: a picture would take the place of an input.
        """
        images = [item.path for item in inputs if item.kind == IMAGE]
        videos = [item for item in inputs if item.kind != IMAGE]
        names = output_names(inputs)
        originals = {item.path.resolve() for item in inputs}
        for name in names.values():
            if (self._folder / name).resolve() in originals:
                raise ValueError(
                    "--output_dir: expected another folder than that of the input; "
                    f"{self._folder / name} would be overwritten"
                )
        self._folder.mkdir(parents=True, exist_ok=True)
        with Results(self._folder, self._backend.classes) as results:
            with contextlib.suppress(Stopped):
                self._run_images(images, names, results)
                for item in videos:
                    self._run_video(item, self._folder / names[item.path], results)
            if self.faults and not (self._counts["images"] or self._counts["frames"]):
                first = f"none of {len(inputs)} inputs can be read; the first: "
                raise OSError((first if len(inputs) > 1 else "") + self.faults[0])
        counts = [f"{number} {name}" for name, number in self._counts.items() if number]
        return f"{', '.join(counts) or 'nothing'}; files in {self._folder}"

    def _run_images(self, files: Sequence[Path], names: dict[Path, str], results: Results) -> None:
        ids = dict(zip(map(str, files), image_ids(files), strict=True))
        with Progress("images", len(files)) as progress:
            for pictures in _batches(self._read(files), self._batch_size):
                for picture, found in self._detect(pictures):
                    results.add_image(ids[picture.name], picture.name, found)
                    drawn = self._draw(picture, found)
                    save_picture(self._folder / names[Path(picture.name)], drawn)
                    self._counts["images"] += 1
                    progress.show(self._counts["images"] + len(self.faults))
                    self._show(drawn, wait=True)

    def _run_video(self, item: Input, path: Path, results: Results) -> None:
        is_camera = item.kind == CAMERA
        name = f"camera {item.path}" if is_camera else str(item.path)
        try:
            reader = VideoReader(item)
        except ImageError as error:
            self.faults.append(str(error))
            return
        total = min(filter(None, (reader.num_frames, self._max_frames)), default=None)
        done = 0
        with (
            reader,
            VideoWriter(path, reader.rate) as writer,
            Progress(f"frames of {name}", total) as progress,
            # That is how one ends a camera.
            contextlib.suppress(*([KeyboardInterrupt] if is_camera else [])),
        ):
            frames = (Picture(f"a frame of {name}", frame) for frame in reader)
            for pictures in _batches(islice(frames, self._max_frames), self._batch_size):
                for picture, found in self._detect(pictures):
                    results.add_frame(name, done, done / reader.rate, found)
                    drawn = self._draw(picture, found)
                    writer.write(drawn)
                    done += 1
                    self._counts["frames"] += 1
                    progress.show(done)
                    self._show(drawn, wait=False)
        if not is_camera and done < (total or 1):
            self.faults.append(f"{name}: only {done} of {total or 'its'} frames can be read")

    def _read(self, files: Iterable[Path]) -> Iterator[Picture]:
        """The images that can be read."""
        for file in files:
            name = str(file)
            try:
                data = read_bytes(name)
                pixels, _ = decode_image(data, name, lambda height, width: (height, width))
            except ImageError as error:
                self.faults.append(str(error))
                continue
            yield Picture(name, pixels, data)

    def _detect(self, pictures: Sequence[Picture]) -> Iterator[tuple[Picture, Found]]:
        """Each picture with what was found; without those that the model refuses."""
        try:
            found = self._backend.detect(pictures)
        except ImageError as error:
            if len(pictures) == 1:
                self.faults.append(str(error))
                return
            for picture in pictures:  # one of them is the cause
                yield from self._detect([picture])
            return
        for picture, one in zip(pictures, found, strict=True):
            if self._labels is not None:
                one = one.rows(np.isin(one.labels, self._labels))
            self._counts["detections"] += len(one.labels)
            yield picture, one

    def _draw(self, picture: Picture, found: Found) -> np.ndarray:
        return draw(picture.pixels, found, self._backend.classes, self._score_threshold)

    def _show(self, drawn: np.ndarray, *, wait: bool) -> None:
        if self._window is not None:
            self._window.show(drawn, wait=wait)


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    pictures = iter(pictures)
    while batch := list(islice(pictures, size)):
        yield batch
