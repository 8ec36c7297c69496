"""Images are made until the gates are decided, and are the same ones however many are made."""

from __future__ import annotations

from pathlib import Path

from esd_core.base_model import ResolvedBase
from esd_core.evaluation.evaluate import BATCH, GRID_SEEDS
from esd_core.evaluation.judged_images import drawing_order
from esd_core.evaluation.suite import Suite
from tests.measuring import ENDLESS, LAX, images_of, measured


def test_decided_gates_ask_for_no_more_images(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path, images=200, gates=LAX)
    assert images_of(report) == {"house": BATCH, "tree": GRID_SEEDS, "no tree unasked": GRID_SEEDS}


def test_undecided_gates_are_given_all_images_there_may_be_and_none_twice(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, drawn: list[tuple[int, str, int]]
) -> None:
    gates = ENDLESS.model_copy(update={"erased_at_most": 1})
    report = measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=gates)
    assert images_of(report) == {"house": BATCH, "tree": 18, "no tree unasked": 18}
    assert len(drawn) == len(set(drawn)) == 2 * (BATCH + 2 * 18)


def test_images_that_came_in_batches_are_those_that_come_at_once(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    batches = measured(base, edited_weights, tiny_suite, tmp_path / "batches", images=18, gates=ENDLESS)
    at_once = measured(base, edited_weights, tiny_suite, tmp_path / "at once", images=18)
    assert {**images_of(batches), "house": 18} == images_of(at_once)  # the erased gate may fail at once
    assert batches.others == at_once.others


def test_stricter_gates_go_on_with_a_finished_evaluation_and_laxer_ones_do_not(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=LAX)
    assert measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=LAX) == first
    assert len(loads) == 2
    more = measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=ENDLESS)
    assert images_of(more)["tree"] == 18
    assert measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=LAX) == more


def test_part_of_the_images_shows_every_prompt_about_equally_often(tiny_suite: Suite) -> None:
    probe = tiny_suite.probes[0].model_copy(update={"prompts": tuple("abcdef")})
    order = drawing_order(tiny_suite, probe, 15)
    assert order[:9] == drawing_order(tiny_suite, probe, 9)
    assert sorted(prompt for prompt, _ in order[:6]) == list("abcdef")
    assert sorted(order[:12]) == sorted(tiny_suite.cases(probe, 12))
    assert [prompt for prompt, _ in order[:12]] != list("abcdef") * 2
