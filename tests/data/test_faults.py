"""A text file with a mistake is refused by the line; one that is only odd is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from twotower.config import DataConfig
from twotower.data import engine
from twotower.data.tables import read
from twotower.errors import DataError

HEADER = "user_id,item_id,label\n"
CRLF_ROWS = "".join(f"{n},{n},1\r\n" for n in range(30))
OBJECTS = [{"user_id": n, "item_id": 2 * n} for n in range(5)]


def lines(count: int) -> str:
    return "".join(f"{n % 50},{n % 37},{n % 2}\n" for n in range(count))


def opened(tmp_path: Path, name: str, content: str | bytes) -> tuple[list[str], int]:
    """The columns of a file and its number of rows."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with engine.connect() as connection:
        table = engine.open_files(connection, "log", str(path))
        return list(table.types), table.num_rows


def refusal(tmp_path: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, name, content)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / name}: ")
    assert "\n" not in said
    return said.removeprefix(f"{tmp_path / name}: ")


@pytest.mark.parametrize("after", [0, 5, 300])
@pytest.mark.parametrize("before", [1, 2, 10, 100, 500, 30_000])
@pytest.mark.parametrize("bad", ["3,4,1,9", "3,4", "3"])
def test_one_line_of_another_length_is_named(
    tmp_path: Path, bad: str, before: int, after: int
) -> None:
    said = refusal(tmp_path, "log.csv", f"{HEADER}{lines(before)}{bad}\n{lines(after)}")
    count = bad.count(",") + 1
    values = "1 value" if count == 1 else f"{count} values"
    assert said.startswith(
        f"line {before + 2} has {values} ('{bad}') and the header 3 columns; mend or drop that "
    )
    assert ("a value that has ',' in it stands in quotes" in said) == (count > 3)


@pytest.mark.parametrize("before", [1, 100])
def test_a_comma_too_many_is_named_where_the_engine_trips_over_it(
    tmp_path: Path, before: int
) -> None:
    said = refusal(tmp_path, "log.csv", f"{HEADER}{lines(before)}3,4,1,\n{lines(300)}")
    assert said.startswith(
        f"line {before + 2} has 4 values ('3,4,1,') and the header 3 columns"
    )


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_so_it_is_whatever_stands_between_the_values(tmp_path: Path, delimiter: str) -> None:
    text = f"{HEADER}{lines(40)}3,4\n{lines(5)}".replace(",", delimiter)
    assert refusal(tmp_path, "log.csv", text).startswith("line 42 has 2 values (")


