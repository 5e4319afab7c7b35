"""A run that may end at any time: stop signals, and a lock on its folder."""

import contextlib
import datetime
import errno
import fcntl
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from fcos_tf.atomic_files import naming

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOCK_FILE = ".lock"


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
def locked(model_dir: str | Path) -> Iterator[None]:
    """Holds a run's folder, created if missing, for one process; of several hosts the chief's.

    The kernel, or the server of a network file system, holds the lock and frees it when the process
    ends in any way, or its host is gone. The file says who holds it; it stays.

    Raises:
        ValueError: Another process holds it; says which.
        OSError: Not a folder, or one that cannot be written to.
    """
    folder = Path(model_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--model_dir: expected a folder, got the file {folder}")
    path = folder / LOCK_FILE
    with naming(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed below
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ValueError(
                    f"--model_dir: expected a folder where no other process trains, got {folder} "
                    f"in use by {file.read().strip() or 'another process'}; wait for it, stop it, "
                    "or give another --model_dir"
                ) from None
            text = f"{folder} has a file system without locks ({error.strerror})"
            warnings.warn(f"{text}; start no second process that trains in it", stacklevel=3)
        with naming(path):
            file.truncate(0)
            now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
            file.flush()
        yield


def leave_process_one() -> None:
    """As process 1, starts a child that goes on from here; the parent ends as the child does.

    The kernel keeps every signal from process 1 that it has no handler for, so that SIGTERM would
    not end a tool before it trains, nor a second one afterwards. The parent passes signals on, as
    `docker run --init` does.
    """
    if os.getpid() != 1:
        return
    waited = {*SIGNALS, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    child = os.fork()
    if child:
        _pass_on_to(child, waited)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on_to(child: int, waited: set[signal.Signals]) -> None:
    # They stay blocked: a signal just before `os.wait` would run its handler only after it.
    while True:
        # With a timeout, as SIGCHLD may have been ignored, or have gone to another thread.
        found = signal.sigtimedwait(waited, 1)
        number = found and found.si_signo
        is_passed_on = number in SIGNALS
        if number == signal.SIGINT and os.isatty(0):
            is_passed_on = False  # a terminal sends Ctrl-C to both
        if is_passed_on:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # others are orphans
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    os._exit(code if code >= 0 else 128 - code)
        except ChildProcessError:  # where SIGCHLD is ignored, the kernel keeps no status
            os._exit(1)
