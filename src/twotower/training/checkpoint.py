"""Stop anywhere, go on from there: all that a training is, in one file without pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.errors import RunError, reason
from twotower.model.two_tower import TwoTower
from twotower.training.loop import Optimizers, Progress


def save_checkpoint(
    path: Path, model: TwoTower, optimizers: Optimizers, progress: Progress, *, of: str
) -> None:
    """Write the whole state beside ``path``, then rename: a kill leaves the old or the new.

    Args:
        of: what is being trained, so that no other training goes on from this file.

    Raises:
        RunError: it can not be written there; the old file stays.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, value in (progress.best_weights or {}).items():
        tensors[f"best/{name}"] = value
    for number, optimizer in enumerate(optimizers.parts):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                # LazyAdam counts its steps in a plain number, Adam in a tensor.
                kept = value if isinstance(value, Tensor) else torch.tensor(value)
                kind = "tensor" if isinstance(value, Tensor) else "number"
                tensors[f"optimizer/{number}/{parameter}/{name}/{kind}"] = kept
    about = {
        "of": of,
        "epoch": progress.epoch,
        "history": progress.history,
        "start": progress.start,
        "best_epoch": progress.best_epoch,
    }
    beside = path.with_name(path.name + ".writing")
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    try:
        save_file(contiguous, str(beside), metadata={"about": json.dumps(about)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path}: the checkpoint can not be written ({reason(error)}); make room or name "
            "another place"
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, model: TwoTower, optimizers: Optimizers, *, of: str
) -> Progress | None:
    """Put the state back; None where there is no such file or it is of another training.

    Raises:
        RunError: it is there and can not be read.
    """
    try:
        with safe_open(str(path), "pt", device="cpu") as file:
            about = json.loads((file.metadata() or {})["about"])
            if about["of"] != of:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        # A kill leaves a whole file, so a broken one is none of ours.
        return None
    except OSError as error:
        raise RunError(
            f"{path}: the checkpoint can not be read ({reason(error)}); mend that, or train "
            "without resume"
        ) from None
    model.load_state_dict(_part(tensors, "model/"))
    states: list[dict[int, dict[str, Tensor | int]]] = [{} for _ in optimizers.parts]
    for key, value in _part(tensors, "optimizer/").items():
        number, parameter, name, kind = key.split("/")
        state = states[int(number)].setdefault(int(parameter), {})
        state[name] = value if kind == "tensor" else int(value)
    for optimizer, loaded in zip(optimizers.parts, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": loaded, "param_groups": groups})
    best = _part(tensors, "best/")
    return Progress(
        about["epoch"], about["history"], about["best_epoch"], best or None, about["start"]
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
