"""MovieLens, whose files changed over the years: how each layout becomes three tables.

A layout is a function from the raw files to one SQL query for each table; ``sources`` fetches
the files and runs the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Raw = Callable[[str, str], str]
"""From a file of the source and its encoding to its path as an SQL string."""
Layout = Callable[[Raw], Mapping[str, str]]
"""To one query for each of the tables ``users``, ``items`` and ``interactions``."""

GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children''s|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
OCCUPATIONS_1M = (
    "other|academic/educator|artist|clerical/admin|college/grad student|customer service|"
    "doctor/health care|executive/managerial|farmer|homemaker|K-12 student|lawyer|programmer|"
    "retired|sales/marketing|scientist|self-employed|technician/engineer|"
    "tradesman/craftsman|unemployed|writer"
)


def _table(
    path: str,
    columns: Mapping[str, str],
    delimiter: str,
    *,
    quote: str = "",
    header: bool = False,
) -> str:
    """A table expression in SQL; nothing about the file is guessed."""
    types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    return (
        f"read_csv({path}, columns = {{{types}}}, delim = '{delimiter}', header = {header}, "
        f"quote = '{quote}', escape = '{quote}', auto_detect = false)"
    )


RATINGS = {"user_id": "BIGINT", "item_id": "BIGINT", "rating": "FLOAT", "timestamp": "BIGINT"}
MOVIES = {"item_id": "BIGINT", "title": "VARCHAR", "genres": "VARCHAR"}
LINKS = {"item_id": "BIGINT", "imdb_id": "BIGINT", "tmdb_id": "BIGINT"}

# "Toy Story (1995)", but also "Cosmos (2006-2007)", "Lost (2004- )" and "Shiloh (1997) (V)".
TITLE_YEAR = r"\((\d{4})(?:[-–]\s?(?:\d{4})?)?\)(?:\s*\([A-Z]+\))?\s*$"
YEAR = f"try_cast(regexp_extract(title, '{TITLE_YEAR}', 1) AS INTEGER)"
GENRES = "list_filter(string_split(genres, '|'), lambda g: g NOT IN ('(no genres listed)', ''))"


def u_files(raw: Raw) -> dict[str, str]:
    """u.data, u.item and u.user: a flag a genre; a date of release beside the title's year."""
    flags = [f"flag_{n}" for n in range(19)]
    item = dict.fromkeys(["title", "released", "video_released", "imdb_url"], "VARCHAR")
    item = {"item_id": "BIGINT"} | item | dict.fromkeys(flags, "INTEGER")
    user = {"user_id": "BIGINT", "age": "BIGINT"}
    user |= dict.fromkeys(["gender", "occupation", "zip"], "VARCHAR")
    return {
        "users": f"FROM {_table(raw('u.user', 'latin-1'), user, '|')}",
        "items": f"SELECT item_id, title, "
        f"coalesce({YEAR}, try_cast(right(released, 4) AS INTEGER)) AS year, "
        f"list_filter(string_split('{GENRES_100K}', '|'), lambda genre, place: "
        f"genre != 'unknown' AND [{', '.join(flags)}][place] = 1) AS genres "
        f"FROM {_table(raw('u.item', 'latin-1'), item, '|')}",
        "interactions": f"FROM {_table(raw('u.data', 'latin-1'), RATINGS, chr(9))}",
    }


def dat_files(raw: Raw, *, encoding: str, has_users: bool) -> dict[str, str]:
    """ratings.dat, movies.dat and perhaps users.dat, ``::`` between the columns."""
    ratings = _table(raw("ratings.dat", "utf-8"), RATINGS, "::")
    users = f"SELECT DISTINCT user_id FROM {ratings} ORDER BY user_id"
    if has_users:
        user = {"user_id": "BIGINT", "gender": "VARCHAR", "age": "BIGINT"}
        user |= {"occupation": "INTEGER", "zip": "VARCHAR"}
        # A code is no quantity: 20 (writer) is not twice 10 (K-12 student).
        users = (
            "SELECT user_id, age, gender, "
            f"string_split('{OCCUPATIONS_1M}', '|')[occupation + 1] AS occupation, zip "
            f"FROM {_table(raw('users.dat', encoding), user, '::')}"
        )
    return {
        "users": users,
        "items": f"SELECT item_id, title, {YEAR} AS year, {GENRES} AS genres "
        f"FROM {_table(raw('movies.dat', encoding), MOVIES, '::')}",
        "interactions": f"FROM {ratings}",
    }


def csv_files(raw: Raw) -> dict[str, str]:
    """ratings.csv, movies.csv and links.csv, each with a header, and quotes where needed."""

    def table(file: str, columns: Mapping[str, str]) -> str:
        return _table(raw(file, "utf-8"), columns, ",", quote='"', header=True)

    ratings = table("ratings.csv", RATINGS)
    return {
        "users": f"SELECT DISTINCT user_id FROM {ratings} ORDER BY user_id",
        "items": f"SELECT item_id, title, {YEAR} AS year, {GENRES} AS genres, imdb_id, tmdb_id "
        f"FROM {table('movies.csv', MOVIES)} AS movies "
        f"LEFT JOIN {table('links.csv', LINKS)} AS links USING (item_id) ORDER BY item_id",
        "interactions": f"FROM {ratings}",
    }
