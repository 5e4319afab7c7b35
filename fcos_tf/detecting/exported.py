"""An exported model, a SavedModel, as an `OpenedModel`. B images, D detections of each."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf.data.images import ImageError
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.detecting.pictures import Picture
from fcos_tf.models.best_f1 import checked_best_f1

DESCRIPTION_FILE = "description.json"
FILES_SIGNATURE = "serving_default"
OPTIONS_SIGNATURE = "serving_with_options"
FRAMES_SIGNATURE = "detect_images"
OUTPUTS = ("boxes", "scores", "labels", "num_detections")


class ExportedModel(OpenedModel):
    """A SavedModel that `export_saved_model` wrote.

    Args:
        folder: the version folder, or its parent, whose newest version is used.

    Raises:
        FileNotFoundError: there is no such folder or version.
        ValueError: it cannot be loaded, or lacks the signatures of such an export.
    """

    turns_images = True

    def __init__(self, folder: str | Path):
        import tensorflow as tf

        folder = newest_version(folder)
        try:
            self._model = tf.saved_model.load(folder)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ValueError(f"model: cannot load {folder}: {error}") from error
        self._signatures = self._model.signatures
        files = self._signatures.get(FILES_SIGNATURE)
        self.classifies = "probabilities" in getattr(files, "structured_outputs", ())
        for name in (FILES_SIGNATURE, FRAMES_SIGNATURE)[: 1 if self.classifies else 2]:
            if name not in self._signatures:
                raise ValueError(
                    f"model: expected signatures {FILES_SIGNATURE} and {FRAMES_SIGNATURE}, "
                    f"got {', '.join(self._signatures) or 'none'} in {folder}"
                )
        description = folder / "assets" / DESCRIPTION_FILE
        super().__init__(*(read_description(description) if description.is_file() else ()))

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        import tensorflow as tf

        has_one_size = len({picture.pixels.shape for picture in pictures}) == 1
        as_frames = has_one_size and all(picture.data is None for picture in pictures)
        if as_frames and score_threshold is None and not self.classifies:
            name, inputs = FRAMES_SIGNATURE, {"images": np.stack([x.pixels for x in pictures])}
        else:
            name, inputs = request_of(pictures, score_threshold)
        if name not in self._signatures:
            raise ValueError(
                f"score_threshold: expected none, as the model has no signature {name}; it has "
                f"{', '.join(self._signatures)}"
            )
        try:
            found = self._signatures[name](**{key: tf.constant(x) for key, x in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            raise refusal(pictures, error.message) from error
        found = {key: x.numpy() for key, x in found.items()}
        return found if self.classifies else to_labels(found, self.category_ids, len(pictures))


def newest_version(folder: str | Path) -> Path:
    """The folder of a SavedModel: the one given, or its subfolder with the highest number."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"model: no folder {folder}")
    versions = [path for path in folder.iterdir() if path.name.isdecimal()]
    for path in (folder, *sorted(versions, key=lambda path: int(path.name), reverse=True)):
        if (path / "saved_model.pb").is_file():
            return path
    raise FileNotFoundError(f"model: no saved_model.pb in {folder} or a version in it")


def read_description(file: str | Path) -> tuple:
    """The arguments of `OpenedModel` in the description of an export."""
    return parse_description(Path(file).read_bytes(), file)


def parse_description(text: str | bytes, file: str | Path) -> tuple:
    """The result of `read_description` from the JSON; `file` names it in messages."""
    try:
        read = json.loads(text)
        ids, names = read["category_ids"], read["class_names"]
        ids, names = tuple(map(int, ids)), names and tuple(map(str, names))
        apply_exif = bool(read.get("apply_exif"))
        best_f1, threshold = read.get("best_f1"), read.get("score_threshold")
        if best_f1 is not None:
            best_f1 = checked_best_f1(best_f1, len(ids))
        if not isinstance(threshold, int | float):  # of a model that keeps it in `best_f1`
            threshold = best_f1 and best_f1["score_threshold"]
    except Exception as error:  # of any form of JSON, such as deep lists
        raise ValueError(
            f"{file}: expected JSON with class_names and category_ids, got {error!r}"
        ) from error
    if names and len(names) != len(ids):
        raise ValueError(
            f"{file}: expected a category id for each of {len(names)} class names, got {len(ids)}"
        )
    return names or None, ids, apply_exif, best_f1, threshold


