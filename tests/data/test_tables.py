"""The promises of ``read``: what it finds, that forms are equal, and how it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from twotower.config import DataConfig
from twotower.data.interactions import Interactions
from twotower.data.tables import Dataset, read
from twotower.errors import DataError

Frames = dict[str, pl.DataFrame]
START = datetime(2024, 2, 28, 22, 30)


def flat_world() -> Frames:
    """Three tables with columns that every format can hold."""
    rng = np.random.default_rng(0)
    users = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(40)],
            "age": [None if n == 7 else 20 + n + 0.5 for n in range(40)],
            "level_id": [None if n == 3 else n % 4 for n in range(40)],
            "active": [n % 3 == 0 for n in range(40)],
            "country": [None if n == 5 else ["NL", "DE", "FR"][n % 3] for n in range(40)],
            "joined": [START.date() + timedelta(days=n) for n in range(40)],
        }
    )
    items = pl.DataFrame(
        {
            "movie_id": [10 * n for n in range(30, 0, -1)],
            "title": [f"The film number {n}" for n in range(30)],
            "genres": ["drama|war" if n % 2 else "war" for n in range(30)],
            "price": [1.25 * n for n in range(30)],
        }
    )
    pairs = rng.permutation(40 * 30)[:300]
    log = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in pairs // 30],
            "movie_id": 10 * (pairs % 30 + 1),
            "rating": rng.integers(1, 11, 300) / 2,
            "time": [START + timedelta(hours=int(n)) for n in rng.permutation(300)],
        }
    )
    return {"users": users, "items": items, "interactions": log}


def write(frame: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.name.split(".", 1)[1]
    if suffix in {"parquet", "pq"}:
        frame.write_parquet(path)
    elif suffix == "csv.gz":
        path.write_bytes(__import__("gzip").compress(frame.write_csv().encode()))
    elif suffix in {"csv", "tsv"}:
        frame.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    else:
        frame.write_ndjson(path)
    return path


def write_all(frames: Frames, folder: Path, suffix: str = "parquet") -> Path:
    for name, frame in frames.items():
        write(frame, folder / f"{name}.{suffix}")
    return folder


def plain(value: Any) -> Any:
    """A value that compares: NaN equals NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return [plain(v) for v in value] if isinstance(value, list) else value


def content(dataset: Dataset) -> dict[str, Any]:
    """All of a data set but where it came from and the engine's types."""
    sides = {
        who: {
            "ids": entities.ids.tolist(),
            "kinds": {name: column.kind for name, column in entities.columns.items()},
            "values": {n: plain(v.tolist()) for n, v in entities.values.items()},
        }
        for who, entities in (("users", dataset.users), ("items", dataset.items))
    }
    logs = {name: rows(dataset, part) for name, part in dataset.interactions.items()}
    kinds = {name: column.kind for name, column in dataset.columns.items()}
    return {**sides, "interactions": logs, "columns": kinds}


def rows(dataset: Dataset, part: Interactions) -> list[tuple[Any, ...]]:
    times = [None] * len(part) if part.times is None else part.times.tolist()
    weights = [None] * len(part) if part.weights is None else part.weights.tolist()
    users = dataset.users.ids[part.user_rows - 1].tolist()
    items = dataset.items.ids[part.item_rows - 1].tolist()
    return list(zip(users, items, part.labels.tolist(), times, weights, strict=True))


@pytest.fixture(scope="module")
def world() -> Frames:
    return flat_world()


