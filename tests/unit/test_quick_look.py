"""A classifier looks at a few images before an erasure stops: which ones, what names it, and that it is repeatable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esd_core import quick_look
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.errors import EvaluationError
from esd_core.evaluation.suite import Probe, Suite, load_suite
from esd_core.evaluation.witness import judge_of, witnesses_of
from esd_core.quick_look import STEPS
from esd_core.tuning import IMAGES, PLANS, Plan
from tests.tiny_erasure import erasure_of, run, run_killed

FIXED: dict[str, Any] = {"subset": "esd-x"}
OPEN: dict[str, Any] = {"iterations": None, "subset": "esd-x"}
PLAN = Plan(move=1, first_eta=1, first_check=2, check_every=2, settle_steps=2, most_steps=8, enough=9, sure=9)
MINIATURE = load_suite("miniature")


def changed(suite: Suite, **update: Any) -> Suite:
    return suite.model_copy(update=update)


def judged(base: ResolvedBase, suite: Suite | None, *erasures: Erasure) -> ErasureJob:
    return ErasureJob(base=base.id, base_digest=base.digest, erasures=erasures, judge=judge_of(suite, erasures))


def test_a_witness_asks_the_concepts_probes_in_turn_at_seeds_of_its_own(base: ResolvedBase) -> None:
    sun = Erasure(concept=Concept(name="sun", kind=ConceptKind.GLOBAL), recipe=erasure_of("sun", **OPEN).recipe)
    (witness,) = witnesses_of(MINIATURE, judged(base, MINIATURE, sun), "cpu")
    assert witness is not None
    probes = MINIATURE.probes_of(sun.concept)
    assert [probe.implied for probe in probes] == [False, True]
    assert witness.prompts[:4] == (*(probe.prompts[0] for probe in probes), *(probe.prompts[1] for probe in probes))
    assert len(witness.seeds) == len(set(witness.seeds)) == len(witness.prompts) == IMAGES
    used = {seed for probe in MINIATURE.probes for _, seed in MINIATURE.cases(probe, 5000)}
    assert not used & set(witness.seeds)


def test_a_witness_answers_with_the_probes_classifiers(base: ResolvedBase) -> None:
    (witness,) = witnesses_of(MINIATURE, judged(base, MINIATURE, erasure_of("house", **OPEN)), "cpu")
    assert witness is not None
    seen = witness.shows(np.zeros((IMAGES, 64, 64, 3), np.uint8))
    assert (seen.shape, seen.dtype) == ((IMAGES,), np.dtype(bool))


def test_the_judge_is_named_by_what_it_looks_at_and_by_nothing_else(tiny_suite: Suite) -> None:
    house = erasure_of("house", **OPEN)
    name = judge_of(tiny_suite, [house])
    others = [probe for probe in tiny_suite.probes if probe.concept != "house"]
    more = Probe(name="church", concept="church", classifier="object", label="nothing", prompts=("a church",))
    (own,) = tiny_suite.probes_of(house.concept)
    for same in (changed(tiny_suite, probes=(own, *others, more)), changed(tiny_suite, steps=50)):
        assert judge_of(same, [house]) == name
    asked_else = own.model_copy(update={"prompts": ("a blue house",)})
    other = [changed(tiny_suite, probes=(asked_else, *others)), changed(tiny_suite, guidance_scale=5.0)]
    assert len({name, *(judge_of(suite, [house]) for suite in other)}) == 3
    assert judge_of(tiny_suite, [erasure_of("house", also_known_as=("cottage",), **OPEN)]) != name
    assert judge_of(tiny_suite, [erasure_of("house", **FIXED)]) is None
    assert judge_of(None, [house]) is None


def test_only_what_stops_by_itself_and_alone_is_looked_at(base: ResolvedBase, tiny_suite: Suite) -> None:
    still_open, fixed = erasure_of("house", **OPEN), erasure_of("tree", **FIXED)
    for erasures, looked_at in (((still_open,), True), ((fixed,), False), ((still_open, still_open), False)):
        job = judged(base, tiny_suite, *erasures)
        assert (job.judge is not None) is looked_at
        assert [looks is not None for looks in witnesses_of(tiny_suite, job, "cpu")] == [looked_at] * len(erasures)


def test_another_suite_than_the_planned_one_is_refused(base: ResolvedBase, tiny_suite: Suite, tmp_path: Path) -> None:
    job = judged(base, tiny_suite, erasure_of("house", **OPEN))
    for other in (None, changed(tiny_suite, guidance_scale=5.0)):
        with pytest.raises(EvaluationError, match="plan it again"):
            run(job, base, tmp_path, suite=other)


def test_a_killed_judged_run_ends_with_the_same_bits(
    base: ResolvedBase, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLANS, ConceptKind.STYLE, PLAN)
    monkeypatch.setattr(quick_look, "STEPS", 2)
    house = erasure_of("house", negative_guidance=None, **OPEN)
    job, alone = judged(base, tiny_suite, house), judged(base, None, house)
    whole = run(job, base, tmp_path / "whole", suite=tiny_suite)
    run_killed(job, base, tmp_path / "killed", 3, tiny_suite)
    resumed = run(job, base, tmp_path / "killed", suite=tiny_suite)
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.tuned == whole.tuned
    for tuned in whole.tuned:
        assert [check.shown is not None for check in tuned.checks] == [check.settled for check in tuned.checks]
        assert "of 12 images" in tuned.reason
    (unseen,) = run(alone, base, tmp_path / "alone").tuned
    assert "images" not in unseen.reason


def test_a_look_costs_two_evaluations_for_each_step_and_image(
    base: ResolvedBase, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = PLAN.model_copy(update={"most_steps": 4, "more_steps": 0.0})
    monkeypatch.setitem(PLANS, ConceptKind.STYLE, quick)
    house = erasure_of("house", rollout_from="student", **OPEN)
    with_judge = run(judged(base, tiny_suite, house), base, tmp_path / "judged", suite=tiny_suite)
    without = run(judged(base, None, house), base, tmp_path / "alone")
    assert [tuned.iterations for tuned in (*with_judge.tuned, *without.tuned)] == [4, 4]
    assert with_judge.unet_evaluations - without.unet_evaluations == 2 * STEPS * IMAGES
    trained, alone = load_file(with_judge.weights), load_file(without.weights)
    assert all(torch.equal(tensor, alone[name]) for name, tensor in trained.items())
