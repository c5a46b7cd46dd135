"""Optuna's study: what to try next, what to give up, and all that was tried, in one file.

Everything random in a trial comes from (seed, number of the trial), and a trial that did not
come to its own end counts as never begun: a study that was stopped and gone on with tries what
one that never stopped would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.config import Config
from twotower.errors import RequestError, RunError, reason
from twotower.evaluation.intervals import Interval
from twotower.tuning.outcome import Trial
from twotower.tuning.space import LEADS, Knob, Pick, Space, Value

if TYPE_CHECKING:
    import optuna

FILE = "study.db"
# Trials that run to their end before any is given up, and epochs that each is given then.
_UNPRUNED = 3
_FIRST_EPOCHS = 5
# As many trials stay near the default, each with so many knobs turned.
_NEAR_DEFAULT = 10
_TURNED = 3


@dataclass
class Asked:
    """A trial that runs: what it is to try, and the best value so far after each epoch."""

    number: int
    config: Config
    picked: Mapping[str, Value]
    trial: optuna.trial.Trial
    curve: list[float] = field(default_factory=list)


class Study:
    """The trials of one space on one data set.

    Args:
        path: the file that keeps them; None keeps them in memory.
        identity: by name what makes two studies the same one.
        seed: of what is tried.
        resume: whether to go on with the trials that the file has.

    Raises:
        RequestError: the file has trials, and they are of something else or not to be gone on
            with.
        RunError: it can not be read or written.
    """

    def __init__(
        self,
        space: Space,
        path: Path | None,
        *,
        identity: Mapping[str, Any],
        seed: int,
        higher_is_better: bool,
        resume: bool,
    ) -> None:
        self._space = space
        self._seed = seed
        self._path = path
        self._default = {knob.name: _plain(knob.default) for knob in space.knobs()}
        self._knobs: dict[str, Knob] = {}
        self._made: list[Path] = []
        if path is not None:
            self._make_room(path)
        with self._file_errors():
            storage = _storage(path)
            self._study = _open(storage, higher_is_better)
            if self._ended():
                self._require_same(identity, resume)
                self._give_up_what_was_running()
                return
            # Nothing to lose, also where the first trial of something else was killed.
            storage.delete_study(storage.get_study_id_from_name(_NAME))
            self._study = _open(storage, higher_is_better)
            self._study.set_user_attr("identity", dict(identity))

    def trials(self) -> list[Trial]:
        """All that came to an end, in order; of what was tried again the last."""
        return [self._trial_of(*kept) for _, kept in sorted(self._ended().items())]

    def _ended(self) -> dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Of each trial that came to an end, by its number, what was picked and what was told:
        of another version it may make no config here.
        """
        found: dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            told = frozen.user_attrs.get("told")
            # Killed between the telling and the end: it never was.
            if told is not None and frozen.state.name == _STATES[told["end"]]:
                found[told["number"]] = frozen.params, told
        return found

    def knobs(self) -> tuple[Knob, ...]:
        """What was tuned in any trial, each as wide as all trials had it."""
        return tuple(self._knobs.values())

    def ask(self) -> Asked:
        """What to try next: the default first."""
        import optuna

        number = 1 + sum(trial.end != "stopped" for trial in self.trials())
        with self._file_errors():
            held = self._held_at_default(number)
            # One that waits was held by a process that was killed right after.
            if held and not self._study.get_trials(False, states=(_state("WAITING"),)):
                self._study.enqueue_trial(held)
            seed = (self._seed * 1_000_003 + number) % 2**32
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=_NEAR_DEFAULT, seed=seed
            )
            trial = self._study.ask()
            config, picked = self._turn(lambda knob: _suggest(trial, knob))
        return Asked(number, config, picked, trial)

    def _held_at_default(self, number: int) -> dict[str, Any]:
        """What a trial leaves as it is: all that ``train`` would try first, then most of it.

        The default is good for its data, and what differs from it in everything is nearly
        always worse. So at first a few knobs are turned at a time, each as often as others;
        from then on all are free, and what was learned guides them.
        """
        kinds = self._space.shape.kinds
        near = number - len(kinds)
        if near > _NEAR_DEFAULT:
            return {}
        names = np.random.default_rng([self._seed, 8]).permutation(list(self._default))
        turns = np.arange(_TURNED) + (near - 1) * _TURNED
        turned = set(names[turns % len(names)].tolist()) if near > 0 else set()
        rng = np.random.default_rng([self._seed, 9, number])
        held: dict[str, Any] = {}

        def pick(knob: Knob) -> Value:
            value: Value = knob.default
            if near <= 0 and knob.name == "model.history":
                value = kinds[number - 1]
            elif knob.name in turned & LEADS:
                # Drawn here, as the defaults of others follow from it.
                value = knob.values[rng.integers(len(knob.values))]
            if knob.name not in turned or knob.name in LEADS:
                held[knob.name] = _plain(value)
            return value

        self._space.config(pick)
        return held

    def is_hopeless(self, asked: Asked, value: float) -> bool:
        """Tell a trial's best value after one more epoch; whether it is behind the others."""
        asked.curve.append(value)
        with self._file_errors():
            asked.trial.report(value, len(asked.curve))
            return bool(asked.trial.should_prune())

    def tell(self, asked: Asked, trial: Trial) -> None:
        """Keep how a trial ended."""
        gain = trial.gain and [trial.gain.mean, trial.gain.low, trial.gain.high]
        told = {name: getattr(trial, name) for name in _TOLD}
        value = trial.value if trial.end == "done" else None
        with self._file_errors():
            asked.trial.set_user_attr("told", {**told, "gain": gain})
            self._study.tell(asked.trial, value, state=_state(_STATES[trial.end]))

    @property
    def default_by_user(self) -> list[float] | None:
        """What the default is worth to each user, once it was trained to its end."""
        values: list[float] | None = self._study.user_attrs.get("default_by_user")
        return values

    def keep_default_by_user(self, values: list[float]) -> None:
        """Keep it, to compare with after a stop, too."""
        with self._file_errors():
            self._study.set_user_attr("default_by_user", values)

    def remove(self) -> None:
        """Leave nothing behind, where nothing was found."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for folder in self._made:
            # One that holds something by now stays.
            with suppress(OSError):
                folder.rmdir()

    def _make_room(self, path: Path) -> None:
        self._made = [folder for folder in path.parents if not folder.exists()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"{path.parent}: can not be written ({reason(error)}); name another folder "
                "with --into"
            ) from None

    def _trial_of(self, params: Mapping[str, Any], told: Mapping[str, Any]) -> Trial:
        config, picked = self._turn(lambda knob: _value_of(knob, params[knob.name]))
        gain = told["gain"] and Interval(*told["gain"])
        kept = {**told, "gain": gain, "curve": tuple(told["curve"])}
        return Trial(config=config, picked=picked, **kept)

    def _turn(self, pick: Pick) -> tuple[Config, dict[str, Value]]:
        """A config, and what was picked for it."""
        picked: dict[str, Value] = {}

        def turn(knob: Knob) -> Value:
            before = self._knobs.get(knob.name, knob)
            self._knobs[knob.name] = before.widened_to(knob)
            picked[knob.name] = pick(knob)
            return picked[knob.name]

        return self._space.config(turn), picked

    def _require_same(self, identity: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            raise RequestError(
                f"{self._path}: holds {len(self._ended())} trials; go on with --resume, or "
                "name another folder with --into"
            )
        now = json.loads(json.dumps(dict(identity)))
        then = self._study.user_attrs["identity"]
        other = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if "data" in other:
            # What else differs follows from that.
            other = ["data"]
        if other:
            said = ", ".join(
                f"other {name}" if name in _BY_HASH else f"{name} {then.get(name)}"
                for name in other
            )
            raise RequestError(
                f"{self._path}: began with {said}; give it what it began with, or name another "
                "folder with --into"
            )

    def _give_up_what_was_running(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(_state("RUNNING"),)):
            self._study.tell(trial.number, state=_state("FAIL"))

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            why = reason(error.__cause__ or error)
            raise RunError(
                f"{self._path}: can not be read or written ({why}); mend that, or name another "
                "folder with --into"
            ) from None


_TOLD = (
    *("number", "value", "end", "curve", "best_epoch", "seconds", "first_seconds", "said"),
)
# What failed is, as what is pruned, not to be tried again.
_STATES = {"done": "COMPLETE", "pruned": "PRUNED", "failed": "PRUNED", "stopped": "FAIL"}
_NAME = "twotower"
# Of what makes two studies the same one, what a hash says and people can not read.
_BY_HASH = {"data", "values to try"}


def _state(name: str) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    return TrialState[name]


def _storage(path: Path | None) -> optuna.storages.BaseStorage:
    import optuna
    from sqlalchemy.engine import URL

    if path is None:
        return optuna.storages.InMemoryStorage()
    url = URL.create("sqlite", database=str(path))
    return optuna.storages.RDBStorage(url.render_as_string())


def _open(storage: optuna.storages.BaseStorage, higher_is_better: bool) -> optuna.Study:
    """The study that is kept there, begun where there is none."""
    import optuna

    with quietly():
        return optuna.create_study(
            storage=storage,
            study_name=_NAME,
            direction="maximize" if higher_is_better else "minimize",
            # A budget of minutes has tens of trials. Hyperband wants hundreds, and to know
            # beforehand how many epochs there will be.
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_UNPRUNED, n_warmup_steps=_FIRST_EPOCHS
            ),
            load_if_exists=True,
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Optuna says of each study that it was made; here it does not."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _plain(value: Any) -> Any:
    """A value as Optuna keeps it: layers as a text."""
    return json.dumps(value) if isinstance(value, tuple) else value


def _suggest(trial: optuna.trial.Trial, knob: Knob) -> Value:
    if knob.values:
        kept = [_plain(value) for value in knob.values]
        return _value_of(knob, trial.suggest_categorical(knob.name, kept))
    return trial.suggest_float(knob.name, knob.low, knob.high, log=knob.is_log)


def _value_of(knob: Knob, kept: Any) -> Value:
    """The value of a knob, from what Optuna kept."""
    value: Value = next((value for value in knob.values if _plain(value) == kept), kept)
    return value
