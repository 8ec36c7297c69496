"""The tables that people see at the end of a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from esd_core.studies.study import Study
    from infra.human_study.results import Results
    from tasks.approvals.overview import StatusRow
    from tasks.nights.night import Night
    from tasks.nights.plan import Plan

WIDTH_OF_LOGS = 1000  # characters, where there is no terminal to ask: nothing is folded, so that grep finds it


def _print(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*(Column(name, overflow="fold") for name in columns), header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    on_terminal = Console().is_terminal
    console = Console(width=None if on_terminal else WIDTH_OF_LOGS, highlight=False)
    console.print(title, style="bold", markup=False)
    console.print(table)


def print_plan(plan: Plan) -> None:
    jobs = [(p.job.name, p.status.value, p.job.method, "; ".join(p.changes)) for p in plan.jobs]
    retired = [(k.job.name, "retired", "", f"{k.model} stays as it is") for k in plan.retired]
    _print(f"plan for {plan.base}: {plan.sentence}", ("concept", "plan", "subset", "what changed"), [*jobs, *retired])


def print_night(night: Night) -> None:
    rows = (
        (
            row.concept,
            row.status.value,
            row.planned.job.method,
            row.erased,
            row.others,
            f"{row.outcome}: {row.error}" if row.error else row.outcome,
            row.version,
        )
        for row in night.settled
    )
    _print(night.sentence, ("concept", "plan", "subset", "erased", "others", "outcome", "version"), rows)


def print_status(status: Iterable[StatusRow]) -> None:
    rows = [(row.model, str(row.version), row.subset, row.verdict, row.approval, row.release) for row in status]
    if rows:
        _print("registered versions", ("model", "version", "subset", "verdict", "approval", "release"), rows)
    else:
        print("nothing is registered yet: `esd run LIST.yaml` erases a list")


def print_human_study(results: Results) -> None:
    rows = (
        (
            row.question.value,
            row.method,
            f"{row.mean:.2f}",
            f"{row.interval.low:.2f} to {row.interval.high:.2f}" if row.interval else "-",
            str(row.answers),
            str(row.participants),
        )
        for row in results.rows
    )
    title = f"{results.title}: {results.answers} answers of {results.participants} participants, on a scale of 1 to 5"
    _print(title, ("question", "method", "mean", f"{results.confidence:.0%} interval", "answers", "participants"), rows)


def print_study(study: Study) -> None:
    from esd_core.studies.markdown import cell_text

    for table in study.tables:
        _print(table.title, table.columns, ([cell_text(cell) for cell in row] for row in table.rows))
    for note in study.notes:
        print(note)
