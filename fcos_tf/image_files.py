"""Image files: which files are images, and finding them by the names that annotations give."""

import os
import posixpath
import re
import stat
import unicodedata
from collections import defaultdict
from pathlib import Path

# `.jpg` first: the order in which images of one name are preferred.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pbm",
    ".pgm", ".ppm",
)  # fmt: skip
# Folders of a data set that tell nothing of an image: a/images/b.jpg is a/b.jpg.
_PLACES = {"images", "image", "imgs", "img", "jpegimages", "annotations", "annotation", "labels",
           "photos", "xml", "xmls", "json"}  # fmt: skip
MAX_LINKS = 10_000  # to folders that were read before: links that lead to each other make many
# Files that one expects beside images.
_DATA_SUFFIXES = (".xml", ".json", ".txt", ".csv", ".yaml", ".yml", ".names", ".data", ".md")


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image; upper and lower case are the same."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def stem_of(name: str) -> str:
    """The name without the suffix of an image, if it has one."""
    return os.path.splitext(name)[0] if is_image_name(name) else name


def plain_name(name: str) -> str:
    """A relative path with `/`, NFC, without folders that only say "images" or "annotations"."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    *folders, last = posixpath.normpath(name).split("/")
    return "/".join([*(part for part in folders if part.lower() not in _PLACES), last])


def unquoted(line: str) -> str:
    """A name in a list with `/`, without the quotes that some tools put around it."""
    return re.sub(r"""^(["'])(.+)\1$""", r"\2", line).replace("\\", "/")


def check_regular(file: str | os.PathLike) -> None:
    """OSError for a pipe or a device, which could block or never end."""
    mode = os.stat(file).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("expected a regular file")


def read_text(file: str | os.PathLike) -> str:
    """The text of an annotation file: UTF-8, with or without a byte order mark.

    Raises:
        OSError: It is missing, no regular file, or cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    check_regular(file)
    return Path(file).read_text(encoding="utf-8-sig")


def read_utf8(file: str | os.PathLike) -> str:
    """As `read_text`, where nothing else names the file.

    Raises:
        OSError: It is missing, no regular file, or cannot be read.
        ValueError: It is not UTF-8; names it.
    """
    try:
        return read_text(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in UTF-8, got {error}") from None


def files_below(root: str | os.PathLike, *suffixes: str) -> list[str]:
    """The files with these suffixes (none: all) below a folder, relative with `/`, sorted.

    Hidden ones are left out.
    """
    found, links, seen = [], 0, set()
    above = {os.fspath(root): {os.path.realpath(root)}}  # of each folder: it and those above
    for folder, folders, files in os.walk(root, followlinks=True):
        there = above.pop(folder)
        inside = {}
        for name in sorted(name for name in folders if not name.startswith(".")):
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            if real not in there:  # else a link to a folder above
                inside[name] = {*there, real}
                links += real in seen and os.path.islink(path)
                seen.add(real)
        folders[:] = inside
        above |= {os.path.join(folder, name): chain for name, chain in inside.items()}
        if links > MAX_LINKS:
            raise ValueError(f"{root}: more than {MAX_LINKS} links to folders, perhaps in a circle")
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        found += [
            name if relative == "." else f"{relative}/{name}"
            for name in files
            if name.lower().endswith(suffixes or "") and not name.startswith(".")
        ]
    return sorted(found)


class ImageIndex:
    """The image files below a folder.

    Attributes:
        root: The folder.
        names: Of all image files, relative to it with `/`, sorted.
        notes: What is said of other files there.

    Raises:
        FileNotFoundError: No such folder.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no images folder {root}")
        files = files_below(root)
        self.names = [name for name in files if is_image_name(name)]
        others = sorted({*files} - {*self.names})
        others = [name for name in others if not name.lower().endswith(_DATA_SUFFIXES)]
        what = f"{root}: skipped {len(others)} files whose endings are of no image, first"
        self.notes = (f"{what} {others[0]}",) if others else ()
        self._names = set(self.names)
        self._by_stem, self._by_plain, self._by_last = (defaultdict(list) for _ in range(3))
        for name in self.names:
            self._by_stem[stem_of(name)].append(name)
            self._by_plain[stem_of(plain_name(name))].append(name)
            last = posixpath.basename(unicodedata.normalize("NFC", name))
            self._by_last[last].append(name)
            self._by_last[stem_of(last)].append(name)

    def path(self, name: str) -> str:
        """The path of an image."""
        return str(self.root / name)

    def find(self, stem: str, stated: str = "") -> str:
        """Finds the image of an annotation file.

        It is the one with the name of the annotation file, of those with several suffixes the
        stated one, else `.jpg` before others. Where there is none, it is the stated one: a path
        from the folder of the annotation, from `root`, or a name that only one image has.

        Args:
            stem: Path of the annotation file, relative to its folder, without suffix.
            stated: The name that the annotation gives.

        Returns:
            The name.

        Raises:
            ValueError: There is none, or several; it does not name the annotation.
        """
        stated = unicodedata.normalize("NFC", stated.replace("\\", "/"))
        last = posixpath.basename(stated)
        same = self._by_stem.get(stem) or self._only(self._by_plain, plain_name(stem))
        if same:
            return _nearest(same, last)
        if stated:
            for path in (posixpath.join(posixpath.dirname(stem), stated), stated):
                name = posixpath.normpath(path)
                if not name.startswith(("/", "..")) and os.path.isfile(self.root / name):
                    return name  # whatever its suffix
        found = (last and self._only(self._by_last, last)) or self._only(
            self._by_last, posixpath.basename(unicodedata.normalize("NFC", stem))
        )
        if not found:
            raise ValueError(f"expected its image {self.root / stem}.jpg, got no such file")
        return _nearest(found, last)

    def find_stated(self, stated: str) -> str:
        """Finds an image by the path that a table gives it; see `find`."""
        stated = stated.replace("\\", "/")
        name = posixpath.normpath(stated)
        if name in self._names:
            return name
        if name.startswith("/") and name.startswith(f"{self.root.resolve().as_posix()}/"):
            return self.find_stated(posixpath.relpath(name, self.root.resolve().as_posix()))
        last = posixpath.basename(plain_name(name))
        for key, names in ((stem_of(plain_name(name)), self._by_plain), (last, self._by_last),
                           (stem_of(last), self._by_last)):  # fmt: skip
            if found := self._only(names, key):
                return _nearest(found, last)
        raise ValueError(f"expected image {self.root / name}, got no such file")

    @staticmethod
    def _only(index: dict[str, list[str]], key: str) -> list[str]:
        """The images of a name, all in one folder with one stem."""
        found = index.get(key, [])
        if len({stem_of(name) for name in found}) > 1:
            raise ValueError(f"expected one image {key}, got {', '.join(found[:3])}")
        return found


def _nearest(names: list[str], stated: str) -> str:
    """Of names that differ in their endings the stated one, else `.jpg` before others."""
    ending = posixpath.splitext(stated)[1]

    def distance(name: str) -> tuple[bool, bool, int]:
        mine = posixpath.splitext(name)[1]
        rank = IMAGE_SUFFIXES.index(mine.lower())
        return mine.lower() != ending.lower(), mine != ending, rank

    return min(names, key=distance)
