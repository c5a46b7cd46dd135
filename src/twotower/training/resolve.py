"""What ``auto`` means: the choices that the data makes where the config makes none."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from twotower.config import Config, ModelConfig
from twotower.data.arrays import rows_met
from twotower.data.encoders import fit_encoder
from twotower.data.entities import Entities
from twotower.data.interactions import Interactions
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.errors import ConfigError
from twotower.training.choices import ALL_ITEMS, settled

# From so many on larger batches lose nothing, and make an epoch shorter.
_MANY_LIKED = 500_000
# With fewer interactions than this, an id is learned by heart.
_ENOUGH_FOR_AN_ID = 20
# So many others lend an item's id what they learn, where items are many and each is met rarely.
_NEIGHBOURS = 10
# Who is met less often than this, on average, may be told better by features without a history.
_LONG_HISTORY = 20
# With so many liked, half the temperature may be better, and validation can tell.
_MANY_TO_TRY = 250_000


def contenders(config: Config, dataset: Dataset, parts: Split) -> tuple[Config, ...]:
    """Settings with nothing on ``auto`` but ``model.popularity``, which validation chooses.

    Several where validation has to choose between them.

    The more is known of an item, the finer a softmax may tell it from others before it knows
    train by heart: how fine, only trying tells. And where the order of interactions is known,
    and what comes next is asked for, a user may well be where they are now and not all they
    ever were. What features say of a user may be drowned by a history of two or three items.

    Raises:
        ConfigError: nothing would tell users, or items, from one another.
    """
    first = resolve(config, dataset, parts)
    if first.training.loss != "softmax":
        return (first,)
    found, liked = [first], np.count_nonzero(parts.train.labels > 0.5)
    if config.model.temperature == "auto" and liked >= _MANY_TO_TRY:
        assert first.model.temperature != "auto"
        found.append(_with(first, temperature=first.model.temperature / 2))
    is_timed = parts.train.times is not None and parts.name in {"time", "given"}
    in_order = parts.name == "leave_last" or is_timed
    if config.model.history == "auto" and in_order:
        found.append(resolve(_with(config, history="transformer"), dataset, parts))
    if config.model.history == "auto" and _may_need_no_history(dataset, parts, config.model):
        # Something that was asked for may go with a history only.
        with suppress(ConfigError):
            found.append(resolve(_with(config, history="none"), dataset, parts))
    return tuple(found)


def _may_need_no_history(dataset: Dataset, parts: Split, model: ModelConfig) -> bool:
    rows = parts.train.user_rows
    return _rows_each(rows) < _LONG_HISTORY and tell_something(dataset.users, rows, model)


def _with(config: Config, **settings: Any) -> Config:
    """The config, some settings of its model replaced."""
    return config.model_copy(update={"model": config.model.model_copy(update=settings)})


def resolve(config: Config, dataset: Dataset, parts: Split) -> Config:
    """Replace each ``auto`` by what the data asks for; the run's config.yaml shows it.

    ``model.popularity`` stays on it where validation has to choose.

    Raises:
        ConfigError: nothing would tell users, or items, from one another.
    """
    train, model, training = parts.train, config.model, config.training
    liked = train.labels > 0.5
    # A column that is the same for all who are met is there and tells nothing.
    has_user_features = tell_something(dataset.users, train.user_rows, model)
    has_item_features = tell_something(dataset.items, train.item_rows, model)
    # Whether those whom validation asks for are ever among those whom train met.
    are_users_known = bool(np.isin(parts.val.user_rows, rows_met(train.user_rows)).any())
    are_items_known = bool(np.isin(parts.val.item_rows, rows_met(train.item_rows)).any())
    history, loss = model.history, training.loss
    if history == "auto" and has_user_features and not are_users_known:
        history = "none"
    if loss == "auto":
        mixed = bool(liked.any() and not liked.all())
        loss = "in_batch_softmax" if history == "none" else "softmax"
        loss = "bce" if mixed else loss
    is_in_order = history == "transformer"
    training = settled(training, loss, len(dataset.items), is_in_order=is_in_order)
    from_labels = loss in {"bce", "triplet"} and training.negatives_from == "labels"
    if history == "auto":
        history = "none" if from_labels else "mean"
    history_dropout = model.history_dropout
    if history_dropout == "auto":
        pooled = 0.25 if loss == "softmax" else 0.5
        history_dropout = 0.0 if history == "transformer" else pooled
    is_pooled = loss == "softmax" and history not in {"none", "transformer"}
    user_ids, item_ids = model.user_ids, model.item_ids
    if user_ids == "auto":
        often = _rows_each(train.user_rows) >= _ENOUGH_FOR_AN_ID
        is_told = has_user_features and (not often or not are_users_known)
        user_ids = history == "none" and not is_told
    if item_ids == "auto":
        often = _rows_each(train.item_rows) >= _ENOUGH_FOR_AN_ID
        by_features = from_labels or (history == "none" and not user_ids)
        is_told = has_item_features and (not are_items_known or (by_features and not often))
        item_ids = not is_told
    history_hidden = model.history_hidden_dims
    if history_hidden == "auto":
        history_hidden = (256,) if is_pooled and item_ids else ()
    num_items = len(dataset.items)
    neighbours = _neighbours(model, num_items, has_ids=bool(item_ids), is_pooled=is_pooled)
    dim = model.embedding_dim
    if dim == "auto":
        dim = 512 if loss == "softmax" and not item_ids else 128
    stop = training.early_stopping_metric
    if stop == "auto":
        stop = "loss" if loss == "bce" and from_labels else "ndcg"
    # A distance, or an angle, knows no bias.
    item_bias = model.item_bias and bool(item_ids) and loss not in {"triplet", "ccl"}
    rate, embedding_rate = training.learning_rate, training.embedding_learning_rate
    if rate == "auto":
        beside_ids = loss == "softmax" and history != "transformer" and bool(item_ids)
        rate = 2e-4 if beside_ids and (has_user_features or has_item_features) else 1e-3
    if embedding_rate == "auto":
        embedding_rate = 3e-3 if loss == "softmax" else 10 * rate
    temperature = model.temperature
    if temperature == "auto":
        at_first = 0.2 if loss == "bce" else 0.1
        if loss == "softmax":
            at_first = (0.75 if item_ids else 0.6) / _log_sparseness(train, one=is_in_order)
        temperature = at_first
    popularity = model.popularity
    if popularity == "auto" and not (item_bias and stop == "ndcg"):
        popularity = 0.0
    if popularity and not item_bias:
        raise ConfigError(
            f"model.popularity {popularity} is added to the biases of items, and there are "
            f"none (model.item_bias and item_ids, and not loss {loss!r}); set it to 0"
        )
    if loss == "ccl" and not model.normalize:
        raise ConfigError(
            "training.loss 'ccl' compares cosines, and model.normalize false leaves none; set "
            "it to true or use another loss"
        )
    batch_size = training.batch_size
    if batch_size == "auto":
        many = np.count_nonzero(liked) >= _MANY_LIKED
        batch_size = 256 if from_labels else 4096 if many else 2048
    if not user_ids and history == "none" and not has_user_features:
        raise ConfigError(
            "model: users have no features that differ, and with user_ids false and history "
            "'none' nothing tells one from another; allow one of them"
        )
    if not item_ids and not has_item_features:
        raise ConfigError(
            "model: items have no features that differ, and with item_ids false nothing tells "
            "one from another; set item_ids to true"
        )
    return config.model_copy(
        update={
            "model": model.model_copy(
                update={
                    "embedding_dim": dim,
                    "history": history,
                    "history_dropout": history_dropout,
                    "history_hidden_dims": history_hidden,
                    "temperature": temperature,
                    "user_ids": user_ids,
                    "item_ids": item_ids,
                    "item_neighbours": neighbours,
                    "item_bias": item_bias,
                    "popularity": popularity,
                }
            ),
            "training": training.model_copy(
                update={
                    "batch_size": batch_size,
                    "learning_rate": rate,
                    "embedding_learning_rate": embedding_rate,
                    "early_stopping_metric": stop,
                }
            ),
            "data": config.data.model_copy(update={"split": parts.name}),
        }
    )


def _neighbours(model: ModelConfig, num_items: int, *, has_ids: bool, is_pooled: bool) -> int:
    if model.item_neighbours == "auto":
        return _NEIGHBOURS if has_ids and is_pooled and num_items > ALL_ITEMS else 0
    if model.item_neighbours and not has_ids:
        raise ConfigError(
            f"model.item_neighbours {model.item_neighbours} lend to items' ids, and there are "
            "none; set model.item_ids to true, or this to 0"
        )
    return model.item_neighbours


def _log_sparseness(train: Interactions, *, one: bool) -> float:
    """The log of items an item that an average user likes.

    A temperature of a score over this makes what has that score as likely as all that has 0.

    Args:
        one: whether one item alone is to be found, the next, and not all that a user likes.
    """
    positives = train.positives()
    num_items = len(rows_met(positives.item_rows))
    liked = 1.0 if one else max(_rows_each(positives.user_rows), 1.0)
    sparseness = num_items / liked
    return float(np.log(max(sparseness, np.exp(2.0))))


def tell_something(entities: Entities, rows: np.ndarray, model: ModelConfig) -> bool:
    """Whether a feature differs among those who were met."""
    met = rows_met(rows) - 1
    return any(
        fit_encoder(entities.columns[name], values[met], model) is not None
        for name, values in entities.values.items()
    )


def _rows_each(rows: np.ndarray) -> float:
    return len(rows) / max(len(rows_met(rows)), 1)
