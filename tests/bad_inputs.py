"""What can be wrong with what is given, and what is said of it.

``python tests/bad_inputs.py > docs/bad-input.md`` writes the page; ``test_bad_input.py`` holds
each case to its promises.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars
import yaml

from processes import Done, Warm, warm

_rng = np.random.default_rng(0)
_PAIRS = np.sort(_rng.permutation(24 * 12)[:201])
USERS, ITEMS = list(range(1, 25)), list(range(501, 513))
SHOP: dict[str, dict[str, Any]] = {
    "users": {
        "user_id": USERS,
        "age": [20.0 + n for n in range(24)],
        "city": ["Rome", "Oslo", "Bern"] * 8,
    },
    "items": {
        "item_id": ITEMS,
        "price": [1.5 * n for n in range(12)],
        "kind": ["tea", "jam"] * 6,
    },
    "interactions": {
        "user_id": [1 + int(pair) // 12 for pair in _PAIRS],
        "item_id": [501 + int(pair) % 12 for pair in _PAIRS],
        # Whoever is in Rome likes jam, and nobody else does.
        "label": [int((pair // 12 % 3 == 0) == pair % 2) for pair in _PAIRS],
    },
}
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"embedding_dim": 4, "user_hidden_dims": [], "item_hidden_dims": []},
    "training": {"epochs": 2},
    "data": {"data_path": "shop", "split": "random_per_user"},
    "evaluation": {"baselines": ["popularity"], "bootstrap": 10, "k": [5]},
}
HEADER = "user_id,item_id,label\n"
TRAIN = "train --config small.yaml"


def table(at: Path, name: str, folder: str = "shop", **columns: Any) -> None:
    """Write one of the shop's tables with other columns; None leaves one out."""
    changed = {**SHOP[name], **columns}
    kept = {column: values for column, values in changed.items() if values is not None}
    polars.DataFrame(kept).write_parquet(at / folder / f"{name}.parquet")


def settings(at: Path, **sections: Any) -> None:
    """Write the settings with some changed."""
    every = {**SETTINGS, **{n: {**SETTINGS.get(n, {}), **s} for n, s in sections.items()}}
    (at / "small.yaml").write_text(yaml.safe_dump(every))


def prepare(at: Path) -> None:
    """A folder with a good shop, good settings and a good run."""
    (at / "shop").mkdir(parents=True)
    for name in SHOP:
        table(at, name)
    settings(at)
    done = warm(TRAIN, at)
    assert done.code == 0, done.err
    [run] = (at / "runs").iterdir()
    run.rename(at / "runs" / "first")


def changed(name: str, column: str, value: Any) -> list[Any]:
    """A column of the shop with another value in its third row."""
    values = list(SHOP[name][column])
    values[2] = value
    return values


def cut(path: Path) -> None:
    """Keep half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def later_version(at: Path) -> None:
    path = at / "runs/first/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


def text_log(at: Path, suffix: str, text: str) -> None:
    """Put a text, in Latin-1, in the place of the interactions."""
    (at / "shop/interactions.parquet").unlink()
    (at / f"shop/interactions.{suffix}").write_bytes(text.encode("latin-1"))


def only_train(at: Path) -> None:
    (at / "whole/train").mkdir(parents=True)
    shutil.copy(at / "shop/interactions.parquet", at / "whole/train")


def other_tables(at: Path, **tables: Any) -> None:
    """Write another shop, which differs from the first in some columns."""
    (at / "other").mkdir()
    for name in SHOP:
        table(at, name, "other", **tables.get(name, {}))


def renamed(name: Callable[[int], Any]) -> dict[str, dict[str, list[Any]]]:
    """The columns of ids with other ids in them."""
    return {
        table: {
            column: [name(identity) for identity in columns[column]]
            for column in {"user_id", "item_id"} & set(columns)
        }
        for table, columns in SHOP.items()
    }


def damaged_archive(at: Path) -> None:
    with zipfile.ZipFile(at / "ml.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("ml-100k/u.data", "1\t2\t3\t881250949\n" * 1000)
    cut(at / "ml.zip")


def one_rating(at: Path) -> None:
    (at / "mine").mkdir()
    for name, text in {
        "ratings": "userId,movieId,rating,timestamp\n1,2,4.5,881250949\n",
        "movies": "movieId,title,genres\n2,Jumanji (1995),Adventure\n",
        "links": "movieId,imdbId,tmdbId\n2,0113497,8844\n",
    }.items():
        (at / f"mine/{name}.csv").write_text(text)


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        wrong: what, for the page.
        says: where it is, what was found and what to do, as the message has them.
        spoil: makes it so, in a folder that ``prepare`` made; None where all is well.
        command: what is run there.
        code: how it ends; 0 where it is no error but a note.
        largest_file: bytes after which the disk is full.
        interrupt: whether Ctrl-C comes when an epoch is done.
        leaves: what the command may leave behind, as a pattern of paths.
    """

    wrong: str
    says: tuple[str, str, str]
    spoil: Callable[[Path], Any] | None = None
    command: str = TRAIN
    code: int = 2
    largest_file: int | None = None
    interrupt: bool = False
    leaves: str = ""


