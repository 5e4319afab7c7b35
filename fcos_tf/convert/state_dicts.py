"""Finds the state dict inside the dictionaries of a checkpoint."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fcos_tf.convert.pickled_tensors import PickledArray, TensorRef

_MAX_DEPTH = 4  # of dictionaries around the state dict
_MAX_ENTRIES = 1_000_000  # of all dictionaries; one can be in many others


def find_state_dict(contents: Any, entry: str | None) -> dict[str, Any]:
    """Returns the only dictionary of tensors, or that of `entry`.

    Candidates have text keys with tensors among the values; an optimizer's state has numbers for
    keys. The prefix "module." of `DistributedDataParallel` is removed if every tensor has it.

    Args:
        contents: of the file; tensors are arrays or the stand-ins of `pickled_tensors`.
        entry: nested keys joined by dots; "." for `contents` itself; None for the only candidate.

    Returns:
        Name -> tensor, without values of other kinds.

    Raises:
        ValueError: no dictionary of tensors, several and no `entry`, or an unknown `entry`.
    """
    found = dict(_candidates(contents))
    if not found:
        raise ValueError(f"expected a dictionary of tensors, got {_describe(contents)}")
    entry = next(iter(found)) if entry is None and len(found) == 1 else entry
    if entry not in found:
        listed = ", ".join(
            f"{name!r} ({len(tensors)} tensor{'s' * (len(tensors) > 1)})"
            for name, tensors in found.items()
        )
        if entry is not None:
            raise ValueError(f"expected one of the entries {listed}, got {entry!r}")
        got = f"{len(found)}: {listed}"
        raise ValueError(f"expected one dictionary of tensors, got {got}; select one by its entry")
    tensors = found[entry]
    # DataParallel's prefix; `AveragedModel` also counts its updates.
    inner = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    if inner and all(name.startswith("module.") for name in inner):
        return {name.removeprefix("module."): tensor for name, tensor in inner.items()}
    return tensors


def _candidates(contents: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entry and tensors of each dictionary of tensors."""
    rest: list[tuple[Any, tuple[str, ...]]] = [(contents, ())]
    entries = 0
    while rest:
        value, keys = rest.pop()
        if not isinstance(value, dict):
            continue
        entries += len(value)
        if entries > _MAX_ENTRIES:
            raise ValueError(f"expected at most {_MAX_ENTRIES} entries of dictionaries, got more")
        named = {key: inner for key, inner in value.items() if isinstance(key, str)}
        kinds = TensorRef | PickledArray | np.ndarray
        tensors = {key: inner for key, inner in named.items() if isinstance(inner, kinds)}
        if tensors:
            yield ".".join(keys) or ".", tensors
        if len(keys) < _MAX_DEPTH:
            rest += [(inner, (*keys, key)) for key, inner in reversed(named.items())]


def _describe(contents: Any) -> str:
    if isinstance(contents, dict):
        keys = ", ".join(map(repr, list(contents)[:8]))
        return f"a dictionary of {len(contents)} other things: {keys}" if keys else "an empty one"
    return f"a value of type {type(contents).__name__}"
