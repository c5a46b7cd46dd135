"""What validation settles of trained towers: how much popularity counts, and the affinity."""

from __future__ import annotations

from twotower.config import Config
from twotower.data.interactions import Interactions
from twotower.evaluation.calibration import fit_line
from twotower.evaluation.validation import Validation
from twotower.training import closed_form
from twotower.training.learn import Learned


def settle(
    learned: Learned, train: Interactions, measure: Validation, config: Config
) -> Config:
    """Fit both, in place, and say how much popularity counts where that was open.

    Args:
        train: what was learned from.
        measure: what the epochs were measured by.
    """
    popularity: float | str | None = config.model.popularity
    if popularity == "auto":
        popularity = learned.progress.best_value("val_popularity")
    model = config.model.model_copy(update={"popularity": popularity})
    config = config.model_copy(update={"model": model})
    add_popularity(learned, train, config)
    _calibrate(learned, measure)
    return config


def add_popularity(learned: Learned, train: Interactions, config: Config) -> None:
    """Add popularity to the biases of items, as it is in what was learned from."""
    weight = config.model.popularity
    assert weight != "auto"
    closed_form.add_popularity(
        learned.model, train.positives(), num_items=len(learned.items) - 1, weight=weight
    )


def _calibrate(learned: Learned, measure: Validation) -> None:
    """Fit slope and offset of the affinity on validation.

    Under bce, which learns its own, too: towers that were stopped at the best epoch are still
    surer of themselves than they should be.
    """
    scores, labels = measure.pairs(learned)
    slope, offset = fit_line(scores, labels)
    learned.model.slope.fill_(slope)
    learned.model.offset.data.fill_(offset)
