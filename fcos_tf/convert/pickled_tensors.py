"""Unpickling of tensors and containers, and nothing else.

A pickle is a program that calls what it names. Here it can name only the stand-ins of this file:
no function of PyTorch or NumPy is called. A tensor becomes a reference to its storage, which
`torch_files` resolves afterwards. Pickles that would exhaust memory or time are refused unread, see
`pickle_limits`.

Formats: `torch/_utils.py` (the `_rebuild_*` functions), `torch/serialization.py` (persistent ids)
and NumPy's `ndarray.__reduce__`.
"""

import math
import pickle
import re
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes  # noqa: F401  adds bfloat16 and float8 to NumPy's dtypes
import numpy as np

from fcos_tf.convert.pickle_limits import check_limits

_STORAGE_DTYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64",
}  # fmt: skip
_TORCH_DTYPES = {
    name: np.dtype(name)
    for name in (
        *_STORAGE_DTYPES.values(), "uint16", "uint32", "uint64",
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    )
}  # fmt: skip


_MAX_RANK = 32  # of an array
_MAX_MESSAGE = 500  # characters of what a file says, in a message


class RefusedError(Exception):
    """The pickle names something that a file of tensors does not need."""


class Symbol(NamedTuple):
    """A class or dtype that a pickle may name, but not call."""

    name: str
    dtype: np.dtype | None = None


class StorageRef(NamedTuple):
    """A storage in the file: the data of one or several tensors.

    Attributes:
        key: its name in the file.
        dtype: of an element; None for bytes whose dtype each tensor gives.
        numel: elements, or bytes where the dtype is None.
        start: first element of a view of the storage (before PyTorch 0.4), else 0.
        length: elements of the view.
    """

    key: str
    dtype: np.dtype | None
    numel: int
    start: int
    length: int

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return 1 if self.dtype is None else self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of the storage."""
        return self.numel * self.item_bytes


class TensorRef(NamedTuple):
    """A tensor as a view of a storage; `offset` and `stride` count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype


class Dict(dict):
    """Stands in for `collections.OrderedDict`; attributes such as `_metadata` are dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        """Drops the attributes."""


class PickledDtype:
    """Stands in for a NumPy dtype: a call makes it, its state has the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code, align=False, copy=True):
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([biufc]\d{1,2}|\?)", code):
            raise RefusedError(f"numpy.dtype({code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        """Takes the byte order from `numpy.dtype.__reduce__`'s (version, order, ...)."""
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """Stands in for a NumPy array: a call makes it empty, its state has the contents."""

    __slots__ = ("array",)

    def __init__(self):
        self.array = None

    def __setstate__(self, state):
        """Takes (version, shape, dtype, is Fortran order, bytes)."""
        *_, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data, dtype, shape, order):
        """Sets the array and returns `self`; `data` is bytes, not copied, or Python 2's text."""
        data = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(data, bytes | bytearray) or len(shape) > _MAX_RANK:
            raise ValueError(f"expected bytes and a shape, got {type(data)} and {len(shape)} sides")
        shape = tuple(int(side) for side in shape)
        expected = math.prod(shape) * dtype.dtype.itemsize
        if len(data) != expected:
            raise ValueError(f"array {shape}: expected {expected} bytes, got {len(data)}")
        array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
        self.array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return self


class _Function:
    """A function that a pickle may call, without state that the pickle could change."""

    __slots__ = ("_call", "_name")

    def __init__(self, name, call):
        self._name, self._call = name, call

    def __call__(self, *args):
        return self._call(*args)

    def __setstate__(self, state):
        raise RefusedError(f"new attributes for {self._name}")


def _tensor(storage, offset, shape, stride, requires_grad=False, hooks=None, metadata=None):
    dtype = Symbol("of the storage", getattr(storage, "dtype", None))
    return _tensor_of_bytes(storage, offset, shape, stride, requires_grad, hooks, dtype, metadata)


def _tensor_of_bytes(storage, offset, shape, stride, requires_grad, hooks, dtype, metadata=None):
    if not isinstance(storage, StorageRef) or not isinstance(dtype, Symbol) or not dtype.dtype:
        raise ValueError(f"expected a storage and a dtype, got {storage} and {dtype}")
    if metadata:
        raise RefusedError(f"a tensor with the marks {metadata}")
    return TensorRef(storage, offset, tuple(shape), tuple(stride), dtype.dtype)


