"""Fonts for labels: scalable, and able to write class names of most scripts."""

import functools
import logging

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Returns a font that can write `text`.

    That is DejaVu Sans, which comes with matplotlib (Latin, Greek, Cyrillic, Arabic, symbols);
    for what it lacks, e.g. Chinese, the first installed font that has the characters.

    Args:
        text: what is to be written.
        size: height of the font in pixels.
    """
    return _load(_path_for(frozenset(text)), size)


@functools.lru_cache(maxsize=256)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=4096)
def _path_for(characters: frozenset[str]) -> str:
    default = font_manager.findfont("DejaVu Sans")
    codes = {ord(character) for character in characters}
    if codes <= _codes(default):
        return default
    for path in sorted({entry.fname for entry in font_manager.fontManager.ttflist}):
        if codes <= _codes(path):
            return path
    logging.getLogger(__name__).warning(
        "no installed font has all of %r; some of it is drawn as boxes", "".join(sorted(characters))
    )
    return default


@functools.lru_cache(maxsize=1024)
def _codes(path: str) -> frozenset[int]:
    """Returns the code points a font file has glyphs for; none if it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
