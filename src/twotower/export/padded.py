"""The trained towers over rectangles: lists and histories filled up to the longest of them.

In training and serving lists lie end to end, which no exchange format of models knows. Here
each row's list is a row of a matrix, its end marked by zeros or by a length, and the weights
are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.features import Bag, FeatureTable
from twotower.model.features import FeatureLayer
from twotower.model.history import PackedHistory, PooledHistory, certainty
from twotower.model.tower import Tower, lengths_of
from twotower.model.transformer import Sequences, TransformerHistory
from twotower.model.two_tower import TwoTower
from twotower.model.words import Side

_Axes = tuple[str | int, ...]
NUMBERS, CODES, ID = "numbers", "codes", "id"
HISTORY, LENGTH, HISTORY_ID = "history", "history_length", "history_id"


def bag_name(number: int) -> str:
    """The input of the list or text column of that number."""
    return f"list_{number}"


@dataclass(frozen=True)
class Inputs:
    """Which tensors a tower reads, by name and in order.

    Attributes:
        axes: of each the names of its axes; those that are numbers are fixed.
    """

    axes: Mapping[str, _Axes]

    @classmethod
    def of_items(cls, model: TwoTower) -> Inputs:
        """What the item tower reads."""
        return cls(_of_features(model.item_features, model.shapes()["item_shape"]))

    @classmethod
    def of_users(cls, model: TwoTower) -> Inputs:
        """What the user tower reads."""
        axes = _of_features(model.user_features, model.shapes()["user_shape"])
        if model.history is not None:
            axes[HISTORY] = ("rows", "longest", model.embedding_dim + 1)
            axes[LENGTH] = ("rows",)
            if isinstance(model.history, TransformerHistory) and model.history.id_table:
                axes[HISTORY_ID] = ("rows", "longest")
        return cls(axes)

    def of(
        self, table: FeatureTable, history: PackedHistory | None = None
    ) -> dict[str, Tensor]:
        """The tensors of some rows."""
        every = {NUMBERS: table.dense, CODES: table.codes, ID: table.ids}
        every |= {bag_name(number): filled(bag) for number, bag in enumerate(table.bags)}
        if history is not None:
            places = filled(Bag(torch.arange(len(history.items)) + 1, history.offsets))
            items = torch.cat([history.items.new_zeros(1), history.items])[places]
            vectors = functional.pad(history.embeddings, (0, 1))
            every[HISTORY] = vectors[items] * (places > 0)[..., None]
            every[LENGTH] = history.offsets[1:] - history.offsets[:-1]
            every[HISTORY_ID] = history.ids[items] * (places > 0)
        return {name: every[name] for name in self.axes}


def _of_features(layer: FeatureLayer, shape: Mapping[str, object]) -> dict[str, _Axes]:
    axes: dict[str, _Axes] = {}
    dense, categories = shape["dense"], shape["categories"]
    assert isinstance(dense, int)
    assert isinstance(categories, tuple | list)
    if dense:
        axes[NUMBERS] = ("rows", dense)
    if categories:
        axes[CODES] = ("rows", len(categories))
    bags = shape["bags"]
    assert isinstance(bags, tuple | list)
    for number in range(len(bags)):
        axes[bag_name(number)] = ("rows", f"longest_{number}")
    if layer.id_table is not None:
        axes[ID] = ("rows",)
    return axes


def filled(bag: Bag) -> Int64[Tensor, "R W"]:
    """Lists as rows of a matrix, zeros behind them; at least one column."""
    lengths = bag.offsets[1:] - bag.offsets[:-1]
    places = torch.arange(max(int(lengths.max()), 1) if len(lengths) else 1)
    is_own = places < lengths[:, None]
    matrix = torch.zeros(is_own.shape, dtype=torch.int64)
    matrix[is_own] = bag.codes
    return matrix


class PaddedItems(nn.Module):
    """Items -> their vectors, the bias behind."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model
        self.inputs = Inputs.of_items(model)

    def forward(self, *inputs: Tensor) -> Float[Tensor, "R D1"]:
        """What ``item_vectors`` gives, from the inputs in their order."""
        given = dict(zip(self.inputs.axes, inputs, strict=True))
        model = self.model
        embedding = _finish(model, _sum(_itself(model, "item", given)))
        if model.item_bias is None:
            return functional.pad(embedding, (0, 1))
        return torch.cat([embedding, model.item_bias(given[ID])], 1)


