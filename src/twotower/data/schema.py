"""What each column is, declared or inferred: id, number, category, list, text, vector, time,
or only to be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from twotower.config import Kind

FEATURE_KINDS: tuple[Kind, ...] = (
    "numeric",
    "boolean",
    "categorical",
    "list",
    "text",
    "vector",
    "timestamp",
    "shown",
)
"""What a column of users or items may be, but for an id and what is ignored. What is shown is
kept and never learned from."""
INTERACTION_KINDS: tuple[Kind, ...] = (
    "user_id",
    "item_id",
    "rating",
    "label",
    "weight",
    "timestamp",
    "ignore",
)
DATE_FORMATS = (
    "%Y-%m-%d",
    "%d-%b-%Y",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y/%m/%d",
    "%d/%m/%Y",
)

_USER_NAMES = {"user", "userid", "uid", "customer", "customerid", "member", "memberid"} | {
    "visitor",
    "visitorid",
    "account",
    "accountid",
    "queryid",
    "personid",
    "reviewerid",
}
_ITEM_NAMES = {"item", "itemid", "iid", "movie", "movieid", "product", "productid"} | {
    "article",
    "articleid",
    "song",
    "songid",
    "track",
    "trackid",
    "artistid",
    "book",
    "bookid",
    "jobid",
    "asin",
    "isbn",
    "sku",
    "stockcode",
    "productcode",
    "businessid",
}
_NEITHER_NAMES = {"id", "rowid", "eventid", "sessionid", "orderid", "transactionid"} | {
    "index",
    "unnamed0",
    "invoice",
    "invoiceid",
    "invoiceno",
    "reviewid",
    "requestid",
    "impressionid",
    "storeid",
    "basketid",
    "visitid",
}
_TIME_NAMES = {"timestamp", "time", "ts", "date", "datetime", "createdat", "eventtime"} | {
    "unixtime",
    "occurredat",
    "timestampapprox",
}
_INTERACTION_NAMES: Mapping[Kind, set[str]] = {
    "rating": {"rating", "ratings", "stars", "score", "relevance", "overall", "bookrating"},
    "label": {"label", "liked", "clicked", "click", "purchased", "target"},
    "weight": {"weight", "count", "plays", "playcount", "quantity"},
}

_NAMES = {"title", "name", "label", "headline"}
PICTURE = r"^(data:image/|\S+\.(jpe?g|png|gif|webp|avif|svg)([?#]\S*)?$)"
"""Paths and addresses of images by their ending, and images written out; in any case."""
_PICTURE = re.compile(PICTURE, re.IGNORECASE)
# Rows that each of few whole numbers needs, on average: with fewer, as of some hundred
# people's answers from 1 to 10, their order says more. The codes of something have none.
_ROWS_OF_A_CATEGORY, _ROWS_OF_A_CODE = 100, 5
GUESSED = "its place, no name being known"
"""The reason for an id that was only guessed."""
Guess = tuple[Kind, str, str]
"""A kind, the reason for it, and the pattern (see ``Column``)."""


@dataclass(frozen=True)
class Column:
    """What one column was taken for, and why.

    Attributes:
        name: as in the table.
        sql_type: the engine's type, such as ``BIGINT`` or ``VARCHAR[]``.
        kind: how it is used.
        reason: one clause for the reader of ``inspect``.
        pattern: how a value is taken apart: the separator of a list written as text, the
            format of a date written as text, the unit (s, ms, us, ns) of a time written as
            a number.
    """

    name: str
    sql_type: str
    kind: Kind
    reason: str
    pattern: str = ""


@dataclass(frozen=True)
class ColumnFacts:
    """What a look at the values of a column told.

    Attributes:
        num_values: values that are there.
        num_distinct: different ones among them; an estimate in a large table.
        example: an early value as text; "" where the first rows have none.
        is_whole: a column of numbers that all are whole.
        share_with_bars: of texts, the share with a ``|`` in it.
        share_of_pictures: of texts, the share that leads to an image (see ``PICTURE``).
        mean_words: of texts, the words in one.
        date_format: of texts, the first known format that reads all of them, or "".
        list_length: the length that all lists share, or 0.
    """

    num_values: int
    num_distinct: int
    example: str = ""
    is_whole: bool = False
    share_with_bars: float = 0.0
    share_of_pictures: float = 0.0
    mean_words: float = 1.0
    date_format: str = ""
    list_length: int = 0


def plain_name(name: str) -> str:
    """The name without case and punctuation: ``User_ID`` and ``userId`` are ``userid``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_picture(text: str) -> bool:
    """Whether a text leads to an image, or is one.

    >>> [is_picture(text) for text in ("/a/7.jpg", "https://a.b/7.PNG?w=9", "7.jpg is new")]
    [True, True, False]
    """
    return _PICTURE.match(text) is not None


