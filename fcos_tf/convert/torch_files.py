"""Reads checkpoints of PyTorch, without PyTorch and without running their code.

    .pth .pt .bin   from `torch.save`: a zip file since 1.6; before that, and for most published
                    detectors, pickles followed by the data
    .pkl            detectron2's model zoo: one pickle of NumPy arrays, by Python 2 or 3
    .safetensors    by the library of that name

Unneeded tensors, such as an optimizer's, are not read, except from `.pkl`.
Source: `torch/serialization.py`.
"""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from fcos_tf.convert.pickled_tensors import PickledArray, StorageRef, TensorRef, load_pickle
from fcos_tf.convert.state_dicts import find_state_dict

EXTENSIONS = (".pth", ".pt", ".bin", ".pth.tar", ".pkl", ".safetensors")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Of a file's records and tensors in memory: so many times the file, and so many bytes more.
_MAX_EXPANSION, _MAX_EXPANDED_BYTES = 4, 1 << 28
# The safetensors library's own functions for NumPy do not know the types of ml_dtypes.
_SAFETENSORS_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
    "BOOL": np.bool_, "C64": np.complex64,
}  # fmt: skip


def read_tensors(path: str | os.PathLike, *, entry: str | None = None) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint.

    The state dict may be nested (`{"model": ...}`, `{"state_dict": ...}`). The prefix "module." of
    `DataParallel` is removed.

    Args:
        path: a file with one of the `EXTENSIONS`.
        entry: the dictionary of tensors to use, where the file has several: "model_ema",
            "checkpoint.model" for a nested one, "." for the outermost.

    Returns:
        Name -> read-only array of the stored shape and dtype (bfloat16 as `ml_dtypes.bfloat16`),
        row-major, in the order of the file; of `.safetensors` by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, truncated or corrupt, without tensors or with several
            dictionaries of them, or whose pickle names a function or class that a state dict does
            not need. Code in the file is never run.

    Example:
        >>> tensors = read_tensors("fcos_resnet50_fpn_coco-99b0c9b7.pth")
        >>> tensors["head.classification_head.cls_logits.bias"].shape
        (91,)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        head = _check_file(path)
        if path.suffix.lower() == ".safetensors":
            arrays = find_state_dict(_read_safetensors(path), entry)
        elif head.startswith(b"PK"):
            arrays = _read_zip(path, entry)
        else:
            arrays = _read_pickle(path, entry)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for array in arrays.values():
        array.flags.writeable = False  # two names may share the memory
    return arrays


def _check_file(path: Path) -> bytes:
    """The first bytes of the file; refuses files that are no checkpoint."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "a device or a pipe"
        raise ValueError(f"expected a file, got {got}")
    if not path.name.lower().endswith(EXTENSIONS):
        raise ValueError(f"expected one of {', '.join(EXTENSIONS)}, got {path.suffix!r}")
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        got = "an empty file"
    elif head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        got = "HTML or XML, perhaps from a failed download"
    elif head.startswith(b"version https://git-lfs"):
        got = "a Git LFS pointer; fetch the file with `git lfs pull`"
    elif path.suffix.lower() in (".safetensors", ".pkl"):
        return head  # no magic number: Python 2's oldest pickles are plain text
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x80")):
        return head
    elif tarfile.is_tarfile(path):
        got = "a tar file: unpack the archive; files of PyTorch before 0.1.10 are not supported"
    else:
        got = f"a file of {path.stat().st_size} bytes that starts with {head[:16]!r}"
    raise ValueError(f"expected a checkpoint of PyTorch, got {got}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, in the order of their names."""
    data = path.read_bytes()
    try:
        stored = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"expected a safetensors file, got {len(data)} bytes that are truncated, corrupt or of "
            f"another kind ({error})"
        ) from error
    for name, tensor in stored.items():
        if tensor["dtype"] not in _SAFETENSORS_DTYPES:
            expected = ", ".join(_SAFETENSORS_DTYPES)
            raise ValueError(f"tensor {name}: expected one of {expected}, got {tensor['dtype']!r}")
    return {
        name: np.frombuffer(each["data"], _SAFETENSORS_DTYPES[each["dtype"]]).reshape(each["shape"])
        for name, each in sorted(stored.items())
    }


