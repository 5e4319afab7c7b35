"""Reads checkpoints of PyTorch, without PyTorch and without running their code.

    .pth .pt .bin   from `torch.save`: a zip file since 1.6; before that, and for most published
                    detectors, pickles followed by the data
    .pkl            detectron2's model zoo: one pickle of NumPy arrays, by Python 2 or 3
    .safetensors    see `safetensors_files`

Unneeded tensors, such as an optimizer's, are not read, except from `.pkl`.
Source: `torch/serialization.py`.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fcos_tf.convert.pickle_check import check_pickle
from fcos_tf.convert.pickled_tensors import (
    PickledArray,
    RefusedError,
    StorageRef,
    TensorRef,
    TensorUnpickler,
)
from fcos_tf.convert.safetensors_files import read_safetensors
from fcos_tf.convert.state_dicts import find_state_dict

EXTENSIONS = (".pth", ".pt", ".bin", ".pth.tar", ".pkl", ".safetensors")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_CHUNK_BYTES = 1 << 22
_MAX_EXPANDED_BYTES = 1 << 30  # of a tensor that repeats elements of a smaller storage


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
    head = _check_file(path)
    if path.suffix.lower() == ".safetensors":
        arrays = find_state_dict(path, read_safetensors(path), _is_tensor, entry)
    elif head.startswith(b"PK"):
        arrays = _read_zip(path, entry)
    else:
        arrays = _read_pickle(path, entry)
    for array in arrays.values():
        array.flags.writeable = False  # two names may share the memory
    return arrays


def _check_file(path: Path) -> bytes:
    """The first bytes of the file; refuses files that are no checkpoint."""
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder")
    if not path.name.lower().endswith(EXTENSIONS):
        raise ValueError(f"{path}: expected one of {', '.join(EXTENSIONS)}, got {path.suffix!r}")
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
    raise ValueError(f"{path}: expected a checkpoint of PyTorch, got {got}")


def _read_zip(path: Path, entry: str | None) -> dict[str, np.ndarray]:
    """The tensors of a zip file: NAME/data.pkl, NAME/data/KEY, NAME/byteorder."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # corrupt names and numbers raise more than BadZipFile
        raise ValueError(
            f"{path}: expected a zip file of torch.save, got {path.stat().st_size} bytes that only "
            f"start like one: truncated or corrupt ({error})"
        ) from error
    with archive:
        records = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"{path}: expected one data.pkl in the zip file, got {len(roots)}")
        if f"{roots[0]}constants.pkl" in records:
            raise ValueError(f"{path}: expected a checkpoint of torch.save, got a TorchScript file")
        root = roots[0]

        def read(record: str) -> np.ndarray:
            return _read_record(path, archive, root + record)

        contents, _ = _unpickle(path, io.BytesIO(read("data.pkl")))
        order = read("byteorder").tobytes() if f"{root}byteorder" in records else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"{path}: expected byteorder little or big, got {order!r}")
        return _resolve(path, contents, entry, lambda ref: read(f"data/{ref.key}"), order == b"big")


def _read_record(path: Path, archive: zipfile.ZipFile, record: str) -> np.ndarray:
    """The bytes of a record of the archive, checked against its CRC."""
    try:
        info = archive.getinfo(record)
        data = np.empty(info.file_size, np.uint8)
        view, at = memoryview(data), 0
        with archive.open(info) as stream:
            while count := stream.readinto(view[at : at + _CHUNK_BYTES]):
                at += count
    except KeyError:
        raise ValueError(f"{path}: expected a record {record}, got none; corrupt") from None
    except Exception as error:  # bad CRC, bad header, encrypted, unknown compression
        raise ValueError(
            f"{path}: record {record}: expected intact data, got {' '.join(str(error).split())}"
        ) from error
    if at != data.size:
        raise ValueError(f"{path}: record {record}: expected {data.size} bytes, got {at}")
    return data


def _read_pickle(path: Path, entry: str | None) -> dict[str, np.ndarray]:
    """The tensors of a pickle, or of PyTorch's format before 1.6.

    The latter is five pickles (magic number, version, system info, contents, storage keys), then
    for each key the number of elements (8 bytes) and the data. All is little endian.
    """
    with path.open("rb") as stream:
        contents, storages = _unpickle(path, stream)
        if type(contents) is not int or contents != _LEGACY_MAGIC:
            if storages:
                raise ValueError(f"{path}: expected arrays in a plain pickle, got references")
            return _resolve(path, contents, entry, None, False)
        version, _ = _unpickle(path, stream)
        if version != _LEGACY_PROTOCOL:
            raise ValueError(f"{path}: expected version {_LEGACY_PROTOCOL}, got {version!r}")
        _unpickle(path, stream)
        contents, storages = _unpickle(path, stream)
        keys, _ = _unpickle(path, stream)
        places = _legacy_places(path, stream, keys, storages)

        def read(ref: StorageRef) -> np.ndarray:
            if ref.key not in places:
                raise ValueError(f"{path}: expected a storage {ref.key}, got none; corrupt")
            stream.seek(places[ref.key][0])
            return np.fromfile(stream, np.uint8, places[ref.key][1])

        return _resolve(path, contents, entry, read, False)


