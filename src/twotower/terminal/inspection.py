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
# So that a table without reasons goes into 80 columns.
_LONGEST_NAME = 24
_MOST_COLUMNS = 60


def show(console: Console, inspection: Inspection) -> None:
    """Print the tables, then the findings, warnings first."""
    for look in inspection.tables:
        whole = _columns(look, with_reasons=True)
        if _width(whole) <= console.width:
            console.print(whole)
        else:
            console.print(_columns(look, with_reasons=False))
            console.print(_reasons(look))
    for finding in inspection.findings:
        colour = "yellow" if finding.severity == "warning" else "cyan"
        text = f"[{colour}]{finding.severity}[/] {escape(finding.text)}"
        console.print(text, highlight=False)


def _columns(look: TableLook, *, with_reasons: bool) -> Table:
    title = f"{look.name}: {look.num_rows:,} rows  [dim]{escape(look.source)}[/]"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    most = None if with_reasons else _LONGEST_NAME
    table.add_column("column", no_wrap=True, max_width=most)
    kinds = max((len(column.kind) for column in look.columns), default=0)
    table.add_column("taken for", no_wrap=True, min_width=max(kinds, 9))
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


def _width(table: Table) -> int:
    """How wide a table is that nothing is cut off of."""
    return Console(width=1_000).measure(table).maximum


def _reasons(look: TableLook) -> Table:
    """Each reason once, and the columns that it took: for a window too narrow for both."""
    taken: dict[str, list[str]] = {}
    for column in look.columns[:_MOST_COLUMNS]:
        taken.setdefault(_reason(column), []).append(column.name)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("because of")
    table.add_column("taken so", overflow="fold")
    for reason, names in taken.items():
        table.add_row(escape(reason), escape(", ".join(names)), style="dim")
    return table


def _reason(column: ColumnLook) -> str:
    return f"{column.reason}, {column.sql_type}"


def _cells(column: ColumnLook) -> tuple[str, ...]:
    return (
        escape(column.name),
        column.kind,
        f"{column.share_missing:.1%}" if column.share_missing else "",
        f"{column.num_distinct:,}",
        escape(_short(column.example)),
        escape(_reason(column)),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    with suppress(ValueError):
        # Of a number with twenty digits the first few say enough.
        line = line if line.isdigit() else f"{float(line):.6g}"
    return shortened(line, _LONGEST_EXAMPLE)
