"""Files of the real `torch.save` (stored, and live where torch is) and files made by hand."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fcos_tf.convert import read_tensors
from tests.convert import pickle_bytes as pb

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "torch_files"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_stored_files_of_torch(name, form):
    tensors = read_tensors(GOLDEN / f"{name}_{form}.pth")
    assert list(tensors) == list(EXPECTED[name])
    for key, expected in EXPECTED[name].items():
        array = tensors[key]
        assert array.dtype == dtype_of(expected["dtype"]), key
        assert array.shape == tuple(expected["shape"]), key
        assert array.astype(np.float64).flatten().tolist() == expected["values"], key
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_the_optimizer_is_not_taken_for_the_model():
    # momentum_buffer lies in {"optimizer": {"state": {0: {...}}}}: numbers for keys.
    raw = (GOLDEN / "checkpoint_zip.pth").read_bytes()
    assert b"momentum_buffer" in raw
    tensors = read_tensors(GOLDEN / "checkpoint_zip.pth")
    assert sorted({name.split(".")[0] for name in tensors}) == ["0", "1", "2"]


def two_tensors():
    """A matrix [[0, 1], [2, 3], [4, 5]] and its second column, of one storage."""
    reference = pb.storage("FloatStorage", "0", 6)
    return pb.table(
        matrix=pb.tensor(reference, 0, (3, 2), (2, 1)), column=pb.tensor(reference, 1, (3,), (2,))
    )


@pytest.mark.parametrize("order", ["little", "big", None])
def test_zip_made_by_hand_in_both_byte_orders(tmp_path, order):
    data = struct.pack(">6f" if order == "big" else "<6f", *range(6))
    records = {"byteorder": order} if order else {}
    tensors = read_tensors(
        pb.zip_file(tmp_path / "a.pth", two_tensors(), {"0": data}, version="3", **records)
    )
    assert tensors["matrix"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert tensors["column"].tolist() == [1, 3, 5]


def test_big_endian_numbers_that_numpy_cannot_swap(tmp_path):
    # bfloat16 1.0 = 0x3f80; complex64 is two floats, each swapped by itself.
    value = pb.table(
        b=pb.tensor(pb.storage("BFloat16Storage", "0", 1), 0, (), ()),
        c=pb.tensor(pb.storage("ComplexFloatStorage", "1", 1), 0, (1,), (1,)),
    )
    storages = {"0": b"\x3f\x80", "1": struct.pack(">2f", 1, 2)}
    path = pb.zip_file(tmp_path / "a.pth", value, storages, byteorder="big")
    tensors = read_tensors(path)
    assert tensors["b"].dtype == ml_dtypes.bfloat16
    assert float(tensors["b"]) == 1.0
    assert tensors["c"].tolist() == [1 + 2j]


def test_legacy_made_by_hand(tmp_path):
    data = struct.pack("<6f", *range(6))
    tensors = read_tensors(pb.legacy_file(tmp_path / "a.pth", two_tensors(), {"0": (6, data)}))
    assert tensors["matrix"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert tensors["column"].tolist() == [1, 3, 5]


def test_views_of_storages_in_files_older_than_0_4(tmp_path):
    # The view is elements 2 to 5 of the storage; the tensor starts at the view's element 1.
    view = pb.tup(pb.text("v"), pb.number(2), pb.number(4))
    function = pb.glob("torch._utils", "_rebuild_tensor")
    reference = pb.storage("FloatStorage", "0", 6, view) + b"Q"
    value = pb.table(a=pb.call(function, reference, pb.number(1), pb.numbers(3), pb.numbers(1)))
    path = pb.legacy_file(tmp_path / "a.pth", value, {"0": (6, struct.pack("<6f", *range(6)))})
    assert read_tensors(path)["a"].tolist() == [3, 4, 5]


def python2_array(shape, code, data, fortran=pb.FALSE):
    """What Python 2's `pickle.dumps(array, 2)` holds."""
    made = pb.call(
        pb.glob("numpy.core.multiarray", "_reconstruct"),
        pb.glob("numpy", "ndarray"), pb.numbers(0), pb.old_text(b"b"),
    )  # fmt: skip
    dtype = pb.build(
        pb.call(
            pb.glob("numpy", "dtype"), pb.old_text(code[1:]), pb.number(0), pb.number(1)
        ),
        pb.tup(
            pb.number(3), pb.old_text(code[:1]), pb.NONE, pb.NONE, pb.NONE,
            pb.number(-1), pb.number(-1), pb.number(0),
        ),
    )  # fmt: skip
    return pb.build(
        made, pb.tup(pb.number(1), pb.numbers(*shape), dtype, fortran, pb.old_text(data))
    )


