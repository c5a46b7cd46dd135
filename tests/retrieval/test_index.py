"""The exact index against the plainest search there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.retrieval import index as module
from twotower.retrieval.index import ExactIndex


@st.composite
def questions(draw: Any) -> tuple[ExactIndex, torch.Tensor, int, set[tuple[int, int]]]:
    """An index, queries, a length, and (query, position) pairs that are not to be found."""
    num_items, num_queries = draw(st.integers(1, 12)), draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    # Whole numbers, so that equal scores are equal and occur.
    vectors = torch.from_numpy(rng.integers(-3, 4, (num_items, 3)).astype(np.float32))
    queries = torch.from_numpy(rng.integers(-3, 4, (num_queries, 3)).astype(np.float32))
    candidates = draw(
        st.none() | st.lists(st.booleans(), min_size=num_items, max_size=num_items)
    )
    mask = None if candidates is None else torch.tensor(candidates)
    pairs = st.tuples(st.integers(0, max(num_queries - 1, 0)), st.integers(0, num_items - 1))
    barred = draw(st.sets(pairs, max_size=30)) if num_queries else set()
    return ExactIndex(vectors, mask), queries, draw(st.integers(1, 15)), barred


def search(
    index: ExactIndex, queries: torch.Tensor, k: int, barred: set[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    ordered = sorted(barred)
    positions, scores = index.search(
        queries,
        k,
        excluded_items=torch.tensor([item for _, item in ordered], dtype=torch.int64),
        excluded_owners=torch.tensor([owner for owner, _ in ordered], dtype=torch.int64),
    )
    return positions.numpy(), scores.numpy()


def allowed(index: ExactIndex, query: int, barred: set[tuple[int, int]]) -> list[int]:
    return [
        item
        for item in range(len(index))
        if (index.is_candidate is None or index.is_candidate[item])
        and (query, item) not in barred
    ]


@given(questions())
def test_the_scores_found_are_the_largest_there_are(question: Any) -> None:
    index, queries, k, barred = question
    positions, scores = search(*question)
    for query in range(len(queries)):
        products = {
            item: float(queries[query] @ index.vectors[item])
            for item in allowed(index, query, barred)
        }
        best = sorted(products.values(), reverse=True)[:k]
        found = [item for item in positions[query] if item >= 0]
        # Which of two equals comes first is free.
        assert [products[item] for item in found] == best
        assert scores[query, : len(found)].tolist() == best


@given(questions())
def test_what_is_excluded_or_no_candidate_is_never_found_and_nothing_twice(
    question: Any,
) -> None:
    index, queries, _, barred = question
    positions, _ = search(*question)
    for query in range(len(queries)):
        found = [item for item in positions[query].tolist() if item >= 0]
        assert set(found) <= set(allowed(index, query, barred))
        assert len(found) == len(set(found))


@given(questions())
def test_a_list_that_runs_out_ends_in_minus_one_and_minus_infinity(question: Any) -> None:
    index, queries, k, barred = question
    positions, scores = search(*question)
    assert positions.shape == (len(queries), min(k, len(index)))
    for query in range(len(queries)):
        left = min(len(allowed(index, query, barred)), positions.shape[1])
        assert (positions[query, left:] == -1).all()
        assert (scores[query, left:] == -np.inf).all()
        assert (positions[query, :left] >= 0).all()


@given(questions(), st.integers(1, 40))
def test_many_small_blocks_find_what_one_block_finds(question: Any, size: int) -> None:
    whole = search(*question)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_SCORES", size)
        parts = search(*question)
    assert np.array_equal(whole[1], parts[1])
    assert np.array_equal(whole[0] < 0, parts[0] < 0)
