"""Recommendations of everybody are a job that may be killed; its file is whole or not there."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars
import pytest
import torch

from processes import Warm, files_no_larger_than, warm
from twotower import runs
from twotower.data.ids import Ids
from twotower.data.interactions import Histories
from twotower.errors import RequestError
from twotower.export import lists
from twotower.export.lists import recommend_all, recommend_some
from twotower.retrieval.recommender import Recommender
from twotower.watch import Watch
from worlds import shop, shopkeeper, trained

# Of so many items each, two blocks of users are a part.
USERS, ITEMS, K = 28_000, 200, 130
JOB = f"recommend run --all -k {K} --into lists.parquet"


class Told(Watch):
    """Remembers notes and how far the bar is."""

    def __init__(self, at: Callable[[int], None] = lambda _: None) -> None:
        self.notes: list[str] = []
        self.done = 0
        self.at = at

    def advance(self, rows: int) -> None:
        self.done += rows
        self.at(self.done)

    def note(self, text: str) -> None:
        self.notes.append(text)


def crowd() -> Recommender:
    """More users than are computed in one go, none of them trained."""
    small, rng = trained(), np.random.default_rng(0)
    dim = small.item_vectors.shape[1]
    seen = Histories(np.arange(USERS + 2), rng.integers(1, ITEMS + 1, USERS + 1, np.int32))

    def vectors(rows: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(rows, dim)).astype(np.float32))

    return replace(
        small,
        users=Ids("user_id", np.array([f"u{n}" for n in range(USERS)], dtype=object)),
        items=Ids("item_id", np.arange(ITEMS) + 7),
        user_vectors=vectors(USERS + 1),
        item_vectors=vectors(ITEMS + 1),
        seen=seen,
        liked=Histories(seen.offsets.copy(), seen.items.copy()),
        has_own_id=np.ones(ITEMS + 1, bool),
        user_has_own_id=np.ones(USERS + 1, bool),
        user_values={},
        item_values={},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.save(crowd(), tmp_path_factory.mktemp("crowd") / "run")


@pytest.fixture(scope="module")
def shop_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.save(shopkeeper(), tmp_path_factory.mktemp("shop") / "run")


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job writes that nobody disturbed."""
    into = tmp_path_factory.mktemp("undisturbed") / "lists.parquet"
    recommend_all(run, into, K)
    return into


@pytest.fixture(scope="module")
def undisturbed(whole: Path) -> polars.DataFrame:
    return polars.read_parquet(whole)


