from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import duckdb
import pytest

from twotower.data.sources import SOURCES, Source, download, fetch
from twotower.errors import DataError

# Each family's raw files as they lie in its zip: real lines, few of them.
ML_100K = {
    "ml-100k/u.data": (
        "196\t242\t3\t881250949\n186\t267\t4\t891717742\n196\t1373\t1\t881251274\n"
    ),
    "ml-100k/u.item": (
        "242|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Mis%E9rables"
        "|0|0|0|1|1|0|0|0|0|0|0|0|1|0|0|0|0|0|0\n"
        "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
        "1373|Good Morning|4-Feb-1971||http://us.imdb.com/M/x"
        "|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
        '1413|Say "Cheese" (1997) (V)|06-Feb-1998|||0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|1\n'
    ),
    "ml-100k/u.user": "186|39|F|executive|00000\n196|49|M|writer|55105\n",
    "ml-100k/README": "SUMMARY",
}
ML_1M = {
    "ml-1m/ratings.dat": "2::1193::5::978298413\n1::661::3::978302109\n1::73::4::978301968\n",
    "ml-1m/movies.dat": (
        "73::Misérables, Les (1995)::Drama|Musical\n"
        "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
        '1193::"One" Flew Over the Cuckoo\'s Nest (1975)::Drama\n'
    ),
    "ml-1m/users.dat": "1::F::1::10::48067\n2::M::56::20::98107-2117\n",
}
ML_10M = {
    "ml-10M100K/ratings.dat": "1::122::5::838985046\n2::110::3.5::868245777\n",
    "ml-10M100K/movies.dat": (
        "110::Braveheart (1995)::Action|Drama|War\n"
        "122::Boomerang (1992)::Comedy|Romance\n"
        "8606::Pull My Daisy (1958)::(no genres listed)\n"
        "26048::Cérémonie, La (1995)::Crime\n"
    ),
    "ml-10M100K/tags.dat": "15::4973::excellent!::1215184630\n",
}
ML_CSV = {
    "ml/ratings.csv": "userId,movieId,rating,timestamp\r\n3,1,4.0,964982703\r\n"
    "3,171749,0.5,1537109082\r\n1,40697,5.0,964981247\r\n",
    "ml/movies.csv": "movieId,title,genres\r\n"
    "1,Toy Story (1995),Adventure|Animation\r\n"
    '11,"American President, The (1995)",Comedy\r\n'
    '12,"""Great Performances"" Cats (1998)",Musical\r\n'
    "40697,Babylon 5,Sci-Fi\r\n"
    "171749,Death Note: Desu nôto (2006–2007),(no genres listed)\r\n",
    "ml/links.csv": "movieId,imdbId,tmdbId\r\n1,0114709,862\r\n"
    "12,0173714,\r\n40697,0105946,\r\n171749,0877057,419787\r\n",
    "ml/tags.csv": "userId,movieId,tag,timestamp\r\n3,1,pixar,1139045764\r\n",
}
FAMILIES = {
    "ml-100k": (ML_100K, "latin-1"),
    "ml-1m": (ML_1M, "latin-1"),
    "ml-10m": (ML_10M, "utf-8"),
    "ml-20m": (ML_CSV, "utf-8"),
}


def pack(path: Path, files: dict[str, str], encoding: str = "utf-8") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, text in files.items():
            pack.writestr(name, text.encode(encoding))
    return path


def small(name: str, **changes: object) -> Source:
    """The source, as if its makers had published the three or two ratings of these tests."""
    files, _ = FAMILIES[name]
    [ratings] = [t for n, t in files.items() if n.endswith(("ratings.dat", "u.data", ".csv"))][
        :1
    ]
    lines = ratings.count("\n") - ratings.startswith("userId")
    return replace(SOURCES[name], num_ratings=lines, **changes)  # type: ignore[arg-type]


