"""Measure edited weights: every probe of a suite with the base and with the edited weights, at the same seeds.

Images are made in batches until every gate is decided, or as many as there may be.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import ValidationError

from esd_core import digest
from esd_core.backbones.loading import choose_device, load_pipeline
from esd_core.base_model import ResolvedBase, licence_of
from esd_core.concepts import Concept
from esd_core.errors import EvaluationError
from esd_core.evaluation.artist import Artist
from esd_core.evaluation.coherence_judge import CoherenceJudge
from esd_core.evaluation.gates import Gates, undecided_probes
from esd_core.evaluation.judged_images import Judged, JudgedImages, Judges, drawing_order
from esd_core.evaluation.pairs import PairCounts
from esd_core.evaluation.pictures import GridRow, write_before_after
from esd_core.evaluation.quality import quality_of
from esd_core.evaluation.results import EvaluationReport, ProbeResult, QualityFigures, sampling_of
from esd_core.evaluation.suite import Probe, Suite
from esd_core.generation import edited_pipeline
from esd_core.weights import read_weights

REPORT_FILE, GRID_FILE, WORK_FOLDER = "evaluation.json", "grid.png", "after"
GRID_SEEDS = 4
BATCH = 4  # images that a gate asks for at a time; at least one of each of its probes
FIXED_NUMBER = Gates(sequential=False)


class Answering(Protocol):
    """A model that draws probes and has its images judged."""

    def judged(self, counts: Mapping[str, int], /) -> dict[str, Judged]:
        """What is said of the first counts[NAME] images of the probe NAME."""


@dataclass(frozen=True)
class Subject:
    """What is measured, as its report names it."""

    concepts: tuple[Concept, ...]
    base_digest: str
    weights_digest: str
    suite: Suite
    images_per_probe: int
    base_licence: str | None = None

    def report(self, before: Mapping[str, Judged], after: Mapping[str, Judged]) -> EvaluationReport:
        def results(erased: bool) -> tuple[ProbeResult, ...]:
            probes = [probe for probe in self.suite.probes if is_erased(probe, self.concepts) is erased]
            return tuple(paired(probe, before[probe.name], after[probe.name]) for probe in probes)

        return EvaluationReport(
            concept=names_of(self.concepts),
            base_digest=self.base_digest,
            base_licence=self.base_licence,
            weights_digest=self.weights_digest,
            suite_digest=self.suite.digest,
            suite=self.suite.ref or None,
            images_per_probe=self.images_per_probe,
            sampling=sampling_of(self.suite),
            erased=results(True),
            others=results(False),
        )

    def is_of(self, report: EvaluationReport) -> bool:
        wanted = (self.base_digest, self.weights_digest, self.suite.digest, self.images_per_probe)
        found = (report.base_digest, report.weights_digest, report.suite_digest, report.images_per_probe)
        return (report.concept, *found) == (names_of(self.concepts), *wanted)


def evaluate(
    base: ResolvedBase,
    weights: Path,
    concepts: Sequence[Concept],
    suite: Suite,
    *,
    images_per_probe: int,
    gates: Gates = FIXED_NUMBER,
    cache: Path,
    out: Path,
    device: str = "auto",
    progress: bool = True,
) -> EvaluationReport:
    """Measure what `weights` erased and kept; writes out/evaluation.json and out/grid.png.

    Sequential gates are given images until they are decided, at most `images_per_probe`; others are given that number.
    The base's images are drawn and judged once for each base and suite, and kept under `cache` for all concepts.
    Called again for the same digests, the finished report is returned without work if it decides the gates; called
    again after an interruption, it continues with the images that are missing. Raises EvaluationError when no probe
    measures a concept, or all do.
    """
    gates.check(suite)
    suite = suite_for(suite, concepts)
    weights_digest = digest.of_file(weights) if weights.is_file() else ""
    subject = Subject(tuple(concepts), base.digest, weights_digest, suite, images_per_probe, licence_of(base))
    finished = _finished(out, subject, gates)
    if finished:
        return finished
    edited = read_weights(weights)
    artist = Artist(lambda: edited_pipeline(base, edited, device))
    judges = Judges(suite, str(choose_device(device)))
    judges.check()
    before = base_images(base, judges, cache, device, progress)
    work = out / WORK_FOLDER / digest.of_json([base.digest, weights_digest, suite.digest])[:16]
    named = f"without {names_of(concepts)}"
    after = JudgedImages(work, artist, judges, named, GRID_SEEDS, progress, before.coherence)
    report = measure(subject, gates, before, after)
    rows = grid_rows(subject, before, after)
    write_before_after(out / GRID_FILE, rows)
    report = report.model_copy(update={"quality": _quality(suite, rows, judges.device)})
    digest.write_text(out / REPORT_FILE, report.model_dump_json(indent=2))
    shutil.rmtree(out / WORK_FOLDER)
    return report


def suite_for(suite: Suite, concepts: Sequence[Concept]) -> Suite:
    """The suite with the concepts' synonyms; raises EvaluationError unless some probes measure them, and some not."""
    for concept in concepts:
        suite.probes_of(concept)
    suite = suite.with_synonyms(concepts)
    if all(is_erased(probe, concepts) for probe in suite.probes):
        raise EvaluationError(f"all probes of the suite measure {names_of(concepts)}: add probes of what must stay")
    return suite


