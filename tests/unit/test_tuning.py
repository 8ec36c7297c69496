"""Choosing by measuring: decisions from recorded looks alone, and an erasure that needs no number from anybody."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esd_core import tuning
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.held_out import HeldOut, gap, measured_learning_rate
from esd_core.lessons import Lesson
from esd_core.point_source import roll_out
from esd_core.recipe import ParameterSubset, Precision, Recipe, RecipeName, Updates
from esd_core.score_bank import Prompts
from esd_core.student import Batch, Student
from esd_core.tuning import PLANS, Action, Check, Plan, decide, learning_rate_from_response, was_pushed
from tests.tiny_erasure import erasure_of, job_of, run, run_killed

RECIPE = Recipe(subset=ParameterSubset.ESD_X)
PLAN = Plan(move=1, first_eta=2, first_check=40, most_steps=240, enough=-0.1, sure=-0.35)
JUDGED = PLAN.model_copy(update={"judged": True, "near": 0.15})
looks = st.tuples(st.floats(-1, 1), st.floats(0, 2))
images = st.integers(0, tuning.IMAGES).map(lambda count: count / tuning.IMAGES)


def walk(
    answers: list[tuple[float, float]], recipe: Recipe = RECIPE, plan: Plan = PLAN, shown: Iterable[float] = ()
) -> list[Check]:
    """The looks of an erasure whose held-out points give these remainders and interferences, and images these shares,
    in turn."""
    checks: list[Check] = []
    turns, pictures = iter(answers), iter(shown)
    for step in range(1, tuning.most_steps(recipe, plan) + 1):
        eta = tuning.eta_after(checks, recipe, plan)
        share = tuning.learning_rate_share(checks, step, recipe, plan)
        assert 0 < share <= 1
        if tuning.is_due(checks, step, recipe, plan):
            remainder, interference = next(turns)
            found = {"eta": eta, "remainder": remainder, "interference": interference, "settled": share < 1}
            if plan.judged and share < 1:
                found["shown"] = next(pictures)
            checks.append(Check(step=step, total=step, **found))
            if decide(checks, recipe, plan).action is Action.STOP:
                return checks
    raise AssertionError("never stopped")


@given(st.lists(looks, min_size=40, max_size=40))
def test_it_always_stops_settled_within_its_steps(answers: list[tuple[float, float]]) -> None:
    checks = walk(answers)
    assert checks[-1].settled
    assert checks[-1].step <= PLAN.most_steps
    etas = [check.eta for check in checks]
    assert etas == sorted(etas)
    assert etas[-1] <= PLAN.highest_eta


def test_a_concept_that_is_gone_early_stops_early_at_the_first_eta() -> None:
    checks = walk([(-0.5, 0.1)] * 9)
    assert [check.step for check in checks] == [40, 80]
    assert checks[-1].eta == 2
    assert decide(checks, RECIPE, PLAN).reason.startswith("gone")


def test_eta_rises_only_where_the_check_fails_for_a_stage() -> None:
    checks = walk([(0.5, 0.1)] * 40)
    assert {check.eta for check in checks} == {2, 3, 4}
    assert min(check.step for check in checks if check.eta == 3) > PLAN.stage_steps
    assert "short of its goal" in decide(checks, RECIPE, PLAN).reason
    fixed = RECIPE.model_copy(update={"negative_guidance": 1.5})
    assert {check.eta for check in walk([(0.5, 0.1)] * 40, fixed)} == {1.5}


def test_where_the_rest_of_the_model_suffers_enough_is_enough() -> None:
    assert walk([(-0.15, 0.9)] * 9)[-1].step < walk([(-0.15, 0.1)] * 40)[-1].step


@given(st.lists(looks, min_size=40, max_size=40), st.lists(images, min_size=9, max_size=9))
def test_images_decide_too_and_only_they_lead_beyond_the_most_steps(
    answers: list[tuple[float, float]], shown: list[float]
) -> None:
    checks = walk(answers, plan=JUDGED, shown=shown)
    assert checks[-1].settled
    assert checks[-1].step <= 1.5 * PLAN.most_steps
    decision = decide(checks, RECIPE, JUDGED)
    if decision.reason.startswith("gone"):
        assert checks[-1].shown is not None
        assert checks[-1].shown <= 0.1
    if checks[-1].step > PLAN.most_steps:
        assert max(check.shown for check in checks[:-1] if check.shown is not None) > 0.1
        assert was_pushed(checks, JUDGED)


@given(st.lists(looks, min_size=40, max_size=40))
def test_what_ends_without_being_gone_was_pushed(answers: list[tuple[float, float]]) -> None:
    checks = walk(answers)
    gone = decide(checks, RECIPE, PLAN).reason.startswith("gone")
    assert was_pushed(checks, PLAN) == (not gone)


def test_what_images_still_show_is_not_gone_whatever_held_out_points_say() -> None:
    checks = walk([(-0.5, 0.1)] * 20, plan=JUDGED, shown=[3 / 12] * 9)
    assert [check.eta for check in checks if check.settled] == [2, 3, 4, 5, 5]
    reason = decide(checks, RECIPE, JUDGED).reason
    assert "still in 3 of 12 images" in reason
    assert reason.startswith("360 steps are the most, still seen")
    assert walk([(-0.5, 0.1)] * 20, plan=JUDGED, shown=[3 / 12, 1 / 12])[-1].step == 140


def test_what_images_show_no_more_need_not_quite_reach_the_goal() -> None:
    near = [(-0.25, 0.1)] * 30
    seldom, never = (walk(near, plan=JUDGED, shown=[share] * 9) for share in (1 / 12, 0))
    assert never[-1].step == 80
    assert min(seldom[-1].step, walk(near)[-1].step) > 80
    assert "still in 0 of 12 images" in decide(never, RECIPE, JUDGED).reason
    far = walk([(0.2, 0.1)] * 30, plan=JUDGED, shown=[0] * 9)
    assert far[-1].step == PLAN.most_steps
    assert not decide(far, RECIPE, JUDGED).reason.startswith("gone")


@given(st.floats(1e-6, 1e-3), st.floats(1e-3, 10), st.floats(1e-3, 10), st.floats(0.1, 4))
def test_the_learning_rate_moves_the_prediction_by_its_share(probe: float, moved: float, gap: float, f: float) -> None:
    rate = learning_rate_from_response(probe, moved, gap, f)
    assert moved * rate / probe == pytest.approx(f * gap)


def response(base: ResolvedBase, precision: Precision) -> tuple[float, float]:
    """(learning rate for half the gap, share of the gap that a first step at it moves the prediction by)."""
    backbone = load_backbone(base, "cpu", precision)
    prompts = Prompts(backbone.encode("Van Gogh"), backbone.encode(""))
    lesson = Lesson(0, "Van Gogh", prompts, False, RECIPE.model_copy(update={"rollout_steps": 8}))
    student = Student(backbone, [RECIPE.subset], Updates.MASTER, keeps_originals=False)
    points = roll_out(student, prompts, lesson.recipe, [1])
    told = {name: tensor.expand(len(points), -1, -1) for name, tensor in prompts.concept.items()}
    batch = Batch(points.latents, points.timesteps, told, lesson.target(points, 1.0))
    whole = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
    wide = float(gap(points).norm())
    rate = measured_learning_rate(student, batch, wide, lesson, 0.5)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in backbone.denoiser.state_dict().items())
    before = student.predict(batch.latents, batch.timesteps, batch.conditioning)
    student.step(batch, RECIPE.subset, rate)
    after = student.predict(batch.latents, batch.timesteps, batch.conditioning)
    return rate, float((after - before).norm()) / wide


def test_the_first_step_moves_the_prediction_as_asked() -> None:
    base = resolve_base("miniature")
    rate, moved = response(base, Precision.FLOAT32)
    assert moved == pytest.approx(0.5, rel=0.25)
    rate_in_half, _ = response(base, Precision.BFLOAT16)
    assert rate_in_half == pytest.approx(rate, rel=0.5)


def test_a_frozen_model_has_all_of_the_concept_left(base: ResolvedBase) -> None:
    backbone = load_backbone(base, "cpu")
    prompts = Prompts(backbone.encode("Van Gogh"), backbone.encode(""))
    other = Prompts(backbone.encode("tree"), backbone.encode(""))
    student = Student(backbone, [RECIPE.subset], Updates.MASTER, keeps_originals=False)
    held_out = HeldOut(student, [Lesson(0, "Van Gogh", prompts, False, RECIPE)], [other])
    assert held_out.remainder() == pytest.approx(1, abs=1e-3)
    assert held_out.interference() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("steps", [50, 95])
def test_a_killed_tuned_run_ends_with_the_same_bits(
    steps: int, base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLANS, ConceptKind.STYLE, PLAN.model_copy(update={"most_steps": 120, "enough": -9, "sure": -9}))
    open_ones: dict[str, Any] = {"negative_guidance": None, "iterations": None, "learning_rate": None}
    job = job_of(base, erasure_of("Van Gogh", subset="esd-x", keep="empty-and-words", **open_ones))
    whole = run(job, base, tmp_path / "whole")
    run_killed(job, base, tmp_path / "killed", steps)
    resumed = run(job, base, tmp_path / "killed")
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.tuned == whole.tuned
    (tuned,) = whole.tuned
    assert tuned.checks
    assert f"{tuned.iterations} steps" in tuned.sentence


def test_named_recipes_leave_nothing_open_and_every_field_can_be_overruled() -> None:
    for kind in ConceptKind:
        tuned = ConceptEntry(name="x", kind=kind)
        assert tuned.erasure.recipe.is_tuned
        for name in (RecipeName.PAPER, RecipeName.AUTHORS_2025):
            assert not ConceptEntry(name="x", kind=kind, recipe=name).erasure.recipe.is_tuned
        fixed = ConceptEntry(name="x", kind=kind, recipe=RecipeName.PAPER, negative_guidance=7.0)
        assert fixed.erasure.recipe.negative_guidance == 7
        assert fixed.erasure.recipe.iterations == 1000


def test_in_the_company_of_those_that_train_the_same_weights_a_concept_moves_less_at_a_time() -> None:
    kinds = (ConceptKind.OBJECT, ConceptKind.STYLE, ConceptKind.GLOBAL, ConceptKind.OBJECT, ConceptKind.STYLE)
    rows = [ConceptEntry(name=f"concept {i}", kind=kind).erasure for i, kind in enumerate(kinds)]
    assert tuning.plan_of(rows[1:2], 0, judged=False) == PLANS["style"]
    moves = [tuning.plan_of(rows, part, judged=False).move / PLANS[kind].move for part, kind in enumerate(kinds)]
    assert moves == pytest.approx([2 / 4, 2 / 3, 2 / 4, 2 / 4, 2 / 3])
    everything = ConceptEntry(name="all", kind=ConceptKind.STYLE, subset=ParameterSubset.ESD_ALL).erasure
    assert tuning.plan_of([*rows, everything], 1, judged=False).move == pytest.approx(PLANS["style"].move * 2 / 4)


def test_what_gives_back_afterwards_spares_the_steps_that_this_costs() -> None:
    own = ConceptEntry(name="car", kind=ConceptKind.OBJECT)
    gives_back, keeps = own.erasure, own.model_copy(update={"gives_back": False}).erasure
    alone, kept = (tuning.plan_of([one], 0, judged=False).most_steps for one in (gives_back, keeps))
    assert alone == kept - PLANS["object"].spared < PLANS["object"].most_steps
    assert tuning.plan_of([gives_back, keeps], 0, judged=False).most_steps == kept  # nothing gives back in company
