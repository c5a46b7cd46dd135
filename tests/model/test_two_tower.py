from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from twotower import TwoTowerModel
from twotower.config import ModelConfig
from twotower.data.features import Bag, FeatureShape, FeatureTable
from twotower.model.history import PackedHistory
from twotower.model.two_tower import TwoTower

USERS = FeatureShape(num_ids=8, dense=2, categories=(3,), bags=())
ITEMS = FeatureShape(num_ids=9, dense=1, categories=(), bags=((4, False),))
DIM = 5
SETTLED = {
    "history": "mean",
    "history_dropout": 0.5,
    "temperature": 0.1,
    "embedding_dim": DIM,
}


def towers(*, ids: bool = True, fresh: bool = False, **changed: Any) -> TwoTower:
    """Small towers in evaluation; as they begin if ``fresh``, else no weight is zero."""
    torch.manual_seed(1)
    small = {"user_hidden_dims": (6,), "item_hidden_dims": (6,)}
    config = ModelConfig.model_validate({**SETTLED, **small, **changed})
    made = TwoTower(USERS, ITEMS, config, user_ids=ids, item_ids=ids)
    if not fresh:
        for parameter in made.parameters():
            nn.init.normal_(parameter)
    return made.eval()


def users(seed: int = 0) -> FeatureTable:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(9, 2, generator=generator)
    codes = torch.randint(3, (9, 1), generator=generator)
    return FeatureTable(torch.arange(9), dense, codes, ())


def items(seed: int = 0) -> FeatureTable:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(10, 1, generator=generator)
    codes = torch.randint(4, (20,), generator=generator)
    bag = Bag(codes, torch.arange(0, 21, 2))
    return FeatureTable(torch.arange(10), dense, torch.empty(10, 0, dtype=torch.int64), (bag,))


def histories(embeddings: torch.Tensor, count: int = 9) -> PackedHistory:
    """User n liked the items n and n + 1."""
    pairs = [number for user in range(count) for number in (user, user + 1)]
    ends = torch.arange(0, 2 * count + 1, 2)
    return PackedHistory(torch.tensor(pairs), ends, embeddings, torch.arange(len(embeddings)))


def encoded(model: TwoTower) -> tuple[torch.Tensor, torch.Tensor]:
    of_items = model.encode_items(items())
    history = None if model.history is None else histories(of_items)
    return model.encode_users(users(), history), of_items


class TestScore:
    @settings(deadline=None)
    @given(st.floats(-3, 9), st.booleans(), st.booleans(), st.booleans())
    def test_the_inner_product_of_two_vectors_is_scale_times_that_of_embeddings_plus_bias(
        self, log_scale: float, normalize: bool, biased: bool, ids: bool
    ) -> None:
        model = towers(normalize=normalize, item_bias=biased, ids=ids)
        model.log_scale.data.fill_(log_scale)
        of_users, of_items = encoded(model)
        made = model.user_vectors(of_users) @ model.item_vectors(of_items, items()).T
        # A temperature below 0.01 would let one batch decide everything.
        scale = min(math.exp(log_scale), 100.0)
        for user in range(9):
            for item in range(10):
                bias = 0.0 if model.item_bias is None else model.item_bias.weight[item].item()
                score = scale * (of_users[user] @ of_items[item]).item() + bias
                assert made[user, item].item() == pytest.approx(score, rel=1e-4, abs=1e-4)
        assert (model.item_bias is not None) == (biased and ids)

    def test_an_affinity_is_a_chance_on_the_line_through_the_scores(self) -> None:
        model = towers()
        model.slope.fill_(0.7)
        model.offset.data.fill_(-0.2)
        scores = [-4.0, 0.0, 0.5, 3.0]
        expected = [1 / (1 + math.exp(-(0.7 * score - 0.2))) for score in scores]
        assert model.affinity(torch.tensor(scores)).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_embeddings_have_length_one_where_they_are_normalized_and_only_there(
        self, normalize: bool
    ) -> None:
        for embeddings in encoded(towers(normalize=normalize)):
            lengths = embeddings.norm(dim=1)
            assert torch.allclose(lengths, torch.ones_like(lengths)) == normalize


