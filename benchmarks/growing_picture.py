"""The picture of ``benchmarks.growing``: a panel an axis, cost as times the first size's."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.growing import Point, curves

PALE, INK = "#94a3b8", "#111827"
# Of each line its name, colour (told apart by colour-blind eyes too) and dashes.
TIME = {
    "step": ("a step: time", "#0072b2", "-"),
    "softmax": ("a step over all items: time", "#d55e00", "-"),
    "rank": ("ranking a user: time", "#009e73", "-"),
    "load": ("to the first step: time", "#cc79a7", "-"),
}
MEMORY = {
    "step": ("a step: memory", "#0072b2", ":"),
    "load": ("loading: memory", "#cc79a7", ":"),
}
AFTER = ("a step: time", "#0072b2", "-")
NAMES = {
    "rows": "interactions",
    "users": "users",
    "items": "items",
    "dimension": "numbers a vector",
    "features": "features of a user and of an item",
    "threads": "threads",
}


def draw(points: list[Point], path: Path) -> None:
    """Write the picture as SVG; the same points make the same file."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "growth",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": PALE,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    found = curves(points)
    with mpl.rc_context(style):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        panels = figure.subplots(2, 3, sharey=True).ravel()
        for panel, axis in zip(panels, NAMES, strict=True):
            _panel(
                panel,
                axis,
                {job: of for (of_axis, job), of in found.items() if of_axis == axis},
            )
        for first in panels[::3]:
            first.set_ylabel("cost, times the first size's")
        every = [line for panel in panels for line in panel.get_lines()]
        lines = {str(each.get_label()): each for each in every}
        lines = {name: each for name, each in lines.items() if not name.startswith("_")}
        figure.legend(
            lines.values(), lines.keys(), loc="outside upper left", ncols=4, frameon=False
        )
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


def _panel(panel: Axes, axis: str, jobs: dict[str, dict[int, list[Point]]]) -> None:
    sizes = sorted({size for of in jobs.values() for size in of})
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_ylim(0.4, 1000)
    panel.set_title(NAMES[axis], loc="left", fontsize=10, fontweight="bold")
    panel.grid(axis="y", color="#e5e7eb", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if sizes:
        grown = [size / sizes[0] for size in sizes]
        if axis == "threads":
            grown = [1 / times for times in grown]
        panel.plot(
            sizes, grown, color=PALE, linewidth=0.8, linestyle="--", label="in proportion"
        )
        panel.set_xticks(sizes)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _short(size)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g} x"))
    for job, of in jobs.items():
        _line(panel, of, TIME[job], lambda p: p.seconds or 1 / p.rate)
        if job == "load":
            _line(panel, of, AFTER, lambda p: 1 / p.rate)
        if job in MEMORY:
            _line(panel, of, MEMORY[job], lambda p: p.peak_gib)


def _line(
    panel: Axes,
    of: dict[int, list[Point]],
    look: tuple[str, str, str],
    cost: Callable[[Point], float],
) -> None:
    """Medians relative to the first size's, and the least and most as a bar."""
    every = {size: [cost(point) for point in several] for size, several in of.items()}
    first = statistics.median(next(iter(every.values())))
    middle = [statistics.median(costs) / first for costs in every.values()]
    label, colour, dashes = look
    panel.plot(
        list(every),
        middle,
        color=colour,
        linestyle=dashes,
        marker="o",
        markersize=3.5,
        label=label,
    )
    for size, costs in every.items():
        panel.plot(
            [size] * 2, [min(costs) / first, max(costs) / first], color=colour, linewidth=1
        )


def _short(size: float) -> str:
    """A count as an axis says it.

    >>> _short(20_000), _short(1.5e6), _short(64)
    ('20 k', '1.5 M', '64')
    """
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"
