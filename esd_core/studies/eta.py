"""The eta study: how far the target steers away, efficacy against interference.

Gandikota et al., ICCV 2023, section 5.2: eta 1, 3 and 10. All erasures have one learning rate and number of steps, and
frozen rollouts, which do not depend on eta: one score bank serves them all.
"""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.erasure import ErasureOutcome
from esd_core.errors import InvalidInput
from esd_core.recipe import RolloutFrom
from esd_core.studies.figures import Figure, change, efficacy, rate_after, together
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Curve, Findings, Point, Sheet, Table
from esd_core.studies.workbench import Model, Seen, Workbench

POINTS_PER_ROLLOUT, ROLLOUT_STEPS = 25, 50


def eta(bench: Workbench, request: StudyRequest) -> Findings:
    name = one_concept(bench, request, ConceptKind.GLOBAL, ConceptKind.OBJECT, ConceptKind.STYLE)
    kind, counts = bench.kind_of(name, request.kind), bench.counts_for(name)
    fixed = {**_rate_and_steps(bench, request, name, kind), "rollout_from": RolloutFrom.FROZEN}
    fixed |= {"rollout_steps": ROLLOUT_STEPS, "points_per_rollout": POINTS_PER_ROLLOUT, "reuse": 1}
    etas = sorted(set(request.etas))
    entries = {value: ConceptEntry(name=name, kind=kind, negative_guidance=value, **fixed) for value in etas}
    bar = tqdm(entries.items(), desc="erasing", unit="erasure", disable=not bench.progress)
    outcomes = {value: bench.erase(entry) for value, entry in bar}
    own = {probe.name for probe in bench.probes_of(name)}
    seen = {
        value: bench.see(Model(f"eta {value:g}", bench.base, outcome.weights), counts)
        for value, outcome in outcomes.items()
    }
    points = {value: _point(value, one, own) for value, one in seen.items()}
    return Findings(
        title=f"Eta: {name}",
        asks="What does steering further away gain, and what does it cost the rest?",
        tables=(_table(name, own, outcomes, seen, points),),
        charts=(_curve(name, points),),
        sheets=(_sheet(bench, name, seen),),
        notes=(
            (
                f"All: {fixed['iterations']} steps at learning rate {fixed['learning_rate']:g}. One of them makes "
                "the score bank, the others read it; its U-Net evaluations are counted where it is made."
            ),
            (
                "The paper's figures for nudity: eta 1 erases 83 % and costs 7 points of object accuracy, 3 erases "
                "88 % and costs 14, 10 erases 92 % and costs 34."
            ),
        ),
    )


def one_concept(bench: Workbench, request: StudyRequest, *kinds: ConceptKind) -> str:
    """The concept given, or the first that the suite lists; raises InvalidInput for more than one."""
    if len(request.concepts) > 1:
        raise InvalidInput(f"study {request.protocol.value} is of one concept: give one and run it once for each")
    return bench.concepts(request.concepts, *kinds)[0]


def _rate_and_steps(bench: Workbench, request: StudyRequest, name: str, kind: ConceptKind) -> dict[str, Any]:
    """As asked for; what is left open as the tuned erasure chose it."""
    rate, steps = request.learning_rate, request.iterations
    if rate is None or steps is None:
        (tuned,) = bench.erase(ConceptEntry(name=name, kind=kind)).tuned
        rate, steps = rate or tuned.learning_rate, steps or tuned.iterations
    return {"learning_rate": rate, "iterations": steps}


def _point(value: float, seen: Seen, own: set[str]) -> Point:
    erased = together("erased", [result for probe, result in seen.results.items() if probe in own])
    drop = change(together("others", [result for probe, result in seen.results.items() if probe not in own]))
    assert drop.lower is not None
    assert drop.upper is not None
    lost = drop.model_copy(update={"value": -drop.value, "lower": -drop.upper, "upper": -drop.lower})
    return Point(label=f"η {value:g}", x=lost, y=efficacy(erased))


def _curve(name: str, points: dict[float, Point]) -> Curve:
    return Curve(
        name="eta",
        title=f"{name}: efficacy against interference",
        x_axis="others: points lost",
        y_axis="erased, of the images that showed it",
        points=tuple(points.values()),
    )


def _table(
    name: str,
    own: set[str],
    outcomes: dict[float, ErasureOutcome],
    seen: dict[float, Seen],
    points: dict[float, Point],
) -> Table:
    probes = [probe for probe in next(iter(seen.values())).results if probe in own]
    rows = [
        (
            point.label,
            *(rate_after(seen[value].results[probe]) for probe in probes),
            point.y,
            point.x,
            Figure(value=outcomes[value].unet_evaluations),
            Figure(value=outcomes[value].final_loss),
        )
        for value, point in points.items()
    ]
    columns = ("", *probes, "erased", "others lose", "U-Net evaluations", "last loss")
    return Table(name="eta", title=f"{name}, by η", columns=columns, rows=tuple(rows))


def _sheet(bench: Workbench, name: str, seen: dict[float, Seen]) -> Sheet:
    others = bench.others_of(name)[:: max(1, len(bench.suite.probes) // 4)]
    probes = (*bench.probes_of(name), *others)
    rows = tuple(tuple(one.images(probe)[0] for probe in probes) for one in seen.values())
    labels = tuple(f"eta {value:g}" for value in seen)
    columns = tuple(probe.name for probe in probes)
    return Sheet(name="eta-images", title="One seed for each column", rows=labels, columns=columns, images=rows)
