"""Line and bar charts as SVG text: the browser's fonts have the letters of all class names."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from fcos_tf.tensorflow_words import escaped

_LEFT, _TOP, _WIDTH, _HEIGHT = 44, 12, 380, 260
_COLOURS = (
    "#e63946", "#1d91ff", "#d6a800", "#00a86b", "#ff7a00", "#a054ff", "#00b4c8", "#ff5cbe",
    "#7fb800", "#965a28",
)  # fmt: skip
_INK, _FAINT = "#1e1e1e", "#ddd"


def lines(
    x: np.ndarray, series: Iterable[tuple[str, Sequence[float]]], x_title: str, y_title: str
) -> str:
    """Curves in the unit square.

    Args:
        x: [N], 0 to 1.
        series: Names and [N], 0 to 1. The last one is drawn in black; more than 10 others are drawn
            grey and without a legend.
        x_title: Of the axis.
        y_title: Likewise.
    """
    series = list(series)
    last = len(series) - 1
    with_legend = last <= len(_COLOURS)
    parts, legend = [], []
    for number, (name, values) in enumerate(series):
        colour = _COLOURS[number] if with_legend and number != last else "#aaa"
        colour = _INK if number == last else colour
        points = " ".join(
            f"{_LEFT + _WIDTH * a:.1f},{_TOP + _HEIGHT * (1 - b):.1f}"
            for a, b in zip(x, values, strict=True)
        )
        width = 2.5 if number == last else 1.5 if with_legend else 0.7
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
        if with_legend or number == last:
            y = _TOP + _HEIGHT + 50 + 18 * len(legend)
            legend.append(
                f'<path d="M{_LEFT} {y - 4}h22" stroke="{colour}" stroke-width="3"/>'
                + _label(_LEFT + 30, y, name, "start")
            )
    ticks = "".join(
        f'<path d="M{_LEFT} {_TOP + _HEIGHT * (1 - t)}h{_WIDTH}" stroke="{_FAINT}"/>'
        f'<path d="M{_LEFT + _WIDTH * t} {_TOP}v{_HEIGHT}" stroke="{_FAINT}"/>'
        + _label(_LEFT - 6, _TOP + _HEIGHT * (1 - t) + 4, f"{t:g}", "end")
        + _label(_LEFT + _WIDTH * t, _TOP + _HEIGHT + 16, f"{t:g}", "middle")
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    titles = _label(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 32, f"{y_title} over {x_title}", "middle")
    height = _TOP + _HEIGHT + 50 + 18 * len(legend)
    return _svg(_LEFT + _WIDTH + 20, height, ticks + "".join(parts) + titles + "".join(legend))


def bars(values: Mapping[str, float], title: str) -> str:
    """A horizontal bar with its number for each value, 0 or more; the largest spans the width."""
    largest = max(values.values()) or 1.0
    parts = [_label(_LEFT + 20, 16, title, "start")]
    for number, (name, value) in enumerate(values.items()):
        y, width = 26 + 26 * number, 480 * value / largest
        parts.append(
            _label(_LEFT + 12, y + 14, name, "end")
            + f'<rect x="{_LEFT + 20}" y="{y}" width="{width:.1f}" height="18" '
            f'fill="{_COLOURS[number % len(_COLOURS)]}"/>'
            + _label(_LEFT + 26 + width, y + 14, f"{value:.3f}", "start")
        )
    return _svg(_LEFT + 580, 30 + 26 * len(values), "".join(parts))


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}">'
        f"{escape(escaped(text))}</text>"
    )


def _svg(width: int, height: int, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="system-ui,sans-serif" font-size="13">{content}</svg>'
    )
