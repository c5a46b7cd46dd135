from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.synthetic import (
    BOOST,
    GENRES,
    TABLES,
    chance_of_liking,
    generate,
    oracle_scores,
)
from twotower.data.writing import whole_directory
from twotower.errors import DataError


def sql(query: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def columns(query: str) -> dict[str, np.ndarray]:
    with duckdb.connect() as connection:
        return dict(connection.execute(query).fetchnumpy())


def schema(path: Path) -> list[tuple[object, ...]]:
    return [row[:2] for row in sql(f"DESCRIBE SELECT * FROM '{path}'")]


def files(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def with_match(directory: Path, interactions: str) -> str:
    """Query of all ``interactions``, and whether the genres of user and movie match."""
    same = " OR ".join(f'(u."favorite_genre_{g}" AND m."genre_{g}")' for g in GENRES)
    return (
        f"SELECT i.*, {same} AS match FROM '{directory / interactions}' i "
        f"JOIN '{directory}/users.parquet' u USING (user_id) "
        f"JOIN '{directory}/movies.parquet' m USING (movie_id)"
    )


@pytest.fixture(scope="module")
def lab_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("worlds") / "lab"
    generate(directory)
    return directory


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("worlds") / "large"
    generate(directory, num_users=3000, num_items=2000, num_interactions=400_000, seed=1)
    return directory


def test_the_tables_have_the_labs_columns_types_and_sizes(lab_size: Path) -> None:
    interactions = [
        ("user_id", "BIGINT"),
        ("movie_id", "BIGINT"),
        ("rating", "DOUBLE"),
        ("label", "BIGINT"),
    ]
    genres = ["Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi"]
    assert schema(lab_size / "users.parquet") == [
        ("user_id", "BIGINT"),
        ("age", "DOUBLE"),
        ("gender_F", "BOOLEAN"),
        ("gender_M", "BOOLEAN"),
        *((f"favorite_genre_{genre}", "BOOLEAN") for genre in genres),
        ("activity_level_high", "BOOLEAN"),
        ("activity_level_low", "BOOLEAN"),
        ("activity_level_medium", "BOOLEAN"),
    ]
    assert schema(lab_size / "movies.parquet") == [
        ("movie_id", "BIGINT"),
        ("year", "DOUBLE"),
        ("duration", "DOUBLE"),
        ("avg_rating", "DOUBLE"),
        *((f"genre_{genre}", "BOOLEAN") for genre in genres),
    ]
    for split in ("train", "val", "test"):
        assert schema(lab_size / split / "interactions.parquet") == interactions
    assert set(files(lab_size)) == {*TABLES, "oracle.json"}
    assert sql(
        f"SELECT count(*), min(user_id), max(user_id) FROM '{lab_size}/users.parquet'"
    ) == [(1000, 0, 999)]
    assert sql(f"SELECT count(*), max(movie_id) FROM '{lab_size}/movies.parquet'") == [
        (500, 499)
    ]


@pytest.mark.data
def test_the_tables_are_laid_out_like_the_labs_own(lab_size: Path) -> None:
    lab = Path(os.environ.get("TWOTOWER_DATA", "")) / "lab"
    if not lab.is_dir():
        pytest.skip("no lab data under TWOTOWER_DATA")
    for table in TABLES:
        assert schema(lab_size / table) == schema(lab / table)


@pytest.mark.data
def test_the_oracle_scores_on_the_labs_own_draw_what_is_known_of_it() -> None:
    lab = Path(os.environ.get("TWOTOWER_DATA", "")) / "lab"
    if not lab.is_dir():
        pytest.skip("no lab data under TWOTOWER_DATA")
    rows = columns(with_match(lab, "test/interactions.parquet"))
    counts = np.bincount(2 * rows["match"] + rows["label"], minlength=4).reshape(2, 2)
    scores = oracle_scores(counts)
    assert scores["auc"] == pytest.approx(0.7474, abs=5e-5)
    assert scores["log_loss"] == pytest.approx(0.4213, abs=5e-5)
    assert scores["accuracy"] == pytest.approx(0.8499, abs=5e-5)


def test_categories_are_one_hot_and_numbers_are_standardised_by_the_sample(
    lab_size: Path,
) -> None:
    users = columns(f"SELECT * FROM '{lab_size}/users.parquet'")
    movies = columns(f"SELECT * FROM '{lab_size}/movies.parquet'")
    for table, prefix in [
        (users, "gender_"),
        (users, "favorite_genre_"),
        (users, "activity_level_"),
        (movies, "genre_"),
    ]:
        one_hot = np.stack([v for name, v in table.items() if name.startswith(prefix)])
        assert (one_hot.sum(axis=0) == 1).all()
    for values in (users["age"], movies["year"], movies["duration"], movies["avg_rating"]):
        assert values.mean() == pytest.approx(0, abs=1e-12)
        assert values.std(ddof=1) == pytest.approx(1)


def test_people_and_movies_follow_the_labs_law(large: Path) -> None:
    users = columns(f"SELECT * FROM '{large}/users.parquet'")
    for level, share in {"low": 0.3, "medium": 0.5, "high": 0.2}.items():
        assert users[f"activity_level_{level}"].mean() == pytest.approx(share, abs=0.03)
    for genre in GENRES:
        assert users[f"favorite_genre_{genre}"].mean() == pytest.approx(1 / 6, abs=0.03)
    # 18 to 69 years, 1990 to 2023, 80 to 179 minutes: as many steps, all of them met.
    movies = columns(f"SELECT * FROM '{large}/movies.parquet'")
    assert len(np.unique(users["age"])) == 52
    assert len(np.unique(movies["year"])) == 34
    assert len(np.unique(movies["duration"])) == 100
    spread = (movies["avg_rating"].max() - movies["avg_rating"].min()) * np.sqrt(3 / 12)
    assert spread == pytest.approx(np.sqrt(3), rel=0.05)  # of a uniform: 2 sqrt(3) deviations


def test_no_pair_comes_twice_and_the_splits_are_70_15_15(lab_size: Path) -> None:
    everything = f"SELECT user_id, movie_id FROM '{lab_size}/*/interactions.parquet'"
    [(rows, pairs)] = sql(
        f"SELECT count(*), count(DISTINCT (user_id, movie_id)) FROM ({everything})"
    )
    assert rows == pairs
    # Of 10,000 draws from 500,000 pairs, 10,000^2 / 2 / 500,000 = 100 meet an earlier one.
    assert 9850 < rows < 9950
    counts = [
        sql(f"SELECT count(*) FROM '{lab_size}/{split}/interactions.parquet'")[0][0]
        for split in ("train", "val", "test")
    ]
    assert counts[:2] == [int(rows * 0.7), int(rows * 0.15)]
    assert sum(counts) == rows


def test_the_splits_are_random_in_users_movies_and_order(large: Path) -> None:
    for split in ("train", "val", "test"):
        rows = columns(f"SELECT user_id, movie_id FROM '{large}/{split}/interactions.parquet'")
        place = np.arange(len(rows["user_id"]))
        assert rows["user_id"].mean() == pytest.approx(1499.5, abs=20)
        assert rows["movie_id"].mean() == pytest.approx(999.5, abs=15)
        assert abs(np.corrcoef(place, rows["user_id"])[0, 1]) < 0.02
        assert abs(np.corrcoef(place, rows["movie_id"])[0, 1]) < 0.02


def test_ratings_follow_the_law_of_the_world(large: Path) -> None:
    rows = columns(with_match(large, "*/interactions.parquet"))
    assert (rows["label"] == (rows["rating"] >= 4)).all()
    assert rows["rating"].min() == 1
    assert rows["rating"].max() == 5
    assert rows["match"].mean() == pytest.approx(1 / 6, abs=0.01)
    rng = np.random.default_rng(9)
    for match, (low, high) in enumerate([(-1.0, 0.5), (0.5, 1.5)]):
        ratings = rows["rating"][rows["match"] == match]
        twin = 3.5 + rng.uniform(low, high, len(ratings)) + rng.normal(0, 0.5, len(ratings))
        twin = twin.clip(1, 5)
        for share in (0.01, 0.1, 0.25, 0.5, 0.75):
            assert np.quantile(ratings, share) == pytest.approx(
                np.quantile(twin, share), abs=0.03
            )
        assert (ratings == 5).mean() == pytest.approx((twin == 5).mean(), abs=0.01)


@pytest.mark.parametrize(("bounds", "known"), [(BOOST[0], 0.1329), (BOOST[1], 0.8048)])
def test_the_chance_of_liking_is_what_simulation_finds(
    bounds: tuple[float, float], known: float
) -> None:
    rng = np.random.default_rng(3)
    ratings = 3.5 + rng.uniform(*bounds, 2_000_000) + rng.normal(0, 0.5, 2_000_000)
    # Four standard errors of a share of 2,000,000 draws are at most 0.0014.
    assert chance_of_liking(*bounds) == pytest.approx(
        (ratings.clip(1, 5) >= 4).mean(), abs=0.0014
    )
    assert chance_of_liking(*bounds) == pytest.approx(known, abs=5e-5)


cells = st.integers(0, 12)


@given(st.tuples(cells, cells, cells, cells).filter(any))
def test_the_oracles_scores_are_those_of_plain_loops(
    cell: tuple[int, int, int, int],
) -> None:
    counts = np.array(cell).reshape(2, 2)
    rows = [
        ((0.1328533753614617, 0.8047742111076985)[match], liked)
        for match, liked in product((0, 1), (0, 1))
        for _ in range(counts[match, liked])
    ]
    yes = [chance for chance, liked in rows if liked]
    no = [chance for chance, liked in rows if not liked]
    wins = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
    scores = oracle_scores(counts)
    assert scores["positive_rate"] == pytest.approx(len(yes) / len(rows))
    assert scores["accuracy"] == pytest.approx(np.mean([(c >= 0.5) == y for c, y in rows]))
    assert scores["log_loss"] == pytest.approx(
        np.mean([-np.log(c if y else 1 - c) for c, y in rows])
    )
    assert scores["auc"] == (pytest.approx(np.mean(wins)) if wins else None)


def test_the_oracle_file_holds_the_best_scores_on_this_very_draw(lab_size: Path) -> None:
    oracle = json.loads((lab_size / "oracle.json").read_text())
    for split in ("train", "val", "test"):
        rows = columns(with_match(lab_size, f"{split}/interactions.parquet"))
        counts = np.bincount(2 * rows["match"] + rows["label"], minlength=4).reshape(2, 2)
        assert oracle["splits"][split] == {"rows": counts.sum(), **oracle_scores(counts)}
    best = {"positive_rate": 0.2448, "auc": 0.7524, "log_loss": 0.4088, "accuracy": 0.8568}
    assert oracle["expected"] == pytest.approx(best, abs=5e-5)


def test_what_is_returned_is_what_is_written(tmp_path: Path) -> None:
    summary = generate(
        tmp_path / "world", num_users=40, num_items=30, num_interactions=300, seed=3
    )
    assert summary == json.loads((tmp_path / "world" / "oracle.json").read_text())
    assert [
        summary[name] for name in ("num_users", "num_items", "num_interactions", "seed")
    ] == [
        40,
        30,
        300,
        3,
    ]


def test_a_seed_gives_one_world_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in [("a", 5), ("b", 5), ("c", 6)]:
        generate(tmp_path / name, num_users=50, num_items=40, num_interactions=500, seed=seed)
    tables = {
        name: [columns(f"SELECT * FROM '{tmp_path / name / table}'") for table in TABLES]
        for name in ("a", "b", "c")
    }
    for one, same in zip(tables["a"], tables["b"], strict=True):
        for column in one:
            np.testing.assert_array_equal(one[column], same[column])
    assert (tables["a"][0]["age"] != tables["c"][0]["age"]).any()


def test_more_interactions_do_not_change_the_people(tmp_path: Path) -> None:
    generate(tmp_path / "few", num_users=50, num_items=40, num_interactions=100)
    generate(tmp_path / "many", num_users=50, num_items=40, num_interactions=1000)
    for table in ("users.parquet", "movies.parquet"):
        few = sql(f"SELECT * FROM '{tmp_path / 'few' / table}'")
        assert few == sql(f"SELECT * FROM '{tmp_path / 'many' / table}'")


def test_a_world_of_one_user_has_no_missing_number(tmp_path: Path) -> None:
    generate(tmp_path / "w", num_users=1, num_items=100, num_interactions=300)
    assert sql(f"SELECT age FROM '{tmp_path}/w/users.parquet'") == [(0.0,)]


def test_progress_only_grows_and_ends_at_one(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    generate(
        tmp_path / "w",
        num_interactions=100,
        progress=lambda stage, share: told.append((stage, share)),
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len({stage for stage, _ in told}) == len(told) > 5


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_users": 0}, "num_users is 0; ask for 1 or more"),
        ({"num_items": -3}, "num_items is -3; ask for 1 or more"),
        ({"num_interactions": 0}, "num_interactions is 0; ask for 1 or more"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"num_users": 0, "seed": -1}, "has 2 errors"),
        ({"num_users": 2**40, "num_items": 2**40}, "stay below 2\\^63"),
        ({"num_users": 2, "num_items": 3}, "make 6 different pairs, and three splits need 7"),
    ],
)
def test_sizes_that_make_no_world_are_refused_by_name(
    tmp_path: Path, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        generate(tmp_path / "world", **sizes)
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_memory_holds_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Unable to allocate.*ask for less"):
        generate(tmp_path / "world", num_interactions=2**58)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    generate(tmp_path / "world", num_interactions=100)
    assert (tmp_path / "world" / "oracle.json").is_file()
    assert os.listdir(tmp_path) == ["world"]


def test_an_odd_name_and_a_deep_path_are_no_obstacle(tmp_path: Path) -> None:
    odd = tmp_path / "new" / "it's [1] *"
    generate(odd, num_interactions=100)
    assert set(files(odd)) == {*TABLES, "oracle.json"}


def test_an_earlier_world_stays_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    world = tmp_path / "world"
    generate(world, num_interactions=100, seed=1)
    before = files(world)
    with pytest.raises(
        DataError,
        match=r"already holds .*, \.\.\.; name another directory, or replace it with --over",
    ):
        generate(world, num_interactions=100, seed=2)
    assert files(world) == before
    generate(world, num_interactions=100, seed=2, overwrite=True)
    assert json.loads((world / "oracle.json").read_text())["seed"] == 2
    assert os.listdir(tmp_path) == ["world"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_peoples_files_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    world = tmp_path / "world"
    generate(world, num_interactions=100)
    (world / "test" / "notes.txt").write_text("mine")
    before = files(world)
    with pytest.raises(DataError, match=r"it holds test/notes\.txt\); name a new"):
        generate(world, num_interactions=100, overwrite=overwrite)
    assert files(world) == before


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "world").write_text("")
    with pytest.raises(DataError, match="world: is a file; name a new directory"):
        generate(tmp_path / "world")
    with pytest.raises(DataError, match="can not be written"):
        generate(tmp_path / "world" / "below")


def test_a_full_disk_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size need a POSIX system")
    world = tmp_path / "world"
    generate(world, num_interactions=100)
    before = files(world)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(DataError, match=r"can not be written: .*nothing was left behind"):
            generate(world, num_interactions=50_000, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(world) == before
    assert os.listdir(tmp_path) == ["world"]


def test_an_interrupted_world_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    world = tmp_path / "world"
    generate(world, num_interactions=100)
    before = files(world)

    def interrupt(stage: str, _share: float) -> None:
        if stage == "writing val":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(world, num_interactions=100, seed=7, overwrite=True, progress=interrupt)
    assert files(world) == before
    assert os.listdir(tmp_path) == ["world"]


def test_a_disk_that_fails_at_the_last_step_gives_back_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tmp_path / "world"
    generate(world, num_interactions=100)
    before = files(world)
    rename = Path.rename

    def fail_to_publish(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise OSError("the disk has gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_to_publish)
    with pytest.raises(DataError, match="can not be written: the disk has gone"):
        generate(world, num_interactions=100, seed=7, overwrite=True)
    assert files(world) == before
    assert os.listdir(tmp_path) == ["world"]


def test_who_comes_second_does_not_replace_the_first(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def lose_the_race() -> None:
        with whole_directory(target, ["mine"]) as part:
            (part / "mine").touch()
            target.mkdir()
            (target / "theirs").touch()

    with pytest.raises(DataError, match="is not empty"):
        lose_the_race()
    assert list(files(tmp_path)) == ["target/theirs"]
