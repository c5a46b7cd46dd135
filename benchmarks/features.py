"""What features alone say: items, queries and people whom training never met.

Untouched defaults beside what each kind of data is usually done with. ``--part val`` cuts
another test from what training would see and leaves the real one alone: to choose by.

    TWOTOWER_DATA=... python -m benchmarks.features [NAME ...] [--seeds 42 43 ...] [--part val]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from benchmarks.peers import BM25, tf_idf
from benchmarks.public import asked, interval
from benchmarks.published import baselines, rows_of
from twotower import Recommender, fit, parse_config
from twotower.data.features import encode_entities
from twotower.data.interactions import Histories, histories
from twotower.data.tables import Dataset, read
from twotower.evaluation import evaluate as ev
from twotower.evaluation.metrics import auc
from twotower.evaluation.rankers import IN_WORDS, Factors, Ranker
from twotower.evaluation.tuning import searches
from twotower.pipeline import plan
from twotower.watch import Watch

Row = tuple[str, Mapping[str, np.ndarray]]
"""Who, and of each user a value a metric."""


def cold_items(folder: Path, seed: int, part: str) -> tuple[list[Row], Recommender]:
    """``citeulike-t``: a fifth of the articles held out whole, known by their words.

    TF-IDF content-kNN scores an article by its cosine with the sum of the user's.
    """
    where = folder / "citeulike-t"
    pairs = pd.read_parquet(where / "interactions.parquet")
    articles = pd.read_parquet(where / "items.parquet")
    word = pd.read_parquet(where / "vocabulary.parquet").set_index("word_id")["word"]
    assert (len(pairs), len(articles)) == (134_860, 25_975)
    words = [
        np.repeat(word.loc[ids].to_numpy(), counts).tolist()
        for ids, counts in zip(articles["word_ids"], articles["counts"], strict=True)
    ]
    items = pd.DataFrame({"item_id": articles["item_id"], "words": words})
    train, test = cut(pairs, "item_id", seed, part)
    recommender = fitted({"items": items, "train": train, "test": test}, seed)
    seen = histories(rows_of(recommender, train), num_users=len(recommender.users))
    held = ev.held_out(rows_of(recommender, test), seen)
    held = held.only(np.flatnonzero(held.is_warm))
    met = np.zeros(len(recommender.items), bool)
    met[seen.items - 1] = True
    ours = recommender.user_vectors[torch.from_numpy(held.user_rows)]
    vectors = recommender.item_vectors[1:]
    order = items.set_index("item_id").index.get_indexer(recommender.items.values)
    rows = tf_idf([words[place] for place in order])
    read, owners = seen.pack(held.user_rows)
    shape = (len(held), len(order))
    sums = sp.coo_array((np.ones(len(read)), (owners, read - 1)), shape).tocsr() @ rows
    columns = rows.T.tocsr()

    def by_words(some: slice) -> Tensor:
        return torch.from_numpy((sums[some] @ columns).toarray().astype(np.float32))

    ways: dict[str, Callable[[slice], Tensor]] = {
        "two towers": lambda some: ours[some] @ vectors.T,
        "TF-IDF content-kNN": by_words,
    }
    every = torch.ones(len(met), dtype=torch.bool)
    candidates = {"all items": every, "cold items": torch.from_numpy(~met)}
    measured: list[Row] = []
    for who, scores_of in ways.items():
        values = {}
        for name, is_candidate in candidates.items():
            lists = ev.rank(scores_of, held, seen, 20, is_candidate=is_candidate)
            values[f"R@20, {name}"] = ev.ranking_values(lists, held, [20])["recall@20"]
        measured.append((who, values))
    return measured, recommender


def search(folder: Path, seed: int, part: str) -> tuple[list[Row], Recommender]:
    """``homedepot-search``: a fifth of the queries held out; a user is a query.

    NDCG@10 over a query's judged products (gain 2**relevance - 1); Recall@100, over all
    products, of those judged 2 or better.
    """
    where = folder / "homedepot-search"
    judged = pd.read_parquet(where / "interactions.parquet")
    queries = pd.read_parquet(where / "users.parquet")
    products = pd.read_parquet(where / "items.parquet")
    assert (len(judged), len(queries), len(products)) == (74_067, 11_795, 54_667)
    train, test = cut(judged, "user_id", seed, part)
    tables = {"users": queries, "items": products, "train": train, "test": test}
    recommender = fitted(tables, seed)
    text = queries.set_index("user_id")["query"]
    titles = products.set_index("item_id")["title"].loc[list(recommender.items.values)].tolist()
    groups = dict(list(test.groupby("user_id")))
    users = recommender.user_vectors[torch.from_numpy(recommender.users.rows(groups))]
    items = recommender.item_vectors[1:]
    ways: dict[str, Callable[[slice], np.ndarray]] = {
        "two towers": lambda some: (users[some] @ items.T).numpy()
    }
    asking = text.loc[list(groups)].tolist()
    for name, engine in {"BM25": BM25(titles), "BM25, stems": BM25(titles, stems=True)}.items():
        ways[name] = lambda some, engine=engine: engine.scores(asking[some])  # type: ignore[misc]
    places = [
        recommender.items.rows(group["item_id"].tolist()) - 1 for group in groups.values()
    ]
    grades = [group["relevance"].to_numpy() for group in groups.values()]
    return [(who, _search_values(of, places, grades)) for who, of in ways.items()], recommender


def _search_values(
    scores_of: Callable[[slice], np.ndarray],
    places: list[np.ndarray],
    grades: list[np.ndarray],
) -> Mapping[str, np.ndarray]:
    ndcg, recall = np.full(len(places), np.nan), np.full(len(places), np.nan)
    for start in range(0, len(places), 256):
        scores = scores_of(slice(start, start + 256))
        for query, row in enumerate(scores, start):
            own, grade = row[places[query]], grades[query]
            ndcg[query] = _graded_ndcg(own, 2**grade - 1)
            good = places[query][grade >= 2]
            if len(good):
                best = np.argpartition(-row, 100)[:100]
                recall[query] = np.isin(good, best).mean()
    return {"NDCG@10, judged": ndcg, "R@100, all products": recall}


def _graded_ndcg(scores: np.ndarray, gains: np.ndarray, k: int = 10) -> float:
    """A tie counts as it came in the table, where the better ones are not first."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = gains[np.argsort(-scores, kind="stable")][:k]
    best = np.sort(gains)[::-1][:k]
    return float(found @ discounts[: len(found)] / (best @ discounts[: len(best)]))