def rows(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return connection.execute("FROM read_parquet(?)", [str(path)]).fetchall()


def schema(path: Path) -> dict[str, str]:
    with duckdb.connect() as connection:
        found = connection.execute("DESCRIBE FROM read_parquet(?)", [str(path)]).fetchall()
    return {name: kind for name, kind, *_ in found}


def convert(name: str, tmp_path: Path) -> Path:
    files, encoding = FAMILIES[name]
    archive = pack(tmp_path / "own copy.zip", files, encoding)
    return fetch(small(name), tmp_path / "tables", archive=archive).directory


class Handler(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, bytes]] = {}
    promise_more: bool = False

    def do_GET(self) -> None:
        body = self.pages.get(self.path)
        if body is None:
            self.send_error(404, "Gone fishing")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 1000 * self.promise_more))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Tests are silent."""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that holds ``Handler.pages``."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Handler, "pages", {})
    monkeypatch.setattr(Handler, "promise_more", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def serve(home: str, tmp_path: Path, name: str = "ml-1m") -> Source:
    files, encoding = FAMILIES[name]
    body = pack(tmp_path / "served.zip", files, encoding).read_bytes()
    (tmp_path / "served.zip").unlink()
    Handler.pages[f"/{name}.zip"] = body
    return small(name, url=f"{home}/{name}.zip", md5=hashlib.md5(body).hexdigest())


def test_ml_100k_becomes_three_tables(tmp_path: Path) -> None:
    tables = convert("ml-100k", tmp_path)
    assert rows(tables / "users.parquet") == [
        (186, 39, "F", "executive", "00000"),
        (196, 49, "M", "writer", "55105"),
    ]
    assert rows(tables / "items.parquet") == [
        (242, "Misérables, Les (1995)", 1995, ["Animation", "Children's", "Musical"]),
        (267, "unknown", None, []),
        (1373, "Good Morning", 1971, []),
        (1413, 'Say "Cheese" (1997) (V)', 1997, ["Drama", "Western"]),
    ]
    assert rows(tables / "interactions.parquet") == [
        (196, 242, 3.0, 881250949),
        (186, 267, 4.0, 891717742),
        (196, 1373, 1.0, 881251274),
    ]


def test_ml_1m_becomes_three_tables_with_its_occupations_in_words(tmp_path: Path) -> None:
    tables = convert("ml-1m", tmp_path)
    assert rows(tables / "users.parquet") == [
        (1, 1, "F", "K-12 student", "48067"),
        (2, 56, "M", "writer", "98107-2117"),
    ]
    assert rows(tables / "items.parquet") == [
        (73, "Misérables, Les (1995)", 1995, ["Drama", "Musical"]),
        (661, "James and the Giant Peach (1996)", 1996, ["Animation", "Children's", "Musical"]),
        (1193, '"One" Flew Over the Cuckoo\'s Nest (1975)', 1975, ["Drama"]),
    ]
    assert rows(tables / "interactions.parquet") == [
        (2, 1193, 5.0, 978298413),
        (1, 661, 3.0, 978302109),
        (1, 73, 4.0, 978301968),
    ]


def test_ml_10m_has_users_by_id_alone_and_half_stars(tmp_path: Path) -> None:
    tables = convert("ml-10m", tmp_path)
    assert rows(tables / "users.parquet") == [(1,), (2,)]
    assert rows(tables / "items.parquet")[2:] == [
        (8606, "Pull My Daisy (1958)", 1958, []),
        (26048, "Cérémonie, La (1995)", 1995, ["Crime"]),
    ]
    assert rows(tables / "interactions.parquet") == [
        (1, 122, 5.0, 838985046),
        (2, 110, 3.5, 868245777),
    ]


def test_later_movielens_have_links_to_other_catalogues(tmp_path: Path) -> None:
    tables = convert("ml-20m", tmp_path)
    assert rows(tables / "users.parquet") == [(1,), (3,)]
    assert rows(tables / "items.parquet") == [
        (1, "Toy Story (1995)", 1995, ["Adventure", "Animation"], 114709, 862),
        (11, "American President, The (1995)", 1995, ["Comedy"], None, None),
        (12, '"Great Performances" Cats (1998)', 1998, ["Musical"], 173714, None),
        (40697, "Babylon 5", None, ["Sci-Fi"], 105946, None),
        (171749, "Death Note: Desu nôto (2006–2007)", 2006, [], 877057, 419787),
    ]
    assert rows(tables / "interactions.parquet") == [
        (3, 1, 4.0, 964982703),
        (3, 171749, 0.5, 1537109082),
        (1, 40697, 5.0, 964981247),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_all_families_come_out_in_one_layout(tmp_path: Path, name: str) -> None:
    tables = convert(name, tmp_path)
    assert schema(tables / "interactions.parquet") == {
        "user_id": "BIGINT",
        "item_id": "BIGINT",
        "rating": "FLOAT",
        "timestamp": "BIGINT",
    }
    items = schema(tables / "items.parquet")
    assert dict(list(items.items())[:4]) == {
        "item_id": "BIGINT",
        "title": "VARCHAR",
        "year": "INTEGER",
        "genres": "VARCHAR[]",
    }
    assert list(items)[4:] == (["imdb_id", "tmdb_id"] if name == "ml-20m" else [])
    users = list(schema(tables / "users.parquet"))
    known = name in ("ml-100k", "ml-1m")
    assert users == ["user_id", *(["age", "gender", "occupation", "zip"] if known else [])]
    assert sorted(os.listdir(tables)) == [
        "interactions.parquet",
        "items.parquet",
        "users.parquet",
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unpacked_folder_gives_the_same_tables_as_the_zip(tmp_path: Path, name: str) -> None:
    files, encoding = FAMILIES[name]
    from_zip = convert(name, tmp_path)
    # The other folder is what the first one's name means as a pattern.
    unpacked, other = tmp_path / "it's [unpacked] *", tmp_path / "it's u 2"
    for file, text in files.items():
        for folder, content in [(unpacked, text), (other, "not to be read")]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content.encode(encoding))
    for number, folder in enumerate([unpacked, next(unpacked.iterdir())]):
        again = fetch(small(name), tmp_path / f"[{number}]", archive=folder)
        assert again.checksum.startswith("not compared: an unpacked folder")
        for table in ("users", "items", "interactions"):
            assert rows(again.directory / f"{table}.parquet") == rows(
                from_zip / f"{table}.parquet"
            )
    assert {p.name for p in unpacked.rglob("*") if p.is_file()} == {Path(f).name for f in files}


def test_a_zip_from_its_home_is_checked_and_its_terms_are_handed_on(
    home: str, tmp_path: Path
) -> None:
    source = serve(home, tmp_path)
    told: list[tuple[str, float]] = []
    came = fetch(source, tmp_path / "ml", progress=lambda *stage: told.append(stage))
    assert came.directory == tmp_path / "ml"
    assert came.rows == {"users": 2, "items": 3, "interactions": 3}
    assert came.checksum == f"md5 {source.md5}, as published"
    assert "research" in came.licence
    assert "https://files.grouplens.org/datasets/movielens/ml-1m-README.txt" in came.licence
    assert "https://doi.org/10.1145/2827872" in came.citation
    assert len(rows(tmp_path / "ml" / "interactions.parquet")) == 3
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert told[-1] == ("done", 1.0)
    assert os.listdir(tmp_path) == ["ml"]


def test_what_has_no_published_checksum_is_named_by_its_sha256(
    home: str, tmp_path: Path
) -> None:
    source = replace(serve(home, tmp_path), md5=None)
    sha256 = hashlib.sha256(Handler.pages["/ml-1m.zip"]).hexdigest()
    assert fetch(source, tmp_path / "ml").checksum == (
        f"no published checksum: sha256 of what came is {sha256}"
    )


def test_a_changed_zip_is_refused_with_both_checksums(home: str, tmp_path: Path) -> None:
    source = replace(serve(home, tmp_path), md5="0" * 32)
    found = hashlib.md5(Handler.pages["/ml-1m.zip"]).hexdigest()
    with pytest.raises(
        DataError, match=f"its md5 is {found}, published is {'0' * 32}; try again"
    ):
        fetch(source, tmp_path / "ml")
    assert os.listdir(tmp_path) == []


def test_a_page_that_is_not_there_is_told_with_a_way_round(home: str, tmp_path: Path) -> None:
    source = small("ml-1m", url=f"{home}/elsewhere.zip")
    with pytest.raises(
        DataError, match=r"404.*download http.*elsewhere\.zip by hand and give it with --from"
    ):
        fetch(source, tmp_path / "ml")
    assert os.listdir(tmp_path) == []


def test_a_refused_connection_is_told_with_a_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/ml-1m.zip"
        with pytest.raises(
            DataError, match=r"could not be fetched: .*refused.*by hand and give"
        ):
            fetch(small("ml-1m", url=url), tmp_path / "ml")
    assert os.listdir(tmp_path) == []


def test_a_line_that_breaks_is_told_with_a_way_round(home: str, tmp_path: Path) -> None:
    source = serve(home, tmp_path)
    Handler.promise_more = True
    size = len(Handler.pages["/ml-1m.zip"])
    with pytest.raises(DataError, match=f"broke after {size:,} of {size + 1000:,} bytes; try"):
        fetch(source, tmp_path / "ml")
    assert os.listdir(tmp_path) == []


def test_an_own_copy_packed_anew_is_taken_and_its_checksum_told(tmp_path: Path) -> None:
    files = {name.removeprefix("ml-1m/"): text for name, text in ML_1M.items()}
    archive = pack(tmp_path / "mine.zip", files | {"__MACOSX/x/ratings.dat": "\0"}, "latin-1")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    came = fetch(small("ml-1m"), tmp_path / "ml", archive=archive)
    assert came.checksum == f"md5 {md5}, your own copy; published is {SOURCES['ml-1m'].md5}"
    assert came.rows["interactions"] == 3
    same = fetch(small("ml-1m", md5=md5), tmp_path / "again", archive=archive)
    assert same.checksum == f"md5 {md5}, as published"


def spoil(kind: str, archive: Path) -> None:
    whole = pack(archive, ML_1M, "latin-1").read_bytes()
    files = dict(ML_1M)
    match kind:
        case "text":
            archive.write_text("<html>Please log in</html>")
        case "empty":
            archive.write_bytes(b"")
        case "cut":
            archive.write_bytes(whole[: len(whole) // 2])
        case "flipped":
            archive.write_bytes(whole[:60] + bytes(255 - b for b in whole[60:64]) + whole[64:])
        case "gone":
            archive.unlink()
        case "member":
            del files["ml-1m/users.dat"]
            pack(archive, files, "latin-1")
        case "columns":
            files["ml-1m/ratings.dat"] += "1::2::3\n"
            pack(archive, files, "latin-1")
        case "words":
            files["ml-1m/ratings.dat"] += "1::2::good::978301968\n"
            pack(archive, files, "latin-1")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "text",
            "mine.zip: is not a zip .*fetch https://files.grouplens.org/.*ml-1m.zip again",
        ),
        ("empty", "mine.zip: is not a zip"),
        ("cut", "mine.zip: is a damaged zip, perhaps cut short .*fetch https://"),
        ("flipped", "mine.zip: is a damaged zip"),
        ("gone", "mine.zip: there is no such file; name ml-1m's zip or its unpacked folder"),
        ("member", "mine.zip: there is no users.dat in it; is it ml-1m?"),
        ("columns", "its interactions do not read as those of ml-1m: .*Line: 4.*unchanged"),
        ("words", "its interactions do not read as those of ml-1m: .*Line: 4.*unchanged"),
    ],
)
def test_a_spoilt_copy_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, kind: str, message: str
) -> None:
    archive = tmp_path / "mine.zip"
    spoil(kind, archive)
    with pytest.raises(DataError, match=message):
        fetch(small("ml-1m"), tmp_path / "ml", archive=archive)
    assert os.listdir(tmp_path) in ([], ["mine.zip"])


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        DataError, match=r"folder: there is no ratings\.dat in it; is it ml-1m\?"
    ):
        fetch(small("ml-1m"), tmp_path / "ml", archive=tmp_path / "folder")


def test_missing_ratings_are_an_error(tmp_path: Path) -> None:
    archive = pack(tmp_path / "mine.zip", ML_1M, "latin-1")
    with pytest.raises(DataError, match="3 ratings, published are 1,000,209; it is not"):
        download("ml-1m", tmp_path / "ml", archive=archive)
    assert os.listdir(tmp_path) == ["mine.zip"]


def test_where_the_makers_may_change_the_set_other_counts_are_a_note(tmp_path: Path) -> None:
    archive = pack(tmp_path / "mine.zip", ML_CSV)
    came = download("ml-latest-small", tmp_path / "ml", archive=archive)
    assert came.notes == (
        "ml-latest-small: 3 ratings, published are 100,836; its makers may change this one: "
        "say which you used",
    )
    assert came.rows["interactions"] == 3
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    assert came.checksum == f"no published checksum: md5 of your copy is {md5}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ml1m",
            r"no data set 'ml1m'; did you mean ml-1m\? known are ml-latest-small, ml-100k",
        ),
        ("netflix", r"no data set 'netflix'; known are ml-latest-small"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        download(name, tmp_path / "ml")


def test_a_taken_directory_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    convert("ml-1m", tmp_path)
    source = small("ml-1m", url="http://127.0.0.1:1/never-asked")
    with pytest.raises(DataError, match=r"tables: already holds interactions\.parquet, items"):
        fetch(source, tmp_path / "tables")
    (tmp_path / "tables" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"is not empty \(it holds notes\.txt\)"):
        fetch(source, tmp_path / "tables")


def test_earlier_tables_are_replaced_when_asked_for_and_other_files_never(
    tmp_path: Path,
) -> None:
    tables = convert("ml-1m", tmp_path)
    archive = pack(tmp_path / "mine.zip", ML_CSV)
    with pytest.raises(DataError, match="or replace it with --overwrite"):
        fetch(small("ml-20m"), tables, archive=archive)
    assert "imdb_id" not in schema(tables / "items.parquet")
    fetch(small("ml-20m"), tables, archive=archive, overwrite=True)
    assert "imdb_id" in schema(tables / "items.parquet")
    (tables / "notes.txt").touch()
    with pytest.raises(DataError, match=r"is not empty \(it holds notes\.txt\)"):
        fetch(small("ml-20m"), tables, archive=archive, overwrite=True)


def test_a_full_disk_while_fetching_is_not_called_a_fault_of_the_net(
    home: str, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size need a POSIX system")
    source = serve(home, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DataError, match=r"can not be written: .*nothing was left behind"):
            fetch(source, tmp_path / "ml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_says_where_it_lives_and_on_what_terms(name: str) -> None:
    source = SOURCES[name]
    assert source.name == name
    assert source.url == f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    assert source.md5 is None or re.fullmatch("[0-9a-f]{32}", source.md5)
    assert "commercially only with their permission" in source.licence
    assert f"https://files.grouplens.org/datasets/movielens/{name}-README." in source.licence
    assert source.citation


def test_only_the_set_that_its_makers_change_has_no_checksum() -> None:
    assert [name for name, source in SOURCES.items() if source.md5 is None] == [
        "ml-latest-small"
    ]
    checksums = [source.md5 for source in SOURCES.values()]
    assert len(set(checksums)) == len(SOURCES) == 7
