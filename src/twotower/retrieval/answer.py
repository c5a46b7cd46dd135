"""People and a wish -> answers: one search for everybody, then the dials of each list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from twotower.errors import GivenUpError, RequestError
from twotower.retrieval.approximate import ApproximateIndex
from twotower.retrieval.blend import Blend
from twotower.retrieval.changes import Recent
from twotower.retrieval.explain import explained
from twotower.retrieval.index import pair_products, products, top_k
from twotower.retrieval.people import Known, histories_of, look_up, vectors_of
from twotower.retrieval.recommender import Recommender
from twotower.retrieval.rerank import choose
from twotower.retrieval.select import Exactly
from twotower.retrieval.wish import Answer, Id, Person, Recommended, Scored, Why, Wish

# Below this share of items that may be found, only they are searched.
_FEW = 0.1
_SMALLEST_POOL = 100
# So many scores are made and looked through in about a millisecond.
_QUICK_SCORES = 2**18


@dataclass
class Tally:
    """How people were searched for, by their places; it is filled in.

    Attributes:
        approximate: those whose lists the approximate index gave.
        fallbacks: those whose lists it left short, so that the exact search gave them.
        unknown: how many have an id that training did not know.
    """

    approximate: set[int] = field(default_factory=set)
    fallbacks: set[int] = field(default_factory=set)
    unknown: int = 0


def answer(
    recommender: Recommender,
    people: Sequence[Person],
    wish: Wish | None = None,
    *,
    recent: Recent | None = None,
    exact: bool = False,
    tally: Tally | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> list[Answer]:
    """What each of some people is recommended, and on what that rests.

    Nobody is an error: an unknown user is answered from features and history, and from
    popularity where there is nothing else. A list is shorter than k only where fewer items
    fulfil the wish: the search is exact, over those alone that may be found. Where the
    recommender has an approximate index, that is searched where it pays, and what it leaves
    short is searched exactly.

    Args:
        recent: what people did since training.
        exact: leave the approximate index aside.
        tally: where to note how each person was searched for.
        is_wanted: whether somebody still waits; asked again and again between people.

    Raises:
        GivenUpError: nobody does.
        RequestError: a column or a feature that does not exist, or a value it can not have.
    """
    wish = wish or Wish()
    known = [look_up(recommender, person, recent) for person in people]
    if not known:
        return []
    search = _Search(recommender, known, wish, exact=exact)
    lists = search.lists(is_wanted)
    if tally is not None:
        tally.approximate |= search.tally.approximate - search.tally.fallbacks
        tally.fallbacks |= search.tally.fallbacks
        tally.unknown += sum(each.row == 0 and each.person.user is not None for each in known)
    dials = search.dials.tolist()
    chances = iter(_chances(recommender, lists, dials))
    answers = []
    for each, (rows, scores), dial in zip(known, lists, dials, strict=True):
        why: Sequence[Why | None] = [None] * len(rows)
        if wish.explain:
            _require(is_wanted)
            why = explained(recommender, each, rows, scores, dial)
        own: Sequence[float | None] = list(islice(chances, len(rows)))
        if each.is_nobody:
            own = [None] * len(rows)
        ids = recommender.items.of(rows).tolist()
        items = [
            Recommended(*values) for values in zip(ids, scores.tolist(), own, why, strict=True)
        ]
        answers.append(
            Answer(
                user=each.person.user,
                rests_on=each.rests_on,
                unknown=each.unknown,
                items=items,
            )
        )
    return answers


def is_quick(recommender: Recommender, people: Sequence[Person], wish: Wish) -> bool:
    """Whether a few vectors that are there are multiplied with not very many items."""
    dials = wish.where or wish.at_most or wish.diversity or wish.explain
    given = any(person.features or person.history for person in people)
    size = len(people) * len(recommender.items)
    return size <= _QUICK_SCORES and not dials and not given


def _require(is_wanted: Callable[[], bool]) -> None:
    if not is_wanted():
        raise GivenUpError("nobody waits for this answer any more")


def _chances(
    recommender: Recommender,
    lists: Sequence[tuple[Int64[np.ndarray, " _"], Float32[np.ndarray, " _"]]],
    dials: Sequence[float],
) -> list[float]:
    """The affinities of all lists, end to end; the popularity dial is no part of them."""
    own = [
        scores - dial * recommender.popularity.numpy()[rows] if dial else scores
        for (rows, scores), dial in zip(lists, dials, strict=True)
    ]
    chances: list[float] = recommender.affinity(np.concatenate(own)).tolist()
    return chances


def score_pairs(
    recommender: Recommender,
    people: Sequence[Person],
    items: Sequence[Id],
    *,
    recent: Recent | None = None,
) -> list[Scored]:
    """The score of each person with the item of the same place.

    Raises:
        RequestError: an item that is not known, or a wrong feature.
    """
    rows = recommender.item_rows(items)
    if (rows == 0).any():
        first = items[int(np.flatnonzero(rows == 0)[0])]
        raise RequestError(
            f"{recommender.items.column}: {first!r} is not known to this model; score what it "
            "knows"
        )
    known = [look_up(recommender, person, recent) for person in people]
    vectors = vectors_of(recommender, known) if known else torch.empty((0, 0))
    chosen = recommender.item_vectors[torch.from_numpy(rows)]
    scores = (vectors * chosen).sum(1) if known else torch.empty(0)
    if recommender.blend is not None:
        people_rows = np.arange(1, len(known) + 1)
        added = recommender.blend.pairs(histories_of(known), people_rows, rows)
        scores += torch.from_numpy(added)
    chances = recommender.affinity(scores.numpy()).tolist()
    popularity = recommender.popularity[torch.from_numpy(rows)].tolist()
    scored = []
    for n, (item, each) in enumerate(zip(items, known, strict=True)):
        scored.append(
            Scored(
                item=item,
                score=popularity[n] if each.is_nobody else float(scores[n]),
                affinity=None if each.is_nobody else chances[n],
                rests_on=each.rests_on,
            )
        )
    return scored


class _Search:
    """One wish of several people.

    Attributes:
        dials: of each person the popularity dial.
        rows: of the items that may be found; None for all.
    """

    def __init__(
        self, recommender: Recommender, known: Sequence[Known], wish: Wish, *, exact: bool
    ) -> None:
        self.recommender, self.known, self.wish = recommender, known, wish
        # What histories add beside the towers is in no index.
        is_exact = exact or recommender.blend is not None
        self.index = None if is_exact else recommender.approximate
        self.histories = histories_of(known)
        self.tally = Tally()
        self.vectors = vectors_of(recommender, known)
        self.dials = np.array(
            [wish.popularity or (1.0 if each.is_nobody else 0.0) for each in known], np.float32
        )
        allowed, self.num_allowed = recommender.is_candidate.numpy(), recommender.num_candidates
        if wish.where:
            allowed = allowed & recommender.catalogue.fulfilling(wish.where)
            self.num_allowed = int(allowed.sum())
        self.groups = [
            (recommender.catalogue.column(name, "at_most").groups, most)
            for name, most in wish.at_most.items()
        ]
        is_few = self.num_allowed < _FEW * len(allowed)
        self.rows = np.flatnonzero(allowed) + 1 if is_few else None
        everything = is_few or self.num_allowed == len(allowed)
        self.is_candidate = None if everything else torch.from_numpy(allowed)

    def lists(
        self, is_wanted: Callable[[], bool]
    ) -> list[tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]]:
        """Rows and scores of each person's list."""
        k = min(self.wish.k, self.num_allowed)
        everybody = np.arange(len(self.known))
        if not self.groups and self.wish.diversity == 0:
            return self._best(everybody, k)
        pool = min(max(_SMALLEST_POOL, 5 * k), self.num_allowed)
        lists = []
        for place, candidates in enumerate(self._best(everybody, pool)):
            _require(is_wanted)
            chosen = self._chosen(*candidates)
            size = pool
            # Quotas may use up a pool; the next one is larger, and the last is all there is.
            while len(chosen[0]) < k and len(candidates[0]) == size < self.num_allowed:
                size = min(4 * size, self.num_allowed)
                [candidates] = self._best(np.array([place]), size)
                chosen = self._chosen(*candidates)
            lists.append(chosen)
        return lists

    def _best(
        self, places: Int64[np.ndarray, " P"], k: int
    ) -> list[tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]]:
        """The k best for some of the people, by score alone."""
        if self.index is None or self.rows is not None or k > self.index.k:
            return self._exactly(places, k)
        # Popularity is no part of the vectors that the index knows.
        near = places[self.dials[places] == 0]
        lists = zip(near, self._approximately(self.index, near, k), strict=True)
        found = {place: each for place, each in lists if len(each[0]) == k}
        self.tally.approximate |= set(found)
        self.tally.fallbacks |= set(near) - set(found)
        rest = np.array([place for place in places if place not in found], np.int64)
        found |= zip(rest, self._exactly(rest, k), strict=True)
        return [found[place] for place in places]

    def _approximately(
        self, index: ApproximateIndex, places: Int64[np.ndarray, " P"], k: int
    ) -> list[tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]]:
        if not len(places):
            return []
        excluded, owners = self._excluded(places)
        return self._lists(
            *index.search(
                self.vectors[torch.from_numpy(places)],
                self.recommender.item_vectors[1:],
                k,
                is_candidate=self.is_candidate,
                excluded_items=torch.from_numpy(excluded),
                excluded_owners=torch.from_numpy(owners),
            )
        )

    def _exactly(
        self, places: Int64[np.ndarray, " P"], k: int
    ) -> list[tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]]:
        if not len(places):
            return []
        items = self.recommender.item_vectors[1:]
        popularity = self.recommender.popularity.numpy()[1:]
        coarse = self.recommender.coarse
        if self.rows is not None:
            items = self.recommender.item_vectors[torch.from_numpy(self.rows)]
            popularity, coarse = popularity[self.rows - 1], None
        queries, dials = self.vectors[torch.from_numpy(places)], self.dials[places]
        excluded, owners = self._excluded(places)
        has_dials = bool(dials.any())
        asked = None if coarse is None else coarse.asked(queries)

        def scores_of(part: slice) -> Float32[Tensor, "b I"]:
            scores = products(queries[part], items) if asked is None else asked.products(part)
            if self.recommender.blend is not None:
                scores += self._beside(self.recommender.blend, places[part])
            if has_dials:
                scores += torch.from_numpy(dials[part, None] * popularity)
            return scores

        def exactly_of(part: slice) -> Exactly:
            def exactly(begins: np.ndarray, positions: np.ndarray) -> np.ndarray:
                scores = pair_products(queries[part], items, begins, positions)
                if has_dials:
                    scores += np.repeat(dials[part], np.diff(begins)) * popularity[positions]
                return scores

            return exactly

        error = None
        if asked is not None:
            error = asked.error
            if has_dials:
                error = error + 2.0**-22 * np.abs(dials) * np.abs(popularity).max()
        return self._lists(
            *top_k(
                scores_of,
                len(queries),
                len(items),
                k,
                is_candidate=self.is_candidate,
                excluded_items=torch.from_numpy(excluded),
                excluded_owners=torch.from_numpy(owners),
                exactly_of=None if asked is None else exactly_of,
                error=error,
            )
        )

    def _beside(self, blend: Blend, places: Int64[np.ndarray, " P"]) -> Float32[Tensor, "P I"]:
        """What the histories of some of the people add to the items that are searched."""
        added = blend.scores(self.histories, places + 1, len(self.recommender.items))
        return torch.from_numpy(added if self.rows is None else added[:, self.rows - 1])

    def _lists(
        self, found: Int64[Tensor, "P K"], values: Float32[Tensor, "P K"]
    ) -> list[tuple[Int64[np.ndarray, " _"], Float32[np.ndarray, " _"]]]:
        """Rows and scores of what was found, without gaps."""
        lists = []
        for positions, scores in zip(found.numpy(), values.numpy(), strict=True):
            there = positions >= 0
            rows = positions[there] + 1
            lists.append((rows if self.rows is None else self.rows[rows - 1], scores[there]))
        return lists

    def _excluded(
        self, places: Int64[np.ndarray, " P"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """Positions that are not to be found, and whose each is: a place in ``places``."""
        everybodys = self.recommender.items.rows(self.wish.exclude)
        everybodys = everybodys[everybodys > 0]
        found = []
        for place in places:
            each = self.known[place]
            met = [] if self.wish.include_seen else [each.met]
            rows = np.concatenate([everybodys, each.excluded, *met])
            found.append(rows - 1 if self.rows is None else self._narrowed(rows))
        owners = np.repeat(np.arange(len(found)), [len(positions) for positions in found])
        return np.concatenate(found), owners

    def _narrowed(self, rows: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " M"]:
        """Positions among the few items that are searched; of other rows there is none."""
        assert self.rows is not None
        if not len(self.rows):
            return np.empty(0, np.int64)
        positions = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        among: Bool[np.ndarray, " N"] = self.rows[positions] == rows
        kept: np.ndarray = positions[among].astype(np.int64)
        return kept

    def _chosen(
        self, rows: Int64[np.ndarray, " P"], scores: Float32[np.ndarray, " P"]
    ) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """A list from its candidates, by the dials of diversity and quotas."""
        embeddings = self.recommender.item_vectors[torch.from_numpy(rows), :-1].numpy()
        groups = [([of_item[row - 1] for row in rows], most) for of_item, most in self.groups]
        places = choose(
            scores, embeddings, self.wish.k, diversity=self.wish.diversity, groups=groups
        )
        return rows[places], scores[places]
