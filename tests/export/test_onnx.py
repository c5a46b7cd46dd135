"""Towers as ONNX say what PyTorch says, of any number of rows and whatever is known of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from twotower import pipeline, runs
from twotower.cli import app
from twotower.errors import DataError, TwoTowerError
from twotower.export import onnx
from twotower.export.described import HOW, described
from twotower.export.onnx import FILES, export_towers
from twotower.export.padded import Inputs, PaddedItems, PaddedUsers
from twotower.model.history import PackedHistory
from twotower.retrieval.recommender import Recommender
from worlds import checkerboard, settings, shop, shopkeeper

ONLY_INTERACTIONS = {"interactions": checkerboard()["interactions"]}
NOTES = [f"likes {['jazz', 'folk', 'rock'][n % 3]} number {n}" for n in range(60)]
# What the shop's towers read, and what they do with it, changed one by one.
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mean": (shop, {}),
    "mean without layers": (shop, {"history_hidden_dims": []}),
    "weighted": (shop, {"history": "weighted"}),
    "transformer": (shop, {"history": "transformer", "history_layers": 2}),
    "no history, user ids, no layers": (
        shop,
        {"history": "none", "user_ids": True, "user_hidden_dims": [], "normalize": False},
    ),
    "features alone": (shop, {"history": "none", "item_ids": False}),
    "attention, words on both sides": (
        lambda: {**shop(), "users": {**shop()["users"], "note": NOTES}},
        {"history": "attention", "user_ids": False, "item_ids": False},
    ),
    "transformer without ids": (shop, {"history": "transformer", "item_ids": False}),
    "ids alone": (lambda: ONLY_INTERACTIONS, {}),
}
# One of them takes seconds to write; together these read all that there is to read.
EXPORTED = ["attention, words on both sides", "transformer", "ids alone"]


@cache
def made(name: str) -> Recommender:
    world, model = MODELS[name]
    made = pipeline.fit(world(), settings(model=model, training={"epochs": 2, "refit": False}))
    # Two epochs leave much at the zeros where it began.
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in made.model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return made


@pytest.mark.parametrize("name", EXPORTED)
def test_both_towers_say_what_pytorch_says(name: str, tmp_path: Path) -> None:
    recommender = made(name)
    worst = export_towers(runs.save(recommender, tmp_path / "run"), tmp_path / "towers")
    assert set(worst) == {"users.onnx", "items.onnx"}
    assert max(worst.values()) <= 1e-5
    said_alike(recommender, partial(said, tmp_path, "users"), partial(said, tmp_path, "items"))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_exported_says_what_is_trained(name: str) -> None:
    """Towers that read padded rows, before they are written."""

    def says(tower: PaddedUsers | PaddedItems) -> Callable[[Any], np.ndarray]:
        return lambda given: tower.eval()(*given.values()).detach().numpy()

    model = made(name).model
    said_alike(made(name), says(PaddedUsers(model)), says(PaddedItems(model)))


def said_alike(
    recommender: Recommender,
    users: Callable[[Any], np.ndarray],
    items: Callable[[Any], np.ndarray],
) -> None:
    """Of people with all kinds of histories and of items of all kinds."""
    model = recommender.model
    found = items(_random_items(recommender))
    table = _random_items(recommender, raw=True)
    with torch.inference_mode():
        expected = model.item_vectors(model.encode_items(table), table).numpy()
        close(found, expected)
        history = None
        if model.history is not None:
            # Items just made, in histories of very different lengths, the first empty.
            lengths = np.array([0, 1, 2, 3, 5, 8, 13, 31])
            rows = np.random.default_rng(1).integers(0, len(found), lengths.sum())
            history = PackedHistory(
                torch.from_numpy(rows),
                torch.from_numpy(np.r_[0, np.cumsum(lengths)]),
                torch.from_numpy(expected[:, :-1]),
                table.ids,
            )
        people = recommender.user_encoders.encode({}, np.arange(8) % 3)
        people = replace(people, dense=torch.randn_like(people.dense))
        given = Inputs.of_users(model).of(people, history)
        if history is not None:
            # What stands behind the last item is of no account.
            behind = torch.arange(31) >= given["history_length"][:, None]
            given["history"][behind] = 7.0
        close(users(given), model.user_vectors(model.encode_users(people, history)).numpy())


def _random_items(recommender: Recommender, *, raw: bool = False) -> Any:
    """Twenty items of all kinds, some of them new."""
    count = len(recommender.items)
    rows = np.arange(count)
    values = {
        name: each[rows]
        for name, each in recommender.item_values.items()
        if name in recommender.item_encoders.by_column
    }
    table = recommender.item_encoders.encode(values, np.where(rows % 4, rows + 1, 0))
    return table if raw else Inputs.of_items(recommender.model).of(table)


def said(place: Path, side: str, given: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(place / "towers" / f"{side}.onnx")
    assert {each.name for each in session.get_inputs()} == set(given)
    [found] = session.run(["vector"], {name: each.numpy() for name, each in given.items()})
    return found


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_the_pages_own_encoder_makes_of_a_raw_object_what_the_package_makes_of_it() -> None:
    """Of every kind of column, with values missing and unknown ones."""
    page = (Path(__file__).parents[2] / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    shown: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0], shown)
    keeper, kinds = shopkeeper(), set()
    for side, encoders, inputs in (
        ("users", keeper.user_encoders, Inputs.of_users(keeper.model)),
        ("items", keeper.item_encoders, Inputs.of_items(keeper.model)),
    ):
        told = json.loads(json.dumps(described(encoders, inputs)))
        kinds |= {each["encoder"] for each in told["columns"]}
        table = shop()[side]
        rows = [
            dict(zip(table, map(plain, row), strict=True))
            for row in zip(*table.values(), strict=True)
        ]
        names = encoders.by_column.keys()
        raw = [{n: row[n] for n in names} for row in rows]
        strange = {"region": "west", "title": "Ünseen 4-ever", "tags": ["vinyl", "odd"]}
        raw += [{}, {n: v for n, v in strange.items() if n in names}]
        for each in raw:
            expected = inputs.of(encoders.encode_request(each), nothing(keeper))
            found = shown["inputs_of"](told, each)
            assert set(found) == set(expected)
            for name in set(found) - {"history", "history_length"}:
                assert found[name].dtype == expected[name].numpy().dtype, name
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6)
    assert kinds == set(HOW)


def plain(value: Any) -> Any:
    """As JSON has it."""
    return str(value) if isinstance(value, np.datetime64) else value


def nothing(recommender: Recommender) -> PackedHistory:
    """The history of one who has none."""
    none = torch.empty(0, dtype=torch.int64)
    vectors = recommender.item_vectors[:, :-1]
    return PackedHistory(none, torch.zeros(2, dtype=torch.int64), vectors, recommender.item_ids)


def test_a_tower_that_says_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.save(made("ids alone"), tmp_path / "run")
    right = onnx.PaddedItems.forward

    def wrong(self: Any, *inputs: Any) -> Any:
        return right(self, *inputs) + 2e-4

    monkeypatch.setattr(onnx.PaddedItems, "forward", wrong)
    with pytest.raises(TwoTowerError, match=r"items\.onnx: differs by .* nothing was written"):
        export_towers(run, tmp_path / "towers")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_command_writes_a_folder_and_leaves_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.save(made("ids alone"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["embed", str(run), "towers", "--into", "towers"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("as PyTorch within") == 2
    written = {path.name for path in (tmp_path / "towers").iterdir()}
    assert written == {*FILES} - {"user_ids.json"}
    told = json.loads((tmp_path / "towers" / "towers.json").read_text())
    assert told["run"] == runs.version(run)
    codes = json.loads((tmp_path / "towers" / told["items"]["ids"]["file"]).read_text())
    assert codes["500"] == 1
    with pytest.raises(DataError, match=r"already holds .*\.onnx.*; name another directory$"):
        export_towers(run, tmp_path / "towers")
