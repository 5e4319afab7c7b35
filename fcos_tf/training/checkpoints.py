"""Checkpoints: one complete `.keras` file each, renamed into place.

    MODEL_DIR/checkpoints/step_00001000.keras

holds the model's config and weights, the optimizer's state after 1000 updates, and a detector's
metric means since the last log record. With averaged weights (`--ema_momentum`) the averages are
saved as the weights. The checksums of the zip format reveal a corrupt file.
"""

import contextlib
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras

from fcos_tf.atomic_files import naming, remove_leftovers, replacing
from fcos_tf.keras_files import (
    check_whole,
    find_damage,
    first_lines,
    open_weights,
    read_config,
)
from fcos_tf.training.optimizers import averaged_weights, swap_averages

FOLDER = "checkpoints"
_NAME = re.compile(r"step_(\d{8,})\.keras")


def save(model: keras.Model, model_dir: str | Path, step: int, *, keep: int = 3) -> Path:
    """Writes the checkpoint of `step` and removes all but the newest `keep`.

    Args:
        model: A built, compiled model.
        model_dir: The run's folder; created if missing.
        step: Number of updates done.
        keep: Number of checkpoints to keep, >= 1.

    Returns:
        The path of the new file.

    Raises:
        ValueError: `keep` below 1.
        OSError: It cannot be written, e.g. on a full disk; names the newest whole checkpoint.
    """
    if keep < 1:
        raise ValueError(f"keep: expected a whole number >= 1, got {keep}")
    path = Path(model_dir) / FOLDER / f"step_{step:08d}.keras"
    try:
        make_folder(model_dir)
        write_model(model, path, resumable=True)
    except OSError as error:
        before = latest(model_dir)
        then = "there is no whole checkpoint before it"
        if before:
            then = f"the newest whole checkpoint is {before}; the same command resumes from it"
        raise OSError(f"{error}; step {step} is not saved, {then}") from error
    for old in _all_newest_first(model_dir)[keep:]:
        # A later step belongs to an abandoned branch of the run; it is not "old".
        if step_of(old) < step:
            old.unlink(missing_ok=True)
    return path


def make_folder(model_dir: str | Path) -> None:
    """Makes the folder of a run's checkpoints, and removes what killed processes left in it.

    Raises:
        OSError: It cannot be written to.
    """
    folder = Path(model_dir) / FOLDER
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_model(model: keras.Model, path: str | Path, *, resumable: bool = False) -> None:
    """Saves a model to a `.keras` file, renamed into place, with averaged weights as its weights.

    Args:
        model: A built model.
        path: The file.
        resumable: Whether the optimizer in it has the training weights, for `restore`; otherwise
            it has the averages, and `fit` continues from these.

    Raises:
        OSError: It cannot be written, e.g. on a full disk.
    """
    with replacing(path) as temporary, averaged_weights(model, alone=not resumable):
        model.save(temporary)


def latest(model_dir: str | Path) -> Path | None:
    """The newest whole checkpoint in a run's folder, None without one; warns of corrupt ones."""
    paths = _all_newest_first(model_dir)
    for path in paths:
        damage = find_damage(path)
        if damage is None:
            return path
        then = "there is none before it" if path == paths[-1] else "using the one before it"
        warnings.warn(f"checkpoint {path} is corrupt ({damage}); {then}", stacklevel=2)
    return None


def refuse_corrupt(model_dir: str | Path) -> None:
    """Refuses a run from step 0 in a folder with results: corrupt checkpoints only, or models.

    Raises:
        ValueError: There are checkpoints or models; names them.
    """
    if paths := _all_newest_first(model_dir):
        raise ValueError(
            f"--model_dir: expected a whole checkpoint in {paths[0].parent}, got corrupt ones only "
            f"({', '.join(path.name for path in paths)}); to start from step 0, remove them or "
            "give another --model_dir"
        )
    for name in ("model.keras", "best.keras"):
        if (Path(model_dir) / name).exists():
            raise ValueError(
                f"--model_dir: {model_dir} has {name} of a run, but no checkpoints to resume from; "
                "to start from step 0, remove it or give another --model_dir"
            )


def restore(model: keras.Model, path: str | Path) -> int:
    """Loads weights, optimizer state and a detector's metric means into a compiled model.

    Args:
        model: A built, compiled model of the same architecture and optimizer as the saved one,
            with or without a `LossScaleOptimizer`.
        path: A checkpoint of `save`.

    Returns:
        The number of updates done in it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is corrupt, or does not fit the model or the optimizer.
    """
    path = Path(path)
    step = step_of(path)
    check_whole(path)
    if not model.optimizer.built:
        # Only a built optimizer has slots (momentum ...) to load into.
        model.optimizer.build(model.trainable_variables)
    with warnings.catch_warnings(), _loss_scaling_as_saved(model, path):
        # When the optimizer does not fit, Keras only warns and continues with fresh momentum.
        warnings.filterwarnings("error", message="Skipping variable loading for optimizer")
        try:
            model.load_weights(path)
        except (UserWarning, ValueError, KeyError) as error:
            raise ValueError(
                f"checkpoint {path} does not fit this model and optimizer; give the flags it was "
                f"trained with, or another --model_dir ({first_lines(error)})"
            ) from error
    swap_averages(model)
    return step


def refuse_other_classes(path: Path, class_names: Sequence[str]) -> None:
    """Refuses to resume with classes other than those of the checkpoint.

    Args:
        path: A whole checkpoint.
        class_names: Of the data set, in the order of their labels.

    Raises:
        ValueError: The checkpoint's model has other names, or the same in another order.
    """
    before = read_config(path).get("config", {}).get("class_names")
    if before is not None and tuple(before) != tuple(class_names):
        raise ValueError(
            f"checkpoint {path}: expected its classes, {', '.join(before)}, in the data, got "
            f"{', '.join(class_names)}; give the data it was trained on or its --classes, or "
            f"another --model_dir with --initial_weights={path}"
        )


@contextlib.contextmanager
def _loss_scaling_as_saved(model: keras.Model, path: Path) -> Iterator[None]:
    """Adds or removes a `LossScaleOptimizer` while loading, as the file has it.

    It skips non-finite steps; a run may be resumed with or without it (`--max_bad_steps`).
    """
    optimizer = model.optimizer
    plain = getattr(optimizer, "inner_optimizer", optimizer)
    # The file's config lacks the `LossScaleOptimizer` that Keras adds by itself.
    with open_weights(path) as weights:
        scaled = "optimizer/inner_optimizer" in weights
    if scaled != (optimizer is not plain):
        model.optimizer = keras.optimizers.LossScaleOptimizer(plain) if scaled else plain
        model.optimizer.build(model.trainable_variables)
    try:
        yield
    finally:
        model.optimizer = optimizer


def step_of(path: str | Path) -> int:
    """The number of updates in a checkpoint's file name, such as step_00001000.keras.

    Raises:
        ValueError: The name is of another form.
    """
    step = find_step(path)
    if step is None:
        raise ValueError(f"expected a checkpoint named like step_00001000.keras, got {path}")
    return step


def find_step(path: str | Path) -> int | None:
    """As `step_of`; None: a file with another name, such as best.keras."""
    match = _NAME.fullmatch(Path(path).name)
    return int(match[1]) if match else None


def _all_newest_first(model_dir: str | Path) -> list[Path]:
    folder = Path(model_dir) / FOLDER
    paths = [path for path in folder.glob("step_*.keras") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of, reverse=True)
