"""SIGINT and SIGTERM as the wish that a run stops where it can go on from later."""

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - nothing has gone wrong
    """A run stopped because a signal asked for it; its last step is in a checkpoint."""


class StopSignals:
    """Takes note of SIGINT and SIGTERM while it is entered; a second one ends the process at once.

    Attributes:
        received: Name of the signal that came, else None.

    Example:
        >>> with StopSignals() as stop:
        ...     model.fit(train, callbacks=[Checkpoint("runs/a", checkpoint_every=500, stop=stop)])
    """

    def __init__(self):
        self.received: str | None = None
        self._before = {}

    def raise_if_received(self, *_) -> None:
        """Breaks off work that a resumed run does again.

        Raises:
            Stopped: A signal has come.
        """
        if self.received:
            raise Stopped(f"stopped by {self.received}")

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        del frame
        self.received = signal.Signals(number).name
        # By the system, as Python acts on signals between two of its own instructions only, and a
        # step may be long.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
