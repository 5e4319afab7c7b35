"""Files that appear under their name only when they are whole and on disk."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".writing_"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name to write to; the file then gets its own: fsync, rename.

    Args:
        path: Where the file is to be; an existing one is replaced at once or not at all.

    Yields:
        A path in the same folder, with the same ending.

    Raises:
        OSError: It cannot be written, such as on a full disk; names the path and the free space.

    Example:
        >>> with replacing("a.txt") as temporary:
        ...     temporary.write_text("whole")
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}_{path.name}")
    try:
        with naming(path):
            yield temporary
            _fsync(temporary)
            os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every file system takes it
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | Path) -> None:
    """Removes what killed processes have left half written in a folder, which need not exist."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Makes an error of writing say which file, why, and how much space is free.

    Raises:
        OSError: In place of any that is raised inside.
    """
    try:
        yield
    except OSError as error:
        text = f"cannot write {path}: {error.strerror or error}"
        with contextlib.suppress(OSError):
            text += f"; {shutil.disk_usage(Path(path).parent).free / 1e6:.1f} MB free there"
        raise OSError(text) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
