"""Limits of a pickle, checked without running it.

One corrupt byte can name memo entry 2 billion, for which the standard library allocates memory; a
tuple of twice the same tuple, thirty deep, has a hash of a billion steps; a hash of deep tuples
overflows the C stack.
"""

import pickletools
from typing import Any, BinaryIO

# Nested containers, and bytes with every shared value counted wherever it is used.
_MAX_DEPTH, _MAX_SHARING, _MAX_BYTES = 200, 16, 10_000_000
_IN_PLACE = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def check_limits(stream: BinaryIO) -> None:
    """Scans the opcodes of one pickle without running them, then restores the position.

    Refuses a truncated pickle, an unknown opcode, a frame longer than the stream, a memo entry
    beyond the number of opcodes, deep nesting, and values that are shared so often that all of them
    written out would be much longer than the stream.
    """
    start = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(start)
    # [bytes, depth] of each value on the stack of the pickle machine, None for a mark.
    stack: list[list[int] | None] = []
    memo: dict[int, list[int] | None] = {}
    most = _MAX_SHARING * size + _MAX_BYTES
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        # Writers number the entries consecutively, so no number exceeds that of the opcodes.
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise ValueError(f"expected at most {count} memo entries, got one of number {argument}")
        if name == "FRAME" and argument > size:
            raise ValueError(f"expected a frame within {size} bytes, got {argument}")
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP" or name.endswith("GET"):
            stack.append(stack[-1] if name == "DUP" else memo[argument])
        else:
            made = _step(stack, opcode, argument)
            most -= made[0]
            if made[1] > _MAX_DEPTH or most < 0:
                raise ValueError("expected values that are neither nested deeply nor shared often")
    stream.seek(start)


def _step(stack: list, opcode: pickletools.OpcodeInfo, argument: Any) -> list[int]:
    """Changes the stack as an opcode does; returns the [bytes, depth] that it makes or adds."""
    before, popped = opcode.stack_before, []
    below = len(before)
    if pickletools.markobject in before or (opcode.name == "POP" and stack[-1] is None):
        while (value := stack.pop()) is not None:
            popped.append(value)
        below = before.index(pickletools.markobject) if opcode.name != "POP" else 0
    popped += [stack.pop() for _ in range(below)]
    changed = popped.pop() if opcode.name in _IN_PLACE else None
    length = len(argument) if isinstance(argument, str | bytes | bytearray) else 0
    made = [1 + length + sum(n for n, _ in popped), 1 + max((d for _, d in popped), default=0)]
    if changed is not None:
        changed[:] = changed[0] + made[0], max(changed[1], made[1])
        stack.append(changed)
    elif opcode.stack_after:
        stack.append(made)
    return made
