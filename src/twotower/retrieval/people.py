"""Whom an answer is for: what is known of each, as rows that the user tower reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from twotower.data.arrays import last_of_each
from twotower.data.features import FeatureTable
from twotower.data.interactions import Histories, offsets_of
from twotower.data.plain import all_missing, plain_json
from twotower.errors import DataError, RequestError, shortened
from twotower.retrieval.changes import Recent
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.wish import Basis, Id, Person


@dataclass(frozen=True)
class Known:
    """What is known of one person.

    Attributes:
        row: of the user; 0 for who is not known.
        history: rows of items, oldest first; no longer than the model reads.
        met: rows of all items that the person met.
        excluded: rows of items not to be recommended, met or not.
        unknown: items of the history that the model does not know.
        is_new: whether anything is known that the stored vector does not know.
    """

    recommender: Recommender
    person: Person
    row: int
    history: Int32[np.ndarray, " L"]
    met: Int64[np.ndarray, " M"]
    excluded: Int64[np.ndarray, " X"]
    unknown: list[Id]
    is_new: bool

    @cached_property
    def features(self) -> Mapping[str, np.ndarray]:
        """Plain values, one row a column; those missing are left out."""
        return _features(self.recommender, self.person, self.row)

    @cached_property
    def rests_on(self) -> list[Basis]:
        """What of this the model uses; popularity where that is nothing."""
        recommender, model = self.recommender, self.recommender.model
        has_id = model.user_features.id_table is not None
        # A stored vector has read the features; only new ones are worth looking up.
        given, trained = self.person.features, recommender.user_has_features[self.row]
        uses: dict[Basis, bool] = {
            "id": has_id and bool(recommender.user_has_own_id[self.row]),
            "features": bool(self.features if given else trained),
            "history": reads_history(recommender) and len(self.history) > 0,
        }
        return [basis for basis, is_used in uses.items() if is_used] or ["popularity"]

    @cached_property
    def is_nobody(self) -> bool:
        """Whether popularity alone can rank for them."""
        return self.rests_on == ["popularity"]


def reads_history(recommender: Recommender) -> bool:
    """Whether what somebody liked counts."""
    return recommender.model.history is not None or recommender.blend is not None


def look_up(recommender: Recommender, person: Person, recent: Recent | None) -> Known:
    """What is known of a person from training, from since, and from the request.

    Raises:
        RequestError: a feature that does not exist or can not have that value.
    """
    users, items = recommender.users, recommender.items
    row = 0 if person.user is None else users.row(person.user)
    given = items.rows(person.history)
    whole, again = _history(recommender, person.user, row, given, recent)
    seen = recommender.seen.of(row).astype(np.int64)
    known = Known(
        recommender,
        person,
        row,
        whole[-recommender.config.model.history_length :].astype(np.int32),
        np.concatenate([seen, again]) if len(again) else seen,
        _known_rows(items.rows(person.exclude)),
        [item for item, found in zip(person.history, given, strict=True) if found == 0],
        bool(person.features) or len(again) > 0 or row == 0,
    )
    if person.features:
        # Read now, so that what is wrong with them is said before anything is computed.
        assert known.features is not None
    return known


def history_of(recommender: Recommender, user: Id, recent: Recent) -> Int64[np.ndarray, " L"]:
    """Rows of all that a user liked, in training and since, oldest first."""
    row = recommender.users.row(user)
    return _history(recommender, user, row, np.empty(0, np.int64), recent)[0]


def _history(
    recommender: Recommender,
    user: Id | None,
    row: int,
    given: Int64[np.ndarray, " G"],
    recent: Recent | None,
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " A"]]:
    """What somebody liked, oldest first; and what was met after training, liked or not."""
    since: list[Any] = []
    disliked: list[Any] = []
    if recent is not None and user is not None:
        key = recommender.users.key(user)
        since, disliked = recent.liked_by(key), recent.disliked_by(key)
    items = recommender.items
    trained = recommender.liked.of(row).astype(np.int64)
    if not since and not disliked and not len(given):
        return trained, given
    later = np.concatenate([items.rows(since), given])
    bad = items.rows(disliked)
    later = later[later > 0]
    # As in training, the last meeting of a user and an item counts.
    again = np.concatenate([later, bad[bad > 0]])
    return np.concatenate([trained[~np.isin(trained, again)], last_of_each(later)]), again


def _known_rows(rows: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = rows[rows > 0]
    return chosen


def _features(recommender: Recommender, person: Person, row: int) -> dict[str, np.ndarray]:
    encoders = recommender.user_encoders.by_column
    for name in person.features:
        if name not in encoders:
            shown = shortened(name, 80)
            known = ", ".join(encoders) or "none"
            raise RequestError(f"unknown feature {shown!r}; the features are: {known}")
    found = {}
    for name, (column, _) in encoders.items():
        if name in person.features:
            try:
                value = plain_json(column, person.features[name])
                recommender.user_encoders.encode({name: value}, np.zeros(1, np.int64))
            except DataError as error:
                raise RequestError(shortened(str(error), 300)) from None
        elif row > 0 and name in recommender.user_values:
            value = recommender.user_values[name][row - 1 : row]
        else:
            continue
        is_there = value[0] is not None if value.dtype == object else not np.isnan(value).all()
        if is_there and value.size:
            found[name] = value
    return found


def encoded(
    recommender: Recommender, people: Sequence[Known], without: Sequence[str | None] = ()
) -> tuple[FeatureTable, Histories]:
    """People as rows of features, and their histories; row n has history n + 1.

    Args:
        without: of each person a feature to leave out.
    """
    values = {}
    left_out = without or [None] * len(people)
    for name, (column, _) in recommender.user_encoders.by_column.items():
        rows = [
            each.features[name] if name in each.features and name != left else None
            for each, left in zip(people, left_out, strict=True)
        ]
        width = next((row.shape[1] for row in rows if row is not None and row.ndim > 1), 0)
        missing = all_missing(column, 1, dimension=width)
        values[name] = np.concatenate([missing if row is None else row for row in rows])
    codes = [each.row if recommender.user_has_own_id[each.row] else 0 for each in people]
    table = recommender.user_encoders.encode(values, np.array(codes, np.int64))
    return table, histories_of(people)


def histories_of(people: Sequence[Known]) -> Histories:
    """What of each one's items is read; row n has that of person n + 1."""
    lengths = np.array([0, *(len(each.history) for each in people)], np.int64)
    items = np.concatenate([np.empty(0, np.int32), *(each.history for each in people)])
    return Histories(offsets_of(lengths), items)


def vectors_of(recommender: Recommender, people: Sequence[Known]) -> Float32[Tensor, "B D"]:
    """The users' vectors: the stored ones where they know all, else made now.

    Somebody of whom nothing is known has zeros: popularity alone ranks for them.
    """
    # By numpy, as all of this but the products: each step of torch lets other threads run.
    vectors = torch.from_numpy(recommender.user_vectors.numpy()[[each.row for each in people]])
    new = [place for place, each in enumerate(people) if each.is_new]
    if new:
        table, histories = encoded(recommender, [people[place] for place in new])
        vectors[new] = recommender.encode_users(table, histories)
    nobody = [place for place, each in enumerate(people) if each.is_nobody]
    if nobody:
        vectors[nobody] = 0.0
    return vectors
