"""Generality: is the concept gone under other names and in other words; pinpointness: are its near neighbours kept.

Efficacy, specificity and generality are summed up by MACE's harmonic mean (Lu et al., CVPR 2024, section 4.1):
H_o = 3 / (1 / (1 - acc_e) + 1 / acc_s + 1 / (1 - acc_g)), with the accuracies of the erased concept, of all others,
and of the erased concept's synonyms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from esd_core.backbones.loading import backbone_of
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Probe
from esd_core.studies.eta import one_concept
from esd_core.studies.figures import Figure, change, rate_after, rate_before, share, together
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Bars, Cell, Findings, Series, Sheet, Table
from esd_core.studies.workbench import Seen, Workbench

PARAPHRASES = ("a photo of {}", "this is {}", "{} in view")
NEAREST = 3


def generality(bench: Workbench, request: StudyRequest) -> Findings:
    name = one_concept(bench, request, ConceptKind.OBJECT, ConceptKind.STYLE, ConceptKind.GLOBAL)
    kind = bench.kind_of(name, request.kind)
    others = bench.others_of(name)
    given = _given(bench, request.neighbours, others)
    asked = _asked(bench, name, request.also_known_as)
    entry = ConceptEntry(name=name, kind=kind)
    models = [bench.without(entry, "erased by its name")]
    if request.also_known_as:
        with_names = entry.model_copy(update={"also_known_as": request.also_known_as})
        models.append(bench.without(with_names, "erased with its other names"))
    closeness = nearness(bench, name, given or _candidates(bench, others, kind))
    near = given or tuple(sorted(closeness, key=lambda other: -closeness[other])[:NEAREST])
    close = [probe for other in near for probe in bench.probes_of(other)]
    counts = {**dict.fromkeys(asked.values(), bench.images), **dict.fromkeys(others, bench.others)}
    bar = tqdm(models, desc="measuring", unit="model", disable=not bench.progress)
    seen = {model.name: bench.see(model, counts) for model in bar}
    return Findings(
        title=f"Generality and pinpointness: {name}",
        asks="Is the concept gone under other names too, and are its near neighbours still there?",
        tables=(
            _names_table(asked, seen),
            _neighbours_table(others, close, closeness, seen),
            *((_harmonic_table(name, request.also_known_as, asked, others, seen),) if request.also_known_as else ()),
        ),
        charts=(_bars(name, asked, close, seen),),
        sheets=(_sheet(bench, asked, close, counts, seen),),
        notes=(
            (
                "Nearness: cosine between what the text encoder makes of the two names, each less what it makes of the "
                "empty prompt; 1 is the same."
            ),
            "The paper's example of a paraphrase: Eiffel Tower erased, then described: 79 → 38 of 100 images.",
        ),
    )


def _given(bench: Workbench, neighbours: tuple[str, ...], others: Sequence[Probe]) -> tuple[str, ...]:
    """Neighbours as the suite writes them; raises InvalidInput for one without a probe, or the concept itself."""
    known = tuple(dict.fromkeys(probe.concept for probe in others if not probe.negated))
    given = bench.concepts(neighbours) if neighbours else ()
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidInput(f"{unknown[0]!r} is no neighbour that the suite has a probe of: it has {', '.join(known)}")
    return given


def _candidates(bench: Workbench, others: Sequence[Probe], kind: ConceptKind) -> tuple[str, ...]:
    """Concepts of the same kind, where the suite lists kinds, else all others."""
    known = dict.fromkeys(probe.concept for probe in others if not probe.negated)
    return tuple(c for c in bench.suite.kinds.get(kind, known) if c in known)


def _asked(bench: Workbench, name: str, synonyms: Sequence[str]) -> dict[str, Probe]:
    """The concept's probes as they are, by its other names, and in other words."""
    named = next((probe for probe in bench.probes_of(name) if not probe.implied), bench.probes_of(name)[0])
    asked = {f"“{name}”": named}
    for other in synonyms:
        called = named.called(other)
        if called is None:
            raise InvalidInput(f"no prompt of the suite's probe {named.name!r} names {name!r}: add some that do")
        asked[f"“{other}”"] = called
    for template in PARAPHRASES:
        prompts = tuple(template.replace("{}", prompt) for prompt in named.prompts)
        probe = named.model_copy(update={"name": f"{named.name}, {template}", "prompts": prompts})
        asked[template.replace("{}", "…")] = probe
    return asked


