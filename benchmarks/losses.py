"""Every loss with the sources of others it goes with, on one public data set.

NDCG@10 on validation, at its best epoch, and on test with the weights of that epoch, all else
at its default, without the refit and without baselines, for at most some epochs.

    python -m benchmarks.losses [NAME ...] [--data ml-100k] [--epochs 4] [--seeds 42 ...]
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.public import asked
from twotower import fit, parse_config

Settings = Mapping[str, Any]
MINED = {"hard_negatives": 4, "hard_after": 1}
# Of each loss its default first.
JOBS: Mapping[str, tuple[str, Settings]] = {
    "softmax": ("softmax", {}),
    "softmax uniform": ("softmax", {"negatives_from": "uniform", "negatives": 512}),
    "softmax uniform distinct": (
        "softmax",
        {"negatives_from": "uniform", "negatives": 512, "distinct_negatives": True},
    ),
    "softmax uniform hard": (
        "softmax",
        {"negatives_from": "uniform", "negatives": 512, **MINED},
    ),
    "softmax popularity": ("softmax", {"negatives_from": "popularity", "negatives": 512}),
    "softmax in_batch": ("softmax", {"negatives_from": "in_batch"}),
    "softmax mixed": ("softmax", {"negatives_from": "mixed", "negatives": 512}),
    "in_batch_softmax": ("in_batch_softmax", {}),
    "in_batch_softmax, none": ("in_batch_softmax", {"log_q": "none"}),
    "in_batch_softmax, classic": ("in_batch_softmax", {"log_q": "classic"}),
    "in_batch_softmax distinct": ("in_batch_softmax", {"distinct_negatives": True}),
    "in_batch_softmax mixed": ("in_batch_softmax", {"negatives_from": "mixed"}),
    "in_batch_softmax memory": ("in_batch_softmax", {"memory_batches": 4}),
    "bpr": ("bpr", {}),
    "bpr uniform": ("bpr", {"negatives_from": "uniform"}),
    "bpr popularity": ("bpr", {"negatives_from": "popularity"}),
    "bpr popularity, corrected": (
        "bpr",
        {"negatives_from": "popularity", "log_q": "corrected"},
    ),
    "bpr uniform hard": ("bpr", {"negatives_from": "uniform", "negatives": 64, **MINED}),
    "bce uniform": ("bce", {"negatives_from": "uniform"}),
    "bce all": ("bce", {"negatives_from": "all"}),
    "ccl": ("ccl", {}),
    "ccl in_batch": ("ccl", {"negatives_from": "in_batch"}),
    "warp": ("warp", {}),
    "warp in_batch": ("warp", {"negatives_from": "in_batch"}),
    "triplet uniform": ("triplet", {"negatives_from": "uniform"}),
    "triplet uniform semi-hard": (
        "triplet",
        {"negatives_from": "uniform", "semi_hard": True},
    ),
    "triplet in_batch semi-hard": (
        "triplet",
        {"negatives_from": "in_batch", "semi_hard": True},
    ),
}


def row(name: str, data: Path, epochs: int, seed: int) -> str:
    loss, others = JOBS[name]
    training = {"loss": loss, "epochs": epochs, "refit": False, "seed": seed, **others}
    config = parse_config(
        {
            "data": {"split": "random_per_user"},
            "training": training,
            "evaluation": {"baselines": ["popularity"], "bootstrap": 10},
        }
    )
    made = fit(data, config)
    validated = made.history["val_ndcg"]
    start = (made.metrics["start"] or {}).get("val_ndcg", 0.0)
    best = max([start, *validated])
    found = made.metrics["ranking"]["warm"]["towers"]["ndcg@10"]["mean"]
    settled = made.config.training
    seconds = made.metrics["train_seconds"] / max(len(validated), 1)
    return (
        f"| {loss} | {seed} | {settled.negatives_from} | {_extras(others)} | {settled.log_q} "
        f"| {best:.4f} | {found:.4f} | {made.metrics['best_epoch']} of {len(validated)} "
        f"| {seconds:.1f} |"
    )


def _extras(others: Settings) -> str:
    names = {
        "negatives": "{} drawn",
        "distinct_negatives": "distinct",
        "hard_negatives": "{} hard",
        "memory_batches": "memory of {}",
        "semi_hard": "semi-hard",
    }
    return ", ".join(names[key].format(others[key]) for key in names if key in others)


def main() -> None:
    given = asked(__doc__, JOBS, {"data": "ml-100k", "epochs": 4})
    data, epochs = given.more.data, given.more.epochs
    print(
        f"{data}, at most {epochs} epochs, "
        f"{time.strftime('%Y-%m-%d')}\n\n"
        "| loss | seed | others from | more of them | log q | val NDCG@10 | test NDCG@10 "
        "| best epoch | seconds an epoch |\n|---|--:|---|---|---|--:|--:|--:|--:|"
    )
    for name in given.names:
        for seed in given.seeds:
            print(row(name, given.folder / data, epochs, seed), flush=True)


if __name__ == "__main__":
    main()
