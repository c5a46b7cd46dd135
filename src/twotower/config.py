"""One YAML file -> one frozen ``Config``: every default, bound and unit.

The lab's ``ranking_config.yaml`` is a valid file; every section and every key is optional.
``"auto"`` leaves a choice to the data; ``resolve`` in ``pipeline`` makes it and the run's own
``config.yaml`` holds what was chosen.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twotower.errors import ConfigError, join_mistakes, reason

Kind = Literal[
    "user_id",
    "item_id",
    "id",
    "numeric",
    "boolean",
    "categorical",
    "list",
    "text",
    "vector",
    "timestamp",
    "weight",
    "rating",
    "label",
    "ignore",
]
Baseline = Literal["popularity", "recent_popularity", "item_knn", "ease", "ials"]
Loss = Literal["bce", "triplet", "bpr", "in_batch_softmax", "softmax"]
SplitName = Literal[
    "given",
    "time",
    "leave_last",
    "random_per_user",
    "random",
    "cold_items",
    "cold_users",
]
_WANTED = "Input should be "
Width = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Section(BaseModel):
    """A part of the file: frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelConfig(Section):
    """The two towers."""

    type: Literal["two_tower"] = Field("two_tower", description="the only kind there is")
    embedding_dim: Width = Field(128, description="length of an embedding, D")
    user_hidden_dims: tuple[Width, ...] = Field(
        (256, 128), description="hidden layers of the user tower; [] for a linear tower"
    )
    item_hidden_dims: tuple[Width, ...] = Field(
        (256, 128), description="hidden layers of the item tower; [] for a linear tower"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="share of hidden units dropped")
    normalize: bool = Field(True, description="embeddings of length 1")
    temperature: Annotated[float, Field(ge=0.001, le=1000)] | Literal["auto"] = Field(
        "auto",
        description="what scores are divided by, where embeddings have length 1; under the "
        "losses of pairs only where learning it begins; auto: under softmax 0.75 / log(items / "
        "items a user), by which a score of 0.75 makes a user's items as likely as all that "
        "score 0; else 0.2 for bce, 0.1 for the others",
    )
    user_ids: bool | Literal["auto"] = Field(
        "auto",
        description="an embedding for each user's id; auto: only without a history, which says "
        "what the id would, and never where users have features but under 20 interactions each",
    )
    item_ids: bool | Literal["auto"] = Field(
        "auto",
        description="an embedding for each item's id; auto: yes, but under bce and triplet not "
        "where items have features but under 20 interactions each",
    )
    id_dropout: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of ids, and of whole histories, hidden in training, so that the "
        "other features learn to carry users and items that have none yet",
    )
    category_dim: Width = Field(16, description="length of a category's embedding")
    text_dim: Width = Field(64, description="length of a text's embedding")
    text_buckets: Annotated[int, Field(ge=16, le=2**26)] = Field(
        16_384, description="rows of the table that n-grams are hashed into"
    )
    history: Literal["auto", "none", "mean", "weighted", "attention", "transformer"] = Field(
        "auto",
        description="how a user's past items become one vector; mean: of their embeddings; "
        "weighted: by how recent they are; attention: by what they are, both learned; "
        "transformer: read in order, each item found from those before it; auto: mean, but "
        "none for bce and triplet",
    )
    history_length: Width = Field(500, description="how many of the last items count, L")
    history_layers: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="blocks of the transformer that reads histories"
    )
    history_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="share of a history's items hidden in training; auto: 0.5, but 0 for a "
        "transformer",
    )
    item_bias: bool = Field(
        True, description="one learned number an item, in the score; goes with item_ids"
    )


class TrainingConfig(Section):
    """How the towers learn."""

    loss: Loss | Literal["auto"] = Field(
        "auto",
        description="auto: bce where labels hold both likes and dislikes, else softmax, or "
        "in_batch_softmax with history none",
    )
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] | Literal["auto"] = Field(
        "auto",
        description="interactions of a step; softmax takes whole users until there are so "
        "many; auto: 256 for bce and triplet, 2,048 for the others",
    )
    negatives: Annotated[int, Field(ge=0, le=1_048_576)] | Literal["auto"] = Field(
        "auto",
        description="softmax: how many items, drawn anew each step, stand for all others; 0: "
        "all others themselves; auto: all up to 10,000 items, else 2,048",
    )
    learning_rate: Rate | Literal["auto"] = Field(
        "auto",
        description="of the dense layers; auto: 0.0002 under softmax, where they stand beside "
        "ids and histories that know more, else, and with a transformer, 0.001",
    )
    embedding_learning_rate: Rate | Literal["auto"] = Field(
        "auto",
        description="of the tables of ids and item biases; auto: 0.003 under softmax, else ten "
        "times the other",
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="L2 on the dense layers")
    optimizer: Literal["adam", "adamw"] = Field("adam", description="of the dense layers")
    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(200, description="at most")
    early_stopping_patience: Annotated[int, Field(ge=1)] = Field(
        5, description="epochs without a better validation value before it stops"
    )
    refit: bool = Field(
        True,
        description="train once more, on train and validation together, for the number of "
        "epochs that validation chose",
    )
    early_stopping_metric: Literal["auto", "loss", "ndcg"] = Field(
        "auto", description="auto: loss for bce (as the lab), ndcg@10 for the others"
    )
    margin: float = Field(1.0, gt=0, description="triplet: squared distance to keep")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        42, description="of everything random: split, weights, order of the batches"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: cuda, else mps (Apple), else cpu"
    )


