"""Refuses pickles that would exhaust the memory, before they are loaded.

One corrupt byte can name memo entry 2 billion, for which the standard library allocates memory.
"""

import pickletools
from typing import BinaryIO

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def check_pickle(stream: BinaryIO) -> None:
    """Scans the opcodes of one pickle without running them, then restores the position.

    Args:
        stream: at the start of a pickle.

    Raises:
        ValueError: the pickle is truncated, has an unknown opcode, a frame longer than the stream,
            or a memo entry beyond the number of opcodes.
    """
    start = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(start)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        # Writers number the entries consecutively, so no number exceeds that of the opcodes.
        if opcode.name in _PUTS and argument > count:
            raise ValueError(f"expected at most {count} memo entries, got one of number {argument}")
        if opcode.name == "FRAME" and argument > size:
            raise ValueError(f"expected a frame within {size} bytes, got {argument}")
    stream.seek(start)
