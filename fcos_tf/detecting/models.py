"""`detect`: a model and images in, detections in the pixels of each image out."""

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

    The pixels are those stored: EXIF orientation is not applied. Files, bytes and images of Pillow
    are converted alike: grey, palettes and CMYK become RGB, 16 bits become 8, alpha is left out.

    Args:
        model: what `open_model` takes, or gave: then a file is loaded only once.
        images: the path of an image or of a folder of images, which are taken by name; the bytes
            of a file; pixels, uint8 RGB [h, w, 3], or [B, h, w, 3] of several images; an image of
            Pillow; or several of these.
        image_size: to what size images are brought, such as "800,1333"; None: the model's own. An
            exported model has none but its own.
        batch_size: images at a time. In a batch images of different sizes are padded to a common
            one, which changes their scores a little.
        score_threshold: in place of the model's, so a lower one gives more; and nothing that
            scores less is returned. None: the model's own. (FCOS compares its threshold with the
            probability of the class; the score has centerness in it, and is lower.)

    Returns:
        The detections of each image, in order; of one image, a list of one.

    Raises:
        ImageError: an image cannot be read, or the model refuses it; names it.
        FileNotFoundError: there is no such model, or no image in a folder.
        ValueError: an argument is not as described.
        OSError: a server cannot be reached, or refuses.

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
    """Opens a model to detect with it many times.

    Args:
        model: a detector; a `.keras` file; the folder of a SavedModel that `export_saved_model`
            wrote, or the folder above it, whose newest version is taken; or the address of a
            server: "http://host:8501/v1/models/NAME" or "grpc://host:8500/NAME". One that is open
            already is returned.
        image_size: to what size images are brought; None: the model's own.
        description: with a server, the file `assets/description.json` of the export. It names the
            classes, which a server does not.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is no detector, or an argument does not belong to this kind of model.

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
            "image_size: expected none with a model that is exported, served or open already, as "
            f"it is fixed there; got {image_size}"
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
    """A model in memory, which is traced once as long as its settings stay the same."""
    if not hasattr(model, "detect"):
        return KerasModel(model)  # says what is wrong
    names = ("image_size", "class_names", "category_ids", *getattr(model, "thresholds", ()))
    key = str([image_size, *(getattr(model, name, None) for name in names)])
    # With the model, so that it goes when the model goes; past Keras, which would track it.
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
        image_size: to what size images are brought; None: the model's own.
        name: what messages call the model.

    Raises:
        ValueError: it is no detector, or no image size is known.
    """

    def __init__(self, model: Any, *, image_size: str | None = None, name: str = "the model"):
        if not callable(getattr(model, "detect", None)):
            raise ValueError(
                "model: expected a detector, a .keras file, the folder of a SavedModel or the "
                f"address of a server; got a {type(model).__name__}"
            )
        self._image_size = image_size or model.image_size
        if self._image_size is None:
            raise ValueError(f"image_size: expected, as {name} does not say its own; got none")
        super().__init__(model.class_names, category_ids_of(model))
        self._inclusive_pixels = model.inclusive_pixels
        self._detect = compile_detect(model)

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        batch = prepare_batch([picture.pixels for picture in pictures], self._image_size)
        # A tensor, so that another threshold needs no other trace.
        options = [] if score_threshold is None else [np.array(score_threshold, np.float32)]
        return detect_batch(
            lambda *inputs: self._detect(*inputs, *options),
            batch["images"],
            batch,
            inclusive_pixels=self._inclusive_pixels,
        )
