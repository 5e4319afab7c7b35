"""`detect`: a model and images -> detections in the pixels of each image.

    images -> list_images -> read_picture -> OpenedModel.detect -> Detections
    a Keras model: prepare_batch -> compile_detect -> detect_batch; an exported one and a server:
    the same in their graph

B images, each of its own size h x w; D detections of each.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_tf.data.images import ImageError
from fcos_tf.data.prepare import prepare_batch
from fcos_tf.detecting.batches import compile_classify, compile_detect, detect_batch
from fcos_tf.detecting.detections import Detections
from fcos_tf.detecting.pictures import Picture, list_images, read_picture
from fcos_tf.image_size import parse_image_size
from fcos_tf.models.best_f1 import resolve_word
from fcos_tf.models.detector import category_ids_of
from fcos_tf.models.folding import fold_norms
from fcos_tf.models.weights import load_model

MOST_PIXELS = 1 << 26  # of a canvas; a file need not be trusted


def detect(
    model: Any,
    images: Any,
    *,
    image_size: str | None = None,
    batch_size: int = 1,
    score_threshold: float | str | None = None,
    apply_exif: bool | None = None,
) -> list[Detections]:
    """Detects objects in images, each in its own pixels.

    Files, bytes and images of Pillow are converted alike: grey, palettes and CMYK become RGB, 16
    bits become 8, alpha is dropped.

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
            (FCOS applies its threshold to the class probability; the score is the root of that
            times the centerness.) "best_f1": the least score of each class that the model keeps,
            see `evaluation.best_f1_of`. None: the model's own.
        apply_exif: whether images are turned upright by their EXIF orientation; boxes are then in
            pixels of the turned image. None: as the model was trained.

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
    is_number = not isinstance(score_threshold, str | None)
    if is_number and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold: expected 0 to 1, got {score_threshold}")
    opened = open_model(model, image_size=image_size)
    if opened.classifies:
        raise ValueError(
            "model: expected a detector, got a classifier; use fcos_tf.detecting.classify"
        )
    results: list[Detections] = []
    for pictures in opened.read(images, batch_size, apply_exif):
        for found in opened.detect_each(pictures, score_threshold):
            if isinstance(found, ImageError):
                raise found
            results.append(found)
    return results


