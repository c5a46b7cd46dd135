"""The trials -> one HTML page that needs nothing else: what mattered, how the search went."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from plotly.offline import get_plotlyjs

from twotower.data.writing import whole_file
from twotower.tuning import words
from twotower.tuning.outcome import Trial, Tuned, in_words
from twotower.tuning.space import Knob
from twotower.tuning.study import quietly

# With fewer trials, chance decides what seems to matter.
ENOUGH_TO_TELL = 10
# The share of trials that counts as good, where what mattered is asked.
_GOOD = 0.25
_MOST_AXES = 7
_MARGIN = {"l": 60, "r": 20, "t": 10, "b": 50}
_BEST, _DEFAULT, _OTHERS, _PALE = "#c2410c", "#111827", "#2563eb", "#94a3b8"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111827; margin: 2rem auto;
       max-width: 72rem; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem }
p { max-width: 46rem; margin: .3rem 0 }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e5e7eb }
th:first-child { text-align: left; font-weight: normal }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem }
.same { color: #94a3b8 } code { background: #f1f5f9; padding: .1rem .3rem }
"""


def write_picture(tuned: Tuned, path: Path) -> None:
    """Write the page.

    Raises:
        RequestError: it can not be written; what was there stays.
    """
    with whole_file(path) as beside:
        beside.write_text(page(tuned), encoding="utf-8")


