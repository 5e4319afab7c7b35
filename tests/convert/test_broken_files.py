"""Every file that is no checkpoint is refused in one line that names it."""

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fcos_tf.convert import read_tensors
from tests.convert import pickle_bytes as pb

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "torch_files"


def complaint(path):
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "expected" in message
    assert "got" in message
    return message


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.pth", b"", "an empty file"),
        ("a.pkl", b"", "an empty file"),
        ("a.safetensors", b"", "an empty file"),
        ("a.pth", b"\n<!DOCTYPE html><html>", "HTML"),
        ("a.safetensors", b"<html><head>", "HTML"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("a.pth", b"GIF89a.........", "15 bytes that starts with b'GIF89a"),
        ("a.pkl", b"no pickle at all", "truncated or corrupt"),
        ("a.h5", b"PK\x03\x04", "got '.h5'"),
        ("a", b"PK\x03\x04", "got ''"),
    ],
)
def test_other_files(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    assert words in complaint(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.pth"):
        read_tensors(tmp_path / "a.pth")
    (tmp_path / "b.pth").mkdir()
    assert "got a folder" in complaint(tmp_path / "b.pth")


def test_tar_file(tmp_path):
    path = tmp_path / "a.pth.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    assert "a tar file" in complaint(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_cut_off_anywhere(tmp_path, form):
    data = (GOLDEN / f"checkpoint_{form}.pth").read_bytes()
    path = tmp_path / "a.pth"
    for length in range(4, len(data), 37):
        path.write_bytes(data[:length])
        assert "truncated" in complaint(path)


def test_a_bit_flipped_anywhere_in_a_storage(tmp_path):
    data = bytearray((GOLDEN / "views_zip.pth").read_bytes())
    with zipfile.ZipFile(GOLDEN / "views_zip.pth") as archive:
        raw = archive.read("views_zip/data/0")
    at = bytes(data).index(raw)
    data[at + 5] ^= 1
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    assert "Bad CRC-32" in complaint(path)


def test_a_bit_flipped_in_the_pickle_of_a_zip(tmp_path):
    data = (GOLDEN / "views_zip.pth").read_bytes()
    path = tmp_path / "a.pth"
    path.write_bytes(data.replace(b"transposed", b"transpased", 1))
    assert "Bad CRC-32" in complaint(path)


@pytest.mark.parametrize("form", ["legacy", "pkl"])
def test_memo_entries_that_would_fill_the_memory(tmp_path, form):
    path = tmp_path / ("a.pkl" if form == "pkl" else "a.pth")
    value = b"}r\xff\xff\xff\x7f"  # a dictionary, to be remembered as entry 2147483647
    if form == "pkl":
        path.write_bytes(pb.pickle(value))
    else:
        pb.legacy_file(path, value, {})
    assert "expected at most 2 memo entries, got one of number 2147483647" in complaint(path)


def test_frames_and_strings_longer_than_the_file(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"}.")
    assert "expected a frame within" in complaint(path)
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"}.")
    complaint(path)


def one_tensor(shape=(2,), stride=(1,), offset=0, numel=2):
    return pb.table(a=pb.tensor(pb.storage("FloatStorage", "0", numel), offset, shape, stride))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (one_tensor(numel=3), "tensor a: storage 0: expected 12 bytes, got 8"),
        (one_tensor(shape=(3,)), "tensor a: expected an element 2, got a storage of 2"),
        (one_tensor(offset=1), "expected an element 2, got a storage of 2"),
        (one_tensor(stride=(2,)), "expected an element 2, got a storage of 2"),
        (one_tensor(shape=(-1,)), "expected sizes and strides, got (-1,)"),
        (one_tensor(stride=(-1,)), "expected sizes and strides"),
        (one_tensor(offset=-1), "expected sizes and strides"),
        (one_tensor(shape=(1, 2)), "expected sizes and strides"),
        (one_tensor(shape=(1 << 30,), stride=(0,)), "bytes in all, got 42949"),
    ],
)
def test_tensors_that_reach_out_of_their_storage(tmp_path, value, words):
    path = pb.zip_file(tmp_path / "a.pth", value, {"0": bytes(8)})
    assert words in complaint(path)