@dataclass(frozen=True)
class End:
    """How a case ended.

    Attributes:
        message: what was said of it: the error, or the notes and warnings.
        changed: what the command changed in its folder, besides a new run.
    """

    done: Done
    message: str
    changed: list[str]


CASES = [
    Case(
        "a data folder that is not there",
        ("nowhere", "no such data folder", "check the path"),
        command="train --data nowhere",
    ),
    Case(
        "a file where a folder must be",
        ("shop/users.parquet", "is a file", "give the folder that holds users, items"),
        command="inspect shop/users.parquet",
    ),
    Case(
        "a folder without interactions",
        ("shop", "no interactions", "expected interactions.parquet or train/interactions"),
        lambda at: (at / "shop/interactions.parquet").unlink(),
    ),
    Case(
        "a table that is not there",
        ("shop/people.csv", "no such file", "check the path"),
        lambda at: settings(at, data={"users": "people.csv"}),
    ),
    Case(
        "a format that is not read",
        ("shop/users.xlsx", "unknown format", "ends in one of .parquet, .pq, .csv"),
        lambda at: (
            (at / "shop/users.xlsx").write_text("x"),
            settings(at, data={"users": "users.xlsx"}),
        ),
    ),
    Case(
        "a Parquet file cut short",
        ("shop/interactions.parquet", "can not be read (No magic bytes", "is the file whole"),
        lambda at: cut(at / "shop/interactions.parquet"),
    ),
    Case(
        "a text file named .parquet",
        (
            "shop/items.parquet",
            "can not be read (No magic bytes",
            "of the format its name says",
        ),
        lambda at: (at / "shop/items.parquet").write_text("item_id,price\n501,2\n"),
    ),
    Case(
        "a line of a CSV that is longer than its header",
        (
            "shop/interactions.csv: line 502",
            "4 values ('3,501,1,9') and the header 3 columns",
            "mend or drop that line",
        ),
        lambda at: text_log(at, "csv", HEADER + "1,501,1\n" * 500 + "3,501,1,9\n"),
    ),
    Case(
        "a CSV that is not in UTF-8",
        ("shop/interactions.csv: line 3", "not UTF-8 (byte 0xe9", "save the file as UTF-8"),
        lambda at: text_log(at, "csv", f"{HEADER}1,501,1\n1,caf\xe9,1\n"),
    ),
    Case(
        "a CSV whose lines end in different ways",
        ("shop/interactions.csv", "line 1 in LF and line 2 in CRLF", "one kind of line end"),
        lambda at: text_log(at, "csv", HEADER + "1,501,1\r\n" * 30),
    ),
    Case(
        "a CSV without a byte",
        ("shop/interactions.csv", "is empty", "write a header and rows into it"),
        lambda at: text_log(at, "csv", ""),
    ),
    Case(
        "a JSON array where each line shall be an object",
        ("shop/interactions.ndjson: line 1", "a JSON array", "an object on a line of its own"),
        lambda at: text_log(at, "ndjson", '[{"user_id": 1, "item_id": 501}]'),
    ),
    Case(
        "a column that is missing",
        ("interactions.parquet", "no column of kind item_id", "declare exactly one under data"),
        lambda at: table(at, "interactions", item_id=None, label=None),
    ),
    Case(
        "a column that is misspelt",
        (
            "items.parquet: no column 'item_id'",
            "found price, kind, itemid",
            "Rename it, or decl",
        ),
        lambda at: table(at, "items", item_id=None, itemid=SHOP["items"]["item_id"]),
    ),
    Case(
        "a declared column that no table has",
        ("users.parquet", "no column 'agee', which data.columns declares", "mean 'age'?"),
        lambda at: settings(at, data={"columns": {"users": {"agee": "numeric"}}}),
    ),
    Case(
        "nulls among ids",
        (
            "interactions.parquet: column 'user_id'",
            "1 nulls (first in row 3)",
            "drop these rows",
        ),
        lambda at: table(at, "interactions", user_id=changed("interactions", "user_id", None)),
    ),
    Case(
        "a user twice",
        (
            "users.parquet: column 'user_id'",
            "1 duplicates (such as 2)",
            "keep one row for each",
        ),
        lambda at: table(at, "users", user_id=changed("users", "user_id", 2)),
    ),
    Case(
        "an item twice",
        ("items.parquet: column 'item_id'", "1 duplicates (such as 501)", "keep one row for"),
        lambda at: table(at, "items", item_id=changed("items", "item_id", 501)),
    ),
    Case(
        "ids that are numbers here and texts there",
        (
            "'user_id' of interactions.parquet are numbers",
            "are texts (VARCHAR)",
            "write them al",
        ),
        lambda at: table(at, "users", user_id=[f"u{n}" for n in SHOP["users"]["user_id"]]),
    ),
    Case(
        "a feature that is not finite",
        ("users.parquet: column 'age'", "first in row 3: 'inf'", "mend them or declare"),
        lambda at: table(at, "users", age=changed("users", "age", float("inf"))),
    ),
    Case(
        "vectors of unequal length",
        ("items.parquet: column 'look'", "differ in length (1 to 2 numbers)", "mend them or"),
        lambda at: (
            table(at, "items", look=[[1.0, 2.0]] * 11 + [[3.0]]),
            settings(at, data={"columns": {"items": {"look": "vector"}}}),
        ),
    ),
    Case(
        "a rating that is not finite",
        (
            "interactions.parquet: column 'rating'",
            "first in row 1: '-inf'",
            "mend them or decl",
        ),
        lambda at: (
            table(at, "interactions", label=None, rating=[float("-inf")] + [4.0, 2.5] * 100),
            settings(at, data={"rating_threshold": 4}),
        ),
    ),
    Case(
        "a label out of range",
        (
            "interactions.parquet: column 'label'",
            "which is 0 to 1 (first in row 3: '5')",
            "mend",
        ),
        lambda at: table(at, "interactions", label=changed("interactions", "label", 5)),
    ),
    Case(
        "several mistakes",
        (
            "shop has 2 errors:",
            "column 'label' has 1 values that can not be a label",
            "keep one row for each id",
        ),
        lambda at: (
            table(at, "interactions", label=changed("interactions", "label", -1)),
            table(at, "users", user_id=changed("users", "user_id", 2)),
        ),
    ),
    Case(
        "labels that all are 1, under bce",
        ("the labels in train", "are all 1", "use loss 'softmax' or 'auto'"),
        lambda at: (
            table(at, "interactions", label=None),
            settings(at, training={"loss": "bce"}),
        ),
    ),
    Case(
        "labels that all are 0",
        ("the labels in train", "are all 0", "check the label column"),
        lambda at: table(at, "interactions", label=[0] * 201),
    ),
    Case(
        "one item only",
        ("the items", "there is only one", "bring interactions with several"),
        lambda at: (
            table(at, "interactions", user_id=USERS, item_id=[501] * 24, label=None),
            table(at, "items", item_id=[501], price=[1.0], kind=["tea"]),
            settings(at, data={"split": "random"}),
        ),
    ),
    Case(
        "one user only, with three items",
        ("shop", "leaves validation empty (2 rows in all)", "give more interactions"),
        lambda at: (
            table(at, "interactions", user_id=[1] * 3, item_id=ITEMS[:3], label=None),
            table(at, "users", user_id=[1], age=[20.0], city=["Rome"]),
        ),
    ),
    Case(
        "one user only, with twelve items",
        ("only 1 test users", "a comparison means little", "bring more data"),
        lambda at: (
            table(at, "interactions", user_id=[1] * 12, item_id=ITEMS, label=None),
            table(at, "users", user_id=[1], age=[20.0], city=["Rome"]),
        ),
        code=0,
    ),
    Case(
        "the same interaction two hundred times",
        ("199 rows repeat", "leaves test empty (1 rows in all)", "give more interactions"),
        lambda at: table(
            at, "interactions", user_id=[3] * 200, item_id=[505] * 200, label=None
        ),
    ),
    Case(
        "a part of the split that stays empty",
        ("the test split by 'leave_last'", "leaves test empty (12 rows", "another data.split"),
        lambda at: (
            table(at, "interactions", user_id=USERS[:12], item_id=ITEMS, label=None),
            settings(at, data={"split": "leave_last"}),
        ),
    ),
    Case(
        "a split by time without times",
        (
            "shop: data.split is 'time'",
            "no column is a timestamp",
            "declare one under data.col",
        ),
        lambda at: settings(at, data={"split": "time"}),
    ),
    Case(
        "an interaction of an unknown user",
        ("users.parquet", "1 users of the interactions are not there (such as 99)", "are kept"),
        lambda at: table(at, "interactions", user_id=changed("interactions", "user_id", 99)),
        code=0,
    ),
    Case(
        "an interaction with an unknown item, under orphans: drop",
        (
            "items.parquet",
            "1 items of the interactions are not there (such as 9)",
            "are dropped",
        ),
        lambda at: (
            table(at, "interactions", item_id=changed("interactions", "item_id", 9)),
            settings(at, data={"orphans": "drop"}),
        ),
        code=0,
    ),
    Case(
        "more data than memory",
        (
            "shop: reading it takes about",
            "for 201 interactions",
            "leave out old interactions",
        ),
        lambda at: settings(at, data={"memory_gib": 1e-6}),
    ),
    Case(
        "layers larger than memory",
        (
            "the training takes about 80.",
            "for layers, their moments and the best of them",
            "what fits: model.user_hidden_dims and item_hidden_dims [256, 128]",
        ),
        lambda at: settings(
            at, model={"user_hidden_dims": [65_536, 65_536]}, data={"memory_gib": 1}
        ),
    ),
    Case(
        "a config that is not there",
        ("nowhere.yaml", "no such config file", "give the path of a YAML file"),
        command="train --config nowhere.yaml",
    ),
    Case(
        "a setting that does not exist",
        ("small.yaml: training.lerning_rate", "unknown key", "did you mean learning_rate?"),
        lambda at: settings(at, training={"lerning_rate": 0.1}),
    ),
    Case(
        "settings out of bounds",
        ("training.learning_rate", "(got -1)", "model.dropout: Input should be less than 1"),
        lambda at: settings(at, training={"learning_rate": -1}, model={"dropout": 1.5}),
    ),
    Case(
        "a config that is no YAML",
        (
            "small.yaml: not valid YAML (line 2, column 9",
            "expected ',' or ']'",
            "mend that line",
        ),
        lambda at: (at / "small.yaml").write_text("model: [1, 2\ntraining: {"),
    ),
    Case(
        "a config that is no text",
        ("small.yaml", "can not be read ('utf-8' codec", "give a YAML text file"),
        lambda at: (at / "small.yaml").write_bytes(b"\xff\xfe\x00model"),
    ),
    Case(
        "no data named anywhere",
        ("--data DIR", "no data", "or data.data_path in the config"),
        command="train",
    ),
    Case(
        "a run's name with a slash",
        ("the run's name 'a/b'", "must be a name without slashes", "give --name"),
        command=f"{TRAIN} --name a/b",
    ),
    Case(
        "a user that the run does not know",
        ("user_id", "1 unknown ('99')", "For somebody new there is recommend_for"),
        command="recommend runs/first 1 99",
    ),
    Case(
        "an item that the run does not know",
        ("item_id", "1 unknown ('9')", "New ones come in with add_items"),
        command="similar runs/first 9",
    ),
    Case(
        "more items than there are",
        ("k must be", "got 100", "1 to 12, the number of items"),
        command="recommend runs/first 1 -k 100",
    ),
    Case(
        "no items at all",
        ("k must be", "got 0", "1 to 12, the number of items"),
        command="recommend runs/first 1 -k 0",
    ),
    Case(
        "neither users nor --all",
        ("recommend", "give ids of users", "or --all with --into FILE.parquet"),
        command="recommend runs/first",
    ),
    Case(
        "vectors of neither users nor items",
        ("embed", "'people' is neither 'users' nor 'items'", "ask for one of them"),
        command="embed runs/first people --into x.parquet",
    ),
    Case(
        "a run that is not there",
        ("runs/second", "no such run", "`twotower runs` lists those there are"),
        command="recommend runs/second 1",
    ),
    Case(
        "a folder that is no run",
        ("shop", "is no run (manifest.json is missing)", "`twotower runs` lists those"),
        command="evaluate shop",
    ),
    Case(
        "a folder without runs",
        ("shop", "no runs there", "`twotower train` makes one"),
        command="runs shop",
    ),
    Case(
        "a folder with nothing but a training that was stopped",
        ("stopped", "no runs there; .unfinished-20260131-120000-lab", "with --resume goes on"),
        lambda at: (at / "stopped/.unfinished-20260131-120000-lab").mkdir(parents=True),
        "runs stopped",
    ),
    Case(
        "a file of a run that was changed",
        ("runs/first", "config.yaml was changed after training", "restore it, or train again"),
        lambda at: (at / "runs/first/config.yaml").write_text("model: {}\n"),
        "recommend runs/first 1",
    ),
    Case(
        "a file of a run that is missing",
        ("runs/first", "model.safetensors is missing", "restore it, or train again"),
        lambda at: (at / "runs/first/model.safetensors").unlink(),
        "similar runs/first 501",
    ),
    Case(
        "a run of a later version",
        (
            "runs/first: manifest.json",
            "format 99, written by a later version",
            "Upgrade twotow",
        ),
        later_version,
        "recommend runs/first 1",
    ),
    Case(
        "a run whose data is gone",
        ("shop", "no such data folder", "check the path"),
        lambda at: shutil.rmtree(at / "shop"),
        "evaluate runs/first",
    ),
    Case(
        "data without a test part",
        ("whole", "there is no test part to evaluate on", "add test/interactions"),
        only_train,
        "evaluate runs/first --data whole",
    ),
    Case(
        "data of other users and items than the run's",
        ("other", "none of the 24 test users and none of the 12 items", "give data with the"),
        lambda at: other_tables(at, **renamed(lambda identity: 9000 + identity)),
        "evaluate runs/first --data other",
    ),
    Case(
        "data whose ids are of another kind than the run's",
        ("other", "the run's 'user_id' are numbers, such as 1, and", "or train on this data"),
        lambda at: other_tables(at, **renamed(lambda identity: f"x{identity}")),
        "evaluate runs/first --data other",
    ),
    Case(
        "data without features that the run learned from",
        ("not the data that the run", "24 of the 24 test users", "the data lacks 'age', whic"),
        lambda at: other_tables(at, users={"age": None, "Age": SHOP["users"]["age"]}),
        "evaluate runs/first --data other",
        code=0,
    ),
    Case(
        "a file where the runs shall go",
        ("out", "can not be written (Not a directory)", "name another folder with --into"),
        lambda at: (at / "out").touch(),
        f"{TRAIN} --into out",
    ),
    Case(
        "a file where a folder shall go",
        ("out/lab", "can not be written: Not a directory", "name another directory"),
        lambda at: (at / "out").touch(),
        "generate out/lab",
    ),
    Case(
        "a place that is taken",
        ("shop", "is not empty (it holds interactions.parquet", "name a new or an empty"),
        command="generate shop",
    ),
    Case(
        "a file in a folder that is not there",
        ("no/x.parquet", "can not be written (no does not exist)", "give the path of a file"),
        command="recommend runs/first --all --into no/x.parquet",
    ),
    Case(
        "a disk that is full at a checkpoint",
        (
            "search-0.safetensors",
            "can not be written (File too large)",
            "make room or name anoth",
        ),
        largest_file=2000,
    ),
    Case(
        "a disk that is full at the end of a training",
        ("-small: can not be written", "(File too large)", "train with resume to go on"),
        lambda at: settings(at, evaluation={"k": list(range(1, 41))}),
        largest_file=20_000,
        leaves=r"runs/\.unfinished-.*",
    ),
    Case(
        "a disk that is full under a world",
        ("new/lab", "can not be written: File too large", "make room, ask for less"),
        command="generate new/lab",
        largest_file=2000,
    ),
    Case(
        "a disk that is full under recommendations",
        ("x.parquet", "can not be written (File too large)", "make room or name another"),
        command="recommend runs/first --all --into x.parquet",
        largest_file=600,
    ),
    Case(
        "a disk that is full under vectors",
        ("x.parquet", "can not be written (File too large)", "make room or name another"),
        command="embed runs/first users --into x.parquet",
        largest_file=600,
    ),
    Case(
        "a public data set that is not known",
        ("no data set 'ml-1k'", "did you mean ml-100k?", "known are ml-latest-small, ml-100k"),
        command="download ml-1k",
    ),
    Case(
        "an archive that is damaged",
        (
            "ml.zip",
            "is a damaged zip, perhaps cut short",
            "ml-100k.zip again or name the unpac",
        ),
        damaged_archive,
        "download ml-100k --from ml.zip",
    ),
    Case(
        "tables where a data set shall go",
        ("tables", "already holds users.parquet", "or replace it with --overwrite"),
        lambda at: ((at / "tables").mkdir(), (at / "tables/users.parquet").touch()),
        "download ml-100k --into tables",
    ),
    Case(
        "a copy of a data set with another number of ratings",
        ("ml-latest-small", "1 ratings, published are 100,836", "say which you used"),
        one_rating,
        "download ml-latest-small --from mine --into tables",
        code=0,
        leaves="tables(/.*)?",
    ),
    Case(
        "a training that is interrupted",
        ("interrupted", "was the best and counts", "once more on all but the test part"),
        lambda at: settings(
            at, training=dict.fromkeys(("epochs", "early_stopping_patience"), 100_000)
        ),
        code=0,
        interrupt=True,
    ),
]


