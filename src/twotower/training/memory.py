"""What a training will take: from counts alone, before it begins, and a way that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from twotower.config import Config
from twotower.data.arrays import BLOCK
from twotower.data.memory import available_bytes, in_words, largest_first
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.errors import ConfigError
from twotower.training.checkpoint import LARGE
from twotower.training.neighbours import step_reads_most

_FLOAT, _ROW = 4, 8
# Rows of logits that the softmax losses hold at once; scores that the others do.
_SOFTMAX_ROWS, _BLOCK_SCORES = 256, 2**21
# Numbers that a column of a kind becomes; a category's code is a row number.
_WIDTHS = {"numeric": 1, "boolean": 1, "timestamp": 7, "categorical": 2, "list": 4, "text": 40}
# Of a neighbour that is kept, and of one while all are found.
_NEIGHBOUR, _FINDING = 12, 90
# What can be halved, and to what at least; where the batch alone does it, nothing is lost.
_LEVERS = (
    ("training", "batch_size", 64),
    ("training", "negatives", 64),
    ("training", "memory_batches", 1),
    ("model", "history_length", 8),
    ("model", "embedding_dim", 8),
    ("model", "item_neighbours", 1),
)
# Scores of all items for a block of users; finding the best of them takes as much twice.
_RANKED = 2**24
_SAMPLED = 8192
_NARROW = (256, 128)


@dataclass(frozen=True)
class Size:
    """Counts that memory depends on.

    Attributes:
        rows: interactions that are learned from.
        user_width, item_width: numbers that a user's or an item's features are.
        texts: columns of texts, each of which has a table of its own.
        is_kept: whether interactions, and what is made of them, stay on the disk.
        has_folder: whether there is a folder for a large table's best weights to wait in.
    """

    users: int
    items: int
    rows: int
    user_width: int = 0
    item_width: int = 0
    texts: int = 0
    is_timed: bool = True
    is_kept: bool = False
    has_folder: bool = False

    @classmethod
    def of(cls, dataset: Dataset, parts: Split, *, has_folder: bool) -> Size:
        """Those of a data set."""
        kinds = {
            who: [column.kind for column in entities.columns.values()]
            for who, entities in (("user", dataset.users), ("item", dataset.items))
        }
        vectors = {
            "user": sum(v.shape[1] for v in dataset.users.values.values() if v.ndim == 2),
            "item": sum(v.shape[1] for v in dataset.items.values.values() if v.ndim == 2),
        }
        width = {
            who: vectors[who] + sum(_WIDTHS.get(kind, 0) for kind in kinds[who])
            for who in kinds
        }
        return cls(
            len(dataset.users),
            len(dataset.items),
            len(parts.train) + len(parts.val),
            width["user"] + vectors["user"],
            width["item"] + vectors["item"],
            sum(kind == "text" for both in kinds.values() for kind in both),
            parts.train.times is not None,
            isinstance(parts.train.user_rows, np.memmap),
            has_folder,
        )


def bytes_to_train(size: Size, config: Config) -> dict[str, float]:
    """About what a training takes at its peak beside the data, by what for.

    Args:
        config: with nothing left on "auto".
    """
    model, training = config.model, config.training
    dim = model.dim
    ids = size.items * bool(model.item_ids), size.users * bool(model.user_ids)
    # Texts of users and items with neither ids nor histories have longer embeddings.
    each_word = model.text_dim if model.item_ids else max(model.text_dim, dim)
    tables = [*(rows * dim for rows in ids), size.texts * model.text_buckets * each_word]
    # Weights and two moments; a gradient of all rows where a step reads all or most, which it
    # never does of users.
    is_whole = training.negatives_from == "all" or step_reads_most(config, size.items)
    kept = 3 * sum(tables) + is_whole * (sum(tables) - ids[1] * dim)
    best = [n for n in tables if not size.has_folder or n * _FLOAT < LARGE]
    history = 0.0 if model.history == "none" else min(float(model.history_length), _each(size))
    count = model.item_neighbours
    assert count != "auto"
    # What stays; or, where that is more, what finding them takes before there are moments.
    near = max(_NEIGHBOUR * count, bool(count) * _FINDING * (count + 1) - 3 * _FLOAT * dim)
    parts = {
        f"for tables of {sum(ids):,} ids, their moments and the best of them": _FLOAT
        * (kept + sum(best)),
        "for layers, their moments and the best of them": 5 * _FLOAT * _layers(size, config),
        "for histories": (not size.is_kept) * size.rows * (_FLOAT + _ROW * (size.is_timed + 1))
        + min(size.rows, BLOCK) * 6 * _ROW
        + 4 * _ROW * size.users,
        f"for {count:,} neighbours of {size.items:,} items": size.items * near,
        "for features": _FLOAT
        * (size.users * (2 + 2 * size.user_width) + size.items * (2 + 2 * size.item_width)),
        **_step(size, config, history),
        "for ranking": 3 * _FLOAT * min(_RANKED, size.users * size.items),
        f"for vectors of {size.users + size.items:,} users and items": 2
        * _FLOAT
        * (size.users + size.items)
        * (dim + 1),
    }
    return {what: float(part) for what, part in parts.items() if part}


def _layers(size: Size, config: Config) -> int:
    """Numbers of the dense layers."""
    model = config.model
    dim = model.dim
    towers = (
        (size.user_width, *model.user_hidden_dims, dim),
        (size.item_width, *model.item_hidden_dims, dim),
    )
    numbers = sum(one * next_one for tower in towers for one, next_one in pairwise(tower))
    if model.history == "transformer":
        numbers += 12 * dim * dim * model.history_layers
    elif reading := _reading(config):
        widths = (dim, *reading, dim)
        numbers += sum(one * next_one for one, next_one in pairwise(widths))
    return numbers


def _reading(config: Config) -> tuple[int, ...]:
    """Widths of the layers that read a pooled history."""
    model = config.model
    if model.history in {"none", "transformer"}:
        return ()
    assert model.history_hidden_dims != "auto"
    return model.history_hidden_dims


def _each(size: Size) -> float:
    return size.rows / max(size.users, 1)


def _step(size: Size, config: Config, history: float) -> dict[str, float]:
    """What one step holds."""
    model, training = config.model, config.training
    assert training.batch_size != "auto"
    assert training.negatives != "auto"
    source = training.negatives_from
    rows = min(training.batch_size, max(size.rows, 1))
    drawn = training.negatives if source in {"uniform", "popularity", "mixed"} else 0
    in_batch = rows * (source in {"in_batch", "mixed"})
    remembered = rows * training.memory_batches
    others = size.items if source == "all" else drawn + in_batch + remembered
    met = rows * history
    items = min(size.items, rows + drawn + met) if source != "all" else size.items
    hidden = (*model.user_hidden_dims, *_reading(config))
    layers = {
        "user": size.user_width + 3 * model.dim + 3 * sum(hidden),
        "item": size.item_width + 3 * model.dim + 3 * sum(model.item_hidden_dims),
    }
    # What a layer made and its gradient.
    towers = 2 * _FLOAT * (rows * layers["user"] + items * layers["item"])
    towers += met * (2 * _FLOAT * model.dim + 3 * _ROW)
    is_softmax = training.loss in {"softmax", "in_batch_softmax"}
    logits = 2 * _FLOAT * others * min(_SOFTMAX_ROWS, rows)
    if not is_softmax:
        logits = 6 * _FLOAT * min(others * rows, max(_BLOCK_SCORES, others))
    # Which of the others are none at all: a byte each, and once more while it is looked up.
    masks = 2 * rows * others if others and source != "all" else 0
    return {
        f"for the layers of a step of {rows:,} rows": towers,
        f"for comparing {rows:,} rows with {others:,} others": float(logits + masks),
    }


def require_room(size: Size, config: Config) -> None:
    """Says that a training does not fit before it begins, and what would.

    Raises:
        ConfigError: it needs more memory than there is.
    """
    there = available_bytes(config.data)
    parts = bytes_to_train(size, config)
    if sum(parts.values()) <= there:
        return
    ways = [way for lever in _LEVERS if (way := _smaller(size, config, [lever], there))]
    for words, other in _others(config):
        if _fits(size, other, there):
            ways.append(words)
        elif not ways:
            every = [[lever] for lever in _LEVERS] + [list(_LEVERS)]
            found = [way for some in every if (way := _smaller(size, other, some, there))]
            ways += [f"{words} with {way}" for way in found[:1]]
    if not ways and (together := _smaller(size, config, _LEVERS, there)):
        ways.append(together)
    else_ = "leave out whoever met next to nothing, or use a machine with more"
    raise ConfigError(
        f"the training takes about {in_words(sum(parts.values()))} of memory beside the data "
        f"({largest_first(parts)}), and {in_words(float(there))} are free; "
        + (f"what fits: {'; or '.join(ways)}" if ways else else_)
    )


def _others(config: Config) -> Iterator[tuple[str, Config]]:
    """Other choices that take less, in words."""
    model, training = config.model, config.training
    if training.negatives_from == "all":
        sampled = training.model_copy(update={"negatives_from": "mixed", "negatives": _SAMPLED})
        words = f"training.negatives_from mixed with training.negatives {_SAMPLED:,}"
        yield words, config.model_copy(update={"training": sampled})
    narrow = model.model_copy(update={"user_hidden_dims": _NARROW, "item_hidden_dims": _NARROW})
    if max((*model.user_hidden_dims, *model.item_hidden_dims), default=0) > max(_NARROW):
        words = f"model.user_hidden_dims and item_hidden_dims {list(_NARROW)}"
        yield words, config.model_copy(update={"model": narrow})
    if sum(_reading(config)) > _NARROW[0]:
        words = f"model.history_hidden_dims {[_NARROW[0]]}"
        reading = model.model_copy(update={"history_hidden_dims": _NARROW[:1]})
        yield words, config.model_copy(update={"model": reading})
    if model.user_ids and model.history != "none":
        without = model.model_copy(update={"user_ids": False})
        yield "model.user_ids false", config.model_copy(update={"model": without})


def _fits(size: Size, config: Config, there: int) -> bool:
    return sum(bytes_to_train(size, config).values()) <= there


def _smaller(
    size: Size, config: Config, levers: Sequence[tuple[str, str, int]], there: int
) -> str:
    """Settings halved until it fits, in words; "" where that is not to be reached."""
    first = config
    while not _fits(size, config, there):
        before = config
        for lever in levers:
            config = _halved(size, config, *lever)
        if config is before:
            return ""
    changed = [
        f"{section}.{name} {getattr(getattr(config, section), name):,}"
        for section, name, _ in levers
        if getattr(config, section) != getattr(first, section)
        and getattr(getattr(config, section), name) != getattr(getattr(first, section), name)
    ]
    return " with ".join(changed)


def _halved(size: Size, config: Config, section: str, name: str, least: int) -> Config:
    """The config with half of a setting; the very same where that would be no help."""
    part = getattr(config, section)
    value = getattr(part, name)
    if value // 2 < least:
        return config
    smaller = part.model_copy(update={name: value // 2})
    other = config.model_copy(update={section: smaller})
    needs = [sum(bytes_to_train(size, each).values()) for each in (config, other)]
    return other if needs[1] < needs[0] else config
