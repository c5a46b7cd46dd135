"""Two-tower recommendations: three tables in, recommendations with proof of their worth out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# PyTorch's threads wait for each other by turning in circles, and beside another busy process
# small trainings took twice as long. Read when torch is imported; what is set already stands.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from twotower.config import Config as Config
    from twotower.config import parse_config as parse_config
    from twotower.config import read_config as read_config
    from twotower.data.tables import Dataset as Dataset
    from twotower.data.tables import read as read
    from twotower.errors import ConfigError as ConfigError
    from twotower.errors import DataError as DataError
    from twotower.errors import RequestError as RequestError
    from twotower.errors import RunError as RunError
    from twotower.errors import TwoTowerError as TwoTowerError
    from twotower.model.two_tower import TwoTowerModel as TwoTowerModel
    from twotower.pipeline import evaluate as evaluate
    from twotower.pipeline import fit as fit
    from twotower.pipeline import train as train
    from twotower.report.page import write_report as write_report
    from twotower.retrieval.answer import answer as answer
    from twotower.retrieval.changes import Recent as Recent
    from twotower.retrieval.recommendations import Recommendations as Recommendations
    from twotower.retrieval.recommender import Recommender as Recommender
    from twotower.retrieval.wish import Answer as Answer
    from twotower.retrieval.wish import Person as Person
    from twotower.retrieval.wish import Wish as Wish
    from twotower.runs import load as load
    from twotower.runs import save as save
    from twotower.serving.client import Client as Client
    from twotower.tuning.tune import tune as tune

__version__ = "0.1.0"

_HOME = {
    "answer": "twotower.retrieval.answer",
    "Wish": "twotower.retrieval.wish",
    "Recent": "twotower.retrieval.changes",
    "Person": "twotower.retrieval.wish",
    "Client": "twotower.serving.client",
    "Answer": "twotower.retrieval.wish",
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
    "write_report": "twotower.report.page",
    "tune": "twotower.tuning.tune",
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
