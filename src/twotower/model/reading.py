"""A file of weights -> towers that read their tables from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from twotower.config import ModelConfig
from twotower.data.features import FeatureShape
from twotower.model.two_tower import TwoTower


def read_towers(path: Path, config: ModelConfig, shapes: Mapping[str, Any]) -> TwoTower:
    """The towers of a file; of a table a row is read when somebody asks for it.

    What is written to them stays in this process: the file is mapped for its own use alone.

    Args:
        config: with nothing left on "auto".
        shapes: what ``TwoTower.shapes`` gave.
    """
    with torch.device("meta"), _NothingDrawn():
        model = TwoTower(
            _shape(shapes["user_shape"]),
            _shape(shapes["item_shape"]),
            config,
            **{
                name: shapes[name]
                for name in ("user_ids", "item_ids", "words")
                if name in shapes
            },
        )
    tables = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    # What products are made with begins where it did in training (see ``save_aligned``).
    weights = {
        name: each if name in tables else each.clone()
        for name, each in load_file(str(path)).items()
    }
    model.load_state_dict(weights, assign=True)
    return model.eval()


class _NothingDrawn(TorchFunctionMode):
    """Weights that a file will replace are not drawn first.

    To draw them without memory, on the device "meta", imports PyTorch's compiler, which takes
    longer than most runs take to load.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _shape(values: Mapping[str, Any]) -> FeatureShape:
    return FeatureShape(
        values["num_ids"],
        values["dense"],
        tuple(values["categories"]),
        tuple((size, is_text) for size, is_text in values["bags"]),
    )
