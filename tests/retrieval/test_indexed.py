"""Answers by way of the approximate index, beside those of the exact search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processes import warm
from twotower import runs
from twotower.errors import RequestError, RunError
from twotower.pipeline import index
from twotower.retrieval.answer import Tally, answer
from twotower.retrieval.changes import ItemRecords
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Answer, Person, Wish
from worlds import crowded

PEOPLE = [Person(user=100 + n) for n in range(120)]
EVERYBODY = set(range(120))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of many items, with an index."""
    place = runs.save(crowded(), tmp_path_factory.mktemp("indexed") / "run")
    index(place, recall=0.97)
    return place


@pytest.fixture(scope="module")
def indexed(run: Path) -> Recommender:
    return replace(runs.load(run), approximate=runs.read_index(run))


def ids(answers: list[Answer]) -> list[list[Any]]:
    return [[each.item for each in found.items] for found in answers]


def both(
    recommender: Recommender, people: list[Person], **wish: Any
) -> tuple[list[list[Any]], list[list[Any]], Tally]:
    """Lists by the index, exact ones, and who was searched for how."""
    tally = Tally()
    given = answer(recommender, people, Wish(**wish), tally=tally)
    true = answer(recommender, people, Wish(**wish), exact=True)
    scores = [{each.item: each.score for each in found.items} for found in (*given, *true)]
    for some, other in zip(scores[: len(people)], scores[len(people) :], strict=True):
        same = some.keys() & other.keys()
        assert [some[i] for i in same] == pytest.approx([other[i] for i in same], abs=1e-4)
    return ids(given), ids(true), tally


def share(given: list[list[Any]], true: list[list[Any]]) -> float:
    same = sum(len(set(a) & set(b)) for a, b in zip(given, true, strict=True))
    return same / sum(map(len, true))


def test_the_index_gives_nearly_the_exact_lists_and_nothing_seen(indexed: Recommender) -> None:
    given, true, tally = both(indexed, PEOPLE, k=10)
    assert tally == Tally(approximate=EVERYBODY)
    assert share(given, true) > 0.97
    for place, items in enumerate(given):
        assert not set(items) & set(indexed.items.of(indexed.seen.of(place + 1)).tolist())


@pytest.mark.parametrize(
    ("kept", "where"),
    [
        (0.5, {"genre": ["jazz", "folk"]}),
        # All of it in a fifth of the clusters, where most people never look.
        (0.2, {"year": {"<": 960}}),
        (0.01, {"year": {"<": 48}}),
        (0.0002, {"year": 7}),
        (0, {"year": {"<": 0}}),
    ],
)
def test_a_filter_never_under_fills(
    indexed: Recommender, kept: float, where: dict[str, Any]
) -> None:
    given, true, tally = both(indexed, PEOPLE, k=60, where=where)
    assert [len(each) for each in given] == [len(each) for each in true]
    # What few items are left for is searched whole; else those who would get short lists.
    assert (tally == Tally()) == (kept < 0.1)
    assert tally.approximate | tally.fallbacks == (EVERYBODY if kept >= 0.1 else set())
    assert true == given or share(given, true) > 0.9


def test_what_the_index_leaves_short_is_searched_exactly_and_counted(
    indexed: Recommender,
) -> None:
    [far] = answer(indexed, PEOPLE[:1], Wish(k=4000), exact=True)
    nothing_near = Person(user=100, exclude=[each.item for each in far.items])
    given, true, tally = both(indexed, [PEOPLE[1], nothing_near, PEOPLE[2]], k=10)
    assert tally == Tally(approximate={0, 2}, fallbacks={1})
    assert given[1] == true[1]
    assert len(given[1]) == 10


def test_whom_popularity_ranks_for_and_lists_longer_than_measured_are_exact(
    indexed: Recommender,
) -> None:
    given, true, tally = both(indexed, [Person(), PEOPLE[0]], k=10)
    assert tally == Tally(approximate={1})
    assert given[0] == true[0]
    for wish in ({"popularity": 0.5}, {"k": 101}):
        given, true, tally = both(indexed, PEOPLE[:5], **wish)
        assert tally == Tally()
        assert given == true


