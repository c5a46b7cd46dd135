"""The published protocols: our defaults and tuned baselines, to lay beside the papers.

Settings and the number of epochs are chosen on a validation part of train, those of the
baselines too; then all of train is learned, and test is looked at once. Candidates, cutoffs and
what is masked are the protocol's.

    TWOTOWER_DATA=... python -m benchmarks.published [NAME ...] [--seeds 42 43 ...]
        [--baselines popularity,item_knn,ease,ials] [--budget 600] [--peers lightfm]
        [--dim 128] [--into FOLDER]

Each baseline is tuned for ``--budget`` seconds, where its search does not end before. Seconds
are those of the whole training. ``--dim`` is the towers' dimension, for the protocol's or the
default. With a folder its runs are kept there, and the same command goes on with one that was
stopped. ``--peers lightfm`` (extra ``peers``) adds LightFM with WARP at 64 dimensions, its
epochs chosen on validation within the same time, once a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.public import Asked, asked, interval
from twotower import Recommender, fit, parse_config
from twotower.config import Config
from twotower.data.interactions import Interactions, histories
from twotower.data.tables import Dataset, read
from twotower.evaluation import evaluate as ev
from twotower.evaluation.opponents import opponents, scoring
from twotower.evaluation.rankers import IN_WORDS, Factors, Ranker
from twotower.pipeline import plan, train
from twotower.watch import Watch

Tables = dict[str, Any]
Scores = Mapping[str, float]
Measure = Callable[[Recommender, Ranker], Scores]
"""Who knows the ids, and who scores its rows."""


def ranked(
    recommender: Recommender,
    ranker: Ranker,
    train: pd.DataFrame,
    test: pd.DataFrame,
    k: int,
    *,
    masked: bool = True,
) -> Scores:
    """The means over test users of every metric of their first k items.

    Candidates are the items of train, less the user's own in train where ``masked``.
    """
    num_users = len(recommender.users)
    in_train = rows_of(recommender, train)
    nothing = in_train.take(np.zeros(len(train), bool))
    seen = histories(in_train if masked else nothing, num_users=num_users)
    held = ev.held_out(rows_of(recommender, test), seen)
    is_candidate = torch.zeros(len(recommender.items), dtype=torch.bool)
    is_candidate[torch.from_numpy(np.unique(in_train.item_rows)).long() - 1] = True
    found = ev.rank(
        lambda part: ranker.scores(held.user_rows[part]),
        held,
        seen,
        k,
        is_candidate=is_candidate,
    )
    values = ev.ranking_values(found, held, [k])
    # As the recommenders repository has it: over all there is to find, also beyond the list.
    wanted = np.bincount(held.owners)
    values[f"map@{k}"] = values[f"average_precision@{k}"] * np.minimum(wanted, k) / wanted
    return {name: float(each.mean()) for name, each in values.items()}


def rows_of(recommender: Recommender, pairs: pd.DataFrame) -> Interactions:
    """Pairs of ids, all liked, in the rows of a recommender."""
    return Interactions(
        recommender.users.rows(pairs["user_id"].tolist()).astype(np.int32),
        recommender.items.rows(pairs["item_id"].tolist()).astype(np.int32),
        np.ones(len(pairs), np.float32),
    )


def named(found: Scores, names: Mapping[str, str]) -> Scores:
    """Some of the metrics under the names that the protocol gives them."""
    return {theirs: found[ours] for theirs, ours in names.items()}


def ml_100k(folder: Path) -> tuple[Tables, Measure]:
    """75/25 an item, as Microsoft's recommenders repository cuts it; all ratings count."""
    rows = pd.read_parquet(folder / "ml-100k" / "interactions.parquet")
    assert len(rows) == 100_000
    np.random.seed(42)
    rows["draw"] = [np.random.uniform() for _ in range(len(rows))]
    rows = rows.sort_values(["item_id", "draw"])
    place = rows.groupby("item_id").cumcount() + 1
    count = rows.groupby("item_id")["item_id"].transform("size")
    is_train = place <= (0.75 * count).round()
    pairs = rows[["user_id", "item_id"]]
    train, test = pairs[is_train], pairs[~is_train]
    assert (len(train), len(test)) == (75_066, 24_934)

    def measure(recommender: Recommender, ranker: Ranker) -> Scores:
        found = ranked(recommender, ranker, train, test, 10)
        names = {"MAP": "map@10", "nDCG@10": "ndcg@10", "P@10": "precision@10"}
        return named(found, {**names, "R@10": "recall@10"})

    sides = {
        side: pd.read_parquet(folder / "ml-100k" / f"{side}.parquet")
        for side in ("users", "items")
    }
    return {**sides, "train": train, "test": test}, measure


def ncf_ml_1m(folder: Path) -> tuple[Tables, Measure]:
    """Leave one out with 99 sampled negatives (He et al., WWW 2017); ids alone."""
    train, test, measure = _ncf(folder)
    return {"train": train, "test": test}, measure


