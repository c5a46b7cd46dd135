"""Whoever is known by features alone is near to those who are like them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from twotower.data.interactions import Histories
from twotower.model.history import PackedHistory
from twotower.training import closed_form
from twotower.training.learn import Learned, prepare
from twotower.training.stand_in import teach_stand_ins
from worlds import NUM_ITEMS, NUM_USERS, planned

RANK = 8


@torch.enable_grad()
def begun(liked: Histories | None = None) -> Learned:
    """Towers of the checkerboard in closed form, their layers taught."""
    plan = planned("softmax")
    learned, objective = prepare(plan.dataset, plan.parts.train, plan.config)
    found = closed_form.spectrum(
        objective.positives,
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        rank=RANK,
        user_power=0.0,
        item_power=0.0,
    )
    learned.model.start_from(*found.tables(ridge=1.0, rank=RANK))
    teach_stand_ins(
        learned.model,
        learned.users,
        learned.items,
        liked or learned.liked,
        history_length=500,
        seed=0,
    )
    learned.model.eval()
    return learned


def nearness(one: Tensor, other: Tensor) -> float:
    return float(cosine_similarity(one, other).mean())


@torch.no_grad()
def test_an_item_without_an_id_is_where_its_features_say_the_id_would_be() -> None:
    learned = begun()
    known = learned.model.encode_items(learned.items)[1:]
    hidden = replace(learned.items, ids=torch.zeros_like(learned.items.ids))
    guessed = learned.model.encode_items(hidden)[1:]
    # Genres alternate: the next item is of another.
    assert nearness(guessed, known) > 0.7
    assert nearness(guessed.roll(1, 0), known) < 0.3


@torch.no_grad()
def test_a_user_without_a_history_is_where_it_would_be() -> None:
    learned = begun()
    model = learned.model
    rows = np.arange(1, NUM_USERS + 1)
    history, _ = learned.liked.pack(rows)
    assert model.history_table is not None
    items = torch.from_numpy(history.astype(np.int64))
    offsets = torch.from_numpy(learned.liked.offsets[1:])
    packed = PackedHistory(items, offsets, model.history_table.weight)
    people = learned.users.take(torch.from_numpy(rows))
    known = model.encode_users(people, packed)
    guessed = model.encode_users(people, packed.only(torch.zeros(NUM_USERS, dtype=torch.bool)))
    assert nearness(guessed, known) > 0.7
    assert nearness(guessed.roll(1, 0), known) < 0.3


@torch.no_grad()
def test_the_lessons_leave_the_vectors_of_the_known_alone_and_repeat_to_the_last_bit() -> None:
    one, other = begun(), begun()
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name
    assert one.model.item_features.id_table is not None
    embeddings = one.model.encode_items(one.items)[1:]
    assert torch.equal(embeddings, one.model.item_features.id_table.weight[1:])
