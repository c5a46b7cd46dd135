"""How a raw value becomes the inputs of a tower, in JSON that any language can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from twotower.data.encoders import Bagged, Coded, Encoder
from twotower.data.features import Encoders
from twotower.export.padded import CODES, ID, NUMBERS, Inputs, bag_name

_FLAG = "; then, if flags_missing, one more number: 1 where missing, else 0"
_LISTED = "1 for a value that is not in values, else 2 + its place in values, from 0"
HOW: Mapping[str, str] = {
    "Numeric": "(x - mean) / deviation, cut to -8 .. 8; 0 where missing" + _FLAG,
    "Boolean": "1 for yes, 0 for no; mean where missing" + _FLAG,
    "Moment": (
        "s: seconds since 1970 UTC; (s / 31556952 - mean_years) / deviation_years, cut to "
        "-8 .. 8; then sine and cosine of 2 pi s / period for the periods of a year (31556952 "
        "s), a week (604800 s) and, if has_hours, a day (86400 s); zeros where missing" + _FLAG
    ),
    "Vector": "x * scale; zeros where missing",
    "Category": f"shift + 0 where missing, {_LISTED}",
    "Categories": (
        f"of each value {_LISTED}, 1 + ln(n) times, rounded, where the value is there n times; "
        "an empty list where missing"
    ),
    "Text": (
        "2 + crc32(UTF-8) % buckets of each piece of the lower-cased text; the pieces are, of "
        r"each of its first 64 words (runs of \w), <word> whole and all runs of 3, 4 and 5 "
        "letters in <word> that are shorter than it; an empty list where missing"
    ),
}


def described(encoders: Encoders, inputs: Inputs) -> dict[str, Any]:
    """The inputs of a tower and, column by column, what is put into them."""
    columns = []
    numbers = codes = shift = bags = 0
    for name, (column, encoder) in encoders.by_column.items():
        where: dict[str, Any]
        if isinstance(encoder, Coded):
            where = {"input": CODES, "place": codes, "shift": shift}
            codes, shift = codes + 1, shift + encoder.size
        elif isinstance(encoder, Bagged):
            where = {"input": bag_name(bags)}
            bags += 1
        else:
            where = {"input": NUMBERS, "from": numbers, "to": numbers + encoder.width}
            numbers += encoder.width
        columns.append({"column": name, "kind": column.kind, **where, **_fitted(encoder)})
    return {
        "inputs": {
            name: {"type": "float32" if _is_real(axes, name) else "int64", "axes": list(axes)}
            for name, axes in inputs.axes.items()
        },
        "columns": columns,
    }


def _is_real(axes: tuple[str | int, ...], name: str) -> bool:
    return name != ID and name != CODES and isinstance(axes[-1], int)


def _fitted(encoder: Encoder) -> dict[str, Any]:
    kind = type(encoder).__name__
    return {"encoder": kind, "how": HOW[kind], "fitted": asdict(encoder)}
