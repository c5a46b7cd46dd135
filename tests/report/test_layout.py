"""The map keeps what it says it keeps, and is the same each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twotower.report.layout import (
    NEIGHBOURS,
    lay_out,
    nearest,
    neighbours_kept,
    principal_axes,
)


def groups(num_points: int = 240, num_groups: int = 6, *, spread: float = 0.2) -> torch.Tensor:
    """Points of a few groups in 24 dimensions; point n is of group n % num_groups."""
    chance = torch.Generator().manual_seed(0)
    centres = torch.randn(num_groups, 24, generator=chance)
    noise = spread * torch.randn(num_points, 24, generator=chance)
    return centres[torch.arange(num_points) % num_groups] + noise


def test_groups_that_are_apart_are_apart_on_the_map() -> None:
    places = lay_out(groups(), seed=0)
    distances = torch.cdist(places, places) + torch.diag(torch.full((240,), torch.inf))
    nearest_group = distances.argmin(1) % 6
    assert (nearest_group == torch.arange(240) % 6).float().mean() > 0.99


def test_more_neighbours_are_kept_than_by_the_principal_axes() -> None:
    vectors = groups(spread=0.5)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    axes = neighbours_kept(vectors, principal_axes(unit))
    ours = neighbours_kept(vectors, lay_out(vectors, seed=0))
    assert axes is not None
    assert ours is not None
    assert ours > axes + 0.1


def test_the_same_vectors_and_seed_give_the_same_map_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = lay_out(groups(), seed=3)
    state = torch.get_rng_state()
    assert torch.equal(lay_out(groups(), seed=3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(lay_out(groups(), seed=4), first)


@pytest.mark.parametrize("count", [1, 2, NEIGHBOURS, NEIGHBOURS + 1, NEIGHBOURS + 2])
@pytest.mark.parametrize("width", [1, 2, 24])
def test_few_points_or_few_dimensions_have_places(count: int, width: int) -> None:
    places = lay_out(groups(count)[:, :width], seed=0)
    assert places.shape == (count, 2)
    assert torch.isfinite(places).all()


def test_points_that_are_all_one_have_places() -> None:
    places = lay_out(torch.ones(40, 8), seed=0)
    assert torch.isfinite(places).all()


def test_the_nearest_are_those_of_a_slow_search() -> None:
    points = groups(60)
    found = nearest(points, points, 4, own=True)
    for row in range(60):
        scores = [(float(points[row] @ other), n) for n, other in enumerate(points) if n != row]
        assert found[row].tolist() == [n for _, n in sorted(scores, reverse=True)[:4]]


def test_what_is_kept_is_the_share_of_common_neighbours() -> None:
    vectors = groups(50, spread=1.0)
    places = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    shares = []
    for row in range(50):
        others = [n for n in range(50) if n != row]
        cosines = torch.cosine_similarity(vectors, vectors[row : row + 1])
        distances = (places - places[row]).norm(dim=1)
        by_cosine = sorted(others, key=lambda n: -float(cosines[n]))[:NEIGHBOURS]
        by_distance = sorted(others, key=lambda n: float(distances[n]))[:NEIGHBOURS]
        shares.append(len({*by_cosine} & {*by_distance}) / NEIGHBOURS)
    assert neighbours_kept(vectors, places) == pytest.approx(np.mean(shares))
    assert neighbours_kept(vectors, places, most=7) == pytest.approx(np.mean(shares[:7]))


def test_where_everybody_is_a_neighbour_nothing_is_said() -> None:
    vectors = groups(NEIGHBOURS + 1)
    assert neighbours_kept(vectors, lay_out(vectors, seed=0)) is None
