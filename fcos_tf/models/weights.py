"""Weights from one detector to another."""

from collections.abc import Sequence
from pathlib import Path

import keras


def load_detector(file: str) -> keras.Model:
    """Loads a detector that was saved as a `.keras` file, for its weights and settings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"weights: expected a .keras file of a detector; got {file!r}")
    try:
        return keras.models.load_model(file, compile=False)
    except (TypeError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"weights: cannot load {file}: {error}") from error


def copy_weights(
    source: keras.Model, target: keras.Model, *, file: str, skip: Sequence[str] = ()
) -> None:
    """Copies all weights between two detectors of one architecture, or none.

    Args:
        source: whose weights are taken.
        target: which gets them.
        file: where the source came from, for the complaint.
        skip: names of layers whose weights the target keeps.

    Raises:
        ValueError: if weights are missing, left over or of other shapes.
    """
    ours, theirs = (_named(model) for model in (target, source))
    wanted = {path for path in ours if not set(skip) & set(path.split("/"))}
    offered = {path for path in theirs if not set(skip) & set(path.split("/"))}
    for path in sorted(wanted | offered):
        expected, got = (
            tuple(variables[path].shape) if path in names else "nothing"
            for variables, names in ((ours, wanted), (theirs, offered))
        )
        if expected != got:
            raise ValueError(
                f"weights {file}: {path}: expected {expected} of this model; got {got}"
            )
    for path in wanted:
        ours[path].assign(theirs[path])


def _named(model: keras.Model) -> dict[str, keras.Variable]:
    """Weights by path, a backbone's by place: keras_cv numbers some layers through the process."""
    places = {id(weight): place for place, weight in enumerate(model.backbone.weights)}
    return {
        f"backbone/{places[id(weight)]}/{weight.name}"
        if id(weight) in places
        else weight.path.removeprefix(f"{model.name}/"): weight
        for weight in model.weights
    }
