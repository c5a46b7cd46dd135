"""Test scores on the lab's world with the lab's own config file, beside the best possible.

    python -m benchmarks.lab_scores [--data DIR] [--seeds 42 43 ...]

Without ``--data`` a world of the same law is generated. For each loss: one row a seed, and the
mean over them with its 95 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.public import Cell, line, over_seeds
from twotower.config import Loss, read_config
from twotower.data.synthetic import generate
from twotower.pipeline import fit

CONFIG = Path(__file__).parents[1] / "config" / "ranking_config.yaml"
LOSSES: tuple[Loss, ...] = ("bce", "triplet")


def row(data: Path, loss: Loss, seed: int) -> list[Cell]:
    config = read_config(CONFIG)
    training = config.training.model_copy(update={"seed": seed, "loss": loss})
    where = config.data.model_copy(update={"data_path": str(data)})
    measured = fit(
        data, config.model_copy(update={"training": training, "data": where})
    ).metrics
    figures = ("test_auc", "test_loss", "test_accuracy", "test_calibration_error")
    return [*(measured[name] for name in figures), f"{measured['train_seconds']:.1f}"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44, 45, 46])
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = given.data or Path(scratch) / "lab"
        print("| loss | seed | AUC | log-loss | accuracy | calibration error | training s |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        if given.data is None:
            best = generate(data)["splits"]["test"]  # type: ignore[index]
            print(
                f"| best possible | | {best['auc']:.4f} | {best['log_loss']:.4f} "
                f"| {best['accuracy']:.4f} | | |"
            )
        for loss in LOSSES:
            rows = []
            for seed in given.seeds:
                rows.append(row(data, loss, seed))
                print(line(loss, str(seed), *rows[-1]), flush=True)
            if len(rows) > 1:
                print(line(loss, "all", *over_seeds(rows)), flush=True)


if __name__ == "__main__":
    main()
