"""A study as Markdown: its tables, as documents and Prefect show them."""

from __future__ import annotations

from esd_core.studies.figures import Figure
from esd_core.studies.study import Cell, Study, Table


def as_markdown(study: Study) -> str:
    """Title, question, tables and notes; the command at the end."""
    notes = "\n".join(f"- {note}" for note in (*study.notes, INTERVALS))
    tables = [f"**{table.title}**\n\n{table_markdown(table)}" for table in study.tables]
    again = f"Again: `{study.command}`"
    return "\n\n".join([f"# {study.title}", study.asks, *tables, notes, again]) + "\n"


INTERVALS = (
    "Beside the figures: 95 % intervals, Wilson's for shares; for changes, in percentage points, paired ones on the "
    "same prompts and seeds."
)


def table_markdown(table: Table) -> str:
    aligned = ["---", *(["---:"] * (len(table.columns) - 1))]
    rows = [[_escaped(cell_text(cell)) for cell in row] for row in table.rows]
    if table.total and rows:
        rows[-1] = [f"**{text}**" for text in rows[-1]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([_escaped(c) for c in table.columns], aligned, *rows))


def cell_text(cell: Cell) -> str:
    """A figure with its interval in brackets, or the words."""
    if isinstance(cell, Figure):
        return f"{cell.text} ({cell.between})" if cell.between else cell.text
    return cell


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
