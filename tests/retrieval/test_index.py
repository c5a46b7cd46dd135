"""The exact index against the plainest search there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.retrieval import index as module
from twotower.retrieval.coarse import Coarse
from twotower.retrieval.index import ExactIndex, pair_products, top_k
from twotower.retrieval.select import Exactly

Pairs = set[tuple[int, int]]
Question = tuple[ExactIndex, torch.Tensor, int, Pairs]
Found = tuple[np.ndarray, np.ndarray]


@st.composite
def questions(draw: Any) -> Question:
    """An index, queries, a length, and (query, position) pairs that are not to be found."""
    num_items, num_queries = draw(st.integers(1, 200)), draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    # Whole numbers, so that equal scores are equal and occur; or numbers that differ only where
    # bfloat16 has no digits any more.
    if draw(st.booleans()):
        vectors, queries = rng.integers(-3, 4, (num_items, 3)), rng.integers(-3, 4, (9, 3))
    else:
        vectors = draw(st.sampled_from([1.0, -50.0])) + rng.normal(size=(num_items, 5)) * 1e-2
        queries = draw(st.sampled_from([1.0, 0.0])) + rng.normal(size=(9, 5)) * 1e-2
    mask = torch.from_numpy(rng.random(num_items) < draw(st.sampled_from([0, 0.1, 0.5, 1])))
    share = draw(st.sampled_from([0, 0.3, 1]))
    barred = rng.random((num_queries, num_items)) < share
    return (
        ExactIndex(
            torch.from_numpy(vectors.astype(np.float32)), draw(st.just(mask) | st.none())
        ),
        torch.from_numpy(queries[:num_queries].astype(np.float32)),
        draw(st.integers(0, 15) | st.just(num_items)),
        set(zip(*(each.tolist() for each in barred.nonzero()), strict=True)),
    )


@contextmanager
def tiles(
    queries: int = 3, tile_bytes: int = 80, *, narrow: bool = True, threads: int = 1
) -> Iterator[None]:
    """Blocks so small that these questions need many; as for a large catalogue."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_QUERIES", queries)
        patch.setattr(module, "_TILE_BYTES", tile_bytes)
        patch.setattr(module, "_FEW_SCORES", 0)
        patch.setattr(module, "bfloat16_pays", lambda: narrow)
        yield
    torch.set_num_threads(before)


def by_index(question: Question) -> Found:
    index, queries, k, barred = question
    positions, scores = index.search(queries, k, **excluded(barred))
    return positions.numpy(), scores.numpy()


def by_scores(question: Question) -> Found:
    """The same through ``top_k``, from the index's own scores of all items."""
    index, queries, k, barred = question
    positions, scores = top_k(
        lambda part: exact(index, queries)[part].clone(),
        len(queries),
        len(index),
        k,
        is_candidate=index.is_candidate,
        **excluded(barred),
    )
    return positions.numpy(), scores.numpy()


def by_coarse(question: Question) -> Found:
    """The same through ``top_k``, after a first look in 8 bits."""
    index, queries, k, barred = question
    asked = Coarse.of(index.vectors).asked(queries)

    def exactly_of(part: slice) -> Exactly:
        return lambda begins, places: pair_products(
            queries[part], index.vectors, begins, places
        )

    positions, scores = top_k(
        asked.products,
        len(queries),
        len(index),
        k,
        is_candidate=index.is_candidate,
        exactly_of=exactly_of,
        error=asked.error,
        **excluded(barred),
    )
    return positions.numpy(), scores.numpy()


def excluded(barred: Pairs) -> dict[str, torch.Tensor]:
    ordered = sorted(barred)
    return {
        "excluded_items": torch.tensor([item for _, item in ordered], dtype=torch.int64),
        "excluded_owners": torch.tensor([owner for owner, _ in ordered], dtype=torch.int64),
    }


def exact(index: ExactIndex, queries: torch.Tensor) -> torch.Tensor:
    """The score of each pair: the float32 product of these two alone."""
    users, items = len(queries), len(index)
    pattern = torch.sparse_csr_tensor(
        torch.arange(users + 1) * items,
        torch.arange(items).repeat(users),
        torch.zeros(users * items),
        (users, items),
    )
    scored = torch.sparse.sampled_addmm(pattern, queries, index.vectors.T, beta=0.0)
    return scored.values().view(users, items)


def by_sorting(question: Question) -> Found:
    """The slow twin: all scores, the largest first and of equal ones the first item."""
    index, queries, k, barred = question
    k = min(k, len(index))
    scores = exact(index, queries).numpy()
    positions = np.full((len(queries), k), -1)
    values = np.full((len(queries), k), -np.inf, np.float32)
    for query in range(len(queries)):
        left = [
            item
            for item in range(len(index))
            if (index.is_candidate is None or index.is_candidate[item])
            and (query, item) not in barred
        ]
        left.sort(key=lambda item: (-scores[query, item], item))
        positions[query, : len(left)] = left[:k]
        values[query, : len(left)] = scores[query, left[:k]]
    return positions, values


