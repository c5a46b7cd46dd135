"""Training throughput on the lab's world: the lab's way beside ours, alternating, in one run.

The lab's way reads one row at a time from a data frame, through a ``DataLoader``; the towers,
the batch size and the optimizer are the same.

    python -m benchmarks.lab_throughput [--data DIR] [--config FILE] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from twotower.config import Config, read_config
from twotower.data.splits import split
from twotower.data.synthetic import generate
from twotower.data.tables import read
from twotower.training.learn import prepare
from twotower.training.loop import Optimizers, Progress, epochs
from twotower.training.resolve import resolve


class RowByRow(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """One interaction at a time, looked up in a data frame."""

    def __init__(self, data: Path) -> None:
        users = pd.read_parquet(data / "users.parquet").set_index("user_id")
        movies = pd.read_parquet(data / "movies.parquet").set_index("movie_id")
        self.rows = pd.read_parquet(data / "train" / "interactions.parquet")
        self.user_place = {user: place for place, user in enumerate(users.index)}
        self.movie_place = {movie: place for place, movie in enumerate(movies.index)}
        self.users = users.to_numpy("float32")
        self.movies = movies.to_numpy("float32")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        row = self.rows.iloc[place]
        user = self.users[self.user_place[row["user_id"]]]
        movie = self.movies[self.movie_place[row["movie_id"]]]
        label = torch.FloatTensor([row["label"]])
        return torch.FloatTensor(user), torch.FloatTensor(movie), label


def tower(width: int, config: Config) -> nn.Module:
    layers: list[nn.Module] = []
    for hidden in config.model.user_hidden_dims:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.model.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, config.model.dim))


def labs_way(data: Path, config: Config) -> Any:
    """Returns a function that trains one epoch."""
    rows = RowByRow(data)
    size = config.training.batch_size
    assert size != "auto"
    loader = DataLoader(rows, batch_size=size, shuffle=True, num_workers=0)
    user, movie = tower(rows.users.shape[1], config), tower(rows.movies.shape[1], config)
    rate, decay = config.training.learning_rate, config.training.weight_decay
    parameters = [*user.parameters(), *movie.parameters()]
    assert rate != "auto"
    adam = torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    criterion = nn.BCELoss()

    def epoch() -> None:
        for user_features, movie_features, labels in loader:
            adam.zero_grad()
            left = nn.functional.normalize(user(user_features), dim=1)
            right = nn.functional.normalize(movie(movie_features), dim=1)
            loss = criterion(torch.sigmoid((left * right).sum(1, keepdim=True)), labels)
            loss.backward()
            adam.step()

    return epoch


def our_way(data: Path, config: Config) -> Any:
    """Returns a function that trains one epoch."""
    dataset = read(data, config.data)
    parts = split(dataset, config.data, seed=config.training.seed)
    config = resolve(config, dataset, parts)
    learned, objective = prepare(dataset, parts.train, config)
    optimizers = Optimizers(learned.model, config.training)
    size = config.training.batch_size
    assert size != "auto"
    steps = epochs(
        learned.model,
        objective,
        optimizers,
        lambda _: {},
        batch_size=size,
        better=lambda _new, _old: False,
        metric="train_loss",
        progress=Progress(start={"train_loss": 0.0}),
    )
    return lambda: next(steps)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--config", type=Path, default=Path("config/ranking_config.yaml"))
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    config = read_config(given.config)
    patient = {"epochs": 10**5, "early_stopping_patience": 10**6}
    config = config.model_copy(update={"training": config.training.model_copy(update=patient)})
    with tempfile.TemporaryDirectory() as scratch:
        data = given.data or Path(scratch) / "lab"
        if given.data is None:
            generate(data)
        rows = len(pd.read_parquet(data / "train" / "interactions.parquet"))
        ways = {"the lab's way": labs_way(data, config), "twotower": our_way(data, config)}
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for epoch in ways.values():
            epoch()
        for _ in range(given.rounds):
            for name, epoch in ways.items():
                started = time.perf_counter()
                epoch()
                speeds[name].append(rows / (time.perf_counter() - started))
    print("| way | interactions/s (median) | least | most |\n|---|--:|--:|--:|")
    for name, each in speeds.items():
        print(
            f"| {name} | {statistics.median(each):,.0f} | {min(each):,.0f} | {max(each):,.0f} |"
        )
    ratios = np.array(speeds["twotower"]) / np.array(speeds["the lab's way"])
    print(f"\nratio: {np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f})")


if __name__ == "__main__":
    main()
