"""A state is of some data, and what is told about others does not get into it."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from servers import Server, serving, until

from databases import Postgres
from processes import warm
from twotower import runs
from twotower.data.interactions import Histories, offsets_of
from twotower.retrieval.recommender import Recommender
from twotower.serving.origin import Origin
from twotower.serving.state import State


def of_other_pairs(recommender: Recommender) -> Recommender:
    """Alike in columns and ids, but everybody met the next item."""
    seen = recommender.seen
    moved = (seen.items % len(recommender.items) + 1).astype(np.int32)
    other = {"data": {**recommender.metrics["data"], "source": "data/other"}}
    return replace(
        recommender,
        seen=Histories(seen.offsets, moved),
        metrics={**recommender.metrics, **other},
    )


def some_of(histories: Histories, is_kept: np.ndarray) -> Histories:
    owners = np.repeat(np.arange(len(histories.lengths())), histories.lengths())
    lengths = np.bincount(owners[is_kept], minlength=len(histories.lengths()))
    return Histories(offsets_of(lengths), histories.items[is_kept])


@pytest.fixture
def place(shelf: Path, tmp_path: Path, one: Recommender) -> Path:
    """A folder of runs, one of them of other data."""
    shutil.copytree(shelf, tmp_path / "runs")
    runs.save(of_other_pairs(one), tmp_path / "runs" / "other")
    return tmp_path / "runs"


def test_the_newest_run_of_a_watched_folder_is_not_the_last_by_name_nor_of_other_data(
    place: Path, one: Recommender, two: Recommender
) -> None:
    runs.save(one, place / "zzz-first")
    runs.save(two, place / "20261201-120000-later")
    with serving(place / "zzz-first", f"--watch {place}") as server:
        until(lambda: answers(server) == "20261201-120000-later", server.process)
        runs.save(of_other_pairs(one), place / "foreign")
        until(lambda: "not loaded" in server.log.read_text(), server.process)
        assert "foreign is of data/other" in server.log.read_text()
        assert answers(server) == "20261201-120000-later"
        runs.save(one, place / "another")
        until(lambda: answers(server) == "another", server.process)
        assert server.log.read_text().count("not loaded") == 1


def test_a_model_is_as_old_as_the_run_says_however_late_it_was_copied(place: Path) -> None:
    os.utime(place / "one" / runs.MANIFEST, (1e9, 1e9))
    with serving(place / "one") as server:
        text = server.ask("GET", "/metrics").body.decode()
    [age] = re.findall(r"^twotower_model_age_seconds (\S+)$", text, re.M)
    assert 0 < float(age) < 3600


def answers(server: Server) -> str:
    """The run that answers."""
    return str(server.ask("GET", "/readyz").json["run"])


class Contract:
    """What every database must do."""

    def test_a_state_of_other_data_is_refused_and_nothing_of_it_is_lost(
        self, place: Path, url: str
    ) -> None:
        told = {"events": [{"id": "a", "user": 100, "item": 501}]}
        with serving(place / "one", f"--state '{url}'") as server:
            assert server.post("/v1/events", told).json["stored"] == 1
        done = warm(f"serve {place / 'other'} --port 0 --state '{url}'", place)
        assert done.code == 2
        for word in ("about other data: data", "other is of data/other", "--state", "--adopt"):
            assert word in " ".join(done.err.split())
        # Runs of the same data go on with it.
        with serving(place / "two", f"--state '{url}'") as server:
            assert server.post("/v1/events", told).json["repeated"] == 1
            refused = server.post("/v1/admin/load", {"run": "other"})
            assert (refused.status, "other data" in refused.json["error"]) == (422, True)
            assert server.ask("GET", "/readyz").json["run"] == "two"

    def test_a_state_that_says_nothing_of_its_data_is_taken_over(
        self, place: Path, url: str, one: Recommender
    ) -> None:
        with closing(State(url)) as state:
            assert state.origin() is None
        with serving(place / "other", f"--state '{url}'"):
            pass
        with closing(State(url)) as state:
            found = state.origin()
        assert found is not None
        assert found.source == "data/other"
        assert not found.is_that_of(one)
        with serving(place / "one", f"--state '{url}' --adopt"):
            pass
        with closing(State(url)) as state:
            assert state.origin() == Origin.of(one)


class TestSqlite(Contract):
    @pytest.fixture
    def url(self, place: Path) -> str:
        return f"sqlite:///{place / 'service.sqlite'}"


class TestPostgres(Contract):
    @pytest.fixture
    def url(self, postgres: Postgres) -> str:
        return postgres.emptied()


def test_data_are_the_same_after_they_grew_or_lost_their_oldest_rows(one: Recommender) -> None:
    count = len(one.seen.items)
    rng = np.random.default_rng(1)
    for share in (0.6, 0.9):
        fewer = replace(one, seen=some_of(one.seen, rng.random(count) < share))
        assert Origin.of(one).is_that_of(fewer)
        assert Origin.of(fewer).is_that_of(one)
    assert not Origin.of(one).is_that_of(of_other_pairs(one))
    assert not Origin.of(of_other_pairs(one)).is_that_of(one)


def test_data_of_other_ids_are_others(one: Recommender) -> None:
    moved = replace(one.users, values=one.users.values + 10_000)
    assert not Origin.of(one).is_that_of(replace(one, users=moved))
