"""Whatever is wrong is told in one go and in words, and leaves nothing half done."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bad_inputs import CASES, TRAIN, Case, End, page, prepare, run
from processes import warm
from twotower.config import DataConfig, Kind
from twotower.data.inspection import inspect
from twotower.data.tables import Dataset, read
from twotower.errors import ConfigError, DataError

DOCUMENT = Path(__file__).parents[1] / "docs" / "bad-input.md"
MISTAKES = [case for case in CASES if case.code]
Ends = Callable[[Case], End]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good folder in it."""
    place = tmp_path_factory.mktemp("cases")
    prepare(place / "good")
    return place


@pytest.fixture(scope="module")
def end_of(place: Path) -> Ends:
    """What came of a case, which is run once."""
    ends: dict[str, End] = {}

    def end_of(case: Case) -> End:
        if case.wrong not in ends:
            ends[case.wrong] = run(case, place / "good", place / case.wrong)
        return ends[case.wrong]

    return end_of


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.wrong for case in cases])


@each(CASES)
def test_it_is_said_where_it_is_what_was_found_and_what_to_do(case: Case, end_of: Ends) -> None:
    for part in case.says:
        assert part in end_of(case).message


@each(MISTAKES)
def test_a_mistake_ends_with_code_2_and_exactly_one_error(case: Case, end_of: Ends) -> None:
    done = end_of(case).done
    assert (done.code, done.out) == (2, "")
    lines = [line for line in done.err.splitlines() if not line.startswith("note ")]
    assert lines[0].startswith("error ")
    assert all(line.startswith("  ") for line in lines[1:])
    assert (len(lines) > 1) == lines[0].endswith("errors:")
    assert len(lines) != 2


@each([case for case in CASES if not case.code])
def test_what_is_no_mistake_is_noted_and_goes_on(case: Case, end_of: Ends) -> None:
    end = end_of(case)
    assert end.done.code == 0
    assert re.match("note |warning ", end.message)
    assert end.done.out
    assert ("trained in" in end.done.out) == case.command.startswith("train")


@each(CASES)
def test_nothing_is_left_behind_or_half_written(case: Case, end_of: Ends) -> None:
    left = [path for path in end_of(case).changed if not re.fullmatch(case.leaves, path)]
    assert left == []


def test_a_training_that_found_the_disk_full_goes_on_when_there_is_room(
    place: Path, end_of: Ends
) -> None:
    [case] = [case for case in CASES if "unfinished" in case.leaves]
    end_of(case)
    done = warm(f"{TRAIN} --resume", place / case.wrong)
    assert done.code == 0
    assert "note training goes on after epoch 2" in done.err
    assert len(list((place / case.wrong / "runs").iterdir())) == 2


def test_the_page_of_mistakes_is_up_to_date(end_of: Ends) -> None:
    now = page([end_of(case) for case in CASES])
    assert DOCUMENT.read_text(encoding="utf-8") == now, "python tests/bad_inputs.py > docs/..."


# --- whatever a table holds

COLUMNS = ["user_id", "item_id", "label", "rating", "timestamp", "weight", "x", "User_ID"]
names = st.sampled_from(COLUMNS) | st.text(max_size=4)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "number": st.integers(-2, 6),
    "any number": st.integers(),
    "float": st.floats(),
    "text": st.text(max_size=6),
    "words": st.sampled_from(["1", "007", "nan", "1e400", "2024-01-01", "a|b", "yes", ""]),
    "boolean": st.booleans(),
    "date": st.dates(),
    "time": st.datetimes(),
    "moment": st.datetimes(timezones=st.just(UTC)),
    "duration": st.timedeltas(),
    "decimal": st.decimals(),
    "list": st.lists(st.integers(0, 3) | st.none(), max_size=3),
    "vector": st.lists(st.floats(), min_size=2, max_size=2),
    "parts": st.lists(st.text(max_size=3), max_size=3),
    "bytes": st.binary(max_size=3),
    "mapping": st.dictionaries(st.text(max_size=2), st.integers(0, 2), max_size=2),
    "nothing": st.none(),
}
cells = st.sampled_from([*CELLS.values(), st.one_of(*CELLS.values())])


