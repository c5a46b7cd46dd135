"""What a checkpoint file may be; ``test_learn.py`` goes on from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from processes import files_no_larger_than
from twotower.errors import RunError
from twotower.model.two_tower import TwoTower
from twotower.training import checkpoint
from twotower.training.checkpoint import (
    keeping,
    load_checkpoint,
    save_checkpoint,
    seconds_kept,
)
from twotower.training.learn import prepare
from twotower.training.loop import Optimizers, Progress, epochs
from worlds import planned


def fresh() -> tuple[TwoTower, Optimizers]:
    plan = planned("bpr", epochs=1)
    learned, _ = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    return learned.model, Optimizers(learned.model, plan.contenders[0].training)


def trained() -> tuple[TwoTower, Optimizers, Progress]:
    """After one epoch."""
    plan = planned("bpr", epochs=1)
    learned, objective = prepare(plan.dataset, plan.parts.train, plan.contenders[0])
    optimizers = Optimizers(learned.model, plan.contenders[0].training)
    [progress] = epochs(
        learned.model,
        objective,
        optimizers,
        lambda _: {},
        batch_size=64,
        better=lambda _new, _old: True,
        metric="train_loss",
        progress=Progress(),
    )
    return learned.model, optimizers, progress


def start() -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in fresh()[0].state_dict().items()}


def is_untouched(model: TwoTower, optimizers: Optimizers) -> bool:
    """Whether this is a training that has not begun."""
    state = [optimizer.moments for optimizer in optimizers.parts]
    now = model.state_dict()
    return not any(state) and all(torch.equal(now[n], w) for n, w in start().items())


@pytest.mark.parametrize("later", [False, True], ids=["the best is the last", "it is not"])
def test_all_that_a_training_is_comes_back_from_its_file(later: bool, tmp_path: Path) -> None:
    path = tmp_path / "state"
    model, optimizers, progress = trained()
    if later:
        progress = replace(progress, epoch=2)
        model.item_bias.weight.data += 1
    save_checkpoint(path, model, optimizers, progress, of="this")
    again, their = fresh()
    loaded = load_checkpoint(path, again, their, of="this")
    assert loaded is not None
    assert (loaded.epoch, loaded.history) == (progress.epoch, progress.history)
    assert loaded.best_weights is not None
    assert progress.best_weights is not None
    assert loaded.best_epoch == progress.best_epoch
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
        assert torch.equal(loaded.best_weights[name], progress.best_weights[name])
    for one, other in zip(optimizers.parts, their.parts, strict=True):
        assert one.moments.keys() == other.moments.keys()
        for number, moments in one.moments.items():
            assert moments.keys() == other.moments[number].keys()
            for name, value in moments.items():
                assert torch.equal(other.moments[number][name], value)
    # And nothing else lies beside it.
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_the_best_weights_are_written_once_where_the_model_has_them(tmp_path: Path) -> None:
    model, optimizers, progress = trained()
    save_checkpoint(tmp_path / "once", model, optimizers, progress, of="this")
    twice = replace(progress, epoch=2)
    save_checkpoint(tmp_path / "twice", model, optimizers, twice, of="this")
    once, twice_size = ((tmp_path / name).stat().st_size for name in ("once", "twice"))
    assert twice_size - once >= sum(weight.nbytes for weight in model.state_dict().values())


@pytest.fixture
def many_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LARGE", 64)


def files_mapped_at(address: int) -> Iterator[str]:
    """The file, if any, that lies at an address of this process."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            yield from line.split()[5:6]


@pytest.mark.usefixtures("many_are_large")
def test_large_tables_of_the_best_weights_wait_in_a_file_without_a_name(tmp_path: Path) -> None:
    model, _ = fresh()
    kept = keeping(tmp_path)(model)
    assert list(tmp_path.iterdir()) == []
    large = {name for name, weight in kept.items() if weight.nbytes >= 64}
    assert "item_features.id_table.weight" in large
    for name, weight in kept.items():
        is_in_file = [*files_mapped_at(weight.data_ptr())][:1] != []
        assert not (name in large and not is_in_file)
        assert torch.equal(weight, model.state_dict()[name])
    # Later steps do not move them.
    table = kept["item_features.id_table.weight"].clone()
    with torch.no_grad():
        model.item_features.id_table.weight.add_(1)  # type: ignore[union-attr]
    assert torch.equal(kept["item_features.id_table.weight"], table)


@pytest.mark.usefixtures("many_are_large")
def test_without_room_for_the_best_weights_the_error_says_so(tmp_path: Path) -> None:
    with (
        files_no_larger_than(200),
        pytest.raises(RunError, match=r"the best weights can not be written"),
    ):
        keeping(tmp_path)(fresh()[0])
    assert list(tmp_path.iterdir()) == []


def test_another_training_does_not_go_on_from_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_checkpoint(path, *trained(), of="this")
    model, optimizers = fresh()
    assert load_checkpoint(path, model, optimizers, of="that") is None
    assert is_untouched(model, optimizers)


def write_whole(path: Path) -> None:
    save_checkpoint(path, *trained(), of="this")


def cut_in_half(path: Path) -> None:
    write_whole(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def from_elsewhere(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, str(path))


def about_something_else(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, str(path), metadata={"format": "pt"})


def half_a_note(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, str(path), metadata={"about": json.dumps({})[:1]})


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a checkpoint at all"),
        cut_in_half,
        from_elsewhere,
        about_something_else,
        half_a_note,
    ],
    ids=["none", "empty", "text", "cut", "plain", "elsewhere", "half"],
)
def test_a_file_that_is_no_whole_checkpoint_is_as_good_as_none(
    write: object, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    write(path)  # type: ignore[operator]
    model, optimizers = fresh()
    assert load_checkpoint(path, model, optimizers, of="this") is None
    assert is_untouched(model, optimizers)


def test_one_that_can_not_be_read_is_named_and_not_trained_over(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the checkpoint can not be read .*without resume"):
        load_checkpoint(tmp_path, *fresh(), of="this")


def test_where_there_is_no_room_the_old_one_stays_and_the_error_says_so(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    model, optimizers, progress = trained()
    save_checkpoint(path, model, optimizers, progress, of="this")
    old = path.read_bytes()
    with (
        files_no_larger_than(2000),
        pytest.raises(RunError, match=r"state: .* can not be written"),
    ):
        save_checkpoint(path, model, optimizers, Progress(2, {}, 1, {}), of="this")
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_place_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/state: .* can not be written"):
        save_checkpoint(tmp_path / "nowhere" / "state", *trained(), of="this")


def test_the_time_that_is_kept_is_that_of_the_last_checkpoint(tmp_path: Path) -> None:
    assert seconds_kept(tmp_path) == 0
    trained_once = trained()
    for name, seconds in (("search-0", 3.0), ("refit", 7.5), ("search-1", 5.0)):
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, *trained_once, of=name, seconds=seconds)
    (tmp_path / "broken.safetensors").write_bytes(b"half")
    save_file({}, str(tmp_path / "old.safetensors"), metadata={"about": "{}"})
    assert seconds_kept(tmp_path) == 7.5