def _tensor_with_attributes(function, kind, args, state):
    if not isinstance(function, _Function):
        raise ValueError(f"expected a function, got {function!r}")
    return function(*args)


def _encode(text, encoding="latin1"):
    if encoding not in ("latin1", "latin-1"):  # others need the codec registry
        raise RefusedError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


_FUNCTIONS = {
    "collections.OrderedDict": Dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, grad, hooks, state: data,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch.Size": lambda sides=(): tuple(sides),
    "torch.device": lambda *names: Symbol("torch.device"),
    "numpy.dtype": PickledDtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # empty bytes, as Python 3 writes them for Python 2
}
for _module in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_module}.multiarray._reconstruct"] = lambda kind, shape, code: PickledArray()
    _FUNCTIONS[f"{_module}.multiarray.scalar"] = lambda dtype, data: (
        PickledArray().fill(data, dtype, (), "C").array.item()
    )
    _FUNCTIONS[f"{_module}.numeric._frombuffer"] = lambda *args: PickledArray().fill(*args)

_SYMBOLS = {
    "numpy.ndarray": None,
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    "torch.storage.UntypedStorage": None,
    **{f"torch.{name}": dtype for name, dtype in _TORCH_DTYPES.items()},
    **{
        f"torch.{device}{name}Storage": _TORCH_DTYPES[dtype]
        for name, dtype in _STORAGE_DTYPES.items()
        for device in ("", "cuda.")
    },
}


def load_pickle(stream: BinaryIO) -> tuple[Any, dict[str, StorageRef]]:
    """Reads one pickle of containers and tensors.

    Args:
        stream: the file, at the start of the pickle; left at its end.

    Returns:
        The contents, with `TensorRef` and `PickledArray` for tensors, and key -> `StorageRef` of
        every storage.

    Raises:
        ValueError: a truncated or corrupt pickle, or one that names something else.
    """
    unpickler = _Unpickler(stream, encoding="latin1")  # of Python 2's strings
    try:
        check_limits(stream)
        return unpickler.load(), unpickler.storages
    except RefusedError as error:
        raise ValueError(
            "expected nothing but tensors, numbers, text and containers, got a pickle that asks "
            f"for {str(error)[:_MAX_MESSAGE]}: refused, and no code was run; save weights alone, "
            "by torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # a corrupt pickle can raise anything
        raise ValueError(
            "expected a pickle of tensors, got one that is truncated or corrupt "
            f"({type(error).__name__}: {' '.join(str(error)[:_MAX_MESSAGE].split())})"
        ) from error


class _Unpickler(pickle.Unpickler):
    """Reads one pickle; `storages` has every storage in it by its key."""

    def __init__(self, stream: BinaryIO, **options):
        super().__init__(stream, **options)
        self.storages: dict[str, StorageRef] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a global; raises `RefusedError` if it has none."""
        full = f"{module}.{name}"
        if full in _FUNCTIONS:
            return _Function(full, _FUNCTIONS[full])
        if full in _SYMBOLS:
            return Symbol(full, _SYMBOLS[full])
        raise RefusedError(full)

    def persistent_load(self, pid: Any) -> StorageRef:
        """The storage of the id ("storage", type, key, device, numel[, view])."""
        word, kind, key, _, numel, *rest = pid
        if word != "storage" or not isinstance(kind, Symbol) or "Storage" not in kind.name:
            raise RefusedError(f"a reference to {word!r} of {kind!r}")
        if not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise ValueError(f"expected a key and a length of a storage, got {key!r}, {numel!r}")
        first = self.storages.setdefault(key, StorageRef(key, kind.dtype, numel, 0, numel))
        if (first.dtype, first.numel) != (kind.dtype, numel):
            raise ValueError(f"storage {key}: expected {first}, got {kind.name} of {numel}")
        if rest and rest[0] is not None:
            _, start, length = rest[0]
            return StorageRef(key, kind.dtype, numel, start, length)
        return first
