"""Evaluations with given counts, as reports are written of them."""

from __future__ import annotations

from esd_core.evaluation.results import EvaluationReport, ProbeResult


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
