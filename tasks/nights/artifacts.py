"""What Prefect shows of a night: progress while it runs, the grid of each concept, a table at the end."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from uuid import UUID

from PIL import Image
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from esd_core.evaluation.gates import Verdict
from esd_core.evaluation.results import EvaluationReport
from tasks.nights.night import Night, Settled
from tasks.nights.plan import Plan, PlannedJob
from tasks.records.registry import RegisteredVersion
from tasks.releases.release import Release

GRID_WIDTH = 900  # pixels; Prefect keeps the picture in its database


STAGES = 4  # of a concept: erased, measured, registered, published as far as it may be


@dataclass(frozen=True)
class Progress:
    """A progress bar of `total` parts."""

    artifact: UUID
    total: int

    def advance(self, done: int) -> None:
        update_progress_artifact(self.artifact, progress=100 * done / self.total)


def show_what_is_logged() -> None:
    """Let more than the warnings of our modules through to the run's log."""
    for name in ("esd_core", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)


def start_night(plan: Plan) -> Progress:
    """Show the plan, and a progress bar at zero."""
    create_markdown_artifact(plan_markdown(plan), key="plan", description=plan.sentence)
    return _start("concepts-done", "Concepts at their end tonight", max(1, len(plan.to_do)))


def start_concept(planned: PlannedJob) -> Progress:
    return _start(f"progress-{planned.slug}", f"{planned.job.name}: erased, measured, registered, settled", STAGES)


def _start(key: str, description: str, total: int) -> Progress:
    artifact = create_progress_artifact(0.0, key=key, description=description)
    assert isinstance(artifact, UUID)  # a coroutine only where an event loop runs
    return Progress(artifact, total)


def plan_markdown(plan: Plan) -> str:
    rows = [f"| {p.job.name} | {p.status.value} | {'; '.join(p.changes)} |" for p in plan.jobs]
    retired = [f"| {k.job.name} | retired | {k.model} stays registered |" for k in plan.retired]
    return "\n".join([f"Base model: {plan.base}", "", "| concept | plan | what |", "|---|---|---|", *rows, *retired])


def show_concept(version: RegisteredVersion, report: EvaluationReport, verdict: Verdict, grid: Path) -> None:
    """The before/after grid, with the verdict's reasons and the way to the version in MLflow under it."""
    passed = "gates passed" if verdict.passed else "gates not passed"
    name = f"{version.model} version {version.version}"
    link = f"[{name} in MLflow]({version.page})" if version.page else name
    figures = "; ".join(verdict.reasons)
    create_image_artifact(
        data_uri(grid),
        key=f"grid-{version.job.slug}",
        description=f"**{report.concept}**: {passed}. {figures}. Version: {link}",
    )


def data_uri(picture: Path) -> str:
    """The picture, scaled down to GRID_WIDTH, as an address that needs no server."""
    with Image.open(picture) as image:
        image.thumbnail((GRID_WIDTH, 100 * GRID_WIDTH))
        buffer = BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=80, method=2)  # half the time, 5 % larger
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def show_night(night: Night) -> None:
    create_table_artifact([_row(row) for row in night.settled], key="night", description=night.sentence)


def show_report(night: Night, address: str) -> None:
    create_link_artifact(address, key="report", link_text="the night's report", description=night.sentence)


def _row(row: Settled) -> dict[str, str]:
    return {
        "concept": row.concept,
        "plan": row.status.value,
        "tonight": row.tonight,
        "erased": row.erased,
        "others": row.others,
        "outcome": row.outcome,
        "why": row.error or "",
        "version": row.version,
        "release": row.release or "",
    }


def show_release(model: str, version: int, release: Release) -> None:
    create_link_artifact(release.uri, key="release", link_text=release.uri, description=f"{model} {version}, published")