def test_diversity_and_quotas_choose_from_what_the_index_finds(indexed: Recommender) -> None:
    given, true, tally = both(indexed, PEOPLE, k=8, diversity=0.3, at_most={"genre": 2})
    assert tally.approximate == EVERYBODY
    assert all(len(each) == 8 for each in given)
    assert share(given, true) > 0.9


def test_items_are_found_as_soon_as_they_come_and_never_once_they_are_gone(
    indexed: Recommender,
) -> None:
    put = {"genre": "jazz", "year": 1960}
    changed = indexed.add_items(ItemRecords([9999, 510], [put, put]))
    rows = changed.items.rows([9999, 510])
    users = changed.user_vectors.clone()
    # The first two want nothing but what came, and what it became.
    users[1:3, :-1] = 10 * changed.item_vectors[rows][:, :-1]
    changed = replace(changed, user_vectors=users)
    given, true, tally = both(changed, PEOPLE[:2], k=10, include_seen=True)
    assert tally == Tally(approximate={0, 1})
    assert all({9999, 510} <= set(each) for each in given)
    assert share(given, true) > 0.9
    gone = changed.remove_items([9999, 510, true[0][-1]])
    given, _, tally = both(gone, PEOPLE[:2], k=10, include_seen=True)
    assert tally == Tally(approximate={0, 1})
    assert not {9999, 510, true[0][-1]} & {item for each in given for item in each}
    back = gone.add_items(ItemRecords([510], [put]))
    assert 510 in both(back, PEOPLE[:2], k=10, include_seen=True)[0][1]


def test_an_index_is_refused_below_its_mark_and_nothing_is_written(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.glob("*index*")}
    assert len(before) == 2
    with pytest.raises(RequestError, match=r"below the mark 0.99999.*stay exact, or lower"):
        index(run, recall=0.99999)
    assert {path: path.read_bytes() for path in run.glob("*index*")} == before
    assert not list(run.glob(".index*"))


def test_another_index_takes_the_place_of_the_first(run: Path, tmp_path: Path) -> None:
    place = runs.save(crowded(), tmp_path / "run")
    assert runs.read_index(place) is None
    version = runs.version(place)
    done = warm("index run --recall 0.8", tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("run: recall@100 0.")
    first = runs.read_index(place)
    index(place, recall=0.97)
    second = runs.read_index(place)
    assert first is not None
    assert second is not None
    assert first.mark == 0.8
    assert second.mark == 0.97
    assert len(list(place.glob("index-*"))) == 1
    assert runs.version(place) == version
    assert warm("index run --recall 0.99999", tmp_path).code == 2


def test_an_index_that_is_not_this_runs_or_not_whole_is_refused(
    run: Path, tmp_path: Path
) -> None:
    other = replace(crowded(), item_vectors=-crowded().item_vectors)
    place = runs.save(other, tmp_path / "run")
    files = {path.name: path.read_bytes() for path in run.glob("index*")}

    def refusal(**changed: bytes | None) -> str:
        for name, content in {**files, **changed}.items():
            (place / name).write_bytes(content or b"")
        with pytest.raises(RunError) as error:
            runs.read_index(place)
        return str(error.value)

    assert "belongs to other vectors; `twotower index" in refusal()
    [lists] = (name for name in files if name.endswith("faiss"))
    half = files[lists][: len(files[lists]) // 2]
    assert "not whole or was changed" in refusal(**{lists: half})
    fewer = files["index.json"].replace(b'"probes": ', b'"probes": 1')
    assert "not whole or was changed" in refusal(**{"index.json": fewer})
    assert "not whole or was changed" in refusal(**{"index.json": b"[]"})


def test_a_killed_writing_leaves_the_first_index(run: Path) -> None:
    (run / ".index.1234").write_bytes(b"half")
    found = runs.read_index(run)
    assert found is not None
    assert np.isclose(found.mark, 0.97)
    (run / ".index.1234").unlink()
