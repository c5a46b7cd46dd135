"""Interactions on the disk are the same ones, and found again as long as nothing changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch

from twotower import Recommender, fit, parse_config
from twotower.config import DataConfig
from twotower.data.interactions import Interactions, histories
from twotower.data.tables import Dataset, read

USERS, ITEMS, ROWS = 40, 20, 400


def write(folder: Path, **changed: Any) -> Path:
    """A shop with pairs met twice, ratings that are missing, and rows in no order of time."""
    rng = np.random.default_rng(3)
    folder.mkdir(exist_ok=True)
    columns = {
        "user_id": rng.integers(0, USERS, ROWS),
        "item_id": rng.integers(0, ITEMS, ROWS),
        "rating": [None if n % 7 == 0 else float(n % 5) for n in range(ROWS)],
        "weight": rng.random(ROWS),
        "timestamp": rng.integers(10**9, 10**9 + 60, ROWS),
        **changed,
    }
    polars.DataFrame(columns).write_parquet(folder / "interactions.parquet")
    polars.DataFrame(
        {"item_id": np.arange(ITEMS), "price": np.arange(ITEMS) * 1.5}
    ).write_parquet(folder / "items.parquet")
    return folder


def kept_read(shop: Path, runs: Path, **rules: Any) -> Dataset:
    return read(shop, DataConfig(**rules), beside=runs, enough=1)


def equal(one: Interactions, other: Interactions) -> bool:
    return all(
        (a is None and b is None) or np.array_equal(a, b, equal_nan=True)
        for a, b in ((getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    )


RULES: list[dict[str, Any]] = [
    {},
    {"duplicates": "keep"},
    {"orphans": "drop"},
    {"columns": {"interactions": {"rating": "ignore", "weight": "ignore"}}},
]


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("spare_items", [0, 5])
def test_what_is_kept_is_what_is_read(
    tmp_path: Path, rules: dict[str, Any], spare_items: int
) -> None:
    rng = np.random.default_rng(4)
    shop = write(tmp_path / "shop", item_id=rng.integers(0, ITEMS + spare_items, ROWS))
    plain = read(shop, DataConfig(**rules))
    for _ in range(2):
        made = kept_read(shop, tmp_path / "runs", **rules)
        assert isinstance(made.interactions["all"].user_rows, np.memmap)
        assert equal(made.interactions["all"], plain.interactions["all"])
        assert made.repeats.keys() == plain.repeats.keys()
        assert all(equal(made.repeats[name], plain.repeats[name]) for name in plain.repeats)
        assert made.notes == plain.notes
        assert made.items.ids.tolist() == plain.items.ids.tolist()
        assert made.users.ids.tolist() == plain.users.ids.tolist()


def folders(runs: Path) -> list[Path]:
    return sorted(runs.iterdir())


def test_it_is_written_once_and_again_only_for_other_data_or_rules(tmp_path: Path) -> None:
    shop, runs = write(tmp_path / "shop"), tmp_path / "runs"
    kept_read(shop, runs)
    [first] = folders(runs)
    before = {path: os.stat(path).st_mtime_ns for path in first.iterdir()}
    kept_read(shop, runs)
    assert {path: os.stat(path).st_mtime_ns for path in first.iterdir()} == before
    kept_read(shop, runs, duplicates="keep")
    assert len(folders(runs)) == 2
    write(shop, weight=np.ones(ROWS))
    found = kept_read(shop, runs)
    assert len(folders(runs)) == 3
    assert found.interactions["all"].weights is not None
    assert set(found.interactions["all"].weights.tolist()) == {1.0}


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    shop, runs = write(tmp_path / "shop"), tmp_path / "runs"
    kept_read(shop, runs)
    [place] = folders(runs)
    (place / "all.item_rows.npy").unlink()
    made = kept_read(shop, runs)
    assert equal(made.interactions["all"], read(shop).interactions["all"])


def test_what_is_deleted_while_it_is_in_use_is_used_to_the_end(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    log = kept_read(write(tmp_path / "shop"), runs).interactions["all"]
    [folder] = folders(runs)
    shutil.rmtree(folder)
    latest = histories(log, num_users=USERS).latest(2)
    assert isinstance(latest.items, np.memmap)
    assert latest.lengths().max() == 2
    assert not any(runs.iterdir())


def test_few_interactions_and_frames_leave_nothing_on_the_disk(tmp_path: Path) -> None:
    shop, runs = write(tmp_path / "shop"), tmp_path / "runs"
    read(shop, beside=runs)
    read(shop, beside=runs, enough=ROWS + 1)
    frame = polars.read_parquet(shop / "interactions.parquet")
    read({"interactions": frame}, beside=runs, enough=1)
    assert not runs.exists()


def test_a_full_disk_is_a_data_error_and_leaves_nothing(tmp_path: Path) -> None:
    shop, runs = write(tmp_path / "shop"), tmp_path / "runs"
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from twotower.data.tables import read\n"
        "from twotower.errors import DataError\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try: read(Path(sys.argv[1]), beside=Path(sys.argv[2]), enough=1)\n"
        "except DataError as error: print(error)\n"
    )
    line = [sys.executable, "-c", code, str(shop), str(runs)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "File too large; interactions that are many are kept on the disk" in done.stdout
    assert not list(runs.iterdir())


def trained(source: Dataset, loss: str) -> Recommender:
    config = {
        "model": {"embedding_dim": 4, "user_hidden_dims": [], "item_hidden_dims": []},
        "training": {"epochs": 2, "loss": loss, "batch_size": 64},
        "evaluation": {"baselines": ["popularity"], "bootstrap": 10, "k": [5]},
    }
    return fit(source, parse_config(config))


def test_a_softmax_over_users_learns_the_same_from_the_disk(tmp_path: Path) -> None:
    shop = write(tmp_path / "shop")
    one = trained(read(shop), "softmax")
    other = trained(kept_read(shop, tmp_path / "runs"), "softmax")
    assert torch.equal(one.user_vectors, other.user_vectors)
    assert torch.equal(one.item_vectors, other.item_vectors)
    assert one.metrics["data"]["sha256"] == other.metrics["data"]["sha256"]


def test_a_training_from_the_disk_can_be_repeated_to_the_last_bit(tmp_path: Path) -> None:
    shop = write(tmp_path / "shop")
    made = [
        trained(kept_read(shop, tmp_path / "runs"), "in_batch_softmax").item_vectors
        for _ in range(2)
    ]
    assert torch.isfinite(made[0]).all()
    assert torch.equal(*made)


def test_processes_that_keep_the_same_rows_at_once_wait_for_each_other(tmp_path: Path) -> None:
    shop, runs = write(tmp_path / "shop"), tmp_path / "runs"
    reading = (
        "import sys; from pathlib import Path; from twotower.data.tables import read; "
        "data = read(sys.argv[1], beside=Path(sys.argv[2]), enough=1); "
        "print(len(data.interactions['all']))"
    )
    command = [sys.executable, "-c", reading, str(shop), str(runs)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = {process.communicate() for process in processes}
    assert len(answers) == 1
    assert not any(process.returncode for process in processes), answers
    assert [path.name[:6] for path in runs.iterdir()] == [".rows-"]
