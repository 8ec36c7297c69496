"""Reports are one file: no network, names escaped, a summary over several, nothing half written."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.errors import EvaluationError
from esd_core.evaluation.evaluate import FIXED_NUMBER
from esd_core.evaluation.gates import judge
from esd_core.evaluation.report import (
    JobSection,
    duration,
    write_job_report,
    write_run_report,
)
from tests.written_reports import probe, report_of


def test_every_probe_has_a_tile_of_interference(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", section)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count('<div class="tile gone">') == 2
    assert html.count('<div class="tile kept">') == 2
    assert '<b style="opacity:0.80"></b></i><i><b style="opacity:0.60"></b>' in html  # the tree, 20 to 15 of 25
    assert "80 → 60" in html


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


def test_a_single_step_has_no_curve(section: JobSection, tmp_path: Path) -> None:
    section.loss_history.write_text('{"step": 1, "loss": 0.5}\n')
    write_job_report(tmp_path / "report.html", section)
    assert "<polyline" not in (tmp_path / "report.html").read_text(encoding="utf-8")


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
