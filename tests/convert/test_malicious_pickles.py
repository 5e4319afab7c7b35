"""A pickle can call nothing but the stand-ins of `pickled_tensors`."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from fcos_tf.convert import pickled_tensors, read_tensors
from tests.convert import pickle_bytes as pb
from tests.limits import HANG, LIMIT_MEMORY


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def write(path, form, value: bytes):
    """A pickle as each kind of file has it; `value` without the opcodes around it."""
    if form == "zip":
        pb.zip_file(path, value, {})
    elif form == "legacy":
        pb.legacy_file(path, value, {})
    else:
        path = path.with_suffix(".pkl")
        path.write_bytes(pb.pickle(value))
    return path


# One look-up refuses whatever is not listed, so what is asked for here is next to what is listed.
@pytest.mark.parametrize(
    ("form", "module", "name"),
    [
        ("zip", "os", "system"),
        ("legacy", "os", "system"),
        ("pkl", "os", "system"),
        ("pkl", "__builtin__", "eval"),  # Python 2's name; "__builtin__.bytes" is listed
        ("pkl", "torch", "load"),  # of a module of which others are listed
        ("pkl", "torch", "os.system"),  # by way of such a module
        ("pkl", "collections", "OrderedDict.__init__"),  # an attribute of what is listed
        ("pkl", "_codecs", "decode"),
        ("pkl", "fcos_tf.convert.pickled_tensors", "pickle"),  # of the stand-ins' own module
    ],
)
def test_other_globals_are_refused_by_name(tmp_path, form, module, name):
    marker = tmp_path / "ran"
    value = pb.table(a=pb.call(pb.glob(module, name), pb.text(f"touch {marker}")))
    path = write(tmp_path / "a.pth", form, value)
    with pytest.raises(ValueError) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(f"{path}: expected nothing but tensors")
    assert f"asks for {module}.{name}: refused" in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])  # text, binary, framed
def test_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": Evil(os.system, f"touch {marker}")}, protocol))
    with pytest.raises(ValueError, match=rf"{os.system.__module__}\.system: refused"):
        read_tensors(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the same bytes do run where nothing is refused
    assert marker.exists()


def test_the_same_through_the_opcodes_that_instantiate(tmp_path):
    path = tmp_path / "a.pkl"
    marker = tmp_path / "ran"
    argument = pb.text(f"touch {marker}")
    for value in (
        b"(" + argument + b"ios\nsystem\n",  # INST
        b"(" + pb.glob("os", "system") + argument + b"o",  # OBJ
        pb.text("os") + pb.text("system") + b"\x93" + pb.tup(argument) + b"R",  # STACK_GLOBAL
        pb.glob("os", "system") + pb.tup(argument) + b"\x81",  # NEWOBJ
    ):
        path.write_bytes(pb.pickle(value))
        with pytest.raises(ValueError, match=r"os\.system: refused"):
            read_tensors(path)
    assert not marker.exists()


def test_allowed_functions_cannot_be_altered(tmp_path):
    # BUILD with (None, {name: value}) is how a pickle sets attributes.
    for state in (
        pb.table(_call=pb.NONE),
        pb.tup(pb.NONE, pb.table(_call=pb.glob("collections", "OrderedDict"))),
    ):
        function = pb.glob("torch._utils", "_rebuild_tensor_v2")
        path = write(tmp_path / "a.pth", "pkl", pb.build(function, state))
        with pytest.raises(
            ValueError, match=r"new attributes for torch\._utils\._rebuild_tensor_v2"
        ):
            read_tensors(path)


@pytest.mark.parametrize("name", ["float32", "FloatStorage", "Tensor"])
def test_classes_can_be_named_but_neither_called_nor_altered(tmp_path, name):
    symbol = pb.glob("torch", name)
    state = pb.tup(pb.NONE, pb.table(name=pb.text("x"), dtype=pb.NONE))
    for value in (pb.call(symbol), symbol + pb.tup() + b"\x81", pb.build(symbol, state)):
        path = write(tmp_path / "a.pth", "zip", pb.table(a=value))
        with pytest.raises(ValueError, match="truncated or corrupt"):
            read_tensors(path)
    assert pickled_tensors._SYMBOLS["torch.float32"] == np.float32


def test_a_tensor_cannot_be_altered_after_its_checks(tmp_path):
    tensor = pb.tensor(pb.storage("FloatStorage", "0", 1), 0, (1,), (1,))
    state = pb.tup(pb.NONE, pb.table(offset=pb.number(9)))
    path = pb.zip_file(tmp_path / "a.pth", pb.table(a=pb.build(tensor, state)), {"0": bytes(4)})
    with pytest.raises(ValueError, match="truncated or corrupt"):
        read_tensors(path)


@pytest.mark.parametrize("code", ["O", "V8", "f4,f4", ""])
def test_arrays_of_objects_are_refused(tmp_path, code):
    dtype = pb.call(pb.glob("numpy", "dtype"), pb.text(code), pb.FALSE, pb.TRUE)
    path = write(tmp_path / "a.pth", "pkl", pb.table(a=dtype))
    with pytest.raises(ValueError, match=r"asks for numpy\.dtype\(.*: refused"):
        read_tensors(path)


def test_numpy_arrays_of_objects_are_refused_as_numpy_writes_them(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": np.array([Evil(os.getcwd)], object)}))
    with pytest.raises(ValueError, match="refused"):
        read_tensors(path)


@pytest.mark.parametrize(
    "reference",
    [
        pb.tup(pb.text("module"), pb.glob("torch", "FloatStorage"), *[pb.text("0")] * 3),
        pb.tup(pb.text("storage"), pb.glob("torch", "float32"), *[pb.text("0")] * 3),
        pb.tup(pb.text("storage"), pb.text("FloatStorage"), *[pb.text("0")] * 3),
    ],
)
def test_other_references_are_refused(tmp_path, reference):
    path = write(tmp_path / "a.pth", "zip", pb.table(a=reference + b"Q"))
    with pytest.raises(ValueError, match="asks for a reference"):
        read_tensors(path)


def test_keys_of_storages_stay_inside_the_file(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4))
    reference = pb.storage("FloatStorage", "../../secret", 1)
    value = pb.table(a=pb.tensor(reference, 0, (1,), (1,)))
    with pytest.raises(ValueError, match=r"expected a record x/data/\.\./\.\./secret, got none"):
        read_tensors(write(tmp_path / "a.pth", "zip", value))


def test_codecs_other_than_latin_1_are_refused(tmp_path):
    value = pb.call(pb.glob("_codecs", "encode"), pb.text("a"), pb.text("rot13"))
    with pytest.raises(ValueError, match=r"_codecs\.encode to 'rot13': refused"):
        read_tensors(write(tmp_path / "a.pth", "pkl", pb.table(a=value)))


def test_ordered_dictionaries_pass(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(OrderedDict(model=OrderedDict(a=np.ones(2)))))
    assert read_tensors(path)["a"].tolist() == [1, 1]


def _bombs():
    """Small files that take memory or time without end where nothing is limited."""
    frombuffer = pb.glob("numpy.core.numeric", "_frombuffer")
    dtype = pb.call(pb.glob("numpy", "dtype"), pb.text(">f4"))
    one = pb.storage("FloatStorage", "0", 1)
    wide = pb.tensor(one, 0, (1 << 25,), (0,))  # 128 MiB of one element
    device = pb.glob("torch", "device") + b"q\x000" + pb.text("a" * 16) + b"q\x010"
    doubled = b"h\x00h\x01h\x01\x86Rq\x010" * 30  # device(x, x) is the next x
    # Dictionaries of 300 names for the next one, which are filled after they have been referred to.
    inner = b"".join(b"}q" + bytes([i]) + b"0" for i in range(6))
    for i in range(5):
        names = b"".join(pb.text(str(n)) + b"h" + bytes([i + 1]) for n in range(300))
        inner += b"h" + bytes([i]) + b"(" + names + b"u0"
    data = pb.text("x" * 1_000_000) + b"q\x000" + dtype + b"q\x010"
    shape, order = pb.numbers(250_000), pb.text("C")
    shared = frombuffer + b"(h\x00h\x01" + shape + order + b"tR"
    return {
        "a hash of 2^40 steps": b"})" + b"2\x86" * 40 + b"Ns",
        "a hash that overflows the C stack": b"})" + b"\x85" * 200_000 + b"Ns",
        "a text of 2^34 letters": device + doubled + b"}" + pb.text("a") + b"h\x01s",
        "forty wide tensors": pb.table(**{f"t{i}": wide for i in range(40)}),
        "bytes of a number": pb.table(
            a=pb.call(frombuffer, pb.number(2**31 - 1), dtype, shape, order)
        ),
        "a product of long numbers": pb.table(
            a=pb.call(frombuffer, pb.text(""), dtype, pb.tup(*[pb.number(2**30)] * 200_000), order)
        ),
        "300^5 dictionaries": inner + b"h\x00",
        "2000 arrays of one text": data + pb.table(**{f"t{i}": shared for i in range(2000)}),
    }


READ = (
    LIMIT_MEMORY
    + """
import sys
from fcos_tf.convert import read_tensors
for path in sys.argv[1:]:
    try:
        read_tensors(path)
    except ValueError as error:
        print(str(error)[:200])
"""
)


def test_small_files_take_neither_memory_nor_time(tmp_path):
    paths = []
    for name, value in _bombs().items():
        paths.append(tmp_path / f"{name}.pth")
        pb.zip_file(paths[-1], value, {"0": bytes(4)})
    paths.append(tmp_path / "compressed.pth")
    with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pb.pickle(pb.table(a=pb.text("a" * (300 << 20)))))
    assert max(path.stat().st_size for path in paths) < 2_500_000
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)],
        capture_output=True, text=True, timeout=HANG,
    )  # fmt: skip
    refused = done.stdout.splitlines()
    assert [line.split(":")[0] for line in refused] == list(map(str, paths)), done.stderr
