"""How far each axis goes until ``train`` says, before it begins, that memory does not suffice.

The training step of ``benchmarks.growing``, with a table of ids on both sides; one axis is
doubled until the estimate is above so many GiB.

    python -m benchmarks.room [GIB]
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.growing import BATCH, Size
from benchmarks.throughput_world import CATEGORY_DIM, HIDDEN
from twotower.config import parse_config
from twotower.data.memory import GIB, largest_first
from twotower.training import memory
from twotower.training.choices import settled

AXES = ("users", "items", "dimension", "features")


def parts(size: Size) -> dict[str, float]:
    """What the training is estimated to take, in bytes, by what for."""
    model = {
        "embedding_dim": size.dimension,
        "category_dim": CATEGORY_DIM,
        "user_hidden_dims": list(HIDDEN),
        "item_hidden_dims": list(HIDDEN),
        "history": "none",
        "user_ids": True,
        "item_ids": True,
    }
    training = {"loss": "in_batch_softmax", "negatives_from": "in_batch", "batch_size": BATCH}
    config = parse_config({"model": model, "training": training})
    whole = settled(config.training, "in_batch_softmax", size.items)
    # A category is its code and a place for it.
    width = 2 * size.features
    counted = memory.Size(size.users, size.items, size.rows, width, width, has_folder=True)
    return memory.bytes_to_train(counted, config.model_copy(update={"training": whole}))


def main() -> None:
    gib = float(sys.argv[1]) if len(sys.argv) > 1 else 16.0
    print(f"{gib:g} GiB\n")
    print("| axis | fits | takes, GiB | most of it | twice as much takes, GiB |")
    print("|---|--:|--:|---|--:|")
    for axis in AXES:
        number = getattr(Size(), axis)
        while sum(parts(replace(Size(), **{axis: 2 * number})).values()) <= gib * GIB:
            number *= 2
        now, more = (parts(replace(Size(), **{axis: n})) for n in (number, 2 * number))
        most = largest_first(now).split(", ")[0]
        print(
            f"| {axis} | {number:,} | {sum(now.values()) / GIB:.1f} | {most} "
            f"| {sum(more.values()) / GIB:.1f} |"
        )


if __name__ == "__main__":
    main()
