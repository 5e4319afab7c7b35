"""The models that `tools/detect.py` runs: a `.keras` file and a SavedModel.

Each has the attribute `classes` and a method `detect`, which takes pictures and gives what was
found in each. The third, a server, is in `detect_server`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcos_tf.data.images import ImageError

DESCRIPTION_FILE = "description.json"
FILES_SIGNATURE = "serving_default"
FRAMES_SIGNATURE = "detect_images"


class Picture(NamedTuple):
    """One image to detect on.

    Attributes:
        name: what messages call it.
        pixels: uint8 [h, w, 3] RGB.
        data: the bytes of its file; None for the frame of a video.
    """

    name: str
    pixels: np.ndarray
    data: bytes | None = None


class Found(NamedTuple):
    """What was found in one image, without padding.

    Attributes:
        boxes: [D, 4] xyxy in pixels of the image.
        scores: [D].
        labels: int [D], see `Classes`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def rows(self, kept: np.ndarray) -> "Found":
        """The detections that `kept`, bool [D] or indices, names."""
        return Found(*(column[kept] for column in self))


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Attributes:
        names: of each label; None: not known.
        category_ids: the data set's own id of each label; None: not known, labels are those ids.
    """

    names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None

    @classmethod
    def from_description(cls, file: str | Path) -> "Classes":
        """Reads the description that is exported with a model.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not of that form.
        """
        try:
            read = json.loads(Path(file).read_text(encoding="utf-8"))
            ids, names = read["category_ids"], read["class_names"]
            classes = cls(names and tuple(map(str, names)), tuple(map(int, ids)))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file}: expected JSON with class_names and category_ids, got {error!r}"
            ) from error
        if classes.names and len(classes.names) != len(classes.category_ids):
            raise ValueError(
                f"{file}: expected a category id for each of {len(classes.names)} class names, "
                f"got {len(classes.category_ids)}"
            )
        return classes

    def labels_of(self, category_ids: np.ndarray) -> np.ndarray:
        """Labels, int [D], of category ids.

        Raises:
            ValueError: an id that is none of the model's.
        """
        if self.category_ids is None:
            return category_ids
        label_of = {key: label for label, key in enumerate(self.category_ids)}
        odd = sorted(set(category_ids.tolist()) - label_of.keys())
        if odd:
            raise ValueError(
                f"the model gave category id {odd[0]}, which its {DESCRIPTION_FILE} does not have"
            )
        return np.array([label_of[key] for key in category_ids.tolist()], int)

    def select(self, names: Sequence[str]) -> np.ndarray:
        """Labels of classes by their names, or by their ids where there are no names.

        Raises:
            ValueError: a class the model does not have.
        """
        known = self.names
        if known is None:
            if self.category_ids is None and all(name.isdecimal() for name in names):
                return np.array([int(name) for name in names])
            known = tuple(map(str, self.category_ids or ()))
        unknown = [name for name in names if name not in known]
        if unknown:
            what = f"of {', '.join(known)}" if known else "category ids"
            raise ValueError(f"--classes: expected {what}; got {', '.join(unknown)}")
        return np.flatnonzero([name in names for name in known])


class KerasBackend:
    """A detector of this package.

    Args:
        model: the detector.
        image_size: to what size images are brought; None: the model's own.
        name: what messages call the model.

    Raises:
        ValueError: no image size is known.
    """

    def __init__(self, model: Any, *, image_size: str | None = None, name: str = "the model"):
        from fcos_tf.evaluation import compile_detect
        from fcos_tf.models.detector import category_ids_of

        self._image_size = image_size or model.image_size
        if self._image_size is None:
            raise ValueError(f"--image_size: expected, as {name} does not say its own; got none")
        self.classes = Classes(model.class_names, category_ids_of(model))
        self._inclusive_pixels = model.inclusive_pixels
        self._detect = compile_detect(model)

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """What is found in each picture, in its own pixels."""
        from fcos_tf.data.prepare import prepare_batch
        from fcos_tf.evaluation.frames import boxes_to_original

        batch = prepare_batch([picture.pixels for picture in pictures], self._image_size)
        found = self._detect(batch["images"], batch["image_sizes"])
        found = {name: np.asarray(value) for name, value in found.items()}
        found["boxes"] = boxes_to_original(
            found["boxes"],
            batch["image_sizes"],
            batch["original_sizes"],
            inclusive_pixels=self._inclusive_pixels,
        )
        return [
            Found(*(found[name][i, :count] for name in Found._fields))
            for i, count in enumerate(found["num_detections"].tolist())
        ]


class SavedModelBackend:
    """A SavedModel that `tools/export.py` wrote.

    Args:
        folder: the version folder, or the one above it, whose newest version is taken.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be loaded, or has not the signatures of such an export.
    """

    def __init__(self, folder: str | Path):
        import tensorflow as tf

        folder = newest_version(folder)
        try:
            self._model = tf.saved_model.load(folder)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ValueError(f"--saved_model: cannot load {folder}: {error}") from error
        self._signatures = self._model.signatures
        for name in (FILES_SIGNATURE, FRAMES_SIGNATURE):
            if name not in self._signatures:
                raise ValueError(
                    f"--saved_model: expected signatures {FILES_SIGNATURE} and {FRAMES_SIGNATURE}, "
                    f"got {', '.join(self._signatures) or 'none'} in {folder}"
                )
        description = folder / "assets" / DESCRIPTION_FILE
        is_there = description.is_file()
        self.classes = Classes.from_description(description) if is_there else Classes()

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """What is found in each picture, in its own pixels.

        Frames, which are pictures without data, must have one size.

        Raises:
            ImageError: the model refuses an image; names it if it is the only one.
        """
        import tensorflow as tf

        if pictures[0].data is None:
            frames = np.stack([picture.pixels for picture in pictures])
            return self._call(FRAMES_SIGNATURE, tf.constant(frames))
        data = [portable_bytes(picture) for picture in pictures]
        try:
            return self._call(FILES_SIGNATURE, tf.constant(data))
        except tf.errors.InvalidArgumentError as error:
            raise refusal(pictures, error.message) from error

    def _call(self, signature: str, tensor: Any) -> list[Found]:
        function = self._signatures[signature]
        (name,) = function.structured_input_signature[1]
        found = function(**{name: tensor})
        return split_batch({key: value.numpy() for key, value in found.items()}, self.classes)


def newest_version(folder: str | Path) -> Path:
    """The folder with a SavedModel: the one given, or the highest number in it.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--saved_model: no folder {folder}")
    versions = [path for path in folder.iterdir() if path.name.isdecimal()]
    for path in (folder, *sorted(versions, key=lambda path: int(path.name), reverse=True)):
        if (path / "saved_model.pb").is_file():
            return path
    raise FileNotFoundError(f"--saved_model: no saved_model.pb in {folder} or a version in it")


