"""Loading saved models and copying their weights."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from fcos_tf.keras_files import check_whole, first_lines, no_larger_than, read_config
from fcos_tf.published import DETECTORS


def load_model(path: str | Path) -> keras.Model:
    """Loads a model, not compiled, from any `.keras` file of this package.

    The same as `keras.models.load_model(path, compile=False)`, with clearer errors.

    Args:
        path: A file of `model.save`, of a checkpoint or of `tools/train.py`; or the name of
            published weights, "torchvision_coco", see `fetch_weights`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is corrupt, holds no model of this package, or has weights that are not
            finite, as those of a diverged training.

    Example:
        >>> model = fcos_tf.load_model("runs/demo/model.keras")
    """
    path = weights_file(path)
    check_whole(path)
    try:
        saved = read_config(path)
        kind = keras.saving.get_registered_object(str(saved["registered_name"]))
        if not hasattr(kind, "forward_losses"):  # Keras would make anything
            raise ValueError(f"a {saved['class_name']}")
        with no_larger_than(path, saved["config"]):
            model = keras.models.load_model(path, compile=False)
    except Exception as error:  # of Keras, HDF5 and the model; an altered file brings any
        text = first_lines(error)
        raise ValueError(f"{path}: expected a model of this package, got {text}") from error
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(f"{path}: expected finite weights, got others in {weight.path}")
    return model


def weights_file(path: str | Path) -> Path:
    """The file of a path or of the name of published weights, which are downloaded once."""
    if str(path) in DETECTORS:
        from fcos_tf import fetch_weights

        path = fetch_weights(str(path))
    return Path(path)


def load_detector(path: str | Path, *, or_classifier: bool = False) -> keras.Model:
    """`load_model`, where a model without detections is of no use, or one without either.

    Raises:
        ValueError: The file holds another model, or see `load_model`.
        FileNotFoundError: No such file.
    """
    model = load_model(path)
    if not (hasattr(model, "detect") or (or_classifier and hasattr(model, "classify"))):
        wanted = "a detector or classifier" if or_classifier else "a detector"
        raise ValueError(f"expected {wanted}, got a {type(model).__name__} in {path}")
    return model


def copy_weights(
    source: keras.Model, target: keras.Model, *, file: str, skip: Sequence[str] = ()
) -> None:
    """Copies all weights between two models of one architecture, or none.

    Args:
        source: the model to copy from.
        target: the model to copy to.
        file: file of the source, for the message.
        skip: names of layers whose weights the target keeps.

    Raises:
        ValueError: if weights are missing, left over or of other shapes.
    """
    ours, theirs = _named(target, skip), _named(source, skip)
    for path in sorted(ours.keys() | theirs.keys()):
        expected, got = (
            tuple(weights[path].shape) if path in weights else "nothing"
            for weights in (ours, theirs)
        )
        if expected != got:
            raise ValueError(
                f"weights {file}: {path}: expected {expected} of this model; got {got}"
            )
    for path, weight in ours.items():
        weight.assign(theirs[path])


def _named(model: keras.Model, skip: Sequence[str]) -> dict[str, keras.Variable]:
    """Weights by path, a backbone's by index: keras_cv numbers some layers process-wide."""
    backbone = getattr(model, "backbone", None)
    index = {id(weight): i for i, weight in enumerate(backbone.weights if backbone else ())}
    named = {
        f"backbone/{index[id(weight)]}/{weight.name}"
        if id(weight) in index
        else weight.path.removeprefix(f"{model.name}/"): weight
        for weight in model.weights
    }
    return {path: w for path, w in named.items() if not set(skip) & set(path.split("/"))}