def meetings(folder: Path, seed: int, part: str) -> tuple[list[Row], Recommender]:
    """``speed-dating``: whether A wants B, waves held out whole; A and B are people.

    Every wave is in one of five folds. Beside it what reads both people's columns at once, and
    what also reads the pair's own (correlation of interests, same race).
    """
    where = folder / "speed-dating"
    rows = pd.read_parquet(where / "interactions.parquet")
    people = pd.read_parquet(where / "users.parquet")
    assert (len(rows), len(people)) == (8_368, 551)
    rows = rows.dropna(subset=["item_id"])
    rows["label"] = rows["dec"]
    waves = rows["wave"].unique()
    folds = np.array_split(np.random.default_rng(seed).permutation(waves), 5)
    if part == "val":
        rows = rows[~rows["wave"].isin(folds[0])]
        folds = folds[1:]
    values: dict[str, list[float]] = {}
    for fold in folds:
        held = rows["wave"].isin(fold)
        train, test = rows[~held], rows[held]
        labels = test["label"].to_numpy() > 0.5
        log = ["user_id", "item_id", "label"]
        tables = {
            "users": people,
            "items": people.rename(columns={"user_id": "item_id"}),
            "train": train[log],
            "test": test[log],
        }
        recommender = fitted(tables, seed)
        users = recommender.user_vectors[recommender.users.rows(test["user_id"].tolist())]
        items = recommender.item_vectors[recommender.items.rows(test["item_id"].tolist())]
        found = {"two towers": (users * items).sum(1).numpy()}
        found |= dict(pair_classifiers(people, train, test, seed))
        for who, scores in found.items():
            values.setdefault(who, []).append(auc(labels, scores))
    return [(who, {"AUC": np.array(each)}) for who, each in values.items()], recommender