def test_pkl_of_python_2(tmp_path):
    path = tmp_path / "a.pkl"
    value = pb.table(
        model=pb.table(
            a=python2_array((2,), b"<f4", struct.pack("<2f", 1.5, -2)),
            big=python2_array((2,), b">i2", struct.pack(">2h", 1, -300)),
            f=python2_array((2, 2), b"<f8", struct.pack("<4d", 1, 2, 3, 4), pb.TRUE),
        ),
        __author__=pb.old_text(b"someone"),
        matching_heuristics=pb.TRUE,
    )
    path.write_bytes(pb.pickle(value))
    tensors = read_tensors(path)
    assert {name: array.tolist() for name, array in tensors.items()} == {
        "a": [1.5, -2], "big": [1, -300], "f": [[1, 3], [2, 4]],
    }  # fmt: skip
    assert tensors["big"].dtype == np.int16
    assert tensors["f"].flags.c_contiguous


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pkl_of_python_3(tmp_path, protocol):
    import pickle

    arrays = {
        "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "scalar": np.array(2, np.int64),
        "mask": np.array([True, False]),
        "half": np.array([0.5], np.float16),
        "none": np.zeros((0, 2), np.uint8),
    }
    path = tmp_path / "a.pkl"
    contents = {"model": arrays, "iteration": np.int64(7), "__author__": "someone"}
    path.write_bytes(pickle.dumps(contents, protocol))
    tensors = read_tensors(path)
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def small(value):
    """A tensor of one number, in storage 0."""
    return pb.tensor(pb.storage("FloatStorage", "0", 1), 0, (1,), (1,)) if value else pb.NONE


ONE = {"0": struct.pack("<f", 5)}


def test_several_dictionaries_must_be_chosen_from(tmp_path):
    ema = pb.table(w=small(True), v=small(True))
    value = pb.table(model=pb.table(w=small(True)), nested=pb.table(model_ema=ema))
    path = pb.zip_file(tmp_path / "a.pth", value, ONE)
    with pytest.raises(
        ValueError, match=r"'model' \(1 tensor\), 'nested\.model_ema' \(2 tensors\)"
    ):
        read_tensors(path)
    assert list(read_tensors(path, entry="model")) == ["w"]
    assert list(read_tensors(path, entry="nested.model_ema")) == ["w", "v"]
    with pytest.raises(ValueError, match=r"expected one of the entries 'model'.*got 'ema'"):
        read_tensors(path, entry="ema")


def test_a_tensor_beside_the_state_dict_is_never_chosen_silently(tmp_path):
    value = pb.table(model=pb.table(w=small(True)), rng_state=small(True))
    path = pb.zip_file(tmp_path / "a.pth", value, ONE)
    with pytest.raises(ValueError, match=r"got 2: '\.' \(1 tensor\), 'model' \(1 tensor\)"):
        read_tensors(path)
    assert list(read_tensors(path, entry=".")) == ["rng_state"]


def test_module_is_stripped_only_where_all_have_it(tmp_path):
    path = tmp_path / "a.pth"
    value = {"module.w": small(True), "module.v": small(True)}
    pb.zip_file(path, pb.table(**value), ONE)
    assert list(read_tensors(path)) == ["w", "v"]
    pb.zip_file(path, pb.table(**value, n_averaged=small(True)), ONE)  # of `AveragedModel`
    assert list(read_tensors(path)) == ["w", "v"]
    pb.zip_file(path, pb.table(**value, other=small(True)), ONE)
    assert list(read_tensors(path)) == ["module.w", "module.v", "other"]


@pytest.mark.parametrize("value", [pb.table(), pb.number(3), pb.table(model=pb.table(a=pb.NONE))])
def test_a_file_without_tensors(tmp_path, value):
    path = pb.zip_file(tmp_path / "a.pth", value, {})
    with pytest.raises(ValueError, match=r"a\.pth: expected a dictionary of tensors, got a"):
        read_tensors(path)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_now(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 8, 3, groups=4)
    ).to(memory_format=torch.channels_last)
    network.register_buffer("shared", network[2].weight.detach()[1])
    network.register_buffer("rounded", torch.randn(3).to(torch.bfloat16))
    path = tmp_path / "a.pth"
    torch.save(
        {"model": network.state_dict()},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    tensors = read_tensors(path)
    expected = network.state_dict()
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        assert tensors[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(
            tensors[name].astype(np.float32), tensor.detach().float().numpy()
        )