def nearness(bench: Workbench, name: str, others: Sequence[str]) -> dict[str, float]:
    """Cosine in [-1, 1] between the base's conditioning of two names, each less the empty prompt's."""
    backbone = backbone_of(bench.easel.pipeline_of(bench.original()))

    def vector(text: str) -> np.ndarray:
        return np.concatenate([part.float().cpu().numpy().ravel() for part in backbone.encode(text).values()])

    empty = vector("")
    own = vector(name) - empty
    vectors = {other: vector(other) - empty for other in others}
    return {o: float(own @ v / (np.linalg.norm(own) * np.linalg.norm(v))) for o, v in vectors.items()}


def harmonic_mean(erased: float, others: float, synonyms: float) -> float:
    """MACE's H_o in [0, 1] of three accuracies after the erasure; 0 when one of its parts is."""
    parts = (1 - erased, others, 1 - synonyms)
    return 3 / sum(1 / part for part in parts) if all(parts) else 0.0


def _names_table(asked: dict[str, Probe], seen: dict[str, Seen]) -> Table:
    def row(label: str, probe: Probe) -> tuple[Cell, ...]:
        results = [one.results[probe.name] for one in seen.values()]
        return (label, rate_before(results[0]), *(rate_after(result) for result in results))

    rows = tuple(row(label, probe) for label, probe in asked.items())
    title = "Images that show the concept, by what they were asked for"
    return Table(name="generality-names", title=title, columns=("asked for", "base", *seen), rows=rows)


def _neighbours_table(
    others: Sequence[Probe], close: Sequence[Probe], closeness: dict[str, float], seen: dict[str, Seen]
) -> Table:
    far = [probe for probe in others if probe not in close]

    def row(label: str, probes: Sequence[Probe], nearness: Cell) -> tuple[Cell, ...]:
        each = [together(label, [one.results[probe.name] for probe in probes]) for one in seen.values()]
        figures = [figure for result in each for figure in (rate_after(result), change(result))]
        return (label, nearness, rate_before(each[0]), *figures)

    rows = [row(p.name, [p], Figure(value=closeness[p.concept]) if p.concept in closeness else "") for p in close]
    columns = ("", "nearness", "base", *(word for name in seen for word in (name, "change")))
    title = "Near neighbours, and all others"
    if far:
        rows.append(row("all others", far, ""))
    return Table(name="generality-neighbours", title=title, columns=columns, rows=tuple(rows))


def _harmonic_table(
    name: str, synonyms: Sequence[str], asked: dict[str, Probe], others: Sequence[Probe], seen: dict[str, Seen]
) -> Table:
    def pooled(one: Seen, probes: Sequence[Probe]) -> ProbeResult:
        return together(name, [one.results[probe.name] for probe in probes])

    rows = []
    by_synonym = [asked[f"“{other}”"] for other in synonyms]
    for model, one in seen.items():
        parts = pooled(one, [asked[f"“{name}”"]]), pooled(one, others), pooled(one, by_synonym)
        overall = Figure(value=round(harmonic_mean(*(part.after for part in parts)), 3))
        gone = [share(part.images - part.hits_after, part.images) for part in (parts[0], parts[2])]
        rows.append((model, gone[0], rate_after(parts[1]), gone[1], overall))
    columns = ("", "efficacy: gone", "specificity: others seen", "generality: gone by other names", "H_o")
    return Table(name="generality-overall", title="Harmonic mean (MACE)", columns=columns, rows=tuple(rows))


def _bars(name: str, asked: dict[str, Probe], close: Sequence[Probe], seen: dict[str, Seen]) -> Bars:
    probes = {**asked, **{f"near: {probe.name}": probe for probe in close}}
    first = next(iter(seen.values()))
    before = Series(name="base", figures=tuple(rate_before(first.results[probe.name]) for probe in probes.values()))
    after = [
        Series(name=model, figures=tuple(rate_after(one.results[probe.name]) for probe in probes.values()))
        for model, one in seen.items()
    ]
    title = f"Without {name}: asked for in other words, and its neighbours"
    return Bars(name="generality", title=title, labels=tuple(probes), series=(before, *after))


def _sheet(
    bench: Workbench, asked: dict[str, Probe], close: Sequence[Probe], counts: dict[Probe, int], seen: dict[str, Seen]
) -> Sheet:
    probes = {**asked, **{f"near: {probe.name}": probe for probe in close}}
    rows = {"base": bench.see(bench.original(), counts), **seen}
    images = tuple(tuple(one.images(probe)[0] for probe in probes.values()) for one in rows.values())
    return Sheet(
        name="generality-images",
        title="One seed for each column",
        rows=tuple(rows),
        columns=tuple(probes),
        images=images,
    )
