"""Stop signals of a run, which may end at any time."""

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
