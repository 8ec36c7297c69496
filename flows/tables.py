"""The tables that people see at the end of a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tasks.night import Night
    from tasks.plan import Plan


def _print(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_plan(plan: Plan) -> None:
    jobs = [(p.job.concept.name, p.status.value, p.job.recipe.subset.value, "; ".join(p.changes)) for p in plan.jobs]
    retired = [(k.job.concept.name, "retired", "", f"{k.model} stays as it is") for k in plan.retired]
    _print(f"plan for {plan.base}: {plan.sentence}", ("concept", "plan", "subset", "what changed"), [*jobs, *retired])


def print_night(night: Night) -> None:
    rows = (
        (
            row.concept,
            row.status.value,
            row.planned.job.recipe.subset.value,
            row.erased,
            row.others,
            row.outcome,
            row.version,
        )
        for row in night.settled
    )
    _print(night.sentence, ("concept", "plan", "subset", "erased", "others", "outcome", "version"), rows)
