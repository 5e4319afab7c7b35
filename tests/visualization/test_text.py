"""Lines of text in many scripts."""

import logging

import cv2
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import features

from fcos_tf.visualization import text
from fcos_tf.visualization.text import text_mask

needs_opencv_5 = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="no fonts in OpenCV 4")


@pytest.fixture(autouse=True)
def forget():
    """Nothing is remembered of other tests, and of the system's fonts only those of matplotlib."""
    for cached in (text._path_for, text._installed_fonts, text._warn):
        cached.cache_clear()
    yield
    for cached in (text._path_for, text._installed_fonts, text._warn):
        cached.cache_clear()


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])


def ink(line, size=24):
    return np.asarray(text_mask(line, size))


def test_a_line_is_as_high_as_its_font():
    # DejaVu Sans reaches 0.928 of its size up and 0.236 down; Pillow rounds both up.
    for line in ("ace", "Ágj"):
        assert ink(line, 100).shape[0] == 93 + 24
    assert ink("aceace").shape[1] == pytest.approx(2 * ink("ace").shape[1], abs=1)
    assert ink("a").max() == 255


@needs_opencv_5
@pytest.mark.parametrize("name", ["帽子", "고양이", "カタカナ"])
def test_east_asian_names_without_a_font_of_their_own(no_fonts, caplog, name):
    drawn = ink(f"{name} 0.93")
    unknown = ink(f"{'?' * len(name)} 0.93")
    assert drawn.shape != unknown.shape and drawn.max() > 200
    # Full-width characters: about as wide as high.
    assert ink(name).shape[1] == pytest.approx(24 * len(name), rel=0.2)
    # Every character has a shape of its own, with nothing cut off at the upper and lower border.
    shapes = {ink(character).tobytes() for character in name}
    assert len(shapes) == len(set(name))
    assert not ink(name)[[0, -1]].any()
    assert caplog.records == []


def test_an_installed_font_comes_first(monkeypatch, tmp_path):
    fonts = {"NotoSansCJK-Black.ttc": {"猫"}, "NotoSansCJK-Regular.ttc": {"猫"}, "a.ttf": set("x")}
    paths = [str(tmp_path / name) for name in fonts]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    default = font_manager.findfont("DejaVu Sans")
    codes = {str(tmp_path / name): frozenset(map(ord, has)) for name, has in fonts.items()}
    codes[default] = frozenset(map(ord, "abc"))
    monkeypatch.setattr(text, "_codes", codes.__getitem__)
    assert text._path_for(frozenset("ab")) == default
    assert text._path_for(frozenset("猫")) == str(tmp_path / "NotoSansCJK-Regular.ttc")


def test_what_no_font_has_is_named_once(no_fonts, caplog):
    with caplog.at_level(logging.WARNING):
        for score in range(10):
            ink(f"हिन्दी 0.{score}")
    (record,) = caplog.records
    assert record.getMessage().startswith("no installed font has all of 'दनहिी्'; ")


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without Raqm")
def test_arabic_is_joined_and_hebrew_goes_from_right_to_left():
    # Joined letters are narrower than the same letters that stand alone.
    alone = sum(ink(letter).shape[1] for letter in "صورة")
    assert ink("صورة").shape[1] < 0.95 * alone
    # The first letter is at the right: the columns of it alone end the line.
    word, first = ink("שלום"), ink("ש")
    columns = first[:, first.any(axis=0)]
    used = word[:, word.any(axis=0)]
    assert np.abs(used[:, -columns.shape[1] :].astype(int) - columns).mean() < 20
    assert np.abs(used[:, : columns.shape[1]].astype(int) - columns).mean() > 20


def test_without_raqm_right_to_left_names_are_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(features, "check", lambda feature: False)
    with caplog.at_level(logging.WARNING):
        text._path_for(frozenset("cat 0.5"))
        assert caplog.records == []
        text._path_for(frozenset("שלום 0.5"))
        text._path_for(frozenset("שלום 0.6"))
    (record,) = caplog.records
    letters = "".join(sorted("שלום"))
    assert f"FriBiDi letters of '{letters}' are neither joined" in record.getMessage()
