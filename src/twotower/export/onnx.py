"""Both towers as ONNX, checked on the spot against PyTorch, and how to feed them, in JSON.

DIR/
  users.onnx, items.onnx      rows of inputs -> rows of vectors; their product is the score
  towers.json                 inputs, and column by column how a raw value becomes them
  user_ids.json, item_ids.json    the code of each id, where a tower reads ids
  *.onnx.data                 the weights, where they are larger than ONNX holds in one file
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower import __version__, runs
from twotower.data.encoders import Vector
from twotower.data.features import Encoders, FeatureTable
from twotower.data.interactions import Histories
from twotower.data.plain import all_missing
from twotower.data.writing import whole_directory
from twotower.errors import RequestError, TwoTowerError
from twotower.export.described import described
from twotower.export.padded import (
    HISTORY,
    HISTORY_ID,
    ID,
    LENGTH,
    Inputs,
    PaddedItems,
    PaddedUsers,
)
from twotower.model.history import PackedHistory
from twotower.retrieval.encode import item_vectors
from twotower.retrieval.recommender import Recommender
from twotower.watch import Watch

FILES = ("users.onnx", "items.onnx", "towers.json", "user_ids.json", "item_ids.json")
TOLERANCE = 1e-5
# Rows that are checked.
_ROWS = 256
# A file of ONNX holds at most 2 GiB.
_LARGEST = 1_500_000_000


def export_towers(
    run: str | Path, into: str | Path, *, watch: Watch | None = None
) -> dict[str, float]:
    """Write both towers of a run for use without PyTorch; all files or none appear.

    Returns:
        Of each model the largest difference from PyTorch, as a share of the largest number.

    Raises:
        RunError: the run can not be read.
        RequestError: ONNX is not installed.
        DataError: the folder is taken or can not be written.
        TwoTowerError: a model says something else than PyTorch.
    """
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if find_spec(n) is None]
    if missing:
        raise RequestError(
            f"embed: {', '.join(missing)} not installed: pip install 'twotower[onnx]'"
        )
    watch = watch or Watch()
    recommender = runs.load(run)
    own = [*FILES, "users.onnx.data", "items.onnx.data"]
    with whole_directory(Path(into), own) as place:
        worst = {}
        for name, side in (("users", _users(recommender)), ("items", _items(recommender))):
            watch.stage(f"{name} tower")
            tower, given, expected = side
            _write(tower, given, place / f"{name}.onnx")
            worst[f"{name}.onnx"] = _check(place / f"{name}.onnx", given, expected)
        _describe(recommender, runs.version(Path(run)), place)
    return worst


_Side = tuple["PaddedUsers | PaddedItems", Mapping[str, Tensor], Tensor]


def _users(recommender: Recommender) -> _Side:
    """The user tower, some users, nobody among them, and their vectors by PyTorch."""
    model, count = recommender.model, len(recommender.users)
    rows = np.unique(np.linspace(0, count, min(count + 1, _ROWS)).astype(np.int64))
    rows = np.append(rows, np.argmax(recommender.liked.lengths()))
    codes = rows * recommender.user_has_own_id[rows]
    table = _table(recommender.user_encoders, recommender.user_values, rows, codes)
    liked = recommender.liked.latest(recommender.config.model.history_length)
    items, lengths = liked.pack(rows)[0], liked.lengths()[rows]
    mine = Histories(np.r_[0, 0, np.cumsum(lengths)], items.astype(np.int32))
    expected = recommender.encode_users(table, mine)
    packed = None
    if model.history is not None:
        embeddings = recommender.item_vectors[:, :-1]
        packed = PackedHistory.of(liked, rows, embeddings, recommender.item_ids)
    return PaddedUsers(model), Inputs.of_users(model).of(table, packed), expected


def _items(recommender: Recommender) -> _Side:
    """The item tower, some items, an unknown one among them, and their vectors by PyTorch."""
    model, count = recommender.model, len(recommender.items)
    rows = np.unique(np.linspace(0, count, min(count + 1, _ROWS)).astype(np.int64))
    codes = recommender.item_ids.numpy()[rows]
    table = _table(recommender.item_encoders, recommender.item_values, rows, codes)
    return PaddedItems(model), Inputs.of_items(model).of(table), item_vectors(model, table)


def _table(
    encoders: Encoders, values: Mapping[str, np.ndarray], rows: np.ndarray, codes: np.ndarray
) -> FeatureTable:
    """Rows of features, in row 0 all missing; what a run does not keep (vectors) is made up."""
    rng, given = np.random.default_rng(0), {}
    for name, (column, encoder) in encoders.by_column.items():
        if name in values:
            plain = values[name]
        elif isinstance(encoder, Vector):
            plain = rng.normal(size=(rows.max(), encoder.dimension)).astype(np.float32)
        else:
            continue
        dimension = plain.shape[1] if plain.ndim > 1 else 0
        nobody = all_missing(column, 1, dimension=dimension)
        given[name] = np.concatenate([nobody, plain])[rows]
    return encoders.encode(given, codes)


def _write(tower: PaddedUsers | PaddedItems, given: Mapping[str, Tensor], path: Path) -> None:
    dims: dict[str, Any] = {}
    shapes = tuple(
        {
            place: dims.setdefault(axis, torch.export.Dim(axis))
            for place, axis in enumerate(axes)
            if isinstance(axis, str)
        }
        for axes in tower.inputs.axes.values()
    )
    size = sum(each.numel() * each.element_size() for each in tower.parameters())
    with _silent(), torch.no_grad():
        torch.onnx.export(
            tower.eval(),
            tuple(given.values()),
            path,
            input_names=list(given),
            output_names=["vector"],
            dynamic_shapes={"inputs": shapes},
            dynamo=True,
            external_data=size > _LARGEST,
            verbose=False,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter has much to say of itself and of packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _check(path: Path, given: Mapping[str, Tensor], expected: Tensor) -> float:
    """The largest difference from PyTorch, of many rows at once and of single ones."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = max(float(expected.abs().max()), 1.0)
    worst = 0.0
    for rows in (slice(None), slice(0, 1), slice(len(expected) - 1, None)):
        feed = {name: each[rows].numpy() for name, each in given.items()}
        [found] = session.run(None, feed)
        worst = max(worst, float(np.abs(found - expected[rows].numpy()).max()) / largest)
    if not worst <= TOLERANCE:
        raise TwoTowerError(
            f"{path.name}: differs by {worst:.1e} from PyTorch, where {TOLERANCE:.0e} is "
            "allowed; nothing was written, please report the versions of torch and onnxruntime"
        )
    return worst


