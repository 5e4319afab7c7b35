"""Lines of text as pixels, for class names in most scripts.

matplotlib's DejaVu Sans has Latin, Greek, Cyrillic, Hebrew, Arabic and symbols. Other characters
need an installed font; Chinese, Japanese and Korean fall back to the font of OpenCV 5.
Right-to-left and joined scripts need Pillow's Raqm layout, which needs the library FriBiDi.
"""

import functools
import logging
import math
import re
import unicodedata
from pathlib import Path

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

_OTHER_STYLES = re.compile("black|bold|condensed|italic|light|medium|mono|oblique|serif|thin", re.I)
_OPENCV_FONT = "uni"
_load = functools.lru_cache(maxsize=256)(ImageFont.truetype)  # (path, size)


def text_mask(text: str, size: int) -> Image.Image:
    """Draws a line of text.

    Args:
        text: without line breaks.
        size: height of the font in pixels.

    Returns:
        An image of mode "L", 255 for ink. Its height depends on the font only.
    """
    path = _path_for(frozenset(text))
    if path is None:
        return _opencv_mask(text, size)
    font = _load(path, size)
    mask = Image.new("L", (max(1, math.ceil(font.getlength(text))), sum(font.getmetrics())))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    return mask


def _opencv_mask(text: str, size: int) -> Image.Image:
    font = cv2.FontFace(_OPENCV_FONT)
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size, 400)
    canvas = np.zeros([math.ceil(1.3 * size), width, 3], np.uint8)  # descenders take 0.3
    cv2.putText(canvas, text, (0, size), (255, 255, 255), font, size, 400)
    return Image.fromarray(canvas[..., 0])


@functools.lru_cache(maxsize=4096)
def _path_for(characters: frozenset[str]) -> str | None:
    """Returns the file of a font with all the characters; None: OpenCV's font has them."""
    default = font_manager.findfont("DejaVu Sans")
    missing = _missing(characters, default)
    if not missing:
        if not features.check("raqm"):
            _warn(
                "without the library FriBiDi letters of %r are neither joined nor in order",
                frozenset(c for c in characters if unicodedata.bidirectional(c) in ("R", "AL")),
            )
        return default
    for path in _installed_fonts():
        if not _missing(characters, path):
            return path
    if all(map(_opencv_has, characters)):
        return None
    _warn("no installed font has all of %r; some of it is drawn as boxes", missing)
    return default


def _missing(characters: frozenset[str], path: str) -> frozenset[str]:
    codes = _codes(path)
    return frozenset(character for character in characters if ord(character) not in codes)


@functools.lru_cache(maxsize=1)
def _installed_fonts() -> list[str]:
    """Returns font files on disk, plain styles first; matplotlib's cached list may be outdated."""
    files = font_manager.findSystemFonts()
    return sorted(files, key=lambda file: (bool(_OTHER_STYLES.search(Path(file).name)), file))


@functools.lru_cache(maxsize=1024)  # once for each set of characters
def _warn(message: str, characters: frozenset[str]) -> None:
    if characters:
        logging.getLogger(__name__).warning(message, "".join(sorted(characters)))


@functools.lru_cache(maxsize=1024)
def _codes(path: str) -> frozenset[int]:
    """Returns the code points with glyphs in a font file; none if it is unusable."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    # Bitmap fonts, such as colour emoji, have fixed sizes.
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


@functools.lru_cache(maxsize=4096)
def _opencv_has(character: str) -> bool:
    """Whether OpenCV's font has the character; missing ones are drawn as question marks."""
    if not hasattr(cv2, "FontFace"):  # before OpenCV 5
        return False
    missing, drawn = (np.asarray(_opencv_mask(text, 24)) for text in ("?", character))
    return character == "?" or not np.array_equal(missing, drawn)
