"""Mean ratings by method, with honest intervals; the command's help."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from scipy import stats

from flows.cli import main
from infra.human_study.results import Unit, interval, read_results
from infra.human_study.study import ORIGINAL, REAL, SIMILAR, Question, read_study
from tests.painted_study import (
    DRAWN,
    TRIALS,
    WORKS,
    answer_all,
)


def test_results_by_method(page: TestClient, folder: Path) -> None:
    study = read_study(folder)
    answer_all(page, "Ada", {REAL: 5, SIMILAR: 3, ORIGINAL: 4, "ESD-x": 1}, study)
    answer_all(page, "Grace", {REAL: 4, SIMILAR: 3, ORIGINAL: 4, "ESD-x": 2}, study)
    real = next(trial.number for trial in study.trials if trial.method == REAL)
    page.post("/answers", json={"participant": "Edith", "trial": real, "rating": 1, "seconds": 60})
    results = read_results(folder)
    assert (results.participants, results.finished, results.answers) == (3, 2, 2 * TRIALS + 1)
    rows = {(row.question, row.method): row for row in results.rows}
    assert list(rows) == study.groups
    assert rows[Question.REMOVAL, "ESD-x"].mean == 1.5
    assert rows[Question.REMOVAL, "ESD-x"].ratings == (DRAWN, DRAWN, 0, 0, 0)
    assert rows[Question.RESEMBLANCE, REAL].participants == 3
    assert rows[Question.RESEMBLANCE, REAL].ratings == (1, 0, 0, 2 * WORKS, 2 * WORKS)
    assert rows[Question.RESEMBLANCE, SIMILAR].interval is None  # everybody said 3
    assert rows[Question.RESEMBLANCE, SIMILAR].median_seconds == 1.5


def test_intervals_are_over_participants() -> None:
    ratings = [[1, 2, 3, 2], [3, 4, 4, 3], [2, 2, 3, 3]]
    means = [sum(person) / 4 for person in ratings]
    low, high = stats.t.interval(0.95, 2, loc=sum(means) / 3, scale=stats.sem(means))
    found = interval(ratings)
    assert found
    assert (found.low, found.high) == pytest.approx((max(low, 1), min(high, 5)))
    assert found.over is Unit.PARTICIPANTS


def test_intervals_of_one_participant_are_over_answers_and_say_so() -> None:
    low, high = stats.t.interval(0.95, 3, loc=2.5, scale=stats.sem([1, 3, 3, 3]))
    found = interval([[1, 3, 3, 3]])
    assert found
    assert (found.low, found.high) == pytest.approx((max(low, 1), high))
    assert found.over is Unit.ANSWERS


@pytest.mark.parametrize("ratings", [[[1, 1], [1]], [[4]], [[1, 3], [2, 2]]])
def test_answers_that_do_not_vary_have_no_interval(ratings: list[list[int]]) -> None:
    assert interval(ratings) is None


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    """Participants differ in how they use the scale: the t interval over all answers would hold it far less often."""
    rng = stats.norm.rvs(size=(2000, 8, 21), random_state=3)
    held = 0
    for people in rng:
        ratings = [[int(min(5, max(1, round(3 + 0.8 * person[0] + x)))) for x in person[1:]] for person in people]
        found = interval(ratings)
        assert found
        held += found.low <= 3 <= found.high
    assert 0.93 < held / 2000 < 0.97


def test_results_page_has_no_network_and_shows_every_method(
    page: TestClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(folder)
    answer_all(page, "Ada", {REAL: 5, SIMILAR: 3, ORIGINAL: 4, "ESD-x": 1}, study)
    answer_all(page, "Grace", {REAL: 4, SIMILAR: 2, ORIGINAL: 4, "ESD-x": 2}, study)
    assert main(["human-study", "results", str(folder)]) == 0
    printed = capsys.readouterr().out
    html = (folder / "results.html").read_text(encoding="utf-8")
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for row in stored["rows"]:
        assert row["method"] in printed
        assert f"{row['mean']:.2f}" in printed
        assert row["method"] in html
    assert not re.search(r"https?://", html)
    assert stored["schema_version"] == 1


def test_before_anyone_answered_there_are_no_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["human-study", "results", str(folder)]) == 2
    assert "esd human-study serve" in capsys.readouterr().err


@pytest.mark.parametrize("step", [(), ("make",), ("serve",), ("results",)])
def test_help_teaches_with_examples(step: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["human-study", *step, "--help"])
    assert end.value.code == 0
    assert re.search(rf"example:\n(  .*\n)*?  esd human-study {' '.join(step)}", capsys.readouterr().out)
