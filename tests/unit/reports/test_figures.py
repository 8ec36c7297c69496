"""A report shows every figure of an erasure with its interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from esd_core.evaluation.gates import Gates, judge
from esd_core.evaluation.report import (
    JobSection,
    write_job_report,
)
from esd_core.evaluation.results import Mean, QualityFigures, Sampling
from esd_core.merge_rounds import Round
from esd_core.recipe import RolloutSampler
from esd_core.tuning import Check, Tuned
from tests.written_reports import probe, report_of


def test_a_job_report_shows_every_figure(section: JobSection, tmp_path: Path) -> None:
    write_job_report(tmp_path / "report.html", section)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = ("100&#8239;%", "4&#8239;%", "12,345", "3 min 5 s", "step 100", "esd-u", "http://127.0.0.1:5000/#/models")
    assert [text for text in shown if text not in html] == []
    assert section.report.weights_digest in html
    assert section.job.digest in html
    assert "Against ESD-x" in html
    left = report_of("sun", 12).erased[0].after_interval
    assert f"48&#8239;%<br><small>{100 * left.lower:.0f} to {100 * left.upper:.0f}</small>" in html  # by the comparison


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


def test_a_report_shows_which_images_are_no_pictures(section: JobSection, tmp_path: Path) -> None:
    broken = section.report.erased[0].model_copy(update={"coherent": probe("", 25, 4)})
    whole = section.report.others[0].model_copy(update={"coherent": probe("", 25, 25)})
    update = {"erased": (broken, section.report.erased[1]), "others": (whole, section.report.others[1])}
    report = section.report.model_copy(update=update)
    gates = Gates(sequential=False, coherent_at_least=0.5)
    write_job_report(tmp_path / "report.html", replace(section, report=report, verdict=judge(report, gates)))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "21 of 25 images are no pictures" in html
    assert "Pictures, erased concept" in html
    assert '<span class="worse">16&#8239;% pictures</span>' in html
    interval = broken.coherent.after_interval if broken.coherent else None
    assert interval is not None
    assert f"{100 * interval.lower:.0f} to {100 * interval.upper:.0f}" in html
    write_job_report(tmp_path / "report.html", section)
    assert "ictures" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_shows_looks_at_images_memory_and_how_images_were_drawn(section: JobSection, tmp_path: Path) -> None:
    looks = [
        Check(step=step, total=step, eta=2, remainder=0.3, interference=0.2, settled=settled, shown=shown)
        for step, settled, shown in ((60, False, None), (100, True, 0.25))
    ]
    tuned = Tuned(
        concept="sun", learning_rate=1e-4, negative_guidance=2, iterations=100, reason="", checks=tuple(looks)
    )
    sampling = Sampling(sampler=RolloutSampler.DPM, steps=17, guidance_scale=6.5, seed=3)
    report = section.report.model_copy(update={"sampling": sampling})
    shown = replace(section, tuned=(tuned,), peak_memory=3 * 2**29, report=report)
    write_job_report(tmp_path / "report.html", shown)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td class="num">3 of 12</td>' in html
    assert "still in 3 of 12" in html
    assert "Remainder and interference of sun by step" in html
    assert "1.50 GiB" in html
    assert "17 steps of the sampler dpm++, guidance 6.5, seed 3" in html


def test_a_report_shows_how_far_images_moved_where_it_was_measured(section: JobSection, tmp_path: Path) -> None:
    erased, others, fit = (Mean(value=v, lower=v - 0.1, upper=v + 0.1, images=4) for v in (0.63, 0.15, 24.3))
    quality = QualityFigures(erased_moved=erased, others_moved=others, others_fit_before=fit, others_fit_after=fit)
    report = section.report.model_copy(update={"quality": quality})
    write_job_report(tmp_path / "report.html", replace(section, report=report))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dd>0.63 <small>0.53 to 0.73</small></dd>" in html
    assert "<dd>0.15 <small>0.05 to 0.25</small></dd>" in html
    assert "24.3 → 24.3 <small>24.2 to 24.4</small>" in html
    write_job_report(tmp_path / "report.html", section)
    assert "Moved by" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_merged_model_tells_how_it_was_merged(section: JobSection, tmp_path: Path) -> None:
    first = Round(weights=(1.0, 1.0), remainders=(0.1, 0.6), interference=0.4, shown=(0.0, 0.25))
    rounds = (first, first.model_copy(update={"weights": (1.0, 3.0), "shown": (0.0, 0.0)}))
    write_job_report(tmp_path / "report.html", replace(section, merging=rounds))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<li>weights 1 1, remainders 0.10 0.60, interference 0.40, still shown 0% 25%</li>" in html
    assert "<li>weights 1 3, remainders 0.10 0.60, interference 0.40, still shown 0% 0%</li>" in html
