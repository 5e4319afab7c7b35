"""Python functions inside tf.data, safe to be running when the interpreter ends.

A data set fetches ahead in threads of its own. One that is inside a Python function at the moment
the interpreter shuts down never gets the interpreter lock again, and the shutdown waits for it
without end: any script that leaves an iterator open would hang after its last line. So calls are
counted, and before the shutdown begins no new ones start and those under way are waited for.
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

    def begin(self) -> None:
        with self.lock:
            self.last = time.monotonic()
            if self.closed:
                raise RuntimeError("the interpreter is shutting down")
            self.under_way += 1

    def end(self) -> None:
        with self.lock:
            self.last = time.monotonic()
            self.under_way -= 1

    def close(self) -> None:
        """Refuses calls, and returns when none is under way and none has come for a while."""
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


def call_python(function: Callable, inputs: Sequence[tf.Tensor], dtypes: Sequence[tf.DType]):
    """`tf.numpy_function` for data sets: calls a Python function from a graph.

    The function must not call TensorFlow: with every thread of the pool in such a function, none
    is left to do the work.

    Args:
        function: Takes and returns NumPy arrays; called from several threads.
        inputs: Tensors it gets.
        dtypes: Of what it returns.

    Returns:
        List of tensors of unknown shape.
    """

    # Autograph would take the function for a part of the graph, and run a slow copy of it.
    @tf.autograph.experimental.do_not_convert
    def counted(*arrays):
        _CALLS.begin()
        try:
            return function(*arrays)
        finally:
            _CALLS.end()

    return tf.numpy_function(counted, inputs, dtypes, stateful=False)
