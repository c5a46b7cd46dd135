from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.config import DataConfig, SplitName
from twotower.data.interactions import Interactions
from twotower.data.splits import Split, choose_split, cut, split
from twotower.data.tables import Dataset, read
from twotower.errors import DataError

NAMES: list[SplitName] = [
    "time",
    "leave_last",
    "random_per_user",
    "random",
    "cold_items",
    "cold_users",
]


@st.composite
def logs(draw: st.DrawFn) -> Interactions:
    """Up to 60 rows of few users and items, oldest first, each known by its label."""
    size = draw(st.integers(1, 60))
    of_size = {"min_size": size, "max_size": size}
    users = draw(st.lists(st.integers(1, 8), **of_size))
    items = draw(st.lists(st.integers(1, 8), **of_size))
    times = sorted(draw(st.lists(st.integers(0, 30), **of_size)))
    return Interactions(
        np.array(users, np.int32),
        np.array(items, np.int32),
        np.arange(size, dtype=np.float32),
        np.array(times, np.int64),
    )


fractions = st.sampled_from([0.1, 0.2, 0.5, 0.9])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(logs(), st.sampled_from(NAMES), fractions)
def test_a_cut_parts_the_rows_and_keeps_their_order(
    log: Interactions, name: SplitName, fraction: float
) -> None:
    kept, held = cut(log, name, fraction, rng())
    together = kept.labels.tolist() + held.labels.tolist()
    assert sorted(together) == log.labels.tolist()
    for part in (kept, held):
        assert part.labels.tolist() == sorted(part.labels)


@given(logs(), fractions)
def test_in_a_split_by_time_nothing_later_comes_earlier(
    log: Interactions, fraction: float
) -> None:
    kept, held = cut(log, "time", fraction, rng())
    assert log.times is not None
    assert kept.times is not None
    assert held.times is not None
    assert all(before < after for before, after in product(kept.times, held.times))
    # No more is held out than the share asks for, but for rows of the moment it falls in.
    later = int((log.times > held.times.min()).sum())
    assert later < len(held)
    assert later <= fraction * len(log) <= len(held) + 1


@given(logs(), fractions)
def test_leave_last_holds_out_exactly_the_last_of_each_user_with_several(
    log: Interactions, fraction: float
) -> None:
    _, held = cut(log, "leave_last", fraction, rng())
    expected = []
    for user in range(9):
        rows = [row for row in range(len(log)) if log.user_rows[row] == user]
        expected += rows[-1:] if len(rows) > 1 else []
    assert held.labels.tolist() == sorted(expected)


def test_leave_last_goes_by_time_where_rows_do_not() -> None:
    log = Interactions(
        np.array([1, 1, 1], np.int32),
        np.array([1, 2, 3], np.int32),
        np.ones(3, np.float32),
        np.array([5, 9, 7], np.int64),
    )
    _, held = cut(log, "leave_last", 0.1, rng())
    assert held.item_rows.tolist() == [2]


@given(logs(), fractions)
def test_random_per_user_keeps_a_row_of_each_user_and_holds_out_the_share(
    log: Interactions, fraction: float
) -> None:
    kept, held = cut(log, "random_per_user", fraction, rng())
    assert set(kept.user_rows) == set(log.user_rows)
    for user in set(log.user_rows.tolist()):
        total = int((log.user_rows == user).sum())
        number = int((held.user_rows == user).sum())
        assert min(fraction * total, total - 1) - 1 < number < fraction * total + 1


def test_random_per_user_holds_out_the_share_over_all_users_though_each_has_few() -> None:
    log = Interactions(
        np.repeat(np.arange(1, 4001, dtype=np.int32), 3),
        np.tile(np.arange(1, 4, dtype=np.int32), 4000),
        np.ones(12_000, np.float32),
    )
    _, held = cut(log, "random_per_user", 0.2, rng())
    assert len(held) / len(log) == pytest.approx(0.2, abs=0.01)
    assert np.bincount(held.item_rows)[1:] / len(held) == pytest.approx([1 / 3] * 3, abs=0.05)