def _describe(recommender: Recommender, run: str, place: Path) -> None:
    model = recommender.model
    sides = {
        "users": described(recommender.user_encoders, Inputs.of_users(model)),
        "items": described(recommender.item_encoders, Inputs.of_items(model)),
    }
    for name, ids, known in (
        ("users", recommender.users, recommender.user_has_own_id),
        ("items", recommender.items, recommender.has_own_id),
    ):
        side = sides[name]
        side["id_column"] = ids.column
        if ID in side["inputs"] or (name == "items" and HISTORY_ID in sides["users"]["inputs"]):
            file = f"{name[:-1]}_ids.json"
            side["ids"] = {"file": file, "how": "the code of an id; 0 for one not in the file"}
            rows = np.flatnonzero(known[1:]) + 1
            keys = map(ids.key, ids.of(rows))
            _write_json(place / file, dict(zip(keys, rows.tolist(), strict=True)))
    if HISTORY in sides["users"]["inputs"]:
        sides["users"]["history"] = {
            "longest": recommender.config.model.history_length,
            HISTORY: "vectors that items.onnx gave, oldest first; behind the last anything",
            LENGTH: "how many of them count",
        }
    _write_json(
        place / "towers.json",
        {
            "format": 1,
            "run": run,
            "written_by": f"twotower {__version__}",
            "score": "the inner product of a user's and an item's vector",
            "affinity": {
                "how": "1 / (1 + exp(-(slope * score + offset)))",
                "slope": float(model.slope),
                "offset": float(model.offset.detach()),
            },
            "lists": "a row each, 0 behind the last code; at least one column",
            **sides,
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
