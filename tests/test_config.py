"""The one file of settings: what is read, what is refused, and in what words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from twotower.config import Config, parse_config, read_config
from twotower.errors import ConfigError

LAB = Path(__file__).parents[1] / "config" / "ranking_config.yaml"
SECTIONS = Config().model_dump()
KEYS = [(section, key) for section, values in SECTIONS.items() for key in values]
VALUES = [
    True,
    False,
    3,
    17,
    0.25,
    "drop",
    "keep",
    "none",
    "time",
    "bce",
    "ease",
    "adamw",
    "bf16",
    "loss",
    "all",
]
VALUES += ["cpu", "a b/ü: #", [], [3, 5], ["ials"], {"users": {"zip code": "ignore"}}]


def refused(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    return str(caught.value)


def after_a_file(config: Config) -> Config:
    return parse_config(yaml.safe_load(config.to_yaml()))


def test_the_labs_file_is_read_as_it_is() -> None:
    config = read_config(LAB)
    written = yaml.safe_load(LAB.read_text(encoding="utf-8"))
    for section, values in written.items():
        read = getattr(config, section).model_dump(mode="json")
        assert {key: read[key] for key in values} == values
    assert config.evaluation == Config().evaluation


@pytest.mark.parametrize("values", [None, {}, {"model": None}, {"data": {}, "training": {}}])
def test_every_section_and_every_key_is_optional(values: Any) -> None:
    assert parse_config(values) == Config()


def test_every_default_is_in_the_file_that_is_written_and_survives_it() -> None:
    written = yaml.safe_load(Config().to_yaml())
    assert [(section, key) for section in written for key in written[section]] == KEYS
    assert after_a_file(Config()) == Config()


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda name: str(name))
def test_every_setting_can_be_changed_and_survives_a_file(section: str, key: str) -> None:
    changed = []
    for value in VALUES:
        try:
            config = parse_config({section: {key: value}})
        except ConfigError:
            continue
        assert after_a_file(config) == config
        changed += [config] if config != Config() else []
    assert changed or (section, key) == ("model", "type")


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().model.dropout = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda name: str(name))
def test_a_key_with_a_letter_left_out_is_answered_with_the_key(section: str, key: str) -> None:
    for place in range(len(key) if len(key) > 4 else 0):
        misspelt = key[:place] + key[place + 1 :]
        if misspelt in SECTIONS[section]:
            continue
        said = refused({section: {misspelt: 1}})
        assert f"{section}.{misspelt}: unknown key; did you mean {key}?" in said


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"modle": {}}, "modle: unknown key; did you mean model?"),
        ({"training": {"lr": 1}}, "training.lr: unknown key; did you mean learning_rate?"),
        ({"evaluation": {"x": 1}}, "known keys: k, baselines, baseline_seconds, bootstrap"),
        ({"x": 1}, "known keys: model, training, data, evaluation"),
        ({7: 1}, "7: Keys should be strings (got 7)"),
    ],
)
def test_an_unknown_key_is_answered_with_known_ones(values: Any, hint: str) -> None:
    assert hint in refused(values)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"training": {"epochs": 0}}, ["training.epochs", "greater than or equal to 1", "0"]),
        ({"training": {"margin": float("inf")}}, ["training.margin", "finite", "inf"]),
        ({"training": {"epochs": True}}, ["training.epochs", "true or false (got True)"]),
        ({"evaluation": {"k": [5, True]}}, ["evaluation.k", "true or false (got [5, True])"]),
        ({"model": {"item_neighbours": False}}, ["item_neighbours", "true or false"]),
        ({"training": {"seed": "x"}}, ["training.seed", "valid integer", "'x'"]),
        ({"model": {"dropout": 1}}, ["model.dropout", "less than 1", "1"]),
        ({"model": {"user_ids": "no!"}}, ["model.user_ids", "boolean or 'auto'", "'no!'"]),
        (
            {"data": {"split": "best"}},
            ["data.split", "'time', 'leave_last'", "'auto'", "'best'"],
        ),
        ({"evaluation": {"k": []}}, ["evaluation.k", "at least 1 item", "got []"]),
        ({"evaluation": {"k": [5, 0]}}, ["evaluation.k.1", "or equal to 1", "0"]),
        ({"evaluation": {"k": [0]}}, ["config: evaluation.k.0", "or equal to 1"]),
        ({"evaluation": {"k": 5}}, ["evaluation.k", "should be a list (got 5)"]),
        ({"data": {"columns": {"users": {"a": "b"}}}}, ["data.columns.users.a", "'b'"]),
        ({"model": [1]}, ["model", "expected keys with values", "[1], a list"]),
        ([1], ["expected sections such as 'model:'", "[1], a list"]),
        ("model", ["expected sections such as 'model:'", "'model', a str"]),
    ],
)
def test_an_impossible_value_is_named_with_what_is_wanted_and_what_was_found(
    values: Any, parts: list[str]
) -> None:
    said = refused(values)
    assert "\n" not in said
    for part in parts:
        assert part in said


@given(st.lists(st.sampled_from(KEYS), min_size=1, unique=True))
def test_all_mistakes_come_at_once_a_line_each(keys: list[tuple[str, str]]) -> None:
    values: dict[str, dict[str, Any]] = {}
    for section, key in keys:
        values.setdefault(section, {})[key] = {"?": ["?"]}
    first, *lines = refused(values).splitlines()
    if len(keys) == 1:
        assert first.startswith(f"config: {'.'.join(keys[0])}")
        return
    assert first == f"config has {len(keys)} errors:"
    assert len(lines) == len(keys)
    for section, key in keys:
        assert sum(
            line.startswith((f"  {section}.{key}:", f"  {section}.{key}.")) for line in lines
        )


def test_a_mistake_in_a_file_is_told_with_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epoch: 3}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: training\.epoch: .*mean epochs\?"):
        read_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model:\n  dropout: [1\ntraining: {}\n", r"not valid YAML \(line 3, column 9: "),
        (b"a: 1\n b: 2\n", r"not valid YAML \(line 2, column 3: mapping values"),
        (b"a: !!python/object:os.system 1\n", r"\(line 1, column 4: could not determine"),
        (b"a: 2024-99-99\n", r"not valid YAML \(month must be in 1\.\.12"),
        (b"\xff\xfe\xfd", r"can not be read \('utf-8' codec .* give a YAML text file"),
        (b"a: \x00", r"not valid YAML \(.*special characters are not allowed"),
        (b"a: " + b"[" * 600, "not valid YAML"),
        (b"model: {}\ndata: {}\nmodel: {}\n", r"\(line 3, column 1: the key 'model' is there"),
        (
            b"training: {epochs: 1, epochs: 2}\n",
            r"line 1, column 23: .*'epochs' is there twice",
        ),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_the_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", ".", "mine.yaml/below", "a\0b", "x" * 300])
def test_a_path_without_a_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(ConfigError, match=r"give (the path of )?a YAML"):
        read_config(tmp_path / name)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.dates(min_value=date(1900, 1, 1)),
    st.sampled_from(["auto", "bce", "time", -1, 0, 1, 0.5, 1e-3]),
    st.integers(4299, 4301).map(lambda digits: 10**digits),
)
words = st.sampled_from([*SECTIONS, *(key for _, key in KEYS)]) | scalars
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
nearly = st.fixed_dictionaries(
    {},
    optional={
        section: st.fixed_dictionaries(
            {}, optional=dict.fromkeys(SECTIONS[section], scalars | anything)
        )
        | anything
        for section in SECTIONS
    },
)


def hold(read: Callable[[], Config], where: str) -> None:
    """What is read survives a file; what is refused is so in words that can be printed."""
    try:
        config = read()
    except ConfigError as error:
        said = str(error)
    else:
        assert after_a_file(config) == config
        return
    assert where in said
    assert said.encode()


@settings(max_examples=300)
@given(anything | nearly)
def test_any_values_are_a_config_or_a_config_error(values: Any) -> None:
    hold(lambda: parse_config(values, where="here"), "here")


SYNTAX = [
    "model",
    ": ",
    "\n",
    "  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    '"',
    "'",
    "&a ",
    "*a",
    "!!",
    "|",
]
SYNTAX += [
    "training:\n  ",
    "epochs: 3\n",
    "? ",
    "<<: ",
    "%YAML",
    "---\n",
    "#",
    "1_0",
    ".inf",
    "\t",
]
SYNTAX += ["!!python/name:os.system ", "\\ud800", "2024-01-01", "!!binary x", "\x07", "\u2028"]
files = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(SYNTAX), max_size=12).map(lambda parts: "".join(parts).encode()),
)


@settings(max_examples=400)
@given(files)
def test_any_bytes_are_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    hold(lambda: read_config(path), "any.yaml")
