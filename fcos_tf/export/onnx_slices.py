"""The ONNX forms of TensorFlow's slices, see `onnx_operations`."""

from collections.abc import Sequence

import numpy as np

_LARGEST = np.iinfo(np.int64).max


def plain_slice(writer, operation, x, begin, size):
    """The form of `Slice`."""
    begin, size = (writer.int64(each) for each in (begin, size))
    axes = np.arange(operation.inputs[0].shape.rank)
    end = writer.add("Add", begin, size)
    known = writer.known(size)
    if known is not None:  # -1: to the end
        end = writer.add("Where", known < 0, np.full(len(axes), _LARGEST), end)
    return writer.add("Slice", x, begin, end, axes)


def strided_slice(writer, operation, x, begin, end, strides):
    """The form of `StridedSlice`, with its masks; of a known size in a shape, that number."""
    source, rank = operation.inputs[0], operation.inputs[0].shape.rank
    steps = writer.known(strides)
    masks = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    bits = {name: operation.get_attr(f"{name}_mask") for name in masks}

    def has(name, index):
        return bits[name] >> index & 1

    if source.op.type == "Shape" and has("shrink_axis", 0) and writer.known(begin) is not None:
        size = source.op.inputs[0].shape[int(writer.known(begin)[0])]
        if size is not None:
            return writer.constant(np.array(size, operation.outputs[0].dtype.as_numpy_dtype))

    slices, picks, new_axes = [], [], []  # (axis, start, stop, step), (axis, index), axes
    axis = out = 0
    for i, step in enumerate(steps):
        if has("ellipsis", i):
            others = sum(not has("new_axis", j) for j in range(len(steps)) if j != i)
            axis, out = axis + rank - others, out + rank - others
        elif has("new_axis", i):
            new_axes.append(out)
            out += 1
        elif has("shrink_axis", i):
            picks.append((axis, _element(writer, begin, i)))
            axis += 1
        else:
            ends = (0, _LARGEST) if step > 0 else (_LARGEST, -_LARGEST)
            start, stop = (
                writer.constant(np.array([default])) if has(name, i) else _element(writer, given, i)
                for name, given, default in (("begin", begin, ends[0]), ("end", end, ends[1]))
            )
            if not (has("begin", i) and has("end", i) and step == 1):
                slices.append((axis, start, stop, int(step)))
            axis, out = axis + 1, out + 1
    if slices:
        axes, starts, stops, by = zip(*slices, strict=True)
        starts, stops = (_joined(writer, each) for each in (starts, stops))
        x = writer.add("Slice", x, starts, stops, np.array(axes), np.array(by))
    for axis, index in reversed(picks):
        x = writer.add("Gather", x, writer.add("Squeeze", index, np.array([0])), axis=axis)
    return writer.add("Unsqueeze", x, np.array(new_axes)) if new_axes else x


def _element(writer, vector: str, index: int) -> str:
    """One of the numbers of a vector, int64 [1]."""
    known = writer.known(vector)
    if known is not None:
        return writer.constant(known[index : index + 1].astype(int))
    found = writer.add("Slice", vector, np.array([index]), np.array([index + 1]))
    return writer.cast(found, np.int64)


def _joined(writer, numbers: Sequence[str]):
    """Vectors in a row."""
    known = [writer.known(each) for each in numbers]
    if any(each is None for each in known):
        return writer.add("Concat", *numbers, axis=0)
    return np.concatenate(known)
