"""The page's charts but for the map, as plotly's figures.

Text and lines take their colours from the page's style, which knows day and night; a mark is of
one of the middle tones below, which are seen on both.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from twotower.evaluation.popularity import GROUPS
from twotower.evaluation.verdict import Outcome, outcome
from twotower.evaluation.words import NAMES, best_first, main_metrics

BLUE, GREY, GREEN, RED, AMBER = "#2f7de1", "#7f8894", "#2c9a5b", "#db4b4b", "#c27a10"
OUTCOMES: Mapping[Outcome, str] = {"win": GREEN, "tie": GREY, "loss": RED}
_GROUP_COLOURS = dict(zip(GROUPS, (BLUE, "#9a6ae0", AMBER), strict=True))
_ROW_PIXELS = 30


def plain(text: str) -> str:
    """A text that plotly shows as it is; it would take ``<b>`` for bold."""
    return html.escape(text, quote=False)


def curves(
    history: Mapping[str, Sequence[float | None]], best_epoch: int, start: Mapping[str, float]
) -> dict[str, go.Figure]:
    """A chart for each quantity of a training, by epoch, the best epoch marked.

    Args:
        start: the values before the first epoch, where training started from something.
    """
    found = {}
    for name, values in history.items():
        epochs = list(range(1, len(values) + 1))
        figure = _figure(height=240)
        if name in start:
            epochs, values = [0, *epochs], [start[name], *values]
        mode = "lines+markers" if len(values) < 40 else "lines"
        figure.add_scatter(
            x=epochs,
            y=_numbers(values),
            mode=mode,
            line={"color": BLUE, "width": 2},
            marker={"size": 5},
            hovertemplate="epoch %{x}: %{y:.5g}<extra></extra>",
        )
        if best_epoch in epochs:
            best = epochs.index(best_epoch)
            figure.add_scatter(
                x=[best_epoch],
                y=_numbers([values[best]]),
                mode="markers",
                marker={"color": AMBER, "size": 11, "symbol": "diamond"},
                hovertemplate="best epoch %{x}: %{y:.5g}<extra></extra>",
            )
            figure.add_vline(best_epoch, line={"color": AMBER, "width": 1, "dash": "dot"})
        figure.update_xaxes(title="epoch", tickformat="d")
        if len(values) < 12:
            figure.update_xaxes(dtick=1)
        found[name] = figure
    return found


def scores(summary: Mapping[str, Any]) -> go.Figure:
    """Everybody's main metric with its interval, best first."""
    metric = main_metrics(summary)[0]
    names = sorted(
        ["towers", *best_first(summary, metric)], key=lambda n: summary[n][metric]["mean"]
    )
    found = [summary[name][metric] for name in names]
    figure = _intervals([NAMES[name] for name in names], found, metric)
    figure.update_traces(
        marker={"color": [BLUE if name == "towers" else GREY for name in names]},
        hovertemplate="%{text}: %{x:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]"
        "<extra></extra>",
    )
    figure.update_xaxes(rangemode="tozero")
    return figure


def slices(parts: Sequence[Mapping[str, Any]]) -> go.Figure:
    """By how much the towers are better than the best baseline, for whom."""
    # Plotly draws from below.
    parts = list(reversed(parts))
    names = [part["slice"] for part in parts]
    # What the axis is stands above the chart: on a phone there is no room below.
    figure = _intervals(names, [part["difference"] for part in parts], "")
    short = (name if len(name) <= 28 else name[:27] + "…" for name in names)
    labels = [f"{name} ({part['users']:,})" for name, part in zip(short, parts, strict=True)]
    figure.update_yaxes(ticktext=[plain(label) for label in labels])
    figure.update_traces(
        marker={"color": [OUTCOMES[outcome(part["difference"])] for part in parts]},
        hovertemplate="%{text}: %{x:+.4f} [%{customdata[0]:+.4f}, %{customdata[1]:+.4f}]"
        "<extra></extra>",
    )
    figure.add_vline(0, line={"color": GREY, "width": 1})
    figure.update_xaxes(tickformat="+")
    return figure


def reliability(bins: Sequence[Mapping[str, float]]) -> go.Figure:
    """What was promised and what came true."""
    figure = _figure(height=360)
    ends = [0, max(each[end] for each in bins for end in ("chance", "high"))]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip"
    )
    shares = [each["share"] for each in bins]
    figure.add_scatter(
        x=[each["chance"] for each in bins],
        y=shares,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [max(each["high"] - each["share"], 0.0) for each in bins],
            "arrayminus": [max(each["share"] - each["low"], 0.0) for each in bins],
            "thickness": 1.5,
            "width": 4,
        },
        mode="markers+lines",
        line={"color": BLUE, "width": 1.5},
        marker={"size": 8},
        customdata=[each["rows"] for each in bins],
        hovertemplate="said %{x:.1%}, was %{y:.1%}<br>%{customdata:,} rows<extra></extra>",
    )
    figure.update_xaxes(title="affinity: the chance that was said", tickformat=".0%")
    figure.update_yaxes(title="share that was liked", tickformat=".0%")
    return figure


def popularity(shares: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> go.Figure:
    """Of what falls to popular items and to the rest, a bar each.

    Args:
        names: of the bars, the first above; what they show is in ``shares`` in this order.
    """
    figure = _figure(height=110 + _ROW_PIXELS * len(names), right=10)
    for group in GROUPS:
        figure.add_bar(
            y=[plain(name) for name in reversed(names)],
            x=[each[group] for each in reversed(list(shares.values()))],
            name=group,
            orientation="h",
            marker={"color": _GROUP_COLOURS[group]},
            hovertemplate=f"%{{y}}: %{{x:.1%}} {group}<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        bargap=0.35,
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(showgrid=False)
    return figure


def _intervals(
    names: Sequence[str], found: Sequence[Mapping[str, float]], title: str
) -> go.Figure:
    """A mean with its interval a row, the first below; rows may share a name."""
    rows, texts = list(range(len(names))), [plain(name) for name in names]
    figure = _figure(height=80 + (_ROW_PIXELS if len(names) < 20 else 22) * len(names))
    figure.add_scatter(
        x=[each["mean"] for each in found],
        y=rows,
        text=texts,
        customdata=[[each["low"], each["high"]] for each in found],
        mode="markers",
        marker={"size": 9},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(each["high"] - each["mean"], 0.0) for each in found],
            "arrayminus": [max(each["mean"] - each["low"], 0.0) for each in found],
            "color": GREY,
            "thickness": 1.5,
            "width": 4,
        },
    )
    figure.update_yaxes(
        tickvals=rows,
        ticktext=texts,
        showgrid=False,
        zeroline=False,
        range=[-0.6, len(names) - 0.4],
    )
    figure.update_xaxes(title=title, zeroline=False, tickangle=0, nticks=7)
    return figure


def _figure(*, height: int, right: int = 20) -> go.Figure:
    layout = {
        "template": "none",
        "height": height,
        "margin": {"l": 55, "r": right, "t": 12, "b": 45},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        # Not the other axis too: each could make the other wider and narrower without an end.
        "yaxis": {"automargin": True},
        "showlegend": False,
        "dragmode": False,
    }
    return go.Figure(layout=layout)


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    """JSON has no word for what is no number but null."""
    return [None if value is None or not math.isfinite(value) else value for value in values]