def _read_zip(path: Path, entry: str | None) -> dict[str, np.ndarray]:
    """The tensors of a zip file: NAME/data.pkl, NAME/data/KEY, NAME/byteorder."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # corrupt names and numbers raise more than BadZipFile
        raise ValueError(
            f"expected a zip file of torch.save, got {path.stat().st_size} bytes that only "
            f"start like one: truncated or corrupt ({error})"
        ) from error
    with archive:
        records = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"expected one data.pkl in the zip file, got {len(roots)}")
        root = roots[0]
        if f"{root}constants.pkl" in records:
            raise ValueError("expected a checkpoint of torch.save, got a TorchScript file")

        budget = _Budget(path)

        def read(name: str) -> bytes:
            """A record, checked against its CRC."""
            record = root + name
            try:
                info = archive.getinfo(record)
                budget.spend(info.file_size)
                with archive.open(info) as stream:
                    data = stream.read(info.file_size)  # a limit for compressed records
                if len(data) != info.file_size:
                    raise ValueError(f"{len(data)} of {info.file_size} bytes")
                return data
            except KeyError:
                raise ValueError(f"expected a record {record}, got none; corrupt") from None
            except Exception as error:  # bad CRC, bad header, encrypted, unknown compression
                got = " ".join(str(error).split())
                raise ValueError(f"record {record}: expected intact data, got {got}") from error

        contents, _ = load_pickle(io.BytesIO(read("data.pkl")))
        order = read("byteorder") if f"{root}byteorder" in records else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"expected byteorder little or big, got {order!r}")
        is_big = order == b"big"
        return _resolve(contents, entry, lambda ref: read(f"data/{ref.key}"), budget, is_big)


def _read_pickle(path: Path, entry: str | None) -> dict[str, np.ndarray]:
    """The tensors of a pickle, or of PyTorch's format before 1.6.

    The latter is five pickles (magic number, version, system info, contents, storage keys), then
    for each key the number of elements (8 bytes) and the data. All is little endian.
    """
    with path.open("rb") as stream:
        contents, storages = load_pickle(stream)
        if type(contents) is not int or contents != _LEGACY_MAGIC:
            if storages:
                raise ValueError("expected arrays in a plain pickle, got references")
            return _resolve(contents, entry, None, _Budget(path))
        version, _ = load_pickle(stream)
        if version != _LEGACY_PROTOCOL:
            raise ValueError(f"expected version {_LEGACY_PROTOCOL}, got {version!r}")
        load_pickle(stream)
        contents, storages = load_pickle(stream)
        keys, _ = load_pickle(stream)
        starts = _legacy_starts(stream, keys, storages)

        def read(ref: StorageRef) -> bytes:
            if ref.key not in starts:
                raise ValueError(f"expected a storage {ref.key}, got none; corrupt")
            stream.seek(starts[ref.key])
            return stream.read(ref.num_bytes)

        return _resolve(contents, entry, read, _Budget(path))


class _Budget:
    """The bytes that the contents of a file may take; views of its storages take none."""

    def __init__(self, path: Path):
        self._left = self._most = _MAX_EXPANSION * path.stat().st_size + _MAX_EXPANDED_BYTES

    def spend(self, num_bytes: int) -> None:
        """Refuses what is beyond the budget."""
        self._left -= num_bytes
        if self._left < 0:
            got = self._most - self._left
            raise ValueError(f"expected at most {self._most} bytes in all, got {got} or more")


def _legacy_starts(stream: BinaryIO, keys: Any, storages: dict[str, StorageRef]) -> dict[str, int]:
    """Key -> first byte of each storage, checked against the length of the file."""
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in storages for k in keys):
        raise ValueError(f"expected the keys of {len(storages)} storages, got others")
    starts, at = {}, stream.tell()
    size = stream.seek(0, os.SEEK_END)
    for key in keys:
        stream.seek(at)
        numel = int.from_bytes(stream.read(8), "little")
        starts[key] = at + 8
        at = starts[key] + storages[key].num_bytes
        if at > size:
            raise ValueError(
                f"expected at least {at} bytes, got {size}: truncated in storage {key}"
            )
        if numel != storages[key].numel:
            raise ValueError(f"storage {key}: expected {storages[key].numel} elements, got {numel}")
    return starts


def _resolve(contents, entry, read, budget, big_endian=False) -> dict[str, np.ndarray]:
    """The wanted tensors as arrays; `read` gives the bytes of a `StorageRef`, each read once."""
    storages: dict[str, np.ndarray] = {}
    arrays = {}
    for name, value in find_state_dict(contents, entry).items():
        try:
            if isinstance(value, PickledArray):
                if value.array is None:
                    raise ValueError("expected contents, got none")
                if not value.array.flags.c_contiguous:
                    budget.spend(value.array.nbytes)
                arrays[name] = np.asarray(value.array, order="C")
                continue
            key = value.storage.key
            if key not in storages:
                storages[key] = np.frombuffer(read(value.storage), np.uint8)
            array = _view(value, storages[key], budget)
            arrays[name] = array.byteswap() if big_endian else array
        except (TypeError, ValueError, MemoryError) as error:
            raise ValueError(f"tensor {name}: {error}") from error
    return arrays


def _view(ref: TensorRef, data: np.ndarray, budget: _Budget) -> np.ndarray:
    """A tensor as a view of its storage; a copy unless it is the whole storage in order."""
    storage, shape, strides = ref.storage, ref.shape, ref.stride
    if data.size != storage.num_bytes:
        raise ValueError(
            f"storage {storage.key}: expected {storage.num_bytes} bytes, got {data.size}"
        )
    numbers = (ref.offset, storage.start, storage.length, *shape, *strides)
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise ValueError(f"expected sizes and strides, got {shape} and {strides}")
    begin = storage.start * storage.item_bytes
    end = begin + storage.length * storage.item_bytes
    if end > data.size:
        raise ValueError(f"expected a part of {data.size} bytes, got {begin} to {end}")
    elements = data[begin:end].view(ref.dtype)
    if 0 in shape:
        return np.empty(shape, ref.dtype)
    last = ref.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= elements.size:
        raise ValueError(f"expected an element {last}, got a storage of {elements.size}")
    array = np.lib.stride_tricks.as_strided(
        elements[ref.offset :], shape, [step * ref.dtype.itemsize for step in strides]
    )
    if not array.flags.c_contiguous or array.size < data.size // ref.dtype.itemsize:
        budget.spend(array.nbytes)  # stride 0 repeats elements
        array = array.copy(order="C")
    return array
