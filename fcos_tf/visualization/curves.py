"""Curves of a run: the records of `metrics.jsonl` over the steps."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

METRICS_LINES_FILE = "metrics.jsonl"
# Title of a panel -> pattern of its names. A group in the pattern gives each match its own panel,
# with the group as the title.
_PANELS = {
    "loss": r"(?:train|val)/loss",
    "": r"train/(\w+_loss)",
    "learning rate": r"train/learning_rate",
    "gradient norm": r"train/gradient_norm",
    "AP": r"val/(?:AP|AP50|mAP\w*)",
    "metric": r"val/((?!AP|AR|mAP|loss|num_)\w+(?<!_loss))",  # of models that are no detectors
    "time spent waiting for input": r"train/input_share",
}
_SHARES = ("AP", "time spent waiting for input")  # from 0 to 1
_LINE_STYLES = ("-", "--", "-.", ":")

# "train/loss" -> (steps, values)
Curves = dict[str, tuple[list[int], list[float]]]


def read_records(path: str | Path) -> Iterator[tuple[str, int, str, dict[str, float]]]:
    """Reads the records of a run; a truncated last line, of a running or a killed run, is skipped.

    Args:
        path: A `metrics.jsonl`.

    Yields:
        Line, step, kind, and the values that are not null by name.

    Raises:
        ValueError: A line that is no record; names the file and the line.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step, kind = int(record.pop("step")), str(record.pop("kind"))
            values = {name: float(x) for name, x in record.items() if x is not None}
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError,
                RecursionError) as error:  # fmt: skip
            if not line.endswith("\n"):
                break
            raise ValueError(
                f"{path}, line {number}: expected a record with step and kind, got "
                f"{line.strip()[:80]!r}; remove the line, or the file"
            ) from error
        yield line.rstrip("\n"), step, kind, values


def read_curves(run: str | Path) -> Curves:
    """Reads the numbers of a run.

    Args:
        run: The run's folder, or its `metrics.jsonl`.

    Returns:
        Steps and values by kind of record and name: "train/loss", "val/AP" ...

    Raises:
        FileNotFoundError: No such file.
        ValueError: No record, or a line that is no record.
    """
    path = Path(run)
    path = path / METRICS_LINES_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the folder of a run with {METRICS_LINES_FILE}, got {run}"
        )
    curves: Curves = defaultdict(lambda: ([], []))
    for _, step, kind, values in read_records(path):
        for name, value in values.items():
            curves[f"{kind}/{name}"][0].append(step)
            curves[f"{kind}/{name}"][1].append(value)
    if not curves:
        raise ValueError(f"{path}: expected a record for each log step, got none")
    return dict(curves)


def plot_curves(runs: Mapping[str, Curves]) -> Figure:
    """Draws the losses, learning rate, gradient norm, AP and waiting times that the runs have.

    Args:
        runs: Name of a run -> its curves, see `read_curves`.

    Raises:
        ValueError: Nothing to draw.
    """
    panels = _find_panels(dict.fromkeys(name for curves in runs.values() for name in curves))
    if not panels:
        titles = ", ".join(filter(None, _PANELS))
        raise ValueError(f"nothing to draw: no run has any of {titles}")
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, names, runs)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if len(runs) > 1:
        handles = [Line2D([], [], color=f"C{i}", label=run) for i, run in enumerate(runs)]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def save_curves(path: str | Path, runs: Sequence[str | Path]) -> Path:
    """Writes the curves of one or several runs as a PNG.

    Args:
        path: The file to write; missing folders are made.
        runs: Folders of runs, or their `metrics.jsonl`.

    Returns:
        The path written.

    Raises:
        FileNotFoundError, ValueError: See `read_curves` and `plot_curves`.

    Example:
        save_curves("curves.png", ["runs/a", "runs/b"])
    """
    figure = plot_curves({str(run): read_curves(run) for run in runs})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _find_panels(there: Iterable[str]) -> dict[str, list[str]]:
    """Title -> the available names in its panel."""
    panels = defaultdict(list)
    for title, pattern in _PANELS.items():
        for match in filter(None, (re.fullmatch(pattern, name) for name in there)):
            own_title = match.group(match.lastindex).replace("_", " ") if match.lastindex else title
            panels[own_title].append(match.string)
    return dict(panels)


def _draw_panel(axis: Axes, title: str, names: Sequence[str], runs: Mapping[str, Curves]) -> None:
    """Draws a colour for each run, a line style for each name."""
    for i, curves in enumerate(runs.values()):
        for style, name in zip(_LINE_STYLES, names, strict=False):
            steps, values = curves.get(name, ([], []))
            axis.plot(
                steps,
                values,
                color=f"C{i}",  # matplotlib's own cycle
                linestyle=style,
                linewidth=1.2,
                # Marks few points, such as evaluations: a single one gives no line.
                marker="." if len(steps) < 30 else None,
                label=name.split("/")[1] if i == 0 else None,
            )
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("step", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if title in _SHARES:
        axis.set_ylim(0, 1.03)
    if len(names) > 1:
        axis.legend(fontsize=8, frameon=False)
