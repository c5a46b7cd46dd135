from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from twotower.model.tower import Tower, unit

FEATURES, DIM = 6, 5
widths = st.lists(st.integers(1, 9), max_size=3)


def features(rows: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(seed))


def tower(hidden: list[int], *, dropout: float = 0.0, normalize: bool = False) -> Tower:
    torch.manual_seed(3)
    made = Tower(FEATURES, hidden, DIM, dropout=dropout, normalize=normalize)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def by_hand(model: Tower, values: torch.Tensor) -> torch.Tensor:
    *hidden, last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    for layer in hidden:
        values = (values @ layer.weight.T + layer.bias).clamp(min=0)
    return values @ last.weight.T + last.bias


@settings(deadline=None)
@given(widths)
def test_a_tower_is_matrix_products_with_what_is_below_zero_cut_between_them(
    hidden: list[int],
) -> None:
    model = tower(hidden)
    torch.testing.assert_close(model(features()), by_hand(model, features()))


@settings(deadline=None)
@given(widths)
def test_a_normalized_embedding_has_length_one_and_the_same_direction(
    hidden: list[int],
) -> None:
    plain, normalized = tower(hidden), tower(hidden, normalize=True)
    long, short = plain(features()), normalized(features())
    torch.testing.assert_close(short.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(short * long.norm(dim=1, keepdim=True), long)


def test_the_gradient_of_a_direction_is_that_of_its_slow_twin() -> None:
    def slow(values: torch.Tensor) -> torch.Tensor:
        return values / (values.square().sum(1, keepdim=True) + 1e-6).sqrt()

    weights = features(seed=1)
    found = []
    for make in (unit, slow):
        values = (features() * torch.tensor([1e-4, 1e-3, 1, 1, 10, 100, 0])[:, None]).double()
        values.requires_grad_()
        (make(values) * weights).sum().backward()
        found.append(values.grad)
    torch.testing.assert_close(*found)


def test_an_embedding_of_zeros_stays_a_number() -> None:
    model = Tower(FEATURES, [], DIM, dropout=0.0, normalize=True)
    nn.init.zeros_(model.output.weight)
    assert torch.equal(model(features()), torch.zeros(7, DIM))


def test_hidden_units_are_dropped_in_training_only() -> None:
    model, values = tower([64], dropout=0.5), features()
    assert not torch.equal(model(values), model(values))
    torch.testing.assert_close(model.eval()(values), by_hand(model, values))
    assert torch.equal(tower([], dropout=0.5)(values), tower([])(values))


@settings(deadline=None)
@given(widths, st.booleans())
def test_its_gradients_are_those_that_autograd_finds_for_the_parts(
    hidden: list[int], of_features: bool
) -> None:
    model = tower(hidden)
    values = features().requires_grad_(of_features)
    wanted = [*model.parameters()] + ([values] if of_features else [])
    weights = torch.randn(7, DIM, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((model(values) * weights).sum(), wanted)
    theirs = torch.autograd.grad((by_hand(model, values) * weights).sum(), wanted)
    torch.testing.assert_close(ours, theirs)


def test_a_dropped_unit_learns_nothing_and_the_others_by_as_much_as_they_spoke() -> None:
    model, values = tower([64], dropout=0.5), features()
    torch.manual_seed(5)
    made = model(values)
    ours = torch.autograd.grad(made.sum(), list(model.parameters()))
    hidden = (values @ model.hidden[0].weight.T + model.hidden[0].bias).relu()
    torch.manual_seed(5)
    hidden = hidden * model.dropout.masks(hidden, [len(hidden.T)])[0] * 2.0
    by_parts = hidden @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(made, by_parts)
    theirs = torch.autograd.grad(by_parts.sum(), list(model.parameters()))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_under_autocast_products_are_rounded_and_weights_and_what_comes_out_are_not(
    dropout: float,
) -> None:
    torch.manual_seed(0)
    tower = Tower(12, [16, 8], 4, dropout=dropout, normalize=False)
    features = torch.randn(64, 12, requires_grad=True)
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            embedding = tower(features)
        inputs = [features, *tower.parameters()]
        gradients = torch.autograd.grad(embedding.square().sum(), inputs)
        found.append([embedding.detach(), *gradients])
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        assert (rounded - exact).norm() < 0.04 * exact.norm()
