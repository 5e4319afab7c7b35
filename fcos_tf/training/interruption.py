"""A run that may end at any time: stop signals, and files that are whole or absent."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TEMPORARY_PREFIX = ".writing_"


class TrainingStopped(Exception):  # noqa: N818 - nothing has gone wrong
    """A run stopped on a signal; its last step is in a checkpoint."""


class StopSignals:
    """A context that records SIGINT and SIGTERM; a second one ends the process at once.

    Attributes:
        received: Name of the signal received, else None.

    Example:
        >>> with StopSignals() as stop:
        ...     model.fit(train, callbacks=[Checkpoint("runs/a", checkpoint_every=500, stop=stop)])
    """

    def __init__(self):
        self.received: str | None = None
        self._before = {}

    def raise_if_received(self, *_) -> None:
        """Aborts work that a resumed run repeats.

        Raises:
            TrainingStopped: A signal was received.
        """
        if self.received:
            raise TrainingStopped(f"stopped by {self.received}")

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        self.received = signal.Signals(number).name
        # The default action is immediate; Python handles signals only between its instructions,
        # and a step may be long.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)


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
            _fsync(temporary)
            os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every file system takes it
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, renamed into place."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: str | Path) -> None:
    """Removes the temporary files of killed processes from a folder, which need not exist."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Adds the file, the reason and the free space to an `OSError` raised inside."""
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