@pytest.fixture(scope="module")
def expected(world: Frames, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The world as it is read from Parquet, checked against the frames themselves."""
    dataset = read(write_all(world, tmp_path_factory.mktemp("world")))
    assert dataset.users.ids.tolist() == world["users"]["user_id"].to_list()
    assert dataset.items.ids.tolist() == world["items"]["movie_id"].to_list()
    log = world["interactions"].sort("time")
    assert [row[:2] for row in rows(dataset, dataset.interactions["all"])] == log.select(
        "user_id", "movie_id"
    ).rows()
    return content(dataset)


def test_every_kind_of_value_comes_out_in_its_plain_form(expected: dict[str, Any]) -> None:
    users, items = expected["users"], expected["items"]
    assert users["kinds"] == {
        "age": "numeric",
        "level_id": "categorical",
        "active": "boolean",
        "country": "categorical",
        "joined": "timestamp",
    }
    assert users["values"]["age"][6:9] == [26.5, None, 28.5]
    assert users["values"]["level_id"][2:5] == ["2", None, "0"]
    assert users["values"]["active"][:4] == [1.0, 0.0, 0.0, 1.0]
    assert users["values"]["country"][4:7] == ["DE", None, "NL"]
    assert users["values"]["joined"][0] == datetime(2024, 2, 28, tzinfo=UTC).timestamp()
    assert items["kinds"] == {
        "title": "text",
        "genres": "list",
        "price": "numeric",
    }
    assert items["values"]["genres"][:2] == [["war"], ["drama", "war"]]


@pytest.mark.parametrize("suffix", ["pq", "csv", "csv.gz", "tsv", "ndjson", "jsonl"])
def test_all_file_formats_give_what_parquet_gives(
    world: Frames, expected: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    assert content(read(write_all(world, tmp_path, suffix))) == expected


def test_ids_that_look_like_a_uuid_keep_their_spelling(tmp_path: Path) -> None:
    ids = [f"00000070-0000-0000-28C3-FAF3F670A0{n:02X}" for n in range(12)]
    log = pl.DataFrame({"user_id": ids * 2, "item_id": [0] * 12 + [1] * 12})
    for suffix in ("ndjson", "csv", "parquet"):
        found = read(write_all({"interactions": log}, tmp_path / suffix, suffix))
        assert found.users.ids.tolist() == ids


def test_what_is_liked_may_be_written_as_text_and_is_refused_where_it_says_nothing(
    world: Frames,
) -> None:
    liked = pl.Series("label", ["1", "0"] * (len(world["interactions"]) // 2 + 1))
    liked = liked.head(len(world["interactions"]))
    found = read({**world, "interactions": world["interactions"].with_columns(liked)})
    labels = found.interactions["all"].labels
    assert 0 < labels.mean() < 1
    words = liked.replace({"1": "yes", "0": "no"})
    with pytest.raises(DataError, match=r"column 'label' has .* can not be a label.*'yes'"):
        read({**world, "interactions": world["interactions"].with_columns(words)})


def test_a_column_that_may_be_a_time_and_is_not_used_is_named(world: Frames) -> None:
    frame = world["interactions"]
    frame = frame.drop([name for name in frame.columns if not name.endswith("_id")])
    later = frame.with_columns(pl.lit("09/06/2024 10:44").alias("played_at"))
    [note] = [
        n for n in read({**world, "interactions": later}).notes if "named like a time" in n
    ]
    assert "'played_at'" in note
    assert "declare it 'timestamp'" in note


def as_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    return frame.to_pandas()


def as_pandas_of_other_types(frame: pl.DataFrame) -> pd.DataFrame:
    table = frame.to_pandas()
    for name in table.columns:
        if frame[name].dtype == pl.String:
            table[name] = table[name].astype("category" if "_id" not in name else "string")
        elif name == "level_id":
            table[name] = table[name].astype("Int8")
        elif frame[name].dtype == pl.Date:
            table[name] = pd.to_datetime(table[name]).dt.tz_localize("UTC")
    return table


def as_nan(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.Float64).fill_null(float("nan")))


def as_categorical(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.String).cast(pl.Categorical))


def as_arrays(frame: pl.DataFrame) -> Mapping[str, Any]:
    return {name: frame[name].to_numpy() for name in frame.columns}


@pytest.mark.parametrize(
    "form",
    [
        pl.DataFrame.clone,
        pl.DataFrame.lazy,
        as_nan,
        as_categorical,
        as_pandas,
        as_pandas_of_other_types,
        pl.DataFrame.to_arrow,
        as_arrays,
        lambda frame: frame.to_dict(as_series=False),
        lambda frame: frame.to_dict(),
    ],
)
def test_all_data_frames_give_what_the_files_give(
    world: Frames, expected: dict[str, Any], form: Callable[[pl.DataFrame], Any]
) -> None:
    frames = {name: form(frame) for name, frame in world.items()}
    assert content(read(frames)) == expected


def test_lists_and_vectors_come_alike_from_every_form_that_has_them(tmp_path: Path) -> None:
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 3],
            "tags": [["a", None, "b", ""], None, []],
            "codes": [[3, 4], [5], None],
            "vector": [[1.0, 2.0], None, [5.0, 6.5]],
            "fixed": pl.Series([[1, 2]] * 3, dtype=pl.Array(pl.Float32, 2)),
        },
        schema_overrides={"tags": pl.List(pl.String), "vector": pl.List(pl.Float64)},
    )
    log = {"user_id": [1, 1, 2], "item_id": [1, 2, 3]}
    write(items, tmp_path / "items.parquet")
    write(items, tmp_path / "items.ndjson")
    lists = items.to_dict(as_series=False)
    seen = []
    for form in (items, items.to_arrow(), items.to_pandas(), lists, "parquet", "ndjson"):
        table = tmp_path / f"items.{form}" if isinstance(form, str) else form
        seen.append(content(read({"items": table, "interactions": log}))["items"])
    assert all(other == seen[0] for other in seen[1:])
    assert seen[0]["kinds"] == {
        "tags": "list",
        "codes": "list",
        "vector": "vector",
        "fixed": "vector",
    }
    assert seen[0]["values"]["tags"] == [["a", "b"], None, []]
    assert seen[0]["values"]["codes"] == [["3", "4"], ["5"], None]
    assert seen[0]["values"]["vector"] == [[1.0, 2.0], [None, None], [5.0, 6.5]]


def test_an_array_with_a_row_for_each_row_is_a_vector() -> None:
    table = {"item_id": [1, 2], "embedding": np.array([[1.0, 2.0], [3.0, 4.0]])}
    dataset = read({"items": table, "interactions": {"user_id": [1, 1], "item_id": [1, 2]}})
    assert dataset.items.columns["embedding"].kind == "vector"
    assert dataset.items.values["embedding"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_nan_among_texts_is_missing_and_not_a_word() -> None:
    users = {"user_id": [1, 2, 3], "city": ["Rome", float("nan"), "Rome"]}
    dataset = read({"users": users, "interactions": {"user_id": [1, 2], "item_id": [1, 2]}})
    assert dataset.users.values["city"].tolist() == ["Rome", None, "Rome"]


def test_a_frame_that_changes_later_does_not_change_what_was_read() -> None:
    ids = np.array([1, 2, 3])
    dataset = read({"interactions": {"user_id": ids, "item_id": ids}})
    ids[:] = 9
    assert dataset.users.ids.tolist() == [1, 2, 3]


# --- where tables are found


def log_frame(**more: Any) -> pl.DataFrame:
    return pl.DataFrame({"user_id": [1, 1, 2], "item_id": [5, 6, 5], **more})


def test_without_users_and_items_tables_rows_come_from_the_interactions(tmp_path: Path) -> None:
    write(log_frame(), tmp_path / "interactions.parquet")
    dataset = read(tmp_path)
    assert (dataset.users.ids.tolist(), dataset.items.ids.tolist()) == ([1, 2], [5, 6])
    assert (dataset.users.source, dict(dataset.users.values)) == ("", {})
    assert dataset.interactions["all"].user_rows.tolist() == [1, 1, 2]
    assert dataset.interactions["all"].labels.tolist() == [1.0, 1.0, 1.0]


def test_the_items_table_is_found_by_its_id_whatever_its_name(tmp_path: Path) -> None:
    write(log_frame(), tmp_path / "interactions.csv")
    write(pl.DataFrame({"item_id": [6, 5], "x": [0.5, 1.5]}), tmp_path / "catalogue.parquet")
    write(log_frame(tag=["a", "b", "c"]), tmp_path / "tags.csv")
    write(pl.DataFrame({"word": ["a"]}), tmp_path / "vocabulary.csv")
    (tmp_path / "notes.txt").write_text("not a table")
    (tmp_path / ".hidden.csv").write_text("user_id\x00")
    dataset = read(tmp_path)
    assert dataset.items.source == str(tmp_path / "catalogue.parquet")
    assert dataset.items.ids.tolist() == [6, 5]


def test_two_tables_that_may_be_the_items_are_both_named(tmp_path: Path) -> None:
    write(log_frame(), tmp_path / "interactions.csv")
    for name in ("a", "b"):
        write(pl.DataFrame({"item_id": [5, 6]}), tmp_path / f"{name}.csv")
    with pytest.raises(DataError, match=r"a\.csv, .*b\.csv: more than one .*data\.items"):
        read(tmp_path)
    assert read(tmp_path, DataConfig(items="b.csv")).items.source == str(tmp_path / "b.csv")


def test_the_labs_layout_is_a_given_split(tmp_path: Path) -> None:
    write(pl.DataFrame({"user_id": [1, 2, 3]}), tmp_path / "users.parquet")
    write(pl.DataFrame({"movie_id": [5, 6]}), tmp_path / "movies.parquet")
    for name, user in (("train", 1), ("val", 2), ("test", 3)):
        frame = pl.DataFrame({"user_id": [user], "movie_id": [5], "label": [1]})
        write(frame, tmp_path / name / "interactions.parquet")
    dataset = read(tmp_path)
    assert dataset.has_split
    assert list(dataset.interactions) == ["train", "val", "test"]
    assert dataset.interactions["test"].user_rows.tolist() == [3]


@pytest.mark.parametrize("form", ["flat", "parts"])
def test_train_and_test_may_be_files_or_folders_of_files(tmp_path: Path, form: str) -> None:
    for name in ("train", "test"):
        for part in (0, 1):
            frame = pl.DataFrame({"user_id": [part + 1], "item_id": [5]})
            if form == "parts":
                write(frame, tmp_path / name / f"part-{part}.parquet")
        if form == "flat":
            write(
                pl.DataFrame({"user_id": [1, 2], "item_id": [5, 5]}), tmp_path / f"{name}.csv"
            )
    dataset = read(tmp_path)
    assert [len(part) for part in dataset.interactions.values()] == [2, 2]


def test_a_glob_names_many_files_and_folders_named_like_settings_add_columns(
    tmp_path: Path,
) -> None:
    for day in (1, 2):
        frame = pl.DataFrame({"user_id": [day], "item_id": [5]})
        write(frame, tmp_path / "logs" / f"date=2024-01-0{day}" / "part.parquet")
    dataset = read(tmp_path, DataConfig(interactions="logs/*/*.parquet"))
    assert len(dataset.interactions["all"]) == 2
    times = dataset.interactions["all"].times
    assert times is not None
    assert np.diff(times).tolist() == [86_400_000_000]


@pytest.mark.parametrize("name", ["run=3", "it's [1] *", "a?b"])
def test_the_folders_name_means_nothing(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write(log_frame(), folder / "interactions.parquet")
    write(pl.DataFrame({"user_id": [1, 2], "x": [0.5, 1.5]}), folder / "users.parquet")
    assert list(read(folder).users.columns) == ["x"]


def test_paths_in_the_config_go_before_what_lies_in_the_folder(tmp_path: Path) -> None:
    write(log_frame(), tmp_path / "interactions.parquet")
    other = write(log_frame().head(1), tmp_path / "elsewhere" / "log.csv")
    write(log_frame().head(2), tmp_path / "u1_train.csv")
    assert len(read(tmp_path, DataConfig(interactions=str(other))).interactions["all"]) == 1
    assert len(read(tmp_path, DataConfig(train="u1_train.csv")).interactions["train"]) == 2
    assert len(read(None, DataConfig(interactions=str(other))).interactions["all"]) == 1


def test_the_config_chooses_where_a_folder_has_both_layouts(tmp_path: Path) -> None:
    write(log_frame(), tmp_path / "interactions.parquet")
    write(log_frame(), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"has both interactions and train; name the one"):
        read(tmp_path)
    assert not read(tmp_path, DataConfig(interactions="interactions.parquet")).has_split
    assert read(tmp_path, DataConfig(train="train.parquet")).has_split


def test_an_id_of_another_name_is_declared(tmp_path: Path) -> None:
    people = pl.DataFrame({"id": [2, 1], "age": [30.5, 40.5]})
    declared = DataConfig(columns={"users": {"id": "id"}, "items": {"id": "id"}})
    log = {"user_id": [1, 1], "item_id": [2, 1]}
    dataset = read({"users": people, "items": people, "interactions": log}, declared)
    assert dataset.users.ids.tolist() == [2, 1]
    assert dataset.items.values["age"].tolist() == [30.5, 40.5]
    with pytest.raises(DataError, match=r"no column 'user_id'.*found id, age.*declare .*'id'"):
        read({"users": people, "interactions": log})


# --- refusals: what, where, what was found, what to do


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "expected a folder, or a mapping .*got a int"),
        (pl.DataFrame({"user_id": [1], "item_id": [2]}), "or a mapping .*got a DataFrame"),
        ({}, "data: no interactions; expected interactions.parquet or"),
        ({"test": {"user_id": [1], "item_id": [1]}}, "data: no train; expected"),
        ({"interaction": None, 7: None}, "unknown tables 7, interaction; expected users"),
        ({"interactions": 5}, r"interactions table \(int\): not a table .*give a path, or"),
        ({"interactions": {}}, r"interactions table \(dict\): not a table"),
        ({"interactions": ""}, "'' is no path"),
        (
            {"interactions": {"user_id": [1, 2], "item_id": [1]}},
            "columns of unequal length: 'user_id' 2, 'item_id' 1",
        ),
        ({"interactions": {"user_id": 5}}, "a column is a list of values, not a int"),
        ({"interactions": {"user_id": [5]}}, "no column of kind item_id; declare"),
        ("/no/such/folder", "/no/such/folder: no such data folder; check the path"),
    ],
)
def test_a_source_that_is_none_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(source)


def spoil(folder: Path, kind: str) -> None:
    path = folder / "interactions.parquet"
    whole = path.read_bytes()
    match kind:
        case "gone":
            path.unlink()
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "empty":
            path.write_bytes(b"")
        case "no parquet":
            path.write_text("user_id,item_id\n1,2\n")
        case "format":
            path.rename(folder / "interactions.xlsx")
        case "header only":
            path.unlink()
            (folder / "interactions.csv").write_text("user_id,item_id\n")
        case "latin-1":
            path.unlink()
            (folder / "interactions.csv").write_bytes("user_id,item_id\né,2\n".encode("latin1"))
        case "broken json":
            path.unlink()
            (folder / "interactions.ndjson").write_text('{"user_id": 1, "item_id"')
        case "twice":
            (folder / "interactions.csv").write_text("user_id,item_id\n1,2\n")
        case "mixed":
            path.unlink()
            (folder / "interactions").mkdir()
            (folder / "interactions" / "a.csv").write_text("user_id,item_id\n1,2\n")
            (folder / "interactions" / "b.parquet").write_bytes(whole)
        case "file":
            path.unlink()
            folder.rmdir()
            folder.write_text("")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gone", r"folder: no interactions; expected interactions\.parquet or"),
        ("truncated", r"interactions\.parquet: can not be read .*is the file whole"),
        ("empty", r"interactions\.parquet: can not be read"),
        ("no parquet", r"interactions\.parquet: can not be read .*of the format its name says"),
        ("format", "folder: no interactions; expected"),
        ("header only", r"interactions\.csv: no rows; an empty part can not be used"),
        ("latin-1", r"interactions\.csv: line 2 is not UTF-8 \(byte 0xe9\); save the "),
        (
            "broken json",
            r"interactions\.ndjson: line 1 is no JSON object .*; mend or drop that",
        ),
        ("twice", r"has both interactions\.csv and interactions\.parquet; keep one, or name"),
        ("mixed", r"interactions: files of several formats; expected a file that ends in"),
        ("file", "folder: is a file; give the folder that holds users"),
    ],
)
def test_a_spoilt_folder_is_refused_by_name(tmp_path: Path, kind: str, message: str) -> None:
    folder = tmp_path / "folder"
    write(log_frame(), folder / "interactions.parquet")
    spoil(folder, kind)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_all_files_that_can_not_be_read_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "interactions.parquet").write_text("")
    config = DataConfig(users="people.csv", items="things.xls")
    (tmp_path / "things.xls").write_text("")
    with pytest.raises(DataError) as caught:
        read(tmp_path, config)
    message = str(caught.value)
    assert f"{tmp_path} has 3 errors" in message
    assert "people.csv: no such file; check the path" in message
    assert "things.xls: unknown format; expected a file that ends in one of .parquet" in message
    assert "interactions.parquet: can not be read" in message


def test_all_mistakes_of_all_tables_come_at_once() -> None:
    tables = {
        "users": {"user_id": [1, 2, 2, None], "age": [1.0, float("inf"), 3.0, 4.0]},
        "items": {"movieid": [1], "price": [2.0]},
        "interactions": {
            "user_id": [1, None, 2],
            "movie_id": ["a", "b", None],
            "label": [0.0, 2.0, float("nan")],
            "weight": [1.0, -1.0, 1.0],
            "rating": [1.0, 2.0, 3.0],
            "time": [1.0, 2.0, float("inf")],
        },
    }
    declared = {"users": {"aeg": "numeric"}, "interactions": {"tmie": "timestamp"}}
    with pytest.raises(DataError) as caught:
        read(tables, DataConfig.model_validate({"columns": declared, "rating_threshold": 4}))
    message = str(caught.value)
    for part in (
        "data has 12 errors",
        "no column 'tmie', which data.columns.interactions declares; did you mean 'time'?",
        "column 'user_id' has 1 nulls (first in row 2); drop these rows or give them an id",
        "column 'movie_id' has 1 nulls (first in row 3)",
        "column 'label' has 1 nulls (first in row 3); drop these rows or fill them",
        "column 'label' has 1 values that can not be a label, which is 0 to 1 (first in row 2:",
        "column 'weight' has 1 values that can not be a weight, which is 0 or more (first in",
        "column 'time' has 1 values that are no time (first in row 3: 'inf')",
        "column 'user_id' has 1 nulls (first in row 4); drop these rows or give them an id",
        "column 'age' has 1 values that are no finite numbers (first in row 2: 'inf')",
        "no column 'aeg', which data.columns declares; did you mean 'age'?",
        "no column 'movie_id', the id that the interactions use; found movieid, price (is it",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"users": {"user_id": [1, 2, 2, 3, 3], "x": [1, 2, 3, 4, 5]}},
            r"users table \(dict\): column 'user_id' has 2 duplicates \(such as 2\); keep one",
        ),
        ({"users": {"user_id": []}}, "no rows; leave the file out if there are no features"),
        (
            {"users": {"user_id": ["1", "2"]}},
            r"'user_id' of users table \(dict\) are texts \(VARCHAR\); write them alike",
        ),
        (
            {"users": {"user_id": [1.5, 2]}},
            "no whole numbers of 64 bits .first in row 1: '1.5'",
        ),
        ({"users": {"user_id": [2**70, 1]}}, "no whole numbers of 64 bits .first in row 1"),
        ({"users": {"user_id": [[1], [2]]}}, r"is BIGINT\[\]|is INTEGER\[\]; ids are whole"),
        (
            {"items": {"item_id": [5], "v": [[1.0]]}, "users": {"user_id": [1], "v": [[1e39]]}},
            "column 'v' has 1 vectors with numbers that are missing or not finite",
        ),
    ],
)
def test_a_wrong_users_or_items_table_is_refused(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read({"interactions": {"user_id": [1, 2], "item_id": [5, 6]}, **tables})


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        (
            {"when": ["soon", "late"]},
            "timestamp",
            "values that are no time .first in row 1: 's",
        ),
        ({"when": [1e300, 1.0]}, "timestamp", "values that are no time .first in row 1"),
        ({"when": [None, "2024-01-01"]}, "timestamp", "'when' has 1 nulls .first in row 1"),
        ({"like": ["yes", "no"]}, "label", "can not be a label, which is 0 to 1"),
        ({"like": [[1], [0]]}, "label", r"is \w+\[\] and can not be a label; declare another"),
        ({"like": [float("inf"), 1.0]}, "weight", "can not be a weight, which is 0 or more"),
        ({"like": [1, 0]}, "text", "column 'like' can not be a text here; one of user_id"),
        ({"like": [1, 0]}, "user_id", "column|2 columns of kind user_id; declare exactly one"),
    ],
)
def test_a_column_of_the_interactions_that_is_not_what_was_declared_is_refused(
    columns: dict[str, Any], kind: str, message: str
) -> None:
    log = {"user_id": [1, 2], "item_id": [5, 6], **columns}
    declared = {"interactions": {**dict.fromkeys(columns, kind)}}
    if kind == "user_id":
        declared["interactions"]["user_id"] = "user_id"
    with pytest.raises(DataError, match=message):
        read({"interactions": log}, DataConfig.model_validate({"columns": declared}))


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["1", "inf"], "numeric", "no finite numbers .first in row 2: 'inf'"),
        (["1", "many"], "numeric", "no finite numbers .first in row 2: 'many'"),
        (["yes", "perhaps"], "boolean", "neither yes nor no .first in row 2: 'perhaps'"),
        (["2024-01-01", "tomorrow"], "timestamp", "values that are no time .known: %Y"),
        ([[1.0], [1.0, 2.0]], "vector", "its lists are empty or differ in length"),
        ([1.5, 2.5], "list", "is DOUBLE and can not be a list; declare another kind"),
        ([["a"], ["b"]], "numeric", r"is VARCHAR\[\] and can not be a numeric"),
        ([1, 2], "rating", "column 'x' can not be a rating here"),
    ],
)
def test_a_feature_that_is_not_what_was_declared_is_refused(
    values: list[Any], kind: str, message: str
) -> None:
    tables = {
        "users": {"user_id": [1, 2], "x": values},
        "interactions": {"user_id": [1, 2], "item_id": [5, 6]},
    }
    with pytest.raises(DataError, match=message):
        read(tables, DataConfig.model_validate({"columns": {"users": {"x": kind}}}))


def test_a_part_that_lacks_a_column_of_train_is_refused_by_name(tmp_path: Path) -> None:
    write(log_frame(label=[1, 0, 1]), tmp_path / "train" / "interactions.csv")
    write(log_frame(), tmp_path / "test" / "interactions.csv")
    message = "test/interactions.csv: no column 'label', which train/interactions.csv has"
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_threshold_without_a_rating_is_refused() -> None:
    with pytest.raises(DataError, match=r"rating_threshold is set but no column is a rating"):
        read({"interactions": log_frame()}, DataConfig(rating_threshold=4))


# --- ids, labels, orphans, duplicates, times


def test_ids_are_whole_numbers_or_texts_whatever_type_holds_them() -> None:
    for ids in ([3.0, 1.0], np.array([3, 1], np.uint8), [3, 1]):
        dataset = read({"interactions": {"user_id": ids, "item_id": ["3", "x"]}})
        assert dataset.users.ids.dtype == np.int64
        assert dataset.users.ids.tolist() == [1, 3]
        assert dataset.items.ids.tolist() == ["3", "x"]


def test_an_id_with_leading_zeros_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n007,1\n7,1\n")
    assert read(tmp_path).users.ids.tolist() == ["007", "7"]


def test_rows_are_those_of_the_table_and_then_whoever_is_only_in_the_interactions() -> None:
    tables = {
        "users": {"user_id": [9, 4, 6], "x": [1.5, 2.5, 3.5]},
        "interactions": {"user_id": [7, 4, 2, 7], "item_id": [1, 1, 1, 2]},
    }
    dataset = read(tables)
    assert dataset.users.ids.tolist() == [9, 4, 6, 2, 7]
    assert plain(dataset.users.values["x"].tolist()) == [1.5, 2.5, 3.5, None, None]
    assert dataset.interactions["all"].user_rows.tolist() == [5, 2, 4, 5]
    assert dataset.notes == (
        "users table (dict): 2 users of the interactions are not there (such as 2); their 3 "
        "interactions are kept, with all features missing",
    )


def test_orphans_are_dropped_and_counted_on_demand() -> None:
    tables = {
        "users": {"user_id": [9, 4]},
        "items": {"item_id": [1]},
        "interactions": {"user_id": [7, 4, 9], "item_id": [1, 1, 2]},
    }
    dataset = read(tables, DataConfig(orphans="drop"))
    assert dataset.users.ids.tolist() == [9, 4]
    assert rows(dataset, dataset.interactions["all"]) == [(4, 1, 1.0, None, None)]
    assert [note.rsplit(";")[1] for note in dataset.notes] == [
        " their 1 interactions are dropped"
    ] * 2
    tables["users"] = {"user_id": [1]}
    with pytest.raises(DataError, match="no interaction is left after dropping orphans"):
        read(tables, DataConfig(orphans="drop"))


REPEATED = {
    "user_id": [1, 1, 2, 1],
    "item_id": [5, 5, 5, 5],
    "label": [0, 1, 1, 0],
    "time": [30, 90, 20, 60],
}


def test_of_a_pair_that_repeats_the_last_in_time_counts() -> None:
    dataset = read({"interactions": REPEATED})
    assert [row[:3] for row in rows(dataset, dataset.interactions["all"])] == [
        (2, 5, 1.0),
        (1, 5, 1.0),
    ]
    assert "2 rows repeat a user and an item; only the last of each pair" in dataset.notes[0]


def test_without_times_the_last_row_of_a_pair_counts() -> None:
    log = {name: column for name, column in REPEATED.items() if name != "time"}
    dataset = read({"interactions": log})
    assert [row[:3] for row in rows(dataset, dataset.interactions["all"])] == [
        (2, 5, 1.0),
        (1, 5, 0.0),
    ]


def test_repeated_pairs_each_count_on_demand() -> None:
    dataset = read({"interactions": REPEATED}, DataConfig(duplicates="keep"))
    assert [row[2] for row in rows(dataset, dataset.interactions["all"])] == [1, 0, 0, 1]
    assert dataset.notes == ()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, object])
def test_a_rating_at_the_threshold_is_liked_in_every_precision(dtype: Any) -> None:
    ratings = np.array([4.1, 4.0, 4.2], np.float64 if dtype is object else dtype)
    log = {"user_id": [1, 2, 3], "item_id": [1, 1, 1], "rating": ratings}
    if dtype is object:
        log["rating"] = [str(rating) for rating in ratings]
    columns = {"interactions": {"rating": "rating"}}
    config = DataConfig.model_validate({"rating_threshold": 4.1, "columns": columns})
    part = read({"interactions": log}, config).interactions["all"]
    assert part.labels.tolist() == [1.0, 0.0, 1.0]
    np.testing.assert_allclose(part.ratings, [4.1, 4.0, 4.2], rtol=1e-6)


def test_labels_may_be_yes_and_no_and_weights_come_along() -> None:
    log = {"user_id": [1, 2], "item_id": [1, 1], "clicked": [True, False], "plays": [3, 0]}
    part = read({"interactions": log}).interactions["all"]
    assert part.labels.tolist() == [1.0, 0.0]
    assert part.weights is not None
    assert part.weights.tolist() == [3.0, 0.0]
    assert part.times is None


MOMENTS = [datetime(2024, 3, 10, 2, 30), datetime(1999, 12, 31, 23, 59, 59)]
SECONDS = [int(moment.replace(tzinfo=UTC).timestamp()) for moment in MOMENTS]


@pytest.mark.parametrize(
    "values",
    [
        SECONDS,
        [float(s) for s in SECONDS],
        [s * 10**3 for s in SECONDS],
        [s * 10**6 for s in SECONDS],
        [s * 10**9 for s in SECONDS],
        np.array(SECONDS, np.uint32),
        np.array(MOMENTS, "datetime64[s]"),
        np.array(MOMENTS, "datetime64[ns]"),
        MOMENTS,
        [moment.replace(tzinfo=UTC) for moment in MOMENTS],
        [str(moment) for moment in MOMENTS],
        [moment.isoformat() for moment in MOMENTS],
        [moment.isoformat() + "Z" for moment in MOMENTS],
        [f"{moment + timedelta(hours=2)}+02:00" for moment in MOMENTS],
    ],
)
def test_times_in_all_units_and_types_are_the_same_microseconds(
    values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    log = {"user_id": [1, 2], "item_id": [1, 1], "timestamp": values}
    part = read({"interactions": log}).interactions["all"]
    assert part.times is not None
    assert part.times.tolist() == [s * 10**6 for s in sorted(SECONDS)]
    assert part.user_rows.tolist() == [2, 1]


def test_dates_are_midnight_in_utc_however_they_are_written() -> None:
    days = [date(2024, 3, 10), date(2000, 1, 1)]
    texts = [[f"{day:{pattern}}" for day in days] for pattern in ("%d-%b-%Y", "%d/%m/%Y")]
    for values in (days, *texts):
        log = {"user_id": [1, 2], "item_id": [1, 1], "date": values}
        part = read({"interactions": log}).interactions["all"]
        assert part.times is not None
        assert (part.times / 86_400e6).tolist() == [10957.0, 19792.0]


def test_the_unit_of_times_is_one_for_all_parts() -> None:
    early, late = {"t": [5_000, 6_000]}, {"t": [1_700_000_000_000, 1_700_000_000_001]}
    ids = {"user_id": [1, 2], "item_id": [1, 2]}
    config = DataConfig.model_validate({"columns": {"interactions": {"t": "timestamp"}}})
    dataset = read({"train": {**ids, **early}, "test": {**ids, **late}}, config)
    train, test = (dataset.interactions[name].times for name in ("train", "test"))
    assert train is not None
    assert test is not None
    assert train.tolist() == [5_000_000, 6_000_000]
    assert np.diff(test).tolist() == [1_000]


def test_rows_come_oldest_first_and_rows_of_one_moment_as_they_stood() -> None:
    log = {
        "user_id": list(range(1000)),
        "item_id": [1] * 1000,
        "time": [n % 3 for n in range(1000)],
    }
    part = read({"interactions": log}).interactions["all"]
    assert (part.user_rows - 1).tolist() == sorted(range(1000), key=lambda n: (n % 3, n))


def test_without_times_rows_come_as_they_stood() -> None:
    order = np.random.default_rng(0).permutation(5000)
    log = {"user_id": order, "item_id": order}
    dataset = read({"interactions": log})
    assert [row[0] for row in rows(dataset, dataset.interactions["all"])] == order.tolist()


def test_a_guessed_time_that_some_rows_lack_is_ignored_and_said() -> None:
    log = {"user_id": [1, 2], "item_id": [1, 1], "timestamp": [5, None]}
    dataset = read({"interactions": log})
    assert dataset.interactions["all"].times is None
    assert "'timestamp' looks like a time but 1 rows lack it; ignored" in dataset.notes[0]


def test_times_written_unlike_in_two_parts_are_refused() -> None:
    ids = {"user_id": [1], "item_id": [1]}
    tables = {"train": {**ids, "time": [5]}, "test": {**ids, "time": ["2024-01-01"]}}
    with pytest.raises(DataError, match=r"column 'time' is .* in train .* and VARCHAR in test"):
        read(tables)


def test_a_feature_in_milliseconds_is_a_time_when_declared() -> None:
    tables = {
        "users": {"user_id": [1, 2], "joined": [1_700_000_000_000, 1_600_000_000_000]},
        "interactions": {"user_id": [1, 2], "item_id": [1, 1]},
    }
    config = DataConfig.model_validate({"columns": {"users": {"joined": "timestamp"}}})
    assert read(tables, config).users.values["joined"].tolist() == [1.7e9, 1.6e9]


def test_a_category_is_the_same_whether_a_table_writes_3_or_3_point_0() -> None:
    log = {"user_id": [1, 2, 3], "item_id": [1, 1, 1]}
    config = DataConfig.model_validate({"columns": {"users": {"x": "categorical"}}})
    for values in ([3, 1, 2], [3.0, 1.0, 2.0], ["3", "1", "2"], np.array([3, 1, 2], np.int8)):
        dataset = read(
            {"users": {"user_id": [1, 2, 3], "x": values}, "interactions": log}, config
        )
        assert dataset.users.values["x"].tolist() == ["3", "1", "2"]


def test_a_column_named_like_the_readers_own_is_no_trouble() -> None:
    names = ["id", "row", "place", "present", "part", "user_row", "f x", 'a "b"', "ID_"]
    users = {"user_id": [1, 2], **{name: [0.5, 1.5] for name in names}}
    log = {"user_id": [1, None], "item_id": [1, 2], "place": [3, 4], "time": [1, 2]}
    with pytest.raises(DataError, match=r"'user_id' has 1 nulls \(first in row 2\)"):
        read({"users": users, "interactions": log})
    log["user_id"] = [1, 2]
    dataset = read({"users": users, "interactions": log})
    assert {name: values.tolist() for name, values in dataset.users.values.items()} == {
        name: [0.5, 1.5] for name in names
    }