def request_of(
    pictures: Sequence[Picture], score_threshold: float | None
) -> tuple[str, dict[str, Any]]:
    """The signature for image files and a threshold, and its inputs."""
    files = {"image_bytes": [portable_bytes(picture) for picture in pictures]}
    if score_threshold is None:
        return FILES_SIGNATURE, files
    return OPTIONS_SIGNATURE, {
        **files,
        "score_threshold": np.full(len(pictures), score_threshold, np.float32),
        # No limit but the model's.
        "max_detections": np.full(len(pictures), np.iinfo(np.int32).max, np.int32),
    }


def to_labels(
    found: Mapping[str, np.ndarray], category_ids: Sequence[int] | None, count: int
) -> dict[str, np.ndarray]:
    """The outputs of a signature for `count` images, labels in place of category ids, padding -1.

    Raises:
        ValueError: outputs of another shape or type, or numbers that cannot be detections.
    """
    if not set(OUTPUTS) <= found.keys():
        got = ", ".join(list(found)[:9])
        raise ValueError(f"the model gave {got}; expected {', '.join(OUTPUTS)}")
    boxes, scores, ids, counts = (np.asarray(found[name]) for name in OUTPUTS)
    most = scores.shape[-1] if scores.ndim else 0  # D
    shapes = {"boxes": (count, most, 4), "scores": (count, most), "labels": (count, most)}
    limits = {
        "boxes": (-1e9, 1e9), "scores": (0, 1.001), "labels": (-1, 2**31 - 1),
        "num_detections": (0, most),
    }  # fmt: skip
    if not most and not boxes.size:  # from JSON
        boxes = np.zeros(shapes["boxes"])
    for name, values in zip(OUTPUTS, (boxes, scores, ids, counts), strict=True):
        shape, (least, largest) = shapes.get(name, (count,)), limits[name]
        if values.shape != shape or values.dtype.kind not in "iuf":
            got = f"{values.dtype} {list(values.shape)}"
            raise ValueError(f"the model gave {name} {got}; expected numbers {list(shape)}")
        is_right = np.isfinite(values) & (least <= values) & (values <= largest)
        if name in ("labels", "num_detections"):
            is_right &= values == np.floor(values)
        if not is_right.all():
            got = values[~is_right].flat[0]
            raise ValueError(f"the model gave {got} in {name}; expected {least} to {largest}")
    ids = ids.astype(int)
    kept = np.arange(most) < counts[:, None]  # [B, D]
    labels = np.where(kept, ids, -1)
    if category_ids is not None:
        label_of = {key: label for label, key in enumerate(category_ids)}
        odd = sorted(set(ids[kept].tolist()) - label_of.keys())
        if odd:
            raise ValueError(
                f"the model gave category id {odd[0]}, which its {DESCRIPTION_FILE} does not have"
            )
        labels[kept] = [label_of[key] for key in ids[kept].tolist()]
    # Numbers from JSON become float32 again.
    return {
        "boxes": boxes.astype(np.float32),
        "scores": scores.astype(np.float32),
        "labels": labels,
    }


def portable_bytes(picture: Picture) -> bytes:
    """A file that the exported model can decode: the picture's own, or a PNG of its pixels."""
    known = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")  # JPEG, PNG, WebP; of BMP not all
    if picture.data is not None and picture.data.startswith(known):
        return picture.data
    import cv2

    return cv2.imencode(".png", picture.pixels[..., ::-1])[1].tobytes()


def refusal(pictures: Sequence[Picture], message: str) -> ImageError:
    """The error for a request that the model has refused."""
    what = pictures[0].name if len(pictures) == 1 else f"one of {len(pictures)} images"
    reason = re.search(r"assertion failed: \[(.*?)\]\s*(?:\[|$)", str(message), re.DOTALL)
    text = reason[1] if reason else str(message)
    return ImageError(f"{what}: {' '.join(text.split())}")
