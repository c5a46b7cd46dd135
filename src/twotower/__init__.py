"""Two-tower recommendations: three tables in, recommendations with proof of their worth out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower.config import Config, parse_config, read_config
    from twotower.data.tables import Dataset, read
    from twotower.errors import ConfigError, DataError, RequestError, RunError, TwoTowerError
    from twotower.model.two_tower import TwoTowerModel
    from twotower.pipeline import evaluate, fit, train
    from twotower.retrieval.recommendations import Recommendations
    from twotower.retrieval.recommender import Recommender
    from twotower.runs import load, save

__version__ = "0.1.0"

_HOME = {
    "Config": "twotower.config",
    "ConfigError": "twotower.errors",
    "DataError": "twotower.errors",
    "Dataset": "twotower.data.tables",
    "Recommendations": "twotower.retrieval.recommendations",
    "Recommender": "twotower.retrieval.recommender",
    "RequestError": "twotower.errors",
    "RunError": "twotower.errors",
    "TwoTowerError": "twotower.errors",
    "TwoTowerModel": "twotower.model.two_tower",
    "evaluate": "twotower.pipeline",
    "fit": "twotower.pipeline",
    "load": "twotower.runs",
    "parse_config": "twotower.config",
    "read": "twotower.data.tables",
    "read_config": "twotower.config",
    "save": "twotower.runs",
    "train": "twotower.pipeline",
}
__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when first used, so that `twotower --help` need not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'twotower' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
