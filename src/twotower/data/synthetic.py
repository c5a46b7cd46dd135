"""Worlds whose best possible score is known: the teaching lab's, at any size.

Each user has a favourite genre and each movie a genre, uniform over the six of ``GENRES``, and
nothing else matters::

    rating = clip(3.5 + U(0.5, 1.5) + N(0, 0.5), 1, 5)    where the two genres match
             clip(3.5 + U(-1, 0.5) + N(0, 0.5), 1, 5)     where they do not
    liked  = rating >= 4

So P(liked) given both people's features has just two values, and no model can expect to score
better than one that says them. ``oracle.json`` beside the tables holds what that one scores.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped

from twotower.data.writing import Progress, whole_directory
from twotower.data.writing import write_parquet as write_parquet
from twotower.errors import DataError, join_mistakes

GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi")
SPLITS = {"train": 0.7, "val": 0.15, "test": 0.15}
TABLES = ("users.parquet", "movies.parquet", *(f"{s}/interactions.parquet" for s in SPLITS))

BASE_RATING, NOISE, LIKED_FROM = 3.5, 0.5, 4.0
BOOST = ((-1.0, 0.5), (0.5, 1.5))  # uniform bounds without and with a match of genres
CHUNK_ROWS = 1 << 20


def generate(
    directory: Path,
    *,
    num_users: int = 1000,
    num_items: int = 500,
    num_interactions: int = 10_000,
    seed: int = 42,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Writes a world's tables and its ``oracle.json`` into ``directory``, whole or not at all.

    ``users.parquet``, ``movies.parquet`` and ``{train,val,test}/interactions.parquet`` have the
    lab's columns. Of several interactions of a user with a movie one stays, so fewer than
    ``num_interactions`` rows come out; 70 / 15 / 15 % of these, at random, are the splits. The
    same seed gives the same people, however many interactions they are asked for.

    Args:
        overwrite: Replace an earlier world; a directory that holds anything else is refused.
        progress: Is told of each of the eight stages as it starts, and of the end.

    Returns:
        What ``oracle.json`` holds: what was asked, ``liked_if_match``, ``liked_if_no_match``,
        and :func:`oracle_scores` of each of ``splits`` and of ``expected``, an endless draw.

    Raises:
        DataError: A size makes no sense, the directory is taken, or it can not be written.
    """
    _check_sizes(num_users, num_items, num_interactions, seed)
    report = progress or (lambda _stage, _share: None)
    report("drawing people and movies", 0.0)
    users_rng, movies_rng, pairs_rng, ratings_rng = np.random.default_rng(seed).spawn(4)
    with whole_directory(directory, (*TABLES, "oracle.json"), overwrite=overwrite) as part:
        users, favourite = _draw_users(num_users, users_rng)
        write_parquet(users, part / "users.parquet")
        movies, genre = _draw_movies(num_items, movies_rng)
        write_parquet(movies, part / "movies.parquet")
        report("drawing who met what", 0.1)
        pairs = _draw_pairs(num_users, num_items, num_interactions, pairs_rng)
        splits = _write_splits(part, pairs, favourite, genre, ratings_rng, report)
        summary: dict[str, object] = {
            "num_users": num_users,
            "num_items": num_items,
            "num_interactions": num_interactions,
            "seed": seed,
            "liked_if_match": chance_of_liking(*BOOST[1]),
            "liked_if_no_match": chance_of_liking(*BOOST[0]),
            "splits": splits,
            "expected": oracle_scores(_expected_shares()),
        }
        (part / "oracle.json").write_text(json.dumps(summary, indent=2) + "\n")
    report("done", 1.0)
    return summary


def chance_of_liking(low: float, high: float) -> float:
    """P(3.5 + U(low, high) + N(0, 0.5) >= 4), exactly; the clip to 1..5 does not touch it.

    It is the mean of the normal distribution function over an interval, whose antiderivative
    is ``x Phi(x) + phi(x)``.

    >>> round(chance_of_liking(0.5, 1.5), 4), round(chance_of_liking(-1.0, 0.5), 4)
    (0.8048, 0.1329)
    """

    def antiderivative(x: float) -> float:
        cumulative = 0.5 * (1 + math.erf(x / math.sqrt(2)))
        return x * cumulative + math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    from_low = (BASE_RATING + low - LIKED_FROM) / NOISE
    from_high = (BASE_RATING + high - LIKED_FROM) / NOISE
    return (antiderivative(from_high) - antiderivative(from_low)) / (from_high - from_low)


