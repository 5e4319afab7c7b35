"""`detect`: a model and images -> detections in the pixels of each image."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf.data.images import ImageError
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.batches import compile_detect, detect_batch
from fcos_tf.detecting.detections import Detections
from fcos_tf.detecting.exported import ExportedModel
from fcos_tf.detecting.images import list_images, read_picture
from fcos_tf.detecting.opened import OpenedModel
from fcos_tf.detecting.served import ServedModel
from fcos_tf.models.detector import category_ids_of
from fcos_tf.models.weights import load_model


def detect(
    model: Any,
    images: Any,
    *,
    image_size: str | None = None,
    batch_size: int = 1,
    score_threshold: float | None = None,
) -> list[Detections]:
    """Detects objects in images, each in its own pixels.

    EXIF orientation is not applied. Files, bytes and images of Pillow are converted alike: grey,
    palettes and CMYK become RGB, 16 bits become 8, alpha is dropped.

    Args:
        model: an argument of `open_model`, or its result, to load a file only once.
        images: the path of an image, or of a folder of images, sorted by name; the bytes of a
            file; pixels, uint8 RGB [h, w, 3], or [B, h, w, 3] of several images; an image of
            Pillow; or several of these.
        image_size: size of the resized images, such as "800,1333"; None: the model's own. Fixed
            in an exported model.
        batch_size: images at a time. Images of different sizes are padded to a common size, which
            changes their scores a little.
        score_threshold: in place of the model's threshold, and also the least score of a result.
            None: the model's own. (FCOS applies its threshold to the class probability; the score
            also has the centerness as a factor, and is lower.)

    Returns:
        The detections of each image, in order; for one image, a list of one.

    Raises:
        ImageError: an image cannot be read, or the model refuses it; names it.
        FileNotFoundError: there is no such model, or no image in a folder.
        ValueError: an argument is not as described.
        OSError: a server cannot be reached, or refuses the request.

    Example:
        >>> model = fcos_tf.FCOS(2, backbone="simple_cnn", image_size="64x64")
        >>> (found,) = fcos_tf.detect(model, np.zeros([480, 640, 3], np.uint8))
        >>> found[found.scores > 0.5]
        Detections(480x640: nothing)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold: expected 0 to 1, got {score_threshold}")
    sources = list_images(images)
    opened = open_model(model, image_size=image_size)
    results: list[Detections] = []
    for start in range(0, len(sources), batch_size):
        batch = enumerate(sources[start : start + batch_size], start)
        pictures = [read_picture(source, number) for number, source in batch]
        for found in opened.detect_each(pictures, score_threshold):
            if isinstance(found, ImageError):
                raise found
            results.append(found)
    return results


def open_model(
    model: Any, *, image_size: str | None = None, description: str | Path | None = None
) -> OpenedModel:
    """Opens a model for many calls of `detect`.

    Args:
        model: a detector; a `.keras` file; the folder of a SavedModel of `export_saved_model`, or
            its parent, whose newest version is used; or the address of a server:
            "http://host:8501/v1/models/NAME" or "grpc://host:8500/NAME". An `OpenedModel` is
            returned as it is.
        image_size: size of the resized images; None: the model's own.
        description: with a server, the file `assets/description.json` of the export, for class
            names, which a server does not give.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: not a detector, or an argument does not apply to this kind of model.

    Example:
        >>> model = fcos_tf.detecting.open_model("fcos.keras")
        >>> for folder in ("a", "b"):
        ...     print(fcos_tf.detect(model, folder))
    """
    is_text = isinstance(model, str | os.PathLike)
    is_address = isinstance(model, str) and re.match(r"(https?|grpc)://", model)
    if description is not None and not is_address:
        raise ValueError(f"description: expected with the address of a server only, got {model}")
    is_folder = is_text and not is_address and Path(model).is_dir()
    if image_size is not None and (is_address or is_folder or isinstance(model, OpenedModel)):
        raise ValueError(
            "image_size: expected none with a model that is exported, served or open already, "
            f"where it is fixed; got {image_size}"
        )
    if isinstance(model, OpenedModel):
        return model
    if is_address:
        return ServedModel(model, description)
    if is_folder:
        return ExportedModel(model)
    if is_text:
        return KerasModel(load_model(model), image_size=image_size, name=str(model))
    return _opened_before(model, image_size)


_MOST_OPENED = 4  # traces of a model in memory


def _opened_before(model: Any, image_size: str | None) -> OpenedModel:
    """A model in memory, traced once for the same settings."""
    if not hasattr(model, "detect"):
        return KerasModel(model)  # raises
    names = ("image_size", "class_names", "category_ids", *getattr(model, "thresholds", ()))
    key = str([image_size, *(getattr(model, name, None) for name in names)])
    # In the model, to be freed with it; `vars` avoids the tracking of attributes by Keras.
    opened = vars(model).setdefault("_opened_for_detecting", {})
    if key not in opened:
        if len(opened) == _MOST_OPENED:
            opened.clear()
        opened[key] = KerasModel(model, image_size=image_size)
    return opened[key]


class KerasModel(OpenedModel):
    """A detector of this package.

    Args:
        model: the detector. Its thresholds are those of the first call.
        image_size: size of the resized images; None: the model's own.
        name: the model's name in messages.

    Raises:
        ValueError: not a detector, or no image size is known.
    """

    def __init__(self, model: Any, *, image_size: str | None = None, name: str = "the model"):
        if not callable(getattr(model, "detect", None)):
            raise ValueError(
                "model: expected a detector, a .keras file, the folder of a SavedModel or the "
                f"address of a server; got a {type(model).__name__}"
            )
        self._image_size = image_size or model.image_size
        if self._image_size is None:
            raise ValueError(f"image_size: expected one, as {name} has none of its own; got none")
        super().__init__(model.class_names, category_ids_of(model))
        self._inclusive_pixels = model.inclusive_pixels
        self._detect = compile_detect(model)

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        batch = prepare_batch([picture.pixels for picture in pictures], self._image_size)
        # An array, so that another threshold does not retrace.
        options = [] if score_threshold is None else [np.array(score_threshold, np.float32)]
        return detect_batch(
            lambda *inputs: self._detect(*inputs, *options),
            batch["images"],
            batch,
            inclusive_pixels=self._inclusive_pixels,
        )