def same(one: Found, other: Found) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@given(questions())
def test_an_index_finds_what_sorting_all_scores_finds_in_the_same_order(
    question: Question,
) -> None:
    assert same(by_index(question), by_sorting(question))


@given(questions(), st.integers(1, 9), st.integers(2, 200), st.booleans(), st.integers(1, 2))
def test_neither_tiles_nor_the_first_pass_nor_threads_change_a_bit(
    question: Question, queries: int, tile_bytes: int, narrow: bool, threads: int
) -> None:
    with tiles(queries, tile_bytes, narrow=narrow, threads=threads):
        assert same(by_index(question), by_sorting(question))


@given(questions(), st.integers(1, 500), st.booleans())
def test_ready_scores_are_ranked_as_an_index_ranks_its_own(
    question: Question, size: int, are_few: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_SCORES", size)
        patch.setattr(module, "_FEW_SCORES", 2**22 * are_few)
        assert same(by_scores(question), by_sorting(question))
        assert same(by_coarse(question), by_sorting(question))


@given(questions())
def test_who_else_asks_changes_nothing(question: Question) -> None:
    index, queries, k, barred = question
    together = by_index(question)
    for n in range(len(queries)):
        own = {(0, item) for query, item in barred if query == n}
        alone = by_index((index, queries[n : n + 1], k, own))
        assert same(alone, tuple(each[n : n + 1] for each in together))


@pytest.mark.parametrize("find", [by_index, by_scores, by_coarse])
@pytest.mark.parametrize("value", [0.0, -1.0, 3e-42])
def test_where_all_are_equal_the_first_are_found(
    find: Callable[[Question], Found], value: float
) -> None:
    index = ExactIndex(torch.full((3000, 4), value))
    question = (index, torch.ones(5, 4), 7, {(2, 0), (2, 3)})
    with tiles(5, 512):
        positions, scores = find(question)
    expected = [list(range(7))] * 5
    expected[2] = [1, 2, 4, 5, 6, 7, 8]
    assert positions.tolist() == expected
    assert (scores == np.float32(value) * 4).all()


@pytest.mark.parametrize("length", [1e-30, 1e-22, 1.0, 1e15])
def test_vectors_that_differ_in_length_by_far_are_found_all_the_same(length: float) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(2000, 8)) * 10.0 ** rng.uniform(-3, 3, (2000, 1)) * length
    index = ExactIndex(torch.from_numpy(vectors.astype(np.float32)))
    queries = torch.from_numpy(rng.normal(size=(6, 8)).astype(np.float32)) * 1e15
    question: Question = (index, queries, 50, set())
    with tiles(4, 1024):
        assert same(by_index(question), by_sorting(question))
        assert same(by_coarse(question), by_sorting(question))


@given(questions())
def test_no_product_in_eight_bits_is_further_off_than_is_said(question: Question) -> None:
    index, queries, _, _ = question
    asked = Coarse.of(index.vectors).asked(queries)
    true = queries.double() @ index.vectors.double().T
    off = (asked.products(slice(None)).double() - true).abs().numpy()
    assert (off <= asked.error[:, None]).all()


@given(questions(), st.integers(0, 200))
def test_items_that_change_are_rounded_as_if_they_had_been_there(
    question: Question, first: int
) -> None:
    vectors = question[0].vectors
    known = vectors[: min(first, len(vectors))].clone()
    places = torch.arange(len(known) // 2, len(vectors))
    known[places[places < len(known)]] += 1
    changed, whole = Coarse.of(known).with_changed(places, vectors[places]), Coarse.of(vectors)
    assert torch.equal(changed.codes, whole.codes)
    assert torch.equal(changed.steps, whole.steps)
    assert torch.equal(changed.last, whole.last)
    assert changed.length >= whole.length
    assert changed.rounding >= whole.rounding


def test_scores_are_the_inner_products() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (torch.randn(n, 129, generator=generator) for n in (5000, 40))
    with tiles(16, 2048):
        positions, scores = ExactIndex(vectors).search(queries, 100)
    products = queries.double() @ vectors.double().T
    best = torch.topk(products, 100, dim=1)
    assert torch.allclose(scores.double(), best.values, atol=1e-4)
    assert torch.allclose(products.gather(1, positions), scores.double(), atol=1e-4)


def test_searching_with_threads_leaves_torch_as_many_as_it_had() -> None:
    with tiles(4, threads=2):
        ExactIndex(torch.randn(50, 3)).search(torch.randn(40, 3), 5)
        assert torch.get_num_threads() == 2


def test_the_first_sparse_matrix_warns_nobody() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import torch\n"
        "from twotower.retrieval.index import ExactIndex\n"
        "ExactIndex(torch.ones(9, 2)).search(torch.ones(3, 2), 4)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
