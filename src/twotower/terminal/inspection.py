"""What ``twotower inspect`` shows: each table's columns, then what is odd."""

from __future__ import annotations

from contextlib import suppress

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twotower.data.inspection import ColumnLook, Inspection, TableLook
from twotower.errors import shortened

_LONGEST_EXAMPLE = 24
_MOST_COLUMNS = 60
# In a narrower window the reasons would leave no room for the rest.
_WIDE = 100


def show(console: Console, inspection: Inspection) -> None:
    """Print the tables, then the findings, warnings first."""
    for table in inspection.tables:
        console.print(_columns(table, with_reasons=console.width >= _WIDE))
    for finding in inspection.findings:
        colour = "yellow" if finding.severity == "warning" else "cyan"
        text = f"[{colour}]{finding.severity}[/] {escape(finding.text)}"
        console.print(text, highlight=False)


def _columns(look: TableLook, *, with_reasons: bool) -> Table:
    title = f"{look.name}: {look.num_rows:,} rows  [dim]{escape(look.source)}[/]"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    longest = max((len(column.name) for column in look.columns), default=0)
    table.add_column("column", no_wrap=True, min_width=min(longest, 26))
    table.add_column("taken for", no_wrap=True, min_width=9)
    table.add_column("missing", justify="right", no_wrap=True, min_width=7)
    table.add_column("different", justify="right", no_wrap=True, min_width=9)
    table.add_column("such as", no_wrap=True, min_width=12)
    if with_reasons:
        table.add_column("because of", style="dim", no_wrap=True)
    for column in look.columns[:_MOST_COLUMNS]:
        cells = _cells(column)
        shown = cells if with_reasons else cells[:-1]
        table.add_row(*shown, style="dim" if column.kind == "ignore" else "")
    if len(look.columns) > _MOST_COLUMNS:
        table.caption = f"and {len(look.columns) - _MOST_COLUMNS:,} columns more"
    return table


def _cells(column: ColumnLook) -> tuple[str, ...]:
    return (
        escape(column.name),
        column.kind,
        f"{column.share_missing:.1%}" if column.share_missing else "",
        f"{column.num_distinct:,}",
        escape(_short(column.example)),
        escape(f"{column.reason}, {column.sql_type}"),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    with suppress(ValueError):
        # Of a number with twenty digits the first few say enough.
        line = line if line.isdigit() else f"{float(line):.6g}"
    return shortened(line, _LONGEST_EXAMPLE)