class PaddedUsers(nn.Module):
    """Users -> their vectors, a 1 behind that meets the item's bias."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model
        self.inputs = Inputs.of_users(model)

    def forward(self, *inputs: Tensor) -> Float[Tensor, "R D1"]:
        """What ``user_vectors`` gives, from the inputs in their order."""
        given = dict(zip(self.inputs.axes, inputs, strict=True))
        model = self.model
        parts = _itself(model, "user", given)
        if model.history is not None:
            parts.append(_history(model.history, given))
        embedding = _finish(model, _sum(parts))
        return model.user_vectors(embedding)


def _sum(parts: list[Float[Tensor, "R D"]]) -> Float[Tensor, "R D"]:
    return sum(parts[1:], parts[0])


def _finish(model: TwoTower, embedding: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
    return embedding / lengths_of(embedding) if model.normalize else embedding


def _itself(
    model: TwoTower, side: Side, given: Mapping[str, Tensor]
) -> list[Float[Tensor, "R D"]]:
    """What features, words and id say."""
    is_user = side == "user"
    layer = model.user_features if is_user else model.item_features
    tower = model.user_tower if is_user else model.item_tower
    said = []
    if tower is not None:
        said.append(_through(tower, _features(layer, given)))
    if model.words is not None:
        for number, name in model.words.columns.get(side, {}).items():
            total, counts = _summed(model.words.tables[name], given[bag_name(number)])
            said.append(total * counts.rsqrt())
    if layer.id_table is not None:
        said.append(layer.id_table(given[ID]))
    return said


def _summed(
    table: nn.Module, codes: Int64[Tensor, "R W"]
) -> tuple[Float[Tensor, "R D"], Float[Tensor, "R 1"]]:
    """Of each row the sum of its codes' embeddings, and how many there are, at least 1."""
    is_there = (codes > 0).to(torch.float32)
    vectors = functional.embedding(codes, table.weight)  # type: ignore[arg-type]
    total = (vectors * is_there[..., None]).sum(1)
    return total, is_there.sum(1, keepdim=True).clamp_min(1.0)


def _features(layer: FeatureLayer, given: Mapping[str, Tensor]) -> Float[Tensor, "R W"]:
    parts = [given[NUMBERS]] if NUMBERS in given else []
    if layer.code_table is not None:
        parts.append(layer.code_table(given[CODES]).flatten(1))
    for number, table in zip(layer.bag_numbers, layer.bag_tables, strict=True):
        total, counts = _summed(table, given[bag_name(number)])
        parts.append(total / counts)
    return torch.cat(parts, 1)


def _history(
    history: PooledHistory | TransformerHistory, given: Mapping[str, Tensor]
) -> Float[Tensor, "R D"]:
    items, lengths = given[HISTORY][..., :-1], given[LENGTH]
    if isinstance(history, TransformerHistory):
        if history.id_table is not None:
            items = items + history.id_table(given[HISTORY_ID])
        return _last_state(history, items, lengths)
    places = torch.arange(items.shape[1], device=items.device)
    weights = _weights(history, items, lengths[:, None] - places)
    weights = weights * (places < lengths[:, None])
    length = weights.square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()
    pooled = (items * weights[..., None]).sum(1) / length
    if history.layers is None:
        return pooled
    return pooled + _through(history.layers, pooled) * certainty(pooled)


def _through(tower: Tower, values: Float[Tensor, "R W"]) -> Float[Tensor, "R D"]:
    """What the layers make of them."""
    for hidden in tower.hidden:
        values = hidden(values).relu()
    made: Tensor = tower.output(values)
    return made


def _weights(
    history: PooledHistory, items: Float[Tensor, "R L D"], from_end: Int64[Tensor, "R L"]
) -> Float[Tensor, "R L"]:
    if history.ages is not None:
        # The largest n of which 2**n is at most 2 * from_end - 1.
        powers = 2 ** torch.arange(1, len(history.ages))
        age = (2 * from_end[..., None] - 1 >= powers).sum(-1)
        return history.ages.exp()[age]
    if history.query is not None:
        return (items @ history.query).exp()
    return torch.ones_like(items[..., 0])


def _last_state(
    history: TransformerHistory, items: Float[Tensor, "R L D"], lengths: Int64[Tensor, " R"]
) -> Float[Tensor, "R D"]:
    """The state after each row's last item; what stands behind it is not seen by it."""
    rows, longest, dim = items.shape
    beginning = history.beginning.expand(rows, 1, dim)
    tokens = torch.cat([beginning, items], 1)
    width = longest + 1
    back = torch.arange(rows * width)
    places = torch.arange(width).expand(rows, width).reshape(-1)
    sequences = Sequences(places, [back.view(rows, width)], back)
    states = tokens.reshape(rows * width, dim)
    for block in history.blocks:
        states = block(states, sequences)
    last = torch.arange(rows) * width + lengths
    normed: Tensor = history.norm(states.index_select(0, last))
    return normed
