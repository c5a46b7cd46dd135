"""The pair of towers, its score, and the affinity that the score means.

    score(u, i)    = scale * <user embedding, item embedding> + bias of i
    affinity(u, i) = sigmoid(slope * score + offset)          in (0, 1)

Scale and bias fold into the vectors (one more dimension), so that any inner-product index
serves exactly what was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from twotower.config import ModelConfig
from twotower.data.features import FeatureShape, FeatureTable
from twotower.model.features import FeatureLayer
from twotower.model.history import MeanHistory, PackedHistory
from twotower.model.tower import Tower, unit

_LARGEST_LOG_SCALE = math.log(100.0)


class TwoTower(nn.Module):
    """Towers over feature tables, with ids, histories and an item bias.

    An id's embedding and the pooled history have the length of the embedding and also go
    around the hidden layers, whose output starts at zero beside them: training begins as a
    factor model and the layers add what features can. With ``history: own_table``, which
    starts as a good factor model, the layers do not add but stand in: for items without an id
    of their own and for users without a history (``benchmarks/LOG.md``).

    Args:
        config: with nothing left on "auto".
        sparse: whether gradients of the tables hold only the rows of the batch.
    """

    slope: Tensor
    like_in_history: Tensor

    def __init__(
        self,
        user_shape: FeatureShape,
        item_shape: FeatureShape,
        config: ModelConfig,
        *,
        user_ids: bool,
        item_ids: bool,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        dim = config.embedding_dim
        self._shapes = {
            "user_shape": asdict(user_shape),
            "item_shape": asdict(item_shape),
            "user_ids": user_ids,
            "item_ids": item_ids,
        }
        self.embedding_dim = dim
        self.id_dropout = config.id_dropout
        self.normalize = bool(config.normalize)
        self.user_features = FeatureLayer(user_shape, config, ids=user_ids, sparse=sparse)
        self.item_features = FeatureLayer(item_shape, config, ids=item_ids, sparse=sparse)
        self.history = self.history_table = None
        if config.history in {"mean", "own_table"}:
            self.history = MeanHistory(dim, config.history_dropout)
        if config.history == "own_table":
            self.history_table = nn.Embedding(item_shape.num_ids + 1, dim, sparse=sparse)
            nn.init.zeros_(self.history_table.weight)
            self.register_buffer("like_in_history", torch.zeros(dim))
        self.user_tower = _tower(
            self.user_features.width + (dim if self.history else 0),
            config.user_hidden_dims,
            config,
            starts_at_zero=user_ids or self.history is not None,
        )
        self.item_tower = _tower(
            self.item_features.width, config.item_hidden_dims, config, starts_at_zero=item_ids
        )
        self.item_bias = None
        if config.item_bias and item_ids:
            self.item_bias = nn.Embedding(item_shape.num_ids + 1, 1, sparse=sparse)
            nn.init.zeros_(self.item_bias.weight)
        # Ten is a temperature of 0.1; embeddings of free length find their own.
        start = math.log(10.0) if self.normalize else 0.0
        learns_scale = self.normalize or self.history_table is not None
        self.log_scale = nn.Parameter(torch.tensor(start), requires_grad=learns_scale)
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("slope", torch.tensor(1.0))

    def shapes(self) -> dict[str, Any]:
        """What, beside the config, makes this model again."""
        return dict(self._shapes)

    def encode_items(self, table: FeatureTable) -> Float[Tensor, "I D"]:
        """Item embeddings. Hide ids first (``hide_ids``) where training asks for it."""
        features, id_embedding = self.item_features(table)
        return self._finish(self.item_tower(features), id_embedding, table.ids > 0)

    def in_history(
        self, embeddings: Float[Tensor, "I D"], ids: Int64[Tensor, " I"]
    ) -> Float[Tensor, "I D"]:
        """What items are in a history: their embeddings, or vectors that are for that alone.

        An item without an id of its own has none of those; its embedding stands in, each number
        scaled as it is in the others.
        """
        if self.history_table is None:
            return embeddings
        alike = embeddings * self.like_in_history
        return torch.where(ids[:, None] > 0, self.history_table(ids), alike)

    def start_from(self, in_history: Float[Tensor, "I R"], items: Float[Tensor, "I R"]) -> None:
        """Put vectors into the tables of histories and item ids, R of their D numbers a row."""
        assert self.history_table is not None
        assert self.item_features.id_table is not None
        with torch.no_grad():
            pairs = ((self.history_table, in_history), (self.item_features.id_table, items))
            for table, values in pairs:
                table.weight.zero_()
                table.weight[:, : values.shape[1]] = values.to(table.weight)
            both = (in_history * items).sum(0) / items.square().sum(0).clamp(min=1e-12)
            self.like_in_history.zero_()
            self.like_in_history[: len(both)] = both.to(self.like_in_history)

    def encode_users(
        self, table: FeatureTable, history: PackedHistory | None
    ) -> Float[Tensor, "B D"]:
        """User embeddings; the history is left out only where the model has none."""
        features, id_embedding = self.user_features(table)
        if self.history is None:
            return self._finish(self.user_tower(features), id_embedding, table.ids > 0)
        assert history is not None
        pooled = self.history(history)
        through = self.user_tower(torch.cat([features, pooled], 1))
        is_known = history.offsets[1:] > history.offsets[:-1]
        if id_embedding is None:
            return self._finish(through, pooled, is_known)
        return self._finish(through, pooled + id_embedding, is_known | (table.ids > 0))

    def _finish(self, through: Tensor, around: Tensor | None, is_known: Tensor) -> Tensor:
        if around is None:
            embedding = through
        elif self.history_table is not None:
            embedding = torch.where(is_known[:, None], around, through)
        else:
            embedding = through + around
        return unit(embedding) if self.normalize else embedding

    def hide_ids(self, table: FeatureTable) -> FeatureTable:
        """In training, forget some rows' ids, so that features learn to stand in for them."""
        reads_ids = self._shapes["user_ids"] or self._shapes["item_ids"]
        if not self.training or self.id_dropout == 0 or not reads_ids:
            return table
        return replace(table, ids=table.ids * self._is_shown(len(table), table.ids.device))

    def hide_histories(self, history: PackedHistory) -> PackedHistory:
        """In training, forget some users' whole histories, for the same reason."""
        if not self.training or self.id_dropout == 0:
            return history
        return history.only(self._is_shown(len(history.offsets) - 1, history.items.device))

    def _is_shown(self, count: int, device: torch.device) -> Tensor:
        return torch.rand(count, device=device) >= self.id_dropout

    def user_vectors(self, embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B D1"]:
        """Embeddings with the scale folded in and a 1 that meets the item's bias."""
        return torch.cat([embeddings * self._scale(), torch.ones_like(embeddings[:, :1])], 1)

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
        scores: Tensor = torch.linalg.vecdot(users, items) * self._scale()
        if self.item_bias is None:
            return scores
        bias: Tensor = self.item_bias(item_ids)
        return scores + bias.squeeze(1)

    def _scale(self) -> Float[Tensor, ""]:
        return self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()

    def logits(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Scores -> log-odds of the affinity."""
        return self.slope * scores + self.offset

    def affinity(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Scores -> the chance, 0 to 1, that the user likes the item."""
        return torch.sigmoid(self.logits(scores))


def _tower(
    width: int, hidden_dims: Sequence[int], config: ModelConfig, *, starts_at_zero: bool
) -> Tower:
    tower = Tower(
        width, hidden_dims, config.embedding_dim, dropout=config.dropout, normalize=False
    )
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
