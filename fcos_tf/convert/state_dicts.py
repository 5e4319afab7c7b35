"""Finds the dictionary of tensors inside what a checkpoint wraps around it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MAX_DEPTH = 4  # of dictionaries around the state dict
_PREFIX = "module."  # of DataParallel and DistributedDataParallel


def find_state_dict(
    path: Path, contents: Any, is_tensor: Callable[[Any], bool], entry: str | None
) -> dict[str, Any]:
    """Returns the one dictionary of tensors, or the one that is asked for.

    A dictionary counts if it has text for keys and tensors among its values: an optimizer's state,
    with numbers for keys, does not. "module." is taken off if every tensor has it.

    Args:
        path: of the file, for errors.
        contents: of the file.
        is_tensor: whether a value is one.
        entry: names of nested keys with dots between; "." for `contents` itself; None if there is
            only one dictionary to choose.

    Returns:
        Name -> tensor; values of other kinds are left out.

    Raises:
        ValueError: no dictionary of tensors, several and no `entry`, or not that `entry`.
    """
    found = dict(_candidates(contents, is_tensor, (), _MAX_DEPTH))
    listed = ", ".join(
        f"{name!r} ({len(tensors)} tensor{'s' * (len(tensors) > 1)})"
        for name, tensors in found.items()
    )
    if not found:
        raise ValueError(f"{path}: expected a dictionary of tensors, got {_describe(contents)}")
    if entry is not None and entry not in found:
        raise ValueError(f"{path}: expected one of the entries {listed}, got {entry!r}")
    if entry is None and len(found) > 1:
        raise ValueError(
            f"{path}: expected one dictionary of tensors, got {len(found)}: {listed}; "
            "say which by its entry"
        )
    tensors = found[entry] if entry is not None else next(iter(found.values()))
    if all(name.startswith(_PREFIX) for name in tensors):
        return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors


def _candidates(
    contents: Any, is_tensor: Callable[[Any], bool], keys: tuple[str, ...], depth: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place and the tensors of each dictionary that has some."""
    if not isinstance(contents, dict):
        return
    named = {key: value for key, value in contents.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if is_tensor(value)}
    if tensors:
        yield ".".join(keys) or ".", tensors
    if depth:
        for key, value in named.items():
            yield from _candidates(value, is_tensor, (*keys, key), depth - 1)


def _describe(contents: Any) -> str:
    if isinstance(contents, dict):
        keys = ", ".join(map(repr, list(contents)[:8]))
        return f"a dictionary of {len(contents)} other things: {keys}" if keys else "an empty one"
    return f"a value of type {type(contents).__name__}"
