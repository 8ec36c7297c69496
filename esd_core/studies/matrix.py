"""Concepts of one kind erased in turn, all of that kind prompted each time: what objects and styles have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from esd_core.backbones.loading import choose_device
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation.metrics.features import Features, load_features
from esd_core.evaluation.metrics.perceptual import perceptual_distance
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Probe
from esd_core.studies.figures import Figure, change, mean, rate_after, rate_before, together
from esd_core.studies.study import HeatMap, Sheet, Table
from esd_core.studies.workbench import SHOWN, Seen, Workbench


@dataclass(frozen=True)
class Matrix:
    """seen[erased]: what the model without that concept draws of every concept; probes: one of each concept."""

    probes: dict[str, Probe]
    seen: dict[str, Seen]
    original: Seen

    @property
    def erased(self) -> tuple[str, ...]:
        return tuple(self.seen)

    @property
    def prompted(self) -> tuple[str, ...]:
        return tuple(self.probes)

    def result(self, erased: str, prompted: str) -> ProbeResult:
        return self.seen[erased].results[self.probes[prompted].name]

    def others(self, erased: str) -> ProbeResult:
        return together("others", [self.result(erased, name) for name in self.prompted if name != erased])

    def summary(self, name: str, what: str, plural: str) -> Table:
        """The erased `what` and the others, before and after, as the paper's table 2; the last row is the mean."""
        own = {concept: self.result(concept, concept) for concept in self.erased}
        others = {concept: self.others(concept) for concept in self.erased}
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
        columns = ("erased", f"erased {what}, before", "after", f"other {plural}, before", "after", "change")
        return Table(
            name=name, title=f"Erased {what} and other {plural}", columns=columns, rows=tuple(rows), total=True
        )

    def table(self, name: str, title: str) -> Table:
        """The change in points of every concept (columns) by every erasure (rows)."""
        rows = [
            (f"{erased} erased", *(change(self.result(erased, prompted)) for prompted in self.prompted))
            for erased in self.erased
        ]
        return Table(name=name, title=title, columns=("", *self.prompted), rows=tuple(rows))

    def heat_map(self, name: str, title: str) -> HeatMap:
        """How often each concept is seen, in the base and after each erasure."""
        first = tuple(rate_before(self.original.results[probe.name]) for probe in self.probes.values())
        erased = [tuple(rate_after(self.result(row, column)) for column in self.prompted) for row in self.erased]
        return HeatMap(
            name=name,
            title=title,
            rows=("base", *(f"{concept} erased" for concept in self.erased)),
            columns=self.prompted,
            figures=(first, *erased),
            outlined=tuple((i + 1, self.prompted.index(concept)) for i, concept in enumerate(self.erased)),
        )

    def moved(self, features: Features, name: str) -> HeatMap:
        """How far the first images of each concept (columns) moved by each erasure (rows), at equal seeds."""
        shown = {probe: self.original.images(probe, SHOWN) for probe in self.probes.values()}
        before = {probe: features(np.stack(images)) for probe, images in shown.items()}

        def moved_by(seen: Seen, probe: Probe) -> Figure:
            after = features(np.stack(seen.images(probe, SHOWN)))
            both = min(len(before[probe]), len(after))
            return mean(perceptual_distance(before[probe][:both], after[:both]))

        return HeatMap(
            name=name,
            title="How far pictures moved at equal seeds, 0 to 1",
            rows=tuple(f"{concept} erased" for concept in self.erased),
            columns=self.prompted,
            figures=tuple(
                tuple(moved_by(seen, probe) for probe in self.probes.values()) for seen in self.seen.values()
            ),
            outlined=tuple((i, self.prompted.index(concept)) for i, concept in enumerate(self.erased)),
        )

    def sheet(self, name: str, title: str) -> Sheet:
        def row(seen: Seen) -> tuple[np.ndarray, ...]:
            return tuple(seen.images(probe)[0] for probe in self.probes.values())

        rows = {"base": self.original, **{f"{erased} erased": seen for erased, seen in self.seen.items()}}
        images = tuple(row(seen) for seen in rows.values())
        return Sheet(name=name, title=title, rows=tuple(rows), columns=self.prompted, images=images)


def fill_matrix(bench: Workbench, given: tuple[str, ...], kind: ConceptKind) -> Matrix:
    """Erase each, then measure all that the suite lists: `bench.images` of the erased one, `bench.others` of others."""
    erased = bench.concepts(given, kind)
    probes = {name: _named_probe(bench, name) for name in (*erased, *bench.suite.kinds.get(kind, ()))}
    if len(probes) < 2:
        raise InvalidInput(f"{erased[0]!r} alone has no others to compare with: name more with --concepts")
    bar = tqdm(erased, desc="erasing", unit="concept", disable=not bench.progress)
    models = {name: bench.without(ConceptEntry(name=name, kind=kind)) for name in bar}
    seen = {}
    for concept in tqdm(erased, desc="measuring", unit="model", disable=not bench.progress):
        counts = {probe: bench.images if name == concept else bench.others for name, probe in probes.items()}
        seen[concept] = bench.see(models[concept], counts)
    original = bench.see(bench.original(), dict.fromkeys(probes.values(), bench.others))
    return Matrix(probes, seen, original)


def distances(bench: Workbench, matrix: Matrix, name: str) -> tuple[HeatMap, ...]:
    """By the features that the suite names for quality; none where it names none."""
    ref = bench.suite.quality_reference
    features = ref and load_features(ref.features, str(choose_device(bench.machine.device)))
    return (matrix.moved(features, name),) if features else ()


def _named_probe(bench: Workbench, name: str) -> Probe:
    """The probe whose prompts name the concept; raises EvaluationError when the suite has no probe of it."""
    probes = bench.probes_of(name)
    return next((probe for probe in probes if not probe.implied), probes[0])
