"""Detection on images and videos, with pictures and JSON files in a folder."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fcos_tf.data.images import ImageError
from fcos_tf.detecting import files
from fcos_tf.detecting.detections import Detections
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.detecting.pictures import Picture, read_picture
from fcos_tf.detecting.videos import VideoReader, VideoWriter, Window, WindowClosed
from fcos_tf.tensorflow_words import escaped

# On the score sqrt(class * centerness); below it are many second guesses of other classes.
PICTURE_THRESHOLD = 0.5


@dataclass
class FolderRun:
    """One run over files, videos or cameras.

    Args:
        model: result of `open_model`.
        output_dir: folder for the results; created if missing.
        classes: names of the classes to keep; empty: all.
        batch_size: images at a time.
        score_threshold: least score of drawn detections, a number or "best_f1", see `detect`. Below
            the model's own it replaces that, also for the JSON files.
        max_frames: of a video or camera; None: all.
        apply_exif: whether images are turned upright by EXIF; None: as the model was trained.
        window: also shows the pictures.
        report: called with a line for each image, the drawn detections by class.

    Attributes:
        faults: messages about inputs that cannot be read, or whose picture cannot be written.

    Raises:
        ValueError: a class or thresholds that the model does not have.

    Example:
        run = FolderRun(open_model("fcos.keras"), "found")
        print(run.run(find_inputs("photos,clip.mp4")))
    """

    model: OpenedModel
    output_dir: str | Path
    _: KW_ONLY
    classes: Sequence[str] = ()
    batch_size: int = 1
    score_threshold: float | str = PICTURE_THRESHOLD
    max_frames: int | None = None
    apply_exif: bool | None = None
    window: Window | None = None
    report: Callable[[str], None] = lambda line: None

    def __post_init__(self):
        self._folder = Path(self.output_dir)
        self.model.least_scores(self.score_threshold, np.arange(0))  # refuses a word
        self._threshold = self.model.lower_threshold(self.score_threshold)
        self._labels = labels_of(self.model, self.classes) if self.classes else None
        self.faults: list[str] = []
        self._counts = {"images": 0, "frames": 0, "detections": 0}

    def run(self, inputs: Sequence[files.Input]) -> str:
        """Detects on all inputs, and writes all files.

        Returns:
            A one-line summary.

        Raises:
            OSError: none of the inputs can be read, or the folder cannot be written to.
            ValueError: a picture would overwrite an input.
        """
        images = [item.path for item in inputs if item.kind == files.IMAGE]
        videos = [item for item in inputs if item.kind != files.IMAGE]
        names = files.output_names(inputs)
        originals = {_identity(item.path) for item in inputs} - {None}
        for name in names.values():
            if (self._folder / name).is_symlink():
                raise ValueError(f"output_dir: {self._folder / name} is a link; remove it")
            if _identity(self._folder / name) in originals:
                raise ValueError(
                    "output_dir: expected another folder than that of the input; "
                    f"{self._folder / name} would be overwritten"
                )
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.Results(self._folder) as results:
            with contextlib.suppress(WindowClosed):
                self._run_images(images, names, results)
                for item in videos:
                    self._run_video(item, self._folder / names[item.path], results)
            if self.faults and not (self._counts["images"] or self._counts["frames"]):
                first = f"none of {len(inputs)} inputs can be read; the first: "
                raise OSError((first if len(inputs) > 1 else "") + self.faults[0])
        read = [
            f"{self._counts[name]} {name}" for name in ("images", "frames") if self._counts[name]
        ]
        limit = self.score_threshold
        limit = limit if isinstance(limit, str) else f"{limit:g}"
        found = f"{self._counts['detections']} detections of score {limit} or more"
        return f"{', '.join([*read, found])}; files in {self._folder}"

    def _run_images(
        self, images: Sequence[Path], names: dict[Path, str], results: files.Results
    ) -> None:
        if not images:
            return
        ids = dict(zip(map(str, images), files.image_ids(images), strict=True))
        with tqdm(images, unit="image", disable=None) as shown_images:
            for found in self._detect(self._read(shown_images)):
                if found is None:
                    continue
                results.add_image(ids[found.file], found.file, found)
                drawn, counts = self._draw(found)
                path = self._folder / names[Path(found.file)]
                self._write(path, files.save_picture, path, drawn)
                self._counts["images"] += 1
                self.report(escaped(f"{found.file}: {counts}"))
                if self.window is not None:
                    self.window.show(drawn, wait=True)

    def _run_video(self, item: files.Input, path: Path, results: files.Results) -> None:
        is_camera = item.kind == files.CAMERA
        name = f"camera {item.path}" if is_camera else str(item.path)
        try:
            reader = VideoReader(item)
        except ImageError as error:
            self.faults.append(str(error))
            return
        total = min(filter(None, (reader.num_frames, self.max_frames)), default=None)
        frames = islice(reader, self.max_frames)
        read, is_written = 0, True
        with (
            reader,
            VideoWriter(path, reader.rate) as writer,
            tqdm(frames, desc=name, total=total, unit="frame", disable=None) as shown_frames,
            # That is how one ends a camera.
            contextlib.suppress(*([KeyboardInterrupt] if is_camera else [])),
        ):
            made = (Picture(f"a frame of {name}", frame) for frame in shown_frames)
            for read, found in enumerate(self._detect(made), start=1):
                if found is None:
                    continue
                results.add_frame(name, read - 1, (read - 1) / reader.rate, found)
                drawn, _ = self._draw(found)
                is_written = is_written and self._write(path, writer.write, drawn)
                self._counts["frames"] += 1
                if self.window is not None:
                    self.window.show(drawn, wait=False)
        if not is_camera and read < (total or 1):
            self.faults.append(f"{name}: only {read} of {total or 'its'} frames can be read")

    def _read(self, images: Iterable[Path]) -> Iterator[Picture]:
        """The readable images, with their pixels, as they are drawn at once."""
        upright = self.model.reads_upright(self.apply_exif)
        for file in images:
            try:
                yield read_picture(str(file), apply_exif=upright)._replace(source=None)
            except ImageError as error:
                self.faults.append(str(error))

    def _detect(self, pictures: Iterator[Picture]) -> Iterator[Detections | None]:
        """The detections in each picture; None: the model refuses it."""
        while batch := list(islice(pictures, self.batch_size)):
            for found in self.model.detect_each(batch, model_threshold=self._threshold):
                if isinstance(found, ImageError):
                    self.faults.append(str(found))
                    yield None
                elif self._labels is None:
                    yield found
                else:
                    yield found[np.isin(found.labels, self._labels)]

    def _write(self, path: Path, write: Callable[..., None], *arguments) -> bool:
        """Writes a picture or a frame; False, and a fault, if the format of its file cannot."""
        try:
            write(*arguments)
        except OSError as error:
            if error.errno is not None:  # of the file system, and so of all inputs
                raise
            self.faults.append(f"cannot write {path}: {error}")
            return False
        return True

    def _draw(self, found: Detections) -> tuple[np.ndarray, str]:
        """The picture with its detections, and how many of each class it shows."""
        shown = found[found.scores >= self.model.least_scores(self.score_threshold, found.labels)]
        self._counts["detections"] += len(shown)
        return np.asarray(shown.draw()), shown.counts


def _identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of a file, hard links among them; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def labels_of(model: OpenedModel, classes: Sequence[str]) -> np.ndarray:
    """Labels of classes by their names, or by their ids if there are no names."""
    known = model.class_names
    if known is None:
        if model.category_ids is None and all(name.isdecimal() for name in classes):
            return np.array([int(name) for name in classes])
        known = tuple(map(str, model.category_ids or ()))
    unknown = [name for name in classes if name not in known]
    if unknown:
        what = f"of {', '.join(known)}" if known else "category ids"
        raise ValueError(f"classes: expected {what}; got {', '.join(unknown)}")
    return np.flatnonzero([name in classes for name in known])