class DataConfig(Section):
    """Where the tables are and what they mean."""

    data_path: str | None = Field(None, description="the data folder")
    users: str | None = Field(None, description="users table, when not <data_path>/users.*")
    items: str | None = Field(None, description="items table, when it can not be told")
    interactions: str | None = Field(None, description="interactions, when elsewhere")
    train: str | None = Field(None, description="given split: file or glob of train")
    val: str | None = Field(None, description="given split: file or glob of validation")
    test: str | None = Field(None, description="given split: file or glob of test")
    columns: dict[Literal["users", "items", "interactions"], dict[str, Kind]] = Field(
        default_factory=dict, description="kinds of columns, where the inferred one is wrong"
    )
    rating_threshold: float | None = Field(
        None,
        description="label = rating >= this; null: the label column, else every interaction "
        "counts as positive",
    )
    split: SplitName | Literal["auto"] = Field(
        "auto",
        description="auto: given where the folder has train/test, else time where "
        "interactions have one, else random_per_user",
    )
    test_fraction: float = Field(0.2, ge=0, lt=1, description="share held out for test")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of train for validation")
    orphans: Literal["keep", "drop"] = Field(
        "keep",
        description="interactions whose user or item is missing from its table: kept, with "
        "all features missing, or dropped",
    )
    duplicates: Literal["last", "keep"] = Field(
        "last", description="the same user and item again: only the last counts, or each does"
    )


class EvaluationConfig(Section):
    """What is measured, and beside what."""

    k: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (10, 20, 100), min_length=1, description="lengths of the list"
    )
    baselines: tuple[Baseline, ...] = Field(
        ("popularity", "recent_popularity", "item_knn", "ease", "ials"),
        description="what is measured beside the towers, where the data allows it: "
        "recent_popularity needs times, ease at most 20,000 items",
    )
    baseline_seconds: float = Field(
        30.0, gt=0, description="time for tuning each of them on validation, in seconds"
    )
    bootstrap: Annotated[int, Field(ge=10, le=100_000)] = Field(
        1000, description="resamples behind an interval"
    )


class Config(Section):
    """All settings of a run.

    >>> Config().model.embedding_dim
    128
    """

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_section_means_defaults(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: {} if part is None else part for key, part in value.items()}
        return value

    def to_yaml(self) -> str:
        """The file that gives this config, every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def read_config(path: str | Path) -> Config:
    """Read and check a config file.

    Raises:
        ConfigError: no such file, not YAML, or keys or values that can not be; all at once.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such config file; give the path of a YAML file"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: can not be read ({reason(error)}); give a YAML text file"
        ) from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(
            f"{path}: not valid YAML ({place}{problem}); mend that line"
        ) from None
    return parse_config(values, where=str(path))


def parse_config(values: object, *, where: str = "config") -> Config:
    """Check settings given as nested mappings; ``None`` and ``{}`` give the defaults.

    Raises:
        ConfigError: unknown keys or impossible values, all at once.

    >>> parse_config({"training": {"lr": 0.1}})
    Traceback (most recent call last):
    twotower.errors.ConfigError: config: training.lr: unknown key; did you mean learning_rate?
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        found = type(values).__name__
        raise ConfigError(
            f"{where}: expected sections such as 'model:' and 'training:', found "
            f"{_shown(values)}, a {found}"
        )
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(join_mistakes(where, _describe_all(error))) from None


def _describe_all(error: ValidationError) -> list[str]:
    """One line a key; what each branch of a union expects is joined by or."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for mistake in error.errors(include_url=False):
        lines.setdefault(_path(mistake["loc"]), []).append(dict(mistake))
    return [_describe(path, mistakes) for path, mistakes in lines.items()]


def _describe(path: str, mistakes: Sequence[Mapping[str, Any]]) -> str:
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; {_hint(first['loc'])}"
    if first["type"] in {"model_type", "model_attributes_type"}:
        found = type(first["input"]).__name__
        return f"{path}: expected keys with values, found {_shown(first['input'])}, a {found}"
    # Why a text could not be read as a number says less than the text itself, shown behind.
    wanted = dict.fromkeys(str(each["msg"]).split(", unable")[0] for each in mistakes)
    said, *others = wanted
    for other in others:
        # "'a' or 'b'" and "'c'" are "'a', 'b' or 'c'".
        said = said.replace("' or '", "', '") + " or " + other.removeprefix(_WANTED)
    return f"{path or 'file'}: {said} (got {_shown(first['input'])})"


def _path(location: Sequence[int | str]) -> str:
    """The key as the file spells it, without the names of a union's branches behind it."""
    keys = [str(part) for part in location if part != "[key]"]
    section = Config.model_fields.get(keys[0]) if keys else None
    if section is None or not isinstance(section.annotation, type) or len(keys) < 2:
        return ".".join(keys)
    field = section.annotation.model_fields.get(keys[1])
    is_union = field is not None and get_origin(field.annotation) in {Union, UnionType}
    return ".".join(keys[:2] if is_union else keys)


def _hint(location: Sequence[int | str]) -> str:
    keys = [str(part) for part in location]
    known = _known_keys(keys[:-1])
    close = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.4)
    if not close:
        # An abbreviation such as "lr" is no close match letter by letter.
        close = [key for key in known if _initials(key) == keys[-1].lower()]
    if close:
        return f"did you mean {close[0]}?"
    return f"known keys: {', '.join(known)}"


def _shown(value: object) -> str:
    try:
        found = repr(value)
    except ValueError:
        # A number of more digits than Python writes.
        return "a number beyond all bounds"
    return found if len(found) <= 60 else found[:57] + "..."


def _initials(key: str) -> str:
    return "".join(word[:1] for word in key.split("_"))


def _known_keys(path: list[str]) -> list[str]:
    section: type[BaseModel] = Config
    for key in path:
        field = section.model_fields.get(key)
        if field is None or not isinstance(field.annotation, type):
            return []
        if not issubclass(field.annotation, BaseModel):
            return []
        section = field.annotation
    return list(section.model_fields)