def oracle_scores(weights: Shaped[np.ndarray, "2 2"]) -> dict[str, float | None]:
    """What the true P(liked) scores on rows of which ``weights[match, liked]`` are of a kind.

    Counts or shares will do. There are only two scores, so all pairs of a liked and a disliked
    row are counted in four cells.

    Returns:
        ``positive_rate``; ``auc``, a tie counting half (None where all rows have one label);
        ``log_loss`` in nats a row; ``accuracy`` of "yes" from 0.5 up.

    >>> {k: round(v, 4) for k, v in oracle_scores(np.array([[90, 10], [2, 8]])).items()}
    {'positive_rate': 0.1636, 'auc': 0.7114, 'log_loss': 0.3456, 'accuracy': 0.8909}
    """
    chances = np.array([chance_of_liking(*bounds) for bounds in BOOST])
    weights = weights.astype(np.float64)
    total = weights.sum()
    (no_disliked, no_liked), (match_disliked, match_liked) = weights
    pairs = (no_liked + match_liked) * (no_disliked + match_disliked)
    ordered = match_liked * no_disliked
    tied = match_liked * match_disliked + no_liked * no_disliked
    log_chances = np.log(np.column_stack([1 - chances, chances]))
    says_yes = (chances >= 0.5).astype(int)
    return {
        "positive_rate": float((no_liked + match_liked) / total),
        "auc": float((ordered + 0.5 * tied) / pairs) if pairs else None,
        "log_loss": float(-(weights * log_chances).sum() / total),
        "accuracy": float(weights[[0, 1], says_yes].sum() / total),
    }


def _check_sizes(num_users: int, num_items: int, num_interactions: int, seed: int) -> None:
    names = ("num_users", "num_items", "num_interactions")
    sizes = zip(names, (num_users, num_items, num_interactions), strict=True)
    mistakes = [f"{name} is {n}; ask for 1 or more" for name, n in sizes if n < 1]
    if seed < 0:
        mistakes.append(f"seed is {seed}; give 0 or more")
    if not mistakes and num_users * num_items >= 2**63:
        mistakes.append(f"num_users * num_items is {num_users * num_items}; stay below 2^63")
    if mistakes:
        raise DataError(join_mistakes("the world to generate", mistakes))


def _draw_users(
    num_users: int, rng: np.random.Generator
) -> tuple[dict[str, Shaped[np.ndarray, " U"]], Int64[np.ndarray, " U"]]:
    """The users' table, and the number (in ``GENRES``) of each one's favourite."""
    age = rng.integers(18, 70, num_users)
    gender = rng.integers(2, size=num_users)
    favourite = rng.integers(len(GENRES), size=num_users)
    activity = rng.choice(3, size=num_users, p=[0.2, 0.3, 0.5])
    return {
        "user_id": np.arange(num_users),
        "age": _standardise(age),
        **_one_hot("gender", ("F", "M"), gender),
        **_one_hot("favorite_genre", GENRES, favourite),
        **_one_hot("activity_level", ("high", "low", "medium"), activity),
    }, favourite


def _draw_movies(
    num_items: int, rng: np.random.Generator
) -> tuple[dict[str, Shaped[np.ndarray, " I"]], Int64[np.ndarray, " I"]]:
    """The movies' table, and the number (in ``GENRES``) of each one's genre."""
    genre = rng.integers(len(GENRES), size=num_items)
    return {
        "movie_id": np.arange(num_items),
        "year": _standardise(rng.integers(1990, 2024, num_items)),
        "duration": _standardise(rng.integers(80, 180, num_items)),
        "avg_rating": _standardise(rng.uniform(2.0, 5.0, num_items)),
        **_one_hot("genre", GENRES, genre),
    }, genre


