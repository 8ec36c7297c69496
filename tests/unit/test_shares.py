"""Shares: about equal, the cheapest concept first, nothing lost and nothing twice."""

from __future__ import annotations

import pytest

from esd_core.base_model import ResolvedBase
from esd_core.concept_list import ConceptList, ListMode
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.recipe import ParameterSubset
from tasks.nights.plan import plan_night
from tasks.nights.shares import cost, deal, part_of
from tests.unit.test_plan import BASE


def rows(*steps: int) -> ConceptList:
    entries = [ConceptEntry(name=f"c{n}", kind=ConceptKind.OBJECT, iterations=n, batch_size=1) for n in steps]
    return ConceptList(concepts=tuple(entries))


@pytest.mark.parametrize(("runners", "shares"), [(1, [[1, 2, 3, 4, 90]]), (2, [[90], [1, 2, 3, 4]]), (9, None)])
def test_shares_cost_about_the_same_and_begin_with_the_cheapest(runners: int, shares: list[list[int]] | None) -> None:
    jobs = plan_night(rows(3, 90, 1, 4, 2), BASE, []).jobs
    dealt = [[cost(planned) for planned in share] for share in deal(jobs, runners)]
    assert dealt == (shares or [[90], [4], [3], [2], [1]])
    assert deal((), runners) == []


def test_what_is_not_fixed_costs_what_its_kind_may_take_at_most_and_a_comparison_costs_too() -> None:
    def cost_of(kind: ConceptKind, compare_with: ParameterSubset | None = None) -> int:
        entry = ConceptEntry(name="a", kind=kind, compare_with=compare_with)
        return cost(plan_night(ConceptList(concepts=(entry,)), BASE, []).jobs[0])

    assert cost_of(ConceptKind.STYLE) < cost_of(ConceptKind.OBJECT) < cost_of(ConceptKind.GLOBAL)
    assert cost_of(ConceptKind.GLOBAL, ParameterSubset.ESD_X) == 2 * cost_of(ConceptKind.GLOBAL)


def test_a_part_of_a_list_makes_the_same_jobs() -> None:
    wanted = rows(1, 2, 3)
    jobs = plan_night(wanted, BASE, []).jobs
    part = part_of(wanted, jobs[1:])
    assert [entry.name for entry in part.concepts] == ["c2", "c3"]
    assert plan_night(part, BASE, []).jobs == jobs[1:]
    joint = wanted.model_copy(update={"mode": ListMode.JOINT})
    (together,) = plan_night(joint, BASE, []).jobs
    assert plan_night(part_of(joint, [together]), BASE, []).jobs == (together,)


def test_an_other_base_makes_other_jobs() -> None:
    elsewhere = ResolvedBase(BASE.id, BASE.folder, "c" * 64, BASE.family)
    wanted = rows(1)
    assert plan_night(wanted, BASE, []).jobs[0].job.digest != plan_night(wanted, elsewhere, []).jobs[0].job.digest
