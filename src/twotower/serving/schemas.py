"""What goes over HTTP: the values of ``retrieval.wish``, in envelopes with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StrictBool, StringConstraints

from twotower.retrieval.wish import Answer, Id, Person, Scored, Value, Wish

MOST_ITEMS = 1000
MOST_PEOPLE = 256

Token = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
# The first mistake of a list is told, and others are not looked for: they may be a million.
Ids = Annotated[list[Id], Field(max_length=MOST_ITEMS, fail_fast=True)]


class PersonBody(Person):
    """Somebody to recommend to; any part of what is known may be missing."""

    features: Mapping[str, Any] = Field(
        default_factory=dict,
        max_length=1000,
        description="Values of the users' columns by name; they count before those trained on.",
    )
    history: Ids = Field(
        default_factory=list,
        description="Items the person liked beside those known of them, oldest first.",
    )
    exclude: Ids = Field(
        default_factory=list, description="Items not to be recommended to this person."
    )


class RecommendBody(Wish):
    """Whom to recommend to, and how the lists are to be."""

    people: list[PersonBody] = Field(min_length=1, max_length=MOST_PEOPLE, fail_fast=True)
    k: int = Field(default=10, ge=1, le=MOST_ITEMS, description="How many items a list.")
    exclude: Ids = Field(
        default_factory=list, description="Items not to be recommended to anybody."
    )

    @property
    def wish(self) -> Wish:
        """How the lists are to be, whoever they are for."""
        return Wish.model_construct(**{name: getattr(self, name) for name in Wish.model_fields})


class SimilarBody(Value):
    """Items, and how many that are like each."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_PEOPLE, fail_fast=True)]
    k: int = Field(default=10, ge=1, le=MOST_ITEMS)


class Pair(Value):
    """A user, known or not, and an item."""

    user: Id
    item: Id


class ScoreBody(Value):
    """Pairs to be scored."""

    pairs: list[Pair] = Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)


class ItemBody(Value):
    """An item as it is from now on; a column that is not given is missing."""

    item: Id
    features: dict[str, Any] = Field(min_length=1, max_length=1000)


class ItemsBody(Value):
    """Items to be known, each once."""

    items: list[ItemBody] = Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)


class EventBody(Value):
    """A user met an item."""

    id: Token = Field(description="Yours; the same event sent again counts once.")
    user: Id
    item: Id
    kind: Token = Field(default="interaction", description="What it was, for later training.")
    liked: StrictBool = Field(
        default=True, description="Whether it belongs to the history; else it is only met."
    )
    at: AwareDatetime | None = Field(
        default=None,
        description="When, from 1970 to a day ahead; now if not given. It orders histories.",
    )

    def microseconds(self, now: datetime) -> int:
        """When it happened, since 1970 UTC."""
        since = (self.at or now) - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class EventsBody(Value):
    """Events, in the order they happened."""

    events: list[EventBody] = Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)


class LoadBody(Value):
    """Which run is to answer."""

    run: str = Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$",
        description="A name in the runs folder; never a path.",
    )


class Answered(Value):
    """Which run answered."""

    run: str
    version: str = Field(description="Of the run; twelve letters of its sha256.")


class RecommendAnswer(Answered):
    """A list a person, in the order asked."""

    answers: list[Answer]


class Neighbour(Value):
    """An item that is like another."""

    item: Id
    score: float = Field(description="The cosine of their embeddings.")


class Neighbours(Value):
    """The items nearest to one, the nearest first."""

    item: Id
    items: list[Neighbour]


class SimilarAnswer(Answered):
    """A list an item, in the order asked."""

    answers: list[Neighbours]


class ScoreAnswer(Answered):
    """A score a pair, in the order asked."""

    scores: list[Scored]


class ItemAnswer(Answered):
    """An item and the values of its columns; times in UTC."""

    item: Id
    values: dict[str, Any]


class ItemsAnswer(Answered):
    """How many items were changed, durably."""

    changed: int


class EventsAnswer(Value):
    """How many events were stored, durably, and how many had been before."""

    stored: int
    repeated: int


class Card(Value):
    """A user or an item as a person is shown it; all of it is text."""

    id: Id
    title: str
    about: str = Field(description="More of its columns, in a few words.")
    picture: str | None = Field(
        description="A path of this service's origin, or the image itself as data:."
    )


class FindBody(Value):
    """What to look for, and among whom."""

    among: Literal["users", "items"]
    words: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]
    k: int = Field(default=10, ge=1, le=100, description="How many at most.")


class CardsBody(Value):
    """Items to be shown."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)]


class CardsAnswer(Answered):
    """What was found, the best first; or the items in the order asked."""

    cards: list[Card]


class ColumnAbout(Value):
    """A column, and what can be chosen in it."""

    name: str
    kind: Literal["category", "list", "yes_no", "number", "time"]
    values: list[Any] = Field(default=[], description="The commonest, first.")
    low: float | str | None = None
    high: float | str | None = None


class Figure(Value):
    """What it is, the figure, and what goes with it."""

    name: str
    figure: str
    note: str


class Opponents(Value):
    """Whom the towers beat, tie with or lose to."""

    outcome: Literal["win", "tie", "loss"]
    says: str


class AboutAnswer(Answered):
    """The run that answers, and what it can be asked by."""

    users: int
    items: int
    user_column: str
    item_column: str
    user_titles: bool = Field(description="Whether users have names to be found by.")
    reads_history: bool
    written_at: datetime
    item_columns: list[ColumnAbout]
    user_columns: list[ColumnAbout] = Field(description="Those that somebody can be made of.")
    headline: str = Field(description="The verdict of its evaluation, in a sentence.")
    outcome: Literal["win", "tie", "loss"] | None
    against: list[Opponents]
    figures: list[Figure]
    alarms: list[str]
    health: list[Figure] = Field(description="Since the process started.")


class UserAnswer(Answered):
    """What is known of a user."""

    user: Id
    is_known: bool = Field(description="Whether training knew the id.")
    card: Card | None
    values: dict[str, Any]
    liked: list[Card] = Field(description="The latest 100, the last one first.")
    met: list[Id] = Field(description="Liked or not, 1000 at most.")
    num_liked: int
    num_met: int


class PlaceAnswer(Answered):
    """Where a person is on the map of the items."""

    x: float | None = Field(
        description="Where their nearest items on the map lie, in the mean; null where nothing "
        "is known of them, or there is no map yet."
    )
    y: float | None


class MapAnswer(Answered):
    """A map of the items as they were when it was made."""

    map: dict[str, Any] | None = Field(
        description="Null while it is being made: ask again. An entry an item: x, y, ids, "
        "titles, about, met; colourings, as many values each; num_items; kept, the share of "
        "nearest neighbours that are near here too."
    )


class Problem(Value):
    """What is wrong, in one sentence."""

    error: str
    request_id: str
