"""A feature computed from the interactions is suspected; one that was not is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twotower.data.inspection import inspect
from twotower.data.leaks import counts_rows, leak_suspects, likeness, ranks
from twotower.data.tables import Dataset, read

NUM_ITEMS = 150
rng = np.random.default_rng(0)
# As in life: a few items of many ratings, many of few, some of none; better ones get more.
QUALITY = rng.normal(3.5, 0.6, NUM_ITEMS)
SHARES = rng.pareto(1.2, NUM_ITEMS) + 0.05
MET = rng.choice(NUM_ITEMS, 4000, p=SHARES / SHARES.sum())
RATINGS = np.clip(np.round(2 * (QUALITY[MET] + rng.normal(0, 0.8, 4000))) / 2, 0.5, 5)
COUNTS = np.bincount(MET, minlength=NUM_ITEMS).astype(float)
MEANS = np.array(
    [RATINGS[item == MET].mean() if (item == MET).any() else np.nan for item in range(150)]
)


def world(**features: np.ndarray) -> Dataset:
    log = {"user_id": np.arange(4000) % 211, "item_id": MET, "rating": RATINGS}
    return read({"items": {"item_id": np.arange(NUM_ITEMS), **features}, "interactions": log})


def suspects(dataset: Dataset) -> dict[str, str]:
    every = dataset.interactions["all"]
    return leak_suspects(dataset.items, "item", every, dataset.repeats.values())


COMPUTED: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "their number": (lambda: COUNTS, "number of interactions"),
    "their number's logarithm": (lambda: np.log1p(COUNTS), "number of interactions"),
    "a rank by their number": (lambda: scipy.stats.rankdata(-COUNTS), "number of interactions"),
    "their share": (lambda: COUNTS / 4000, "number of interactions"),
    "the mean rating": (lambda: MEANS, "mean rating"),
    "the mean rating, rounded": (lambda: np.round(MEANS, 1), "mean rating"),
    "the mean rating, unknown ones filled": (
        lambda: np.where(np.isnan(MEANS), np.nanmean(MEANS), MEANS),
        "mean rating",
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_was_computed_from_the_interactions_is_suspected(name: str) -> None:
    make, what = COMPUTED[name]
    assert what in suspects(world(computed=make()))["computed"]


def test_the_share_that_is_liked_is_suspected() -> None:
    labels = (RATINGS >= 4).astype(int)
    means = np.array([labels[item == MET].mean() for item in range(150) if (item == MET).any()])
    present = np.flatnonzero(COUNTS)
    log = {"user_id": np.arange(4000) % 211, "item_id": MET, "label": labels}
    items = {"item_id": present, "liked": means + 1e-3 * rng.normal(size=len(means))}
    assert "mean label" in suspects(read({"items": items, "interactions": log}))["liked"]


INNOCENT: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "noise": lambda draws: draws.normal(size=NUM_ITEMS),
    "skewed noise": lambda draws: draws.pareto(1.0, NUM_ITEMS),
    "the table's order": lambda _: np.arange(NUM_ITEMS) + 0.5,
    "the true quality, which ratings follow": lambda _: QUALITY,
    "another's ratings of the same items": lambda draws: QUALITY + draws.normal(0, 0.3, 150),
    "another's number of the same items": lambda draws: draws.poisson(40 * SHARES) + 0.5,
    "one giant, met most": lambda draws: (
        draws.normal(size=NUM_ITEMS) + 1e6 * (COUNTS.max() == COUNTS)
    ),
    "yes or no": lambda _: (np.median(COUNTS) < COUNTS) * 1.5,
    "mostly missing": lambda _: np.where(np.arange(NUM_ITEMS) < 15, COUNTS, np.nan),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", INNOCENT)
def test_what_was_not_is_innocent(name: str, seed: int) -> None:
    assert suspects(world(innocent=INNOCENT[name](np.random.default_rng(seed)))) == {}


def test_what_was_computed_before_repeats_were_dropped_is_suspected() -> None:
    draws = np.random.default_rng(5)
    user, item = draws.integers(0, 60, 3000), draws.integers(0, 60, 3000)
    label = (draws.random(3000) < 0.5).astype(int)
    log = polars.DataFrame({"user_id": user, "item_id": item, "label": label})
    means = polars.col("label").mean().alias("mean")
    dataset = read(
        {
            "users": log.group_by("user_id").agg(polars.len().cast(float)),
            "items": log.group_by("item_id").agg(polars.len().cast(float), means),
            "interactions": log,
        }
    )
    assert 600 < len(dataset.repeats["all"]) < 1200
    found = inspect(dataset).findings
    assert [f.text.split(" of the ")[0] for f in found if "follows" in f.text] == [
        "users: column 'len' follows the number of interactions (correlation 1.00)",
        "items: column 'len' follows the number of interactions (correlation 1.00)",
        "items: column 'mean' follows the mean label (correlation 1.00)",
    ]


def test_users_are_looked_at_as_items_are() -> None:
    users = np.repeat(np.arange(60), np.arange(60) + 1)
    dataset = read(
        {
            "users": {"user_id": np.arange(60), "visits": np.arange(60) * 2.5 + 2},
            "interactions": {"user_id": users, "item_id": np.arange(len(users)) % 70},
        }
    )
    every = dataset.interactions["all"]
    assert list(leak_suspects(dataset.users, "user", every)) == ["visits"]


numbers = st.integers(-9, 9).map(lambda n: n / 2)
columns = st.integers(20, 60).flatmap(
    lambda size: st.tuples(*[arrays(np.float64, size, elements=numbers)] * 2)
)


@given(columns)
@settings(max_examples=40)
def test_likeness_is_a_correlation_by_rank_or_by_value(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    one, other = drawn
    if min(len(set(one.tolist())), len(set(other.tolist()))) < 3:
        assert likeness(one, other) == 0
        return
    by_rank = abs(scipy.stats.spearmanr(one, other).statistic)
    by_value = abs(scipy.stats.pearsonr(one, other).statistic)
    expected = max(by_rank, by_value) if by_rank > 0.8 else by_rank
    assert likeness(one, other) == pytest.approx(expected, abs=1e-9)


@given(columns)
@settings(max_examples=40)
def test_likeness_is_blind_to_sign_scale_and_what_is_missing(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    one, other = drawn
    plain = likeness(one, other)
    assert likeness(-1e200 * one, other) == pytest.approx(plain, abs=1e-9)
    gap = np.full(5, np.nan)
    with_gaps = likeness(np.r_[one, gap, 1, 2], np.r_[other, [1, 2, 3, 4, 5], np.nan, np.nan])
    assert with_gaps == plain


@given(arrays(np.float64, st.integers(0, 30), elements=numbers))
def test_ranks_are_shared_by_equals(values: np.ndarray) -> None:
    assert ranks(values).tolist() == scipy.stats.rankdata(values).tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.arange(30.0), True),
        (np.arange(7.0, 40.0), True),
        (np.arange(19.0), False),
        (np.arange(30.0)[::-1], False),
        (np.arange(0.0, 60.0, 2.0), False),
        (np.r_[np.arange(29.0), 3.0], False),
        (np.r_[np.arange(10.0), np.nan, np.arange(10.0, 30.0)], True),
    ],
)
def test_a_column_that_counts_rows_is_known_by_its_steps_of_one(
    values: np.ndarray, expected: bool
) -> None:
    assert counts_rows(values) is expected


@pytest.mark.data
@pytest.mark.parametrize("name", ["lab", "ml-100k", "ml-latest-small"])
def test_real_features_are_innocent_and_a_number_of_ratings_is_not(
    data_sets: Path, name: str
) -> None:
    place = data_sets / name
    dataset = read(place)
    for which, part in dataset.interactions.items():
        repeats = [dataset.repeats[which]] if which in dataset.repeats else []
        assert leak_suspects(dataset.users, "user", part, repeats) == {}
        assert leak_suspects(dataset.items, "item", part, repeats) == {}
    if name != "lab":
        log = polars.read_parquet(place / "interactions.parquet")
        items = polars.read_parquet(place / "items.parquet")
        items = items.join(log.group_by("item_id").len("popularity"), on="item_id", how="left")
        items = items.with_columns(polars.col("popularity").cast(polars.Float64) / 7)
        assert list(suspects(read({"items": items, "interactions": log}))) == ["popularity"]
