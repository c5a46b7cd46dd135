"""NDCG@10 of the default config beside tuned baselines, on public data.

Twenty per cent of each user's interactions are held out at random, or what the set's own split
holds out; of `amazon-beauty` each user's last item.

    TWOTOWER_DATA=... python -m benchmarks.holdout [NAME ...] [--seeds 42 43 ...]
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.public import Cell, asked, print_rows
from twotower import Config, fit, parse_config
from twotower.evaluation.verdict import outcome

RANDOM = {"split": "random_per_user"}
TEMPORAL = {"train": "temporal_train.parquet", "test": "temporal_test.parquet"}
GIVEN = {"train": "train.parquet", "test": "test.parquet"}
JOBS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "ml-latest-small": ("ml-latest-small", RANDOM),
    "ml-100k": ("ml-100k", RANDOM),
    "ml-1m-temporal": ("ml-1m", TEMPORAL),
    "lastfm-2k": ("lastfm-2k", RANDOM),
    "citeulike-t": ("citeulike-t", RANDOM),
    "homedepot-search": ("homedepot-search", RANDOM),
    "amazon-beauty": ("amazon-beauty", {"split": "leave_last"}),
    "gowalla": ("gowalla", GIVEN),
    "yelp2018": ("yelp2018", GIVEN),
}
# Of the files that are read.
ROWS: Mapping[str, Mapping[str, int]] = {
    "ml-latest-small": {"interactions": 100_836},
    "ml-100k": {"interactions": 100_000},
    "ml-1m-temporal": {"temporal_train": 800_261, "temporal_test": 199_948},
    "lastfm-2k": {"interactions": 92_834},
    "citeulike-t": {"interactions": 134_860},
    "homedepot-search": {"interactions": 74_067},
    "amazon-beauty": {"interactions": 198_502},
    "gowalla": {"train": 810_128, "test": 217_242},
    "yelp2018": {"train": 1_237_259, "test": 324_147},
}
BASELINES = Config().evaluation.baselines


def row(name: str, seed: int, folder: Path) -> list[Cell]:
    where, data = JOBS[name]
    for part, rows in ROWS[name].items():
        assert pq.read_metadata(folder / where / f"{part}.parquet").num_rows == rows
    config = parse_config({"data": data, "training": {"seed": seed}})
    started = time.perf_counter()
    measured = fit(folder / where, config).metrics
    seconds = time.perf_counter() - started
    warm: Mapping[str, Any] = measured["ranking"]["warm"]
    scores = {who: warm[who]["ndcg@10"]["mean"] for who in warm if who != "difference"}
    best = measured["verdict"]["best_baseline"]
    gap = warm["difference"][best]["ndcg@10"]
    return [
        f"{measured['protocol']['users']['warm']:,}",
        *(scores.get(who, "") for who in ("towers", *BASELINES)),
        f"{outcome(gap)} {gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]",
        f"{measured['train_seconds']:.0f}",
        f"{seconds:.0f}",
    ]


def main() -> None:
    header = (
        "| data | seed | warm users | two towers | popularity | recent popularity | item-kNN "
        "| EASE | iALS | towers less the best baseline | training s | whole s |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|"
    )
    print_rows(asked(__doc__, JOBS), header, row)


if __name__ == "__main__":
    main()