@given(logs(), fractions)
def test_random_holds_out_the_share_of_all_rows(log: Interactions, fraction: float) -> None:
    _, held = cut(log, "random", fraction, rng())
    assert len(held) == round(fraction * len(log))


@given(logs(), fractions, st.sampled_from(["items", "users"]))
def test_cold_ones_are_truly_cold(log: Interactions, fraction: float, who: str) -> None:
    kept, held = cut(log, f"cold_{who}", fraction, rng())  # type: ignore[arg-type]
    column = f"{who[:-1]}_rows"
    known, cold = set(getattr(kept, column)), set(getattr(held, column))
    assert not known & cold
    there = len(set(getattr(log, column)))
    assert len(cold) == max(1, round(fraction * there))


@pytest.mark.parametrize("name", ["random_per_user", "random", "cold_items", "cold_users"])
def test_a_seed_gives_one_cut_and_another_seed_another(name: SplitName) -> None:
    log = world().interactions["all"]
    one, same, other = (cut(log, name, 0.2, rng(seed))[1].labels for seed in (1, 1, 2))
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()


def world(*, timed: bool = False, given_test: bool = False) -> Dataset:
    draws = np.random.default_rng(0)
    log = {
        "user_id": draws.integers(0, 30, 600),
        "item_id": draws.permutation(600),
        "label": np.linspace(0, 1, 600, dtype=np.float32),
    }
    if timed:
        log["timestamp"] = draws.permutation(600)
    if given_test:
        parts = {"train": slice(0, 500), "test": slice(500, 600)}
        tables = {n: {c: v[rows] for c, v in log.items()} for n, rows in parts.items()}
        return read(tables)
    return read({"interactions": log})


def labels(parts: Split) -> list[list[float]]:
    every = (parts.train, parts.val, parts.test)
    return [[] if part is None else part.labels.tolist() for part in every]


@pytest.mark.parametrize("name", NAMES)
def test_validation_is_cut_from_train_by_the_same_rule(name: SplitName) -> None:
    dataset = world(timed=True)
    parts = split(dataset, DataConfig(split=name), seed=3)
    train, val, test = labels(parts)
    assert parts.name == name
    assert sorted(train + val + test) == sorted(dataset.interactions["all"].labels.tolist())
    assert min(len(train), len(val), len(test)) > 0
    without = split(dataset, DataConfig(split=name, val_fraction=0.5), seed=3)
    assert labels(without)[2] == test


def test_by_time_validation_lies_between_train_and_test() -> None:
    parts = split(world(timed=True), DataConfig(), seed=3)
    assert parts.test is not None
    times = [part.times for part in (parts.train, parts.val, parts.test)]
    bounds = [(int(t.min()), int(t.max())) for t in times if t is not None]
    assert bounds[0][1] < bounds[1][0] < bounds[1][1] < bounds[2][0]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_split_is_repeatable(seed: int) -> None:
    config = DataConfig(split="random")
    one, again, other = (split(world(), config, seed=s) for s in (seed, seed, seed + 1))
    assert labels(one) == labels(again)
    assert labels(one) != labels(other)


def test_a_given_test_part_stays_and_only_validation_is_cut() -> None:
    dataset = world(given_test=True)
    parts = split(dataset, DataConfig(), seed=3)
    train, val, test = labels(parts)
    assert parts.name == "given"
    assert test == dataset.interactions["test"].labels.tolist()
    assert sorted(train + val) == dataset.interactions["train"].labels.tolist()
    assert val


