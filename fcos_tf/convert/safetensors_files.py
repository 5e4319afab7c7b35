"""Reads `.safetensors` files with the library of that name."""

from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

# The library's own functions for NumPy do not know the types of ml_dtypes.
_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
    "BOOL": np.bool_, "C64": np.complex64,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a file.

    Args:
        path: of the file.

    Returns:
        Name -> array of the stored shape and dtype, in the order of the names.

    Raises:
        ValueError: the file is truncated, corrupt, or of another kind; does not name it.
    """
    data = path.read_bytes()
    try:
        stored = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"expected a safetensors file, got {len(data)} bytes that are truncated, corrupt or of "
            f"another kind ({error})"
        ) from error
    tensors = {}
    for name, tensor in sorted(stored.items()):
        dtype = _DTYPES.get(tensor["dtype"])
        if dtype is None:
            expected = ", ".join(_DTYPES)
            raise ValueError(f"tensor {name}: expected one of {expected}, got {tensor['dtype']!r}")
        tensors[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return tensors
