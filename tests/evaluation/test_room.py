"""Baselines that do not fit are left out, which is said before the work and in the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import twotower
import worlds
from twotower.config import parse_config
from twotower.evaluation.room import Size, bytes_to_fit, left_out, what_fits
from twotower.evaluation.tuning import Search, searches
from twotower.evaluation.words import of_left_out
from twotower.watch import Watch

SHOP = Size(users=50_000, items=15_000, rows=2_000_000)


class Notes(Watch):
    def __init__(self) -> None:
        self.found: list[str] = []

    def note(self, text: str) -> None:
        self.found.append(text)

    def stage(self, name: str, total: int | None = None) -> None:
        self.found.append(f"stage {name}")


def said(names: list[str], gib: float, size: Size = SHOP) -> dict[str, str]:
    return left_out(names, size, parse_config({"data": {"memory_gib": gib}}))


def test_what_is_too_large_says_what_it_takes_and_what_to_do() -> None:
    [why] = said(["popularity", "ease", "ials", "item_knn"], 1.5).values()
    assert why == (
        "it takes about 1.7 GiB of memory for 15,000 items, and 1.5 GiB are free; raise "
        "data.memory_gib, use a machine with more, or leave out items that were hardly met"
    )
    assert not said(["popularity", "ease", "ials", "item_knn"], 2)


def test_too_many_items_for_ease_is_said_beforehand_too() -> None:
    found = said(["ease"], 1000, Size(users=1, items=20_001, rows=1))
    assert "all pairs of 20,001 items; up to 20,000" in found["ease"]


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease", "ials"])
def test_more_of_anything_never_takes_less(name: str) -> None:
    settings = {"neighbours": 100, "factors": 64}
    small = bytes_to_fit(name, settings, SHOP)
    for size in (Size(99_000, 15_000, 2_000_000), Size(50_000, 19_000, 2_000_000)):
        assert bytes_to_fit(name, settings, size) >= small


def test_tuning_passes_over_settings_that_do_not_fit() -> None:
    fits = what_fits("ials", SHOP, parse_config({"data": {"memory_gib": 0.1}}))
    tried = [fits({"factors": factors}) for factors in (64, 128, 256, 512)]
    assert tried == [True, True, False, False]


def small(**sections: dict[str, Any]) -> Any:
    baselines = {"baselines": ["popularity", "ease"], "bootstrap": 10}
    return worlds.settings(training={"epochs": 1}, evaluation=baselines, **sections)


@pytest.fixture
def no_room_for_ease(monkeypatch: pytest.MonkeyPatch) -> None:
    from twotower.evaluation import room

    whole = room.bytes_to_fit
    monkeypatch.setattr(
        room, "bytes_to_fit", lambda name, *a: 2.0**50 if name == "ease" else whole(name, *a)
    )


@pytest.mark.usefixtures("no_room_for_ease")
def test_training_says_so_before_it_begins_and_the_verdict_names_it() -> None:
    watch = Notes()
    found = twotower.fit(worlds.checkerboard(), small(), watch=watch).metrics
    told = [line for line in watch.found if line.startswith("EASE is left out: it takes")]
    assert len(told) == 1
    assert watch.found.index(told[0]) < watch.found.index("stage training")
    assert set(found["baselines"]) == set(found["verdict"]["against"]) == {"popularity"}
    [line] = of_left_out(found)
    assert line.startswith("Left out: EASE; it takes about 1,024.0 TiB of memory for ")


@pytest.mark.usefixtures("no_room_for_ease")
def test_it_does_not_stand_beside_the_towers_either() -> None:
    watch = Notes()
    config = small(model={"blend": "auto"})
    found = twotower.fit(worlds.checkerboard(), config, watch=watch)
    assert any(line.startswith("model.blend: EASE is left out") for line in watch.found)
    assert "stage EASE beside the towers" not in watch.found
    assert "stage item-kNN beside the towers" in watch.found
    assert found.metrics["blend"]["asked"] == "auto"


def test_evaluation_alone_says_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    from twotower.evaluation import room

    recommender = twotower.fit(worlds.checkerboard(), small())
    assert not recommender.metrics["left_out"]
    monkeypatch.setattr(room, "available_bytes", lambda _: 1)
    watch = Notes()
    found = twotower.evaluate(recommender, worlds.checkerboard(), watch=watch)
    assert list(found["left_out"]) == ["popularity", "ease"]
    assert any(line.startswith("EASE is left out") for line in watch.found)


def test_an_ease_that_can_not_be_tried_twice_in_time_is_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twotower.evaluation import opponents

    slow = {"ease": 16.0}

    def foretold(*args: Any, **settings: Any) -> dict[str, Search]:
        found = searches(*args, **settings)
        return {**found, "ease": replace(found["ease"], foretell=lambda _: slow["ease"])}

    monkeypatch.setattr(opponents, "searches", foretold)
    watch = Notes()
    found = twotower.fit(worlds.checkerboard(), small(), watch=watch).metrics
    assert found["baselines"]["ease"]["trials"] == 0
    assert found["baselines"]["ease"]["ridge"] == 200
    [line] = [line for line in watch.found if line.startswith("EASE is not tuned")]
    assert "30 s of evaluation.baseline_seconds" in line
    slow["ease"] = 14.0
    again = twotower.fit(worlds.checkerboard(), small()).metrics
    assert again["baselines"]["ease"]["trials"] > 1