def ncf_ml_1m_in_order(folder: Path) -> tuple[Tables, Measure]:
    """The same pairs, test and negatives; train in the order in which ML-1M was rated.

    That is known to about ten minutes, of the earliest 80 % of all ratings. What a user rated
    within ten minutes, or later than that, is in an order drawn at random: the file's own is
    that of the item ids, which would tell what comes next.
    """
    train, test, measure = _ncf(folder)
    names = pd.read_parquet(folder / "ncf-ml-1m" / "item_map.parquet")
    there = pd.read_parquet(folder / "ml-1m" / "interactions.parquet")
    # The users of NCF are those of ML-1M, counted from 0.
    there = there.assign(user_id=there["user_id"] - 1).merge(names, on="item_id")
    there = there[["user_id", "ncf_item_id", "timestamp_approx"]]
    timed = train.merge(
        there, left_on=["user_id", "item_id"], right_on=["user_id", "ncf_item_id"]
    )
    assert len(timed) == len(train)
    timed = timed.sample(frac=1, random_state=0)
    timed = timed.sort_values(
        ["user_id", "timestamp_approx"], na_position="last", kind="stable"
    )
    return {"interactions": pd.concat([timed[["user_id", "item_id"]], test])}, measure


def _ncf(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, Measure]:
    train = pd.read_parquet(folder / "ncf-ml-1m" / "train.parquet")[["user_id", "item_id"]]
    test = pd.read_parquet(folder / "ncf-ml-1m" / "test.parquet")
    assert (len(train), len(test)) == (994_169, 6_040)

    def measure(recommender: Recommender, ranker: Ranker) -> Scores:
        users = recommender.users.rows(test["user_id"].tolist())
        own = torch.from_numpy(recommender.items.rows(test["item_id"].tolist()))
        flat = np.concatenate(test["negatives"].to_list()).tolist()
        others = torch.from_numpy(recommender.items.rows(flat)).view(len(test), 99)
        asked_for = torch.cat([own[:, None], others], 1) - 1
        some = np.array_split(np.arange(len(test)), 8)
        scores = torch.cat(
            [ranker.scores(users[rows]).gather(1, asked_for[rows]) for rows in some]
        )
        positive, negative = scores[:, :1], scores[:, 1:]
        # The positive itself among its negatives is no rival; else a tie counts against it.
        is_rival = (negative >= positive) & (others != own[:, None])
        rank = is_rival.sum(1).numpy()
        gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0.0)
        return {"HR@10": float((rank < 10).mean()), "NDCG@10": float(gain.mean())}

    return train, test[["user_id", "item_id"]], measure


def light_gcn(name: str, rows: tuple[int, int, int]) -> Any:
    """The splits of LightGCN (He et al., SIGIR 2020); validation as LightGCN++ cuts it."""

    def job(folder: Path) -> tuple[Tables, Measure]:
        train, test, val = (
            pd.read_parquet(folder / name / f"{part}.parquet")[["user_id", "item_id"]]
            for part in ("train", "test", "lightgcnpp_valid")
        )
        assert (len(train), len(test), len(val)) == rows
        both = train.merge(val.drop_duplicates(), how="left", indicator=True)
        kept = both.loc[both["_merge"] == "left_only", ["user_id", "item_id"]]

        def measure(recommender: Recommender, ranker: Ranker) -> Scores:
            found = ranked(recommender, ranker, train, test, 20)
            return named(found, {"R@20": "recall@20", "NDCG@20": "ndcg@20"})

        return {"train": kept, "val": val, "test": test}, measure

    return job


def beauty(folder: Path) -> tuple[Tables, Measure]:
    """Each user's last item is test, the one before validation; nothing is masked."""
    rows = pd.read_parquet(folder / "amazon-beauty" / "interactions.parquet")
    assert len(rows) == 198_502
    from_end = rows.groupby("user_id")["pos"].rank(ascending=False)
    pairs = rows.sort_values(["user_id", "pos"])[["user_id", "item_id"]]
    train, test = pairs[from_end > 1], pairs[from_end == 1]

    def measure(recommender: Recommender, ranker: Ranker) -> Scores:
        found = ranked(recommender, ranker, train, test, 10, masked=False)
        return named(found, {"R@10": "recall@10", "NDCG@10": "ndcg@10"})

    return {"interactions": pairs}, measure


@dataclass(frozen=True)
class Job:
    """A table of published figures.

    Attributes:
        tables: makes the tables to learn from and what measures a recommender.
        settings: what the protocol asks for; all else is untouched.
    """

    tables: Callable[[Path], tuple[Tables, Measure]]
    settings: Mapping[str, Any]


GIVEN = {"data": {"split": "given"}}
LEAVE_LAST = {"data": {"split": "leave_last"}}
D64 = {"model": {"embedding_dim": 64}, **GIVEN}
JOBS: Mapping[str, Job] = {
    "ml-100k-75-25": Job(ml_100k, GIVEN),
    "ml-1m-ncf": Job(ncf_ml_1m, GIVEN),
    "ml-1m-ncf-in-order": Job(ncf_ml_1m_in_order, LEAVE_LAST),
    "gowalla": Job(light_gcn("gowalla", (810_128, 217_242, 91_047)), D64),
    "yelp2018": Job(light_gcn("yelp2018", (1_237_259, 324_147, 143_751)), D64),
    "amazon-beauty": Job(beauty, LEAVE_LAST),
}


