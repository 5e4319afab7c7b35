"""Files that are whole or absent: written under a temporary name, and renamed into place."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".writing_"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path to write to; the file is then synced and renamed into place.

    Args:
        path: The file; an existing one is replaced at once or not at all.

    Yields:
        A path in the same folder, with the same suffix.

    Raises:
        OSError: It cannot be written, e.g. on a full disk; names the path and the free space.

    Example:
        >>> with replacing("a.txt") as temporary:
        ...     temporary.write_text("whole")
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}_{path.name}")
    try:
        with naming(path):
            yield temporary
            put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: str | Path, flag: str) -> Path:
    """Creates a folder for results, before the work that leads to them.

    Raises:
        ValueError: It cannot be created or written to; names the flag and the path.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Path(path)
    except OSError as error:
        what = f"expected a folder that can be written to, got {path}"
        raise ValueError(f"--{flag}: {what}: {error.strerror}") from None


def put_in_place(temporary: Path, path: Path) -> None:
    """Syncs a complete file and renames it, within its folder."""
    _fsync(temporary)
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # not every file system takes it
        _fsync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, renamed into place."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | Path, name: str = "") -> None:
    """Removes the temporary files of killed processes, of all files of a folder or of one name.

    The folder need not exist; no other process may be writing there.
    """
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*{name}"):
        leftover.unlink(missing_ok=True)


class _NamedError(OSError):
    """An error whose text names the file."""


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Adds the file, the reason and the free space to an `OSError` raised inside, but once."""
    try:
        yield
    except _NamedError:
        raise
    except OSError as error:
        text = f"cannot write {path}: {error.strerror or error}"
        with contextlib.suppress(OSError):
            text += f"; {shutil.disk_usage(Path(path).parent).free / 1e6:.1f} MB free there"
        raise _NamedError(text) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
