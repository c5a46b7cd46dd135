"""What the other tests rely on: no call of the package is of shapes that do not go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

import shapes
from twotower.model.losses import bpr

MODULE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from nowhere import Nobody

def outer(
    x: Float[Tensor, " A"], y: Float[Tensor, " B"], asked: Nobody | None = None
) -> Float[Tensor, "A B"]:
    return x[:, None] * y if asked is None else asked

@dataclass(frozen=True)
class Pair:
    x: Float[Tensor, " A"]
    y: Float[Tensor, " A"]

    @property
    def product(self) -> Float[Tensor, ""]:
        return self.x * self.y

    @classmethod
    def of(cls, x: Float[Tensor, "A 2"]) -> Pair:
        return cls(x[:, 0], x[:, 1])
"""


def test_arguments_results_and_fields_of_other_shapes_or_types_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shaped.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with shapes.enforce("shaped"):
        import shaped  # type: ignore[import-not-found]
    two, three = torch.ones(2), torch.ones(3)
    assert shaped.outer(two, three).shape == (2, 3)
    assert shaped.outer(three, three).shape == (3, 3)
    assert shaped.Pair.of(torch.ones(3, 2)).x.shape == (3,)
    for wrong in (
        lambda: shaped.outer(torch.ones(2, 2), three),
        lambda: shaped.outer(two.int(), three),
        lambda: shaped.outer(two, np.ones(3, np.float32)),
        lambda: shaped.outer(two, three, torch.ones(3, 2)),
        lambda: shaped.outer(two, three, 3),
        lambda: shaped.Pair(two, three),
        lambda: shaped.Pair(two, two).product,
        lambda: shaped.Pair.of(three),
    ):
        with pytest.raises(BeartypeCallHintViolation):
            wrong()


def test_the_package_is_checked() -> None:
    assert bpr(torch.ones(3), torch.ones(3, 2)).shape == ()
    with pytest.raises(BeartypeCallHintViolation):
        bpr(torch.ones(3), torch.ones(2, 2))
