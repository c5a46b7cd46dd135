"""What is asked of a recommender, and what it answers: plain values, the same over HTTP.

Nothing heavy is imported here, so that a client needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    model_validator,
)


def _plain(value: Any) -> Any:
    """Numpy's scalars as Python's own; what can be no id is refused in one sentence."""
    value = value.item() if hasattr(value, "item") and not isinstance(value, type) else value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("an id is a whole number or a text")
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("an id that is a number has 64 bits")
    elif not 1 <= len(value) <= 256:
        raise ValueError(f"an id that is a text has 1 to 256 characters, got {len(value):,}")
    elif any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("an id has no zero bytes and no halves of characters")
    return value


WholeNumber = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Id = Annotated[
    WholeNumber | Annotated[StrictStr, Field(min_length=1, max_length=256)],
    BeforeValidator(_plain),
]
"""The id of a user or an item, a whole number or a text, as in the tables."""


_MOST_KEYS = 100


def _few_keys(value: Any, most: int = _MOST_KEYS) -> Any:
    """Refuse at once what has very many keys; else each could be a mistake to be told."""
    if isinstance(value, Mapping) and len(value) > most:
        raise ValueError(f"has at most {most} keys, got {len(value):,}")
    return value


Few = BeforeValidator(_few_keys)
Scalar = StrictBool | WholeNumber | Annotated[float, Field(strict=True)] | StrictStr
Scalars = Annotated[list[Scalar], Field(fail_fast=True)]
Comparison = Literal["=", "in", "not in", ">", ">=", "<", "<="]
Comparisons = Annotated[
    dict[Comparison, Scalar | Scalars],
    BeforeValidator(lambda value: _few_keys(value, len(get_args(Comparison)))),
]
Condition = Scalar | Scalars | Comparisons
"""``"jazz"``, ``["jazz", "folk"]`` (one of them), or ``{">=": 1990, "<": 2000}`` (all hold)."""

Basis = Literal["id", "features", "history", "popularity"]


class Value(BaseModel):
    """A frozen value of finite numbers and known names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, given: Any) -> Any:
        return _few_keys(given)


class Person(Value):
    """Somebody to recommend to; any part of what is known may be missing."""

    user: Id | None = Field(default=None, description="The user's id; it may be unknown.")
    features: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Values of the users' columns by name; they count before those trained on.",
    )
    history: list[Id] = Field(
        default_factory=list,
        fail_fast=True,
        description="Items the person liked beside those known of them, oldest first.",
    )
    exclude: list[Id] = Field(
        default_factory=list,
        fail_fast=True,
        description="Items not to be recommended to this person.",
    )


class Wish(Value):
    """How lists are to be."""

    k: int = Field(default=10, ge=1, description="How many items a list.")
    include_seen: bool = Field(
        default=False, description="Whether what was met may come again."
    )
    exclude: list[Id] = Field(
        default_factory=list,
        fail_fast=True,
        description="Items not to be recommended to anybody.",
    )
    where: Annotated[dict[str, Condition], Few] = Field(
        default_factory=dict,
        max_length=_MOST_KEYS,
        description="Only items whose columns fulfil all of these.",
    )
    at_most: Annotated[dict[str, Annotated[int, Field(ge=1)]], Few] = Field(
        default_factory=dict,
        max_length=_MOST_KEYS,
        description="By column: so many items of a list share a value.",
    )
    diversity: float = Field(
        default=0.0, ge=0, le=1, description="0 by score alone, 1 by unlikeness alone (MMR)."
    )
    popularity: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="1 counts popularity as much as affinity, -1 prefers the little known.",
    )
    explain: bool = Field(default=False, description="Whether each item says why.")


# Answers are plain values: a list of them is made in a tenth of the time of models.
_ANSWERED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Part:
    """What one item of the history, or one feature, adds to a score."""

    __pydantic_config__ = _ANSWERED
    name: Annotated[Id, Field(description="The item's id, or the feature's name.")]
    adds: Annotated[float, Field(description="In units of the score.")]


@dataclass(frozen=True, slots=True)
class Others:
    """The items of a history that are not named, taken together."""

    __pydantic_config__ = _ANSWERED
    count: Annotated[int, Field(ge=0, description="How many there are.")]
    adds: Annotated[float, Field(description="Their parts added up, in units of the score.")]


@dataclass(frozen=True, slots=True)
class Why:
    """What carried a recommendation; ``id + features + history + bias + popularity = score``.

    Where pooling is additive each item's part is exact. In a history that is read in order, and
    for single features, a part is what the score loses when that one is left out.
    """

    __pydantic_config__ = _ANSWERED
    id: Annotated[float, Field(description="What the user's own id adds.")]
    features: Annotated[float, Field(description="What the user's features add.")]
    history: Annotated[float, Field(description="What the history adds.")]
    bias: Annotated[float, Field(description="What everybody makes of the item.")]
    popularity: Annotated[float, Field(description="What the popularity dial adds.")]
    items: Annotated[
        list[Part],
        Field(description="Of the history, those that add or take most, the largest first."),
    ]
    others: Annotated[Others, Field(description="Of the history, those not named in `items`.")]
    columns: Annotated[
        list[Part],
        Field(description="Of the features, those that add or take most, the largest first."),
    ]
    is_exact: Annotated[
        bool,
        Field(description="Whether the parts of `items` and `others` add up to `history`."),
    ]


_Score = Annotated[float, Field(description="What ranks; comparable within one run only.")]
_Affinity = Annotated[
    float | None,
    Field(
        description="The chance, 0 to 1, that the person likes it; null where nothing is known."
    ),
]


@dataclass(frozen=True, slots=True)
class Recommended:
    """An item of a list."""

    __pydantic_config__ = _ANSWERED
    item: Id
    score: _Score
    affinity: _Affinity
    why: Why | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """What a person makes of an item."""

    __pydantic_config__ = _ANSWERED
    item: Id
    score: _Score
    affinity: _Affinity
    rests_on: list[Basis]


@dataclass(frozen=True, slots=True)
class Answer:
    """One person's list, best first, and on what it rests."""

    __pydantic_config__ = _ANSWERED
    user: Id | None
    rests_on: Annotated[
        list[Basis],
        Field(
            description="What of the person was known and used; popularity alone where nothing "
            "was."
        ),
    ]
    unknown: Annotated[
        list[Id], Field(description="Items of the history that this model does not know.")
    ]
    items: list[Recommended]
