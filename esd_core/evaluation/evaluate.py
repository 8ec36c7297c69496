"""Measure edited weights: every probe of a suite with the base and with the edited weights, at the same seeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from esd_core import digest
from esd_core.backbones.loading import choose_device, load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept
from esd_core.evaluation.judged_images import Artist, Judged, Judges, judged_images
from esd_core.evaluation.pictures import GridRow, write_before_after
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.evaluation.suite import Probe, Suite
from esd_core.weights import apply_weights, read_weights

REPORT_FILE, GRID_FILE, WORK_FOLDER = "evaluation.json", "grid.png", "after"
GRID_SEEDS = 4


def evaluate(
    base: ResolvedBase,
    weights: Path,
    concepts: Sequence[Concept],
    suite: Suite,
    *,
    images_per_probe: int,
    cache: Path,
    out: Path,
    device: str = "auto",
    progress: bool = True,
) -> EvaluationReport:
    """Measure what `weights` erased and kept; writes out/evaluation.json and out/grid.png.

    The base's images are drawn and judged once for each base, suite and number of images, and kept under `cache` for
    all concepts. Called again for the same digests, the finished report is returned without work; called again after
    an interruption, it continues with the probes that are missing. Raises EvaluationError when no probe measures a
    concept.
    """
    for concept in concepts:
        suite.probes_of(concept)
    suite = suite.with_synonyms(concepts)
    weights_digest = digest.of_file(weights) if weights.is_file() else ""
    finished = _finished(out, concepts, base, weights_digest, suite, images_per_probe)
    if finished:
        return finished
    edited = read_weights(weights)

    def edited_pipeline() -> Any:
        pipeline = load_pipeline(base, device)
        apply_weights(getattr(pipeline, base.family.denoiser), edited, base.digest)
        return pipeline

    judges = Judges(suite, str(choose_device(device)))
    judges.check()
    before = base_images(base, judges, images_per_probe, cache, device, progress)
    work = out / WORK_FOLDER / digest.of_json([base.digest, weights_digest, suite.digest])[:16]
    named = f"without {names_of(concepts)}"
    after = judged_images(work, Artist(edited_pipeline), judges, images_per_probe, GRID_SEEDS, named, progress)
    report = _report(concepts, base.digest, weights_digest, suite, images_per_probe, before, after)
    write_before_after(out / GRID_FILE, grid_rows(suite, concepts, before, after))
    digest.write_text(out / REPORT_FILE, report.model_dump_json(indent=2))
    shutil.rmtree(out / WORK_FOLDER)
    return report


def names_of(concepts: Sequence[Concept]) -> str:
    """The concepts' names, as people read them."""
    return " + ".join(concept.name for concept in concepts)


def is_erased(probe: Probe, concepts: Sequence[Concept]) -> bool:
    """Whether the probe measures what was erased; the others measure what must stay."""
    return any(probe.measures(concept) for concept in concepts)


def base_images(
    base: ResolvedBase, judges: Judges, images_per_probe: int, cache: Path, device: str, progress: bool
) -> dict[str, Judged]:
    """The base's own images, judged: from the cache where they are there and whole."""
    folder = cache / "base-images" / digest.of_json([base.digest, judges.suite.sampling_digest])[:16]
    artist = Artist(lambda: load_pipeline(base, device))
    return judged_images(folder, artist, judges, images_per_probe, images_per_probe, "base model", progress)


def _finished(
    out: Path, concepts: Sequence[Concept], base: ResolvedBase, weights_digest: str, suite: Suite, images_per_probe: int
) -> EvaluationReport | None:
    """The report of an evaluation that was finished for exactly this, if there is one."""
    path = out / REPORT_FILE
    if not path.is_file() or not (out / GRID_FILE).is_file():
        return None
    try:
        report = EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        return None
    wanted = (names_of(concepts), base.digest, weights_digest, suite.digest, images_per_probe)
    found = (report.concept, report.base_digest, report.weights_digest, report.suite_digest, report.images_per_probe)
    return report if found == wanted else None


def _report(
    concepts: Sequence[Concept],
    base_digest: str,
    weights_digest: str,
    suite: Suite,
    images_per_probe: int,
    before: dict[str, Judged],
    after: dict[str, Judged],
) -> EvaluationReport:
    def result(probe: Probe) -> ProbeResult:
        return ProbeResult(
            probe=probe.name,
            concept=probe.concept,
            implied=probe.implied,
            images=images_per_probe,
            hits_before=before[probe.name].answers.hits,
            hits_after=after[probe.name].answers.hits,
        )

    return EvaluationReport(
        concept=names_of(concepts),
        base_digest=base_digest,
        weights_digest=weights_digest,
        suite_digest=suite.digest,
        images_per_probe=images_per_probe,
        erased=tuple(result(probe) for probe in suite.probes if is_erased(probe, concepts)),
        others=tuple(result(probe) for probe in suite.probes if not is_erased(probe, concepts)),
    )


def grid_rows(
    suite: Suite, concepts: Sequence[Concept], before: dict[str, Judged], after: dict[str, Judged]
) -> list[GridRow]:
    """The erased concepts' probes first, then the others, in the suite's order."""
    ordered = sorted(suite.probes, key=lambda probe: not is_erased(probe, concepts))
    return [
        GridRow(
            label=probe.name,
            before=before[probe.name].images[:GRID_SEEDS],
            after=after[probe.name].images[:GRID_SEEDS],
            erased=is_erased(probe, concepts),
        )
        for probe in ordered
    ]
