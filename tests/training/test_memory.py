"""What is too large is refused before the work begins, with an estimate and a way that fits."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import yaml

from twotower.config import Config, DataConfig, parse_config
from twotower.data.memory import available_bytes, bytes_to_read, require_room_to_read
from twotower.errors import ConfigError, DataError
from twotower.training.choices import settled
from twotower.training.memory import Size, bytes_to_train, require_room

SHOP = Size(users=1_000_000, items=100_000, rows=50_000_000)


def settings(size: Size = SHOP, memory_gib: float = 16, **sections: dict[str, Any]) -> Config:
    """Settings with nothing on auto, as a training has them."""
    model = {"history": "mean", "user_ids": False, "item_ids": True, "embedding_dim": 128}
    model |= {"item_neighbours": 0, "history_hidden_dims": []}
    training = {"loss": "in_batch_softmax", "batch_size": 2048, **sections.get("training", {})}
    config = parse_config(
        {
            "model": {**model, **sections.get("model", {})},
            "training": training,
            "data": {"memory_gib": memory_gib},
        }
    )
    loss = config.training.loss
    assert loss != "auto"
    whole = settled(config.training, loss, size.items)
    return config.model_copy(update={"training": whole})


def refused(size: Size, config: Config) -> str:
    with pytest.raises(ConfigError) as error:
        require_room(size, config)
    return str(error.value)


def as_advised(config: Config, message: str) -> Config:
    """The config with the first way that the message names."""
    way = message.split("what fits: ")[1].split("; or ")[0]
    if "hidden_dims" in way:
        narrow: dict[str, tuple[int, ...]] = {"history_hidden_dims": (256,)}
        if "history" not in way:
            narrow = {"user_hidden_dims": (256, 128), "item_hidden_dims": (256, 128)}
        return config.model_copy(update={"model": config.model.model_copy(update=narrow)})
    for section, name, value in re.findall(r"(\w+)\.(\w+) ([\w,]+)", way):
        read = yaml.safe_load(value.replace(",", ""))
        part = getattr(config, section).model_copy(update={name: read})
        config = config.model_copy(update={section: part})
    return config


def test_what_fits_goes_through() -> None:
    require_room(SHOP, settings())


TOO_LARGE = {
    "a batch": (SHOP, {"training": {"batch_size": 1_048_576}}, "for comparing 1,048,576 rows"),
    "a catalogue of 10 M items": (
        replace(SHOP, items=10_000_000),
        {"training": {"loss": "softmax"}},
        "for tables of 10,000,000 ids",
    ),
    "all of 10 M items as others": (
        replace(SHOP, items=10_000_000),
        {
            "training": {"loss": "softmax", "negatives_from": "all"},
            "model": {"embedding_dim": 8},
        },
        "with 10,000,000 others",
    ),
    "100 M users": (replace(SHOP, users=100_000_000), {}, "for vectors of 100,100,000 users"),
    "layers": (
        SHOP,
        {"model": {"item_hidden_dims": (65_536, 65_536)}},
        "for layers, their moments and the best of them",
    ),
    "layers that read histories": (
        SHOP,
        {"model": {"history_hidden_dims": (65_536, 65_536)}},
        "for layers, their moments and the best of them",
    ),
    "a thousand neighbours": (
        replace(SHOP, items=1_000_000),
        {"model": {"item_neighbours": 1000}},
        "for 1,000 neighbours of 1,000,000 items",
    ),
    "a table of 100 M users": (
        replace(SHOP, users=100_000_000),
        {"model": {"user_ids": True}},
        "for tables of 100,100,000 ids",
    ),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_is_refused_with_what_it_is_and_a_way_that_fits(case: str) -> None:
    size, sections, what = TOO_LARGE[case]
    config = settings(size, **sections)
    message = refused(size, config)
    assert what in message
    assert "16.0 GiB are free" in message
    require_room(size, as_advised(config, message))


def test_a_batch_is_no_larger_than_there_are_rows() -> None:
    small = Size(users=100, items=100, rows=1000)
    require_room(small, settings(small, 0.5, training={"batch_size": 1_048_576}))


def test_where_no_setting_helps_it_says_so() -> None:
    message = refused(replace(SHOP, users=2**31), settings())
    assert "leave out whoever met next to nothing, or use a machine with more" in message


@pytest.mark.parametrize(
    "more", ["users", "items", "rows", "user_width", "item_width", "texts"]
)
@pytest.mark.parametrize("loss", ["bce", "in_batch_softmax", "softmax", "warp"])
def test_more_of_anything_never_takes_less(more: str, loss: str) -> None:
    sizes = [replace(SHOP, **{more: getattr(SHOP, more) + extra}) for extra in (0, 500_000)]
    taken = [
        sum(bytes_to_train(size, settings(size, training={"loss": loss})).values())
        for size in sizes
    ]
    assert taken[0] < taken[1]


def test_words_that_stand_in_for_ids_take_as_much_as_ids_would() -> None:
    parts = [
        sum(
            bytes_to_train(
                replace(SHOP, texts=1, items=50),
                settings(
                    SHOP, model={"item_ids": ids, "embedding_dim": 512, "item_bias": False}
                ),
            ).values()
        )
        for ids in (True, False)
    ]
    assert parts[1] > parts[0] + 0.9 * 16_384 * (512 - 64) * 4 * 4


def test_with_a_folder_for_the_best_weights_a_large_table_is_there_three_times() -> None:
    taken = [
        sum(bytes_to_train(replace(SHOP, items=items, has_folder=there), settings()).values())
        for items in (10_000, 10_000_000)
        for there in (False, True)
    ]
    # A small one is copied in memory all the same.
    assert taken[0] == taken[1]
    assert taken[2] - taken[3] == 10_000_000 * settings().model.dim * 4


def test_an_id_column_of_100_m_distinct_values_is_refused_before_it_is_read() -> None:
    parts = bytes_to_read(
        num_interactions=100_000_000,
        num_ids={"users": 100_000_000, "items": 1000},
        num_cells=0,
        has_text_ids=True,
    )
    with pytest.raises(DataError, match=r"ids of 100,000,000 users.* 8.0 GiB are free; leave"):
        require_room_to_read("shop", parts, DataConfig(memory_gib=8))


def read_ids(users: int, memory_gib: float, *, is_text: bool) -> str:
    """What is said of so many users; "" where they fit."""
    parts = bytes_to_read(
        num_interactions=10_000_000,
        num_ids={"users": users},
        num_cells=0,
        has_text_ids=is_text,
    )
    config = DataConfig(memory_gib=memory_gib)
    try:
        require_room_to_read("shop", parts, config, num_ids=users, has_text_ids=is_text)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("is_text", [True, False])
def test_of_too_many_ids_it_says_how_many_would_fit(is_text: bool) -> None:
    found = re.search(r"about ([\d,]+) ids would fit", read_ids(10**9, 8, is_text=is_text))
    assert found
    fit = int(found[1].replace(",", ""))
    assert not read_ids(fit, 8, is_text=is_text)
    assert read_ids(fit * 11 // 10, 8, is_text=is_text)


def test_of_ids_that_are_texts_it_says_what_numbers_would_take() -> None:
    message = read_ids(100_000_000, 8, is_text=True)
    assert message.endswith("whole numbers take 2.2 GiB in place of 8.0 GiB, which fits")
    assert not read_ids(100_000_000, 8, is_text=False)
    assert read_ids(100_000_000, 2, is_text=True).endswith("in place of 8.0 GiB")
    assert "whole numbers" not in read_ids(10**9, 8, is_text=False)


def test_nothing_is_said_of_ids_where_interactions_are_too_many() -> None:
    assert "ids would fit" not in read_ids(1000, 0.1, is_text=True)


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_shell_is_what_there_is(limit: str) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.{limit}, (2**31, 2**31))\n"
        "from twotower.data.memory import available_bytes\n"
        "from twotower.config import DataConfig\n"
        "print(available_bytes(DataConfig()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0 < int(done.stdout) < 2**31, done.stderr


def test_there_is_something_here() -> None:
    assert available_bytes(DataConfig()) > 2**20
