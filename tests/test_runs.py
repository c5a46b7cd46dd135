"""A run is whole or not there, says what it said before, and is refused where changed."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processes import files_no_larger_than
from twotower import pipeline, runs
from twotower.errors import RunError
from twotower.retrieval.recommendations import Recommendations
from twotower.retrieval.recommender import Recommender
from worlds import checkerboard, search_world, settings, shopkeeper, trained

FILES = [
    "config.yaml",
    "embeddings/items.parquet",
    "embeddings/rows.safetensors",
    "embeddings/users.parquet",
    "embeddings/vectors.safetensors",
    "encoders/items.json",
    "encoders/users.json",
    "history.json",
    "interactions.safetensors",
    "manifest.json",
    "metrics.json",
    "model.safetensors",
]
NEW_GOODS = {
    "sku": [9000, 1003],
    "title": ["the jazz record number 90 of 140", None],
    "tags": [["jazz", "unheard of"], []],
    "look": [[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]],
    "price": [None, 7.25],
    "released": ["2026-01-31", None],
}
NEW_ITEM = {"item_id": [999, 501], "genre": ["folk", "unheard of"], "year": [1975, 1980]}
GIVEN = {"split": "given"}
CUSTOMER = {"age": 30, "is_member": True, "region": "south", "joined": "2023-05-05"}


@dataclass(frozen=True)
class Saved:
    """A recommender before it was saved and after it was read, and what to ask of both."""

    before: Recommender
    after: Recommender
    person: dict[str, Any]
    items: dict[str, list[Any]]


def hardly_trained(loss: str, **world: Any) -> Recommender:
    short = settings(training={"loss": loss, "epochs": 1})
    return pipeline.fit(checkerboard(**world), short)


MADE: dict[str, Callable[[], tuple[Recommender, dict[str, Any], dict[str, list[Any]]]]] = {
    "every kind of column": lambda: (shopkeeper(), CUSTOMER, NEW_GOODS),
    "history": lambda: (trained(), {"taste": "punk"}, NEW_ITEM),
    "words, and all that was met is liked": lambda: (
        pipeline.fit(search_world("users"), settings(training={"epochs": 1}, data=GIVEN)),
        {"query": "lamp red q3"},
        {"item_id": [999, 501], "title": ["a tiny vase", None]},
    ),
    "text ids": lambda: (
        hardly_trained("softmax", text_ids=True),
        {"taste": "punk", "age": 30},
        {**NEW_ITEM, "item_id": ["i999", "i501"]},
    ),
    "labels": lambda: (hardly_trained("bce", disliked=8), {"taste": "punk"}, NEW_ITEM),
    "read in order": lambda: (
        pipeline.fit(
            checkerboard(),
            settings(
                model={"history": "transformer"}, training={"loss": "softmax", "epochs": 1}
            ),
        ),
        {"taste": "punk"},
        NEW_ITEM,
    ),
    "items added": lambda: (trained().add_items(NEW_ITEM), {"age": 30}, NEW_ITEM),
}


@pytest.fixture(scope="module", params=MADE)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    before, person, items = MADE[request.param]()
    run = runs.save(before, tmp_path_factory.mktemp("runs") / "run")
    return Saved(before, runs.load(run), person, items)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody touches."""
    return runs.save(shopkeeper(), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def said(found: Recommendations) -> tuple[Any, ...]:
    """All of an answer, scores to the last bit."""
    ids = (found.user_column, found.item_column, found.user_ids.tolist())
    return (*ids, found.item_ids.tolist(), found.scores.tobytes())


class TestARunSaysWhatWasSaidBefore:
    """To the last bit: what is compared is bytes."""

    @pytest.mark.parametrize("include_seen", [False, True])
    def test_to_everybody_known(self, saved: Saved, include_seen: bool) -> None:
        for k in (3, len(saved.before.items)):
            before, after = (
                each.recommend(each.users.values.tolist(), k, include_seen=include_seen)
                for each in (saved.before, saved.after)
            )
            assert said(before) == said(after)

    def test_to_somebody_never_seen(self, saved: Saved) -> None:
        liked = saved.before.items.values[[4, 2, 9]].tolist()
        asked_for: list[dict[str, Any]] = [{"features": saved.person}, {}]
        if saved.before.model.history is not None:
            asked_for += [{"features": saved.person, "history": liked}, {"history": liked}]
        for asked in asked_for:
            before, after = (
                each.recommend_for(**asked, k=20) for each in (saved.before, saved.after)
            )
            assert said(before) == said(after)

    def test_of_similar_items(self, saved: Saved) -> None:
        before, after = (
            each.similar_items(each.items.values.tolist(), 9)
            for each in (saved.before, saved.after)
        )
        assert said(before) == said(after)

    def test_of_scores_and_affinities(self, saved: Saved) -> None:
        pairs = [(u, i) for u in saved.before.users.values for i in saved.before.items.values]
        before, after = (each.score(pairs) for each in (saved.before, saved.after))
        assert before.tobytes() == after.tobytes()
        assert saved.before.affinity(before).tobytes() == saved.after.affinity(after).tobytes()

    def test_once_items_are_added(self, saved: Saved) -> None:
        before, after = (
            each.add_items(saved.items).recommend(each.users.values.tolist(), 20)
            for each in (saved.before, saved.after)
        )
        assert said(before) == said(after)

    def test_of_itself(self, saved: Saved) -> None:
        assert saved.after.config == saved.before.config
        assert saved.after.metrics == saved.before.metrics
        assert saved.after.history == saved.before.history

    def test_of_its_users_and_items(self, saved: Saved) -> None:
        for name in ("user_values", "item_values"):
            before, after = (getattr(each, name) for each in (saved.before, saved.after))
            # Vectors are not shown to anybody.
            shown = [column for column, values in before.items() if values.ndim == 1]
            assert list(after) == shown
            for column in shown:
                assert after[column].dtype == before[column].dtype
                assert plain(after[column]) == plain(before[column])


def plain(values: np.ndarray) -> list[Any]:
    """Values that compare: NaN equals NaN."""
    return ["NaN" if isinstance(v, float) and math.isnan(v) else v for v in values.tolist()]


def test_a_column_of_lists_that_are_nearly_all_empty_is_kept(tmp_path: Path) -> None:
    tags: list[list[str]] = [[] for _ in range(6000)]
    tags[3001] = ["vinyl", "rare"]
    many = shopkeeper().add_items({"sku": [*range(20_000, 26_000)], "tags": tags})
    loaded = runs.load(runs.save(many, tmp_path / "run"))
    assert loaded.item_values["tags"].tolist() == many.item_values["tags"].tolist()


def test_what_is_no_number_is_null_and_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    metrics = {"none": float("nan"), "far": [np.float32(0.5), np.inf], "count": np.int64(3)}
    run = runs.save(replace(trained(), metrics=metrics), tmp_path / "run")
    written = (run / "metrics.json").read_text()
    assert "NaN" not in written
    assert json.loads(written) == {"none": None, "far": [0.5, None], "count": 3}


class TestFiles:
    def test_these_and_no_others(self, whole: Path) -> None:
        files = [p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()]
        assert sorted(files) == FILES

    def test_each_is_wholly_of_a_format_that_holds_no_code(self, whole: Path) -> None:
        for path in map(whole.joinpath, FILES):
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".yaml":
                yaml.safe_load(path.read_text())
            elif path.suffix == ".parquet":
                assert len(polars.read_parquet(path))
            else:
                assert path.suffix == ".safetensors"
                assert is_only_tensors(path.read_bytes())

    def test_a_run_is_read_without_pickle(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
            monkeypatch.setattr(module, name, None)
        monkeypatch.setattr(torch, "load", None)
        assert len(runs.load(run).users) == 60

    def test_to_read_a_run_draws_no_weights(self, run: Path) -> None:
        before = torch.get_rng_state()
        runs.load(run)
        assert torch.equal(torch.get_rng_state(), before)

    def test_to_read_a_run_imports_no_compiler(self, run: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from twotower import runs; "
            f"runs.load(Path({str(run)!r})); assert 'torch._dynamo' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_what_is_written_to_its_towers_stays_in_memory(self, run: Path) -> None:
        loaded, file = runs.load(run), run / "model.safetensors"
        before = file.read_bytes()
        assert all(
            each.requires_grad
            for name, each in loaded.model.named_parameters()
            if name != "log_scale"
        )
        with torch.no_grad():
            for each in loaded.model.state_dict().values():
                each.add_(1)
        assert file.read_bytes() == before
        again = runs.load(run).model.state_dict()
        for name, each in loaded.model.state_dict().items():
            torch.testing.assert_close(each, again[name] + 1)

    def test_layers_begin_where_tensors_made_in_memory_do(self, run: Path) -> None:
        for name, each in runs.load(run).model.named_parameters():
            assert "tower" not in name or each.data_ptr() % 64 == 0

    def test_item_vectors_begin_where_tensors_made_in_memory_do(self, run: Path) -> None:
        vectors = runs.load(run).item_vectors
        assert vectors.data_ptr() % 64 == torch.empty(9).data_ptr() % 64 == 0

    def test_whoever_may_read_one_may_read_all(self, run: Path) -> None:
        modes = {(run / name).stat().st_mode for name in FILES}
        (run.parent / "other").touch()
        assert modes == {(run.parent / "other").stat().st_mode}


def is_only_tensors(content: bytes) -> bool:
    """Whether a header names tensors that fill the rest of a file, byte by byte."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert set(header.pop("__metadata__", {})) <= {"padding"}
    spans = sorted(each["data_offsets"] for each in header.values())
    ends = [0, *(end for _, end in spans)]
    return [begin for begin, _ in spans] == ends[:-1] and start + ends[-1] == len(content)


def refusal(run: Path, about: str) -> str:
    """Why a run is not read, in one sentence that begins with what it is about."""
    with pytest.raises(RunError) as caught:
        runs.load(run)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{run}: ")
    assert about in message
    return message


class TestRefused:
    @pytest.mark.parametrize("name", FILES)
    def test_a_run_that_lacks_a_file(self, run: Path, name: str) -> None:
        (run / name).unlink()
        assert "is missing" in refusal(run, name)

    @pytest.mark.parametrize("name", FILES)
    @given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
    @hypothesis_settings(
        max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_a_run_of_which_one_byte_was_changed(
        self, run: Path, name: str, place: float, byte: int
    ) -> None:
        path = run / name
        before = path.read_bytes()
        position = int(place * len(before))
        # Between the words of the manifest a space is as good as a new line.
        assume(before[position] != byte and not before[position : position + 1].isspace())
        try:
            path.write_bytes(before[:position] + bytes([byte]) + before[position + 1 :])
            refusal(run, name)
        finally:
            path.write_bytes(before)

    @pytest.mark.parametrize("name", FILES)
    def test_a_run_of_which_a_file_was_cut_short(self, run: Path, name: str) -> None:
        size = (run / name).stat().st_size
        for kept in (0, size // 2, size - 1):
            os.truncate(run / name, kept)
            refusal(run, name)

    def test_a_run_of_a_later_format(self, run: Path) -> None:
        # A later version may say anything else, too, and sum it up in another way.
        says = {"format": 2, "shards": []}
        (run / "manifest.json").write_text(json.dumps(says))
        message = refusal(run, "format 2, written by a later version; this one reads 1")
        assert message.endswith("Upgrade twotower, or train again")

    def test_a_run_of_a_format_that_is_no_longer_read(self, run: Path) -> None:
        (run / "manifest.json").write_text(json.dumps({"format": 0}))
        assert refusal(run, "format 0").endswith("train again")

    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"null", b"[]", b"{}", b'{"format": 1}', b'{"format": "x"}']
    )
    def test_a_manifest_that_is_none(self, run: Path, content: bytes) -> None:
        (run / "manifest.json").write_bytes(content)
        assert "was changed" in refusal(run, "manifest.json")

    def test_a_place_without_a_run(self, tmp_path: Path) -> None:
        assert "is no run" in refusal(tmp_path, "manifest.json is missing")
        (tmp_path / "file").touch()
        for name in ("nothing", "file"):
            refusal(tmp_path / name, "no such run; `twotower runs` lists those there are")

    def test_metrics_that_were_changed(self, run: Path) -> None:
        assert runs.read_metrics(run) == shopkeeper().metrics
        text = (run / "metrics.json").read_text()
        (run / "metrics.json").write_text(text.replace("0.", "1.", 1))
        with pytest.raises(RunError, match=r"metrics\.json was changed after training"):
            runs.read_metrics(run)


class TestAFailedSaveLeavesNothing:
    def test_where_any_file_grows_too_large(self, whole: Path, tmp_path: Path) -> None:
        for size in {(whole / name).stat().st_size for name in FILES}:
            with (
                files_no_larger_than(size - 1),
                pytest.raises(RunError, match=r"can not be written \(File too large\)"),
            ):
                runs.save(shopkeeper(), tmp_path / "run")
            assert list(tmp_path.iterdir()) == []

    def test_on_a_full_disk(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
            pytest.skip("nobody but root may make a small disk")
        try:
            # Room for none of the files, for some, for all but the last.
            for kilobytes in range(4, 64, 12):
                (disk / "other").write_bytes(bytes((64 - kilobytes) * 1024))
                with pytest.raises(RunError, match="No space left on device"):
                    runs.save(shopkeeper(), disk / "run")
                assert [path.name for path in disk.iterdir()] == ["other"]
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_where_it_is_interrupted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs.save(shopkeeper(), tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_where_something_is_already(self, run: Path) -> None:
        before = {name: (run / name).read_bytes() for name in FILES}
        with pytest.raises(RunError, match="already exists; choose another name or remove it"):
            runs.save(trained(), run)
        assert {name: (run / name).read_bytes() for name in FILES} == before
        assert [path.name for path in run.parent.iterdir()] == ["run"]


class TestList:
    def test_the_oldest_comes_first(self, whole: Path, tmp_path: Path) -> None:
        names = ["20260131-120000-b", "20260131-120001-a", "20260201-000000-0"]
        for name in reversed(names):
            shutil.copytree(whole, tmp_path / name)
        assert [path.name for path in runs.list_runs(tmp_path)] == names

    def test_a_run_is_listed_when_it_is_whole_and_no_earlier(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, killed = tmp_path / "runs", tmp_path / "killed"
        listed, moved = [], set[int]()

        def watch(_: int) -> None:
            # Where the disk is asked to keep what was written; all files are there by then.
            listed.append(runs.list_runs(root))
            moved.update(path.stat().st_ino for path in root.glob(".*/*"))
            shutil.copytree(root, killed, dirs_exist_ok=True)

        monkeypatch.setattr(os, "fsync", watch)
        directory = runs.save(shopkeeper(), root / "run")
        assert listed
        assert not any(listed)
        assert runs.list_runs(root) == [directory]
        # All at once: it was moved, not copied.
        assert {path.stat().st_ino for path in directory.iterdir()} == moved
        # A kill would have left this behind.
        assert list(killed.rglob("manifest.json"))
        assert runs.list_runs(killed) == []

    def test_what_is_no_run_is_not_listed(self, tmp_path: Path) -> None:
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes.txt").touch()
        assert runs.list_runs(tmp_path) == []
        assert runs.list_runs(tmp_path / "nothing") == []
