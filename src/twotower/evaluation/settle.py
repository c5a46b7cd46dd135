"""What validation settles of trained towers: popularity, what stands beside, the affinity."""

from __future__ import annotations

import numpy as np

from twotower.config import Config
from twotower.data.interactions import Interactions
from twotower.evaluation.blending import Chosen, choose_blend
from twotower.evaluation.calibration import fit_line
from twotower.evaluation.validation import Validation
from twotower.training import closed_form
from twotower.training.learn import Learned
from twotower.watch import Watch


def settle(
    learned: Learned, train: Interactions, measure: Validation, config: Config, watch: Watch
) -> tuple[Config, Chosen | None]:
    """Fit all of it, in place, and say what was chosen where that was open.

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
    chosen = choose_blend(learned, train, measure, config, watch)
    _calibrate(learned, measure, chosen)
    return config, chosen


def add_popularity(learned: Learned, train: Interactions, config: Config) -> None:
    """Add popularity to the biases of items, as it is in what was learned from."""
    weight = config.model.popularity
    assert weight != "auto"
    closed_form.add_popularity(
        learned.model, train.positives(), num_items=len(learned.items) - 1, weight=weight
    )


def _calibrate(learned: Learned, measure: Validation, chosen: Chosen | None) -> None:
    """Fit slope and offset of the affinity on validation.

    Under bce, which learns its own, too: towers that were stopped at the best epoch are still
    surer of themselves than they should be.
    """
    scores, labels = measure.pairs(learned)
    if chosen is not None:
        liked, users = measure.histories(learned), measure.user_rows.astype(np.int64)
        scores = scores + chosen.blend.pairs(liked, users, measure.item_rows.astype(np.int64))
    slope, offset = fit_line(scores, labels)
    learned.model.slope.fill_(slope)
    learned.model.offset.data.fill_(offset)