def test_zip_files_of_other_kinds(tmp_path):
    path = tmp_path / "a.pth"
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    path.write_bytes((tmp_path / "a.npz").read_bytes())
    assert "expected one data.pkl in the zip file, got 0" in complaint(path)
    pb.zip_file(path, one_tensor(), {"0": bytes(8)}, **{"constants.pkl": "x"})
    assert "TorchScript" in complaint(path)
    pb.zip_file(path, one_tensor(), {})
    assert "expected a record x/data/0, got none" in complaint(path)
    pb.zip_file(path, one_tensor(), {"0": bytes(8)}, byteorder="middle")
    assert "expected byteorder little or big, got b'middle'" in complaint(path)


def test_legacy_files_that_contradict_themselves(tmp_path):
    path = tmp_path / "a.pth"
    pb.legacy_file(path, one_tensor(), {"0": (3, bytes(8))})
    assert "storage 0: expected 2 elements, got 3" in complaint(path)
    pb.legacy_file(path, one_tensor(), {"0": (2, bytes(7))})
    assert "truncated in storage 0" in complaint(path)
    pb.legacy_file(path, one_tensor(), {"1": (2, bytes(8))})
    assert "expected the keys of 1 storages" in complaint(path)
    pb.legacy_file(path, one_tensor(), {})
    assert "expected a storage 0, got none" in complaint(path)
    pb.legacy_file(path, one_tensor(), {"0": (2, bytes(8))}, version=1002)
    assert "expected version 1001, got 1002" in complaint(path)
    path.write_bytes(pb.pickle(one_tensor()))
    assert "expected arrays in a plain pickle" in complaint(path)


def safetensors(path, entries, data, length=None):
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_safetensors(tmp_path):
    # bfloat16 1.0 = 0x3f80, little endian
    path = safetensors(
        tmp_path / "a.safetensors",
        {
            "__metadata__": {"format": "pt"},
            "module.b": entry("BF16", [], 8, 10),
            "module.a": entry("F32", [2, 1], 0, 8),
            "module.e": entry("I64", [0, 3], 10, 10),
            "module.t": entry("BOOL", [2], 10, 12),
        },
        struct.pack("<2f", 1.5, -2) + b"\x80\x3f" + b"\x01\x00",
    )
    tensors = read_tensors(path)
    assert {name: array.tolist() for name, array in tensors.items()} == {
        "a": [[1.5], [-2.0]], "b": 1.0, "e": [], "t": [True, False],
    }  # fmt: skip
    assert [str(array.dtype) for array in tensors.values()] == [
        "float32", "bfloat16", "int64", "bool",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "data", "length"),
    [
        ({"a": entry("F32", [2], 0, 8)}, bytes(7), None),
        ({"a": entry("F32", [2], 0, 8)}, bytes(9), None),
        ({"a": entry("F32", [3], 0, 8)}, bytes(8), None),
        ({"a": entry("F32", [1], 4, 8)}, bytes(8), None),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4), None),
        ({"a": entry("F32", [1 << 40, 1 << 40], 0, 8)}, bytes(8), None),
        ({"a": entry("X9", [1], 0, 4)}, bytes(4), None),
        ({"a": entry("F32", [-1], 0, -4)}, b"", None),
        ({"a": entry("F32", ["1"], 0, 4)}, bytes(4), None),
        ({"a": {"dtype": "F32"}}, b"", None),
        ({"a": 1}, b"", None),
        (b"[]", b"", None),
        (b"\xff{", b"", None),
        (b'{"a":' * 10_000, b"", None),
        (b"{}", b"", 1 << 60),
    ],
)
def test_broken_safetensors(tmp_path, entries, data, length):
    path = safetensors(tmp_path / "a.safetensors", entries, data, length)
    assert f"expected a safetensors file, got {path.stat().st_size} bytes" in complaint(path)


def test_safetensors_without_tensors_that_can_be_read(tmp_path):
    path = tmp_path / "a.safetensors"
    assert "expected a dictionary of tensors" in complaint(safetensors(path, {}, b""))
    four_bits = {"a": entry("F4", [2], 0, 1)}
    assert "tensor a: expected one of F64, " in complaint(safetensors(path, four_bits, b"0"))
