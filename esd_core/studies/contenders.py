"""The ways to be rid of a concept that are measured against each other, each a model that draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.guidance import Guidance, GuidanceMethod
from esd_core.recipe import ParameterSubset
from esd_core.studies.workbench import Model, Workbench

NAMES = {
    GuidanceMethod.NEGATIVE_PROMPT: "negative prompt",
    GuidanceMethod.SLD_WEAK: "SLD weak",
    GuidanceMethod.SLD_MEDIUM: "SLD medium",
    GuidanceMethod.SLD_STRONG: "SLD strong",
    GuidanceMethod.SLD_MAX: "SLD max",
}


@dataclass(frozen=True)
class Contenders:
    """models: the base first. left_out: why a guidance is missing, one sentence each."""

    models: tuple[Model, ...]
    left_out: tuple[str, ...]


def contenders(
    bench: Workbench, name: str, kind: ConceptKind, methods: Sequence[GuidanceMethod], others: Sequence[Model] = ()
) -> Contenders:
    """The base, guidance away from the concept, other models, ESD-x and ESD-u; guidance that the base has."""
    erased = [
        bench.without(ConceptEntry(name=name, kind=kind, subset=subset), subset.value.replace("esd", "ESD"))
        for subset in (ParameterSubset.ESD_X, ParameterSubset.ESD_U)
    ]
    why_not = {method: bench.unsupported(method) for method in methods}
    steered = [
        Model(NAMES[method], bench.base, guidance=Guidance(method, name), without=name)
        for method in methods
        if not why_not[method]
    ]
    left_out = tuple(f"Without {NAMES[method]}: {why}." for method, why in why_not.items() if why)
    return Contenders((bench.original(), *steered, *others, *erased), left_out)
