"""Baselines on the same seeds: the base, a negative prompt, Safe Latent Diffusion, another checkpoint, ESD-x, ESD-u.

The methods that Gandikota et al., ICCV 2023, compare with, each steered away from the concept by its name.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from esd_core.base_model import resolve_base
from esd_core.concepts import ConceptKind, slug_of
from esd_core.evaluation.suite import Probe
from esd_core.studies.contenders import NAMES, contenders
from esd_core.studies.figures import change, rate_after, together
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Bars, Findings, Series, Sheet, Table
from esd_core.studies.workbench import Model, Seen, Workbench

WEIGHTS = ".safetensors"


def baselines(bench: Workbench, request: StudyRequest) -> Findings:
    names = bench.concepts(request.concepts or _one_of_each_kind(bench))
    rival = (_rival(bench, request.against),) if request.against else ()
    tables, charts, sheets = [], [], []
    notes: list[str] = []
    for name in names:
        kind, counts = bench.kind_of(name, request.kind), bench.counts_for(name)
        ways = contenders(bench, name, kind, tuple(NAMES), rival)
        probes = bench.probes_of(name)
        bar = tqdm(ways.models, desc=f"{name}: measuring", unit="model", disable=not bench.progress)
        seen = {model.name: bench.see(model, counts) for model in bar}
        tables.append(_table(name, probes, seen))
        charts.append(_bars(name, probes, seen))
        sheets.append(_sheet(name, probes, seen))
        notes += [note for note in ways.left_out if note not in notes]
    return Findings(
        title=f"Baselines: {', '.join(names)}",
        asks="What do guidance without training, and another checkpoint, achieve where ESD edits the weights?",
        tables=tuple(tables),
        charts=tuple(charts),
        sheets=tuple(sheets),
        notes=(
            (
                "Guidance is given the concept's name, as a negative prompt or as what Safe Latent Diffusion calls "
                f"unsafe; its published warm-up takes the same share of the suite's {bench.suite.steps} steps."
            ),
            *notes,
        ),
    )


def _one_of_each_kind(bench: Workbench) -> tuple[str, ...]:
    kinds = (ConceptKind.STYLE, ConceptKind.OBJECT, ConceptKind.GLOBAL)
    return tuple(bench.suite.kinds[kind][0] for kind in kinds if bench.suite.kinds.get(kind))


def _rival(bench: Workbench, against: str) -> Model:
    """Another checkpoint: edited weights of the same base, or a base of its own."""
    if against.endswith(WEIGHTS):
        bench.check(weights := Path(against))
        return Model(weights.stem, bench.base, weights)
    return Model(against.rstrip("/").rpartition("/")[2], resolve_base(against))


def _table(name: str, probes: tuple[Probe, ...], seen: dict[str, Seen]) -> Table:
    own = {probe.name for probe in probes}
    rows = []
    for model, found in seen.items():
        others = together("others", [result for probe, result in found.results.items() if probe not in own])
        rows.append((model, *(rate_after(found.results[p.name]) for p in probes), rate_after(others), change(others)))
    columns = ("", *(probe.name for probe in probes), "others", "others, change")
    title = f"{name}: images that show it, and images of all others that show what they should"
    return Table(name=f"baselines-{slug_of(name)}", title=title, columns=columns, rows=tuple(rows))


def _bars(name: str, probes: tuple[Probe, ...], seen: dict[str, Seen]) -> Bars:
    series = [
        Series(name=probe.name, figures=tuple(rate_after(found.results[probe.name]) for found in seen.values()))
        for probe in probes
    ]
    title = f"Images that still show {name}"
    return Bars(name=f"baselines-{slug_of(name)}", title=title, labels=tuple(seen), series=tuple(series))


def _sheet(name: str, probes: tuple[Probe, ...], seen: dict[str, Seen]) -> Sheet:
    each = max(1, 6 // len(probes))
    rows = tuple(tuple(i for probe in probes for i in found.images(probe, each)) for found in seen.values())
    columns = tuple(f"{probe.name} {i + 1}" for probe in probes for i in range(len(rows[0]) // len(probes)))
    title = f"{name}: the same prompts and seeds"
    return Sheet(name=f"baselines-{slug_of(name)}-images", title=title, rows=tuple(seen), columns=columns, images=rows)
