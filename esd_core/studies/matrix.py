"""Each concept of one kind erased in turn, all of them prompted each time: what objects and styles have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Probe
from esd_core.studies.figures import change, rate_after, rate_before, together
from esd_core.studies.study import HeatMap, Sheet, Table
from esd_core.studies.workbench import Seen, Workbench


@dataclass(frozen=True)
class Matrix:
    """seen[erased]: what the model without that concept draws of every concept; probes: one of each concept."""

    probes: dict[str, Probe]
    seen: dict[str, Seen]
    original: Seen

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self.probes)

    def result(self, erased: str, prompted: str) -> ProbeResult:
        return self.seen[erased].results[self.probes[prompted].name]

    def others(self, erased: str) -> ProbeResult:
        return together("others", [self.result(erased, name) for name in self.concepts if name != erased])

    def summary(self, name: str, what: str) -> Table:
        """The erased `what` and the others, before and after, as the paper's table 2; the last row is the mean."""
        own = {concept: self.result(concept, concept) for concept in self.concepts}
        others = {concept: self.others(concept) for concept in self.concepts}
        own["mean"], others["mean"] = (together("mean", list(results.values())) for results in (own, others))
        rows = [
            (
                row,
                rate_before(own[row]),
                rate_after(own[row]),
                *(of(others[row]) for of in (rate_before, rate_after, change)),
            )
            for row in own
        ]
        columns = ("erased", f"erased {what}, before", "after", f"other {what}s, before", "after", "change")
        return Table(name=name, title=f"Erased {what} and other {what}s", columns=columns, rows=tuple(rows), total=True)

    def table(self, name: str, title: str) -> Table:
        """The change in points of every concept (columns) by every erasure (rows)."""
        rows = [
            (f"{erased} erased", *(change(self.result(erased, prompted)) for prompted in self.concepts))
            for erased in self.concepts
        ]
        return Table(name=name, title=title, columns=("", *self.concepts), rows=tuple(rows))

    def heat_map(self, name: str, title: str) -> HeatMap:
        """How often each concept is seen, in the base and after each erasure."""
        first = tuple(rate_before(self.original.results[probe.name]) for probe in self.probes.values())
        erased = [tuple(rate_after(self.result(row, column)) for column in self.concepts) for row in self.concepts]
        return HeatMap(
            name=name,
            title=title,
            rows=("base", *(f"{concept} erased" for concept in self.concepts)),
            columns=self.concepts,
            figures=(first, *erased),
            outlined=tuple((i + 1, i) for i in range(len(self.concepts))),
        )

    def sheet(self, name: str, title: str) -> Sheet:
        def row(seen: Seen) -> tuple[np.ndarray, ...]:
            return tuple(seen.images(probe)[0] for probe in self.probes.values())

        rows = {"base": self.original, **{f"{erased} erased": seen for erased, seen in self.seen.items()}}
        images = tuple(row(seen) for seen in rows.values())
        return Sheet(name=name, title=title, rows=tuple(rows), columns=self.concepts, images=images)


def fill_matrix(bench: Workbench, concepts: Iterable[str], kind: ConceptKind) -> Matrix:
    """Erase, then measure: `bench.images` of the erased concept, `bench.others` of each other one."""
    probes = {name: _named_probe(bench, name) for name in concepts}
    if len(probes) < 2:
        raise InvalidInput(f"{', '.join(probes)}: a matrix needs two concepts or more")
    bar = tqdm(probes, desc="erasing", unit="concept", disable=not bench.progress)
    models = {name: bench.without(ConceptEntry(name=name, kind=kind)) for name in bar}
    seen = {}
    for erased in tqdm(probes, desc="measuring", unit="model", disable=not bench.progress):
        counts = {probe: bench.images if name == erased else bench.others for name, probe in probes.items()}
        seen[erased] = bench.see(models[erased], counts)
    original = bench.see(bench.original(), dict.fromkeys(probes.values(), bench.others))
    return Matrix(probes, seen, original)


def _named_probe(bench: Workbench, name: str) -> Probe:
    """The probe whose prompts name the concept; raises EvaluationError when the suite has no probe of it."""
    probes = bench.probes_of(name)
    return next((probe for probe in probes if not probe.implied), probes[0])