def main() -> None:
    more = {
        "baselines": "popularity,item_knn,ease,ials",
        "budget": 600.0,
        "peers": "",
        "dim": 0,
        "into": "",
    }
    given = asked(__doc__, JOBS, more)
    if given.more.peers not in {"", "lightfm"}:
        raise SystemExit(f"--peers {given.more.peers}: lightfm is the only one")
    quick = {"evaluation": {"baselines": ["popularity"], "bootstrap": 10}}
    print("| table | seed | who | figures on test | epochs | s |\n|---|--:|---|---|--:|--:|")
    for name in given.names:
        tables, measure = JOBS[name].tables(given.folder)
        settings = JOBS[name].settings
        if given.more.dim:
            settings = {**settings, "model": {"embedding_dim": given.more.dim}}
        dataset = read(tables, parse_config(settings).data)
        found: dict[str, list[float]] = {}
        for seed in given.seeds:
            config = parse_config({**settings, "training": {"seed": seed}, **quick})
            recommender = trained(dataset, config, f"{name}-{seed}", given.more.into)
            towers = Factors(
                "two towers", recommender.user_vectors.numpy(), recommender.item_vectors.numpy()
            )
            values = measure(recommender, towers)
            for metric, value in values.items():
                found.setdefault(metric, []).append(value)
            found_in = recommender.metrics
            row = figures(values), f"{found_in['best_epoch']} | {found_in['train_seconds']:.0f}"
            print(f"| {name} | {seed} | two towers | {' | '.join(row)} |", flush=True)
        if len(given.seeds) > 1:
            print(f"| {name} | all | two towers | {intervals(found)} | | |", flush=True)
        beside = {
            "baselines": given.more.baselines.split(","),
            "baseline_seconds": given.more.budget,
            "bootstrap": 10,
        }
        config = parse_config({**settings, "evaluation": beside})
        for ranker, seconds in baselines(dataset, config):
            row = IN_WORDS[ranker.name], figures(measure(recommender, ranker))
            print(f"| {name} | | {' | '.join(row)} | | {seconds:.0f} |", flush=True)
        if given.more.peers:
            show_lightfm(name, dataset, settings, partial(measure, recommender), given)


def show_lightfm(
    name: str,
    dataset: Dataset,
    settings: Mapping[str, Any],
    measure: Callable[[Ranker], Scores],
    given: Asked,
) -> None:
    """LightFM, a row a seed and one over all of them."""
    from benchmarks.peer_lightfm import warp

    parts = plan(dataset, parse_config(settings), Watch()).parts
    train, known = parts.train.positives(), parts.train.followed_by(parts.val).positives()
    sizes = {"num_users": len(dataset.users) + 1, "num_items": len(dataset.items) + 1}
    seen = histories(parts.train, num_users=len(dataset.users))
    held, is_candidate = ev.held_out(parts.val.positives(), seen), candidates(dataset, known)
    score = scoring(held, seen, is_candidate)
    found: dict[str, list[float]] = {}
    for seed in given.seeds:
        budget = given.more.budget
        ranker, epochs = warp(train, known, score, **sizes, budget_seconds=budget, seed=seed)
        values = measure(ranker)
        for metric, value in values.items():
            found.setdefault(metric, []).append(value)
        row = f"{figures(values)} | {epochs} | {ranker.seconds:.0f}"
        print(f"| {name} | {seed} | LightFM, WARP | {row} |", flush=True)
    if len(given.seeds) > 1:
        print(f"| {name} | all | LightFM, WARP | {intervals(found)} | | |", flush=True)


def candidates(dataset: Dataset, known: Interactions) -> torch.Tensor:
    """Which items were met."""
    found = torch.zeros(len(dataset.items), dtype=torch.bool)
    found[torch.from_numpy(np.unique(known.item_rows)).long() - 1] = True
    return found


def trained(dataset: Dataset, config: Config, name: str, into: str) -> Recommender:
    """A recommender; one whose training was stopped in that folder goes on."""
    if not into:
        return fit(dataset, config)
    return train(dataset, config, into=into, name=name, now=datetime.now(), resume=True)[0]


def baselines(dataset: Dataset, config: Config) -> Iterator[tuple[Ranker, float]]:
    """Each tuned on validation, then fitted on all of train, and the seconds of both."""
    parts = plan(dataset, config, Watch()).parts
    known = parts.train.followed_by(parts.val).positives()
    is_candidate = candidates(dataset, known)
    for ranker, tuning in opponents(dataset, parts, config, is_candidate, Watch()):
        yield ranker, ranker.seconds + tuning.get("tuning_seconds", 0.0)


def intervals(found: Mapping[str, list[float]]) -> str:
    """Of each metric the mean over seeds and its interval."""
    return ", ".join(f"{metric} {interval(values)}" for metric, values in found.items())


def figures(values: Scores) -> str:
    """All of them in a line."""
    return ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())


if __name__ == "__main__":
    main()
