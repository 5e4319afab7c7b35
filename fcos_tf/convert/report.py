"""Gives a checkpoint's tensors to a model's variables, all or none, and says what fitted."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]

_MAX_NAMES = 20  # that a report lists of each kind
IGNORED = ("*num_batches_tracked",)


class Misshaped(NamedTuple):
    """A tensor that does not fit; both shapes in Keras' order of the axes, if it has that rank."""

    name: str
    expected: tuple[int, ...]
    got: tuple[int, ...]


@dataclass
class ConversionReport:
    """What became of the tensors of a checkpoint. All names are the file's.

    Args:
        used: wanted by the model and in the file, of the right shape.
        missing: wanted by the model, not in the file.
        unused: in the file, not wanted by the model.
        misshaped: wanted and there, of another shape.
        ignored: in the file, not wanted, and known not to matter.
    """

    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    misshaped: list[Misshaped] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every variable has its tensor and no tensor is left over."""
        return not (self.missing or self.unused or self.misshaped)

    def __str__(self) -> str:
        rows = (
            ("used", self.used, "in the file and in the model"),
            ("missing", self.missing, "wanted by the model, not in the file"),
            ("unused", self.unused, "in the file, not wanted by the model"),
            ("misshaped", self.misshaped, "in both, of different shapes"),
            ("ignored", self.ignored, "in the file, of no meaning to the model"),
        )
        lines = [f"{name:<10}{len(names):>6}  {meaning}" for name, names, meaning in rows]
        lines += _listed("missing", self.missing)
        lines += _listed("unused", self.unused)
        width = max((len(each.name) for each in self.misshaped[:_MAX_NAMES]), default=0)
        lines += _listed(
            "misshaped",
            [
                f"{each.name:<{width}}  expected {tuple(each.expected)}, got {tuple(each.got)}"
                for each in self.misshaped
            ],
        )
        return "\n".join(lines)

    def raise_if_incomplete(self, path: str | os.PathLike) -> None:
        """Does nothing if all fitted.

        Args:
            path: of the checkpoint.

        Raises:
            ValueError: with the report, and the file's name in its first line.
        """
        if not self.is_complete:
            raise ValueError(
                f"{path}: expected the tensors of this model, got {len(self.missing)} missing, "
                f"{len(self.unused)} unused, {len(self.misshaped)} misshaped\n{self}"
            )


def _listed(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    rest = len(names) - _MAX_NAMES
    more = [f"  ... and {rest} more"] if rest > 0 else []
    return [f"{title}:", *(f"  {name}" for name in names[:_MAX_NAMES]), *more]


def to_keras(tensor: np.ndarray) -> np.ndarray:
    """Brings a parameter's axes from PyTorch's order to Keras'.

    Args:
        tensor: a convolution's kernel [out, in / groups, height, width], a dense layer's
            [out, in], or of another rank, which stays as it is.

    Returns:
        [height, width, in / groups, out], or [in, out].
    """
    return tensor.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, range(tensor.ndim)))


def depthwise_to_keras(tensor: np.ndarray) -> np.ndarray:
    """Brings a kernel to the order of `keras.layers.DepthwiseConv2D` with multiplier 1.

    Args:
        tensor: [channels, 1, height, width].

    Returns:
        [height, width, channels, 1].
    """
    return tensor.transpose(2, 3, 0, 1)


def assign(
    variables: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    *,
    transforms: Mapping[str, Transform] | None = None,
    ignore: Iterable[str] = IGNORED,
) -> ConversionReport:
    """Assigns every variable its tensor; nothing at all unless the report is complete.

    Args:
        variables: the model's name of each -> a variable with `shape` and `assign`. All of them
            are wanted; leave out what is to stay, and `ignore` its tensors.
        tensors: the file's name of each -> array, see `torch_files.read_tensors`.
        names: the model's name -> the file's, of all variables.
        transforms: the model's name -> what to do with the tensor in place of `to_keras`; a
            ValueError of it counts as a wrong shape.
        ignore: patterns, as of a shell, of tensors that may be left over.

    Returns:
        The report. The variables have changed if and only if `is_complete`.

    Raises:
        ValueError: `names` or `transforms` do not go with `variables`, or a tensor is no number
            that a variable could hold.

    Example:
        >>> dense = keras.layers.Dense(3); dense.build((None, 2))
        >>> variables = {"kernel": dense.kernel, "bias": dense.bias}
        >>> names = {"kernel": "fc.weight", "bias": "fc.bias"}
        >>> assign(variables, read_tensors("fc.pth"), names).raise_if_incomplete("fc.pth")
    """
    transforms = transforms or {}
    if set(names) != set(variables) or not set(transforms) <= set(variables):
        odd = set(names) ^ set(variables) | set(transforms) - set(variables)
        raise ValueError(
            f"names and transforms: expected those of the variables, got a difference in "
            f"{', '.join(sorted(odd)[:_MAX_NAMES])}"
        )
    report = ConversionReport()
    values = {}
    for variable_name, variable in variables.items():
        name = names[variable_name]
        if name not in tensors:
            report.missing.append(name)
            continue
        expected = tuple(variable.shape)
        try:
            value = transforms.get(variable_name, to_keras)(tensors[name])
        except ValueError:  # of another rank than the transform takes
            value = None
        if value is None or value.shape != expected:
            got = tensors[name].shape if value is None else value.shape
            report.misshaped.append(Misshaped(name, expected, got))
            continue
        report.used.append(name)
        values[variable_name] = _as_number(name, value)
    wanted, ignore = set(names.values()), tuple(ignore)
    for name in tensors:
        if name not in wanted:
            ignored = any(fnmatchcase(name, pattern) for pattern in ignore)
            (report.ignored if ignored else report.unused).append(name)
    report.used = list(dict.fromkeys(report.used))
    report.missing = list(dict.fromkeys(report.missing))
    if report.is_complete:
        for variable_name, value in values.items():
            variables[variable_name].assign(value)
    return report


def _as_number(name: str, value: np.ndarray) -> np.ndarray:
    """Short floats as float32, which every variable can be assigned."""
    if value.dtype.kind in "fV" and value.dtype != np.float64:
        return value.astype(np.float32, copy=False)
    if value.dtype.kind not in "fiub":
        raise ValueError(f"tensor {name}: expected real numbers, got {value.dtype}")
    return value
