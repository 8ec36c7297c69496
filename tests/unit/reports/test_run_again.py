"""What a report says to make the weights again, and to use them."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

from esd_core.concept_list import ListMode
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.evaluation.gates import Gates, judge
from esd_core.evaluation.report import JobSection, concept_list, write_job_report
from esd_core.list_file import load_concept_list
from esd_core.recipe import RecipeName


def test_the_code_that_uses_the_weights_names_the_base_and_its_commit(section: JobSection, tmp_path: Path) -> None:
    job = section.job.model_copy(update={"base": "someone/flux@0123abcd"})
    write_job_report(tmp_path / "report.html", replace(section, job=job))
    text = unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 'DiffusionPipeline.from_pretrained("someone/flux", revision="0123abcd")' in text
    assert "pipe.transformer" in text  # not every family has a U-Net


def test_the_printed_list_asks_for_the_same_job(section: JobSection, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    gates = Gates(erased_at_most=0.2, coherent_at_least=0.7, sequential=False, wrong_pass=0.01)
    measured = section.report.model_copy(update={"suite": "nudity"})
    write_job_report(tmp_path / "report.html", replace(section, report=measured, verdict=judge(measured, gates)))
    (printed,) = re.findall(r"<pre>(base: .*?)</pre>", (tmp_path / "report.html").read_text("utf-8"), re.DOTALL)
    path.write_text(unescape(printed))
    wanted = load_concept_list(path)
    (entry,) = wanted.concepts
    assert (wanted.suite, wanted.images_per_probe, wanted.gates) == ("nudity", 25, gates)
    assert (entry.erasure,) == section.job.erasures


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
    path.write_text(concept_list(job, section.report, Gates()))
    wanted = load_concept_list(path)
    assert wanted.mode is ListMode.JOINT
    assert tuple(entry.erasure for entry in wanted.concepts) == job.erasures