def pair_classifiers(
    people: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Logistic regression and gradient boosting, chosen by five folds of waves."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    features = people.set_index("user_id")
    own = ["int_corr", "samerace"]

    def columns(rows: pd.DataFrame, more: list[str]) -> pd.DataFrame:
        one = features.loc[rows["user_id"]].add_suffix(" of A").reset_index(drop=True)
        other = features.loc[rows["item_id"]].add_suffix(" of B").reset_index(drop=True)
        return pd.concat([one, other, rows[more].reset_index(drop=True)], axis=1)

    texts = make_column_selector(dtype_exclude="number")
    numbers = make_column_selector(dtype_include="number")
    scaled = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    one_hot = OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist")
    codes = OrdinalEncoder(
        min_frequency=5, handle_unknown="use_encoded_value", unknown_value=-1
    )
    linear = make_pipeline(
        make_column_transformer((scaled, numbers), (one_hot, texts)),
        LogisticRegression(max_iter=2000),
    )
    boosted = make_pipeline(
        make_column_transformer(("passthrough", numbers), (codes, texts)),
        HistGradientBoostingClassifier(learning_rate=0.05, random_state=seed),
    )
    grids: dict[str, tuple[Any, dict[str, list[Any]]]] = {
        "logistic regression": (linear, {"logisticregression__C": [1e-4, 1e-3, 1e-2, 0.1]}),
        "gradient boosting": (
            boosted,
            {
                "histgradientboostingclassifier__max_iter": [50, 150],
                "histgradientboostingclassifier__max_leaf_nodes": [4, 15],
            },
        ),
    }
    for more, suffix in (([], ""), (own, ", and of the pair")):
        given, asked_for = columns(train, more), columns(test, more)
        for name, (model, grid) in grids.items():
            chosen = GridSearchCV(model, grid, scoring="roc_auc", cv=GroupKFold(5))
            chosen.fit(given, train["label"] > 0.5, groups=train["wave"])
            yield f"{name}{suffix}", chosen.predict_proba(asked_for)[:, 1]


def in_time(folder: Path, seed: int, part: str) -> tuple[list[Row], Recommender]:
    """``ml-1m`` in time: train is the first 80 %, a random half of the rest is validation.

    Everybody learns from train alone, and is chosen on validation. Warm users have rows in
    train; cold ones are known by three columns.
    """
    where = folder / "ml-1m"
    train, late = (
        pd.read_parquet(where / f"temporal_{name}.parquet") for name in ("train", "test")
    )
    assert (len(train), len(late)) == (800_261, 199_948)
    if part == "val":
        times = train["timestamp_approx"]
        is_early = times < times.quantile(0.8)
        train, late = train[is_early], train[~is_early]
    is_val = np.random.default_rng(seed).random(len(late)) < 0.5
    val, test = late[is_val], late[~is_val]
    tables = {"train": train, "val": val, "test": test}
    for side in ("users", "items"):
        tables[side] = pd.read_parquet(where / f"{side}.parquet")
    dataset = read(tables, parse_config({}).data)
    recommender = fitted(dataset, seed, refit=False)
    num_users = len(recommender.users)
    known = histories(rows_of(recommender, train), num_users=num_users)
    seen = histories(rows_of(recommender, pd.concat([train, val])), num_users=num_users)
    held = ev.held_out(rows_of(recommender, test), seen)
    is_warm = known.lengths()[held.user_rows] > 0
    slices = {
        "warm": held.only(np.flatnonzero(is_warm)),
        "cold": held.only(np.flatnonzero(~is_warm)),
    }
    table = encode_entities(
        recommender.user_encoders, dataset.users, recommender.user_has_own_id
    )
    # As histories of validation are not to be read, users are described anew.
    users = recommender.encode_users(table.take(torch.arange(1, num_users + 1)), known)
    nobody = np.zeros((1, users.shape[1]), np.float32)
    towers = Factors(
        "two towers",
        np.concatenate([nobody, users.numpy()]),
        recommender.item_vectors.numpy(),
        knows_the_new=True,
    )
    measured = [
        (IN_WORDS.get(ranker.name, ranker.name), _twenty(ranker, slices, seen))
        for ranker in (towers, *_from_train_alone(dataset, seed))
    ]
    return measured, recommender


def _twenty(
    ranker: Ranker, slices: Mapping[str, ev.HeldOut], seen: Histories
) -> Mapping[str, np.ndarray]:
    """Of each user of each slice what the first twenty of all items are worth."""
    values: dict[str, np.ndarray] = {}
    every = torch.ones(ranker.scores(np.ones(1, np.int64)).shape[1], dtype=torch.bool)
    for name, held in slices.items():
        if name == "cold" and not ranker.knows_the_new:
            continue

        def scores_of(some: slice, held: ev.HeldOut = held) -> Tensor:
            return ranker.scores(held.user_rows[some])

        lists = ev.rank(scores_of, held, seen, 20, is_candidate=every)
        found = ev.ranking_values(lists, held, [20])
        values |= {
            f"R@20, {name}": found["recall@20"],
            f"NDCG@20, {name}": found["ndcg@20"],
        }
    return values


def _from_train_alone(dataset: Dataset, seed: int) -> Iterator[Ranker]:
    """The baselines tuned on validation, and fitted on train once more, without it."""
    config = parse_config({"training": {"seed": seed}})
    train = plan(dataset, config, Watch()).parts.train.positives()
    sizes = {"num_users": len(dataset.users) + 1, "num_items": len(dataset.items) + 1}
    for ranker, _ in baselines(dataset, config):
        yield searches(train, seed=seed)[ranker.name].fit(train, **sizes, **ranker.settings)


def cut(
    rows: pd.DataFrame, column: str, seed: int, part: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train, and a fifth of what is in a column held out whole."""
    for turn in range(2 if part == "val" else 1):
        there = rows[column].unique()
        rng = np.random.default_rng([seed, turn])
        chosen = rng.choice(there, round(0.2 * len(there)), replace=False)
        is_held = rows[column].isin(chosen)
        rows, held = rows[~is_held], rows[is_held]
    return rows, held


def fitted(tables: Any, seed: int, *, refit: bool = True) -> Recommender:
    config = {
        "training": {"seed": seed, "refit": refit},
        "evaluation": {"baselines": ["popularity"], "bootstrap": 10},
    }
    return fit(tables, parse_config(config))


JOBS: Mapping[str, Callable[[Path, int, str], tuple[list[Row], Recommender]]] = {
    "citeulike-t": cold_items,
    "homedepot-search": search,
    "speed-dating": meetings,
    "ml-1m": in_time,
}


Found = dict[tuple[str, str], list[float]]
"""Of each contestant and metric a mean over users a seed."""


def show(
    name: str,
    seed: int,
    rows: list[Row],
    recommender: Recommender,
    seconds: float,
    found: Found,
) -> None:
    ours = rows[0][1]
    for who, values in rows:
        cells = []
        for metric, each in values.items():
            there = ~np.isnan(each)
            found.setdefault((who, metric), []).append(float(each[there].mean()))
            cell = f"{metric} {each[there].mean():.4f}"
            if who != "two towers":
                gap = ev.compare(
                    ours[metric][there], each[there], seed=seed, num_resamples=1000
                )
                cell += f" (ours {gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}])"
            cells.append(cell)
        took = ""
        if who == "two towers":
            took = f"{recommender.metrics['best_epoch']} | {seconds:.0f}"
        print(f"| {name} | {seed} | {who} | {', '.join(cells)} | {took or ' |'} |", flush=True)


def show_all(name: str, found: Found) -> None:
    """A row for each contestant: the means over seeds and their intervals."""
    for who in dict.fromkeys(who for who, _ in found):
        cells = [
            f"{metric} {interval(each)}" for (own, metric), each in found.items() if own == who
        ]
        print(f"| {name} | all | {who} | {', '.join(cells)} | | |", flush=True)


def main() -> None:
    given = asked(__doc__, JOBS, {"part": "test"})
    print("| data | seed | who | figures | epochs | s |\n|---|--:|---|---|--:|--:|")
    for name in given.names:
        found: Found = {}
        for seed in given.seeds:
            started = time.perf_counter()
            rows, recommender = JOBS[name](given.folder, seed, given.more.part)
            show(name, seed, rows, recommender, time.perf_counter() - started, found)
        if len(given.seeds) > 1:
            show_all(name, found)


if __name__ == "__main__":
    main()
