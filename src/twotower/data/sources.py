"""Public data sets: from their home, or from your own copy of them, to three tables.

None of them is ours to pass on, so none comes with this package; each has its own licence,
which :func:`download` hands back to be shown. Out come ``users.parquet``, ``items.parquet`` and
``interactions.parquet``; the interactions keep the order of the source.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from glob import escape as glob_escape
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import MappingProxyType

import duckdb

from twotower.data.movielens import Layout, csv_files, dat_files, u_files
from twotower.data.writing import Progress, whole_directory
from twotower.errors import DataError

TABLES = ("users", "items", "interactions")
HOME = "https://files.grouplens.org/datasets/movielens"
CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and "
    "Context. ACM Transactions on Interactive Intelligent Systems 5, 4: 19:1-19:19. "
    "https://doi.org/10.1145/2827872"
)
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """A public data set and where it lives.

    Attributes:
        md5: Hex digest of the zip as its makers publish it; None where the zip may change,
            and then another number of ratings is a note and not an error.
        size_bytes: Of the zip, about.
        num_ratings: As published.
        licence: One sentence, and where all of it stands.
        layout: How its files become tables.
    """

    name: str
    url: str
    md5: str | None
    size_bytes: int
    num_ratings: int
    licence: str
    citation: str
    layout: Layout


@dataclass(frozen=True)
class Downloaded:
    """What came: the tables' directory, the terms to show, and rows by table.

    ``checksum`` is a sentence: what was compared with what. ``notes`` are of what differs from
    the published data set.
    """

    directory: Path
    licence: str
    citation: str
    rows: Mapping[str, int]
    checksum: str
    notes: tuple[str, ...] = ()


def download(
    name: str,
    into: Path,
    *,
    archive: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Downloaded:
    """Lays out one of ``SOURCES`` as three tables in the directory ``into``; see :func:`fetch`.

    Raises:
        DataError: There is no such source, or whatever :func:`fetch` raises.
    """
    if name not in SOURCES:
        close = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"no data set {name!r}; {hint}known are {', '.join(SOURCES)}")
    return fetch(SOURCES[name], into, archive=archive, overwrite=overwrite, progress=progress)


def fetch(
    source: Source,
    into: Path,
    *,
    archive: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Downloaded:
    """Lays out any source as three tables in the directory ``into``, whole or not at all.

    Args:
        archive: Your own copy, a zip or the unpacked folder: nothing is fetched. Its checksum
            is told but not demanded, since a copy may have been packed anew; the number of
            ratings is checked all the same.
        overwrite: Replace earlier tables; a directory that holds anything else is refused.
        progress: Is told the stage and the share of the whole work that is done.

    Raises:
        DataError: The network refuses, the zip is not the published one or is damaged, a file
            is missing or reads differently, ratings are missing, or ``into`` is taken.
    """
    report = progress or (lambda _stage, _share: None)
    files = [f"{table}.parquet" for table in TABLES]
    with whole_directory(into, files, overwrite=overwrite) as part:
        with TemporaryDirectory(dir=part) as work:
            if archive is None:
                archive = Path(work) / PurePosixPath(source.url).name
                checksum = _get(source, archive, report)
            else:
                archive = Path(archive)
                checksum = _own_checksum(source, archive)
            rows = _convert(source, archive, Path(work), part, report)
        notes = _check_rows(source, rows["interactions"])
    report("done", 1.0)
    return Downloaded(
        directory=Path(into),
        licence=source.licence,
        citation=source.citation,
        rows=rows,
        checksum=checksum,
        notes=notes,
    )


def _get(source: Source, path: Path, report: Progress) -> str:
    """Fetches the zip to ``path``; says what its checksum was compared with."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("wb") as file:
        for chunk in _arriving(source, report):
            file.write(chunk)
            md5.update(chunk)
            sha256.update(chunk)
    if source.md5 is None:
        return f"no published checksum: sha256 of what came is {sha256.hexdigest()}"
    if md5.hexdigest() != source.md5:
        raise DataError(
            f"{source.name}: what came from {source.url} is not what was published: its md5 is "
            f"{md5.hexdigest()}, published is {source.md5}; try again later"
        )
    return f"md5 {source.md5}, as published"


def _arriving(source: Source, report: Progress) -> Iterator[bytes]:
    """The zip in pieces: a generator, so that no fault of the disk looks like the net's."""
    by_hand = f"try again later, or download {source.url} by hand and give it with --from"
    request = urllib.request.Request(source.url, headers={"User-Agent": "twotower"})
    size = 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            promised = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(CHUNK_BYTES):
                size += len(chunk)
                share = min(1.0, size / (promised or source.size_bytes))
                report(f"fetching {source.name}", 0.8 * share)
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{source.name}: could not be fetched: {error}; {by_hand}") from error
    if size < promised:
        raise DataError(
            f"{source.name}: the line broke after {size:,} of {promised:,} bytes; {by_hand}"
        )


def _own_checksum(source: Source, archive: Path) -> str:
    if archive.is_dir():
        return "not compared: an unpacked folder has no published checksum"
    if not archive.is_file():
        raise DataError(
            f"{archive}: there is no such file; name {source.name}'s zip or its unpacked folder"
        )
    with archive.open("rb") as file:
        md5 = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if source.md5 is None:
        return f"no published checksum: md5 of your copy is {md5}"
    return f"md5 {md5}, " + (
        "as published" if md5 == source.md5 else f"your own copy; published is {source.md5}"
    )


