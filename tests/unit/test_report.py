"""HTML reports: everything inside one file, every figure shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import yaml

from esd_core.concept_list import ListMode
from esd_core.concepts import ConceptEntry, ConceptKind, ErasureJob
from esd_core.errors import EvaluationError
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
from esd_core.evaluation.results import EvaluationReport, Mean, ProbeResult, QualityFigures, Sampling
from esd_core.list_file import load_concept_list
from esd_core.merge_rounds import Round
from esd_core.recipe import RecipeName, RolloutSampler
from esd_core.tuning import Check, Tuned


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
    left = report_of("sun", 12).erased[0].after_interval
    assert f"48&#8239;%<br><small>{100 * left.lower:.0f} to {100 * left.upper:.0f}</small>" in html  # by the comparison


def test_the_code_that_uses_the_weights_names_the_base_and_its_commit(section: JobSection, tmp_path: Path) -> None:
    job = section.job.model_copy(update={"base": "someone/flux@0123abcd"})
    write_job_report(tmp_path / "report.html", replace(section, job=job))
    text = unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 'DiffusionPipeline.from_pretrained("someone/flux", revision="0123abcd")' in text
    assert "pipe.transformer" in text  # not every family has a U-Net


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
    assert "17 steps of the sampler <code>dpm++</code>, guidance 6.5, seed 3" in html


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


def test_the_printed_list_asks_for_the_same_job(section: JobSection, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(concept_list(section.job, 25, {"erased_at_most": 0.2, "coherent_at_least": 0.7}))
    wanted = load_concept_list(path)
    (entry,) = wanted.concepts
    assert wanted.gates == Gates(erased_at_most=0.2, coherent_at_least=0.7)
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
    path.write_text(concept_list(job, 25, {}))
    wanted = load_concept_list(path)
    assert wanted.mode is ListMode.JOINT
    assert tuple(entry.erasure for entry in wanted.concepts) == job.erasures


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