def is_named_like_a_time(name: str) -> bool:
    """Whether a column may well be one, as ``played_at`` or ``purchaseDate``.

    >>> [is_named_like_a_time(name) for name in ("played_at", "orderTime", "format", "at")]
    [True, True, False, True]
    """
    is_at = re.search(r"(^|[^a-zA-Z])at$|[a-z]At$", name) is not None
    return is_at or plain_name(name).endswith(("time", "date", "timestamp"))


def is_integer(sql_type: str) -> bool:
    """Whether the engine's type holds whole numbers."""
    return sql_type in {
        *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
        *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
    }


def is_number(sql_type: str) -> bool:
    """Whether the engine's type holds numbers."""
    return (
        is_integer(sql_type)
        or sql_type in {"FLOAT", "DOUBLE"}
        or re.fullmatch(r"DECIMAL\(\d+,\d+\)", sql_type) is not None
    )


def is_time(sql_type: str) -> bool:
    """Whether the engine's type is a date or a moment."""
    return sql_type == "DATE" or re.fullmatch(r"TIMESTAMP[A-Z_ ]*", sql_type) is not None


def is_nested(sql_type: str) -> bool:
    """Whether a value of the engine's type has parts, or is bytes: neither number nor text."""
    return sql_type == "BLOB" or (sql_type[-1:] in {"]", ")"} and not is_number(sql_type))


def element_type(sql_type: str) -> str | None:
    """The type of a list's elements; None for what is no list."""
    found = re.fullmatch(r"(.+)\[\d*\]", sql_type)
    return found.group(1) if found else None


def can_be(kind: Kind, sql_type: str) -> bool:
    """Whether values of the engine's type can be read as a kind, as far as types tell."""
    element = element_type(sql_type)
    if kind == "vector":
        return element is not None and is_number(element)
    if kind == "list":
        return sql_type == "VARCHAR" or (element is not None and not is_nested(element))
    if kind in {"numeric", "boolean", "rating", "label", "weight"}:
        return is_number(sql_type) or sql_type in {"BOOLEAN", "VARCHAR"}
    if kind == "timestamp":
        return is_number(sql_type) or is_time(sql_type) or sql_type == "VARCHAR"
    return kind == "ignore" or not is_nested(sql_type)


def find_interaction_columns(
    types: Mapping[str, str], declared: Mapping[str, Kind]
) -> dict[str, Column]:
    """What the columns of an interactions table are, by declaration, name and type.

    The user's id is the column named like one, else the first that is not named like something
    else; the item's id is the one named like one, else the first other whose name ends in
    ``id``, else the first other one. What is named like a rating or a time is never an id, and
    like a row, an order or a visit only where there is nothing else. A column nothing is known
    about is ignored.

    >>> types = {"session_id": "BIGINT", "user_id": "BIGINT", "movie_id": "BIGINT"}
    >>> [column.kind for column in find_interaction_columns(types, {}).values()]
    ['ignore', 'user_id', 'item_id']
    """
    chosen: dict[str, Column] = {}
    for name, kind in declared.items():
        if name in types:
            chosen[name] = Column(name, types[name], kind, "declared in the config")

    def take(kind: Kind, candidates: list[str], reason: str) -> None:
        if candidates and all(column.kind != kind for column in chosen.values()):
            name = candidates[0]
            chosen[name] = Column(name, types[name], kind, reason)

    def left(names: set[str] | None = None) -> list[str]:
        free = [name for name in types if name not in chosen]
        return free if names is None else [n for n in free if plain_name(n) in names]

    named = _TIME_NAMES.union(*_INTERACTION_NAMES.values())

    def is_neither(name: str) -> bool:
        return plain_name(name) in _NEITHER_NAMES

    def unnamed() -> list[str]:
        free = [name for name in left() if plain_name(name) not in named]
        return sorted(free, key=is_neither)

    take("user_id", left(_USER_NAMES), "its name")
    take("item_id", left(_ITEM_NAMES), "its name")
    take("user_id", unnamed(), GUESSED)
    ids = [n for n in unnamed() if plain_name(n).endswith("id") and not is_neither(n)]
    take("item_id", ids, "its name")
    take("item_id", unnamed(), GUESSED)
    for kind, names in _INTERACTION_NAMES.items():
        # A text too: silently left out, its dislikes would be likes.
        take(kind, [n for n in left(names) if can_be(kind, types[n])], "its name")
    times = [n for n in left(_TIME_NAMES) if can_be("timestamp", types[n])]
    take("timestamp", times + [n for n in left() if is_time(types[n])], "its name or type")
    for name in left():
        chosen[name] = Column(name, types[name], "ignore", "not a known part of an interaction")
    return {name: chosen[name] for name in types}


