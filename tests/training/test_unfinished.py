from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from twotower import read
from twotower.config import parse_config
from twotower.errors import ConfigError
from twotower.training import unfinished

NOON = datetime(2026, 1, 31, 12)
TABLES: dict[str, Any] = {
    "users": {"user_id": [1, 2, 3], "city": ["Rome", "Rome", "Oslo"], "age": [20, None, 40]},
    "items": {"item_id": ["a", "b", "c"], "tags": [["x"], ["x", "y"], []]},
    "interactions": {
        "user_id": [1, 2, 3, 3],
        "item_id": ["a", "b", "c", "a"],
        "label": [1, 0, 1, 1],
        "weight": [1.0, 2.0, 1.0, 1.0],
        "timestamp": [10, 20, 30, 40],
    },
}
SETTINGS: dict[str, Any] = {"model": {"dropout": 0.2}, "data": {"split": "random"}}


def identity(tables: dict[str, Any] = TABLES, settings: dict[str, Any] = SETTINGS) -> str:
    config = parse_config(settings)
    return unfinished.identity(read(tables, config.data), config)


@cache
def as_it_was() -> str:
    return identity()


class TestIdentity:
    @pytest.mark.parametrize(
        ("table", "column", "row", "value"),
        [
            ("users", "user_id", 0, 4),
            ("users", "city", 2, "Rome"),
            ("users", "city", 2, None),
            ("users", "age", 1, 0),
            ("items", "item_id", 2, "d"),
            ("items", "tags", 2, ["x"]),
            ("items", "tags", 1, ["xy"]),
            ("interactions", "user_id", 0, 2),
            ("interactions", "item_id", 0, "c"),
            ("interactions", "label", 1, 0.25),
            ("interactions", "weight", 1, 2.5),
            ("interactions", "timestamp", 3, 41),
        ],
    )
    def test_any_change_of_the_data_makes_it_another_training(
        self, table: str, column: str, row: int, value: object
    ) -> None:
        changed = deepcopy(TABLES)
        changed[table][column][row] = value
        assert identity(changed) != as_it_was()

    def test_somebody_elses_id_in_the_same_place_makes_it_another(self) -> None:
        renamed = deepcopy(TABLES)
        renamed["users"]["user_id"][0] = renamed["interactions"]["user_id"][0] = 0
        assert identity(renamed) != as_it_was()

    @pytest.mark.parametrize(
        "settings",
        [
            {"model": {"dropout": 0.3}},
            {"training": {"seed": 43}},
            {"training": {"epochs": 7}},
            {"data": {"split": "leave_last"}},
            {"data": {"split": "random", "val_fraction": 0.3}},
            {"data": {"split": "random", "test_fraction": 0.3}},
            {"data": {"split": "random", "columns": {"users": {"city": "text"}}}},
            {"data": {"split": "random", "columns": {"users": {"city": "ignore"}}}},
        ],
    )
    def test_a_setting_that_training_hears_of_makes_it_another(
        self, settings: dict[str, Any]
    ) -> None:
        assert identity(settings={**SETTINGS, **settings}) != as_it_was()

    def test_it_is_the_same_after_any_time_and_whatever_is_measured_afterwards(self) -> None:
        measured = {**SETTINGS, "evaluation": {"k": [5], "bootstrap": 50, "baselines": []}}
        assert identity(settings=measured) == as_it_was()


class TestRunName:
    @pytest.mark.parametrize("name", ["", "a/b", "..\\b", "a\0b", "/", "a" * 500])
    def test_a_name_that_is_none_of_a_directory_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"the run's name .*--name"):
            unfinished.run_name(name, NOON)

    @pytest.mark.parametrize("name", ["lab", "..", "my lab (2)", "été" * 30])
    def test_any_other_is_a_directory_that_can_be_made_and_is_ordered_by_time(
        self, name: str, tmp_path: Path
    ) -> None:
        runs = [unfinished.run_name(name, NOON.replace(hour=hour)) for hour in (9, 10, 11)]
        assert runs == sorted(runs)
        work = unfinished.start(tmp_path, runs[0], "this")
        assert work.parent == tmp_path
        assert unfinished.finished_name(work) == runs[0]


