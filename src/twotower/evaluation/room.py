"""What baselines will take, from counts alone; one that does not fit is left out, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from twotower.config import Config
from twotower.data.memory import available_bytes, in_words
from twotower.data.splits import Split
from twotower.data.tables import Dataset
from twotower.evaluation.rankers import IN_WORDS, Settings
from twotower.watch import Watch

# EASE inverts a matrix of all pairs of items, whose time grows with the cube of the items: so
# many take minutes.
EASE_MOST_ITEMS = 20_000
# The matrix of users and items, and a second of the kind that a solver makes of it.
_ROW = 24
# A neighbour that is found, and what is made of it.
_NEIGHBOUR = 40
_FLOAT = 4
# What may stand beside the towers, as model.blend names it.
BESIDE: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "ease": ("ease",),
    "item_knn": ("item_knn",),
    "auto": ("ease", "item_knn"),
}
# The fewest that are of use, and what the first trial has.
_FEW: dict[str, Settings] = {
    "item_knn": {"neighbours": 100},
    "ease": {},
    "ials": {"factors": 64},
}


@dataclass(frozen=True)
class Size:
    """Counts that the memory of a baseline depends on."""

    users: int
    items: int
    rows: int

    @classmethod
    def of(cls, dataset: Dataset, parts: Split) -> Size:
        """Those of a data set."""
        known = len(parts.train) + len(parts.val)
        return cls(len(dataset.users), len(dataset.items), known)


def bytes_to_fit(name: str, settings: Settings, size: Size) -> float:
    """About what a baseline takes at its peak while it is tuned, beside the data.

    >>> bytes_to_fit("ease", {}, Size(users=0, items=19_999, rows=0)) / 2**30
    2.9802322387695312
    """
    rows = float(_ROW * size.rows)
    if name == "ease":
        # How often any two were met together, of which trials share one, and its inverse.
        return rows + 2 * _FLOAT * (size.items + 1) ** 2
    if name == "item_knn":
        near = min(float(settings["neighbours"]), float(size.items))
        return rows + _NEIGHBOUR * near * size.items
    if name == "ials":
        return rows + _FLOAT * float(settings["factors"]) * (size.users + size.items)
    return 8.0 * (size.users + size.items)


def what_fits(name: str, size: Size, config: Config) -> Callable[[Settings], bool]:
    """Whether a baseline with some settings fits into what is free now."""
    there = available_bytes(config.data)
    return lambda settings: bytes_to_fit(name, settings, size) <= there


def left_out(names: Iterable[str], size: Size, config: Config) -> dict[str, str]:
    """Of some baselines those that are too large for here, each with why and what to do."""
    found = {}
    there = available_bytes(config.data)
    for name in names:
        needs = bytes_to_fit(name, _FEW.get(name, {}), size)
        if name == "ease" and size.items > EASE_MOST_ITEMS:
            found[name] = (
                f"it needs a matrix of all pairs of {size.items:,} items; up to "
                f"{EASE_MOST_ITEMS:,} it is measured"
            )
        elif needs > there:
            allow = "" if config.data.memory_gib == "auto" else "raise data.memory_gib, "
            found[name] = (
                f"it takes about {in_words(needs)} of memory for {size.items:,} items, and "
                f"{in_words(float(there))} are free; {allow}use a machine with more, or leave "
                "out items that were hardly met"
            )
    return found


def left_out_of(
    config: Config, dataset: Dataset, parts: Split, watch: Watch, *, without: Iterable[str] = ()
) -> dict[str, str]:
    """``left_out`` of all that the config names, and notes of it.

    Args:
        without: those of which that was said before.
    """
    names = (*config.evaluation.baselines, *BESIDE[config.model.blend])
    asked = [name for name in dict.fromkeys(names) if name not in without]
    found = left_out(asked, Size.of(dataset, parts), config)
    for name, why in found.items():
        watch.note(f"{IN_WORDS[name]} is left out: {why}")
    return found
