"""Stop anywhere, go on from there: all that a training is, in one file without pickle."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.data.arrays import written
from twotower.errors import RunError, reason
from twotower.model.two_tower import TwoTower
from twotower.training.loop import Keep, Optimizers, Progress, Weights

# A table of so many bytes is copied to the disk: more memory is a machine, more disk is not.
LARGE = 2**28


def keeping(folder: Path) -> Keep:
    """Copies a model's weights, those of large tables into that folder and not into memory."""

    def keep(model: TwoTower) -> Weights:
        return {
            name: _on_disk(value, folder) if value.nbytes >= LARGE else value.detach().clone()
            for name, value in model.state_dict().items()
        }

    return keep


def _on_disk(value: Tensor, folder: Path) -> Tensor:
    try:
        return torch.from_numpy(written(value.detach().cpu().numpy(), folder))
    except OSError as error:
        raise RunError(
            f"{folder}: the best weights can not be written ({reason(error)}); make room or "
            "name another place"
        ) from None


def save_checkpoint(
    path: Path,
    model: TwoTower,
    optimizers: Optimizers,
    progress: Progress,
    *,
    of: str,
    seconds: float = 0.0,
) -> None:
    """Write the whole state beside ``path``, then rename: a kill leaves the old or the new.

    Args:
        of: what is being trained, so that no other training goes on from this file.
        seconds: what all of the training took so far.

    Raises:
        RunError: it can not be written there; the old file stays.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    if not _is_best(progress.epoch, progress.best_epoch):
        for name, value in (progress.best_weights or {}).items():
            tensors[f"best/{name}"] = value
    for number, optimizer in enumerate(optimizers.parts):
        for weight, moments in optimizer.moments.items():
            for name, value in moments.items():
                tensors[f"adam/{number}/{weight}/{name}"] = value
    about = {
        "of": of,
        "epoch": progress.epoch,
        "history": progress.history,
        "start": progress.start,
        "best_epoch": progress.best_epoch,
        "seconds": seconds,
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

    Large tables of the best weights stay in the file, or go where ``keeping`` puts them.

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
    for key, value in _part(tensors, "adam/").items():
        number, weight, name = key.split("/")
        optimizer = optimizers.parts[int(number)]
        moments = optimizer.moments.setdefault(int(weight), {})
        moments[name] = value.to(optimizer.weights[int(weight)].device)
    epoch, best_epoch = about["epoch"], about["best_epoch"]
    is_best = _is_best(epoch, best_epoch)
    best = keeping(path.parent)(model) if is_best else _part(tensors, "best/")
    return Progress(epoch, about["history"], best_epoch, best or None, about["start"])


def seconds_kept(folder: Path) -> float:
    """What a training took by the last of its checkpoints; 0 where none of them says."""
    most = 0.0
    for path in folder.glob("*.safetensors"):
        with suppress(OSError, SafetensorError, KeyError, ValueError):
            with safe_open(str(path), "pt", device="cpu") as file:
                about = json.loads((file.metadata() or {})["about"])
            most = max(most, float(about["seconds"]))
    return most


def _is_best(epoch: int, best_epoch: int) -> bool:
    """Whether the model as it stands is the best, and written once."""
    return epoch == best_epoch > 0


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
