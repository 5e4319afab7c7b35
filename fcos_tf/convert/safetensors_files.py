"""Reads `.safetensors` files: 8 bytes of length, a JSON header, the numbers.

Source: the format's description, github.com/huggingface/safetensors.
"""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}
_LENGTH_BYTES = 8


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a file.

    Args:
        path: of the file.

    Returns:
        Name -> array of the stored shape and dtype, in the order of the file's bytes.

    Raises:
        ValueError: the file is cut off, damaged, or of another kind; says what was expected.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if start > size:
            raise ValueError(
                f"{path}: expected a safetensors header of {length} bytes, got a file of {size}; "
                "it is truncated or no safetensors file"
            )
        places = _parse(path, stream.read(length), size - start)
        tensors = {}
        for name, dtype, shape, begin, end in places:
            stream.seek(start + begin)
            data = np.fromfile(stream, np.uint8, end - begin)
            tensors[name] = data.view(dtype).reshape(shape)
    return tensors


def _parse(path: Path, header: bytes, num_bytes: int) -> list[tuple]:
    """(name, dtype, shape, begin, end) of each tensor, checked to fill the data without gaps."""
    try:
        entries = json.loads(header.decode("utf-8"))
        entries.pop("__metadata__", None)
        places = [
            (name, str(e["dtype"]), _integers(e["shape"]), *_integers(e["data_offsets"]))
            for name, e in entries.items()
        ]
        if any(len(place) != 5 for place in places):
            raise ValueError("data_offsets are two numbers")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a safetensors header with dtype, shape and data_offsets, got "
            f"{header[:40]!r}... ({type(error).__name__}: {error})"
        ) from error
    places.sort(key=lambda place: place[3:])
    checked, at = [], 0
    for name, dtype, shape, begin, end in places:
        if dtype not in _DTYPES:
            raise ValueError(
                f"{path}: tensor {name}: expected one of {', '.join(_DTYPES)}, got {dtype!r}"
            )
        expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if begin != at or end - begin != expected or min(shape, default=0) < 0:
            raise ValueError(
                f"{path}: tensor {name}, {dtype} {shape}: expected bytes {at} to {at + expected}, "
                f"got {begin} to {end}"
            )
        checked.append((name, _DTYPES[dtype], shape, begin, end))
        at = end
    if at != num_bytes:
        raise ValueError(
            f"{path}: expected {at} bytes of tensors, got {num_bytes}; truncated or damaged"
        )
    return checked


def _integers(values: list) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"{values!r} is no list of whole numbers")
    return tuple(values)