def open_model(
    model: Any, *, image_size: str | None = None, description: str | Path | None = None
) -> "OpenedModel":
    """Opens a model for many calls of `detect`.

    Args:
        model: a detector or classifier; a `.keras` file; the folder of a SavedModel of
            `export_saved_model`, or its parent, whose newest version is used; the .xml file of
            `export_openvino`, the .onnx file of `export_onnx` or the .tflite file of
            `export_litert`; or the address of a server, of detectors only:
            "http://host:8501/v1/models/NAME" or "grpc://host:8500/NAME". An `OpenedModel` is
            returned as it is.
        image_size: size of the resized images; None: the model's own.
        description: with a server, the file `assets/description.json` of the export, for class
            names, which a server does not give.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: not such a model, or an argument does not apply to this kind of model.

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
    suffix = Path(model).suffix if is_text and not (is_address or is_folder) else None
    is_exported = is_address or is_folder or suffix in (".xml", ".onnx", ".tflite")
    if image_size is not None and (is_exported or isinstance(model, OpenedModel)):
        raise ValueError(
            "image_size: expected none with a model that is exported, served or open already, "
            f"where it is fixed; got {image_size}"
        )
    if isinstance(model, OpenedModel):
        return model
    if is_exported:
        from fcos_tf.detecting.exported import ExportedModel
        from fcos_tf.detecting.resized import LiteRtModel, OnnxModel, OpenVinoModel
        from fcos_tf.detecting.served import ServedModel

        if is_address:
            return ServedModel(model, description)
        files = {".xml": OpenVinoModel, ".onnx": OnnxModel, ".tflite": LiteRtModel}
        return files.get(suffix, ExportedModel)(model)
    loaded = load_model(model) if is_text else model
    if not (hasattr(loaded, "detect") or hasattr(loaded, "classify")):
        raise ValueError(
            "model: expected a detector or classifier, a .keras file, the folder of a SavedModel, "
            "an .xml file of OpenVINO, an .onnx or .tflite file or the address of a server; got a "
            f"{type(loaded).__name__}" + (f" in {model}" if is_text else "")
        )
    if is_text:
        fold_norms(loaded)
        return KerasModel(loaded, image_size=image_size, name=str(model))
    return _opened_before(loaded, image_size)


def _opened_before(model: Any, image_size: str | None) -> "OpenedModel":
    """A model in memory, traced once for the same settings; up to four traces are kept."""
    names = (
        "image_size",
        "apply_exif",
        "class_names",
        "category_ids",
        "best_f1",
        *getattr(model, "thresholds", ()),
    )
    key = str([image_size, *(getattr(model, name, None) for name in names)])
    # In the model, to be freed with it; `vars` avoids the tracking of attributes by Keras.
    opened = vars(model).setdefault("_opened_for_detecting", {})
    if key not in opened:
        if len(opened) == 4:
            opened.clear()
        opened[key] = KerasModel(model, image_size=image_size)
    return opened[key]


class OpenedModel:
    """Base of `KerasModel`, `ExportedModel`, `ResizedModel` and `ServedModel`, with their `find`.

    Class names and category ids are those of each label; None: unknown. Without ids labels are ids.
    `apply_exif`: whether it expects images that EXIF turns upright. `classifies`: whether `find`
    gives `probabilities` [B, C] of whole images, for `classify`, in place of detections.
    `turns_images`: whether its graph reads files, and turns them. `best_f1` and `score_threshold`:
    see `Detector`; None: unknown.
    """

    classifies = turns_images = False

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        apply_exif: bool = False,
        best_f1: Mapping[str, Any] | None = None,
        score_threshold: float | str | None = None,
    ):
        if isinstance(score_threshold, str):
            score_threshold = resolve_word(score_threshold, best_f1)[0]
        self.score_threshold = score_threshold
        self.class_names = None if class_names is None else tuple(class_names)
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.apply_exif, self.best_f1 = bool(apply_exif), best_f1

    def reads_upright(self, apply_exif: bool | None) -> bool:
        """Whether its images are turned by EXIF; None: as it expects.

        Raises:
            ValueError: an exported graph that turns images itself, and `apply_exif` is false.
        """
        if self.turns_images and self.apply_exif and apply_exif is False:
            raise ValueError("apply_exif: expected true, as the exported model turns images itself")
        return self.apply_exif if apply_exif is None else apply_exif

    def read(
        self, images: Any, batch_size: int = 1, apply_exif: bool | None = None
    ) -> Iterator[list[Picture]]:
        """Batches of the images of `detect`, read one after the other."""
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        sources, upright = list_images(images), self.reads_upright(apply_exif)
        for start in range(0, len(sources), batch_size):
            batch = enumerate(sources[start : start + batch_size], start)
            yield [read_picture(source, number, apply_exif=upright) for number, source in batch]

    def find(
        self, pictures: Sequence[Picture], score_threshold: float | None
    ) -> Mapping[str, np.ndarray]:
        """`boxes` [B, D, 4] in pixels of each image, `scores` [B, D], `labels` [B, D], padding -1.

        Raises:
            ImageError: the model refuses an image; names it if it is the only one.
        """
        raise NotImplementedError

    def least_scores(self, score_threshold: float | str, labels: np.ndarray) -> Any:
        """The least scores of detections with these labels, for a number or "best_f1".

        Raises:
            ValueError: the model keeps no thresholds of the best F1.
        """
        if not isinstance(score_threshold, str):
            return score_threshold
        return np.asarray(resolve_word(score_threshold, self.best_f1)[1])[labels]

    def lower_threshold(self, score_threshold: float | str) -> float | None:
        """The threshold of `find` for all of these scores; None: the model's own is low enough."""
        least = score_threshold
        if isinstance(least, str):
            least = resolve_word(least, self.best_f1)[0]
        is_below = self.score_threshold is not None and least < self.score_threshold
        return least if is_below else None

    def detect(
        self,
        pictures: Sequence[Picture],
        score_threshold: float | str | None = None,
        *,
        model_threshold: float | None = None,
    ) -> list[Detections]:
        """The detections in each of B images, in its own pixels; refuses images as `find` does.

        `score_threshold` replaces the model's, and is also the least score of a result;
        `model_threshold` only replaces it.
        """
        least = score_threshold if model_threshold is None else model_threshold
        if isinstance(least, str):
            least = resolve_word(least, self.best_f1)[0]
        found = self.find(pictures, least)
        columns = (found[name] for name in ("boxes", "scores", "labels"))
        results = []
        for picture, boxes, scores, labels in zip(pictures, *columns, strict=True):
            kept = labels >= 0
            if score_threshold is not None:
                kept &= scores >= self.least_scores(score_threshold, labels)
            results.append(
                Detections(
                    boxes[kept],
                    scores[kept],
                    labels[kept],
                    self.class_names,
                    self.category_ids,
                    picture.pixels.shape[:2],
                    picture.file,
                    picture.pixels if picture.source is None else picture.source,
                )
            )
        return results

    def detect_each(
        self,
        pictures: Sequence[Picture],
        score_threshold: float | str | None = None,
        **options: float | None,
    ) -> list[Detections | ImageError]:
        """As `detect`, with the `ImageError` of an image that the model refuses in its place."""
        try:
            return self.detect(pictures, score_threshold, **options)
        except ImageError as error:
            if len(pictures) == 1:
                return [error]
        # One image of the batch is the cause.
        return [self.detect_each([each], score_threshold, **options)[0] for each in pictures]


class KerasModel(OpenedModel):
    """A model of this package. Its thresholds are those of the first call.

    Raises:
        ValueError: no image size is known, or the model's own is out of proportion.
    """

    def __init__(self, model: Any, *, image_size: str | None = None, name: str = "the model"):
        self._image_size = image_size or model.image_size
        if self._image_size is None:
            raise ValueError(f"image_size: expected one, as {name} has none of its own; got none")
        canvases = parse_image_size(self._image_size).fixed().canvases()
        if not image_size and max(map(math.prod, canvases)) > MOST_PIXELS:
            raise ValueError(
                f"image_size of {name}: expected at most {MOST_PIXELS} pixels, got "
                f"{self._image_size}; give another image_size"
            )
        kept = (getattr(model, name, None) for name in ("apply_exif", "best_f1", "score_threshold"))
        super().__init__(model.class_names, category_ids_of(model), *kept)
        self.classifies = hasattr(model, "classify")
        self._inclusive_pixels = getattr(model, "inclusive_pixels", False)
        self._run = compile_classify(model) if self.classifies else compile_detect(model)

    def find(self, pictures, score_threshold):
        """See `OpenedModel`."""
        batch = prepare_batch([picture.pixels for picture in pictures], self._image_size)
        run = self._run
        if self.classifies:
            return run(batch["images"], batch["image_sizes"])
        if score_threshold is not None:
            # An array, so that another threshold does not retrace.
            threshold = np.array(score_threshold, np.float32)
            run = lambda *inputs: self._run(*inputs, threshold)  # noqa: E731
        return detect_batch(run, batch["images"], batch, inclusive_pixels=self._inclusive_pixels)
