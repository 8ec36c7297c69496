"""The claim everything rests on, on the bundled model: a concept it has learned is erased, and the rest is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from esd_core.base_model import resolve_base
from esd_core.concepts import ConceptEntry, ConceptKind, ErasureJob
from esd_core.erasure import erase
from esd_core.evaluation.evaluate import evaluate
from esd_core.evaluation.gates import Gates, judge
from esd_core.evaluation.suite import load_suite


@pytest.mark.timeout(600)
def test_a_style_is_erased_by_default_settings_and_the_rest_is_kept(tmp_path: Path) -> None:
    base, entry = resolve_base("miniature"), ConceptEntry(name="Van Gogh", kind=ConceptKind.STYLE)
    job = ErasureJob(base=base.id, base_digest=base.digest, erasures=(entry.erasure,))
    outcome = erase(job, base, tmp_path / "job", progress=False)
    report = evaluate(
        base,
        outcome.weights,
        job.concepts,
        load_suite("miniature"),
        images_per_probe=120,
        gates=Gates(),
        cache=tmp_path / "cache",
        out=tmp_path / "job",
        progress=False,
    )
    assert report.metrics["erased_before"] >= 0.85
    assert report.metrics["others_before"] >= 0.95
    verdict = judge(report, Gates())
    assert verdict.passed, verdict.reasons
