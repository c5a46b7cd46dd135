"""What a search came to, in words and in a table: for the screen and for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from twotower.tuning.outcome import End, Trial, Tuned, in_words

METRICS = {"val_ndcg": "ndcg@10", "val_loss": "log-loss"}
_ENDS: dict[End, str] = {
    "done": "trained to the end",
    "pruned": "given up",
    "failed": "failed",
}


@dataclass(frozen=True)
class Row:
    """A row of the table that sets the best trials beside the default.

    Attributes:
        cells: the default's first.
        is_setting: in contrast to what was measured.
    """

    name: str
    cells: tuple[str, ...]
    is_setting: bool


def headline(tuned: Tuned) -> str:
    """Which trial is the best, and by how much."""
    best, name = tuned.best, METRICS[tuned.metric]
    of = f"of {len(tuned.trials)} trials" if len(tuned.trials) > 1 else "of the one trial"
    if best.number == 1:
        return f"The untouched default is the best {of}: {name} {best.value:.4f} on validation."
    return (
        f"Trial {best.number} is the best {of}: {name} {best.value:.4f} on validation, "
        f"{tuned.default.value:.4f} with the untouched default."
    )


def how_sure(tuned: Tuned) -> str:
    """What the gain is worth, honestly."""
    best = tuned.best
    if best.number == 1:
        return "Nothing that was tried is better on validation: keep the default."
    gain = best.gain
    said = ""
    if gain is not None:
        # A loss that is lower is a gain, too.
        said = (
            f"It gains {gain.mean:.4f}, in 95 % of resamplings of the users "
            f"{gain.low:.4f} to {gain.high:.4f}"
        )
        said += ". " if gain.low > 0 else ": no more than chance may give. "
    return (
        f"{said}The best of many is optimistic on what chose it: part of the gain is luck with "
        "these very interactions, and the interval does not know of it. Test was not looked "
        "at; train with these settings to see what they are worth there."
    )


def counts(tuned: Tuned) -> str:
    """How many trials ended how, and in how much time."""
    ends = Counter(trial.end for trial in tuned.trials)
    parts = [f"{ends[end]} {said}" for end, said in _ENDS.items() if ends[end]]
    if ends["stopped"]:
        parts.append("the last one stopped")
    minutes = sum(trial.seconds for trial in tuned.trials) / 60
    return f"{', '.join(parts)}, in {minutes:.1f} minutes"


def rows(tuned: Tuned, most: int) -> Iterator[Row]:
    """The default beside the ``most`` best other trials: what was measured, what they set.

    The first row names them.
    """
    trials = [tuned.default, *beside_default(tuned, most)]
    names = ["default", *(f"trial {trial.number}" for trial in trials[1:])]
    yield Row("", tuple(names), is_setting=False)
    measured = {
        f"{METRICS[tuned.metric]} on validation": lambda trial: f"{trial.value:.4f}",
        "gain": lambda trial: f"{trial.gain.mean:+.4f}" if trial.gain else "",
        "95 % interval": lambda trial: (
            f"{trial.gain.low:+.4f} {trial.gain.high:+.4f}" if trial.gain else ""
        ),
        "epochs, best": lambda trial: f"{len(trial.curve)}, {trial.best_epoch or 'start'}",
        "seconds": lambda trial: f"{trial.seconds:.1f}",
    }
    for name, cell in measured.items():
        yield Row(name, tuple(map(cell, trials)), is_setting=False)
    for knob in tuned.knobs:
        cells = [
            in_words(trial.picked[knob.name]) if knob.name in trial.picked else ""
            for trial in trials
        ]
        yield Row(key(knob.name), tuple(cells), is_setting=True)


def beside_default(tuned: Tuned, most: int) -> list[Trial]:
    """The best trials that are not the default."""
    return [trial for trial in tuned.ranking() if trial.number != 1][:most]


def key(name: str) -> str:
    """A setting's name within its section."""
    return name.split(".")[1]
