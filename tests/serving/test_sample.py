"""Live recall of an approximate index: measured beside the requests, of a real service."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Server, serving

from twotower import runs
from twotower.pipeline import index
from twotower.retrieval.answer import Tally, answer
from twotower.retrieval.approximate import ApproximateIndex
from twotower.retrieval.changes import Recent
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Answer, Person, Recommended, Wish
from twotower.serving.metrics import Metrics
from twotower.serving.sample import Sample
from twotower.serving.service import Service
from twotower.serving.state import State
from worlds import crowded

PEOPLE = [Person(user=100 + n) for n in range(8)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = runs.save(crowded(), tmp_path_factory.mktemp("sampled") / "runs" / "one")
    index(place, recall=0.97)
    return place


def metric(server: Server, name: str) -> float:
    text = server.ask("GET", "/metrics").body.decode()
    [value] = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
    return float(value)


def sampled(metrics: Metrics, recommender: Recommender, requests: int) -> list[float]:
    """What the gauge says after each of so many requests, each second one looked at."""
    sample = Sample(metrics, every=2, fewest=16)
    sample.of(recommender)
    shown = [metrics.value("index_recall")]
    for _ in range(requests):
        tally = Tally()
        given = answer(recommender, PEOPLE, Wish(), tally=tally)
        sample.look(recommender, PEOPLE, Wish(), Recent(), given, tally)
        while sample._busy.locked():
            time.sleep(0.001)
        shown.append(metrics.value("index_recall"))
    return shown


def test_the_gauge_shows_the_build_and_then_what_requests_really_got(run: Path) -> None:
    built = runs.read_index(run)
    assert built is not None
    # As few lists as there can be, of which the build does not know.
    worse = replace(built, probes=1)
    recommender = replace(runs.load(run), approximate=worse)
    wish = Wish()
    given, true = (answer(recommender, PEOPLE, wish, exact=exact) for exact in (False, True))
    same = [
        len({i.item for i in some.items} & {i.item for i in each.items})
        for some, each in zip(given, true, strict=True)
    ]
    metrics = Metrics()
    shown = sampled(metrics, recommender, 4)
    assert shown[:4] == [built.recall] * 4
    assert shown[4] == pytest.approx(np.mean(same) / 10)
    assert shown[4] < built.recall
    assert metrics.value("index_recall_mark") == 0.97


def test_an_index_below_its_mark_is_searched_no_more_until_there_is_another(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(run.parent, State("sqlite://"), Metrics())
    service.start(run)
    service._sample = Sample(service.metrics, every=1, fewest=16)
    whole = service.served
    built, other = runs.read_index(run), runs.read_index(run)
    assert built is not None
    assert other is not None

    def ids(lists: list[Answer]) -> list[list[Any]]:
        return [[each.item for each in one.items] for one in lists]

    def ask(index: ApproximateIndex, times: int) -> list[bool]:
        """Whether all lists of each request were the exact ones."""
        recommender = replace(whole.recommender, approximate=index)
        if service.served.recommender.approximate is not index:
            service._serve(replace(whole, recommender=recommender))
        true = ids(answer(recommender, PEOPLE, Wish(), exact=True))
        same = []
        for _ in range(times):
            same.append(ids(service.recommend(PEOPLE, Wish())[1]) == true)
            while service._sample._busy.locked():
                time.sleep(0.001)
        return same

    fine = replace(built, probes=built.inverted.nlist)
    worse = replace(other, probes=1)
    assert all(ask(fine, 4))
    assert service.metrics.value("index_refused") == 0
    same = ask(worse, 60)
    assert not same[0]
    assert same[-1]
    assert service.metrics.value("index_refused") == 1
    assert caplog.text.count("below its mark") == 1
    lists = service.metrics.value("approximate_lists_total")
    assert all(ask(worse, 2))
    assert service.metrics.value("approximate_lists_total") == lists
    assert all(ask(fine, 2))
    assert service.metrics.value("index_refused") == 0
    assert service.metrics.value("approximate_lists_total") == lists + 2 * len(PEOPLE)


def test_an_index_at_its_mark_is_not_refused_by_chance(run: Path) -> None:
    built = runs.read_index(run)
    assert built is not None
    recommender = replace(runs.load(run), approximate=built)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(20):
        sample = Sample(Metrics())
        sample.of(recommender)
        for found in rng.binomial(10, built.mark, size=2000).tolist():
            given = [Answer(None, [], [], [Recommended(n, 0.0, None) for n in range(found)])]
            true = [Answer(None, [], [], [Recommended(n, 0.0, None) for n in range(10)])]
            sample._add(recommender, given, true)
        refused += sample.refuses
    assert refused <= 1


def test_without_an_index_nothing_is_looked_at(run: Path) -> None:
    metrics = Metrics()
    assert sampled(metrics, runs.load(run), 4) == [1.0] * 5
    assert metrics.value("index_recall_mark") == 0


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with serving(run) as server:
        yield server


def test_a_service_searches_the_index_of_its_run_and_counts(server: Server) -> None:
    before = metric(server, "twotower_approximate_lists_total")
    true = answer(crowded(), [PEOPLE[3]], Wish(k=10))[0]
    found = server.items_of(103, k=10)
    assert len(set(found) & {each.item for each in true.items}) >= 9
    assert metric(server, "twotower_approximate_lists_total") == before + 1
    assert metric(server, "twotower_filter_fallbacks_total") == 0
    every = [each.item for each in answer(crowded(), PEOPLE[:1], Wish(k=1000))[0].items]
    most = server.items_of(100, k=10, exclude=every, where={"year": {"<": 4700}})
    assert len(most) == 10
    assert not set(most) & set(every)
    assert metric(server, "twotower_index_recall_mark") == 0.97
    assert metric(server, "twotower_index_recall") >= 0.97


def test_an_index_that_does_not_belong_to_the_run_is_left_aside_with_a_word(
    run: Path, tmp_path: Path
) -> None:
    place = tmp_path / "runs" / "two"
    shutil.copytree(run, place)
    entry = json.loads((place / "index.json").read_text())
    (place / "index.json").write_text(json.dumps({**entry, "probes": 1}))
    with serving(place) as server:
        assert len(server.items_of(103, k=10)) == 10
        assert metric(server, "twotower_approximate_lists_total") == 0
        assert metric(server, "twotower_index_recall") == 1
        [line] = (each for each in server.lines() if each.get("why"))
    assert "the index is not whole or was changed" in line["why"]


def test_without_faiss_a_service_searches_exactly(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from twotower.serving.served import load

    monkeypatch.setitem(sys.modules, "faiss", None)
    assert load(run).recommender.approximate is None
    assert "searching exactly" in caplog.text
