"""The run directory: written whole or not at all, read, refused.

    runs/<time>-<name>/
      config.yaml             every default filled in
      metrics.json            what was measured, and on what
      history.json            one list a quantity, an entry an epoch
      model.safetensors       weights
      encoders/*.json         what turns raw values into rows
      embeddings/*            ids (Parquet), vectors and what else each row has (safetensors)
      interactions.safetensors  what each user met and liked
      blend.safetensors       what items of histories add to the scores of others, if they do
      manifest.json           format number, when it was written, shapes, sha256 of all files
      report.html             all of it for people, if it was drawn
      trace.json.gz           the first steps of the training, if it was profiled
      index.json, index-*.faiss  an approximate index of the items, if it was built

Nothing is pickled, so loading a run can not run code. Report, trace and index are not in the
manifest: ``index.json`` has the sha256 of its index and of the vectors that it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from twotower.config import Config, Kind, parse_config
from twotower.data import engine
from twotower.data.entities import plain_ids, plain_values
from twotower.data.features import encoders_from_json
from twotower.data.ids import Ids
from twotower.data.interactions import Histories
from twotower.data.schema import Column
from twotower.data.writing import write_parquet
from twotower.errors import RunError, TwoTowerError, reason
from twotower.model.reading import read_towers
from twotower.report.page import REPORT
from twotower.retrieval.approximate import ApproximateIndex
from twotower.retrieval.blend import Blend
from twotower.retrieval.encode import save_aligned
from twotower.retrieval.recommender import Recommender
from twotower.training.stages import TRACE

FORMAT = 1
_USER_VALUES = "user_values."
MANIFEST = "manifest.json"
INDEX = "index.json"
_VECTORS = "embeddings/vectors.safetensors"
_BLEND = "blend.safetensors"


def save(
    recommender: Recommender,
    directory: str | Path,
    *,
    report: bytes | None = None,
    trace: bytes | None = None,
) -> Path:
    """Write a run; it appears under its name only when it is whole.

    Args:
        report: the page to put into it, if there is one.
        trace: what a profile of the training recorded, if there is one.

    Raises:
        RunError: something is there already, or it can not be written.
    """
    directory = Path(directory)
    if directory.exists():
        raise RunError(f"{directory}: already exists; choose another name or remove it")
    beside = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    try:
        beside.mkdir(parents=True)
        _write(recommender, beside, {REPORT: report, TRACE: trace})
        beside.rename(directory)
    except (OSError, SafetensorError, duckdb.Error, TwoTowerError) as error:
        raise RunError(
            f"{directory}: can not be written ({reason(error)}); make room or name another "
            "place (nothing was left behind)"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return directory


def _write(
    recommender: Recommender, place: Path, for_people: Mapping[str, bytes | None]
) -> None:
    for part in ("encoders", "embeddings"):
        (place / part).mkdir()
    (place / "config.yaml").write_text(recommender.config.to_yaml(), encoding="utf-8")
    _write_json(place / "metrics.json", recommender.metrics)
    _write_json(place / "history.json", recommender.history)
    _write_json(place / "encoders" / "users.json", recommender.user_encoders.to_json())
    _write_json(place / "encoders" / "items.json", recommender.item_encoders.to_json())
    state = recommender.model.state_dict()
    weights = {name: value.contiguous() for name, value in state.items()}
    save_file(weights, str(place / "model.safetensors"))
    for name, ids, values in (
        ("users", recommender.users, recommender.user_values),
        ("items", recommender.items, recommender.item_values),
    ):
        # Vectors are not for showing, and a table of them would be the largest file.
        shown = {column: each for column, each in values.items() if each.ndim == 1}
        table = place / "embeddings" / f"{name}.parquet"
        write_parquet({ids.column: ids.values, **shown}, table)
    vectors = {
        "users": recommender.user_vectors.contiguous(),
        "items": recommender.item_vectors.contiguous(),
    }
    save_aligned(vectors, place / _VECTORS)
    rows = {
        "has_own_id": torch.from_numpy(recommender.has_own_id),
        "user_has_own_id": torch.from_numpy(recommender.user_has_own_id),
        "removed": torch.tensor(sorted(recommender.removed), dtype=torch.int64),
    }
    # Whoever has liked something new is encoded again, from all that is known.
    rows |= {
        _USER_VALUES + column: torch.from_numpy(each)
        for column, each in recommender.user_values.items()
        if each.ndim > 1
    }
    save_file(rows, str(place / "embeddings" / "rows.safetensors"))
    # Where all that was met is liked, both are one array, and a file holds none twice.
    is_one = np.may_share_memory(recommender.seen.items, recommender.liked.items)
    as_tensor = torch.tensor if is_one else torch.from_numpy
    met = {
        f"{name}_{part}": as_tensor(array)
        for name, each in (("seen", recommender.seen), ("liked", recommender.liked))
        for part, array in (("offsets", each.offsets), ("items", each.items))
    }
    save_file(met, str(place / "interactions.safetensors"))
    if recommender.blend is not None:
        recommender.blend.write(place / _BLEND)
    files = sorted(path for path in place.rglob("*") if path.is_file())
    for path in files:
        # safetensors makes files that only their owner may read.
        path.chmod((place / "config.yaml").stat().st_mode)
    manifest = {
        "format": FORMAT,
        "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "model": recommender.model.shapes(),
        "columns": {"users": recommender.users.column, "items": recommender.items.column},
        "files": {path.relative_to(place).as_posix(): _sha256(path) for path in files},
    }
    _write_json(place / MANIFEST, {**manifest, "sha256": _digest(manifest)})
    for name, content in for_people.items():
        if content is not None:
            (place / name).write_bytes(content)
    for path in filter(Path.is_file, place.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def load(directory: str | Path) -> Recommender:
    """Read a run back.

    Raises:
        RunError: no run, another format, or a file that is missing or was changed.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    for name in manifest["files"]:
        _check_file(directory, name, manifest)
    config = read_run_config(directory)
    vectors = load_file(str(directory / _VECTORS))
    rows = load_file(str(directory / "embeddings/rows.safetensors"))
    met = load_file(str(directory / "interactions.safetensors"))
    towers = directory / "model.safetensors"
    model = read_towers(towers, config.model, manifest["model"])
    columns = manifest["columns"]
    users, user_values = _read_table(directory, "users", columns["users"])
    items, item_values = _read_table(directory, "items", columns["items"])
    return Recommender(
        config=config,
        model=model,
        user_encoders=encoders_from_json(_read_json(directory / "encoders" / "users.json")),
        item_encoders=encoders_from_json(_read_json(directory / "encoders" / "items.json")),
        users=users,
        items=items,
        user_values={
            **user_values,
            **{
                name.removeprefix(_USER_VALUES): value.numpy()
                for name, value in rows.items()
                if name.startswith(_USER_VALUES)
            },
        },
        item_values=item_values,
        user_vectors=vectors["users"],
        item_vectors=vectors["items"],
        seen=Histories(met["seen_offsets"].numpy(), met["seen_items"].numpy()),
        liked=Histories(met["liked_offsets"].numpy(), met["liked_items"].numpy()),
        has_own_id=rows["has_own_id"].numpy(),
        user_has_own_id=rows["user_has_own_id"].numpy(),
        removed=frozenset(rows["removed"].tolist()),
        blend=Blend.read(directory / _BLEND) if _BLEND in manifest["files"] else None,
        metrics=_read_json(directory / "metrics.json"),
        history=_read_json(directory / "history.json"),
    )


