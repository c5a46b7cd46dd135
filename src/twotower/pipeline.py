"""THE STORY: one short function a command. Start reading here.

tables -> split -> towers -> vectors -> Recommender -> evaluation beside baselines -> run
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import twotower
from twotower import runs
from twotower.config import Config, as_config
from twotower.data.ids import Ids
from twotower.data.interactions import histories
from twotower.data.splits import Split, split
from twotower.data.tables import Dataset, read
from twotower.errors import DataError, RequestError
from twotower.evaluation import room
from twotower.evaluation.assess import assess, best_possible
from twotower.evaluation.blending import described
from twotower.evaluation.elsewhere import acquaintance, read_like
from twotower.evaluation.settle import add_popularity, settle
from twotower.evaluation.validation import validation
from twotower.model.precision import bfloat16_pays
from twotower.report.page import draw
from twotower.retrieval.approximate import ApproximateIndex
from twotower.retrieval.blend import Blend
from twotower.retrieval.encode import (
    item_vectors,
    require_finite,
    user_vectors,
)
from twotower.retrieval.recommender import Recommender
from twotower.training import unfinished
from twotower.training.checkpoint import seconds_kept
from twotower.training.choices import WEIGHED
from twotower.training.learn import Learned, choose_device, learn
from twotower.training.memory import Size, require_room
from twotower.training.resolve import contenders
from twotower.training.search import search
from twotower.training.stages import Stages, watched
from twotower.watch import Watch

# Users that the recall of an index is measured with.
_MEASURED = 1000


@dataclass(frozen=True)
class Plan:
    """What is to be learned: checked data, cut in parts, and settings with nothing on auto.

    Attributes:
        contenders: settings of which validation will choose one.
    """

    dataset: Dataset
    parts: Split
    contenders: tuple[Config, ...]


def train(
    source: Any,
    config: Config | Mapping[str, Any],
    *,
    into: str | Path,
    name: str,
    now: datetime,
    resume: bool = False,
    profile: bool = False,
    watch: Watch | None = None,
) -> tuple[Recommender, Path]:
    """Train on a data set and write the run ``into/<time>-<name>``.

    Args:
        source: a data folder, or what ``twotower.read`` takes.
        config: or its settings, as nested mappings.
        resume: go on from the newest unfinished run of that name, settings and data, if there
            is one; it ends with the weights of a run that was never stopped.
        profile: say in the metrics where the time of the training went, and put a trace of its
            first steps into the run.

    Raises:
        TwoTowerError: what is wrong with the data, the config or the place to write to.
    """
    watch, into, config = watch or Watch(), Path(into), as_config(config)
    run_name = unfinished.run_name(name, now)
    planned = plan(source, config, watch, beside=into)
    identity = unfinished.identity(planned.dataset, *planned.contenders)
    work, note = unfinished.find(into, name, identity) if resume else (None, "")
    resume = work is not None
    work = work or unfinished.start(into, run_name, identity)
    with unfinished.alone(work, watch):
        if note:
            watch.note(note)
        stages = Stages()
        with watched(stages if profile else None):
            recommender = _fit(planned, watch, work=work, identity=identity, resume=resume)
        if profile:
            found = {"steps": stages.steps, "seconds": stages.seconds}
            metrics = {**recommender.metrics, "profile": found}
            recommender = dataclasses.replace(recommender, metrics=metrics)
        directory = runs.save(
            recommender,
            into / unfinished.finished_name(work),
            report=draw(recommender, watch),
            trace=stages.trace or None,
        )
    return recommender, directory


def fit(
    source: Any, config: Config | Mapping[str, Any] | None = None, *, watch: Watch | None = None
) -> Recommender:
    """Train on a data set and evaluate; nothing is written.

    Args:
        source: what ``twotower.read`` takes or gave.
        config: or its settings, as nested mappings.

    Returns:
        A recommender; its ``metrics`` say how good it is, and how good the baselines are.

    Raises:
        TwoTowerError: what is wrong with the data or the config.
    """
    watch = watch or Watch()
    planned = plan(source, as_config(config), watch)
    if len(planned.contenders) == 1:
        return _fit(planned, watch)
    # Whoever is chosen goes on from a checkpoint.
    with TemporaryDirectory() as scratch:
        return _fit(planned, watch, work=Path(scratch))


def plan(source: Any, config: Config, watch: Watch, *, beside: Path | None = None) -> Plan:
    """Read, check and cut the data, and settle what the config leaves to it; see ``read``."""
    watch.stage("reading")
    dataset = source if isinstance(source, Dataset) else read(source, config.data, beside)
    for note in dataset.notes:
        watch.note(note)
    parts = split(dataset, config.data, seed=config.training.seed)
    settings = contenders(config, dataset, parts)
    for each in settings:
        require_room(Size.of(dataset, parts, has_folder=beside is not None), each)
    loss = settings[0].training.loss
    kinds = {column.kind for column in dataset.columns.values()}
    if "rating" in kinds and "label" not in kinds and config.data.rating_threshold is None:
        watch.note(
            "every interaction counts as liked, whatever its rating; data.rating_threshold "
            "makes only high ratings count"
        )
    if parts.train.weights is not None and loss not in WEIGHED:
        watch.note(
            f"the weights are not used: training.loss {loss!r} counts each interaction alike; "
            "bce and in_batch_softmax weigh them"
        )
    is_on_cpu = choose_device(config.training.device).type == "cpu"
    if config.training.precision == "bf16" and is_on_cpu and not bfloat16_pays():
        watch.note(
            "training.precision: this processor multiplies bfloat16 numbers no faster than "
            "float32 ones; fp32 is better here"
        )
    return Plan(dataset, parts, settings)


def _fit(
    planned: Plan,
    watch: Watch,
    *,
    work: Path | None = None,
    identity: str = "",
    resume: bool = False,
) -> Recommender:
    """Search on validation, learn from all but the test part, and measure.

    Args:
        work: where checkpoints go; None keeps none.
    """
    dataset, parts = planned.dataset, planned.parts
    began = time.perf_counter()
    without = room.left_out_of(planned.contenders[0], dataset, parts, watch)
    if resume and work is not None:
        began -= seconds_kept(work)
    measure = validation(parts, planned.contenders[0])
    config, learned = search(
        dataset,
        parts.train,
        planned.contenders,
        measure,
        work=work,
        identity=identity,
        resume=resume,
        began=began,
        watch=watch,
    )
    searched = learned.progress
    config, beside = settle(learned, parts.train, measure, config, watch)
    blend = None if beside is None else beside.blend
    if config.training.refit:
        learned = _refit(planned, config, learned, watch, work, identity, resume, began)
        if beside is not None:
            known = parts.train.followed_by(parts.val)
            blend = beside.fitted(known, config, len(dataset.users), len(dataset.items))
    seconds = time.perf_counter() - began
    recommender = assemble(dataset, parts, config, learned, searched.history or {}, blend)
    metrics = {
        **assess(recommender, dataset, parts, config, watch, without=without),
        "best_possible": best_possible(dataset),
        "best_epoch": searched.best_epoch,
        "start": searched.start,
        "blend": described(beside, planned.contenders[0]),
        "train_seconds": seconds,
        "loss": config.training.loss,
        "seed": config.training.seed,
        "data": fingerprint(dataset),
        "versions": versions(),
    }
    return dataclasses.replace(recommender, metrics=metrics)


def _refit(
    planned: Plan,
    config: Config,
    learned: Learned,
    watch: Watch,
    work: Path | None,
    identity: str,
    resume: bool,
    began: float,
) -> Learned:
    """The same training on train and validation together, for as long as was best."""
    parts = planned.parts
    longer = config.training.model_copy(update={"epochs": learned.progress.best_epoch})
    try:
        again = learn(
            planned.dataset,
            parts.train.followed_by(parts.val),
            config.model_copy(update={"training": longer}),
            None,
            metric="train_loss",
            checkpoint=work and work / "refit.safetensors",
            # An interrupted search may end elsewhere the next time.
            identity=f"{identity} {longer.epochs} epochs",
            resume=resume,
            began=began,
            watch=watch,
        )
    except KeyboardInterrupt:
        watch.note("interrupted; the towers that have not seen the validation part are kept")
        return learned
    add_popularity(again, parts.train.followed_by(parts.val), config)
    again.model.slope.copy_(learned.model.slope)
    again.model.offset.data.copy_(learned.model.offset.data)
    return again


def assemble(
    dataset: Dataset,
    parts: Split,
    config: Config,
    learned: Learned,
    history: Mapping[str, Any],
    blend: Blend | None,
) -> Recommender:
    """Vectors of everybody and everything, from all but the test part, and what was seen.

    A test part that was cut here from somebody's interactions is seen, and nobody wants it
    again; one that was given is not, since it is there to be found.
    """
    known = parts.train.followed_by(parts.val)
    met = known
    if parts.test is not None and parts.name != "given":
        met = known.followed_by(parts.test)
    num_users = len(dataset.users)
    liked = histories(known.positives(), num_users=num_users)
    items = item_vectors(learned.model, learned.items)
    users = user_vectors(
        learned.model,
        learned.users,
        np.arange(num_users + 1),
        liked.latest(config.model.history_length),
        items,
        learned.items.ids,
    )
    require_finite(users, items)
    return Recommender(
        config=config,
        model=learned.model.to("cpu"),
        user_encoders=learned.user_encoders,
        item_encoders=learned.item_encoders,
        users=Ids(dataset.user_column, dataset.users.ids),
        items=Ids(dataset.item_column, dataset.items.ids),
        user_vectors=users.cpu(),
        item_vectors=items.cpu(),
        seen=histories(met, num_users=num_users),
        liked=liked,
        has_own_id=learned.has_own_id & config.model.item_ids,
        user_has_own_id=learned.users.ids.cpu().numpy() > 0,
        user_values=dataset.users.values,
        item_values=dataset.items.values,
        metrics={},
        history=history,
        blend=blend,
    )


def evaluate(
    recommender: Recommender, source: Any = None, *, watch: Watch | None = None
) -> dict[str, Any]:
    """Measure a trained recommender on a data set's test part, beside the baselines.

    Args:
        source: what ``twotower.read`` takes or gave; None for the data it was trained on.

    Raises:
        DataError: the data has no test part, can not be read, or is of nobody and nothing that
            the recommender knows.
    """
    watch = watch or Watch()
    watch.stage("reading")
    config = recommender.config
    source = config.data.data_path if source is None else source
    if source is None:
        raise DataError("the run does not know where its data is; give the data folder")
    dataset = source if isinstance(source, Dataset) else read_like(recommender, source)
    if dataset.has_split != (config.data.split == "given"):
        # The run says how its own data was cut; other data may come cut, or whole.
        auto = config.data.model_copy(update={"split": "auto"})
        config = config.model_copy(update={"data": auto})
    parts = split(dataset, config.data, seed=config.training.seed)
    if parts.test is None:
        raise DataError(
            f"{dataset.source}: there is no test part to evaluate on; add test/interactions "
            "or set data.test_fraction above 0"
        )
    if unfinished.digest(dataset) != recommender.metrics["data"]["sha256"]:
        for note in acquaintance(recommender, dataset, parts.test):
            watch.note(note)
    return {
        **assess(recommender, dataset, parts, config, watch),
        "best_possible": best_possible(dataset),
        "blend": recommender.metrics.get("blend"),
        "train_seconds": recommender.metrics["train_seconds"],
        "data": fingerprint(dataset),
        "versions": versions(),
    }


def index(run: Path, *, recall: float = 0.99) -> ApproximateIndex:
    """Build an approximate index of a run's items and put it into the run.

    Args:
        recall: the least share of the exact lists of 100 that it is to find, measured with
            users of the run, what they have seen left out.

    Raises:
        RequestError: it does not reach that, faiss is not installed, or the run has a blend;
            nothing is written.
        RunError: no such run, or it can not be written.
    """
    recommender = runs.load(run)
    if recommender.blend is not None:
        raise RequestError(
            f"{run}: no index holds what stands beside the towers (model.blend); this run is "
            "searched exactly, and needs none"
        )
    seed, users = recommender.config.training.seed, len(recommender.users)
    chosen = np.random.default_rng(seed).choice(users, min(users, _MEASURED), replace=False)
    rows = np.sort(chosen) + 1
    seen, owners = recommender.seen.pack(rows)
    built = ApproximateIndex.build(
        recommender.index,
        recommender.user_vectors[torch.from_numpy(rows)],
        excluded_items=torch.from_numpy(seen.astype(np.int64)) - 1,
        excluded_owners=torch.from_numpy(owners.astype(np.int64)),
        recall=recall,
        seed=seed,
    )
    runs.write_index(built, run)
    return built


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """How much data, and a hash that tells whether it is the same."""
    return {
        "source": dataset.source,
        "users": len(dataset.users),
        "items": len(dataset.items),
        "interactions": {name: len(part) for name, part in dataset.interactions.items()},
        "sha256": unfinished.digest(dataset),
    }


def versions() -> dict[str, str]:
    """What the figures were made with."""
    return {
        "twotower": twotower.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
