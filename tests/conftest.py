"""Shapes are checked in every test, and what is costly is made once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from shapes import enforce

if TYPE_CHECKING:
    from twotower.retrieval.recommender import Recommender

# Small products on busy cores are slower with two threads than with one. Nothing here imports
# torch, for which the workers would have to wait twice.
os.environ.setdefault("OMP_NUM_THREADS", "1")
enforce("twotower")
# They begin first: a worker that came to them last would keep the others waiting.
LONGEST = {
    "test_docs.py",
    "test_cli.py",
    "test_lists.py",
    "test_onnx.py",
    "test_learn.py",
    "test_search.py",
    "test_tune.py",
    "test_bad_input.py",
    "test_browser.py",
    "test_features.py",
    "test_workers.py",
}
# A busy machine is no fault of the code.
settings.register_profile(
    "untimed", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


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
