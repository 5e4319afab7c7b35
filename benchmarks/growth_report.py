"""Exponents, table and plot of `benchmarks.growth`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from fcos_tf.atomic_files import replacing, write_text

# Key of a point -> its meaning.
VALUES = {"seconds": "seconds per step", "mebibytes": "memory of the steps, MiB"}
EXCESS = 1.2  # over a straight line, of what grows faster than linear


def amounts_of(axis: str, sizes: Sequence[int]) -> list[int]:
    """What time may be proportional to: the sizes, of the image side the pixels."""
    return [size**2 for size in sizes] if axis == "image_side" else list(sizes)


def growth_of(sizes: Sequence[float], values: Sequence[float]) -> dict:
    """The constant part and the exponent of values at three or more increasing sizes.

    Returns:
        dict: `constant`, `exponent`, and `faster`, whether they grow faster than linear. A growth
        of a tenth or less has the exponent 0.
    """
    (s1, s2), (v1, v2) = sizes[:2], values[:2]
    constant = min(max(v1 - s1 * (v2 - v1) / (s2 - s1), 0.0), v1)
    (before, last), ratio = (v - constant for v in values[-2:]), sizes[-1] / sizes[-2]
    if last <= 0.1 * values[-1] or values[-1] <= 1.1 * values[0]:
        return {"constant": constant, "exponent": 0.0, "faster": False}
    exponent = max(0.0, math.log(last / max(before, 0.01 * last)) / math.log(ratio))
    faster = values[-1] > EXCESS * (constant + max(before, 0.0) * ratio)
    return {"constant": constant, "exponent": exponent, "faster": faster}


def table(result: dict) -> str:
    """The sizes of an axis, their time and memory, and the exponents."""
    lines = [f"\n{result['what']}, {result['axis']}", f"{'size':>6} {'seconds':>9} {'MiB':>8}"]
    for point in result["points"]:
        found = f"  {point['detections']:.0f} detections" if "detections" in point else ""
        lines.append(f"{point['size']:6} {point['seconds']:9.4f} {point['mebibytes']:8.1f}{found}")
    kinds = result["growth"].items()
    lines.append("exponents: " + ", ".join(f"{key} {x['exponent']:.2f}" for key, x in kinds))
    return "\n".join(lines)


def in_words(results: Sequence[dict]) -> str:
    """A line that names what grows faster than linear."""
    return f"faster than linear: {'; '.join(_faster(results)) or 'nothing'}"


def _faster(results: Sequence[dict]) -> list[str]:
    return [
        f"{result['what']}, {key} by {result['axis']}"
        for result in results
        for key, growth in result["growth"].items()
        if growth["faster"]
    ]


def write_report(folder: Path, title: str, results: Sequence[dict]) -> None:
    """Writes growth.txt, growth.json and growth.png."""
    text = "\n".join([title, *map(table, results), in_words(results)])
    write_text(folder / "growth.txt", text + "\n")
    summary = {"title": title, "faster_than_linear": _faster(results), "results": list(results)}
    write_text(folder / "growth.json", json.dumps(summary, indent=2) + "\n")
    with replacing(folder / "growth.png") as file:
        plot(title, results).savefig(file, format="png", dpi=80, pil_kwargs={"optimize": True})


def plot(title: str, results: Sequence[dict]):
    """A column of two panels for each axis, time above memory, with a line for each task."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(result["axis"] for result in results))
    colors = dict(zip(sorted({result["what"] for result in results}), ("C0", "C1"), strict=False))
    figure = Figure(figsize=(max(2.4 * len(axes) + 0.6, 6), 5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(len(VALUES), len(axes), squeeze=False, sharex="col", sharey="row")
    for row, (key, label) in enumerate(VALUES.items()):
        drawn = [max(p[key], 1e-6) for result in results for p in result["points"] if p["size"]]
        for panel, axis in zip(panels[row], axes, strict=True):
            panel.set(xscale="log", yscale="log", ylim=(min(drawn) / 1.5, max(drawn) * 3))
            own = [result for result in results if result["axis"] == axis]
            for result in own:
                points = [point for point in result["points"] if point["size"]]
                x = amounts_of(axis, [point["size"] for point in points])
                y = [max(point[key], 1e-6) for point in points]
                text = f"{result['what']} {result['growth'][key]['exponent']:.2f}"
                color = colors[result["what"]]
                panel.plot(x, y, color=color, marker="o", markersize=3, label=text)
                # The line of slope 1 ends at the largest size.
                line = [y[-1] * amount / x[-1] for amount in x]
                panel.plot(x, line, "--", color=color, linewidth=0.7)
            panel.set_xticks(x, [str(point["size"]) for point in points], fontsize=8)
            panel.tick_params(axis="x", which="minor", length=0, labelbottom=False)
            panel.legend(fontsize=8, frameon=False, loc="upper left")
        panels[row][0].set_ylabel(label, fontsize=9)
    for panel, axis in zip(panels[0], axes, strict=True):
        panel.set_title(axis.replace("_", " "), fontsize=10)
    return figure
