"""Words around the layers: what a row of them is, and where two sides meet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.config import ModelConfig
from twotower.data.features import Bag, FeatureShape, FeatureTable
from twotower.model.tower import unit
from twotower.model.two_tower import TwoTower
from twotower.model.words import Words, word_columns

LONG = 2_000
# A number, a text, a list of a few values and one of very many.
SHAPE = FeatureShape(9, 1, (), ((40, True), (6, False), (LONG, False)))
TITLES = FeatureShape(9, 0, (), ((40, True),))
lists = st.lists(st.lists(st.integers(0, 39), max_size=5), min_size=1, max_size=6)


def bag(rows: list[list[int]]) -> Bag:
    flat = torch.tensor([code for row in rows for code in row], dtype=torch.int64)
    return Bag(flat, torch.from_numpy(np.cumsum([0, *map(len, rows)])))


def table(*columns: list[list[int]], dense: int = 0) -> FeatureTable:
    count = len(columns[0])
    return FeatureTable(
        torch.zeros(count, dtype=torch.int64),
        torch.ones(count, dense),
        torch.empty((count, 0), dtype=torch.int64),
        tuple(map(bag, columns)),
    )


def model(**words: Any) -> TwoTower:
    torch.manual_seed(3)
    config = ModelConfig(embedding_dim=64, temperature=0.1, history="none", history_dropout=0.5)
    made = TwoTower(TITLES, SHAPE, config, user_ids=False, item_ids=False, words=words)
    return made.eval()


def test_texts_and_long_lists_are_words_and_short_lists_are_not() -> None:
    assert word_columns(SHAPE) == (0, 2)


@settings(deadline=None)
@given(lists, st.integers(0, 99))
def test_a_row_is_the_sum_of_its_words_over_the_root_of_their_number(
    rows: list[list[int]], seed: int
) -> None:
    torch.manual_seed(seed)
    words = Words({"item": SHAPE}, {"item": (0, 2)}, 5)
    other = [row[::2] for row in rows]
    found = words("item", table(rows, rows, other))
    for row, (one, two) in enumerate(zip(rows, other, strict=True)):
        expected = torch.zeros(5)
        for codes, name in ((one, "text"), (two, "item_2")):
            for code in codes:
                expected += words.tables[name].weight[code] / len(codes) ** 0.5  # type: ignore
        torch.testing.assert_close(found[row], expected)


def test_a_text_of_a_user_and_of_an_item_that_say_the_same_are_alike_before_training() -> None:
    made = model(user=(0,), item=(0, 2))
    said = [[2, 3, 4], [30, 31]]
    users = made.encode_users(table(said), None)
    items = made.encode_items(table(said, [[], []], [[], []], dense=1))
    cosines = users @ items.T
    torch.testing.assert_close(cosines.diagonal(), torch.ones(2), atol=1e-4, rtol=0.0)
    assert cosines[0, 1].abs() < 0.6
    assert sum("text" in name for name in made.state_dict()) == 1


def test_what_is_not_among_the_words_goes_through_the_layers() -> None:
    made = model(item=(0, 2))
    assert made.user_features.width == ModelConfig().text_dim
    assert made.item_features.width == 1 + ModelConfig().category_dim
    torch.nn.init.normal_(made.item_tower.output.weight)  # type: ignore[union-attr]
    few, more = table([[2]], [[3]], [[4]], dense=1), table([[2]], [[5]], [[4]], dense=1)
    assert not torch.allclose(made.encode_items(few), made.encode_items(more))


def test_a_word_of_both_sides_is_as_long_as_it_is_rare_over_all_rows() -> None:
    torch.manual_seed(0)
    words = Words({"user": TITLES, "item": TITLES}, {"user": (0,), "item": (0,)}, 8)
    before = words.tables["text"].weight.detach().clone()  # type: ignore[union-attr]
    rows = {"user": [[2, 2, 5], [2]], "item": [[2, 3], [2], [], [3, 4, 4]]}
    words.begin({side: table(said) for side, said in rows.items()})  # type: ignore[misc]
    read = [said for side in rows for said in rows[side]]
    with_it = np.array([sum(code in said for said in read) for code in range(40)])
    rarity = np.log((len(read) + 1) / (with_it + 1))
    rarity[:2] = 0.0
    scale = torch.from_numpy(rarity / rarity[2:].mean()).float()
    torch.testing.assert_close(words.tables["text"].weight.detach(), before * scale[:, None])


def test_rows_of_one_side_are_at_first_as_alike_as_their_tf_idf_says() -> None:
    torch.manual_seed(0)
    words = Words({"item": TITLES}, {"item": (0,)}, 8)
    length = words.tables["text"].weight.square().mean()  # type: ignore[operator, union-attr]
    rows = [[2, 2, 5, 6], [2, 5], [6, 7, 7, 8], [8, 2], [9]]
    words.begin({"item": table(rows)})
    tf_idf = torch.zeros(len(rows), 40)
    for row, codes in zip(tf_idf, rows, strict=True):
        for code in codes:
            row[code] += math.log((len(rows) + 1) / (sum(code in r for r in rows) + 1))
    expected, found = (unit(vectors) for vectors in (tf_idf, words("item", table(rows))))
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=1e-4, rtol=0.0)
    assert length * 0.01 < words.tables["text"].weight.square().mean() < length * 100  # type: ignore


def test_texts_of_several_columns_begin_together() -> None:
    torch.manual_seed(0)
    shape = FeatureShape(9, 0, (), ((40, True), (40, True)))
    words = Words({"item": shape}, {"item": (0, 1)}, 2)
    # What a title says with 3, a description says with 4, and 2 stands beside both.
    words.begin({"item": table([[2, 3], [5, 6]], [[2, 4], [6, 5]])})
    weight = unit(words.tables["text"].weight.detach())  # type: ignore[arg-type, union-attr]
    assert weight[2] @ weight[3] > 0.9
    assert (weight[2] @ weight[5:7].T).abs().max() < 0.1
