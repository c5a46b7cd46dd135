"""THE object a user holds: recommend, similar, score, add and remove items.

Evaluation and serving call it too, so that what was measured is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from twotower.config import Config
from twotower.data.arrays import last_of_each
from twotower.data.features import Encoders, FeatureTable
from twotower.data.ids import Ids, listed, some_of
from twotower.data.interactions import Histories
from twotower.errors import DataError, RequestError
from twotower.model.two_tower import TwoTower
from twotower.retrieval.additions import with_items
from twotower.retrieval.approximate import ApproximateIndex
from twotower.retrieval.blend import Blend
from twotower.retrieval.changes import has_any_value
from twotower.retrieval.coarse import Coarse, eight_bits_pay
from twotower.retrieval.encode import item_vectors, user_vectors
from twotower.retrieval.filters import Catalogue
from twotower.retrieval.index import ExactIndex
from twotower.retrieval.popularity import moments_of, popularity_of
from twotower.retrieval.recommendations import Recommendations

Search = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, repr=False)
class Recommender:
    """Two trained towers, the vectors they made, and what each user has seen.

    Attributes:
        users, items: ids, and thereby rows.
        user_vectors, item_vectors: a row each, row 0 for the unknown; their inner product is
            the score. The last number is 1 in users and the bias in items.
        seen: what each user met, liked or not; not recommended again.
        liked: what counts as the user's history.
        has_own_id: (I + 1,) whether training met the item.
        user_has_own_id: (U + 1,) likewise for users.
        removed: rows of items that are no longer to be had; what people made of them counts.
        user_values, item_values: plain values of their columns (see ``Entities``), to be shown.
        metrics, history: what training measured; see the run's ``metrics.json``.
        approximate: what ``answer`` searches instead of all items, if it was built.
        blend: what histories add to the scores beside the towers, if anything does.
    """

    config: Config
    model: TwoTower
    user_encoders: Encoders
    item_encoders: Encoders
    users: Ids
    items: Ids
    user_vectors: Float32[Tensor, "U D"]
    item_vectors: Float32[Tensor, "I D"]
    seen: Histories
    liked: Histories
    has_own_id: Bool[np.ndarray, " I"]
    user_has_own_id: Bool[np.ndarray, " U"]
    user_values: Mapping[str, np.ndarray]
    item_values: Mapping[str, np.ndarray]
    metrics: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    removed: frozenset[int] = frozenset()
    approximate: ApproximateIndex | None = None
    blend: Blend | None = None

    def __repr__(self) -> str:
        dim = self.item_vectors.shape[1] - 1
        return f"Recommender({len(self.users):,} users, {len(self.items):,} items, {dim}-d)"

    def recommend(
        self, users: Any, k: int = 10, *, include_seen: bool = False
    ) -> Recommendations:
        """The k best items of each user, best first.

        Args:
            users: an id or several.
            k: how many; a user who has seen nearly everything gets fewer.
            include_seen: whether to recommend what the user has already met.

        Raises:
            RequestError: users that are not known, or more items than there are.
        """
        return self.recommend_rows(self.user_rows(listed(users)), k, include_seen=include_seen)

    def user_rows(self, ids: Sequence[Any]) -> Int64[np.ndarray, " B"]:
        """Row numbers of users.

        Raises:
            RequestError: users that are not known.
        """
        rows = self.users.rows(ids)
        hint = "For somebody new there is recommend_for in Python, by features or a history"
        _refuse_unknown(self.users, ids, rows, f"users. {hint}")
        return rows

    def recommend_rows(
        self, rows: np.ndarray, k: int, *, include_seen: bool = False
    ) -> Recommendations:
        """``recommend`` by row numbers from 1."""
        vectors = self.user_vectors[torch.from_numpy(np.asarray(rows, np.int64))]
        seen = None if include_seen else self.seen.pack(rows)
        return self._search(self.users.of(rows), vectors, k, seen, self.histories, rows)

    def recommend_for(
        self,
        *,
        features: Any = None,
        history: Any = (),
        k: int = 10,
        include_seen: bool = False,
    ) -> Recommendations:
        """The k best items for somebody never seen; any part of what is known may be missing.

        Args:
            features: values of the users' columns by name; those not given are missing.
            history: an item that the person liked or several, oldest first; unknown ones
                beside known ones do not count.

        Raises:
            RequestError: a feature that does not exist or can not have that value; a history
                of unknown items, or one for a model that has none.
        """
        items = listed(history)
        rows = self.items.rows(items)
        rows = last_of_each(rows[rows > 0])
        if items and self.model.history is None and self.blend is None:
            raise RequestError(
                "history: this model was trained without histories and can not use one; leave "
                "it out, or train with model.history: mean"
            )
        if items and not len(rows):
            raise RequestError(
                f"history: {some_of(items)}; this model knows {len(self.items):,} items. Give "
                "some that it knows, or none"
            )
        features = {} if features is None else features
        if not isinstance(features, Mapping):
            raise RequestError(
                f"features: expected names with values, got a {type(features).__name__}; give "
                "one person's features as a mapping"
            )
        vector = self.encode_person(features, rows)
        seen = None if include_seen else (rows, np.zeros(len(rows), np.int64))
        read = Histories(np.array([0, 0, len(rows)]), rows.astype(np.int32))
        read = read.latest(self.config.model.history_length)
        nobody = np.array([""], dtype=object)
        return self._search(nobody, vector, k, seen, read, np.ones(1, np.int64))

    def encode_person(
        self, features: Mapping[str, Any], history_rows: np.ndarray
    ) -> Float32[Tensor, "1 D"]:
        """The user vector of somebody never seen."""
        try:
            table = self.user_encoders.encode_request(features)
        except DataError as error:
            raise RequestError(str(error)) from None
        offsets = np.array([0, 0, len(history_rows)])
        return self.encode_users(table, Histories(offsets, history_rows.astype(np.int32)))

    def encode_users(self, table: FeatureTable, liked: Histories) -> Float32[Tensor, "B D"]:
        """The vectors of users never seen; row n of ``table`` has history n + 1."""
        rows = np.arange(len(table))
        recent = liked.latest(self.config.model.history_length)
        shifted = Histories(recent.offsets[1:], recent.items)
        return user_vectors(
            self.model, table, rows, shifted, self.item_vectors, self.item_ids
        ).clone()

    @cached_property
    def histories(self) -> Histories:
        """What of each user's items is read."""
        return self.liked.latest(self.config.model.history_length)

    @cached_property
    def item_ids(self) -> Int64[Tensor, " I1"]:
        """Of each item row the id that training gave it, or 0."""
        return torch.from_numpy(np.arange(len(self.has_own_id)) * self.has_own_id)

    def encode_items(
        self, values: Mapping[str, np.ndarray], num_items: int
    ) -> Float32[Tensor, "I D"]:
        """The vectors of items never seen, from plain values (see ``Entities``)."""
        table = self.item_encoders.encode(values, np.zeros(num_items, np.int64))
        return item_vectors(self.model, table).clone()

    def similar_items(self, items: Any, k: int = 10) -> Recommendations:
        """The k items nearest to each item by the cosine of their embeddings, itself left out.

        Raises:
            RequestError: items that are not known, or more than there are others.
        """
        ids = listed(items)
        _require_length(k, len(self.items) - 1, "the number of other items")
        rows = self.item_rows(ids)
        hint = "New ones come in with add_items in Python, or PUT /v1/items of the service"
        _refuse_unknown(self.items, ids, rows, f"items. {hint}")
        unit = torch.nn.functional.normalize(self.item_vectors[:, :-1], dim=1)
        own = torch.arange(len(rows))
        found = self._lists(
            ExactIndex(unit[1:], self.is_candidate).search,
            unit[torch.from_numpy(rows)],
            k,
            (rows, own.numpy()),
        )
        column = f"{self.items.column}_of"
        return Recommendations(column, self.items.column, self.items.of(rows), *found)

    def score(self, pairs: Iterable[Any]) -> Float32[np.ndarray, " N"]:
        """The affinity score of each (user id, item id): comparable within this model only.

        Raises:
            RequestError: a user or an item that is not known.
        """
        listed = list(pairs)
        for pair in listed:
            if isinstance(pair, str) or not isinstance(pair, Sized) or len(pair) != 2:
                raise RequestError(
                    f"score: expected pairs of a user's id and an item's id, got {pair!r}; "
                    "give both ids of each pair"
                )
        users, items = [user for user, _ in listed], [item for _, item in listed]
        user_rows, item_rows = self.users.rows(users), self.item_rows(items)
        _refuse_unknown(self.users, users, user_rows, "users; score what it knows")
        _refuse_unknown(self.items, items, item_rows, "items; score what it knows")
        return self.score_rows(user_rows, item_rows)

    def score_rows(
        self, user_rows: np.ndarray, item_rows: np.ndarray
    ) -> Float32[np.ndarray, " N"]:
        """``score`` by row numbers."""
        users = self.user_vectors[torch.from_numpy(np.asarray(user_rows, np.int64))]
        items = self.item_vectors[torch.from_numpy(np.asarray(item_rows, np.int64))]
        scores = (users * items).sum(1).numpy()
        if self.blend is not None:
            scores += self.blend.pairs(self.histories, user_rows, item_rows)
        return scores

    def affinity(self, scores: np.ndarray) -> Float32[np.ndarray, "*S"]:
        """Scores -> the chance, 0 to 1, that the user likes the item."""
        slope, offset = self._line
        logits = np.asarray(slope * np.asarray(scores, np.float32) + offset)
        return torch.from_numpy(logits).sigmoid_().numpy()

    @cached_property
    def _line(self) -> tuple[np.float32, np.float32]:
        """Slope and offset of the affinity."""
        return np.float32(self.model.slope.item()), np.float32(self.model.offset.item())

    def add_items(self, table: Any) -> Recommender:
        """A recommender that knows these items too, by their features, without retraining.

        Args:
            table: a path, or a polars, pandas or pyarrow table, with the items' id column and
                their features, or ``ItemRecords``; a column that is missing is missing for
                all. Known ids get their new features.

        Raises:
            DataError: what is wrong with the table.
        """
        return with_items(self, table)

    def remove_items(self, items: Any) -> Recommender:
        """A recommender that has these items no more; ``add_items`` brings them back.

        In the histories of those who liked them they go on to count. Unknown ids do no harm.
        """
        rows = self.items.rows(listed(items))
        changed = replace(self, removed=self.removed | set(rows[rows > 0].tolist()))
        of_all = {"_moments", "popularity", "catalogue", "item_ids", "coarse"}
        same = of_all | {"user_has_features"}
        made = {name: value for name, value in vars(self).items() if name in same}
        vars(changed).update(made)
        return changed

    def item_rows(self, items: Iterable[Any]) -> Int64[np.ndarray, " B"]:
        """The row of each item that is to be had; 0 for any other."""
        rows = self.items.rows(items)
        return np.where(np.isin(rows, list(self.removed)), 0, rows)

    @cached_property
    def is_candidate(self) -> Bool[Tensor, " I"]:
        """Which items may be recommended: those with a trained id or features to go by."""
        can_judge = self.has_own_id | (len(self.item_encoders.by_column) > 0)
        can_judge[list(self.removed)] = False
        return torch.from_numpy(can_judge[1:])

    @cached_property
    def num_candidates(self) -> int:
        """How many items may be recommended."""
        return int(self.is_candidate.sum())

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items' columns, ready to be filtered by."""
        columns = {name: column for name, (column, _) in self.item_encoders.by_column.items()}
        return Catalogue.of(columns, self.item_values, len(self.items))

    @cached_property
    def popularity(self) -> Float32[Tensor, " I"]:
        """How popular each row is, in the unit of scores: as spread out as a user's are.

        The logarithm of how many liked it in training, less its mean over the items.
        """
        liked = np.bincount(self.liked.items, minlength=len(self.items) + 1)
        some = np.linspace(1, len(self.users), min(len(self.users), 256)).astype(np.int64)
        users, items = self.user_vectors[torch.from_numpy(some)], self.item_vectors[1:]
        found = popularity_of(liked[1:], users, self._moments)
        if self.blend is not None:
            alone = users @ items.T
            beside = torch.from_numpy(self.blend.scores(self.histories, some, len(items)))
            found = found * ((alone + beside).std(1).mean() / alone.std(1).mean())
        return torch.cat([torch.zeros(1), found])

    @cached_property
    def _moments(self) -> Float64[Tensor, "D1 D1"]:
        return moments_of(self.item_vectors[1:])

    @cached_property
    def user_has_features(self) -> Bool[np.ndarray, " U1"]:
        """Of which users training knew any feature."""
        names = self.user_encoders.by_column.keys() & self.user_values.keys()
        known = has_any_value([self.user_values[name] for name in names], len(self.users))
        return np.append(False, known)

    @cached_property
    def coarse(self) -> Coarse | None:
        """The items for a first look, where that pays; position n is row n + 1."""
        pays = self.blend is None and eight_bits_pay()
        return Coarse.of(self.item_vectors[1:]) if pays else None

    @cached_property
    def index(self) -> ExactIndex:
        """The items, ready to be searched; position n is row n + 1."""
        return ExactIndex(self.item_vectors[1:], self.is_candidate)

    def _search(
        self,
        user_ids: np.ndarray,
        vectors: Tensor,
        k: int,
        excluded: tuple[np.ndarray, np.ndarray] | None,
        read: Histories,
        rows: np.ndarray,
    ) -> Recommendations:
        """The lists of some users, who have these rows of the histories that are read."""
        _require_length(k, len(self.items), "the number of items")
        search: Search = self.index.search
        if self.blend is not None:
            items = self.item_vectors[1:]
            search = partial(self.blend.search, read, rows, items, self.is_candidate)
        found = self._lists(search, vectors, k, excluded)
        return Recommendations(self.users.column, self.items.column, user_ids, *found)

    def _lists(
        self,
        search: Search,
        vectors: Tensor,
        k: int,
        excluded: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        pairs = {}
        if excluded is not None:
            items, owners = (torch.from_numpy(each.astype(np.int64)) for each in excluded)
            pairs = {"excluded_items": items - 1, "excluded_owners": owners}
        positions, scores = search(vectors, k, **pairs)
        found = positions.numpy()
        ids = self.items.values[np.maximum(found, 0)]
        is_short = found < 0
        # Numbers stay numbers where no list is short: objects would cost more than the search.
        if is_short.any() or not self.items.are_numbers:
            ids = ids.astype(object)
            ids[is_short] = None
        return ids, scores.numpy()

    def batches(
        self, k: int, *, include_seen: bool = False, size: int = 4096, first: int = 1
    ) -> Iterator[Recommendations]:
        """Recommendations for every user from the row ``first`` on, a block at a time."""
        for start in range(first, len(self.users) + 1, size):
            rows = np.arange(start, min(start + size, len(self.users) + 1))
            yield self.recommend_rows(rows, k, include_seen=include_seen)


def _require_length(k: Any, most: int, of_what: str) -> None:
    if not isinstance(k, int | np.integer):
        raise RequestError(f"k must be a whole number; got {k!r}")
    if not 1 <= k <= most:
        raise RequestError(f"k must be 1 to {most:,}, {of_what}; got {k}")


def _refuse_unknown(ids: Ids, asked: Sequence[Any], rows: np.ndarray, hint: str) -> None:
    if rows.all():
        return
    unknown = [identity for identity, row in zip(asked, rows, strict=True) if row == 0]
    raise RequestError(
        f"{ids.column}: {some_of(unknown)}; this model knows {len(ids):,} {hint}"
    )
