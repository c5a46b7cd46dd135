"""One YAML file -> one frozen ``Config``: every default, bound and unit.

The lab's ``ranking_config.yaml`` is a valid file; every section and every key is optional.
``"auto"`` leaves a choice to the data; ``resolve`` in ``pipeline`` makes it and the run's own
``config.yaml`` holds what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from twotower.complaints import describe_all, shown
from twotower.errors import ConfigError, join_mistakes
from twotower.yaml_file import read_yaml

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
    "shown",
    "weight",
    "rating",
    "label",
    "ignore",
]
Baseline = Literal["popularity", "recent_popularity", "item_knn", "ease", "ials"]
Loss = Literal["bce", "triplet", "bpr", "ccl", "warp", "in_batch_softmax", "softmax"]
NegativesFrom = Literal["labels", "one", "all", "uniform", "popularity", "in_batch", "mixed"]
LogQ = Literal["none", "classic", "corrected"]
SplitName = Literal[
    "given", "time", "leave_last", "random_per_user", "random", "cold_items", "cold_users"
]
Width = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Section(BaseModel):
    """A part of the file: frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: Any) -> Any:
        kind = cls.model_fields[info.field_name].annotation
        values = value if isinstance(value, list | tuple) else [value]
        is_switch = any(isinstance(each, bool) for each in values)
        if is_switch and bool not in {kind, *get_args(kind)}:
            raise PydanticCustomError("switch", "Input should not be true or false")
        return value


class ModelConfig(Section):
    """The two towers."""

    type: Literal["two_tower"] = Field("two_tower", description="the only kind there is")
    embedding_dim: Width | Literal["auto"] = Field(
        "auto",
        description="length of an embedding, D; auto: 128, but under softmax 512 where items "
        "are told by features alone, whose words want more room",
    )
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
        "score 0 (0.6 where features alone tell items; read in order 0.75 / log(items), since "
        "the next one is asked for), and from 250,000 liked on half of that is tried too; else "
        "0.2 for bce, 0.1 for the others",
    )
    user_ids: bool | Literal["auto"] = Field(
        "auto",
        description="an embedding for each user's id; auto: only without a history, which says "
        "what the id would, and never where users have features but under 20 interactions "
        "each, or validation asks for none that train met",
    )
    item_ids: bool | Literal["auto"] = Field(
        "auto",
        description="an embedding for each item's id; auto: yes, but not where items have "
        "features and validation asks for none that train met, or where also users are told "
        "by features alone, or bce and triplet learn from labels, and items have under 20 "
        "interactions each",
    )
    item_neighbours: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = Field(
        "auto",
        description="so many items that the same users like lend an item's id what they learn; "
        "auto: 10 under softmax with pooled histories and more than 20,000 items, else 0",
    )
    id_dropout: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of ids, and of whole histories, hidden in training, so that the "
        "other features learn to carry users and items that have none yet",
    )
    category_dim: Width = Field(16, description="length of a category's embedding")
    text_dim: Width = Field(
        64,
        description="length of a text's embedding, where ids or histories know more; where "
        "there are none, words stand in for them and have embedding_dim",
    )
    text_buckets: Annotated[int, Field(ge=16, le=2**26)] = Field(
        16_384, description="rows of the table that n-grams are hashed into"
    )
    history: Literal["auto", "none", "mean", "weighted", "attention", "transformer"] = Field(
        "auto",
        description="how a user's past items become one vector; mean: of their embeddings; "
        "weighted: by how recent they are; attention: by what they are, both learned; "
        "transformer: read in order, each item found from those before it; auto: mean, but "
        "none where bce and triplet learn from labels, or users have features and validation "
        "asks for none that train met; beside mean, validation tries transformer where the "
        "order tells what comes next, and none where users have features and few items",
    )
    history_length: Width = Field(500, description="how many of the last items count, L")
    history_layers: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="blocks of the transformer that reads histories"
    )
    history_hidden_dims: tuple[Width, ...] | Literal["auto"] = Field(
        "auto",
        description="hidden layers that read a pooled history, and add what they see to it; [] "
        "for none; auto: [256] under softmax with ids of items, else none",
    )
    history_dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="share of a history's items hidden in training; under softmax they are "
        "what is to be found: 0.25 makes four parts, each found from the others, 0 asks for "
        "each item from all others; auto: 0.25 under softmax, else 0.5, and 0 for a "
        "transformer",
    )
    item_bias: bool = Field(
        True, description="one learned number an item, in the score; goes with item_ids"
    )
    popularity: Annotated[float, Field(ge=0, le=100)] | Literal["auto"] = Field(
        "auto",
        description="how many times the log of an item's count is added to its bias after "
        "training; auto: as many, of 0 to 8, as rank the validation part best, where ndcg "
        "decides; goes with item_bias",
    )
    blend: Literal["none", "ease", "item_knn", "auto"] = Field(
        "none",
        description="item-item scores added to the towers', as loud as validation likes them "
        "best, where they clearly help; auto: of EASE (up to 20,000 items) and item-kNN (up "
        "to 50,000) what helps more",
    )

    @property
    def dim(self) -> int:
        """Length of an embedding, D, where nothing is left on "auto"."""
        assert self.embedding_dim != "auto"
        return self.embedding_dim