def split_batch(found: Mapping[str, np.ndarray], classes: Classes) -> list[Found]:
    """Splits what a signature gives, [B, D, ...], into the images, without padding.

    Raises:
        ValueError: outputs of other names, or an id that the model does not have.
    """
    wanted = (*Found._fields, "num_detections")
    if not set(wanted) <= found.keys():
        raise ValueError(f"the model gave {', '.join(found)}; expected {', '.join(wanted)}")
    # Numbers that went through JSON become again what the model gave.
    boxes, scores = (np.asarray(found[name], np.float32) for name in ("boxes", "scores"))
    return [
        Found(
            boxes[i, :count].reshape(-1, 4),
            scores[i, :count],
            classes.labels_of(found["labels"][i, :count].astype(int)),
        )
        for i, count in enumerate(found["num_detections"].astype(int).tolist())
    ]


def portable_bytes(picture: Picture) -> bytes:
    """A file that the exported model decodes: the picture's own, or a PNG of its pixels."""
    # JPEG, PNG, GIF, BMP, WebP
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
    if picture.data is not None and picture.data.startswith(known):
        return picture.data
    import cv2

    return cv2.imencode(".png", picture.pixels[..., ::-1])[1].tobytes()


def refusal(pictures: Sequence[Picture], message: str) -> ImageError:
    """The error for a request that the model refuses."""
    what = pictures[0].name if len(pictures) == 1 else f"one of {len(pictures)} images"
    return ImageError(f"{what}: {' '.join(str(message).split())}")
