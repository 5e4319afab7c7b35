"""Python functions inside tf.data, safe to be running when the interpreter ends.

A data set fetches ahead in threads of its own. One that is inside a Python function at the moment
the interpreter shuts down never gets the interpreter lock again, and the shutdown waits for it
without end: any script that leaves an iterator open would hang after its last line. So calls are
counted, and before the shutdown begins those under way are waited for. New ones are given a
stand-in; an error would make TensorFlow print its traceback.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

_QUIET_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0


class _Calls:
    """The calls under way, over all functions."""

    def __init__(self):
        self.lock = threading.Lock()
        self.under_way = 0
        self.last = 0.0
        self.closed = False

    def begin(self) -> bool:
        """Whether a call may start."""
        with self.lock:
            self.last = time.monotonic()
            self.under_way += not self.closed
            return not self.closed

    def end(self) -> None:
        with self.lock:
            self.last = time.monotonic()
            self.under_way -= 1

    def close(self) -> None:
        """Lets no call start, and returns when none is under way and none has come for a while."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        with self.lock:
            self.closed = True
        while time.monotonic() < give_up:
            with self.lock:
                quiet = time.monotonic() - self.last > _QUIET_SECONDS
                if quiet and not self.under_way:
                    return
            time.sleep(_QUIET_SECONDS / 10)


_CALLS = _Calls()
atexit.register(_CALLS.close)


# Autograph would take the functions for parts of the graph, and run slow copies of them.
@tf.autograph.experimental.do_not_convert
def call_python(
    function: Callable,
    inputs: Sequence[tf.Tensor],
    dtypes: Sequence[tf.DType],
    stand_in: Callable[[], Sequence],
) -> list[tf.Tensor]:
    """`tf.numpy_function` for data sets: calls a Python function from a graph.

    The function must not call TensorFlow: with every thread of the pool in such a function, none
    is left to do the work.

    Args:
        function: Takes and returns NumPy arrays; called from several threads.
        inputs: Tensors it gets.
        dtypes: Of what it returns.
        stand_in: Gives something of the same form, when the interpreter is about to end and nobody
            will see it.

    Returns:
        List of tensors of unknown shape.
    """

    def counted(*arrays):
        if not _CALLS.begin():
            return stand_in()
        try:
            return function(*arrays)
        finally:
            _CALLS.end()

    return tf.numpy_function(counted, inputs, dtypes, stateful=False)
