"""A search on validation: what it may change, what it must not see, how it goes on."""

from __future__ import annotations

import csv
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import yaml

import twotower
from processes import Done, Warm, warm
from twotower import pipeline
from twotower.config import Config, parse_config, read_config
from twotower.data.tables import Dataset
from twotower.errors import ConfigError, RequestError
from twotower.training.loop import Progress
from twotower.training.resolve import contenders
from twotower.tuning.outcome import Standing, Trial, Tuned
from twotower.tuning.space import Knob, Space, Value, space_of, value_of
from twotower.watch import Watch
from worlds import checkerboard

QUICK: dict[str, dict[str, Any]] = {
    "model": {"user_hidden_dims": [], "item_hidden_dims": []},
    "training": {"epochs": 2},
    "data": {"split": "random_per_user"},
    "evaluation": {"bootstrap": 20, "baselines": ["popularity"]},
}


def quick(**sections: dict[str, Any]) -> Config:
    """Two epochs without layers, changed where asked."""
    return parse_config({name: {**QUICK[name], **sections.get(name, {})} for name in QUICK})


def space(world: Any, config: Config) -> Space:
    planned = pipeline.plan(world, config, Watch())
    return space_of(config, planned.dataset, planned.parts)


def tried(found: Tuned) -> list[tuple[Config, float | None]]:
    return [(trial.config, trial.value) for trial in found.trials]


def wanderers() -> dict[str, Any]:
    """The checkerboard with times, cut by them: histories of several kinds are tried."""
    world = checkerboard()
    rows = world["interactions"]
    rows["timestamp"] = list(range(len(rows["user_id"])))
    return world


# --- the space


def test_the_first_trial_is_what_train_does_when_nothing_is_set() -> None:
    found = twotower.tune(checkerboard(), quick(), trials=1)
    [default, _] = pipeline.plan(checkerboard(), quick(), Watch()).contenders
    assert found.default.config == default
    assert found.best is found.default


def test_every_history_that_train_would_try_is_tried_first_and_else_untouched() -> None:
    config = quick(data={"split": "leave_last"}, training={"epochs": 1})
    found = twotower.tune(wanderers(), config, trials=3)
    contenders = pipeline.plan(wanderers(), config, Watch()).contenders
    assert [each.model.history for each in contenders] == ["mean", "transformer", "none"]
    assert [trial.config for trial in found.trials] == list(contenders)


def test_histories_of_other_kinds_are_searched_too() -> None:
    for loss, begins in (("auto", ["mean", "none"]), ("bpr", ["none", "mean"])):
        config = quick(training={"loss": loss})
        knobs = {each.name: each for each in space(checkerboard(), config).knobs()}
        assert set(knobs["model.history"].values) == {*begins, "weighted", "attention"}


def test_what_the_config_sets_is_held_fixed() -> None:
    set_here = {"embedding_dim": 24, "history_dropout": 0.25, "temperature": 0.2}
    found = twotower.tune(
        checkerboard(), quick(model={**QUICK["model"], **set_here}), trials=12
    )
    for name, value in {**QUICK["model"], **set_here}.items():
        fixed = tuple(value) if isinstance(value, list) else value
        assert {value_of(trial.config, f"model.{name}") for trial in found.trials} == {fixed}
    assert len({trial.config.model_dump_json() for trial in found.trials}) > 6


def test_a_setting_on_auto_is_tuned_as_if_it_were_left_out() -> None:
    auto = space(checkerboard(), quick(model={"temperature": "auto"}))
    assert "model.temperature" in [knob.name for knob in auto.knobs()]


@pytest.mark.parametrize(
    "loss", ["auto", "softmax", "in_batch_softmax", "bpr", "bce", "triplet"]
)
@pytest.mark.parametrize("split", ["random_per_user", "leave_last"])
def test_every_point_of_the_space_is_a_valid_config(loss: str, split: str) -> None:
    world = wanderers()
    if loss in {"bce", "triplet"}:
        rows = checkerboard(disliked=8)
        world = {**rows, "interactions": {**rows["interactions"]}}
        world["interactions"]["timestamp"] = list(range(120 * 16))
    config = parse_config({"training": {"loss": loss}, "data": {"split": split}})
    points = space(world, config)
    rng = np.random.default_rng(0)

    def pick(knob: Knob) -> Value:
        if knob.values:
            chosen: Value = knob.values[rng.integers(len(knob.values))]
            return chosen
        assert knob.low <= knob.default <= knob.high
        return float(rng.choice([knob.low, knob.high]))

    for _ in range(30):
        point = points.config(pick)
        # As YAML: that is how it comes back.
        assert parse_config(yaml.safe_load(point.to_yaml())) == point
        # And it is trained as it is: nothing is left to settle.
        assert contenders(point, points.dataset, points.parts) == (point,)


def test_a_config_that_sets_everything_is_told_so() -> None:
    default = space(checkerboard(), quick()).config(lambda knob: knob.default)
    with pytest.raises(ConfigError, match=r"sets all that could be tuned here; take out"):
        twotower.tune(checkerboard(), default, trials=2)