class TestEmbedding:
    def test_training_begins_as_a_factor_model_of_ids_and_histories(self) -> None:
        model = towers(fresh=True, normalize=False)
        assert model.user_features.id_table is not None
        assert model.item_features.id_table is not None
        of_users, of_items = encoded(model)
        ids = model.item_features.id_table.weight
        torch.testing.assert_close(of_items, ids)
        for user in range(9):
            liked = (ids[user] + ids[user + 1]) / math.sqrt(2)
            own = model.user_features.id_table.weight[user]
            torch.testing.assert_close(of_users[user], own + liked)

    def test_features_speak_through_the_layers_and_histories_around_them(self) -> None:
        model = towers(normalize=False)
        assert model.history is not None
        of_users, of_items = encoded(model)
        assert not torch.isclose(model.encode_items(items(seed=1)), of_items).any()
        described = model.encode_users(users(seed=1), histories(of_items))
        assert not torch.isclose(described, of_users).any()
        forgotten = histories(of_items).only(torch.zeros(18, dtype=torch.bool))
        around = model.encode_users(users(), forgotten) + model.history(histories(of_items))
        torch.testing.assert_close(around, of_users)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_for_each_item_its_user_is_who_the_others_make(self, normalize: bool) -> None:
        model = towers(normalize=normalize)
        of_items = model.encode_items(items())
        made, parts = model.encode_users_for_parts(users(), histories(of_items))
        assert parts.part.tolist() == list(range(18))
        # Users have two items, and each is found from the other.
        for place in (0, 1):
            is_other = torch.arange(18) % 2 != place
            rest = model.encode_users(users(), histories(of_items).only(is_other))
            torch.testing.assert_close(made[place::2], rest)

    def test_in_training_each_half_is_found_from_the_other(self) -> None:
        model = towers(dropout=0.0, id_dropout=0.0, history_dropout=0.5).train()
        of_items = model.encode_items(items())
        history = histories(of_items)
        doubled = PackedHistory(
            history.items.view(9, 2).repeat(1, 2).flatten(),
            history.offsets * 2,
            history.embeddings,
            history.ids,
        )
        made, parts = model.encode_users_for_parts(users(), doubled)
        assert parts.owners.tolist() == [user for user in range(9) for _ in range(2)]
        for half in (0, 1):
            is_other = parts.part % 2 != half
            rest = model.encode_users(users(), doubled.only(is_other))
            torch.testing.assert_close(made[half::2], rest)

    def test_without_features_there_are_no_layers(self) -> None:
        bare = FeatureShape(num_ids=8, dense=0, categories=(), bags=())
        config = ModelConfig.model_validate(SETTLED)
        model = TwoTower(bare, bare, config, user_ids=False, item_ids=True)
        assert model.user_tower is None
        assert model.item_tower is None
        none = torch.empty(9, 0)
        table = FeatureTable(torch.arange(9), none, none.long(), ())
        of_items = model.encode_items(table)
        assert of_items[1:].norm(dim=1).tolist() == pytest.approx([1.0] * 8, abs=1e-3)
        nobody = model.encode_users(table, histories(of_items).only(torch.zeros(18).bool()))
        assert not nobody.any()

    def test_without_ids_a_row_is_nothing_but_its_features(self) -> None:
        model = towers(ids=False)
        others = replace(items(), ids=torch.arange(10).flip(0))
        assert torch.equal(model.encode_items(others), model.encode_items(items()))

    @settings(deadline=None)
    @given(st.booleans(), st.booleans(), st.booleans())
    def test_nobody_has_an_embedding_like_anybody(
        self, ids: bool, fresh: bool, normalize: bool
    ) -> None:
        model = towers(ids=ids, fresh=fresh, normalize=normalize)
        missing = Bag(torch.empty(0, dtype=torch.int64), torch.tensor([0, 0]))
        nothing = replace(
            items().take(torch.tensor([0])), dense=torch.zeros(1, 1), bags=(missing,)
        )
        of_items = model.encode_items(nothing)
        empty = histories(of_items, 1).only(torch.tensor([False, False]))
        row = users().take(torch.tensor([0]))
        of_user = model.encode_users(replace(row, dense=torch.zeros(1, 2)), empty)
        assert of_items.isfinite().all()
        assert of_user.isfinite().all()
        assert model.item_vectors(of_items, nothing).shape == (1, DIM + 1)


class TestHiding:
    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_in_training_a_share_of_ids_is_nobodys_and_all_else_stays(
        self, share: float
    ) -> None:
        model = towers(id_dropout=share).train()
        for many, hide in (
            (users().take(torch.full((4000,), 7)), model.hide_user_ids),
            (items().take(torch.full((4000,), 7)), model.hide_item_ids),
        ):
            made = hide(many)
            assert set(made.ids.tolist()) <= {0, 7}
            assert (made.ids == 0).float().mean().item() == pytest.approx(share, abs=0.03)
            assert torch.equal(made.dense, many.dense)
            assert torch.equal(made.codes, many.codes)

    @pytest.mark.parametrize("of_items", [0.0, 0.4])
    @pytest.mark.parametrize("of_users", [0.0, 0.3, 1.0])
    def test_in_training_a_share_of_items_is_hidden_and_of_some_users_all(
        self, of_users: float, of_items: float
    ) -> None:
        model = towers(id_dropout=of_users, history_dropout=of_items).train()
        count, each = 2000, 20
        ends = torch.arange(0, each * count + 1, each)
        items_of = torch.zeros(each * count, dtype=torch.int64)
        shown = model.is_shown(
            PackedHistory(items_of, ends, torch.zeros(1, DIM), torch.zeros(1).long())
        )
        shares = shown.view(count, each).float().mean(1)
        # Nobody else has lost all of twenty.
        assert (shares == 0).float().mean().item() == pytest.approx(of_users, abs=0.04)
        if of_users < 1:
            left = shares[shares > 0].mean().item()
            assert left == pytest.approx(1 - of_items, abs=0.02)

    def test_what_nothing_can_stand_in_for_is_not_hidden(self) -> None:
        bare = FeatureShape(num_ids=8, dense=0, categories=(), bags=())
        config = ModelConfig.model_validate({**SETTLED, "id_dropout": 1, "history_dropout": 0})
        model = TwoTower(bare, bare, config, user_ids=False, item_ids=True).train()
        none = torch.empty(9, 0)
        table = FeatureTable(torch.arange(9), none, none.long(), ())
        assert torch.equal(model.hide_item_ids(table).ids, table.ids)
        assert model.is_shown(histories(torch.zeros(10, DIM))).all()

    def test_in_evaluation_nothing_is_hidden(self) -> None:
        model = towers(id_dropout=1.0, dropout=0.9, history_dropout=0.9)
        assert torch.equal(model.hide_user_ids(users()).ids, torch.arange(9))
        assert torch.equal(model.hide_item_ids(items()).ids, torch.arange(10))
        of_users, of_items = encoded(model)
        assert model.is_shown(histories(of_items)).all()
        for one, other in zip(encoded(model), (of_users, of_items), strict=True):
            assert torch.equal(one, other)


