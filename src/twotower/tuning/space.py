"""What may be tuned: the settings that have an effect for this data, and their values.

What the user's config sets is held fixed; what it leaves out, or leaves to ``auto``, is tuned.
The untouched default lies in the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from twotower.config import Config
from twotower.data.interactions import histories
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.errors import ConfigError
from twotower.training.resolve import contenders, resolve, tell_something

Value = bool | int | float | str | tuple[int, ...]
_LAYERS: tuple[tuple[int, ...], ...] = ((), (64,), (256, 128), (512, 256))
_READING: tuple[tuple[int, ...], ...] = ((), (128,), (256,), (512,))
# A history cut shorter than this share of all is a setting that matters.
_MOST_HISTORIES = 0.9
_LARGEST_RATE = 10.0
_POOLED = ("mean", "weighted", "attention")
# What defaults of other settings follow from.
LEADS = frozenset(
    {
        "training.loss",
        "training.negatives_from",
        "model.history",
        "model.user_ids",
        "model.item_ids",
    }
)


@dataclass(frozen=True)
class Knob:
    """One setting: its name in the config, its default, and what else it may be.

    Attributes:
        name: ``section.key``.
        values: the values to choose from; empty for a range of numbers.
        low, high: the ends of the range.
        is_log: whether it is searched on a scale of logarithms.
    """

    name: str
    default: Any
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False

    def widened_to(self, other: Knob) -> Knob:
        """The knob with the other one's values, too: a range may follow from other settings.

        >>> Knob("training.margin", 1.0, low=0.1, high=2.0).widened_to(
        ...     Knob("training.margin", 3.0, low=0.5, high=9.0)
        ... )
        Knob(name='training.margin', default=1.0, values=(), low=0.1, high=9.0, is_log=False)
        """
        return replace(
            self,
            values=tuple(dict.fromkeys([*self.values, *other.values])),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )


Pick = Callable[[Knob], Value]


@dataclass(frozen=True)
class Shape:
    """What of the data decides which settings have an effect.

    Attributes:
        users_differ, items_differ: by any feature.
        rank: the smaller one of how many users and how many items were met.
        num_rows: positives in train.
        history: nearly all users like no more items than this.
        kinds: of history that ``train`` tries; its first is the default's.
    """

    users_differ: bool
    items_differ: bool
    rank: int
    num_items: int
    num_rows: int
    history: int
    kinds: tuple[str, ...]


def shape_of(dataset: Dataset, parts: Split, config: Config) -> Shape:
    """The shape of what is learned from: train, and nothing held out."""
    train, liked = parts.train, parts.train.positives()
    met = [np.unique(rows) for rows in (liked.user_rows, liked.item_rows)]
    lengths = histories(liked, num_users=len(dataset.users)).lengths()
    return Shape(
        users_differ=tell_something(dataset.users, train.user_rows, config.model),
        items_differ=tell_something(dataset.items, train.item_rows, config.model),
        rank=min(map(len, met)),
        num_items=len(dataset.items),
        num_rows=len(liked),
        history=int(np.quantile(lengths[lengths > 0], _MOST_HISTORIES)) if len(liked) else 0,
        kinds=tuple({each.model.history: 0 for each in contenders(config, dataset, parts)}),
    )


@dataclass(frozen=True)
class Space:
    """All configs that a search may try.

    Attributes:
        given: the config as the user wrote it; what it sets stays.
    """

    given: Config
    dataset: Dataset
    parts: Split
    shape: Shape
    _settled: dict[tuple[Value, ...], Config] = field(default_factory=dict)

    def config(self, pick: Pick) -> Config:
        """The config that these choices make, nothing left on ``auto``.

        Args:
            pick: is asked for a value of each knob that matters under what was picked before;
                ``lambda knob: knob.default`` gives the untouched default.
        """
        return self._config(pick, self._is_free)

    def knobs(self) -> list[Knob]:
        """What is tuned beside the default.

        Raises:
            ConfigError: nothing, as the config sets it all.
        """
        found = self._knobs(self._is_free)
        if not found:
            names = ", ".join(knob.name for knob in self._knobs(lambda _: True))
            raise ConfigError(
                "the config sets all that could be tuned here; take out of it, or put on auto, "
                f"what is to be searched, of {names}"
            )
        return found

    def _config(self, pick: Pick, is_free: Callable[[str], bool]) -> Config:
        hand = _Hand(self._settle(self.given), is_free, pick)
        # What is on auto follows from these, so they come first.
        for turn in (_turn_loss, _turn_history, _turn_ids):
            turn(hand, self.shape)
            hand.config = self._settle(hand.applied_to(self.given))
        _turn_model(hand, self.shape)
        _turn_training(hand, self.shape)
        return hand.config

    def _knobs(self, is_free: Callable[[str], bool]) -> list[Knob]:
        found: list[Knob] = []

        def default(knob: Knob) -> Value:
            found.append(knob)
            value: Value = knob.default
            return value

        self._config(default, is_free)
        return found

    def _is_free(self, name: str) -> bool:
        section, key = name.split(".")
        part = getattr(self.given, section)
        return key not in part.model_fields_set or getattr(part, key) == "auto"

    def _settle(self, config: Config) -> Config:
        """Nothing left on ``auto``; looking at all features once for each case is enough."""
        model = config.model
        training = config.training
        case = (
            training.loss,
            training.negatives_from,
            model.history,
            model.user_ids,
            model.item_ids,
        )
        if case not in self._settled:
            self._settled[case] = resolve(config, self.dataset, self.parts)
        return self._settled[case]


class _Hand:
    """Turns one knob after the other."""

    def __init__(self, config: Config, is_free: Callable[[str], bool], pick: Pick) -> None:
        self.config = config
        self._is_free = is_free
        self._pick = pick
        self._picked: dict[str, Value] = {}

    def choose(self, name: str, values: Sequence[Value]) -> None:
        """One of these values, or the default."""
        default = value_of(self.config, name)
        every = tuple(values) if default in values else (*values, default)
        if len(every) > 1:
            self._turn(Knob(name, default, every))

    def scale(self, name: str, low: float, high: float, *, is_log: bool = False) -> None:
        """A number between these, or up to the default where that lies outside."""
        default = value_of(self.config, name)
        ends = {"low": min(low, default), "high": max(high, default)}
        self._turn(Knob(name, default, is_log=is_log, **ends))

    def may_have(self, name: str) -> bool:
        """Whether a setting is on, or could be."""
        return self._is_free(name) or bool(value_of(self.config, name))

    def applied_to(self, config: Config) -> Config:
        """A config with what was picked so far."""
        for name, value in self._picked.items():
            config = with_value(config, name, value)
        return config

    def _turn(self, knob: Knob) -> None:
        if self._is_free(knob.name):
            self._picked[knob.name] = self._pick(knob)
            self.config = with_value(self.config, knob.name, self._picked[knob.name])


def _turn_loss(hand: _Hand, _shape: Shape) -> None:
    # Where histories can be read, softmax won by so much that trials of others are wasted
    # (benchmarks/LOG.md); where labels hold dislikes, bce is what its own loss is judged by.
    if hand.config.training.loss == "in_batch_softmax":
        hand.choose("training.loss", ["in_batch_softmax", "bpr"])
    training = hand.config.training
    if training.loss == "in_batch_softmax" and not training.negatives:
        hand.choose("training.negatives_from", ["in_batch", "mixed"])


def _turn_history(hand: _Hand, shape: Shape) -> None:
    # Under softmax there must be one; without one, features or ids must tell users apart.
    is_needed = not shape.users_differ and not hand.may_have("model.user_ids")
    if hand.config.training.loss == "softmax":
        kinds = shape.kinds if "mean" not in shape.kinds else (*shape.kinds, *_POOLED[1:])
        hand.choose("model.history", kinds)
    elif not is_needed:
        hand.choose("model.history", ["none", *_POOLED])


def _turn_ids(hand: _Hand, shape: Shape) -> None:
    # The other losses are learned from ids first, and features stand in for them.
    if hand.config.training.negatives_from == "labels":
        if shape.users_differ or hand.config.model.history != "none":
            hand.choose("model.user_ids", [False, True])
        if shape.items_differ:
            hand.choose("model.item_ids", [False, True])


def _turn_model(hand: _Hand, shape: Shape) -> None:
    model, loss = hand.config.model, hand.config.training.loss
    # Beyond the rank there is nothing that a dimension more could say.
    hand.choose("model.embedding_dim", [d for d in (32, 64, 128, 256) if d <= shape.rank])
    if shape.users_differ:
        hand.choose("model.user_hidden_dims", _LAYERS)
    if shape.items_differ:
        hand.choose("model.item_hidden_dims", _LAYERS)
    if model.history in _POOLED:
        hand.choose("model.history_hidden_dims", _READING)
    if _has_layers(hand.config, shape):
        hand.scale("model.dropout", 0.0, 0.6)
    if loss == "softmax" and model.normalize:
        # Under the other losses it is learned.
        at_first = float(model.temperature)
        hand.scale("model.temperature", at_first / 3, at_first * 3, is_log=True)
    if _stand_ins(hand.config, shape):
        hand.scale("model.id_dropout", 0.0, 0.5)
    if model.history != "none":
        lengths = [length for length in (20, 50, 100, 200) if length < shape.history]
        hand.choose("model.history_length", lengths)
        hand.scale("model.history_dropout", 0.0, 0.9)
    # Popularity that was asked for needs biases to be added to.
    if model.item_ids and loss not in {"triplet", "ccl"} and model.popularity in {"auto", 0}:
        hand.choose("model.item_bias", [True, False])
        if not hand.config.model.item_bias:
            hand.config = with_value(hand.config, "model.popularity", 0.0)


def _has_layers(config: Config, shape: Shape) -> bool:
    model = config.model
    return bool(
        (shape.users_differ and model.user_hidden_dims)
        or (shape.items_differ and model.item_hidden_dims)
        or (model.history in _POOLED and model.history_hidden_dims)
    )


def _stand_ins(config: Config, shape: Shape) -> bool:
    """Whether there is something that can stand in for an id or a history that is hidden."""
    model = config.model
    return bool(
        (model.user_ids and shape.users_differ)
        or (model.item_ids and shape.items_differ)
        or (model.history != "none" and (shape.users_differ or model.user_ids))
    )


def _turn_training(hand: _Hand, shape: Shape) -> None:
    model, training = hand.config.model, hand.config.training
    size = training.batch_size
    assert size != "auto"
    sizes = [size // 4, size // 2, size, size * 2, size * 4]
    hand.choose(
        "training.batch_size", [n for n in sizes if 1 <= n <= max(shape.num_rows, size)]
    )
    if training.negatives and training.negatives_from != "labels":
        counts = [n for n in (512, 1024, 2048, 4096, 8192) if n < shape.num_items]
        hand.choose("training.negatives", counts)
    if shape.users_differ or shape.items_differ or _has_layers(hand.config, shape):
        _scale_rate(hand, "training.learning_rate")
        hand.choose("training.weight_decay", [0.0, 1e-5, 1e-4, 1e-3])
    if model.user_ids or model.item_ids:
        _scale_rate(hand, "training.embedding_learning_rate")
    if training.loss in {"triplet", "warp"}:
        hand.scale("training.margin", 0.1, 4.0, is_log=True)
    if training.loss == "ccl":
        hand.scale("training.margin", 0.1, 0.9)
        hand.scale("training.negative_weight", 1.0, 300.0, is_log=True)


def _scale_rate(hand: _Hand, name: str) -> None:
    rate = value_of(hand.config, name)
    hand.scale(name, rate / 10, min(rate * 10, _LARGEST_RATE), is_log=True)


def value_of(config: Config, name: str) -> Any:
    """A setting by its name.

    >>> value_of(Config(), "model.text_dim")
    64
    """
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def with_value(config: Config, name: str, value: Value) -> Config:
    """The config with one setting changed.

    >>> with_value(Config(), "model.embedding_dim", 64).model.embedding_dim
    64
    """
    section, key = name.split(".")
    part = getattr(config, section).model_copy(update={key: value})
    return config.model_copy(update={section: part})


def space_of(given: Config, dataset: Dataset, parts: Split) -> Space:
    """The space of a config, as the user wrote it, on some data."""
    return Space(given, dataset, parts, shape_of(dataset, parts, given))