# --- what a trial is worth


def test_the_best_config_trains_to_the_validation_value_of_its_trial(tmp_path: Path) -> None:
    found = twotower.tune(checkerboard(), quick(), trials=5, into=tmp_path)
    config = read_config(tmp_path / "best.yaml")
    assert config == found.config
    recommender = twotower.fit(checkerboard(), config)
    assert max(recommender.history["val_ndcg"]) == pytest.approx(found.best.value, abs=1e-12)


def test_the_best_is_no_worse_than_the_default() -> None:
    found = twotower.tune(checkerboard(), quick(), trials=4)
    assert found.best.value is not None
    assert found.default.value is not None
    assert found.best.value >= found.default.value


@pytest.mark.parametrize(("loss", "sign"), [("auto", 1), ("bce", -1)])
def test_the_gain_is_the_difference_of_two_validation_values(loss: str, sign: int) -> None:
    world = checkerboard(disliked=8 if loss == "bce" else 0)
    found = twotower.tune(world, quick(training={"loss": loss}), trials=4)
    assert ("loss" in found.metric) == (sign < 0)
    others = [trial for trial in found.trials[1:] if trial.gain is not None]
    assert others
    for trial in others:
        assert trial.gain is not None
        assert trial.gain.mean == pytest.approx(
            sign * (_value(trial) - _value(found.default)), abs=1e-9
        )


def test_what_is_given_up_was_behind_the_median_after_as_many_epochs() -> None:
    found = twotower.tune(checkerboard(), quick(training={"epochs": 12}), trials=10)
    given_up = [trial for trial in found.trials if trial.end == "pruned"]
    assert given_up
    for trial in given_up:
        epochs = len(trial.curve)
        assert epochs >= 5
        # Of those before it that came to their end, and so far.
        before = found.trials[: trial.number - 1]
        others = [each for each in before if each.end == "done"]
        so_far = [each.curve[epochs - 1] for each in others if len(each.curve) >= epochs]
        assert trial.curve[-1] < np.median(so_far)
        assert trial not in found.ranking()


def _value(trial: Trial) -> float:
    assert trial.value is not None
    return trial.value


def test_other_labels_in_test_change_nothing() -> None:
    config = quick(data={"split": "auto"}, training={"loss": "bce"})
    found, other = (
        twotower.tune(given(flip_test=flip), config, trials=3) for flip in (False, True)
    )
    assert tried(found) == tried(other)


def given(*, flip_test: bool) -> Dataset:
    """A checkerboard that comes in three parts."""
    world = checkerboard(disliked=8)
    rows = {name: np.array(values) for name, values in world.pop("interactions").items()}
    part = np.random.default_rng(1).integers(5, size=len(rows["label"]))
    parts = {"train": part < 3, "val": part == 3, "test": part == 4}
    if flip_test:
        rows["label"] = np.where(parts["test"], 1 - rows["label"], rows["label"])
    cut = {
        name: {column: values[is_in] for column, values in rows.items()}
        for name, is_in in parts.items()
    }
    return twotower.read({**world, **cut})


def test_a_seed_gives_the_same_trials_again_and_another_one_others() -> None:
    one, again, other = (
        twotower.tune(checkerboard(), quick(), trials=4, seed=seed) for seed in (3, 3, 4)
    )
    assert tried(one) == tried(again)
    assert tried(one) != tried(other)
    assert one.default.config == other.default.config


# --- stopping, going on, and the files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with data and settings."""
    folder = tmp_path / "here"
    for name, rows in checkerboard().items():
        (folder / "data" / name).mkdir(parents=True)
        polars.DataFrame(rows).write_parquet(folder / "data" / name / f"{name}.parquet")
    (folder / "quick.yaml").write_text(yaml.safe_dump(QUICK), encoding="utf-8")
    return folder


def said(options: str, place: Path) -> Done:
    return warm(f"tune --config quick.yaml --data data {options}", place)


def rows(place: Path, into: str = "tuning/quick") -> list[dict[str, str]]:
    """The table of trials, without the seconds."""
    with (place / into / "trials.csv").open(encoding="utf-8") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_after_a_kill_a_search_goes_on_and_loses_at_most_the_trial_that_ran(
    place: Path,
) -> None:
    running = Warm("tune --config quick.yaml --data data --trials 400", place)
    table = place / "tuning" / "quick" / "trials.csv"
    until = time.monotonic() + 60
    while not (table.exists() and len(rows(place)) >= 3):
        assert time.monotonic() < until, "no trial came to its end"
        time.sleep(0.01)
    assert running.process.is_alive()
    running.process.kill()
    assert running.wait().code == -9
    before = rows(place)
    most = len(before) + 3
    resumed = said(f"--trials {most} --resume", place)
    assert resumed.code == 0, resumed.err
    after = rows(place)
    assert after[: len(before)] == before
    assert len(after) == most
    assert said(f"--trials {most} --into whole", place).code == 0
    assert rows(place, "whole") == after


