"""A model as a SavedModel for TensorFlow Serving and for plain `tf.saved_model.load`.

Files under EXPORT/1:

    saved_model.pb, variables/     graphs and weights
    assets/description.json        the exported model, its inputs and outputs
    assets/classes.json            category id -> class name
    assets.extra/                  warm-up requests
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from fcos_tf.detecting.exported import DESCRIPTION_FILE, FRAMES_SIGNATURE
from fcos_tf.export import signatures
from fcos_tf.export.checks import check_export, read_sample
from fcos_tf.export.decoding import LIMITS, Limits
from fcos_tf.export.warmup import write_warmup_requests
from fcos_tf.image_size import ImageSize, parse_image_size
from fcos_tf.models.detector import Detector, category_ids_of
from fcos_tf.models.folding import batch_norms, inference_copy
from fcos_tf.version import __version__

CLASSES_FILE = "classes.json"


def export_saved_model(
    model: Detector,
    directory: str | Path,
    *,
    image_size: str | tuple[int, int] | None = None,
    precision: str = "float32",
    fold: bool = True,
    sample: str | Path | bytes | None = None,
    limits: Limits = LIMITS,
    accept: Callable[[Path, dict], None] | None = None,
    **thresholds: float | str,
) -> Path:
    """Exports a model with decoding, resizing, normalisation and suppression in the graph.

    See `fcos_tf.export.signatures` for the signatures and `fcos_tf.export.decoding` for the image
    formats. The folder is written under a temporary name, compared with the model on a sample,
    and renamed into place.

    Args:
        model: a detector or classifier, left unchanged.
        directory: a new folder; its name is the version, a whole number.
        image_size: the size that images are resized to; None: `model.image_size`. "HEIGHTxWIDTH"
            is a static canvas; with "SHORT,LONG" a batch gets the smallest canvas that holds it.
        precision: "float32", "bfloat16" or "float16", see `folding.inference_copy`.
        fold: whether batch norms are folded into convolutions. This changes scores in the sixth
            digit; without it they are bitwise those of `model`.
        sample: the image to compare on, see `checks.read_sample`.
        limits: of images and their pixels in one request; the server refuses more.
        accept: called with the written folder and its description before it is renamed; an error
            refuses it. See `AccuracyGate`.
        **thresholds: replace those of the model, see `Detector.thresholds`.

    Returns:
        The folder.

    Raises:
        ValueError: a wrong argument, or the exported model disagrees with `model`.
        FileExistsError: the version exists.

    Example:
        >>> model = fcos_tf.load_model("fcos.keras")
        >>> fcos_tf.export.export_saved_model(model, "export/fcos/1", score_threshold=0.3)
        PosixPath('export/fcos/1')
    """
    directory = _new_version(directory)
    size, rule = check_options(model, image_size, thresholds)
    if not (limits.images > 0 and 0 < limits.pixels < 2**31):
        raise ValueError(f"limits: expected positive numbers, pixels below 2**31; got {limits}")
    data = read_sample(sample, limits.pixels)
    copy = inference_copy(model, precision=precision, fold=fold, **thresholds)

    directory.parent.mkdir(parents=True, exist_ok=True)
    # A server that watches the folder ignores names that are no numbers.
    temporary = Path(tempfile.mkdtemp(prefix=f".writing_{directory.name}_", dir=directory.parent))
    try:
        temporary.chmod(0o755)
        traced = signatures.make_signatures(copy, rule, limits)
        description = describe(model, copy, precision, image_size=size, traced=traced)
        description["request_limits"] = limits._asdict()
        _write(temporary, traced, description)
        write_warmup_requests(
            temporary,
            model_name=directory.absolute().parent.name,
            pixels_too=FRAMES_SIGNATURE in traced,
        )
        check_export(temporary, model, copy, rule, precision=precision, sample=data)
        if accept:
            accept(temporary, description)
        _new_version(directory)
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def new_file(model, file: str | Path, suffix: str) -> Path:
    """The path of a new file for a detector; refuses other models, endings and existing files."""
    if not hasattr(model, "detect"):
        raise ValueError(f"expected a detector, got a {type(model).__name__}; export a SavedModel")
    file = Path(file)
    if file.suffix != suffix:
        raise ValueError(f"file: expected a path that ends in {suffix}; got {file}")
    if file.exists():
        raise FileExistsError(f"file: expected a new one; got {file}, which exists")
    return file


def check_options(
    model: Detector, image_size, thresholds: dict, suffix: str = ""
) -> tuple[Any, ImageSize]:
    """The size of an export, and its rule; refuses none, and thresholds that the model lacks.

    `suffix` is that of a file whose score threshold is a number.
    """
    size = image_size or model.image_size
    if size is None:
        raise ValueError("image_size: expected a size, as the model has none; got None")
    if unknown := sorted(set(thresholds) - set(model.thresholds)):
        raise ValueError(f"expected {', '.join(model.thresholds)}; got {', '.join(unknown)}")
    word = thresholds.get("score_threshold", getattr(model, "score_threshold", None))
    if suffix and isinstance(word, str):
        raise ValueError(
            f"score_threshold: expected a number, got {word}; `detect` and tools/detect.py take "
            f"the word for {suffix} files, which keep the thresholds of the model"
        )
    return size, parse_image_size(size).fixed()


def _new_version(directory: str | Path) -> Path:
    """The folder of a new version; refuses other names and existing folders."""
    directory = Path(directory)
    if not (directory.name.isascii() and directory.name.isdecimal()):
        raise ValueError(
            "directory: expected a path that ends in a version, a whole number as in EXPORT/1; "
            f"got {directory}"
        )
    if directory.exists():
        raise FileExistsError(f"directory: expected a new version; got {directory}, which exists")
    return directory


def describe(model, copy, precision, *, image_size, traced) -> dict[str, Any]:
    """The description of an export of `model`, whose `inference_copy` is `copy`, for JSON."""
    size = image_size if isinstance(image_size, str) else "{}x{}".format(*image_size)
    size = size.lower().replace(" ", "")  # as other programs expect it
    return {
        "fcos_tf_version": __version__,
        "tensorflow_version": tf.__version__,
        "class_names": model.class_names,
        "category_ids": category_ids_of(model),
        "image_size": size,
        "apply_exif": model.apply_exif,
        **{name: getattr(copy, name) for name in copy.thresholds},
        "best_f1": getattr(copy, "best_f1", None),
        "strides": getattr(copy, "strides", None),  # one-stage detectors only
        "precision": precision,
        "folded_batch_norms": len(batch_norms(model)) - len(batch_norms(copy)),
        "other_batch_norms": len(batch_norms(copy)),
        "model": {"class": type(model).__name__, "config": model.get_config()},
        "signatures": signatures.describe(traced, model.raw_outputs),
    }


def _write(folder: Path, traced: dict[str, Any], description: dict[str, Any]) -> None:
    module = tf.Module()
    captured = {id(v): v for function in traced.values() for v in function.variables}
    module.weights = list(captured.values())
    ids = [str(category_id) for category_id in description["category_ids"]]
    classes = dict(zip(ids, description["class_names"] or ids, strict=True))
    with tempfile.TemporaryDirectory() as sources:

        def asset(file, content):
            source = Path(sources) / file
            text = json.dumps(content, indent=2, ensure_ascii=False)
            source.write_text(text + "\n", encoding="utf-8")
            return tf.saved_model.Asset(str(source))

        module.description = asset(DESCRIPTION_FILE, description)
        module.classes = asset(CLASSES_FILE, classes)
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("WARNING")  # a notebook would show the temporary folder, twice
        try:
            tf.saved_model.save(module, str(folder), signatures=traced)
        finally:
            logger.setLevel(level)
