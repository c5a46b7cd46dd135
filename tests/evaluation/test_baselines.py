from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.interactions import Interactions
from twotower.evaluation.baselines import (
    MICROSECONDS_A_DAY,
    ease,
    ials,
    item_knn,
    popularity,
    recent_popularity,
)
from twotower.evaluation.rankers import Ranker

SIZE = 12
SIZES = {"num_users": SIZE + 1, "num_items": SIZE + 1}
IALS = {"factors": 2, "regularization": 0.1, "alpha": 5.0, "iterations": 15, "seed": 0}
FITS: dict[str, Callable[[Interactions], Ranker]] = {
    "popularity": lambda met: popularity(met, **SIZES),
    "recent_popularity": lambda met: recent_popularity(met, **SIZES, half_life_days=2.0),
    "item_knn": lambda met: item_knn(met, **SIZES, neighbours=5, weighting="cosine"),
    "ease": lambda met: ease(met, **SIZES, ridge=2.0),
    "ials": lambda met: ials(met, **SIZES, **IALS),  # type: ignore[arg-type]
}
PERSONAL = ["item_knn", "ease", "ials"]
pairs_of = st.lists(
    st.tuples(st.integers(1, SIZE), st.integers(1, SIZE)), min_size=1, max_size=40, unique=True
)


def log(pairs: list[tuple[int, int]], days: list[float] | None = None) -> Interactions:
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    times = np.array(days if days is not None else range(len(pairs)), np.float64)
    ones = np.ones(len(pairs), np.float32)
    return Interactions(users, items, ones, (times * MICROSECONDS_A_DAY).astype(np.int64))


def checkerboard() -> Interactions:
    """Even users met all even items and odd users all odd ones, but nobody their own number."""
    users, items = np.indices((SIZE, SIZE)).reshape(2, -1) + 1
    is_met = ((users + items) % 2 == 0) & (users != items)
    return log(list(zip(users[is_met].tolist(), items[is_met].tolist(), strict=True)))


def scores(ranker: Ranker) -> np.ndarray:
    """Of all users but row 0."""
    found: np.ndarray = ranker.scores(np.arange(1, SIZE + 1)).numpy()
    return found


@pytest.mark.parametrize("name", FITS)
class TestEachBaseline:
    def test_it_says_its_name_and_how_long_it_took(self, name: str) -> None:
        ranker = FITS[name](checkerboard())
        assert ranker.name == name
        assert ranker.seconds > 0
        assert ranker.knows_the_new == ("popularity" in name)

    def test_its_scores_are_float32_and_a_tensor_of_their_own(self, name: str) -> None:
        ranker = FITS[name](checkerboard())
        first = ranker.scores(np.array([1, 2]))
        assert (first.shape, first.numpy().dtype) == ((2, SIZE), np.float32)
        kept = first.clone()
        first.fill_(np.nan)
        assert np.array_equal(ranker.scores(np.array([1, 2])).numpy(), kept.numpy())

    def test_the_order_of_rows_changes_nothing(self, name: str) -> None:
        met = checkerboard()
        order = np.random.default_rng(0).permutation(len(met))
        one, other = FITS[name](met), FITS[name](met.take(order))
        np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)

    def test_whoever_was_never_met_gets_numbers_all_the_same(self, name: str) -> None:
        assert np.isfinite(scores(FITS[name](log([(1, 1), (1, 2), (2, 2)])))).all()


@pytest.mark.parametrize("name", PERSONAL)
class TestPersonalBaselines:
    def test_it_fills_the_holes_of_a_checkerboard(self, name: str) -> None:
        found = scores(FITS[name](checkerboard()))
        is_own_colour = np.indices((SIZE, SIZE)).sum(axis=0) % 2 == 0
        # The diagonal was withheld: each user's must outscore all items of the other colour.
        assert found.diagonal().min() > 2 * abs(found[~is_own_colour]).max()

    def test_a_pair_met_twice_counts_once(self, name: str) -> None:
        met = checkerboard()
        np.testing.assert_allclose(
            scores(FITS[name](met.followed_by(met.take(np.arange(9))))),
            scores(FITS[name](met)),
            atol=1e-5,
        )


class TestPopularity:
    def test_it_scores_an_item_by_its_interactions_for_everybody(self) -> None:
        met = log([(1, 4), (2, 4), (2, 2), (3, 4), (3, 4)])
        expected = np.zeros((SIZE, SIZE))
        expected[:, 3], expected[:, 1] = 4, 1
        assert np.array_equal(scores(FITS["popularity"](met)), expected)

    def test_what_happened_a_half_life_before_the_last_counts_half(self) -> None:
        met = log([(1, 1), (1, 2), (2, 1), (2, 3)], days=[4, 6, 8, 8])
        found = scores(FITS["recent_popularity"](met))
        assert found[0, :3].tolist() == [1.25, 0.5, 1.0]
        assert (found == found[0]).all()

    def test_recent_popularity_wants_times(self) -> None:
        with pytest.raises(ValueError, match="times"):
            FITS["recent_popularity"](checkerboard().without_times())


