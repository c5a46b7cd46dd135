"""Data and a config -> the best config that a search on validation finds in its time."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import twotower
from twotower.config import Config, as_config
from twotower.errors import RequestError
from twotower.pipeline import Plan, plan
from twotower.training.unfinished import digest
from twotower.tuning.outcome import PICTURE, Tuned, write_files
from twotower.tuning.search import Budget, Clock, search, with_trial
from twotower.tuning.space import Space, space_of
from twotower.tuning.study import FILE, Study
from twotower.watch import Watch

_MINUTES = 30.0


def tune(
    source: Any,
    config: Config | Mapping[str, Any] | None = None,
    *,
    into: str | Path | None = None,
    minutes: float | None = None,
    trials: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    clock: Clock = time.monotonic,
) -> Tuned:
    """Search the settings that ``config`` leaves open, on validation; test is not looked at.

    The first trial is the untouched default. A trial that is behind the median of those
    that came to their end, after as many epochs, is given up, and one that runs when the time
    is over ends with its epoch. Ctrl-C ends the search; the best so far counts.

    Args:
        source: a data folder, or what ``twotower.read`` takes.
        config: or its settings, as nested mappings; what it sets is held fixed, what it leaves
            out or to ``auto`` is tuned.
        into: the folder that the trials, the best config and a picture are written to; None
            writes nothing.
        minutes: of the whole search; 30 where trials are not limited either.
        trials: how many in all, those of the study that is gone on with included. Where only
            they are limited, a seed gives the same trials again.
        seed: of what is tried; that of the training where it is None.
        resume: go on with the trials that the folder holds.
        clock: tells the time, in seconds.

    Raises:
        TwoTowerError: what is wrong with the data, the config or the folder, a library that is
            missing, or nothing that is left to tune.
    """
    started = clock()
    _require_libraries()
    _require_sizes(minutes, trials)
    minutes = _MINUTES if minutes is None and trials is None else minutes
    watch, config = watch or Watch(), as_config(config)
    planned = plan(source, config, watch)
    metric = f"val_{planned.contenders[0].training.early_stopping_metric}"
    directory = None if into is None else Path(into)
    study = _open(planned, config, directory, metric, seed, resume)
    deadline = math.inf if minutes is None else started + 60 * minutes
    budget = Budget(clock, started, deadline, trials)
    found = study.trials()
    if resume:
        watch.note(f"going on after {len(found)} trials" if found else _NOTHING)
    try:
        for trial in search(planned, study, budget, metric, watch):
            found = with_trial(found, trial)
            if directory is not None:
                write_files(Tuned(metric, study.knobs(), tuple(found)), directory)
    except KeyboardInterrupt:
        if not found:
            raise
        watch.note("interrupted; the best so far counts")
    finally:
        if not found:
            study.remove()
    tuned = Tuned(metric, study.knobs(), tuple(found), directory)
    if directory is not None:
        from twotower.tuning.picture import write_picture

        watch.stage("drawing")
        write_files(tuned, directory)
        write_picture(tuned, directory / PICTURE)
    return tuned


_NOTHING = "nothing to go on with; starting from the beginning"


def _require_libraries() -> None:
    missing = [name for name in ("optuna", "plotly") if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"tuning needs {' and '.join(missing)}, not installed here: "
            "pip install 'twotower[tune]'"
        )


def _require_sizes(minutes: float | None, trials: int | None) -> None:
    if minutes is not None and not 0 < minutes < math.inf:
        raise RequestError(f"--minutes must be above 0; got {minutes}")
    if trials is not None and trials < 1:
        raise RequestError(f"--trials must be 1 or more; got {trials}")


def _open(
    planned: Plan,
    given: Config,
    directory: Path | None,
    metric: str,
    seed: int | None,
    resume: bool,
) -> Study:
    space = space_of(given, planned.dataset, planned.parts)
    seed = planned.contenders[0].training.seed if seed is None else seed
    return Study(
        space,
        directory and directory / FILE,
        identity=_identity(planned, space, seed),
        seed=seed,
        higher_is_better="loss" not in metric,
        resume=resume,
    )


def _identity(planned: Plan, space: Space, seed: int) -> dict[str, Any]:
    """What two searches must share to be one: data, how it is cut, settings, what is open."""
    config = planned.contenders[0]
    cut = ("split", "test_fraction", "val_fraction")
    settings = {
        **{f"model.{key}": value for key, value in config.model.model_dump().items()},
        **{f"training.{key}": value for key, value in config.training.model_dump().items()},
        **{f"data.{key}": getattr(config.data, key) for key in cut},
    }
    knobs = space.knobs()
    # Another version may search the same settings elsewhere.
    searched = json.dumps([asdict(knob) for knob in knobs])
    return {
        "twotower": twotower.__version__,
        "data": digest(planned.dataset),
        "--seed": seed,
        **settings,
        "tuned": [knob.name for knob in knobs],
        "values to try": hashlib.sha256(searched.encode()).hexdigest(),
    }