@pytest.fixture
def place(run: Path, tmp_path: Path) -> Path:
    """A folder with the run in it, to be worked in by a process."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "run").symlink_to(run)
    return tmp_path / "place"


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.rglob("*") if path.name != "run")


def parts(place: Path) -> int:
    return len(list(place.glob(".unfinished-lists.parquet/part-*.parquet")))


def kill_when(is_time: Callable[[], bool], command: Warm) -> None:
    deadline = time.monotonic() + 60
    while command.process.is_alive() and not is_time():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert command.process.is_alive(), "it was done before it could be killed"
    assert command.process.pid is not None
    os.kill(command.process.pid, signal.SIGKILL)
    command.wait()


def test_a_job_that_was_killed_goes_on_and_its_file_is_that_of_one_that_was_not(
    place: Path, undisturbed: polars.DataFrame
) -> None:
    """Killed between parts, within one, and as they are joined."""
    joining = place / ".unfinished-lists.parquet" / "whole.parquet"
    moments: list[Callable[[], bool]] = [
        lambda: parts(place) >= 1,
        lambda: parts(place) >= 3 and any(joining.parent.glob("*.part")),
        joining.exists,
    ]
    for is_time in moments:
        before = parts(place)
        kill_when(is_time, Warm(f"{JOB} --resume", place))
        assert parts(place) > before or is_time == joining.exists
        assert not (place / "lists.parquet").exists()
    done = warm(f"{JOB} --resume", place)
    assert done.code == 0, done.err
    assert re.search(r"going on with .*: 28,000 users are done", done.err)
    assert polars.read_parquet(place / "lists.parquet").equals(undisturbed)
    assert names(place) == ["lists.parquet"]


def test_what_is_done_is_not_done_again_and_counts_for_the_bar(
    run: Path, tmp_path: Path, undisturbed: polars.DataFrame
) -> None:
    into = tmp_path / "lists.parquet"

    def stop(done: int) -> None:
        if done > 12_000:
            raise KeyboardInterrupt

    first = Told(stop)
    with pytest.raises(KeyboardInterrupt):
        recommend_all(run, into, K, watch=first)
    [note] = first.notes
    kept = int(re.search(r"keeps the lists of ([\d,]+) users", note)[1].replace(",", ""))  # type: ignore[index]
    assert 5_000 < kept <= 12_288
    assert not into.exists()
    steps: list[int] = []
    second = Told(steps.append)
    assert recommend_all(run, into, K, resume=True, watch=second) == len(undisturbed)
    assert (steps[0], steps[-1]) == (kept, USERS)
    [note] = second.notes
    assert (
        note == f"going on with {tmp_path}/.unfinished-lists.parquet: {kept:,} users are done"
    )
    assert polars.read_parquet(into).equals(undisturbed)


@pytest.mark.parametrize(
    ("resume", "k", "said"),
    [
        (False, K, "an unfinished job is dropped"),
        (True, 3, "an unfinished job of another run or another wish is dropped"),
    ],
)
def test_another_job_for_the_file_starts_from_the_beginning(
    run: Path, tmp_path: Path, resume: bool, k: int, said: str
) -> None:
    into = tmp_path / "lists.parquet"

    def stop(done: int) -> None:
        if done > 12_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_all(run, into, K, watch=Told(stop))
    steps: list[int] = []
    told = Told(steps.append)
    assert recommend_all(run, into, k, resume=resume, watch=told) == USERS * k
    assert said in told.notes[0]
    assert steps[1] == 4096
    assert polars.read_parquet(into)["rank"].max() == k
    assert names(tmp_path) == ["lists.parquet"]


def test_nothing_unfinished_is_said_and_is_no_mistake(run: Path, tmp_path: Path) -> None:
    told = Told()
    recommend_all(run, tmp_path / "x.parquet", 1, resume=True, watch=told)
    assert "starting from the beginning" in told.notes[0]


def test_two_jobs_for_one_file_do_not_get_in_each_others_way(
    place: Path, run: Path, undisturbed: polars.DataFrame
) -> None:
    command = Warm(JOB, place)
    while not parts(place):
        time.sleep(0.001)
    with pytest.raises(RequestError, match="another process is writing it; wait for its end"):
        recommend_all(run, place / "lists.parquet", K)
    assert command.wait().code == 0
    assert polars.read_parquet(place / "lists.parquet").equals(undisturbed)


def test_where_the_disk_is_full_what_is_done_is_kept_and_what_was_there_stays(
    run: Path, tmp_path: Path, whole: Path, undisturbed: polars.DataFrame
) -> None:
    """Parts find room, the whole does not."""
    into = tmp_path / "lists.parquet"
    into.write_text("mine")
    told = Told()
    with (
        files_no_larger_than(whole.stat().st_size // 2),
        pytest.raises(
            RequestError,
            match=r"File too large\); make room or name another place, then go on ",
        ),
    ):
        recommend_all(run, into, K, watch=told)
    assert told.done == USERS
    assert into.read_text() == "mine"
    assert "whole.parquet" not in names(tmp_path)
    steps: list[int] = []
    recommend_all(run, into, K, resume=True, watch=Told(steps.append))
    assert steps == [USERS]
    assert polars.read_parquet(into).equals(undisturbed)
    assert names(tmp_path) == ["lists.parquet"]


def test_ids_and_order_are_the_recommenders_own(
    run: Path, undisturbed: polars.DataFrame
) -> None:
    assert undisturbed.dtypes == [polars.String, polars.Int64, polars.Int32, polars.Float32]
    users = [f"u{n}" for n in range(USERS) for _ in range(K)]
    assert undisturbed["user_id"].to_list() == users
    some = np.r_[0:3, 4094:4098, USERS - 2 : USERS]
    expected = crowd().recommend_rows(some + 1, K).columns()
    for name, values in expected.items():
        rows = np.concatenate([np.arange(K * n, K * (n + 1)) for n in some])
        found = undisturbed[name].gather(rows).to_list()
        if name == "score":
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5)
        else:
            assert found == values.tolist()


class TestOfTheShop:
    def test_the_file_has_ids_under_the_inputs_own_names_and_nothing_seen(
        self, shop_run: Path, tmp_path: Path
    ) -> None:
        recommend_all(shop_run, tmp_path / "lists.parquet", 7)
        frame = polars.read_parquet(tmp_path / "lists.parquet")
        assert frame.columns == ["customer", "sku", "rank", "score"]
        people = shop()["users"]["customer"]
        for user, found in zip(people, shopkeeper().recommend(people, 7), strict=True):
            rows = frame.filter(polars.col("customer") == user)
            assert rows["rank"].to_list() == [1, 2, 3, 4, 5, 6, 7]
            assert rows.select("sku", "score").rows() == found
        assert len(frame) == 7 * len(people)
        seen = {
            (user, item)
            for row, user in enumerate(people, 1)
            for item in shopkeeper().items.of(shopkeeper().seen.of(row)).tolist()
        }
        assert seen
        assert not seen & set(frame.select("customer", "sku").rows())

    def test_what_was_seen_comes_when_asked_for(self, shop_run: Path, tmp_path: Path) -> None:
        into = tmp_path / "lists.parquet"
        assert recommend_all(shop_run, into, 40, include_seen=True) == 60 * 40
        assert len(polars.read_parquet(into)) == 60 * 40

    def test_parts_without_a_row_do_no_harm(
        self, shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of users that have seen everything."""
        keeper = shopkeeper()
        everything = Histories(
            np.r_[0, np.arange(61) * 40], np.tile(np.arange(1, 41, dtype=np.int32), 60)
        )
        half = Histories(
            everything.offsets.clip(max=everything.offsets[31]),
            everything.items[: everything.offsets[31]],
        )
        monkeypatch.setattr(lists, "_BLOCK_USERS", 10)
        monkeypatch.setattr(lists, "_PART_SECONDS", 0.0)
        for seen, rows in ((half, 30 * 3), (everything, 0)):
            stuffed = runs.save(replace(keeper, seen=seen), tmp_path / f"run {rows}")
            assert recommend_all(stuffed, tmp_path / "x.parquet", 3) == rows
            frame = polars.read_parquet(tmp_path / "x.parquet")
            assert frame.dtypes == [polars.String, polars.Int64, polars.Int32, polars.Float32]
            assert len(frame) == rows

    def test_some_users_may_be_asked_for(self, tmp_path: Path) -> None:
        into = tmp_path / "lists.parquet"
        assert recommend_some(shopkeeper(), ["c7", "c3"], into, 2) == 4
        assert polars.read_parquet(into)["customer"].to_list() == ["c7", "c7", "c3", "c3"]

    @pytest.mark.parametrize("k", [41, 0])
    def test_what_can_not_be_answered_leaves_no_file(
        self, shop_run: Path, tmp_path: Path, k: int
    ) -> None:
        with pytest.raises(RequestError, match="k must be 1 to 40"):
            recommend_all(shop_run, tmp_path / "x.parquet", k)
        with pytest.raises(RequestError):
            recommend_some(shopkeeper(), ["nobody"], tmp_path / "x.parquet", 2)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            (".", r"is a directory\); give the path of a file"),
            ("no/x.parquet", r"no does not exist\); give the path of a file"),
            ("x.csv", "what is written is Parquet; give a file that ends in .parquet"),
        ],
    )
    def test_a_place_that_can_not_be_is_refused(
        self, shop_run: Path, tmp_path: Path, name: str, problem: str
    ) -> None:
        with pytest.raises(RequestError, match=problem):
            recommend_all(shop_run, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_resume_is_of_jobs_for_all(self, shop_run: Path) -> None:
        done = warm(f"recommend {shop_run} c7 --resume --into x.parquet", shop_run.parent)
        assert (done.code, "--resume goes on with --all" in done.err) == (2, True)