def _convert(
    source: Source, archive: Path, work: Path, into: Path, report: Progress
) -> dict[str, int]:
    """Writes the tables; the rows of each."""

    def raw(member: str, encoding: str) -> str:
        copy = _utf8_copy(source, archive, member, encoding, work)
        return "'" + glob_escape(str(copy)).replace("'", "''") + "'"

    rows: dict[str, int] = {}
    queries = source.layout(raw)
    with duckdb.connect(config={"temp_directory": str(work / "spill")}) as connection:
        for done, table in enumerate(TABLES):
            report(f"converting {table}", 0.8 + 0.2 * done / len(TABLES))
            path = str(into / f"{table}.parquet").replace("'", "''")
            try:
                copied = connection.execute(
                    f"COPY ({queries[table]}) TO '{path}' (FORMAT parquet)"
                )
            except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
                where = "; ".join(str(error).splitlines()[:3])
                raise DataError(
                    f"{archive}: its {table} do not read as those of {source.name}: {where}; "
                    "name the published zip, unchanged"
                ) from error
            [[rows[table]]] = copied.fetchall()
    return rows


def _utf8_copy(source: Source, archive: Path, member: str, encoding: str, work: Path) -> Path:
    """One file of a zip or of an unpacked folder, in UTF-8."""
    copy = work / member
    if copy.exists():
        return copy
    missing = f"{archive}: there is no {member} in it; is it {source.name}?"
    if archive.is_dir():
        found = sorted([*archive.glob(member), *archive.glob(f"*/{member}")])
        if not found:
            raise DataError(missing)
        if encoding == "utf-8":
            return found[0]
        copy.write_bytes(found[0].read_bytes().decode(encoding).encode())
        return copy
    try:
        with zipfile.ZipFile(archive) as pack:
            names = [name for name in pack.namelist() if PurePosixPath(name).name == member]
            if not names:
                raise DataError(missing)
            # The shallowest: some systems hide a shadow of each file deeper in the zip.
            name = min(names, key=lambda name: name.count("/"))
            with pack.open(name) as packed, copy.open("wb") as file:
                shutil.copyfileobj(packed, file, CHUNK_BYTES)
    # RuntimeError: it has a password, or is packed in a way that Python does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        with archive.open("rb") as file:
            starts_well = file.read(4) == b"PK\x03\x04"
        what = "is a damaged zip, perhaps cut short" if starts_well else "is not a zip"
        raise DataError(
            f"{archive}: {what} ({error}); fetch {source.url} again or name the unpacked folder"
        ) from error
    if encoding != "utf-8":
        copy.write_bytes(copy.read_bytes().decode(encoding).encode())
    return copy


def _check_rows(source: Source, num_ratings: int) -> tuple[str, ...]:
    """A note where another number of ratings came than was published."""
    if num_ratings == source.num_ratings:
        return ()
    found = f"{source.name}: {num_ratings:,} ratings, published are {source.num_ratings:,}"
    if source.md5 is not None:
        raise DataError(f"{found}; it is not the published data set: fetch {source.url} again")
    return (f"{found}; its makers may change this one: say which you used",)


def _movielens(name: str, md5: str | None, size: int, ratings: int, layout: Layout) -> Source:
    readme = "README.txt" if name in ("ml-100k", "ml-1m") else "README.html"
    may_be = "only with permission"
    if name in ("ml-latest-small", "ml-32m"):
        may_be = "under the same terms"
    licence = (
        "For research, with the citation and no claim of GroupLens's endorsement; to be used "
        f"commercially only with their permission, to be passed on {may_be}. "
        f"The terms in full: {HOME}/{name}-{readme}"
    )
    return Source(name, f"{HOME}/{name}.zip", md5, size, ratings, licence, CITATION, layout)


_CSV = csv_files
_DAT_1M = partial(dat_files, encoding="latin-1", has_users=True)
_DAT_10M = partial(dat_files, encoding="utf-8", has_users=False)

# The checksums are those that GroupLens publishes beside each zip, as .zip.md5.
_KNOWN = (
    _movielens("ml-latest-small", None, 978_202, 100_836, _CSV),
    _movielens("ml-100k", "0e33842e24a9c977be4e0107933c0723", 4_924_029, 100_000, u_files),
    _movielens("ml-1m", "c4d9eecfca2ab87c1945afe126590906", 5_917_549, 1_000_209, _DAT_1M),
    _movielens("ml-10m", "ce571fd55effeba0271552578f2648bd", 65_566_137, 10_000_054, _DAT_10M),
    _movielens(
        "ml-20m", "cd245b17a1ae2cc31bb14903e1204af3", 198_702_078, 20_000_263, csv_files
    ),
    _movielens(
        "ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada", 261_978_986, 25_000_095, csv_files
    ),
    _movielens(
        "ml-32m", "d472be332d4daa821edc399621853b57", 238_950_008, 32_000_204, csv_files
    ),
)
SOURCES: Mapping[str, Source] = MappingProxyType({source.name: source for source in _KNOWN})
"""The data sets known by name, fewest ratings first."""