@st.composite
def columns(draw: st.DrawFn, *ids: str) -> dict[str, Any]:
    """A table with these ids, mostly good, and with whatever else."""
    size = draw(st.integers(0, 5))
    table: dict[str, Any] = {}
    for name in ids:
        good = st.permutations(range(size)) if len(ids) == 1 else _some(st.integers(1, 4), size)
        table[name] = draw(good if draw(st.integers(0, 4)) else _some(draw(cells), size))
    for name in draw(st.lists(names, max_size=3, unique=True)):
        length = size if draw(st.integers(0, 30)) else size + 1
        table.setdefault(name, draw(_some(draw(cells), length)))
    return table


def _some(values: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=size, max_size=size)


rules = st.fixed_dictionaries(
    {
        "rating_threshold": st.none() | st.floats(-9, 9),
        "orphans": st.sampled_from(["keep", "drop"]),
        "duplicates": st.sampled_from(["keep", "last"]),
        "columns": st.dictionaries(
            st.sampled_from(["users", "items", "interactions"]),
            st.dictionaries(names, st.sampled_from(get_args(Kind)), max_size=2),
            max_size=1,
        ),
    }
)


def read_or_refuse(source: Any, config: DataConfig | None = None) -> None:
    """What is read may be trusted, as ``tables`` promises; what is not is refused in words."""
    try:
        dataset = read(source, config)
    except (DataError, ConfigError) as error:
        said = str(error)
    else:
        trust(dataset)
        inspect(dataset)
        return
    assert "INTERNAL" not in said
    assert said.strip()


def trust(dataset: Dataset) -> None:
    for who in (dataset.users, dataset.items):
        assert len(set(who.ids.tolist())) == len(who) > 0
        assert {len(values) for values in who.values.values()} <= {len(who)}
    for part in dataset.interactions.values():
        assert ((part.labels >= 0) & (part.labels <= 1)).all()
        for rows, who in ((part.user_rows, dataset.users), (part.item_rows, dataset.items)):
            assert 1 <= rows.min() <= rows.max() <= len(who)
        assert part.weights is None or np.isfinite(part.weights).all()


@settings(max_examples=120)
@example({"user_id": [1], "item_id": [2]}, {"user_id": [1], "a\0b": [3]}, None, DataConfig())
@given(
    columns("user_id", "item_id"),
    st.none() | columns("user_id"),
    st.none() | columns("item_id"),
    st.builds(DataConfig) | rules.map(DataConfig.model_validate),
)
def test_any_columns_are_a_data_set_or_a_data_error(
    log: Any, users: Any, items: Any, config: DataConfig
) -> None:
    read_or_refuse({"interactions": log, "users": users, "items": items}, config)


shards = st.text(max_size=3) | st.sampled_from(
    ["1", "2", "a", "1.5", "nan", "007", '"', '"a,b"', "\x00", "é"]
)
good_rows = st.builds("{},{},{}".format, *[st.integers(0, 3)] * 2, st.integers(0, 1))
odd_rows = st.builds("{},{},{}".format, *[shards] * 3) | st.lists(shards).map(",".join)
texts = st.builds(
    lambda head, rows, odd, end: end.join([head, *rows, *odd]),
    st.just("user_id,item_id,label") | st.lists(names, max_size=4).map(",".join),
    st.lists(good_rows, max_size=5),
    st.lists(odd_rows, max_size=1),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
files = st.one_of(
    texts.map(lambda text: text.encode("utf-8", "replace")),
    texts.map(lambda text: text.encode("utf-16", "replace")),
    st.binary(max_size=40),
)


@settings(max_examples=100)
@given(files, st.sampled_from(["csv", "csv", "csv", "tsv", "csv.gz", "ndjson", "parquet"]))
def test_any_bytes_are_a_data_set_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes(content)
    read_or_refuse({"interactions": path})