def page(tuned: Tuned) -> str:
    """The page of a search."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(words.headline(tuned))}</title><style>{_STYLE}</style>",
        f"<script>{get_plotlyjs()}</script></head><body>",
        *_sections(tuned),
        "</body></html>",
    ]
    return "\n".join(parts)


def _sections(tuned: Tuned) -> Iterator[str]:
    metric = words.METRICS[tuned.metric]
    yield f"<h1>{html.escape(words.headline(tuned))}</h1>"
    yield f"<p>{html.escape(words.how_sure(tuned))}</p>"
    yield f"<p>{html.escape(words.counts(tuned))}.</p>"
    yield _table(tuned)
    yield from _part(
        "What mattered",
        "How much each setting had to do with being among the best quarter of the trials "
        "(PED-ANOVA, which sums to 1). Trials that were given up count with what they had.",
        _importances(tuned),
        f"Too few trials to tell: {len(_told(tuned))}, and it takes {ENOUGH_TO_TELL}.",
    )
    yield from _part(
        "Settings, one by one",
        f"Each dot is a trial, by its {metric}: orange the best, a diamond the default, pale "
        "those that were given up.",
        _slices(tuned),
    )
    yield from _part(
        "Settings together",
        "Each line is a trial, the darker the better.",
        _lines(tuned),
        "It takes two trials with a setting in common.",
    )
    yield from _part(
        "Trial after trial", f"{metric} of each trial, and the best so far.", _went(tuned)
    )
    yield from _part(
        "Epoch after epoch",
        f"The best {metric} so far; a line that ends early was given up there.",
        _curves(tuned),
    )


def _part(
    title: str, about: str, figures: Sequence[go.Figure], otherwise: str = ""
) -> Iterator[str]:
    yield f"<section><h2>{html.escape(title)}</h2>"
    yield f"<p>{html.escape(about if figures else otherwise)}</p>"
    yield f'<div class="{"grid" if len(figures) > 1 else "one"}">'
    for figure in figures:
        figure.update_layout(
            template="plotly_white",
            font={"family": "system-ui, sans-serif", "size": 13, "color": _DEFAULT},
            showlegend=False,
        )
        yield figure.to_html(
            full_html=False, include_plotlyjs=False, config={"displayModeBar": False}
        )
    yield "</div></section>"


def _table(tuned: Tuned) -> str:
    first, *others = words.rows(tuned, most=5)
    lines = ["<tr><th></th>", *(f"<th>{cell}</th>" for cell in first.cells), "</tr>"]
    for row in others:
        lines.append(f"<tr><th>{html.escape(row.name)}</th>")
        for place, cell in enumerate(row.cells):
            same = place > 0 and row.is_setting and cell == row.cells[0]
            lines.append(f"<td{' class=same' * same}>{html.escape(cell)}</td>")
        lines.append("</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _told(tuned: Tuned) -> list[Trial]:
    """The trials that were worth something."""
    return [trial for trial in tuned.trials if trial.value is not None]


def _importances(tuned: Tuned) -> list[go.Figure]:
    found = importances(tuned)
    if not found:
        return []
    names = list(reversed(found))
    bars = go.Bar(
        x=[found[name] for name in names],
        y=names,
        orientation="h",
        marker_color=_OTHERS,
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(
        height=60 + 26 * len(names), yaxis={"automargin": True}, margin=_MARGIN
    )
    return [figure]


def importances(tuned: Tuned) -> dict[str, float]:
    """By key of a setting its share in what told good trials from others, largest first.

    Empty where there are too few trials to tell.
    """
    told = _told(tuned)
    if len(told) < ENOUGH_TO_TELL:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_GOOD)
    with warnings.catch_warnings():
        # A setting that few trials have is said to be uncertain.
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(
            _as_study(tuned, told), evaluator=evaluator
        )


def _as_study(tuned: Tuned, told: Sequence[Trial]) -> optuna.Study:
    """The trials as if all had come to their end: only which are the best is asked."""
    with quietly():
        study = optuna.create_study(direction="minimize" if _is_loss(tuned) else "maximize")
    for trial in told:
        knobs = [knob for knob in tuned.knobs if knob.name in trial.picked]
        study.add_trial(
            optuna.trial.create_trial(
                value=trial.value,
                params={
                    words.key(knob.name): _plain(trial.picked[knob.name]) for knob in knobs
                },
                distributions={words.key(knob.name): _distribution(knob) for knob in knobs},
            )
        )
    return study


def _is_loss(tuned: Tuned) -> bool:
    return "loss" in tuned.metric


def _plain(value: Any) -> Any:
    return in_words(value) if isinstance(value, tuple) else value


def _distribution(knob: Knob) -> BaseDistribution:
    if knob.values:
        return CategoricalDistribution([_plain(value) for value in knob.values])
    return FloatDistribution(knob.low, knob.high, log=knob.is_log)


def _by_importance(tuned: Tuned) -> list[Knob]:
    found = importances(tuned)
    return sorted(tuned.knobs, key=lambda knob: -found.get(words.key(knob.name), 0.0))


def _slices(tuned: Tuned) -> list[go.Figure]:
    return [_slice(tuned, knob) for knob in _by_importance(tuned)]


def _slice(tuned: Tuned, knob: Knob) -> go.Figure:
    there = [trial for trial in _told(tuned) if knob.name in trial.picked]
    figure = go.Figure(_dots(tuned, there, [_at(knob, trial) for trial in there]))
    axis: dict[str, Any] = {"title": words.key(knob.name)}
    if knob.values:
        axis |= {"type": "category", "categoryarray": [in_words(v) for v in knob.values]}
        axis |= {"range": [-0.5, len(knob.values) - 0.5]}
    elif knob.is_log:
        ticks = [knob.low, knob.default, knob.high]
        axis |= {"type": "log", "tickvals": ticks, "ticktext": [in_words(v) for v in ticks]}
        # Plotly wants the ends of such an axis as exponents; dots at them need some room.
        axis |= {"range": [math.log10(knob.low) - 0.1, math.log10(knob.high) + 0.1]}
    figure.update_layout(height=240, margin=_MARGIN, xaxis=axis)
    return figure


def _at(knob: Knob, trial: Trial) -> Any:
    value = trial.picked[knob.name]
    return in_words(value) if knob.values else value


def _dots(tuned: Tuned, trials: Sequence[Trial], at: Sequence[Any]) -> go.Scatter:
    # The best is drawn last, above the others.
    order = sorted(range(len(trials)), key=lambda place: trials[place] == tuned.best)
    trials, at = [trials[place] for place in order], [at[place] for place in order]
    return go.Scatter(
        x=at,
        y=[trial.value for trial in trials],
        mode="markers",
        marker={
            "color": [_colour(tuned, trial) for trial in trials],
            "size": [12 if trial.number in (1, tuned.best.number) else 8 for trial in trials],
            "symbol": ["diamond" if trial.number == 1 else "circle" for trial in trials],
        },
        text=[f"trial {trial.number}" if trial.number > 1 else "default" for trial in trials],
        hovertemplate="%{text}: %{x}, %{y:.4f}<extra></extra>",
    )


def _colour(tuned: Tuned, trial: Trial) -> str:
    if trial.number == tuned.best.number:
        return _BEST
    if trial.number == 1:
        return _DEFAULT
    return _PALE if trial.end == "pruned" else _OTHERS


def _lines(tuned: Tuned) -> list[go.Figure]:
    told = _told(tuned)
    # A setting that matters under some others only has no place on some lines.
    names = [
        words.key(knob.name)
        for knob in _by_importance(tuned)
        if all(knob.name in trial.picked for trial in told)
    ]
    if len(told) < 2 or not names:
        return []
    # Optuna draws them in the order of the alphabet.
    names = sorted(names[:_MOST_AXES])
    metric = words.METRICS[tuned.metric]
    figure = optuna.visualization.plot_parallel_coordinate(
        _as_study(tuned, told), params=names, target_name=metric
    )
    labels = [metric, *(name.replace("_", "_<br>", 1) for name in names)]
    figure.update_layout(height=400, margin=_MARGIN, title=None, xaxis={"ticktext": labels})
    return [figure]


def _went(tuned: Tuned) -> list[go.Figure]:
    told = _told(tuned)
    dots = _dots(tuned, told, [trial.number for trial in told])
    pick = min if _is_loss(tuned) else max
    values = [trial.value for trial in told if trial.value is not None]
    best = go.Scatter(
        x=[trial.number for trial in told],
        y=[pick(values[: place + 1]) for place in range(len(values))],
        mode="lines",
        line={"shape": "hv", "color": _BEST},
        hoverinfo="skip",
    )
    figure = go.Figure([best, dots])
    figure.update_layout(height=340, margin=_MARGIN, xaxis={"title": "trial"})
    return [figure]


def _curves(tuned: Tuned) -> list[go.Figure]:
    figure = go.Figure()
    # The best and the default are drawn last, above the others.
    last = (1, tuned.best.number)
    for trial in sorted(_told(tuned), key=lambda trial: trial.number in last):
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(trial.curve) + 1)),
                y=trial.curve,
                mode="lines",
                name="default" if trial.number == 1 else f"trial {trial.number}",
                line={
                    "color": _colour(tuned, trial),
                    "width": 3 if trial.number in last else 1,
                },
            )
        )
    figure.update_layout(height=380, margin=_MARGIN, xaxis={"title": "epoch"})
    return [figure]