def infer_feature(name: str, sql_type: str, facts: ColumnFacts) -> Column:
    """What a column of the users or items table is, by type, values and name.

    >>> infer_feature("genre", "VARCHAR", ColumnFacts(num_values=500, num_distinct=6)).kind
    'categorical'
    >>> infer_feature("url", "VARCHAR", ColumnFacts(num_values=500, num_distinct=500)).kind
    'ignore'
    """
    kind, reason, pattern = _guess(name, sql_type, facts)
    return Column(name, sql_type, kind, reason, pattern)


def _guess(name: str, sql_type: str, facts: ColumnFacts) -> Guess:
    if facts.num_values == 0:
        return "ignore", "every value is missing", ""
    if sql_type == "BOOLEAN":
        return "boolean", "its type", ""
    if is_time(sql_type):
        return "timestamp", "its type", ""
    if (element := element_type(sql_type)) is not None:
        return _guess_list(element, facts)
    if is_number(sql_type):
        return _guess_number(name, facts)
    if sql_type in {"VARCHAR", "UUID"}:
        return _guess_text(name, facts)
    return "ignore", f"type {sql_type} is not supported", ""


def _guess_list(element: str, facts: ColumnFacts) -> Guess:
    if element == "VARCHAR" or is_integer(element):
        return "list", "lists of categories", ""
    if not is_number(element):
        return "ignore", f"lists of {element} are not supported", ""
    if facts.list_length:
        return "vector", f"lists of {facts.list_length} numbers each", ""
    return "ignore", "lists of numbers of unequal length", ""


def _guess_number(name: str, facts: ColumnFacts) -> Guess:
    # "imdb_id" and "imdbId", but not what was "paid".
    is_id = re.search(r"(^|[^a-zA-Z])id$|I[dD]$", name) is not None
    if is_id and facts.is_whole and facts.num_distinct > 0.5 * facts.num_values:
        return "ignore", "an id of something else", ""
    # Also where the type has a fraction: a data frame makes 3 to 3.0 where a value is missing.
    if facts.is_whole and facts.num_distinct <= 32:
        is_code = is_id or plain_name(name).endswith(("code", "cd"))
        rows_of_each = _ROWS_OF_A_CODE if is_code else _ROWS_OF_A_CATEGORY
        if facts.num_values >= rows_of_each * facts.num_distinct:
            return "categorical", f"whole numbers, only {facts.num_distinct} different", ""
        return "numeric", "whole numbers, too few of each to be categories", ""
    return "numeric", "its type", ""


def _guess_text(name: str, facts: ColumnFacts) -> Guess:
    share_distinct = facts.num_distinct / facts.num_values
    if facts.date_format:
        return "timestamp", f"dates such as {facts.date_format}", facts.date_format
    if facts.share_of_pictures > 0.8:
        return "shown", "pictures", ""
    if facts.share_with_bars > 0.2:
        return "list", "categories with '|' between", "|"
    words = f"{facts.mean_words:.1f} words on average"
    if share_distinct > 0.3 and facts.mean_words >= 1.5 and facts.num_distinct > 20:
        return "text", f"{words}, mostly different", ""
    if facts.mean_words >= 3 and facts.num_distinct > 100:
        return "text", f"{words}, {facts.num_distinct} different values", ""
    if share_distinct > 0.5 and facts.num_distinct > 20:
        if plain_name(name) in _NAMES:
            return "shown", "names, nearly every one different", ""
        return "ignore", "nearly every value is different", ""
    return "categorical", f"{facts.num_distinct} different values", ""