class TestItemKnn:
    @settings(deadline=None)
    @given(pairs_of)
    def test_with_neighbours_to_spare_its_score_is_the_sum_of_cosines(
        self, pairs: list[tuple[int, int]]
    ) -> None:
        met = np.zeros((SIZE, SIZE))
        met[tuple(np.array(pairs).T - 1)] = 1
        length = np.sqrt(met.sum(0)).clip(min=1)
        cosine = met.T @ met / length / length[:, None]
        ranker = item_knn(log(pairs), **SIZES, neighbours=SIZE, weighting="cosine")
        np.testing.assert_allclose(scores(ranker), met @ cosine, atol=1e-5)

    def test_only_the_nearest_count(self) -> None:
        # Item 1 shares three users with item 2, one with 3.
        met = log([(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2), (3, 3), (4, 1)])
        near = item_knn(met, **SIZES, neighbours=1, weighting="cosine")
        far = item_knn(met, **SIZES, neighbours=2, weighting="cosine")
        assert scores(near)[3, 1] == pytest.approx(scores(far)[3, 1]) != 0
        assert scores(near)[3, 2] == 0 != scores(far)[3, 2]

    @pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
    def test_weighting_changes_scores(self, weighting: str) -> None:
        met = log([(u, i) for u in range(1, SIZE + 1) for i in range(1, SIZE + 1) if u >= i])
        plain = item_knn(met, **SIZES, neighbours=SIZE, weighting="cosine")
        other = item_knn(met, **SIZES, neighbours=SIZE, weighting=weighting)
        assert not np.allclose(scores(plain), scores(other))


class TestEase:
    @settings(deadline=None)
    @given(pairs_of, st.sampled_from([0.5, 10.0, 300.0]))
    def test_its_weights_solve_the_stated_least_squares(
        self, pairs: list[tuple[int, int]], ridge: float
    ) -> None:
        met = np.zeros((SIZE, SIZE))
        met[tuple(np.array(pairs).T - 1)] = 1
        # Item by item: the ridge regression of the item on all others.
        expected = np.zeros((SIZE, SIZE))
        for item in range(SIZE):
            others = np.delete(np.arange(SIZE), item)
            left = met[:, others].T @ met[:, others] + ridge * np.eye(SIZE - 1)
            right = met[:, others].T @ met[:, item]
            expected[others, item] = np.linalg.solve(left, right)
        ranker = ease(log(pairs), **SIZES, ridge=ridge)
        np.testing.assert_allclose(scores(ranker), met @ expected, atol=1e-4)


class TestIals:
    def fit(self, met: Interactions, **changes: Any) -> Any:
        return ials(met, **{**SIZES, **IALS, **changes})

    def test_its_items_solve_the_stated_least_squares(self) -> None:
        rng = np.random.default_rng(0)
        is_met = rng.random((SIZE, SIZE)) < 0.4
        users, items = np.nonzero(is_met)
        met = log(list(zip((users + 1).tolist(), (items + 1).tolist(), strict=True)))
        found = self.fit(met, factors=3, regularization=0.7, alpha=4.0, iterations=5)
        known = found.users[1:].astype(np.float64)
        for item in range(SIZE):
            weight = np.diag(np.where(is_met[:, item], 4.0, 1.0))
            left = known.T @ weight @ known + 0.7 * np.eye(3)
            solution = np.linalg.solve(left, known.T @ weight @ is_met[:, item])
            np.testing.assert_allclose(found.items[item + 1], solution, atol=1e-4)

    def test_its_seed_decides_its_factors(self) -> None:
        one, same, other = (self.fit(checkerboard(), seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(one.users, same.users)
        assert np.array_equal(one.items, same.items)
        assert not np.array_equal(one.users, other.users)

    def test_rows_never_met_have_zero_vectors(self) -> None:
        found = self.fit(log([(1, 1), (2, 1), (2, 2)]))
        assert not found.users[[0, 3, SIZE]].any()
        assert not found.items[[0, 3, SIZE]].any()
        assert found.users[1:3].any(axis=1).all()

    def test_it_is_quiet(self, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        # The solver warns of BLAS threads once a process; warnings are errors in these tests.
        monkeypatch.setattr("implicit.utils._checked_blas_config", False)
        self.fit(checkerboard())
        assert capfd.readouterr() == ("", "")
