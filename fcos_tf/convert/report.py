"""Assigns a checkpoint's tensors to a model's variables, all or none, and reports the result."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

_MAX_NAMES = 20  # listed of each kind
IGNORED = ("*num_batches_tracked",)


class Misshaped(NamedTuple):
    """A tensor of a wrong shape; both shapes in Keras' axis order if the rank allows."""

    name: str
    expected: tuple[int, ...]
    got: tuple[int, ...]


@dataclass
class ConversionReport:
    """Use of a checkpoint's tensors, by their names in the file.

    Args:
        used: in the model and in the file, of the right shape.
        missing: in the model, not in the file.
        unused: in the file, not in the model.
        misshaped: in both, of different shapes.
        ignored: in the file, not in the model, and known to be irrelevant.
        fits: another backbone that the tensors of an ImageNet file fit, or None.
        notes: of a detector: settings found in the file and taken from the preset, one a line.
    """

    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    misshaped: list[Misshaped] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    fits: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every variable has its tensor and no tensor is left over."""
        return not (self.missing or self.unused or self.misshaped)

    def __str__(self) -> str:
        rows = (
            ("used", self.used, "in the file and in the model"),
            ("missing", self.missing, "in the model, not in the file"),
            ("unused", self.unused, "in the file, not in the model"),
            ("misshaped", self.misshaped, "in both, of different shapes"),
            ("ignored", self.ignored, "in the file, irrelevant to the model"),
        )
        lines = [f"{name:<10}{len(names):>6}  {meaning}" for name, names, meaning in rows]
        width = max((len(each.name) for each in self.misshaped[:_MAX_NAMES]), default=0)
        misshaped = [
            f"{name:<{width}}  expected {expected}, got {got}"
            for name, expected, got in self.misshaped
        ]
        lines += _listed("missing", self.missing) + _listed("unused", self.unused)
        lines += _listed("misshaped", misshaped)
        hint = [f"the tensors fit {self.fits}"] if self.fits else []
        return "\n".join(self.notes + lines + hint)

    def raise_if_incomplete(self, path: str | os.PathLike) -> None:
        """Raises an error unless the report is complete.

        Args:
            path: of the checkpoint.

        Raises:
            ValueError: with the file's name and the report.
        """
        if not self.is_complete:
            raise ValueError(
                f"{path}: expected the tensors of this model, got {len(self.missing)} missing, "
                f"{len(self.unused)} unused, {len(self.misshaped)} misshaped\n{self}"
            )


def _listed(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    shown, rest = names[:_MAX_NAMES], names[_MAX_NAMES:]
    more = [f"... and {len(rest)} more"] if rest else []
    return [f"{title}:", *(f"  {line}" for line in shown + more)]


def to_keras(tensor: np.ndarray) -> np.ndarray:
    """Transposes a parameter from PyTorch's axis order to Keras'.

    Args:
        tensor: a convolution's kernel [out, in / groups, height, width], a dense layer's
            [out, in], or of another rank, which is left unchanged.

    Returns:
        [height, width, in / groups, out], or [in, out].
    """
    return tensor.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, range(tensor.ndim)))


def depthwise_to_keras(tensor: np.ndarray) -> np.ndarray:
    """Transposes a kernel for `keras.layers.DepthwiseConv2D` with multiplier 1.

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
    transforms: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    ignore: Iterable[str] = IGNORED,
) -> ConversionReport:
    """Assigns every variable its tensor; none unless the report is complete.

    Args:
        variables: the model's name -> a variable with `shape` and `assign`. To keep a variable,
            leave it out and `ignore` its tensor.
        tensors: the file's name -> array, see `torch_files.read_tensors`.
        names: the model's name -> the file's, of all variables.
        transforms: the model's name -> a function in place of `to_keras`; its ValueError means a
            wrong shape.
        ignore: shell patterns of tensors that may be left over.

    Returns:
        The report. The variables have changed if and only if `is_complete`.

    Raises:
        ValueError: `names` or `transforms` disagree with `variables`, or a tensor has no real
            dtype.

    Example:
        >>> dense = keras.layers.Dense(3); dense.build((None, 2))
        >>> variables = {"kernel": dense.kernel, "bias": dense.bias}
        >>> names = {"kernel": "fc.weight", "bias": "fc.bias"}
        >>> assign(variables, read_tensors("fc.pth"), names).raise_if_incomplete("fc.pth")
    """
    transforms = transforms or {}
    if odd := sorted(set(names) ^ set(variables) | set(transforms) - set(variables)):
        raise ValueError(
            "names and transforms: expected those of the variables, got a difference in "
            + ", ".join(odd[:_MAX_NAMES])
        )
    report = ConversionReport()
    values = {}
    for variable_name, variable in variables.items():
        name, expected = names[variable_name], tuple(variable.shape)
        if name not in tensors:
            report.missing.append(name)
            continue
        value, fits = tensors[name], False
        with contextlib.suppress(ValueError):  # the transform expects another rank
            value = transforms.get(variable_name, to_keras)(value)
            fits = value.shape == expected
        if fits:
            report.used.append(name)
            values[variable_name] = _as_number(name, value)
        else:
            report.misshaped.append(Misshaped(name, expected, value.shape))
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
    """Short floats as float32, which every variable accepts."""
    if value.dtype.kind in "fV" and value.dtype != np.float64:
        return value.astype(np.float32, copy=False)
    if value.dtype.kind not in "fiub":
        raise ValueError(f"tensor {name}: expected real numbers, got {value.dtype}")
    return value