def test_so_it_is_in_a_packed_file_and_after_values_of_several_lines(tmp_path: Path) -> None:
    text = HEADER + '1,"a\nb",1\n' * 30 + "1,2\n"
    said = refusal(tmp_path, "log.csv.gz", gzip.compress(text.encode()))
    assert said.startswith("line 62 has 2 values ('1,2') and the header 3 columns; ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty; write a header and rows into it, or delete it"),
        # Without a time: the name of this test is made of it.
        (
            "a.csv.gz",
            gzip.compress(b"", mtime=0),
            "is empty; write a header and rows into it, or ",
        ),
        ("a.ndjson", "", "is empty; write a header and rows into it, or delete it"),
        (
            "a.csv",
            f"{HEADER}1,2,1\n".encode() + b"1,caf\xe9,1\n",
            "line 3 is not UTF-8 (byte 0xe9 after '1,caf'); save the file as UTF-8",
        ),
        (
            "a.csv",
            (HEADER + lines(9)).encode("utf-16"),
            "line 1 is not UTF-8 (byte 0xff); save the file as UTF-8",
        ),
        (
            "a.csv",
            HEADER + CRLF_ROWS,
            "its lines end in different ways (line 1 in LF and line 2 in CRLF); save it with "
            "one kind of line end",
        ),
        (
            "a.ndjson",
            json.dumps(OBJECTS),
            'line 1 begins a JSON array (\'[{"user_id": 0, "item_id": 0}, {"user...\'); write '
            "each row as an object on a line of its own",
        ),
        (
            "a.jsonl",
            json.dumps(OBJECTS, indent=1),
            "line 1 begins a JSON array ('['); write each row as an object on a line of its "
            "own",
        ),
        (
            "a.ndjson",
            '{"user_id": 1}\n\n{"user_id"\n{"user_id": 2}\n',
            "line 3 is no JSON object ('{\"user_id\"'); mend or drop that line",
        ),
        (
            "a.ndjson",
            '{"user_id": "é"}\n'.encode("latin-1"),
            'line 1 is not UTF-8 (byte 0xe9 after \'{"user_id": "\'); save the file as UTF-8',
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    assert refusal(tmp_path, name, content).startswith(message)


def test_a_word_far_below_among_numbers_is_told_with_its_column(tmp_path: Path) -> None:
    said = refusal(tmp_path, "log.csv", f"{HEADER}{lines(150_000)}1,x,1\n")
    assert 'Line: 150002. Error when converting column "item_id". Could not convert' in said


ODD = {
    "semicolons": (HEADER + lines(9)).replace(",", ";"),
    "tabs": (HEADER + lines(9)).replace(",", "\t"),
    "a mark at its beginning": b"\xef\xbb\xbf" + (HEADER + lines(9)).encode(),
    "quotes": '"user_id","item_id","label"\n' + '1,"a, ""b"" c",1\n' * 9,
    "other quotes": "'user_id','item_id','label'\n" + "1,'a, b',1\n" * 9,
    "spaces": "user_id ,  item_id, label\n" + lines(9),
    "a comment before": "# made, on, a, Monday\n" + HEADER + lines(9),
    "a title before": "An export, of Monday\n\n" + HEADER + lines(9),
    "empty lines": HEADER + lines(9) + "\n\n",
    "one comma more in each line": HEADER + lines(9).replace("\n", ",\n"),
    "carriage returns": (HEADER + lines(9)).replace("\n", "\r"),
    "no end of the last line": HEADER + lines(9)[:-1],
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_only_odd_is_read(tmp_path: Path, name: str) -> None:
    assert opened(tmp_path, "log.csv", ODD[name]) == (["user_id", "item_id", "label"], 9)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("a,a,b", ["a", "a_1", "b"]),
        ("a,,b", ["a", "column1", "b"]),
        ("USER_ID,Item_Id,b c", ["USER_ID", "Item_Id", "b c"]),
        ('"user, id",b,c', ["user, id", "b", "c"]),
    ],
)
def test_names_that_are_odd_are_those_of_the_engine(
    tmp_path: Path, header: str, columns: list[str]
) -> None:
    assert opened(tmp_path, "log.csv", f"{header}\n{lines(9)}") == (columns, 9)


def test_objects_with_a_single_key_are_rows(tmp_path: Path) -> None:
    assert opened(tmp_path, "a.ndjson", '{"json": 1}\n' * 3) == (["json"], 3)


def test_among_many_files_the_bad_one_is_named_and_an_empty_one_is_no_matter(
    tmp_path: Path,
) -> None:
    (tmp_path / "logs").mkdir()
    for part, text in [("a", lines(9)), ("b", lines(30)), ("c", lines(2))]:
        (tmp_path / "logs" / f"{part}.csv").write_text(HEADER + text)
    config = DataConfig(interactions="logs/*.csv", duplicates="keep")
    (tmp_path / "logs" / "d.csv").write_text("")
    assert len(read(tmp_path, config).interactions["all"]) == 41
    (tmp_path / "logs" / "b.csv").write_text(f"{HEADER}{lines(9)}1,2\n{lines(9)}")
    with pytest.raises(DataError, match=r"logs/b\.csv: line 11 has 2 values \('1,2'\) and the"):
        read(tmp_path, config)


def test_a_stray_file_is_no_matter_unless_it_has_the_items_id(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(HEADER + lines(9))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "notes.csv").write_text("when,what\n1,2\n1\n2,3\n")
    assert len(read(tmp_path).interactions["all"]) == 9
    (tmp_path / "films.csv").write_text("item_id,year\n1,1990\n2\n3,1991\n")
    with pytest.raises(DataError, match=r"films\.csv: line 3 has 1 value \('2'\) and the "):
        read(tmp_path)
