"""Writes pickles opcode by opcode, so that a test can say what no honest writer would.

Opcodes: `pickletools` of the standard library.
"""

import struct
import zipfile

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # 0x1950A86A20F9469CFC6C
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def old_text(value: bytes):
    """A `str` of Python 2: bytes of which nobody knows whether they are text."""
    return b"T" + struct.pack("<i", len(value)) + value


def number(value):
    return b"J" + struct.pack("<i", value)


def tup(*parts):
    return b"(" + b"".join(parts) + b"t"


def numbers(*values):
    return tup(*map(number, values))


def array(*parts):
    return b"](" + b"".join(parts) + b"e"


def table(**parts):
    return b"}(" + b"".join(text(key) + value for key, value in parts.items()) + b"u"


def call(function, *args):
    return function + tup(*args) + b"R"


def build(made, state):
    return made + state + b"b"


def pickle(value):
    return b"\x80\x02" + value + b"."


def storage(kind, key, numel, *rest):
    return tup(text("storage"), glob("torch", kind), text(key), text("cpu"), number(numel), *rest)


def tensor(reference, offset, shape, stride):
    hooks = call(glob("collections", "OrderedDict"))
    function = glob("torch._utils", "_rebuild_tensor_v2")
    return call(
        function, reference + b"Q", number(offset), numbers(*shape), numbers(*stride), FALSE, hooks
    )


def zip_file(path, value, storages, **records):
    """A file as of `torch.save`; `storages`: key -> bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle(value))
        for name, data in records.items():
            archive.writestr(f"x/{name}", data)
        for key, data in storages.items():
            archive.writestr(f"x/data/{key}", data)
    return path


def legacy_file(path, value, storages, version=1001):
    """A file as of `torch.save` before 1.6; `storages`: key -> (elements, bytes)."""
    keys = pickle(array(*map(text, storages)))
    data = b"".join(struct.pack("<q", numel) + raw for numel, raw in storages.values())
    head = MAGIC + pickle(number(version)) + pickle(table(little_endian=TRUE))
    path.write_bytes(head + pickle(value) + keys + data)
    return path