LAB = {
    "user_input_dim": 20,
    "item_input_dim": 15,
    "embedding_dim": 128,
    "user_hidden_dims": [256, 128],
    "item_hidden_dims": [256, 128],
    "dropout": 0.3,
}


class TestTwoTowerModel:
    def test_it_takes_the_labs_arguments_with_the_labs_defaults(self) -> None:
        arguments = inspect.signature(TwoTowerModel).parameters
        assert list(arguments) == list(LAB)
        by_default = TwoTowerModel(20, 15)
        assert by_default.get_config() == LAB
        # Two towers of three layers, and a scale and a bias.
        user, item = (width * 256 + 256 for width in (20, 15))
        rest = 256 * 128 + 128 + 128 * 128 + 128
        assert by_default.count_parameters() == user + item + 2 * rest + 2

    def test_its_config_goes_through_a_file_and_makes_it_again(self) -> None:
        model = TwoTowerModel(4, 3, 8, [5], [6, 7], dropout=0.1).eval()
        again = TwoTowerModel(**json.loads(json.dumps(model.get_config()))).eval()
        again.load_state_dict(model.state_dict())
        pair = torch.randn(10, 4), torch.randn(10, 3)
        assert torch.equal(again(*pair), model(*pair))
        assert again.get_config() == model.get_config()

    def test_pairs_have_one_affinity_each_from_0_to_1(self) -> None:
        model = TwoTowerModel(**LAB).eval()
        user, item = torch.randn(32, 20), torch.randn(32, 15)
        made = model(user, item)
        assert made.shape == (32, 1)
        assert ((made > 0) & (made < 1)).all()
        for embeddings in (model.encode_user(user), model.encode_item(item)):
            assert embeddings.shape == (32, 128)
            torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(32))

    def test_with_a_scale_of_one_and_no_bias_it_is_the_labs_network_number_for_number(
        self,
    ) -> None:
        model = TwoTowerModel(**LAB).eval()
        user, item = torch.randn(32, 20), torch.randn(32, 15)

        def network(tower: nn.Module, values: torch.Tensor) -> torch.Tensor:
            one, two, last = [each for each in tower.modules() if isinstance(each, nn.Linear)]
            values = last(torch.relu(two(torch.relu(one(values)))))
            return values / values.square().sum(1, keepdim=True).sqrt()

        cosine = (network(model.user_tower, user) * network(model.item_tower, item)).sum(
            1, keepdim=True
        )
        with torch.no_grad():
            model.log_scale.fill_(0.0)
            model.bias.fill_(0.0)
        torch.testing.assert_close(model(user, item), torch.sigmoid(cosine))
        with torch.no_grad():
            model.log_scale.fill_(math.log(7.0))
            model.bias.fill_(-2.0)
        torch.testing.assert_close(model(user, item), torch.sigmoid(7 * cosine - 2))

    def test_hidden_units_are_dropped_in_training_only(self) -> None:
        model = TwoTowerModel(**LAB)
        user, item = torch.randn(32, 20), torch.randn(32, 15)
        assert not torch.equal(model(user, item), model(user, item))
        model.eval()
        assert torch.equal(model(user, item), model(user, item))

    def test_a_plain_loop_teaches_it_affinities_that_a_bare_cosine_could_not_reach(
        self,
    ) -> None:
        torch.manual_seed(0)
        model = TwoTowerModel(4, 4, 16, [16], [16], dropout=0.0)
        kinds = torch.eye(4)
        user, item = kinds.repeat_interleave(4, 0), kinds.repeat(4, 1)
        labels = (user == item).all(1, keepdim=True).float()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.BCELoss()(model(user, item), labels).backward()
            optimizer.step()
        affinities = model(user, item)
        assert affinities[labels == 1].min() > 0.9
        assert affinities[labels == 0].max() < 0.1
