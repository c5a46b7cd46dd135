"""What ``twotower inspect`` shows: each table's columns, then what is odd."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twotower.data.inspection import ColumnLook, Inspection, TableLook

_LONGEST_EXAMPLE = 28
_MOST_COLUMNS = 60


def show(console: Console, inspection: Inspection) -> None:
    """Print the tables, then the findings, warnings first."""
    for table in inspection.tables:
        console.print(_columns(table))
    for finding in inspection.findings:
        colour = "yellow" if finding.severity == "warning" else "cyan"
        text = f"[{colour}]{finding.severity}[/] {escape(finding.text)}"
        console.print(text, highlight=False)


def _columns(look: TableLook) -> Table:
    title = f"{look.name}: {look.num_rows:,} rows  [dim]{escape(look.source)}[/]"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("column", no_wrap=True)
    table.add_column("taken for", no_wrap=True)
    table.add_column("because of", style="dim")
    table.add_column("missing", justify="right")
    table.add_column("different", justify="right")
    table.add_column("such as", no_wrap=True)
    for column in look.columns[:_MOST_COLUMNS]:
        table.add_row(*_cells(column), style="dim" if column.kind == "ignore" else "")
    if len(look.columns) > _MOST_COLUMNS:
        table.caption = f"and {len(look.columns) - _MOST_COLUMNS:,} columns more"
    return table


def _cells(column: ColumnLook) -> tuple[str, ...]:
    return (
        escape(column.name),
        column.kind,
        escape(f"{column.reason}, {column.sql_type}"),
        f"{column.share_missing:.1%}" if column.share_missing else "",
        f"{column.num_distinct:,}",
        escape(_short(column.example)),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_EXAMPLE else line[: _LONGEST_EXAMPLE - 3] + "..."
