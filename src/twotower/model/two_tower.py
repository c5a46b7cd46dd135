"""The pair of towers, its score, and the affinity that the score means.

    score(u, i)    = scale * <user embedding, item embedding> + bias of i
    affinity(u, i) = sigmoid(slope * score + offset)          in (0, 1)

Scale and bias fold into the vectors (one more dimension), so that any inner-product index
serves exactly what was trained.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from twotower.config import ModelConfig
from twotower.data.features import FeatureShape, FeatureTable
from twotower.model.features import FeatureLayer
from twotower.model.history import PackedHistory, Parts, PooledHistory
from twotower.model.precision import dots
from twotower.model.tower import Tower, lengths_of, unit
from twotower.model.transformer import TransformerHistory
from twotower.model.words import Side, Words

_LARGEST_SCALE = 100.0
_LARGEST_LOG_SCALE = math.log(_LARGEST_SCALE)


class TwoTower(nn.Module):
    """Towers over feature tables, with ids, histories and an item bias.

    The layers read features. An id's embedding and the pooled history have the length of the
    embedding and go around the layers, whose output starts at zero beside them: training begins
    as a factor model and the layers add what features can. So do words where there is neither.

    Args:
        config: with nothing left on "auto".
        words: of each side the bag columns that go around the layers.
        sparse: the sides whose tables' gradients hold only the rows of the batch.
    """

    slope: Tensor

    def __init__(
        self,
        user_shape: FeatureShape,
        item_shape: FeatureShape,
        config: ModelConfig,
        *,
        user_ids: bool,
        item_ids: bool,
        words: Mapping[Side, Sequence[int]] | None = None,
        sparse: Collection[Side] = (),
    ) -> None:
        super().__init__()
        around: dict[Side, tuple[int, ...]] = {
            side: tuple(numbers) for side, numbers in (words or {}).items() if numbers
        }
        self._shapes = {
            "user_shape": asdict(user_shape),
            "item_shape": asdict(item_shape),
            "user_ids": user_ids,
            "item_ids": item_ids,
            "words": {side: list(numbers) for side, numbers in around.items()},
        }
        self.embedding_dim = config.dim
        self.id_dropout = config.id_dropout
        assert config.history_dropout != "auto"
        self.history_dropout = config.history_dropout
        self.normalize = config.normalize
        self.user_features = FeatureLayer(
            user_shape,
            config,
            ids=user_ids,
            sparse="user" in sparse,
            without=around.get("user", ()),
        )
        self.item_features = FeatureLayer(
            item_shape,
            config,
            ids=item_ids,
            sparse="item" in sparse,
            without=around.get("item", ()),
        )
        shapes: dict[Side, FeatureShape] = {"user": user_shape, "item": item_shape}
        self.words = Words(shapes, around, config.dim) if around else None
        self.history = _history(
            config, item_shape.num_ids if item_ids else None, sparse="item" in sparse
        )
        self.user_tower = _tower(
            self.user_features,
            config.user_hidden_dims,
            config,
            starts_at_zero=user_ids or self.history is not None or "user" in around,
        )
        self.item_tower = _tower(
            self.item_features,
            config.item_hidden_dims,
            config,
            starts_at_zero=item_ids or "item" in around,
        )
        self.item_bias = None
        if config.item_bias and item_ids:
            self.item_bias = nn.Embedding(item_shape.num_ids + 1, 1, sparse="item" in sparse)
            nn.init.zeros_(self.item_bias.weight)
        # Embeddings of free length find their own.
        assert config.temperature != "auto"
        start = -math.log(config.temperature) if self.normalize else 0.0
        self.log_scale = nn.Parameter(torch.tensor(start), requires_grad=self.normalize)
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("slope", torch.tensor(1.0))

    @property
    def has_item_ids(self) -> bool:
        """Whether items are told apart by ids of their own."""
        return self.item_features.id_table is not None

    def shapes(self) -> dict[str, Any]:
        """What, beside the config, makes this model again."""
        return dict(self._shapes)

    def encode_items(
        self, table: FeatureTable, described: Float[Tensor, "I D"] | None = None
    ) -> Float[Tensor, "I D"]:
        """Item embeddings. Hide ids first (``hide_item_ids``) where training asks for it.

        Args:
            described: what ``describe_items`` gave, where that is known already.
        """
        if described is None:
            described = self.describe_items(table)
        if described is not None and not self.has_item_ids:
            return described
        return self._finish(_with_ids(self.item_features, table, described))

    def describe_items(self, table: FeatureTable) -> Float[Tensor, "I D"] | None:
        """What features say of items: the whole embedding where items have no ids; None where
        there are no features.
        """
        described = self._described("item", table)
        if described is None or self.has_item_ids:
            return described
        return self._finish(described)

    def encode_users(
        self, table: FeatureTable, history: PackedHistory | None
    ) -> Float[Tensor, "B D"]:
        """User embeddings; the history is left out only where the model has none."""
        itself = self._user_itself(table)
        if self.history is None:
            return self._finish(itself)
        assert history is not None
        return self._finish(itself + self.history(history))

    def user_parts(
        self, table: FeatureTable, history: PackedHistory
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """What id, features and history add; the sum, finished, is ``encode_users``."""
        nothing = table.dense.new_zeros(len(table), self.embedding_dim)
        own = _with_ids(self.user_features, table, None)
        described = self._described("user", table)
        read = nothing if self.history is None else self.history(history)
        return own, nothing if described is None else described, read

    def user_scale(self, whole: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
        """By what the sum of the parts is multiplied on its way to the user's vector."""
        scale = self._scale() * torch.ones_like(whole[:, :1])
        return scale / lengths_of(whole) if self.normalize else scale

    def encode_users_for_parts(
        self, table: FeatureTable, history: PackedHistory
    ) -> tuple[Float[Tensor, "Q D"], Parts]:
        """For each part of each history its user's embedding, from the rest of the history.

        In training a pooled history is dealt into parts, two halves at the default
        ``history_dropout``: what is hidden of it is at once what is to be found. Otherwise each
        item is a part, found from all others or, in order, from those before it.
        """
        assert self.history is not None
        itself = self._user_itself(table)
        parts = Parts.each_alone(history)
        if isinstance(self.history, TransformerHistory):
            rest = self.history.before_each(history, self.is_shown(history))
        elif self.training and self.history_dropout:
            parts = Parts.dealt(history, self.history_dropout)
            is_shown = self._are_told(history)[history.owners()]
            rest = self.history.from_rest(history, parts, is_shown)
        else:
            rest = self.history.from_rest(history, parts, self.is_shown(history))
        return self._finish(itself.index_select(0, parts.owners) + rest), parts

    def _user_itself(self, table: FeatureTable) -> Float[Tensor, "B D"]:
        """What a user's features and id say."""
        described = self._described("user", table)
        return _with_ids(self.user_features, table, described)

    def _described(self, side: Side, table: FeatureTable) -> Float[Tensor, "R D"] | None:
        """What the features of one side say; None where there are none."""
        is_user = side == "user"
        layer = self.user_features if is_user else self.item_features
        tower = self.user_tower if is_user else self.item_tower
        said: list[Tensor] = [] if tower is None else [tower(layer(table))]
        if self.words is not None and side in self.words.columns:
            said.append(self.words(side, table))
        return sum(said[1:], said[0]) if said else None

    def _finish(self, embedding: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        return unit(embedding) if self.normalize else embedding

    def hide_user_ids(self, table: FeatureTable) -> FeatureTable:
        """In training, forget some users' ids, so that features learn to stand in for them."""
        return self._hide_ids(table, self.user_features, self.user_tower)

    def hide_item_ids(self, table: FeatureTable) -> FeatureTable:
        """In training, forget some items' ids, for the same reason."""
        return self._hide_ids(table, self.item_features, self.item_tower)

    def _hide_ids(
        self, table: FeatureTable, layer: FeatureLayer, tower: Tower | None
    ) -> FeatureTable:
        if not self.training or layer.id_table is None or tower is None:
            return table
        return replace(
            table, ids=table.ids * self._draw(len(table), self.id_dropout, table.ids)
        )

    def is_shown(self, history: PackedHistory) -> Bool[Tensor, " P"]:
        """Which items of histories training shows: not all, and of some users none.

        None, so that what else is known of a user learns to stand in for the history.
        """
        if not self.training:
            return torch.ones_like(history.items, dtype=torch.bool)
        shown = self._draw(len(history.items), self.history_dropout, history.items)
        return shown & self._are_told(history)[history.owners()]

    def _are_told(self, history: PackedHistory) -> Bool[Tensor, " B"]:
        """Whose history training shows at all."""
        count = len(history.offsets) - 1
        if self.user_tower is None and self.user_features.id_table is None:
            return torch.ones(count, dtype=torch.bool, device=history.items.device)
        return self._draw(count, self.id_dropout, history.items)

    def _draw(self, count: int, dropped: float, like: Tensor) -> Bool[Tensor, " N"]:
        return torch.rand(count, device=like.device) >= dropped

    def user_vectors(self, embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B D1"]:
        """Embeddings with the scale folded in and a 1 that meets the item's bias."""
        ones = torch.ones_like(embeddings[:, :1])
        # A row's own scale: the sum of all gradients at once would depend on the threads.
        return torch.cat([embeddings * (self._scale() * ones), ones], 1)

    def item_vectors(
        self, embeddings: Float[Tensor, "I D"], table: FeatureTable
    ) -> Float[Tensor, "I D1"]:
        """Embeddings with the item's bias behind; ``user @ item.T`` is the score."""
        if self.item_bias is None:
            return torch.cat([embeddings, torch.zeros_like(embeddings[:, :1])], 1)
        return torch.cat([embeddings, self.item_bias(table.ids)], 1)

    def pair_scores(
        self,
        users: Float[Tensor, "B D"],
        items: Float[Tensor, "B D"],
        item_ids: Int64[Tensor, " B"],
    ) -> Float[Tensor, " B"]:
        """Scores of pairs of embeddings: what the inner products of their vectors are."""
        scores = dots(users, items) * self._scale()
        if self.item_bias is None:
            return scores
        bias: Tensor = self.item_bias(item_ids)
        return scores + bias.squeeze(1)

    @property
    def is_scale_at_its_bound(self) -> bool:
        """Whether the scale is the largest there is, or within 1 % of it."""
        return float(self._scale().detach()) >= 0.99 * _LARGEST_SCALE

    def _scale(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()

    def logits(self, scores: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Scores -> log-odds of the affinity."""
        # As of scales: a row's own offset.
        offset = self.offset.expand(len(scores), 1) if scores.ndim == 2 else self.offset
        return torch.addcmul(offset, self.slope, scores)

    def affinity(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Scores -> the chance, 0 to 1, that the user likes the item."""
        return torch.sigmoid(self.logits(scores))


def _with_ids(
    layer: FeatureLayer, table: FeatureTable, described: Float[Tensor, "R D"] | None
) -> Float[Tensor, "R D"]:
    """What features and ids say together."""
    if layer.id_table is None:
        if described is None:
            return table.dense.new_zeros(len(table), layer.dim)
        return described
    embedding = layer.of_ids(table.ids)
    return embedding if described is None else described + embedding


def _history(
    config: ModelConfig, num_ids: int | None, *, sparse: bool
) -> PooledHistory | TransformerHistory | None:
    assert config.history != "auto"
    if config.history == "none":
        return None
    if config.history == "transformer":
        return TransformerHistory(
            config.dim,
            num_ids,
            layers=config.history_layers,
            dropout=config.dropout,
            sparse=sparse,
        )
    # Runs from before there were such layers do not say that they have none.
    hidden = () if config.history_hidden_dims == "auto" else config.history_hidden_dims
    return PooledHistory(config.history, config.dim, hidden_dims=hidden, dropout=config.dropout)


def _tower(
    layer: FeatureLayer,
    hidden_dims: Sequence[int],
    config: ModelConfig,
    *,
    starts_at_zero: bool,
) -> Tower | None:
    """The layers over some features; None where there are no features."""
    if layer.width == 0:
        return None
    tower = Tower(layer.width, hidden_dims, config.dim, dropout=config.dropout, normalize=False)
    if starts_at_zero:
        nn.init.zeros_(tower.output.weight)
    return tower


class TwoTowerModel(nn.Module):
    """Two towers over plain tensors: the teaching lab's model, usable alone.

    Its affinity is ``sigmoid(scale * cosine + bias)`` with learned scale and bias; a bare
    ``sigmoid(cosine)`` could only reach 0.27 to 0.73.

    Args:
        user_input_dim: length of the user features.
        item_input_dim: length of the item features.
        embedding_dim: length of the embeddings, D.
        user_hidden_dims: widths of the user tower's hidden layers.
        item_hidden_dims: widths of the item tower's hidden layers.
        dropout: share of hidden units dropped in training.

    >>> model = TwoTowerModel(user_input_dim=20, item_input_dim=15)
    >>> model(torch.zeros(32, 20), torch.zeros(32, 15)).shape
    torch.Size([32, 1])
    """

    def __init__(
        self,
        user_input_dim: int,
        item_input_dim: int,
        embedding_dim: int = 128,
        user_hidden_dims: Sequence[int] = (256, 128),
        item_hidden_dims: Sequence[int] = (256, 128),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self._config = {
            "user_input_dim": user_input_dim,
            "item_input_dim": item_input_dim,
            "embedding_dim": embedding_dim,
            "user_hidden_dims": list(user_hidden_dims),
            "item_hidden_dims": list(item_hidden_dims),
            "dropout": dropout,
        }
        self.user_tower = Tower(
            user_input_dim, user_hidden_dims, embedding_dim, dropout=dropout, normalize=True
        )
        self.item_tower = Tower(
            item_input_dim, item_hidden_dims, embedding_dim, dropout=dropout, normalize=True
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def encode_user(self, user_features: Float[Tensor, "B F"]) -> Float[Tensor, "B D"]:
        """User features -> embeddings of length 1."""
        embedding: Tensor = self.user_tower(user_features)
        return embedding

    def encode_item(self, item_features: Float[Tensor, "B G"]) -> Float[Tensor, "B D"]:
        """Item features -> embeddings of length 1."""
        embedding: Tensor = self.item_tower(item_features)
        return embedding

    def forward(
        self, user_features: Float[Tensor, "B F"], item_features: Float[Tensor, "B G"]
    ) -> Float[Tensor, "B 1"]:
        """The affinity of each pair, in (0, 1)."""
        user, item = self.encode_user(user_features), self.encode_item(item_features)
        cosine = (user * item).sum(dim=1, keepdim=True)
        scale = self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()
        return torch.sigmoid(scale * cosine + self.bias)

    def get_config(self) -> dict[str, object]:
        """The arguments that make this model again."""
        return dict(self._config)

    def count_parameters(self) -> int:
        """How many numbers training may change."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
