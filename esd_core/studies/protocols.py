"""The table of protocols, and how one is run: from a request to a finished study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from esd_core.base_model import resolve_base
from esd_core.evaluation.pairs import pooled
from esd_core.evaluation.results import sampling_of
from esd_core.evaluation.suite import load_suite
from esd_core.machine import Machine
from esd_core.studies.baselines import baselines
from esd_core.studies.course import course, erasures
from esd_core.studies.eta import eta
from esd_core.studies.figures import rate_after
from esd_core.studies.generality import generality
from esd_core.studies.implied import implied
from esd_core.studies.objects import objects
from esd_core.studies.quality import quality
from esd_core.studies.request import Protocol, StudyRequest
from esd_core.studies.study import Findings, Picture, Study, Table
from esd_core.studies.styles import styles
from esd_core.studies.workbench import Folders, Workbench
from esd_core.studies.writing import write_study
from esd_core.weights import code_version

PROTOCOLS: dict[Protocol, Callable[[Workbench, StudyRequest], Findings]] = {
    Protocol.OBJECTS: objects,
    Protocol.STYLES: styles,
    Protocol.IMPLIED: implied,
    Protocol.ETA: eta,
    Protocol.GENERALITY: generality,
    Protocol.BASELINES: baselines,
    Protocol.QUALITY: quality,
}


def run(request: StudyRequest, out: Path, folders: Folders, machine: Machine, *, progress: bool = True) -> Study:
    """Run a protocol and write study.json, study.html and its pictures into `out`.

    Erasures and images that any earlier run made in these folders are found, not made again.
    """
    suite, base = load_suite(request.suite), resolve_base(request.base)
    bench = Workbench(base, suite, request.images_per_probe, request.others, folders, machine, progress)
    findings = PROTOCOLS[request.protocol](bench, request)
    study = Study(
        request=request,
        title=findings.title,
        asks=findings.asks,
        tables=(*findings.tables, *pictures(bench), erasures(bench)),
        charts=findings.charts,
        course=course(bench),
        pictures=tuple(Picture(name=sheet.name, title=sheet.title) for sheet in findings.sheets),
        notes=findings.notes,
        sampling=sampling_of(suite),
        base=base.id,
        base_digest=base.digest,
        suite_digest=suite.digest,
        code_version=code_version(),
        command=request.command,
    )
    write_study(out, study, findings.sheets)
    return study


def pictures(bench: Workbench) -> tuple[Table, ...]:
    """How many images are pictures at all, by model; none where the suite does not ask for it."""
    rows = []
    names = Counter(name for name, _ in bench.results)
    for (name, concept), results in bench.results.items():
        told = {probe: result.coherent for probe, result in results.items() if result.coherent}
        if told:
            fewest = min(told, key=lambda probe: told[probe].after)
            model = name if names[name] == 1 else f"{name}, without {concept}"
            rows.append((model, rate_after(pooled(told.values())), fewest, rate_after(told[fewest])))
    columns = ("", "of all images", "fewest for", "pictures")
    title = "Images that are pictures, neither flat nor noise nor fragments"
    return (Table(name="pictures", title=title, columns=columns, rows=tuple(rows)),) if rows else ()