def parted(new: str, *, groups: int = 1) -> Dataset:
    """Users met all items of their group; the test part asks for what train never met."""
    size = 120 // groups
    pairs = [
        (group * size + user, group * size + item)
        for group in range(groups)
        for user in range(size)
        for item in range(size)
        if (user + item) % 3
    ]

    def is_held(user: int, item: int) -> bool:
        last_group = groups > 1 and user // size == groups - 1
        return {"users": user % 10 == 0, "items": item % 10 == 0, "both": last_group}[new]

    parts: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
    for pair in pairs:
        parts["test" if is_held(*pair) else "train"].append(pair)
    tables = {
        name: {"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows]}
        for name, rows in parts.items()
    }
    return read(tables)


@pytest.mark.parametrize(("new", "groups"), [("users", 1), ("items", 1), ("both", 12)])
def test_where_a_given_test_part_asks_for_new_ones_so_does_validation(
    new: str, groups: int
) -> None:
    parts = split(parted(new, groups=groups), DataConfig(), seed=3)
    met = {
        "users": np.isin(parts.val.user_rows, parts.train.user_rows),
        "items": np.isin(parts.val.item_rows, parts.train.item_rows),
    }
    for who, is_met in met.items():
        is_new = new in {who, "both"}
        assert not is_met.any() if is_new else is_met.all()
    assert 0.05 < len(parts.val) / (len(parts.val) + len(parts.train)) < 0.2


def test_groups_too_few_to_part_are_not_parted() -> None:
    """One of three would be half of what train may keep."""
    parts = split(parted("both", groups=3), DataConfig(), seed=3)
    assert len(np.unique(parts.val.user_rows)) == 8
    assert not np.isin(parts.val.user_rows, parts.train.user_rows).any()
    assert np.isin(parts.val.item_rows, parts.train.item_rows).all()


def test_a_given_validation_part_stays() -> None:
    one = {"user_id": [1], "item_id": [1], "label": [0.25]}
    dataset = read({"train": one, "val": {**one, "label": [0.5]}})
    assert labels(split(dataset, DataConfig(), seed=0)) == [[0.25], [0.5], []]


def test_nothing_is_held_out_for_test_when_its_share_is_zero() -> None:
    parts = split(world(), DataConfig(test_fraction=0), seed=0)
    assert parts.test is None
    assert len(parts.train) + len(parts.val) == 600


@pytest.mark.parametrize(
    ("timed", "given_test", "name"),
    [(True, False, "time"), (False, False, "random_per_user"), (True, True, "given")],
)
def test_auto_takes_the_given_parts_else_time_else_each_users_rows(
    timed: bool, given_test: bool, name: SplitName
) -> None:
    dataset = world(timed=timed, given_test=given_test)
    assert choose_split(dataset, DataConfig()) == name


@pytest.mark.parametrize("name", [*NAMES, "given"])
def test_a_split_that_the_data_does_not_allow_is_refused(name: SplitName) -> None:
    config = DataConfig(split=name)
    if name == "given":
        with pytest.raises(DataError, match="is 'given' but there is no train part; expected"):
            split(world(), config, seed=0)
    else:
        with pytest.raises(DataError, match=r"has its own train part, so data\.split must be"):
            split(world(given_test=True, timed=True), config, seed=0)
    if name == "time":
        with pytest.raises(DataError, match="'time' but no column is a timestamp; declare one"):
            split(world(), config, seed=0)


@pytest.mark.parametrize(
    ("log", "name", "message"),
    [
        (
            {"user_id": [1], "item_id": [1]},
            "random",
            "test split by 'random' leaves test empty",
        ),
        (
            {"user_id": [1, 2], "item_id": [1, 1]},
            "cold_items",
            r"test split by 'cold_items' leaves train empty \(2 rows in all\); give more",
        ),
        (
            {"user_id": [1, 1, 2], "item_id": [1, 2, 1]},
            "leave_last",
            "validation split by 'leave_last' leaves validation empty",
        ),
        (
            {"user_id": [1, 2, 3], "item_id": [1, 2, 1]},
            "random_per_user",
            r"leaves test empty \(3 rows in all\); no user is there twice: .* cold_users",
        ),
        (
            {"user_id": [1, 2], "item_id": [1, 1], "timestamp": [5, 5]},
            "time",
            "test split by 'time' leaves train empty",
        ),
    ],
)
def test_a_part_that_stays_empty_is_refused(
    log: dict[str, list[int]], name: SplitName, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split(read({"interactions": log}), DataConfig(split=name), seed=0)
