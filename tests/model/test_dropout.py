from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.model.dropout import Dropout

SHARES = [0.1, 0.3, 0.5, 0.9]
ROWS, WIDTH = 40_000, 8


def dropped(share: float, seed: int = 0) -> torch.Tensor:
    """Many ones after dropout in training."""
    torch.manual_seed(seed)
    return Dropout(share)(torch.ones(ROWS, WIDTH))


@given(st.floats(0, 1, exclude_max=True), st.lists(st.integers(0, 5), max_size=3))
def test_any_share_of_any_shape_drops_units_or_scales_them_all_alike(
    share: float, shape: list[int]
) -> None:
    values = torch.full(shape, 2.0)
    made = Dropout(share)(values)
    assert made.shape == values.shape
    assert made.isfinite().all()
    assert len(made[made != 0].unique()) <= 1
    assert (made[made != 0] >= 2).all()


@given(st.floats(0, 1, exclude_max=True))
def test_in_evaluation_nothing_is_dropped(share: float) -> None:
    values = torch.arange(20.0)
    assert torch.equal(Dropout(share).eval()(values), values)


def test_a_share_of_nothing_drops_nothing() -> None:
    assert torch.equal(dropped(0.0), torch.ones(ROWS, WIDTH))


@pytest.mark.parametrize("share", SHARES)
def test_the_share_is_dropped_and_the_mean_is_kept(share: float) -> None:
    made = dropped(share)
    assert (made == 0).double().mean().item() == pytest.approx(share, abs=0.005)
    assert made.double().mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("share", SHARES)
def test_every_unit_is_dropped_as_often_as_any_other_and_on_its_own(share: float) -> None:
    gone = (dropped(share) == 0).double()
    assert (gone.mean(0) - share).abs().max() < 0.01
    together = gone.T @ gone / ROWS
    together.fill_diagonal_(share**2)
    assert (together - share**2).abs().max() < 0.01


def test_a_seed_gives_one_mask_and_another_seed_another() -> None:
    assert torch.equal(dropped(0.5, seed=1), dropped(0.5, seed=1))
    assert not torch.equal(dropped(0.5, seed=1), dropped(0.5, seed=2))
    layer, ones = Dropout(0.5), torch.ones(100)
    assert not torch.equal(layer(ones), layer(ones))


def test_what_was_dropped_learns_nothing_and_the_rest_by_as_much_as_it_spoke() -> None:
    values = torch.ones(1000, requires_grad=True)
    made = Dropout(0.3)(values)
    [gradient] = torch.autograd.grad(made.sum(), values)
    assert torch.equal(gradient, made.detach())