class TrainingConfig(Section):
    """How the towers learn."""

    loss: Loss | Literal["auto"] = Field(
        "auto",
        description="what a liked item's score is compared by; ccl: cosine contrastive; warp: "
        "a hinge weighed by rank; auto: bce where labels hold both likes and dislikes, else "
        "softmax, or in_batch_softmax with history none; docs/losses.md says which to choose",
    )
    negatives_from: NegativesFrom | Literal["auto"] = Field(
        "auto",
        description="where the others come from; labels: what the user disliked; one: one "
        "item a row that the user is not known to like; all: every other item; uniform or "
        "popularity: drawn anew each step and shared by the batch; in_batch: items of the "
        "batch's other rows; mixed: in_batch and uniform; auto: labels for bce and triplet, "
        "one for bpr, uniform for ccl and warp, in_batch for in_batch_softmax, for softmax "
        "what negatives says; where negatives is set, uniform for bpr and mixed for the "
        "softmax losses",
    )
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] | Literal["auto"] = Field(
        "auto",
        description="interactions of a step; softmax takes whole users until there are so "
        "many; auto: 256 for bce and triplet from labels, 2,048 for the others, 4,096 from "
        "500,000 likes on",
    )
    negatives: Annotated[int, Field(ge=0, le=1_048_576)] | Literal["auto"] = Field(
        "auto",
        description="how many items, drawn anew each step, stand for all others; under "
        "softmax 0 means all others themselves; auto: under softmax all up to 20,000 items, "
        "else 8,192; with a transformer all up to 5,000, else 2,048; 2,048 for the other "
        "losses, or as many as there are items",
    )
    distinct_negatives: bool = Field(
        False, description="others that were sampled twice in a step count once"
    )
    memory_batches: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0,
        description="of how many earlier batches the items stay among the others, with the "
        "embeddings they had then",
    )
    hard_negatives: Annotated[int, Field(ge=0, le=1024)] = Field(
        0,
        description="others of each row's own, beside the shared ones, drawn from what the "
        "towers ranked hard_ranks for its user when the epoch began",
    )
    hard_ranks: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        (50, 500), description="first and last rank of hard negatives; items liked are skipped"
    )
    hard_after: Annotated[int, Field(ge=0, le=100_000)] = Field(
        3, description="epochs without hard negatives at the beginning"
    )
    log_q: LogQ | Literal["auto"] = Field(
        "auto",
        description="whether others count in inverse proportion to their chance to be sampled; "
        "corrected: so that all others are what is aimed at; classic, of the softmax losses: "
        "the liked item is corrected as well; auto: corrected for the softmax losses, none for "
        "the others, which are told more by what is drawn more",
    )
    semi_hard: bool = Field(
        False,
        description="triplet: only the nearest of the others that is farther than the liked "
        "item counts, not the mean over all",
    )
    negative_weight: float = Field(
        30.0, gt=0, description="ccl: how much the others weigh beside the liked item"
    )
    learning_rate: Rate | Literal["auto"] = Field(
        "auto",
        description="of the dense layers; auto: 0.0002 under softmax, where features stand "
        "beside ids and histories that know more, else, and with a transformer, 0.001",
    )
    embedding_learning_rate: Rate | Literal["auto"] = Field(
        "auto",
        description="of the tables of ids, item biases and words that stand in for them; auto: "
        "0.003 under softmax, else ten times the other",
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="L2 on the dense layers")
    optimizer: Literal["adam", "adamw"] = Field("adam", description="of the dense layers")
    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(200, description="at most")
    early_stopping_patience: Annotated[int, Field(ge=1)] = Field(
        10,
        description="epochs without a better validation value, the mean of three epochs, "
        "before it stops",
    )
    refit: bool = Field(
        True,
        description="train once more, on train and validation together, for the number of "
        "epochs that validation chose",
    )
    early_stopping_metric: Literal["auto", "loss", "ndcg"] = Field(
        "auto",
        description="auto: loss for bce from labels (as the lab), ndcg@10 for the others",
    )
    margin: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="triplet: squared distance to keep; warp: score to keep; ccl: cosine up to "
        "which others are let alone; auto: 1, for ccl 0.4",
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        42, description="of everything random: split, weights, order of the batches"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: cuda, else cpu; mps: Apple's, untried"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of matrix products in training; weights, sums and all that is measured "
        "and served stay in fp32; bf16: up to twice as fast where the processor has it "
        "(AVX512_BF16, most GPUs), much slower where it does not, which is noted",
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
        "interactions have one, else random_per_user; validation is cut as test was, of new "
        "users or items where a given test part asks for no others",
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
    memory_gib: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="memory that reading may take, and then training, in GiB; what is "
        "estimated to need more is refused before it begins; auto: what is free",
    )


