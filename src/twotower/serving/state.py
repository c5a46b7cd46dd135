"""What a service was told, in a database: events and item changes; acknowledged is durable.

SQLite in one file by default, PostgreSQL by URL. The same tables in both:

    events        one row an event, each id once, in the order it came
    item_changes  the last change of each item: its features, or null where it was removed
    news          what changed and when, in one count: how processes follow one another
    origin        one row: of which data all this is
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from twotower.errors import StateError
from twotower.serving.origin import Origin

_BLOCK = 10_000
_metadata = sql.MetaData()
_number = sql.BigInteger().with_variant(sql.Integer(), "sqlite")
_events = sql.Table(
    "events",
    _metadata,
    sql.Column("sequence", _number, primary_key=True, autoincrement=True),
    sql.Column("event_id", sql.Text, nullable=False, unique=True),
    sql.Column("user_id", sql.Text, nullable=False),
    sql.Column("item_id", sql.Text, nullable=False),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("liked", sql.Boolean, nullable=False),
    sql.Column("happened_at", sql.BigInteger, nullable=False),
    sql.Column("received_at", sql.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
_item_changes = sql.Table(
    "item_changes",
    _metadata,
    sql.Column("item_id", sql.Text, primary_key=True),
    sql.Column("features", sql.Text),
    sql.Column("changed_at", sql.BigInteger, nullable=False),
)
_news = sql.Table(
    "news",
    _metadata,
    sql.Column("topic", sql.Text, primary_key=True),
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("number", sql.BigInteger, nullable=False, index=True),
)
_origin = sql.Table(
    "origin",
    _metadata,
    sql.Column("place", _number, primary_key=True, autoincrement=False),
    sql.Column("source", sql.Text, nullable=False),
    sql.Column("pairs", sql.Text, nullable=False),
)
_LAST_NEWS = sql.select(sql.func.coalesce(sql.func.max(_news.c.number), 0))
# Of PostgreSQL, where several write at once; any number that nobody else locks.
_LOCK = 0x74776F74
ITEM = "item"


@dataclass(frozen=True)
class News:
    """Something that was changed by some process.

    Attributes:
        number: larger than that of all news before.
        topic, name: what it is about; an item's news is ``ITEM`` and its key.
    """

    number: int
    topic: str
    name: str


@dataclass(frozen=True)
class Event:
    """A user met an item.

    Attributes:
        event_id: of the sender's; a second event of the same id does not count.
        user_id, item_id: keys (see ``Ids.key``).
        kind: what it was, for the next training: click, purchase, rating, ...
        liked: whether the item belongs to the user's history.
        happened_at, received_at: microseconds since 1970 UTC.
    """

    event_id: str
    user_id: str
    item_id: str
    kind: str
    liked: bool
    happened_at: int
    received_at: int


class State:
    """An open database.

    Raises:
        StateError: from every method, where the database can not be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        with self._refusals():
            _metadata.create_all(self._engine)

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    @property
    def name(self) -> str:
        """Its URL, without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def origin(self) -> Origin | None:
        """Of which data it is; None for a new one, and one of an earlier version."""
        with self._transaction() as connection:
            found = connection.execute(sql.select(_origin.c.source, _origin.c.pairs)).first()
        if found is None:
            return None
        return Origin(
            found.source, tuple((user, item) for user, item in json.loads(found.pairs))
        )

    def belong_to(self, origin: Origin) -> None:
        """Say of which data it is from now on."""
        row = {"source": origin.source, "pairs": json.dumps(origin.pairs)}
        insert = self._insert(_origin).values(place=1, **row)
        with self._writing() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["place"], set_=row))

    def add_events(self, events: Sequence[Event]) -> set[str]:
        """Store events, all or none; returns the ids of those that were not there yet."""
        rows = [vars(event) for event in events]
        insert = self._insert(_events).values(rows)
        insert = insert.on_conflict_do_nothing(index_elements=["event_id"])
        with self._writing() as connection:
            stored = connection.execute(insert.returning(_events.c.event_id))
            return set(stored.scalars())

    def change_items(
        self, changes: Mapping[str, Mapping[str, Any] | None], *, at: int
    ) -> list[News]:
        """Store the new features of items, None for those removed; all or none.

        Args:
            at: microseconds since 1970 UTC.
        """
        rows = [
            {
                "item_id": item,
                "features": None if features is None else json.dumps(features),
                "changed_at": at,
            }
            for item, features in changes.items()
        ]
        insert = self._insert(_item_changes).values(rows)
        fresh = {name: insert.excluded[name] for name in ("features", "changed_at")}
        insert = insert.on_conflict_do_update(index_elements=["item_id"], set_=fresh)
        with self._writing() as connection:
            connection.execute(insert)
            return self._tell(connection, ITEM, list(changes))

    def tell(self, topic: str, name: str) -> list[News]:
        """Let the other processes know of something that is not kept here."""
        with self._writing() as connection:
            return self._tell(connection, topic, [name])

    def news(self, after: int) -> list[News]:
        """What changed after some number, the last change of each thing alone."""
        query = sql.select(_news.c.number, _news.c.topic, _news.c.name)
        query = query.where(_news.c.number > after).order_by(_news.c.number)
        with self._transaction() as connection:
            return [News(*row) for row in connection.execute(query)]

    def last_news(self) -> int:
        """The largest number of all news; 0 for none."""
        with self._transaction() as connection:
            return int(connection.execute(_LAST_NEWS).scalar_one())

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """All events after some number, in the order they came, each with its number."""
        columns = [column for column in _events.c if column.name != "sequence"]
        query = sql.select(_events.c.sequence, *columns).order_by(_events.c.sequence)
        query = query.where(_events.c.sequence > after)
        with self._refusals(), self._engine.connect() as connection:
            for number, *row in connection.execution_options(yield_per=_BLOCK).execute(query):
                yield number, Event(*row)

    def item_changes(
        self, items: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any] | None]:
        """The features of items that were changed, all or some; None for those removed."""
        query = sql.select(_item_changes.c.item_id, _item_changes.c.features)
        if items is not None:
            query = query.where(_item_changes.c.item_id.in_(items))
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(_item_changes.c.item_id)).all()
        return {item: None if text is None else json.loads(text) for item, text in rows}

    def _tell(self, connection: Connection, topic: str, names: Sequence[str]) -> list[News]:
        last = int(connection.execute(_LAST_NEWS).scalar_one())
        told = [News(last + n, topic, name) for n, name in enumerate(names, 1)]
        insert = self._insert(_news).values([vars(each) for each in told])
        number = {"number": insert.excluded.number}
        connection.execute(
            insert.on_conflict_do_update(index_elements=["topic", "name"], set_=number)
        )
        return told

    def _insert(self, table: sql.Table) -> Any:
        is_sqlite = self._engine.dialect.name == "sqlite"
        return sqlite.insert(table) if is_sqlite else postgresql.insert(table)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction after which no other ends that has smaller numbers."""
        with self._transaction() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._refusals(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            name = self._engine.dialect.name
            why = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
            raise StateError(
                f"the {name} database can not be used ({why}); nothing was stored, try again"
            ) from None


def _engine(url: str) -> Engine:
    if url.startswith("postgresql:"):
        url = url.replace("postgresql:", "postgresql+psycopg:", 1)
    try:
        parsed = sql.make_url(url)
        name = parsed.get_backend_name()
        if name == "postgresql":
            # An outage is to be known at once; requests wait for the answer.
            options = {
                "connect_timeout": 3,
                "tcp_user_timeout": 5000,
                "options": "-c statement_timeout=5000",
            }
            return sql.create_engine(
                parsed, pool_pre_ping=True, pool_timeout=5, connect_args=options
            )
        if name == "sqlite":
            engine = sql.create_engine(parsed, connect_args={"timeout": 5})
            sql.event.listen(engine, "connect", _durable)
            return engine
    except ArgumentError:
        # The message of the library holds the URL, and with it a password.
        raise StateError(
            "state: no URL of a database; give sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    except (ModuleNotFoundError, NoSuchModuleError):
        raise StateError(
            "state: PostgreSQL needs psycopg, which is not installed: "
            "pip install 'twotower[postgresql]'"
        ) from None
    raise StateError(f"state: {name} is not supported; give a URL of sqlite or postgresql")


def _durable(connection: Any, _: Any) -> None:
    """A commit is on the disk before it returns, and readers do not wait for a writer."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
