"""Checkpoints: one complete `.keras` file each, written so that a kill leaves no half file.

    MODEL_DIR/checkpoints/step_00001000.keras

holds the model's config and weights, the optimizer's state after 1000 updates, and a detector's
means over the steps that are in no record yet. Where weights are averaged (`--ema_momentum`), the
averages are its weights, as they are what is to be used. A file appears under its final name only
when it is whole and on disk; what a damaged disk does to it later is found by the checksums that
the zip format keeps.
"""

import contextlib
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras

from fcos_tf.models.weights import check_whole, find_damage, first_lines
from fcos_tf.training.atomic import naming, remove_leftovers, replacing
from fcos_tf.training.optimizers import averaged_weights, swap_averages

FOLDER = "checkpoints"
_NAME = re.compile(r"step_(\d{8,})\.keras")


def save(model: keras.Model, model_dir: str | Path, step: int, *, keep: int = 3) -> Path:
    """Writes the checkpoint of `step` and removes all but the newest `keep`.

    Args:
        model: A built, compiled model.
        model_dir: The run's folder; made if it is not there.
        step: Number of updates done, >= 0.
        keep: How many checkpoints stay, >= 1.

    Returns:
        The path of the new file.

    Raises:
        ValueError: If `keep` is below 1 or `step` below 0.
        OSError: If it cannot be written, such as on a full disk. Names the newest checkpoint that
            is whole.
    """
    if keep < 1:
        raise ValueError(f"keep: expected a whole number >= 1, got {keep}")
    if step < 0:
        raise ValueError(f"step: expected a whole number >= 0, got {step}")
    folder = Path(model_dir) / FOLDER
    path = folder / f"step_{step:08d}.keras"
    try:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        write_model(model, path)
    except OSError as error:
        before = latest(model_dir)
        then = "there is no whole checkpoint before it"
        if before:
            then = f"the newest whole checkpoint is {before}; the same command goes on from there"
        raise OSError(f"{error}; step {step} is not saved, {then}") from error
    for old in _all_newest_first(model_dir)[keep:]:
        # A later step can only come from an abandoned branch of the run; it is not "old".
        if step_of(old) < step:
            old.unlink(missing_ok=True)
    return path


def write_model(model: keras.Model, path: str | Path) -> None:
    """Saves a whole model to a `.keras` file: temporary name, fsync, rename.

    Args:
        model: A built model. Where its optimizer averages its weights, the averages are what is
            saved as weights, and the weights as averages.
        path: Where the file is to be; an existing one is replaced at once or not at all.

    Raises:
        OSError: If it cannot be written, such as on a full disk.
    """
    with replacing(path) as temporary, averaged_weights(model):
        model.save(temporary)


def latest(model_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run.

    A damaged file (cut short, flipped bits) is named in a warning and passed over.

    Args:
        model_dir: The run's folder, which need not exist.

    Returns:
        Its path, or None if there is no whole checkpoint.
    """
    paths = _all_newest_first(model_dir)
    for path in paths:
        damage = find_damage(path)
        if damage is None:
            return path
        then = "there is none before it" if path == paths[-1] else "using the one before it"
        warnings.warn(f"checkpoint {path} is damaged ({damage}); {then}", stacklevel=2)
    return None


def need_none(model_dir: str | Path) -> None:
    """Refuses a folder with checkpoints, which a run that begins at step 0 would make worthless.

    Args:
        model_dir: The run's folder, which need not exist and holds no whole checkpoint.

    Raises:
        ValueError: There are checkpoints; names them.
    """
    paths = _all_newest_first(model_dir)
    if paths:
        raise ValueError(
            f"--model_dir: expected a whole checkpoint in {paths[0].parent}, got damaged ones only "
            f"({', '.join(path.name for path in paths)}); remove them, or give another "
            "--model_dir, to start anew"
        )


def restore(model: keras.Model, path: str | Path) -> int:
    """Loads weights, optimizer state and a detector's unfinished means into a compiled model.

    Args:
        model: A built, compiled model of the same architecture and optimizer as the saved one; with
            a `LossScaleOptimizer` around it or not.
        path: A file that `save` wrote.

    Returns:
        The number of updates done when it was written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or fits neither the model nor the optimizer.
    """
    path = Path(path)
    step = step_of(path)
    check_whole(path)
    _need_known_slots(path)
    if not model.optimizer.built:
        # Only a built optimizer has the variables (momentum ...) that the file is to fill.
        model.optimizer.build(model.trainable_variables)
    with warnings.catch_warnings(), _loss_scaling_as_saved(model, path):
        # Keras only warns, and goes on with fresh momentum, when the optimizer does not fit.
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


def _need_known_slots(path: Path) -> None:
    """Refuses a checkpoint of SGD whose slots hold steps, as those of its older form did."""
    with zipfile.ZipFile(path) as archive:
        saved = json.loads(archive.read("config.json"))
    optimizer = (saved.get("compile_config") or {}).get("optimizer") or {}
    inner = optimizer.get("config", {}).get("inner_optimizer") if optimizer else None
    optimizer = inner or optimizer
    old = optimizer.get("registered_name") == "fcos_tf>SGD" and (
        "slots" not in optimizer.get("config", {})
    )
    if old and optimizer["config"].get("momentum"):
        raise ValueError(
            f"{path}: expected momentum of gradients, got that of an older SGD, which accumulated "
            "steps; begin the run anew, from these weights with --initial_weights"
        )


@contextlib.contextmanager
def _loss_scaling_as_saved(model: keras.Model, path: Path) -> Iterator[None]:
    """Puts a `LossScaleOptimizer` around the optimizer, or takes it off, as a file needs it.

    A run that met steps that are not finite goes on with one that leaves them out.
    """
    optimizer = model.optimizer
    plain = getattr(optimizer, "inner_optimizer", optimizer)
    # The file's config does not know what Keras puts around an optimizer by itself.
    with (
        zipfile.ZipFile(path) as archive,
        archive.open("model.weights.h5") as member,
        h5py.File(member) as weights,
    ):
        scaled = "optimizer/inner_optimizer" in weights
    if scaled != (optimizer is not plain):
        model.optimizer = keras.optimizers.LossScaleOptimizer(plain) if scaled else plain
        model.optimizer.build(model.trainable_variables)
    try:
        yield
    finally:
        model.optimizer = optimizer


def step_of(path: str | Path) -> int:
    """The number of updates that a checkpoint's file name states.

    Raises:
        ValueError: If the name is not of the form step_00001000.keras.
    """
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise ValueError(f"expected a checkpoint named like step_00001000.keras, got {path}")
    return int(match.group(1))


def _all_newest_first(model_dir: str | Path) -> list[Path]:
    folder = Path(model_dir) / FOLDER
    paths = [path for path in folder.glob("step_*.keras") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of, reverse=True)
