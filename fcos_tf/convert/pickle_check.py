"""Looks through a pickle before it is loaded, for numbers that would fill the memory.

One damaged byte can name an entry of the unpickler's memo in the thousands of millions, for which
the standard library then makes room.
"""

import pickletools
from typing import BinaryIO

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def check_pickle(stream: BinaryIO) -> None:
    """Goes over the opcodes of one pickle and back to where the stream was; nothing is made.

    Args:
        stream: at the start of a pickle.

    Raises:
        ValueError: the pickle is cut off, has an unknown opcode, a frame longer than the stream,
            or a memo entry out of all proportion.
    """
    start = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(start)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        # Writers number the entries one by one, so there are never more than opcodes.
        if opcode.name in _PUTS and argument > count:
            raise ValueError(f"expected at most {count} memo entries, got one of number {argument}")
        if opcode.name == "FRAME" and argument > size:
            raise ValueError(f"expected a frame within {size} bytes, got {argument}")
    stream.seek(start)
