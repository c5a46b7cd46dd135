"""Features -> hidden layers -> embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from twotower.model.dropout import Dropout
from twotower.model.precision import dots, product_dtype

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
        widths = [input_dim, *hidden_dims, embedding_dim]
        layers = [nn.Linear(*pair) for pair in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.hidden = nn.ModuleList(layers[:-1])
        self.output = layers[-1]
        self.dropout = Dropout(dropout)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B D"]:
        """Features -> embeddings."""
        layers = [*self.hidden, self.output]
        weights = [layer.weight for layer in layers]
        biases = [layer.bias for layer in layers]
        embedding: Tensor = _Layers.apply(  # type: ignore[no-untyped-call]
            features, self.dropout, *weights, *biases
        )
        return unit(embedding) if self.normalize else embedding


class _Layers(Function):
    """Linear layers with ReLU and dropout between them, as one step of autograd.

    ReLU and dropout work in place, and the backward pass reads from the zeros that they left
    where no gradient flows; dropout's scale is a factor of the next product. So a layer costs
    little beside its products, where a module for each part costs as much again. Under autocast
    all but the gradients of weights is in its precision. Can be differentiated once only.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, dropout: Dropout, *weights_and_biases: Tensor
    ) -> Tensor:
        """The last layer's output, (B, D)."""
        depth, dtype = len(weights_and_biases) // 2, product_dtype(features)
        of_layers = weights_and_biases
        if dtype != features.dtype:
            of_layers = tuple(values.to(dtype) for values in weights_and_biases)
        inputs, weights, biases = [features.to(dtype)], of_layers[:depth], of_layers[depth:]
        masks = dropout.masks(inputs[0], [len(bias) for bias in biases[:-1]])
        ctx.scale = dropout.scale
        for weight, bias in zip(weights, biases, strict=True):
            alpha = 1.0 if weight is weights[0] else ctx.scale
            values = torch.addmm(bias, inputs[-1], weight.t(), alpha=alpha)
            if len(inputs) == depth:
                break
            values.relu_()
            if masks:
                values.mul_(masks[len(inputs) - 1])
            inputs.append(values)
        ctx.save_for_backward(*inputs, *weights)
        return values.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the features, the weights and the biases."""
        saved, kind = ctx.saved_tensors, gradient.dtype
        depth = len(saved) // 2
        inputs, weights = saved[:depth], saved[depth:]
        of_weights: list[Tensor] = []
        of_biases: list[Tensor] = []
        gradient = gradient.to(inputs[0].dtype)
        for place in reversed(range(depth)):
            below, weight = inputs[place], weights[place]
            of_biases.append(gradient.sum(0, dtype=kind))
            if place == 0:
                of_weights.append(torch.mm(gradient.t(), below).to(kind))
                break
            scaled = {"beta": 0.0, "alpha": ctx.scale}
            of_weights.append(torch.addmm(weight, gradient.t(), below, **scaled).to(kind))
            gradient = torch.addmm(below, gradient, weight, **scaled)
            gradient = torch.ops.aten.threshold_backward(gradient, below, 0.0)
        of_features = None
        if ctx.needs_input_grad[0]:
            of_features = torch.mm(gradient, weights[0]).to(kind)
        return of_features, None, *reversed(of_weights), *reversed(of_biases)


def unit(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Embeddings of length 1; one that is nearly zero stays short.

    Of whom nothing is known the embedding may be zero, where the direction has no gradient: a
    division by the bare length would multiply it by the largest number there is. Can be
    differentiated once only.
    """
    one: Tensor = _Unit.apply(embeddings)  # type: ignore[no-untyped-call]
    return one


def lengths_of(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B 1"]:
    """What ``unit`` divides by: never zero."""
    return dots(embeddings, embeddings).add(_NEARLY_ZERO**2).sqrt_().unsqueeze(1)


class _Unit(Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        lengths = lengths_of(embeddings)
        directions = embeddings / lengths
        ctx.save_for_backward(directions, lengths)
        return directions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        directions, lengths = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, directions).unsqueeze(1)
        return torch.addcmul(gradient, directions, along, value=-1).div_(lengths)
