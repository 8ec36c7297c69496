"""Gates: what passes, what fails, and what cannot be told yet."""

from __future__ import annotations

import pytest

from esd_core.evaluation.gates import Gates, judge, undecided_probes
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.evaluation.sequential import Decision

FIXED = Gates(sequential=False)


def probe(name: str, before: int, after: int, images: int) -> ProbeResult:
    both = min(before, after)
    counts = {"both": both, "only_before": before - both, "only_after": after - both}
    return ProbeResult(probe=name, concept=name, implied=False, **counts, neither=images - sum(counts.values()))


def report(*erased: ProbeResult, lost: int = 0, images: int = 20, probes: int = 10) -> EvaluationReport:
    """The first of the others loses `lost` of its images."""
    others = [probe(f"other {i}", images, images - lost * (i == 0), images) for i in range(probes)]
    return EvaluationReport(
        concept="sun",
        base_digest="b",
        weights_digest="w",
        suite_digest="s",
        images_per_probe=200,
        erased=erased,
        others=tuple(others),
    )


def decisions(found: EvaluationReport, gates: Gates) -> list[Decision]:
    return [gate.decision for gate in judge(found, gates).gates]


@pytest.mark.parametrize(
    ("after", "lost", "expected"),
    [(2, 10, ["passed", "passed"]), (3, 10, ["failed", "passed"]), (2, 11, ["passed", "failed"])],
)
def test_a_fixed_number_is_judged_by_what_was_measured(after: int, lost: int, expected: list[str]) -> None:
    found = report(probe("sun", 20, after, 20), lost=lost)
    assert decisions(found, FIXED) == expected
    assert judge(found, FIXED).passed is (expected == ["passed", "passed"])


def test_a_sequential_gate_wants_to_be_sure() -> None:
    assert decisions(report(probe("sun", 40, 0, 40)), Gates()) == ["passed", "passed"]
    assert decisions(report(probe("sun", 10, 0, 10)), Gates()) == ["undecided", "passed"]
    assert decisions(report(probe("sun", 8, 8, 8)), Gates()) == ["failed", "passed"]
    assert decisions(report(probe("sun", 40, 0, 40), lost=10), Gates())[1] == "undecided"


def test_what_is_undecided_did_not_pass_and_says_what_helps() -> None:
    verdict = judge(report(probe("sun", 10, 0, 10)), Gates())
    assert not verdict.passed
    assert "sun: 100% -> 0%, 0% of its base rate (at most 10% ± 2.5)" in verdict.reasons[0]
    assert "undecided by 10 images: not passed" in verdict.reasons[0]
    assert "erase again with another seed, and more images are made" in verdict.reasons[0]
    assert "decided by 200 images" in verdict.reasons[1]
    at_most = report(probe("sun", 200, 20, 200))
    assert "images_per_probe above 200" in judge(at_most, Gates()).reasons[0]


def test_stricter_gates_are_not_passed_by_too_few_recorded_images() -> None:
    found = report(probe("sun", 40, 0, 40))
    assert judge(found, Gates()).passed
    strict = judge(found, Gates(erased_at_most=0.02))
    assert [gate.decision for gate in strict.gates] == ["undecided", "passed"]
    assert judge(found, Gates(wrong_pass=0.001)).gates[0].decision == "undecided"


def test_only_undecided_probes_of_undecided_gates_want_images() -> None:
    sure, unsure, bad = probe("a", 80, 0, 80), probe("b", 10, 0, 10), probe("c", 10, 10, 10)
    assert undecided_probes(report(sure, unsure), Gates()) == (("b",), ())
    assert undecided_probes(report(sure, unsure, bad), Gates()) == ((), ())  # one that fails decides the gate
    others = tuple(f"other {i}" for i in range(10))
    assert undecided_probes(report(sure, images=1), Gates()) == ((), others)


def test_each_of_several_probes_may_fail_a_good_model_only_by_its_part_of_the_error() -> None:
    """What fails alone is not enough beside four others."""
    doubtful, sure = probe("a", 5, 3, 5), [probe(f"b{i}", 80, 0, 80) for i in range(4)]
    assert decisions(report(doubtful), Gates())[0] == "failed"
    assert decisions(report(doubtful, *sure), Gates())[0] == "undecided"


def test_the_reason_names_the_probe_that_decides() -> None:
    few, more = probe("a", 4, 2, 4), probe("b", 60, 24, 60)  # a has more left, but by b it is known
    gate = judge(report(few, more), Gates()).gates[0]
    assert gate.decision == "failed"
    assert gate.reason.startswith("b: 100% -> 40%")
    assert gate.bounds.lower > 0.1


def test_a_limit_that_allows_everything_is_passed_by_anything() -> None:
    anything = Gates(erased_at_most=1, others_drop_at_most=1)
    assert judge(report(probe("sun", 2, 2, 2), lost=2, images=2), anything).passed


@pytest.mark.parametrize("gates", [Gates(), FIXED])
def test_a_concept_that_the_base_never_shows_is_no_success(gates: Gates) -> None:
    found = report(probe("sun", 0, 0, 200))
    assert decisions(found, gates)[0] == "undecided"
    assert "the base never shows it either: give the probe prompts" in judge(found, gates).reasons[0]


@pytest.mark.parametrize("gates", [Gates(), FIXED])
def test_an_edit_that_adds_the_concept_fails_and_is_the_worst_probe(gates: Gates) -> None:
    found = report(probe("named", 40, 0, 40), probe("implied", 0, 30, 40))
    assert decisions(found, gates)[0] == "failed"
    assert judge(found, gates).reasons[0].startswith("implied: 0% -> 75%")
    assert found.worst.probe == "implied"


def test_the_zone_never_closes() -> None:
    assert Gates().zone(0.1) == pytest.approx((0.075, 0.125))
    assert Gates().zone(0.0) == pytest.approx((0.0, 0.01))