def names_of(concepts: Sequence[Concept]) -> str:
    """The concepts' names, as people read them."""
    return " + ".join(concept.name for concept in concepts)


def is_erased(probe: Probe, concepts: Sequence[Concept]) -> bool:
    """Whether the probe measures what was erased; the others measure what must stay."""
    return any(probe.measures(concept) for concept in concepts)


def base_images(
    base: ResolvedBase, judges: Judges, cache: Path, device: str, progress: bool, artist: Artist | None = None
) -> JudgedImages:
    """The base's own images: from the cache where they are there and whole, else drawn by `artist`."""
    folder = cache / "base-images" / digest.of_json([base.digest, judges.suite.sampling_digest])[:16]
    artist = artist or Artist(lambda: load_pipeline(base, device))
    coherence = CoherenceJudge.of(judges.suite, folder, artist, judges.device, progress)
    return JudgedImages(folder, artist, judges, "base model", progress=progress, coherence=coherence)


def paired(probe: Probe, before: Judged, after: Judged) -> ProbeResult:
    """Count what was seen in images at equal seeds."""
    coherent = None
    if before.coherent is not None and after.coherent is not None:
        coherent = PairCounts(**_counts(before.coherent, after.coherent))
    return ProbeResult(
        probe=probe.name,
        concept=probe.concept,
        implied=probe.implied,
        coherent=coherent,
        **_counts(before.hits, after.hits),
    )


def _counts(before: np.ndarray, after: np.ndarray) -> dict[str, int]:
    """Of two answers to the same images, (N,) bool each."""
    return {
        "both": int((before & after).sum()),
        "only_before": int((before & ~after).sum()),
        "only_after": int((~before & after).sum()),
        "neither": int((~before & ~after).sum()),
    }


def _finished(out: Path, subject: Subject, gates: Gates) -> EvaluationReport | None:
    """The report of an evaluation that was finished for exactly this and decides the gates, if there is one."""
    path = out / REPORT_FILE
    if not path.is_file() or not (out / GRID_FILE).is_file():
        return None
    try:
        report = EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        return None
    return report if subject.is_of(report) and not _asked_for(report, gates) else None


def measure(subject: Subject, gates: Gates, before: Answering, after: Answering) -> EvaluationReport:
    """Ask for images until every gate is decided, or as many as there may be."""
    counts = _first_counts(subject, gates)
    while True:
        report = subject.report(before.judged(counts), after.judged(counts))
        more = _asked_for(report, gates)
        if not more:
            return report
        counts |= more


def _first_counts(subject: Subject, gates: Gates) -> dict[str, int]:
    most, concepts = subject.images_per_probe, subject.concepts
    if not gates.sequential:
        return {probe.name: most for probe in subject.suite.probes}
    return {p.name: min(most, BATCH if is_erased(p, concepts) else GRID_SEEDS) for p in subject.suite.probes}


def _asked_for(report: EvaluationReport, gates: Gates) -> dict[str, int]:
    """How many images the probes of undecided gates should have next; empty at the end."""
    images = {probe.probe: probe.images for probe in (*report.erased, *report.others)}
    most = report.images_per_probe
    if not gates.sequential:
        return {name: most for name, count in images.items() if count < most}
    return {
        name: min(most, images[name] + max(1, BATCH // len(names)))
        for names in undecided_probes(report, gates)
        for name in names
        if images[name] < most
    }


def _quality(suite: Suite, rows: list[GridRow], device: str) -> QualityFigures | None:
    """Of the grid's images, where the suite says by what."""
    ref = suite.quality_reference
    prompts = {p.name: [prompt for prompt, _ in drawing_order(suite, p, GRID_SEEDS)] for p in suite.probes}
    return quality_of(rows, prompts, ref, device) if ref else None


def grid_rows(subject: Subject, before: JudgedImages, after: JudgedImages) -> list[GridRow]:
    """The erased concepts' probes first, then the others, in the suite's order."""
    seeds = min(GRID_SEEDS, subject.images_per_probe)
    ordered = sorted(subject.suite.probes, key=lambda probe: not is_erased(probe, subject.concepts))
    return [
        GridRow(
            label=probe.name,
            before=before.images(probe.name, seeds),
            after=after.images(probe.name, seeds),
            erased=is_erased(probe, subject.concepts),
        )
        for probe in ordered
    ]
