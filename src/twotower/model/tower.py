"""Features -> hidden layers -> embedding."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from twotower.model.dropout import Dropout

_NEARLY_ZERO = 1e-3


class Tower(nn.Module):
    """A multi-layer perceptron whose output is an embedding.

    Args:
        input_dim: length of the features, F.
        hidden_dims: widths of the hidden layers; none makes the tower linear.
        embedding_dim: length of the embedding, D.
        dropout: share of hidden units dropped in training.
        normalize: whether embeddings have length 1.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int],
        embedding_dim: int,
        *,
        dropout: float,
        normalize: bool,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        layers: list[nn.Module] = []
        width = input_dim
        for hidden in hidden_dims:
            layers += [nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout)]
            width = hidden
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(width, embedding_dim)
        for layer in (*self.hidden, self.output):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B D"]:
        """Features -> embeddings."""
        embedding: Tensor = self.output(self.hidden(features))
        return unit(embedding) if self.normalize else embedding


def unit(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Embeddings of length 1; one that is nearly zero stays short.

    Of whom nothing is known the embedding may be zero, where the direction has no gradient: a
    division by the bare length would multiply it by the largest number there is.
    """
    length = (embeddings.square().sum(1, keepdim=True) + _NEARLY_ZERO**2).sqrt()
    return embeddings / length
