"""HTML reports: everything inside one file, every figure shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from esd_core.concepts import ConceptEntry, ConceptKind, ErasureJob, ListMode
from esd_core.errors import EvaluationError
from esd_core.evaluation.curves import look_curve, loss_curve
from esd_core.evaluation.evaluate import FIXED_NUMBER
from esd_core.evaluation.gates import Gates, judge
from esd_core.evaluation.pictures import GridRow, write_before_after
from esd_core.evaluation.report import (
    JobSection,
    concept_list,
    duration,
    write_job_report,
    write_run_report,
)
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.list_file import load_concept_list
from esd_core.recipe import RecipeName


def probe(name: str, before: int, after: int, implied: bool = False) -> ProbeResult:
    both = min(before, after)
    counts = {"both": both, "only_before": before - both, "only_after": after - both}
    return ProbeResult(probe=name, concept=name, implied=implied, **counts, neither=25 - sum(counts.values()))


def report_of(concept: str, after: int) -> EvaluationReport:
    return EvaluationReport(
        concept=concept,
        base_digest="b" * 64,
        weights_digest="e" * 64,
        suite_digest="c" * 64,
        images_per_probe=25,
        erased=(probe(f"{concept}, named", 25, after), probe(f"{concept}, implied", 24, after, implied=True)),
        others=(probe("house", 25, 24), probe('tree <oak> & "elm"', 20, 15)),
    )


@pytest.fixture
def section(tmp_path: Path) -> JobSection:
    entry = ConceptEntry(name="sun", kind=ConceptKind.GLOBAL, learning_rate=1e-4)
    job = ErasureJob(base="miniature", base_digest="b" * 64, erasures=(entry.erasure,))
    report = report_of("sun", 1)
    grid, history = tmp_path / "grid.png", tmp_path / "history.jsonl"
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    write_before_after(grid, [GridRow("sun", images, images[::-1], erased=True), GridRow("house", images, images)])
    history.write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 101)))
    return JobSection(
        job=job,
        report=report,
        verdict=judge(report, FIXED_NUMBER),
        grid=grid,
        loss_history=history,
        unet_evaluations=12_345,
        seconds=185,
        comparison=report_of("sun", 12),
        links={"MLflow": "http://127.0.0.1:5000/#/models"},
    )


def test_a_job_report_shows_every_figure(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", section)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = ("100&#8239;%", "4&#8239;%", "12,345", "3 min 5 s", "step 100", "esd-u", "http://127.0.0.1:5000/#/models")
    assert [text for text in shown if text not in html] == []
    assert section.report.weights_digest in html
    assert section.job.digest in html
    assert "Against ESD-x" in html
    assert "48&#8239;%" in html  # what the comparison leaves


def test_a_report_says_why_it_did_not_pass(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", section)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not passed" in html
    assert "others fall by 12.0 points on average (at most 5)" in html


def test_a_report_shows_intervals_and_how_many_images_a_gate_took(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", section)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    interval = section.report.erased[0].change_interval
    assert f"{round(100 * interval.lower)} to {round(100 * interval.upper)}" in html.replace("\N{MINUS SIGN}", "-")
    assert "25 images" in html
    assert "decided by 50 images" in html


def test_an_undecided_gate_is_neither_passed_nor_failed_and_says_what_helps(
    section: JobSection, tmp_path: Path
) -> None:
    verdict = judge(section.report, Gates())  # 25 images cannot tell 4 % from 14 %
    write_job_report(tmp_path / "report.html", replace(section, verdict=verdict))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not passed" in html
    assert 'class="mark undecided"' in html
    assert "images_per_probe above 25" in html


def test_a_report_needs_no_network_and_no_script(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", replace(section, links={}))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)[^\"]*\"", html)
    assert "<script" not in html
    assert "prefers-color-scheme: dark" in html


def test_names_are_escaped(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", section)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tree &lt;oak&gt; &amp; &#34;elm&#34;" in html
    assert "<oak>" not in html


def test_a_run_report_summarizes_all_concepts(section: JobSection, tmp_path: Path) -> None:
    entry = ConceptEntry(name="Van Gogh", kind=ConceptKind.STYLE)
    report = report_of("Van Gogh", 0).model_copy(update={"others": (probe("house", 25, 25),)})
    job = section.job.model_copy(update={"erasures": (entry.erasure,)})
    other = replace(section, job=job, report=report, verdict=judge(report, FIXED_NUMBER), comparison=None, links={})
    write_run_report(tmp_path / "run.html", "Nightly erasure", [section, other])
    html = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "2 concepts erased" in html
    assert "1 passed all gates" in html
    assert 'href="#van-gogh"' in html
    assert 'id="van-gogh"' in html


def test_the_printed_list_asks_for_the_same_job(section: JobSection, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(concept_list(section.job, 25))
    (entry,) = load_concept_list(path).concepts
    assert (entry.erasure,) == section.job.erasures
    assert yaml.safe_load(path.read_text())["images_per_probe"] == 25


def test_the_printed_list_of_a_joint_job_asks_for_the_same_job(section: JobSection, tmp_path: Path) -> None:
    gogh = ConceptEntry(
        name="Van Gogh",
        kind=ConceptKind.STYLE,
        recipe=RecipeName.PAPER,
        also_known_as=("Vincent",),
        retain=("a house by Monet", "a tree"),
    )
    job = section.job.model_copy(update={"erasures": (*section.job.erasures, gogh.erasure)})
    path = tmp_path / "list.yaml"
    path.write_text(concept_list(job, 25))
    wanted = load_concept_list(path)
    assert wanted.mode is ListMode.JOINT
    assert tuple(entry.erasure for entry in wanted.concepts) == job.erasures


def test_the_curve_spans_all_steps(section: JobSection) -> None:
    curve = loss_curve(section.loss_history)
    assert curve is not None
    assert curve.last_step == 100
    assert curve.first > curve.last
    assert len(curve.raw.split()) == 100


def test_a_single_step_has_no_curve(section: JobSection, tmp_path: Path) -> None:
    section.loss_history.write_text('{"step": 1, "loss": 0.5}\n')
    assert loss_curve(section.loss_history) is None
    write_job_report(tmp_path / "report.html", section)
    assert "<svg" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_missing_or_foreign_parts_are_refused(section: JobSection, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot read the picture"):
        write_job_report(tmp_path / "report.html", replace(section, grid=tmp_path / "none.png"))
    section.loss_history.write_text("step 1: 0.5\n")
    with pytest.raises(EvaluationError, match="not a loss history"):
        write_job_report(tmp_path / "report.html", section)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (185, "3 min 5 s"), (7440, "2 h 4 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
