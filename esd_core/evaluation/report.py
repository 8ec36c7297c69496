"""Reports as single HTML files: styles, pictures and curves inside, no script, nothing fetched from a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from esd_core import digest
from esd_core.concepts import ErasureJob
from esd_core.errors import EvaluationError
from esd_core.evaluation.gates import GateResult, Verdict
from esd_core.evaluation.intervals import wilson
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.tuning import Tuned

CURVE_WIDTH, CURVE_HEIGHT = 640, 180  # SVG units
CURVE_LEFT, CURVE_BOTTOM, CURVE_PAD = 52, 24, 8
CURVE_POINTS = 400  # drawn at most
CURVE_BINS = 40  # of the smoothed line


@dataclass(frozen=True)
class JobSection:
    """What a report shows of one erasure. `links`: name -> address, shown at the end of the section."""

    job: ErasureJob
    report: EvaluationReport
    verdict: Verdict
    grid: Path
    loss_history: Path  # JSON lines with step and loss
    unet_evaluations: int
    seconds: float
    tuned: tuple[Tuned, ...] = ()  # what was chosen by measuring
    comparison: EvaluationReport | None = None  # the same concept erased another way
    comparison_name: str = "ESD-x"
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A loss curve in SVG units: the raw line, the mean over bins of steps, and what to write at the axes."""

    raw: str
    smooth: str
    last_step: int
    ticks: tuple[tuple[float, str], ...]  # (y, text)
    first: float  # mean of the first bin
    last: float  # mean of the last bin


def write_job_report(path: Path, section: JobSection) -> None:
    """The report of one erasure."""
    _write(path, f"{section.job.name}, erased from {section.job.base}", [section])


def write_run_report(path: Path, title: str, sections: Sequence[JobSection]) -> None:
    """The report of several erasures: a summary, then a section for each."""
    _write(path, title, sections)