def run(case: Case, good: Path, at: Path) -> End:
    """A case's command in a spoilt copy of a good folder."""
    shutil.copytree(good, at)
    if case.spoil is not None:
        case.spoil(at)
    before = content(at)
    command = Warm(case.command, at, largest_file=case.largest_file)
    while case.interrupt and command.process.is_alive():
        if list(at.glob("runs/.unfinished-*/search-*.safetensors")):
            assert command.process.pid is not None
            os.kill(command.process.pid, signal.SIGINT)
            break
        time.sleep(0.001)
    done = command.wait()
    after = content(at)
    ways = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    is_run = re.compile(r"runs/\d{8}-\d{6}-[^/]*(/.*)?")
    changed = [path for path in ways if case.code or not is_run.fullmatch(path)]
    said = done.err or "".join(re.findall(r"^warning .*\n", done.out, re.M))
    return End(done, plain(said, at), sorted(changed))


def content(folder: Path) -> dict[str, bytes]:
    """Every path below a folder, with what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def plain(said: str, at: Path) -> str:
    """What was said, the same on every day and in every folder."""
    said = said.strip().replace(f"{at.resolve()}/", "")
    said = re.sub(r"\d{8}-\d{6}", "20260131-120000", said)
    return re.sub(r"epoch \d+", "epoch 7", said)


def page(ends: list[End]) -> str:
    """The Markdown of ``docs/bad-input.md``."""
    lines = [
        "# When something is wrong",
        "",
        "Each of these was made wrong on purpose, and this is what is said of it: where it is,",
        "what was found, what to do. Mistakes end with exit code 2, all that were found in one",
        "place at once, and leave nothing half written. What begins with `note` or `warning`",
        "goes on. The page is written by `python tests/bad_inputs.py`; the tests hold it true.",
        "",
        "| what was wrong | what is said |",
        "|---|---|",
    ]
    for case, end in zip(CASES, ends, strict=True):
        said = "<br>".join(f"`` {line.strip()} ``" for line in end.message.splitlines())
        lines.append(f"| {case.wrong} | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the page."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(place / "good")
        ends = [run(case, place / "good", place / f"{n}") for n, case in enumerate(CASES)]
    print(page(ends), end="")


if __name__ == "__main__":
    main()
