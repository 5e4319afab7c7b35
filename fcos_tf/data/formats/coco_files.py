"""The image files of a COCO folder, by the names that records give them."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from urllib.parse import parse_qs, unquote


class CocoFiles:
    """The files of a folder.

    Args:
        folder: The folder.
        stated: `file_name` of all records.
    """

    def __init__(self, folder: str, stated: Iterable[str]):
        self._folder, self._stated = folder, stated
        self._names = cache(lambda parent: _list_files(os.path.join(folder, parent)))
        self._by_key = cache(self._group)

    def find(self, name: str) -> str:
        """The path of the file that a record names.

        Where there is no such file, the name may have backslashes, be a URL, or differ in case and
        Unicode form; or its last part counts, if no other record has it.

        Raises:
            ValueError: There is none, or it may be that of another record.
        """
        parent, _, last = name.rpartition("/")
        if last in self._names(parent):
            return self._path(parent, last)
        for spelling in _spellings(name):
            parent, _, last = spelling.rpartition("/")
            if found := self._find_in(parent, last):
                return self._path(parent, found)
        for spelling in _spellings(name):
            last = spelling.rpartition("/")[2]
            if found := self._find_in("", last):
                if others := self._stated_by_key[_key(last)] - {name}:
                    what = f"and {found} there may be that of {min(others)}"
                    raise ValueError(f"has no file {name} in {self._folder}, {what}")
                return self._path("", found)
        raise ValueError(f"has no file {name} in {self._folder}")

    def _find_in(self, parent: str, last: str) -> str:
        if last in self._names(parent):
            return last
        same = self._by_key(parent).get(_key(last), ())
        return same[0] if len(same) == 1 else ""

    def _group(self, parent: str) -> dict[str, list[str]]:
        groups = defaultdict(list)
        for name in self._names(parent):
            groups[_key(name)].append(name)
        return groups

    @cached_property
    def _stated_by_key(self) -> dict[str, set[str]]:
        """The records' names by each spelling of their last parts."""
        groups = defaultdict(set)
        for name in self._stated:
            for spelling in _spellings(name):
                groups[_key(spelling.rpartition("/")[2])].add(name)
        return groups

    def _path(self, parent: str, last: str) -> str:
        path = os.path.join(self._folder, parent, last)
        return os.path.normpath(path) if "." in parent or "//" in parent else path


def _spellings(name: str) -> Iterator[str]:
    """A name with `/`; of a URL the path, and the path in the query, as Label Studio writes it."""
    plain = name.strip().replace("\\", "/")
    yield plain
    path, _, query = re.sub(r"^\w+://[^/]*/", "", plain).partition("?")
    if path != plain or "%" in path:
        yield unquote(path)
    yield from parse_qs(query).get("d", ())


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _list_files(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):  # ValueError: a name that no folder can have
        return frozenset()
