"""The figures of a benchmark: from seconds, bytes and operations to a table and JSON."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_MEBI, _GIGA = 2**20, 1e9


def figures(
    seconds: Sequence[float],
    *,
    images_per_step: int,
    memory: tuple[int, int],
    flops: int | None,
    peak: float | None,
    note: str = "",
) -> dict[str, Any]:
    """The figures of a contestant.

    Args:
        seconds: per step, of each round.
        images_per_step: B.
        memory: peak of the resident set, and the one of the libraries alone, in bytes.
        flops: operations of a step; None: unknown.
        peak: operations per second of a large matrix product in the same precision.
        note: what a reader of the times has to know.
    """
    median = statistics.median(seconds)
    known = flops is not None and peak is not None
    return {
        "seconds_per_step": {"median": median, "min": min(seconds), "max": max(seconds)},
        "images_per_second": images_per_step / median,
        "peak_memory_bytes": memory[0],
        "library_memory_bytes": memory[1],
        "flops_per_step": flops,
        "share_of_matrix_product_peak": flops / median / peak if known else None,
        "note": note,
    }


def format_figures(contestants: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the `figures` by name; the first is compared with."""
    ours = next(iter(contestants.values()))["seconds_per_step"]["median"]
    rows = [
        ("", "s per step", "(min to max)", "images/s", "MiB", "over libraries", "GFLOP",
         "of peak", "time"),
    ]  # fmt: skip
    for name, each in contestants.items():
        seconds, flops = each["seconds_per_step"], each["flops_per_step"]
        share, memory = each["share_of_matrix_product_peak"], each["peak_memory_bytes"]
        rows.append(
            (
                name,
                f"{seconds['median']:.3f}",
                f"({seconds['min']:.3f} to {seconds['max']:.3f})",
                f"{each['images_per_second']:.1f}",
                f"{memory / _MEBI:.0f}",
                f"{(memory - each['library_memory_bytes']) / _MEBI:.0f}",
                "-" if flops is None else f"{flops / _GIGA:.2f}",
                "-" if share is None else f"{share:.1%}",
                f"{seconds['median'] / ours:.2f} x",
            )
        )
    return "\n".join(_aligned(rows))


def format_shares(shares: Mapping[str, float], seconds: float) -> str:
    """A table of the shares of a step of some seconds."""
    rows = [("", "share", "ms per step")]
    rows += [(name, f"{x:.1%}", f"{1000 * seconds * x:.2f}") for name, x in shares.items()]
    rows.append(("sum", f"{sum(shares.values()):.1%}", f"{1000 * seconds:.2f}"))
    return "\n".join(_aligned(rows))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