def write_index(index: ApproximateIndex, directory: Path) -> None:
    """Put an index beside the vectors of a run; it takes the place of an earlier one at once.

    Raises:
        RunError: no such run, or it can not be written; what was there is still there.
    """
    manifest = read_manifest(directory)
    beside = directory / f".index.{secrets.token_hex(4)}"
    try:
        figures = index.write(beside)
        entry = {**figures, "lists": _sha256(beside), "vectors": manifest["files"][_VECTORS]}
        lists = _lists_of(directory, entry)
        _put(beside, lists)
        _write_json(beside, {**entry, "sha256": _digest(entry)})
        _put(beside, directory / INDEX)
        # A service that has mapped an earlier one keeps it.
        for old in set(directory.glob("index-*.faiss")) - {lists}:
            old.unlink()
    except (OSError, RuntimeError) as error:
        raise RunError(f"{directory}: no index can be written ({reason(error)})") from None
    finally:
        beside.unlink(missing_ok=True)


def read_index(directory: Path) -> ApproximateIndex | None:
    """The index of a run, mapped from its file; None if there is none.

    Raises:
        RunError: it is of other vectors, or was changed.
        RequestError: faiss is not installed.
    """
    if not (directory / INDEX).is_file():
        return None
    again = f"`twotower index {directory}` makes it again"
    try:
        entry = dict(_read_json(directory / INDEX))
        is_whole = entry.pop("sha256", None) == _digest(entry)
        lists = _lists_of(directory, entry)
        is_whole = is_whole and lists.is_file() and _sha256(lists) == entry["lists"]
    except (OSError, ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise RunError(f"{directory}: the index is not whole or was changed; {again}")
    if entry["vectors"] != read_manifest(directory)["files"][_VECTORS]:
        raise RunError(f"{directory}: the index belongs to other vectors; {again}")
    return ApproximateIndex.read(lists, entry)


def _lists_of(directory: Path, entry: Mapping[str, Any]) -> Path:
    return directory / f"index-{entry['lists'][:12]}.faiss"


def _put(path: Path, into: Path) -> None:
    """Move a file to its place when the disk has it, readable by whoever may enter the run."""
    path.chmod((into.parent / MANIFEST).stat().st_mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(into)


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a run says of itself.

    Raises:
        RunError: no run there, or one of another format.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such run; `twotower runs` lists those there are")
    try:
        manifest = dict(_read_json(directory / MANIFEST))
        found = int(manifest["format"])
        is_whole = manifest.pop("sha256", None) == _digest(manifest)
    except FileNotFoundError:
        raise RunError(
            f"{directory}: is no run ({MANIFEST} is missing); `twotower runs` lists those "
            "there are"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{directory}: {MANIFEST} was changed and can not be read; restore it, or train "
            "again"
        ) from None
    if found > FORMAT:
        raise RunError(
            f"{directory}: {MANIFEST} says format {found}, written by a later version; this "
            f"one reads {FORMAT}. Upgrade twotower, or train again"
        )
    if found < FORMAT:
        raise RunError(
            f"{directory}: {MANIFEST} says format {found}, which is no longer read; train again"
        )
    if not is_whole:
        raise RunError(
            f"{directory}: {MANIFEST} was changed after training; restore it, or train again"
        )
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_file(directory: Path, name: str, manifest: Mapping[str, Any]) -> None:
    path = directory / name
    if not path.is_file():
        raise RunError(f"{directory}: {name} is missing; restore it, or train again")
    if _sha256(path) != manifest["files"][name]:
        raise RunError(
            f"{directory}: {name} was changed after training (its sha256 is not that of "
            f"{MANIFEST}); restore it, or train again"
        )


def read_run_config(directory: Path) -> Config:
    """The settings of a run, every default filled in.

    Raises:
        RunError: no such run.
    """
    read_manifest(directory)
    text = (directory / "config.yaml").read_text(encoding="utf-8")
    return parse_config(yaml.safe_load(text), where=str(directory / "config.yaml"))


def read_metrics(directory: Path) -> dict[str, Any]:
    """What a run measured, without loading its towers.

    Raises:
        RunError: no run there, one of another format, or one that was changed.
    """
    _check_file(directory, "metrics.json", read_manifest(directory))
    return dict(_read_json(directory / "metrics.json"))


def version(directory: Path) -> str:
    """Twelve letters that only this run has, of its manifest's sha256 and so of it all."""
    return _sha256(directory / MANIFEST)[:12]


def list_runs(root: Path) -> list[Path]:
    """The whole runs in a folder, oldest first; unfinished ones are not runs."""
    if not root.is_dir():
        return []
    found = [d for d in root.iterdir() if d.is_dir() and not d.name.startswith(".")]
    return sorted(d for d in found if (d / MANIFEST).is_file())


def _read_table(directory: Path, name: str, column: str) -> tuple[Ids, dict[str, np.ndarray]]:
    """The ids and the values to be shown."""
    connection = engine.connect()
    table = engine.open_files(
        connection, name, str(directory / "embeddings" / f"{name}.parquet")
    )
    found = table.fetch({name: engine.quote(name) for name in table.types})
    ids = Ids(column, plain_ids(found.pop(column)))
    values = {}
    for other, value in found.items():
        sql_type = table.types[other]
        kind: Kind = "list" if sql_type.endswith("]") else "numeric"
        kind = "text" if sql_type in {"VARCHAR", '"NULL"'} else kind
        values[other] = plain_values(Column(other, sql_type, kind, ""), value)
    return ids, values


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """The value in JSON's own types; JSON has no word for what is no number but null."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
