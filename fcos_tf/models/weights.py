"""Saved detectors: loading them, and their weights for another detector."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras

# What Keras puts into a `.keras` file; a member that is missing leaves no wrong checksum behind.
MEMBERS = ("metadata.json", "config.json", "model.weights.h5")


def load_model(path: str | Path) -> keras.Model:
    """Loads a detector, for inference, from any `.keras` file of this package.

    The same as `keras.models.load_model(path, compile=False)`, which says less about what is wrong
    with a file.

    Args:
        path: What `model.save`, a checkpoint or `tools/train.py` wrote.

    Returns:
        The model, not compiled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds no detector.

    Example:
        >>> model = fcos_tf.load_model("runs/demo/model.keras")
    """
    from fcos_tf import _register

    path = Path(path)
    check_whole(path)
    _register()
    try:
        model = keras.models.load_model(path, compile=False)
    except (TypeError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a detector, got {first_lines(error)}") from error
    if not hasattr(model, "detect"):
        raise ValueError(f"{path}: expected a detector, got a {type(model).__name__}")
    return model


def check_whole(path: str | Path) -> None:
    """Refuses a `.keras` file that is not there, or damaged.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged; says in what.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file {path}; expected a .keras file")
    damage = find_damage(path)
    if damage is not None:
        raise ValueError(f"{path} is damaged ({damage}); expected a .keras file")


def find_damage(path: str | Path) -> str | None:
    """Says what is wrong with a `.keras` file, or None if every checksum in it is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad_member = archive.testzip()
            names = archive.namelist()
    except Exception as error:
        # Headers that say another thing than they did (encrypted, another compression, another
        # length) make zipfile raise errors of any kind.
        return f"not a whole zip file: {error or type(error).__name__}"
    if bad_member is not None:
        return f"wrong checksum of {bad_member}"
    missing = [name for name in MEMBERS if name not in names]
    return f"no {' and no '.join(missing)} in it" if missing else None


def first_lines(error: Exception, length: int = 300) -> str:
    """The words of an error, whose text may be a page, in one line of at most `length`."""
    text = " ".join(str(error).split())
    return text if len(text) <= length else text[: length - 3] + "..."


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
    backbone = getattr(model, "backbone", None)
    places = {id(weight): i for i, weight in enumerate(backbone.weights if backbone else ())}
    return {
        f"backbone/{places[id(weight)]}/{weight.name}"
        if id(weight) in places
        else weight.path.removeprefix(f"{model.name}/"): weight
        for weight in model.weights
    }
