from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from twotower.evaluation import baselines
from twotower.evaluation.baselines import Factors, IalsSettings, ials, popularity, tuned_ials

SIZE = 12
SETTINGS = IalsSettings(factors=2, regularization=0.1, alpha=5.0, iterations=15)


def checkerboard() -> tuple[np.ndarray, np.ndarray]:
    """Even users met all even items and odd users all odd ones, but nobody their own number."""
    users, items = np.indices((SIZE, SIZE)).reshape(2, -1)
    is_met = ((users + items) % 2 == 0) & (users != items)
    return users[is_met], items[is_met]


def fit(users: np.ndarray, items: np.ndarray, *, seed: int = 0, size: int = SIZE) -> Factors:
    return ials(users, items, num_users=size, num_items=size, seed=seed, **SETTINGS)


class TestPopularity:
    def test_it_scores_an_item_by_its_interactions_for_everybody(self):
        users = np.array([0, 1, 1, 2, 2])
        items = np.array([3, 3, 1, 3, 3])
        factors = popularity(users, items, num_users=4, num_items=5)
        scores = factors.users @ factors.items.T
        assert scores.tolist() == [[0, 1, 0, 4, 0]] * 4

    def test_it_is_float32_and_says_its_name(self):
        factors = popularity(np.array([0]), np.array([0]), num_users=1, num_items=1)
        assert factors.users.dtype == factors.items.dtype == np.float32
        assert (factors.name, factors.settings) == ("popularity", {})

    def test_no_interactions_are_refused(self):
        nobody = np.zeros(0, dtype=np.int64)
        with pytest.raises(ValueError, match="at least one interaction"):
            popularity(nobody, nobody, num_users=2, num_items=2)


class TestIals:
    def test_it_fills_the_holes_of_a_checkerboard(self):
        factors = fit(*checkerboard())
        scores = factors.users @ factors.items.T
        is_own_colour = np.indices((SIZE, SIZE)).sum(axis=0) % 2 == 0
        # The diagonal was withheld: each user's must outscore all items of the other colour.
        assert scores.diagonal().min() > 0.8
        assert scores[~is_own_colour].max() < 0.2

    def test_its_items_solve_the_stated_least_squares(self):
        rng = np.random.default_rng(0)
        met = rng.random((9, 7)) < 0.4
        users, items = np.nonzero(met)
        settings = IalsSettings(factors=3, regularization=0.7, alpha=4.0, iterations=5)
        found = ials(users, items, num_users=9, num_items=7, seed=0, **settings)
        known = found.users.astype(np.float64)
        for item in range(7):
            weight = np.diag(np.where(met[:, item], 4.0, 1.0))
            left = known.T @ weight @ known + 0.7 * np.eye(3)
            solution = np.linalg.solve(left, known.T @ weight @ met[:, item])
            np.testing.assert_allclose(found.items[item], solution, atol=1e-4)

    def test_its_seed_decides_its_factors(self):
        board = checkerboard()
        one, same, other = fit(*board, seed=1), fit(*board, seed=1), fit(*board, seed=2)
        assert np.array_equal(one.users, same.users)
        assert np.array_equal(one.items, same.items)
        assert not np.array_equal(one.users, other.users)

    def test_repeated_pairs_and_their_order_change_nothing(self):
        users, items = checkerboard()
        order = np.random.default_rng(0).permutation(2 * len(users))
        doubled = fit(np.tile(users, 2)[order], np.tile(items, 2)[order])
        assert np.array_equal(doubled.users, fit(users, items).users)

    def test_rows_never_met_have_zero_vectors(self):
        users, items = checkerboard()
        factors = fit(users + 1, items + 1, size=SIZE + 3)
        for vectors in (factors.users, factors.items):
            assert vectors.shape == (SIZE + 3, 2)
            assert not vectors[[0, -2, -1]].any()
            assert np.isfinite(vectors).all()
            assert vectors[1 : SIZE + 1].any(axis=1).all()

    def test_it_is_float32_and_says_how_it_was_made(self):
        factors = fit(*checkerboard())
        assert factors.users.dtype == factors.items.dtype == np.float32
        assert (factors.name, factors.settings) == ("ials", SETTINGS)
        assert factors.seconds > 0

    def test_it_is_quiet(self, capfd, monkeypatch):
        # The solver warns of BLAS threads once a process; warnings are errors in these tests.
        monkeypatch.setattr("implicit.utils._checked_blas_config", False)
        fit(*checkerboard())
        assert capfd.readouterr() == ("", "")

    def test_no_interactions_are_refused(self):
        nobody = np.zeros(0, dtype=np.int64)
        with pytest.raises(ValueError, match="at least one interaction"):
            fit(nobody, nobody)


class TestTunedIals:
    def tune(self, score, *, budget_seconds=math.inf, clock=lambda: 0.0):
        return tuned_ials(
            *checkerboard(),
            score,
            num_users=SIZE,
            num_items=SIZE,
            budget_seconds=budget_seconds,
            seed=0,
            clock=clock,
        )

    @pytest.mark.parametrize(
        ("budget_seconds", "num_trials"), [(0.0, 1), (10.0, 1), (19.0, 1), (20.0, 2), (35.0, 3)]
    )
    def test_it_keeps_to_its_budget_but_tries_once(self, budget_seconds, num_trials):
        now = 0.0

        def ten_seconds(_: Factors) -> float:
            nonlocal now
            now += 10
            return 0.0

        _, trials = self.tune(ten_seconds, budget_seconds=budget_seconds, clock=lambda: now)
        assert [trial.seconds for trial in trials] == [10.0] * num_trials

    def test_it_tries_once_even_when_the_time_is_spent_before_it_begins(self):
        ticking = itertools.count(0.0).__next__
        _, trials = self.tune(lambda _: 0.5, budget_seconds=0.0, clock=ticking)
        assert len(trials) == 1

    def test_it_climbs_to_the_best_settings_and_returns_them(self):
        # Several steps from each first setting.
        peak = {"factors": 128, "regularization": 160.0, "alpha": 10.0}

        def height(factors: Factors) -> float:
            return -sum(abs(math.log2(factors.settings[name] / peak[name])) for name in peak)

        settings, trials = self.tune(height)
        assert settings == {**peak, "iterations": 12}
        best = max(trials, key=lambda trial: trial.score)
        assert (best.settings, best.score) == (settings, 0.0)

    def test_it_tries_nothing_twice_and_ends_without_a_budget(self):
        _, trials = self.tune(lambda _: 0.5)
        tried = [tuple(trial.settings.values()) for trial in trials]
        assert len(tried) == len(set(tried)) == len(baselines.FIRST_SETTINGS) + 6

    def test_it_does_not_grow_without_end(self, monkeypatch):
        monkeypatch.setattr(baselines, "MOST_FACTORS", 128)
        settings, _ = self.tune(lambda factors: float(factors.settings["factors"]))
        assert settings["factors"] == 128

    def test_its_settings_fit_the_same_factors_again(self):
        seen: list[Factors] = []

        def first_is_best(factors: Factors) -> float:
            seen.append(factors)
            return -float(len(seen))

        settings, _ = self.tune(first_is_best)
        again = ials(*checkerboard(), num_users=SIZE, num_items=SIZE, seed=0, **settings)
        assert np.array_equal(again.users, seen[0].users)

    def test_it_refuses_a_score_that_is_not_a_number(self):
        with pytest.raises(ValueError, match=r"score of .* is nan"):
            self.tune(lambda _: math.nan)