def _write(path: Path, title: str, sections: Sequence[JobSection]) -> None:
    environment = Environment(
        loader=PackageLoader("esd_core", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.j2")
    text = template.render(
        title=title,
        sections=[_view(section) for section in sections],
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
        curve_left=CURVE_LEFT,
        curve_base=CURVE_HEIGHT - CURVE_BOTTOM,
    )
    digest.write_text(path, text)


def _view(section: JobSection) -> dict[str, Any]:
    """What the template prints, in words and numbers that are ready to print."""
    report, job = section.report, section.job
    return {
        "id": job.slug,
        "job": job,
        "settings": job.settings,
        "how": how(job),
        "report": report,
        "passed": section.verdict.passed,
        "gates": [_gate_view(gate) for gate in section.verdict.gates],
        "erased": [_row(probe) for probe in report.erased],
        "mean": _mean_row(report),
        "others": [_row(probe) for probe in report.others],
        "metrics": report.metrics,
        "grid": _data_uri(section.grid),
        "tuned": section.tuned,
        "curve": loss_curve(section.loss_history),
        "unet_evaluations": f"{section.unet_evaluations:,}",
        "duration": duration(section.seconds),
        "comparison": _comparison_rows(report, section.comparison) if section.comparison else [],
        "comparison_name": section.comparison_name,
        "again": concept_list(job, report.images_per_probe),
        "links": section.links,
    }


def how(job: ErasureJob) -> str:
    """Kind, scope and method, as a person says it."""
    kinds = " + ".join(dict.fromkeys(concept.kind.value for concept in job.concepts))
    source = job.concepts[0].erase_from if len(job.concepts) == 1 else None
    return f"{kinds}{f', erased from {source}' if source else ''} · {job.method}"


def _row(probe: ProbeResult) -> dict[str, Any]:
    change = probe.change_interval
    return {
        "name": probe.probe,
        "images": probe.images,
        "bars": [
            {"rate": probe.before, "interval": probe.before_interval},
            {"rate": probe.after, "interval": probe.after_interval},
        ],
        "change": round(100 * (probe.after - probe.before)),
        "between": [round(100 * change.lower), round(100 * change.upper)],
    }


def _mean_row(report: EvaluationReport) -> dict[str, Any]:
    """The others' mean, with the intervals of all their images together."""
    pairs, drop = report.pairs_of_others, report.drop_bounds()
    return {
        "name": "mean of the others",
        "images": sum(pairs),
        "bars": [
            {"rate": report.metrics["others_before"], "interval": wilson(pairs.both + pairs.only_before, sum(pairs))},
            {"rate": report.metrics["others_after"], "interval": wilson(pairs.both + pairs.only_after, sum(pairs))},
        ],
        "change": round(-100 * report.mean_drop_of_others),
        "between": [round(-100 * drop.upper), round(-100 * drop.lower)],
    }


def _gate_view(gate: GateResult) -> dict[str, Any]:
    """A gauge from 0 to 1: the limit stands at the middle, so that what is measured below it fills less than half."""

    def place(figure: float) -> float:
        share = figure / (2 * gate.limit) if gate.limit else float(figure > 0)
        return min(max(share, 0.0), 1.0)

    return {
        "decision": gate.decision.value,
        "reason": gate.reason.replace(" -> ", " → "),
        "fill": place(gate.measured),
        "lower": place(gate.bounds.lower),
        "upper": place(gate.bounds.upper),
    }


def _comparison_rows(report: EvaluationReport, other: EvaluationReport) -> list[dict[str, Any]]:
    by_name = {probe.probe: probe for probe in other.erased}
    rows = [
        {"name": probe.probe, "before": probe.before, "other": by_name[probe.probe].after, "after": probe.after}
        for probe in report.erased
        if probe.probe in by_name
    ]
    means = {"before": report.metrics["others_before"], "other": other.metrics["others_after"]}
    return [*rows, {"name": "mean of the others", **means, "after": report.metrics["others_after"]}]


def _data_uri(png: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")
    except OSError as e:
        raise EvaluationError(f"cannot read the picture {png}: {e.strerror}; evaluate again") from e


def read_history(path: Path) -> list[tuple[int, float]]:
    """(step, loss) of every line of a loss history."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [(int(line["step"]), float(line["loss"])) for line in lines]
    except OSError as e:
        raise EvaluationError(f"cannot read the loss history {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise EvaluationError(f"{path} is not a loss history: expected JSON lines with step and loss") from e


def loss_curve(path: Path) -> Curve | None:
    """The curve of a history, or None when it has fewer than two steps."""
    history = read_history(path)
    if len(history) < 2:
        return None
    steps, losses = np.array(history).T
    top = float(np.percentile(losses, 99)) * 1.1 or 1.0
    base = CURVE_HEIGHT - CURVE_BOTTOM

    def place(x: np.ndarray, y: np.ndarray) -> str:
        left = CURVE_LEFT + (x - steps[0]) / (steps[-1] - steps[0]) * (CURVE_WIDTH - CURVE_LEFT - CURVE_PAD)
        down = base - np.clip(y / top, 0, 1) * (base - CURVE_PAD)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(left, down, strict=True))

    every = max(1, len(steps) // CURVE_POINTS)
    bins = [rows for rows in np.array_split(np.arange(len(steps)), min(CURVE_BINS, len(steps))) if len(rows)]
    middle, mean = (np.array([values[rows].mean() for rows in bins]) for values in (steps, losses))
    ticks = tuple((base - share * (base - CURVE_PAD), f"{share * top:.2g}") for share in (0.0, 0.5, 1.0))
    return Curve(
        raw=place(steps[::every], losses[::every]),
        smooth=place(middle, mean),
        last_step=int(steps[-1]),
        ticks=ticks,
        first=float(mean[0]),
        last=float(mean[-1]),
    )


def duration(seconds: float) -> str:
    """12 s, 3 min 5 s, 2 h 4 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def concept_list(job: ErasureJob, images_per_probe: int) -> str:
    """A concept list that asks for exactly this job again."""
    rows = [
        {key: value for key, value in erasure.settings.items() if value not in (None, [])} for erasure in job.erasures
    ]
    mode = {"mode": "joint"} if len(rows) > 1 else {}
    whole = {"base": job.base, "images_per_probe": images_per_probe, **mode, "concepts": rows}
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
