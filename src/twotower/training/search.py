"""Settings that the data alone can not choose -> the ones that validation chose, and towers.

Each contender trains for a few epochs; the one that is best by then goes on, as if it had
been alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twotower.config import Config
from twotower.data.interactions import Interactions
from twotower.data.tables import Dataset
from twotower.training.learn import Learned, Validate, is_better, learn
from twotower.watch import Watch

# Enough to tell settings apart that differ by far where they differ: so many epochs, or as many
# as go through so many interactions. What is not chosen costs no more than these, or than one
# epoch; a limit of time would choose otherwise on a busy machine. Of fewer rows an epoch is a
# few steps, which tell little, and of very few a whole training takes seconds.
_EPOCHS = 3
_ENOUGH_ROWS = 10_000_000
_ROWS_TO_TELL, _FEW_ROWS = 300_000, 50_000
# By so much another must be better than the one before it, which the rules chose: a temperature
# that is too low is level with the right one at first, and soon knows train by heart.
_CLEARLY = 0.02
# And by so much where it reads no history: that is tried where rows are few, and validation by
# few users is much by chance.
_CLEARLY_WITHOUT = 0.1


def search(
    dataset: Dataset,
    train: Interactions,
    contenders: Sequence[Config],
    validate: Validate,
    *,
    work: Path | None,
    identity: str,
    resume: bool,
    began: float | None = None,
    watch: Watch,
) -> tuple[Config, Learned]:
    """Train on the best of several settings, which differ in their models.

    Args:
        validate: what to measure after an epoch.
        work: where checkpoints are kept; None keeps none, and several contenders need some.
        identity: what is trained on what.
        resume: whether to go on from checkpoints there.
        began: see ``learn``.

    Returns:
        The settings, and the towers of the best epoch.
    """
    metric = f"val_{contenders[0].training.early_stopping_metric}"

    def trained(config: Config, epochs: int, *, resume: bool) -> Learned:
        place = contenders.index(config)
        training = config.training.model_copy(update={"epochs": epochs})
        return learn(
            dataset,
            train,
            config.model_copy(update={"training": training}),
            validate,
            metric=metric,
            checkpoint=work and work / f"search-{place}.safetensors",
            identity=f"{identity} {place}",
            resume=resume,
            began=began,
            watch=watch,
        )

    config, *others = contenders
    if not others:
        return config, trained(config, config.training.epochs, resume=resume)
    assert work is not None
    best: tuple[float, Config, Learned] | None = None
    scores = []
    for each in contenders:
        watch.note(f"{_in_words(each)} is tried")
        few = _epochs_to_try(len(train), each.training.epochs)
        tried = trained(each, few, resume=resume)
        value = tried.progress.best_value(metric)
        assert value is not None
        scores.append(f"{value:.4f} {_in_words(each)}")
        margin = _CLEARLY_WITHOUT if each.model.history == "none" else _CLEARLY
        if best is None or _is_clearly_better(value, best[0], metric, margin):
            best = value, each, tried
        if tried.interrupted:
            break
    assert best is not None
    _, config, learned = best
    watch.note(f"{metric} so far: {'; '.join(scores)}")
    watch.note(f"{_in_words(config)} it is")
    if tried.interrupted:
        return config, learned
    return config, trained(config, config.training.epochs, resume=True)


def _epochs_to_try(rows: int, most: int) -> int:
    """For how many epochs a contender trains where an epoch goes through so many interactions.

    >>> [_epochs_to_try(rows, 60) for rows in (100, 50_000, 99_000, 5_000_000, 2**30)]
    [60, 6, 4, 2, 1]
    """
    if rows < _FEW_ROWS:
        return most
    few = max(_EPOCHS, -(-_ROWS_TO_TELL // rows))
    return min(few, -(-_ENOUGH_ROWS // rows), most)


def _is_clearly_better(new: float, old: float, metric: str, margin: float) -> bool:
    better_by_far = old * (1 - margin if "loss" in metric else 1 + margin)
    return is_better(new, better_by_far, metric)


def _in_words(config: Config) -> str:
    """The settings in which contenders differ."""
    return f"history {config.model.history!r} at temperature {config.model.temperature:.3g}"