class EvaluationConfig(Section):
    """What is measured, and beside what."""

    k: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (10, 20, 100), min_length=1, description="lengths of the list"
    )
    baselines: tuple[Baseline, ...] = Field(
        ("popularity", "recent_popularity", "item_knn", "ease", "ials"),
        description="what is measured beside the towers, where data and memory allow it: "
        "recent_popularity needs times, ease at most 20,000 items",
    )
    baseline_seconds: float = Field(
        30.0,
        gt=0,
        description="time for tuning each of them on validation, in seconds; a trial that has "
        "begun is finished; ease is tuned only where two fit; the last fit comes on top",
    )
    bootstrap: Annotated[int, Field(ge=10, le=100_000)] = Field(
        1000, description="resamples behind an interval"
    )


class Config(Section):
    """All settings of a run.

    >>> Config().model.embedding_dim
    'auto'
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
    return parse_config(read_yaml(Path(path)), where=str(path))


def as_config(given: Config | Mapping[str, Any] | None) -> Config:
    """A config, or the settings of one as nested mappings; None for the defaults.

    Raises:
        ConfigError: as ``parse_config``.
    """
    return given if isinstance(given, Config) else parse_config(given)


def parse_config(values: object, *, where: str = "config") -> Config:
    """Check settings given as nested mappings; ``None`` and ``{}`` give the defaults.

    Raises:
        ConfigError: unknown keys or impossible values, all at once.

    >>> parse_config({"training": {"lr": 0.1}})
    Traceback (most recent call last):
    twotower.errors.ConfigError: config: training.lr: unknown key; did you mean learning_rate?
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where}: expected sections such as 'model:' and 'training:', found "
            f"{shown(values)}, a {type(values).__name__}"
        )
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(join_mistakes(where, describe_all(error, Config))) from None
