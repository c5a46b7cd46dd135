"""Shapes are checked in every test: jaxtyping's annotations, enforced by beartype."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from twotower.retrieval.recommender import Recommender

# Small products on busy cores are slower with two threads than with one.
torch.set_num_threads(1)
install_import_hook("twotower", "beartype.beartype")
# A busy machine is no fault of the code.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


@pytest.fixture
def data_sets() -> Path:
    """Where public data sets lie."""
    place = os.environ.get("TWOTOWER_DATA")
    if not place or not Path(place).is_dir():
        pytest.skip("set TWOTOWER_DATA to a folder of public data sets")
    return Path(place)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, Path]:
    """A recommender trained on the lab's world (see ``worlds.lab``), and its run."""
    import worlds

    return worlds.lab(tmp_path_factory.mktemp("lab"))
