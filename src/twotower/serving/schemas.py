"""What goes over HTTP: the values of ``retrieval.wish``, in envelopes with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, StrictBool, StringConstraints

from twotower.retrieval.wish import Answer, Id, Person, Scored, Value, Wish

MOST_ITEMS = 1000
MOST_PEOPLE = 256

Token = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
Ids = Annotated[list[Id], Field(max_length=MOST_ITEMS)]


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

    people: list[PersonBody] = Field(min_length=1, max_length=MOST_PEOPLE)
    k: int = Field(default=10, ge=1, le=MOST_ITEMS, description="How many items a list.")
    exclude: Ids = Field(
        default_factory=list, description="Items not to be recommended to anybody."
    )


class SimilarBody(Value):
    """Items, and how many that are like each."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_PEOPLE)]
    k: int = Field(default=10, ge=1, le=MOST_ITEMS)


class Pair(Value):
    """A user, known or not, and an item."""

    user: Id
    item: Id


class ScoreBody(Value):
    """Pairs to be scored."""

    pairs: list[Pair] = Field(min_length=1, max_length=MOST_ITEMS)


class ItemBody(Value):
    """An item as it is from now on; a column that is not given is missing."""

    item: Id
    features: dict[str, Any] = Field(min_length=1, max_length=1000)


class ItemsBody(Value):
    """Items to be known, each once."""

    items: list[ItemBody] = Field(min_length=1, max_length=MOST_ITEMS)


class EventBody(Value):
    """A user met an item."""

    id: Token = Field(description="Yours; the same event sent again counts once.")
    user: Id
    item: Id
    kind: Token = Field(default="interaction", description="What it was, for later training.")
    liked: StrictBool = Field(
        default=True, description="Whether it belongs to the history; else it is only met."
    )
    at: AwareDatetime | None = Field(default=None, description="When; now if not given.")

    def microseconds(self, now: datetime) -> int:
        """When it happened, since 1970 UTC."""
        since = (self.at or now) - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class EventsBody(Value):
    """Events, in the order they happened."""

    events: list[EventBody] = Field(min_length=1, max_length=MOST_ITEMS)


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


class Problem(Value):
    """What is wrong, in one sentence."""

    error: str
    request_id: str