def _standardise(values: Shaped[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Mean 0 and *sample* deviation 1; a column without spread (or one row) becomes zeros."""
    centred = values - values.mean()
    deviation = centred.std(ddof=1) if len(values) > 1 else 0.0
    return centred / deviation if deviation > 0 else np.zeros(len(values))


def _one_hot(
    name: str, categories: tuple[str, ...], codes: Int64[np.ndarray, " N"]
) -> dict[str, Shaped[np.ndarray, " N"]]:
    return {f"{name}_{category}": codes == code for code, category in enumerate(categories)}


def _draw_pairs(
    num_users: int, num_items: int, num_interactions: int, rng: np.random.Generator
) -> Int64[np.ndarray, " P"]:
    """Different pairs, in random order, each written as ``user * num_items + movie``.

    Ratings are drawn later, for pairs that stay: all draws of a pair are alike, so "the last
    stays" says the same of the world as "one stays", and saves a stable sort.
    """
    pairs = rng.integers(num_users * num_items, size=num_interactions)
    pairs.sort()
    is_first = np.ones(num_interactions, dtype=np.bool_)
    np.not_equal(pairs[1:], pairs[:-1], out=is_first[1:])
    pairs = pairs[is_first]
    if len(pairs) < 7:
        raise DataError(
            f"{num_interactions} interactions of {num_users} users with {num_items} items make "
            f"{len(pairs)} different pairs, and three splits need 7; ask for more"
        )
    rng.shuffle(pairs)
    return pairs


def _write_splits(
    directory: Path,
    pairs: Int64[np.ndarray, " P"],
    favourite: Int64[np.ndarray, " U"],
    genre: Int64[np.ndarray, " I"],
    rng: np.random.Generator,
    report: Progress,
) -> dict[str, dict[str, object]]:
    """Rates the pairs and writes them; of each split the rows and the oracle's scores."""
    splits: dict[str, dict[str, object]] = {}
    start = 0
    for split, share in SPLITS.items():
        end = len(pairs) if split == "test" else start + int(len(pairs) * share)
        report(f"rating {split}", 0.2 + 0.8 * start / len(pairs))
        rows, counts = _rate(pairs[start:end], favourite, genre, rng)
        report(f"writing {split}", 0.2 + 0.8 * (0.4 * start + 0.6 * end) / len(pairs))
        (directory / split).mkdir()
        write_parquet(rows, directory / split / "interactions.parquet")
        splits[split] = {"rows": end - start, **oracle_scores(counts)}
        start = end
    return splits


def _rate(
    pairs: Int64[np.ndarray, " P"],
    favourite: Int64[np.ndarray, " U"],
    genre: Int64[np.ndarray, " I"],
    rng: np.random.Generator,
) -> tuple[dict[str, Shaped[np.ndarray, " P"]], Int64[np.ndarray, "2 2"]]:
    """The interactions' table, and how many of its rows are [match, liked]."""
    bounds = np.array(BOOST)
    user, movie, label = (np.empty(len(pairs), dtype=np.int64) for _ in range(3))
    rating = np.empty(len(pairs))
    counts = np.zeros(4, dtype=np.int64)
    for start in range(0, len(pairs), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        np.divmod(pairs[rows], len(genre), out=(user[rows], movie[rows]))
        match = (favourite[user[rows]] == genre[movie[rows]]).astype(np.int64)
        low, high = bounds[match].T
        boost = low + (high - low) * rng.random(len(match))
        noise = NOISE * rng.standard_normal(len(match))
        np.clip(BASE_RATING + boost + noise, 1.0, 5.0, out=rating[rows])
        label[rows] = rating[rows] >= LIKED_FROM
        counts += np.bincount(2 * match + label[rows], minlength=4)
    table = {"user_id": user, "movie_id": movie, "rating": rating, "label": label}
    return table, counts.reshape(2, 2)


def _expected_shares() -> Float[np.ndarray, "2 2"]:
    """Of an endless draw, the share of rows that are [match, liked]."""
    matches = 1 / len(GENRES)
    no, yes = (chance_of_liking(*bounds) for bounds in BOOST)
    return np.array(
        [
            [(1 - matches) * (1 - no), (1 - matches) * no],
            [matches * (1 - yes), matches * yes],
        ]
    )
