"""Curves of a report: what a line's points stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esd_core.errors import EvaluationError
from esd_core.evaluation.curves import FRAME, look_curve, loss_curve
from esd_core.tuning import Check, Tuned


def check(step: int, remainder: float, settled: bool = False, shown: float | None = None) -> Check:
    return Check(
        step=step, total=step, eta=2, remainder=remainder, interference=step / 100, settled=settled, shown=shown
    )


def tuned(*checks: Check) -> Tuned:
    return Tuned(concept="sun", learning_rate=1e-4, negative_guidance=2, iterations=100, reason="gone", checks=checks)


def test_the_loss_curve_spans_all_steps(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 101)))
    curve = loss_curve(history)
    assert curve is not None
    assert curve.last_step == 100
    assert curve.first > curve.last
    assert len(curve.raw.split()) == 100


def test_a_single_step_has_no_curve_and_another_file_is_refused(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"step": 1, "loss": 0.5}\n')
    assert loss_curve(history) is None
    history.write_text("step 1: 0.5\n")
    with pytest.raises(EvaluationError, match="not a loss history"):
        loss_curve(history)


def test_looks_lie_where_their_figures_say() -> None:
    curve = look_curve(tuned(check(40, 1.0), check(60, 0.0), check(100, -0.2, settled=True, shown=1 / 12)))
    assert curve is not None
    points = [tuple(map(float, point.split(","))) for point in curve.remainder.split()]
    marks = {text: y for y, text in curve.ticks}
    assert set(marks) == {"-0.2", "0", "1"}
    assert [y for _, y in points] == [pytest.approx(marks[text], abs=0.05) for text in ("1", "0", "-0.2")]
    assert [x for x, _ in points[:2]] == pytest.approx([FRAME.left, FRAME.left + (640 - 8 - 52) / 3], abs=0.05)
    (look,) = curve.looks
    assert [look.x, look.y] == pytest.approx(points[2], abs=0.05)
    assert look.text == "1 of 12"
    assert (curve.first_step, curve.last_step) == (40, 100)


def test_one_look_is_no_curve() -> None:
    assert look_curve(tuned(check(40, 0.5))) is None
    assert look_curve(tuned()) is None
