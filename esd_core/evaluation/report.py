"""Reports as single HTML files: styles, pictures and curves inside, no script, nothing fetched from a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from esd_core import digest
from esd_core.concepts import ErasureJob
from esd_core.errors import EvaluationError
from esd_core.evaluation.curves import FRAME, look_curve, loss_curve
from esd_core.evaluation.gates import COHERENT, GateResult, Gates, Verdict
from esd_core.evaluation.pairs import PairCounts, pooled
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.loading_code import loading_code
from esd_core.merge_rounds import Round
from esd_core.page_template import template
from esd_core.tuning import IMAGES, Check, Tuned


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
    peak_memory: int | None = None  # bytes
    tuned: tuple[Tuned, ...] = ()  # what was chosen by measuring
    merging: tuple[Round, ...] = ()  # how concepts erased alone became one model
    comparison: EvaluationReport | None = None  # the same concept erased another way
    comparison_name: str = "ESD-x"
    links: dict[str, str] = field(default_factory=dict)


def write_job_report(path: Path, section: JobSection) -> None:
    """The report of one erasure."""
    _write(path, f"{section.job.name}, erased from {section.job.base}", [section])


def write_run_report(path: Path, title: str, sections: Sequence[JobSection]) -> None:
    """The report of several erasures: a summary, then a section for each."""
    _write(path, title, sections)


def _write(path: Path, title: str, sections: Sequence[JobSection]) -> None:
    page = template("esd_core.evaluation", "report.html.j2")
    digest.write_text(path, page.render(title=title, sections=[_view(section) for section in sections], frame=FRAME))


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
        "worst": report.worst,
        "mean": _mean_row(report),
        "others": [_row(probe) for probe in report.others],
        "coherent": {name: _coherent(counts) for name, counts in _coherence(report).items() if counts},
        "quality": report.quality,
        "metrics": report.metrics,
        "grid": _data_uri(section.grid),
        "tuned": [(tuned, [_look(check) for check in tuned.checks], look_curve(tuned)) for tuned in section.tuned],
        "merging": [round_.sentence for round_ in section.merging],
        "curve": loss_curve(section.loss_history),
        "unet_evaluations": f"{section.unet_evaluations:,}",
        "duration": duration(section.seconds),
        "memory": f"{section.peak_memory / 2**30:.2f} GiB" if section.peak_memory else "",
        "comparison": _comparison_rows(report, section.comparison) if section.comparison else [],
        "comparison_name": section.comparison_name,
        "again": concept_list(job, report, section.verdict.asked),
        "code": loading_code(job.base),
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
        "coherent": probe.coherent and _coherent(probe.coherent),
        "bars": [
            {"rate": probe.before, "interval": probe.before_interval},
            {"rate": probe.after, "interval": probe.after_interval},
        ],
        "change": round(100 * (probe.after - probe.before)),
        "between": [round(100 * change.lower), round(100 * change.upper)],
    }


def _coherence(report: EvaluationReport) -> dict[str, PairCounts | None]:
    return {"erased concept": report.coherent_of_erased, "all others": report.coherent_of_others}


def _coherent(counts: PairCounts) -> dict[str, Any]:
    """How many images are pictures at all; `worse` where the interval of the change lies below nothing."""
    return {
        "before": counts.before,
        "after": counts.after,
        "interval": counts.after_interval,
        "worse": counts.change_interval.upper < 0,
    }


def _look(check: Check) -> dict[str, Any]:
    """A row of the table of looks; `shown` in words."""
    shown = "" if check.shown is None else f"{round(check.shown * IMAGES)} of {IMAGES}"
    return {**check.model_dump(), "shown": shown}


def _mean_row(report: EvaluationReport) -> dict[str, Any]:
    """The others' mean, with the intervals of all their images together."""
    counts, drop = pooled(report.others), report.drop_bounds()
    return {
        "name": "mean of the others",
        "images": counts.images,
        "coherent": report.coherent_of_others and _coherent(report.coherent_of_others),
        "bars": [
            {"rate": counts.before, "interval": counts.before_interval},
            {"rate": counts.after, "interval": counts.after_interval},
        ],
        "change": round(-100 * report.mean_drop_of_others),
        "between": [round(-100 * drop.upper), round(-100 * drop.lower)],
    }


def _gate_view(gate: GateResult) -> dict[str, Any]:
    """A gauge from 0 to 1: the limit stands at the middle, so that what is measured below it fills less than half.

    Of the gate for pictures it shows the share of images that are none.
    """
    limit, measured, lower, upper = gate.limit, gate.measured, gate.bounds.lower, gate.bounds.upper
    if gate.gate == COHERENT:
        limit, measured, lower, upper = 1 - limit, 1 - measured, 1 - upper, 1 - lower

    def place(figure: float) -> float:
        share = figure / (2 * limit) if limit else float(figure > 0)
        return min(max(share, 0.0), 1.0)

    return {
        "decision": gate.decision.value,
        "reason": gate.reason.replace(" -> ", " → "),
        "fill": place(measured),
        "lower": place(lower),
        "upper": place(upper),
    }


def _comparison_rows(report: EvaluationReport, other: EvaluationReport) -> list[dict[str, Any]]:
    by_name = {probe.probe: probe for probe in other.erased}
    pairs: list[tuple[str, PairCounts, PairCounts]]
    pairs = [(probe.probe, probe, by_name[probe.probe]) for probe in report.erased if probe.probe in by_name]
    pairs.append(("mean of the others", pooled(report.others), pooled(other.others)))
    return [
        {
            "name": name,
            "rates": [
                (ours.before, ours.before_interval),
                (theirs.after, theirs.after_interval),
                (ours.after, ours.after_interval),
            ],
        }
        for name, ours, theirs in pairs
    ]


def _data_uri(png: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")
    except OSError as e:
        raise EvaluationError(f"cannot read the picture {png}: {e.strerror}; evaluate again") from e


def duration(seconds: float) -> str:
    """12 s, 3 min 5 s, 2 h 4 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def concept_list(job: ErasureJob, report: EvaluationReport, gates: Gates) -> str:
    """A concept list that asks for exactly this job again, measured by the same suite and judged by the same gates."""
    rows = [
        {key: value for key, value in erasure.settings.items() if value not in (None, [])} for erasure in job.erasures
    ]
    mode = {"mode": "merged" if job.merged else "joint"} if len(rows) > 1 else {}
    suite = {"suite": report.suite} if report.suite else {}
    limits = {"erased_at_most": gates.erased_at_most, "others_drop_at_most": gates.others_drop_at_most}
    whole = {
        "base": job.base,
        **suite,
        "images_per_probe": report.images_per_probe,
        "gates": limits | gates.model_dump(exclude_defaults=True),
        **mode,
        "concepts": rows,
    }
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