def begin(into: Path, name: str = "lab", *, hour: int = 12, identity: str = "this") -> Path:
    return unfinished.start(into, unfinished.run_name(name, NOON.replace(hour=hour)), identity)


class TestFind:
    def test_the_newest_of_the_same_name_and_training_is_found(self, tmp_path: Path) -> None:
        begin(tmp_path, hour=9)
        newest = begin(tmp_path, hour=11)
        begin(tmp_path, hour=10)
        begin(tmp_path, hour=12, identity="that")
        begin(tmp_path, "my-lab", hour=13)
        begin(tmp_path, "lab2", hour=14)
        older = begin(tmp_path, "l.b", hour=8)
        work, note = unfinished.find(tmp_path, "lab", "this")
        assert work == newest
        assert str(newest) in note
        assert unfinished.find(tmp_path, "l.b", "this")[0] == older

    def test_one_of_other_settings_or_data_is_named_and_left_as_it_is(
        self, tmp_path: Path
    ) -> None:
        other = begin(tmp_path, identity="that")
        (other / "search.safetensors").write_bytes(b"learned")
        work, note = unfinished.find(tmp_path, "lab", "this")
        assert work is None
        assert str(other) in note
        assert "from the beginning" in note
        assert (other / "search.safetensors").read_bytes() == b"learned"

    @pytest.mark.parametrize("prepare", [lambda path: None, lambda path: path.write_text("")])
    def test_where_nothing_is_nothing_is_found(
        self, prepare: Callable[[Path], object], tmp_path: Path
    ) -> None:
        into = tmp_path / "runs"
        prepare(into)
        work, note = unfinished.find(into, "lab", "this")
        assert work is None
        assert "'lab'" in note

    def test_a_folder_without_a_readable_identity_is_nobodys(self, tmp_path: Path) -> None:
        broken = begin(tmp_path)
        for write in (
            lambda: (broken / "identity").write_bytes(b"\xff\xfe"),
            lambda: (broken / "identity").unlink(),
        ):
            write()
            assert unfinished.find(tmp_path, "lab", "this")[0] is None


class TestStart:
    def test_a_run_that_is_there_or_being_trained_is_not_begun_again(
        self, tmp_path: Path
    ) -> None:
        begin(tmp_path)
        with pytest.raises(ConfigError, match=r"already exists; .* give another name"):
            begin(tmp_path)
        (tmp_path / unfinished.run_name("done", NOON)).mkdir()
        with pytest.raises(ConfigError, match="already exists"):
            begin(tmp_path, "done")

    def test_a_place_that_can_not_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=r"file: can not be written .*--into"):
            begin(tmp_path / "file")


class TestLeave:
    @pytest.mark.parametrize(
        ("keep", "learned"), [(True, False), (False, True), (False, False)]
    )
    def test_what_can_not_be_gone_on_from_leaves_no_trace(
        self, keep: bool, learned: bool, tmp_path: Path
    ) -> None:
        work = begin(tmp_path)
        (work / "search.safetensors.writing").write_bytes(b"half")
        if learned:
            (work / "search.safetensors").write_bytes(b"whole")
        assert not unfinished.leave(work, keep_checkpoints=keep)
        assert list(tmp_path.iterdir()) == []

    def test_a_checkpoint_that_is_to_be_kept_is_found_again(self, tmp_path: Path) -> None:
        work = begin(tmp_path)
        (work / "search.safetensors").write_bytes(b"whole")
        assert unfinished.leave(work, keep_checkpoints=True)
        assert unfinished.find(tmp_path, "lab", "this")[0] == work
        assert (work / "search.safetensors").read_bytes() == b"whole"