def test_a_study_of_something_else_is_refused(place: Path) -> None:
    assert said("--trials 2", place).code == 0
    kept = rows(place)
    again = said("--trials 3", place)
    (place / "quick.yaml").write_text(
        yaml.safe_dump({**QUICK, "training": {"epochs": 3}}), encoding="utf-8"
    )
    config = said("--trials 3 --resume", place)
    (place / "quick.yaml").write_text(yaml.safe_dump(QUICK), encoding="utf-8")
    table = place / "data" / "interactions" / "interactions.parquet"
    polars.read_parquet(table)[:-1].write_parquet(table)
    data = said("--trials 3 --resume", place)
    for done, word in [
        (again, "holds 2 trials; go on with --resume"),
        (config, "began with training.epochs 2;"),
        (data, "began with other data;"),
    ]:
        assert done.code == 2
        assert word in done.err
        assert done.err.count("error") == 1
        assert "Traceback" not in done.err
    assert rows(place) == kept


def test_a_study_of_a_version_with_other_settings_is_refused(place: Path) -> None:
    assert said("--trials 2", place).code == 0
    with sqlite3.connect(place / "tuning" / "quick" / "study.db") as study:
        study.execute(
            "UPDATE trial_params SET param_name = 'model.gone' "
            "WHERE param_name = 'training.batch_size'"
        )
        study.execute(
            "UPDATE study_user_attributes SET value_json = "
            "json_set(value_json, '$.\"values to try\"', 'others') WHERE key = 'identity'"
        )
    study.close()
    done = said("--trials 3 --resume", place)
    assert done.code == 2
    assert "began with other values to try; give it what it began with" in done.err
    assert "Traceback" not in done.err


def test_the_screen_says_which_is_best_and_what_to_do_next(place: Path) -> None:
    done = said("--trials 3", place)
    assert done.code == 0, done.err
    assert "of 3 trials" in done.out
    assert "twotower train --config tuning/quick/best.yaml" in done.out
    names = {path.name for path in (place / "tuning" / "quick").iterdir()}
    assert names == {"best.yaml", "trials.csv", "tuning.html", "study.db"}


@pytest.mark.parametrize("options", ["--trials 0", "--minutes 0", "--minutes nan"])
def test_a_budget_of_nothing_is_refused_and_nothing_is_written(
    options: str, place: Path
) -> None:
    done = said(options, place)
    assert done.code == 2
    assert options.split()[0] in done.err
    assert not (place / "tuning").exists()


@pytest.mark.parametrize("library", ["optuna", "plotly"])
def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RequestError, match=rf"needs {library}.*pip install 'twotower\[tune\]'"):
        twotower.tune(checkerboard(), quick(), trials=1)


def test_time_ends_a_trial_with_its_epoch_and_begins_no_other() -> None:
    ticks = iter(range(1_000_000))
    found = twotower.tune(
        checkerboard(),
        quick(training={"epochs": 500}),
        minutes=1.0,
        # A second passes with each look at the clock.
        clock=lambda: float(next(ticks)),
    )
    assert found.trials[-1].end == "stopped"
    assert next(ticks) < 80


def test_a_range_that_follows_from_another_setting_holds_all_that_was_tried(
    tmp_path: Path,
) -> None:
    open_here = {"user_hidden_dims": [8], "item_hidden_dims": [], "embedding_dim": 16}
    held = {"temperature": 0.2, "id_dropout": 0.0, "dropout": 0.0, "item_bias": True}
    config = quick(
        data={"split": "leave_last"},
        model={**open_here, **held, "history_dropout": 0.2, "history_length": 20},
        training={"epochs": 1, "batch_size": 512, "weight_decay": 0.0},
    )
    found = twotower.tune(wanderers(), config, trials=16, into=tmp_path)
    [rate] = [knob for knob in found.knobs if knob.name == "training.learning_rate"]
    tried_rates = [value_of(trial.config, rate.name) for trial in found.trials]
    assert rate.low <= min(tried_rates)
    assert max(tried_rates) <= rate.high
    assert max(tried_rates) > 0.002, "none was beyond the default's own range"
    assert "What mattered" in (tmp_path / "tuning.html").read_text(encoding="utf-8")


def test_an_interrupt_ends_the_search_and_the_best_so_far_counts(tmp_path: Path) -> None:
    class Impatient(Watch):
        trials = 0

        def trial(self, standing: Standing) -> None:
            self.trials = standing.number

        def epoch(self, progress: Progress, metric: str) -> None:
            if self.trials == 3:
                raise KeyboardInterrupt

    found = twotower.tune(checkerboard(), quick(), trials=9, into=tmp_path, watch=Impatient())
    assert [trial.end for trial in found.trials] == ["done", "done", "stopped"]
    assert read_config(tmp_path / "best.yaml") == found.config
    resumed = twotower.tune(checkerboard(), quick(), trials=4, into=tmp_path, resume=True)
    whole = twotower.tune(checkerboard(), quick(), trials=4)
    assert tried(resumed) == tried(whole)
