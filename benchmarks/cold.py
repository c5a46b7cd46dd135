"""New items and new people without retraining, beside the same after retraining.

Held out whole are a tenth of the items that ten people met, and a tenth of the people. Half of
what is known of each is what comes in time; the other half is to be found. Towers learn from
the rest: then the items are put by their features (``add_items``) and the people asked for by
features, by the first half as a history, or by both (``encode_person``). Retrained, towers
learn from the first half too. Both find the same second half, and never what the first holds.

A new item is looked for in the lists of people that training met, a new person's items among
those that training met. Each meeting counts, whatever its rating.

    TWOTOWER_DATA=... python -m benchmarks.cold [NAME ...] [--seeds 42 43 ...]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.public import asked
from twotower import Recommender, fit, parse_config
from twotower.data.interactions import Interactions, histories
from twotower.evaluation import evaluate as ev

SHARE, K = 0.1, 10
# As many for all, so that a set takes a few minutes.
EPOCHS = 10
FEATURES: Mapping[str, Sequence[str]] = {
    "ml-latest-small": ("title", "genres", "year"),
    "ml-100k": ("title", "genres", "year"),
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "the defaults": {},
    "for new items": {
        "data": {"split": "cold_items", "test_fraction": 0},
        "model": {"item_ids": False},
    },
}
Values = Mapping[str, np.ndarray]
Ways = dict[str, Values]
"""Of each way to know, the metrics; a value a person."""
Scorer = Callable[[np.ndarray], Tensor]
"""Ids of people -> a score for each item."""


@dataclass(frozen=True)
class World:
    """Tables, and whatever is new in them.

    Attributes:
        before: meetings of known people with known items.
        known: the first half of what is known of each new item and each new person.
        new_items, new_people: meetings to be found: of known people with new items, and of new
            people with known items.
    """

    items: pd.DataFrame
    users: pd.DataFrame | None
    before: pd.DataFrame
    known: pd.DataFrame
    new_items: pd.DataFrame
    new_people: pd.DataFrame

    def tables(self, *, retrained: bool) -> dict[str, Any]:
        """What towers learn from."""
        rows = pd.concat([self.before, self.known]) if retrained else self.before
        tables = {"items": self.items, "interactions": rows}
        if self.users is not None:
            tables["users"] = self.users
        if retrained:
            return tables
        for side in tables.keys() & {"items", "users"}:
            column = f"{side[:-1]}_id"
            table = tables[side]
            tables[side] = table[~table[column].isin(self._new(column))]
        return tables

    def put(self, recommender: Recommender) -> Recommender:
        """With the new items."""
        is_new = self.items["item_id"].isin(self._new("item_id"))
        return recommender.add_items(self.items[is_new])

    def _new(self, column: str) -> set[Any]:
        return set(self.known[column]) - set(self.before[column])


def world(folder: Path, name: str, seed: int) -> World:
    rows = pd.read_parquet(folder / name / "interactions.parquet")[["user_id", "item_id"]]
    items = pd.read_parquet(folder / name / "items.parquet")
    users = pd.read_parquet(folder / name / "users.parquet")
    rng = np.random.default_rng(seed)
    # Half of fewer than ten says little.
    often = rows["item_id"].value_counts()
    there = {
        "item_id": np.sort(often.index[often >= 10]),
        "user_id": np.sort(rows["user_id"].unique()),
    }
    chosen = {
        column: rng.choice(ids, round(SHARE * len(ids)), replace=False)
        for column, ids in there.items()
    }
    of_item, of_user = (rows[column].isin(chosen[column]) for column in ("item_id", "user_id"))
    # Of a new person with a new item nothing is asked.
    rows = rows[~(of_item & of_user)]
    is_first = pd.Series(rng.permutation(len(rows)) % 2 == 0, rows.index)
    of_item, of_user = of_item[rows.index], of_user[rows.index]
    is_new = of_item | of_user
    return World(
        items[["item_id", *FEATURES[name]]],
        users[["user_id", "age", "gender", "occupation"]] if "age" in users else None,
        rows[~is_new],
        rows[is_new & is_first],
        rows[of_item & ~is_first],
        rows[of_user & ~is_first],
    )


def fitted(tables: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Recommender:
    """Towers that hold nothing out for a test of their own."""
    config: dict[str, Any] = {
        "data": {"split": "random_per_user", "test_fraction": 0},
        "training": {"seed": seed, "epochs": EPOCHS},
        "evaluation": {"baselines": ["popularity"], "bootstrap": 10},
    }
    return fit(tables, parse_config(config | dict(settings)))


def found(
    recommender: Recommender,
    scores_of: Scorer,
    wanted: pd.DataFrame,
    others: pd.DataFrame,
    among: set[Any] | None = None,
) -> Values:
    """How well some people's lists hold what is wanted; a value a person.

    Args:
        others: meetings that are not to be found.
        among: items that a list may hold; None for all.
    """
    people = np.sort(wanted["user_id"].unique())

    def rows_of(pairs: pd.DataFrame) -> Interactions:
        own = pairs[pairs["user_id"].isin(people)]
        items = recommender.items.rows(own["item_id"].tolist()).astype(np.int32)
        places = (np.searchsorted(people, own["user_id"]) + 1).astype(np.int32)[items > 0]
        return Interactions(places, items[items > 0], np.ones(len(places), np.float32))

    seen = histories(rows_of(others), num_users=len(people))
    held = ev.held_out(rows_of(wanted), seen)
    scores = scores_of(people)
    may_come = recommender.is_candidate.clone()
    if among is not None:
        is_among = [item in among for item in recommender.items.values.tolist()]
        may_come &= torch.tensor(is_among)
    lists = ev.rank(
        lambda part: scores[held.user_rows[part] - 1],
        held,
        seen,
        K,
        is_candidate=may_come,
    )
    return ev.ranking_values(lists, held, [K])


def by_id(recommender: Recommender) -> Scorer:
    """Scores of people that training met."""

    def scores_of(people: np.ndarray) -> Tensor:
        rows = torch.from_numpy(recommender.users.rows(people.tolist()))
        return recommender.user_vectors[rows] @ recommender.item_vectors[1:].T

    return scores_of


def by_popularity(recommender: Recommender) -> Scorer:
    """The same for everybody; what nobody met has none."""
    return lambda people: recommender.popularity[1:].expand(len(people), -1)


def at_random(recommender: Recommender) -> Scorer:
    """Any order of the items."""
    generator = torch.Generator().manual_seed(0)
    size = len(recommender.items)
    return lambda people: torch.rand((len(people), size), generator=generator)


def by_what_is_known(
    recommender: Recommender,
    columns: Mapping[Any, Mapping[str, Any]],
    liked: Mapping[Any, list[Any]],
) -> Scorer:
    """Scores of people that training did not meet."""

    def vector_of(person: Any) -> Tensor:
        rows = recommender.items.rows(liked.get(person, []))
        return recommender.encode_person(columns.get(person, {}), rows[rows > 0])[0]

    def scores_of(people: np.ndarray) -> Tensor:
        vectors = torch.stack([vector_of(person) for person in people.tolist()])
        return vectors @ recommender.item_vectors[1:].T

    return scores_of


def of_new_items(given: World, towers: Mapping[str, Recommender]) -> dict[str, Ways]:
    """Lists of known people, of which new items are to be found."""
    others = pd.concat([given.before, given.known])
    new = set(given.new_items["item_id"])
    last = towers["retrained"]
    scorers = {"at random": (last, at_random(last))}
    scorers |= {who: (each, by_id(each)) for who, each in towers.items()}
    return {
        what: {
            who: found(recommender, scores_of, given.new_items, others, among)
            for who, (recommender, scores_of) in scorers.items()
        }
        for what, among in {"new items": None, "new items, of these alone": new}.items()
    }


def of_new_people(given: World, before: Recommender, after: Recommender) -> Ways:
    """Lists of new people, among items that training met."""
    liked = given.known.groupby("user_id")["item_id"].apply(list).to_dict()
    columns: dict[Any, Any] = {}
    if given.users is not None:
        columns = given.users.set_index("user_id").to_dict("index")
    scorers = {"popularity": (before, by_popularity(before))}
    if columns:
        scorers["by features"] = before, by_what_is_known(before, columns, {})
        scorers["by both"] = before, by_what_is_known(before, columns, liked)
    scorers["by history"] = before, by_what_is_known(before, {}, liked)
    scorers["retrained"] = after, by_id(after)
    items = set(given.before["item_id"])
    return {
        who: found(recommender, scores_of, given.new_people, given.known, items)
        for who, (recommender, scores_of) in scorers.items()
    }


def measured(folder: Path, name: str, seed: int) -> dict[str, Ways]:
    """What is new, and how well it was found in each way; the last is after retraining."""
    given = world(folder, name, seed)
    before = {
        f"put, {title}": given.put(fitted(given.tables(retrained=False), settings, seed))
        for title, settings in SETTINGS.items()
    }
    after = fitted(given.tables(retrained=True), {}, seed)
    towers = before | {"retrained": after}
    [first, *_] = before.values()
    return of_new_items(given, towers) | {"new people": of_new_people(given, first, after)}


def show(name: str, seed: int, what: str, ways: Ways) -> None:
    best = ways["retrained"][f"ndcg@{K}"]
    for who, values in ways.items():
        ndcg, recall = values[f"ndcg@{K}"], values[f"recall@{K}"]
        error = (ndcg - best).std() / np.sqrt(len(best))
        less = "" if who == "retrained" else f"{(ndcg - best).mean():+.4f} ± {error:.4f}"
        print(
            f"| {name} | {seed} | {what} | {len(ndcg):,} | {who} | {ndcg.mean():.4f} "
            f"| {recall.mean():.4f} | {less} |",
            flush=True,
        )


def main() -> None:
    given = asked(__doc__, FEATURES)
    print(
        "| data | seed | what is new | people | known | NDCG@10 | Recall@10 "
        "| NDCG less retrained ± its standard error |\n|---|--:|---|--:|---|--:|--:|---|"
    )
    for name in given.names:
        for seed in given.seeds:
            for what, ways in measured(given.folder, name, seed).items():
                show(name, seed, what, ways)


if __name__ == "__main__":
    main()
