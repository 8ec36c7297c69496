"""Evaluations of edited weights of the tiny base, by its tiny suite."""

from __future__ import annotations

from pathlib import Path

from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind
from esd_core.evaluation.evaluate import FIXED_NUMBER, evaluate
from esd_core.evaluation.gates import Gates
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import Suite

HOUSE = Concept(name="House", kind=ConceptKind.OBJECT)
IMAGES = 5
LAX = Gates(erased_at_most=1, others_drop_at_most=1)  # decided by any images
ENDLESS = Gates(erased_at_most=0.1, others_drop_at_most=0.05, indifference=0.05)  # decided by very many


def measured(
    base: ResolvedBase,
    weights: Path,
    suite: Suite,
    folder: Path,
    concept: Concept = HOUSE,
    images: int = IMAGES,
    gates: Gates = FIXED_NUMBER,
) -> EvaluationReport:
    out = folder / concept.slug
    return evaluate(
        base,
        weights,
        [concept],
        suite,
        images_per_probe=images,
        gates=gates,
        cache=folder / "cache",
        out=out,
        device="cpu",
        progress=False,
    )


def images_of(report: EvaluationReport) -> dict[str, int]:
    return {row.probe: row.images for row in (*report.erased, *report.others)}
