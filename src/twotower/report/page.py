"""A recommender and what was measured of it -> one HTML file that needs nothing else.

Everything that comes from data goes through the template's escaping, or into JSON that the
page's script hands to plotly as text. Beside that, the page's own policy allows no script but
the two that are written into it, known by their hashes, and no connection at all.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twotower.data.writing import whole_file
from twotower.errors import RequestError
from twotower.evaluation.words import (
    FEWEST_USERS,
    NAMES,
    for_whom,
    headline,
    main_metrics,
    num_users,
    of_blend,
    of_left_out,
    price,
    slices_of,
    tuned,
)
from twotower.report import tables
from twotower.report.atlas import atlas
from twotower.retrieval.recommender import Recommender
from twotower.watch import Watch

REPORT = "report.html"
WITHOUT_PLOTLY = (
    "it is drawn with plotly, which is not installed: pip install 'twotower[report]'"
)


def can_draw() -> bool:
    """Whether the libraries that draw are there, both of one extra."""
    return all(find_spec(name) is not None for name in ("plotly", "jinja2"))


def write_report(
    recommender: Recommender, path: str | Path, *, measured: Mapping[str, Any] | None = None
) -> Path:
    """Write the page of a recommender; the file appears when it is whole.

    Args:
        path: the HTML file to write; one that is there is replaced.
        measured: what ``evaluate`` gave; None for what training measured.

    Raises:
        RequestError: it can not be written there, or plotly is not installed.
    """
    path = Path(path)
    with whole_file(path) as beside:
        beside.write_bytes(page(recommender, measured))
    return path


def draw(recommender: Recommender, watch: Watch) -> bytes | None:
    """The page of a training; None, and a note, where the libraries that draw are not there."""
    if not can_draw():
        watch.note(f"{REPORT} is left out: {WITHOUT_PLOTLY}, then `twotower report RUN`")
        return None
    watch.stage("report")
    return page(recommender)


def page(recommender: Recommender, measured: Mapping[str, Any] | None = None) -> bytes:
    """The page itself; the same recommender and figures give the same bytes.

    Raises:
        RequestError: plotly is not installed.
    """
    if not can_draw():
        raise RequestError(f"there is no report: {WITHOUT_PLOTLY}")
    import jinja2

    measured = recommender.metrics if measured is None else measured
    style, script, template = (
        files("twotower.report").joinpath(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js", "html")
    )
    plotly, its_hash = _plotly()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # JSON that may stand within a script element, whatever texts it holds.
    environment.filters["json"] = partial(
        jinja2.utils.htmlsafe_json_dumps, allow_nan=False, separators=(",", ":")
    )
    text = environment.from_string(template).render(
        style=style,
        script=script,
        hashes=f"{_hash(script)} {its_hash}",
        plotly=plotly,
        **_content(recommender, measured),
    )
    # Half a character, as broken JSON may hold, is none in UTF-8.
    return text.encode("utf-8", "replace")


@cache
def _plotly() -> tuple[str, str]:
    """Its script, compressed, and the hash by which the page knows it."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    # At 9 it takes a third longer and is 0.2 % shorter.
    packed = gzip.compress(script.encode(), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode(), _hash(script)


def _content(recommender: Recommender, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows, by name."""
    ranking = measured.get("ranking", {})
    chances = measured.get("reliability", [])
    told, how = headline(measured)
    return {
        "title": tables.title(measured),
        "headline": told,
        "outcome": how,
        "is_of_other_data": _sha(measured) != _sha(recommender.metrics),
        "key_figures": list(tables.key_figures(measured)),
        "alarms": measured.get("warnings", []),
        "groups": [
            {
                "name": name,
                "users": num_users(measured, name),
                "is_enough": num_users(measured, name) >= FEWEST_USERS,
                "metric": main_metrics(summary)[0],
                "against": tables.against(summary),
                "table": tables.ranking(measured, name),
                "every": tables.every_metric(summary),
            }
            for name, summary in ranking.items()
        ],
        "price": list(price(measured)),
        "beside": [*of_left_out(measured), *tuned(measured), *of_blend(measured)],
        "for_whom": list(for_whom(measured)),
        "slices": [
            {
                "name": group,
                "against": NAMES[parts[0]["against"]],
                "table": tables.slices(parts, measured["verdict"]["metric"]),
            }
            for group, parts in slices_of(measured).items()
        ],
        "labels": tables.labels(measured),
        "is_of_likes_alone": measured.get("test_auc") is None and bool(ranking),
        "reliability": tables.reliability(chances) if chances else None,
        "popularity": tables.popularity(measured) if "beyond_accuracy" in measured else None,
        "group_items": measured.get("popularity", {}).get("items"),
        "metric": f"val_{recommender.config.training.early_stopping_metric}",
        "best_epoch": recommender.metrics.get("best_epoch"),
        "curves": list(recommender.history),
        "examples": list(tables.examples(recommender, measured)),
        "facts": list(tables.facts(recommender, measured)),
        "config": recommender.config.to_yaml(),
        "atlas": atlas(recommender),
        "figures": _figures(recommender, measured),
    }


def _figures(recommender: Recommender, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Each chart by the name that the template gives its place."""
    from twotower.report import figures

    trained = recommender.metrics
    found = {
        f"curve-{name}": figure
        for name, figure in figures.curves(
            recommender.history, trained.get("best_epoch") or 0, trained.get("start") or {}
        ).items()
    }
    for group, summary in measured.get("ranking", {}).items():
        if num_users(measured, group) >= FEWEST_USERS:
            found[f"scores-{group}"] = figures.scores(summary)
    for group, parts in slices_of(measured).items():
        found[f"slices-{group}"] = figures.slices(parts)
    if measured.get("reliability"):
        found["reliability"] = figures.reliability(measured["reliability"])
    shares = measured.get("popularity", {}).get("shares")
    if shares:
        found["popularity"] = figures.popularity(shares, [tables.BARS[name] for name in shares])
    return {name: figure.to_plotly_json() for name, figure in found.items()}


def _sha(measured: Mapping[str, Any]) -> Any:
    return (measured.get("data") or {}).get("sha256")


def _hash(script: str) -> str:
    """What a content security policy knows a script by."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
