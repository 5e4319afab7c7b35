"""Counts training steps whose loss or gradient is not finite, on the device.

Reading a number after every step would make the host wait for the device, so the steps are counted
where they happen, and the host asks when it likes.
"""

import keras
from keras import ops


class StepFaults:
    """How many steps were done, how many were not finite, and which was the first of those.

    Example:
        >>> faults = StepFaults()
        >>> for finite in (True, False, True, False):
        ...     faults.count(finite)
        >>> faults.read()
        (2, 2)
    """

    def __init__(self):
        self._steps, self._faults, self._first = (
            # The same on all replicas, and no part of the model that is saved.
            keras.Variable(
                0, dtype="int32", trainable=False, name=name, aggregation="only_first_replica"
            )
            for name in ("steps", "faults", "first_fault")
        )

    def count(self, finite) -> None:
        """Counts a step.

        Args:
            finite: scalar bool, the same on all replicas.
        """
        step = self._steps + 1
        fault = ops.cast(ops.logical_not(finite), "int32")
        is_first = ops.logical_and(self._faults == 0, fault == 1)
        self._first.assign(ops.where(is_first, step, self._first))
        self._faults.assign(self._faults + fault)
        self._steps.assign(step)

    def read(self) -> tuple[int, int]:
        """Faults since `reset`, and after how many steps the first of them came; (0, 0) if none."""
        # Through numpy, as a variable on several devices is no number to Python.
        return int(self._faults.numpy()), int(self._first.numpy())

    def reset(self) -> None:
        """Starts at 0 again."""
        for variable in (self._steps, self._faults, self._first):
            variable.assign(0)