def _legacy_places(
    path: Path, stream: BinaryIO, keys: Any, storages: dict[str, StorageRef]
) -> dict[str, tuple[int, int]]:
    """Key -> (first byte, bytes) of each storage, checked against the length of the file."""
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in storages for k in keys):
        raise ValueError(f"{path}: expected the keys of {len(storages)} storages, got others")
    places, at, size = {}, stream.tell(), path.stat().st_size
    for key in keys:
        ref = storages[key]
        stream.seek(at)
        header = stream.read(8)
        start, num_bytes = at + 8, ref.numel * _item_bytes(ref)
        at = start + num_bytes
        if at > size:
            raise ValueError(
                f"{path}: expected at least {at} bytes, got {size}: truncated in storage {key}"
            )
        numel = int.from_bytes(header, "little")
        if numel != ref.numel:
            raise ValueError(f"{path}: storage {key}: expected {ref.numel} elements, got {numel}")
        places[key] = (start, num_bytes)
    return places


def _unpickle(path: Path, stream: BinaryIO) -> tuple[Any, dict[str, StorageRef]]:
    """The contents and the storages of one pickle; errors name the file."""
    unpickler = TensorUnpickler(stream)
    try:
        check_pickle(stream)
        return unpickler.load(), unpickler.storages
    except RefusedError as error:
        raise ValueError(
            f"{path}: expected nothing but tensors, numbers, text and containers, got a pickle "
            f"that asks for {error}: refused, and no code was run"
        ) from None
    except Exception as error:  # a corrupt pickle can raise anything
        raise ValueError(
            f"{path}: expected a pickle of tensors, got one that is truncated or corrupt "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRef | PickledArray | np.ndarray)


def _resolve(
    path: Path,
    contents: Any,
    entry: str | None,
    read: Callable[[StorageRef], np.ndarray] | None,
    big_endian: bool,
) -> dict[str, np.ndarray]:
    """Resolves the references of the wanted tensors; each storage is read once."""
    storages: dict[str, np.ndarray] = {}
    arrays = {}
    for name, value in find_state_dict(path, contents, _is_tensor, entry).items():
        if isinstance(value, PickledArray):
            if value.array is None:
                raise ValueError(f"{path}: tensor {name}: expected contents, got none")
            arrays[name] = np.ascontiguousarray(value.array).reshape(value.array.shape)
            continue
        ref = value.storage
        if ref.key not in storages:
            storages[ref.key] = read(ref)
            expected, got = ref.numel * _item_bytes(ref), storages[ref.key].size
            if expected != got:
                raise ValueError(
                    f"{path}: storage {ref.key} of tensor {name}: expected {expected} bytes, "
                    f"got {got}"
                )
        try:
            arrays[name] = _view(value, storages[ref.key], big_endian)
        except (TypeError, ValueError, MemoryError) as error:
            raise ValueError(f"{path}: tensor {name}: {error}") from error
    return arrays


def _item_bytes(ref: StorageRef) -> int:
    return 1 if ref.dtype is None else ref.dtype.itemsize


def _view(ref: TensorRef, data: np.ndarray, big_endian: bool) -> np.ndarray:
    """A tensor as a view of its storage; a copy unless it is the whole storage in order."""
    shape, strides = ref.shape, ref.stride
    numbers = (ref.offset, ref.storage.start, ref.storage.length, *shape, *strides)
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise ValueError(f"expected sizes and strides, got {shape} and {strides}")
    begin = ref.storage.start * _item_bytes(ref.storage)
    end = begin + ref.storage.length * _item_bytes(ref.storage)
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
    if array.nbytes > max(data.size, _MAX_EXPANDED_BYTES):  # stride 0 repeats elements
        raise ValueError(f"expected at most {_MAX_EXPANDED_BYTES} bytes, got {array.nbytes}")
    if not array.flags.c_contiguous or array.size < data.size // ref.dtype.itemsize:
        array = array.copy(order="C")
    return _swap(array) if big_endian else array


def _swap(array: np.ndarray) -> np.ndarray:
    """The array with the bytes of every number reversed, which ml_dtypes does not support."""
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, width)
    return flat[:, ::-1].copy().reshape(-1).view(array.dtype).reshape(array.shape)
