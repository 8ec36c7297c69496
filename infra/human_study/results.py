"""What the participants said: mean ratings by method with confidence intervals, as JSON and as an HTML page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from statistics import mean, median

from pydantic import BaseModel, ConfigDict
from scipy import stats

from esd_core import digest
from esd_core.errors import InvalidInput
from esd_core.page_template import template
from infra.human_study import answers
from infra.human_study.answers import Answer
from infra.human_study.study import ANSWERS, Question, read_study

CONFIDENCE = 0.95
SCALE = (1, 2, 3, 4, 5)
RESULTS_JSON, RESULTS_HTML = "results.json", "results.html"


WHAT_IT_ASKS = {
    Question.RESEMBLANCE: "Is the artist's style recognized, and does the original model have it?",
    Question.REMOVAL: "Is the style gone where the artist was erased?",
    Question.INTERFERENCE: "Are other artists' styles still there where an artist was erased?",
}


class Unit(StrEnum):
    """What an interval generalizes over."""

    PARTICIPANTS = "participants"  # to other people like them
    ANSWERS = "answers"  # of the one participant there is: it says nothing about other people


class Interval(BaseModel):
    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    over: Unit


class Row(BaseModel):
    """A method under one of the study's questions."""

    model_config = ConfigDict(frozen=True)

    question: Question
    method: str
    mean: float  # of all answers, 1 (certainly not by the artist) to 5 (certainly)
    interval: Interval | None  # None where the answers do not vary: they do not show how far off their mean may be
    ratings: tuple[int, int, int, int, int]  # how many answers were 1, 2, 3, 4, 5
    answers: int
    participants: int
    median_seconds: float


class Results(BaseModel):
    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    study: str  # digest
    title: str
    confidence: float = CONFIDENCE
    participants: int
    finished: int  # participants who have rated everything they were to see
    answers: int
    rows: tuple[Row, ...]


def interval(ratings: Sequence[Sequence[int]]) -> Interval | None:
    """Student's t interval for the mean of all ratings, clipped to the scale; `ratings` holds each participant's.

    The answers of one person resemble each other, so the standard error is the cluster-robust one,
    se^2 = P / (P - 1) * sum_p (sum_i (x_pi - m))^2 / n^2, with P - 1 degrees of freedom (Cameron and Miller, A
    Practitioner's Guide to Cluster-Robust Inference, 2015, for a mean); where all gave as many answers, it is the t
    interval over the participants' means. With one participant every answer is a cluster of its own.
    """
    over = Unit.PARTICIPANTS if len(ratings) > 1 else Unit.ANSWERS
    clusters = ratings if over is Unit.PARTICIPANTS else [[x] for x in ratings[0]]
    everything = [x for cluster in clusters for x in cluster]
    centre, count = mean(everything), len(clusters)
    squares = sum((sum(cluster) - len(cluster) * centre) ** 2 for cluster in clusters)
    if count < 2 or math.isclose(squares, 0, abs_tol=1e-9):
        return None
    error = math.sqrt(count / (count - 1) * squares) / len(everything)
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Interval(low=max(SCALE[0], centre - reach), high=min(SCALE[-1], centre + reach), over=over)


def read_results(folder: Path) -> Results:
    """The results so far of the study in `folder`. Raises InvalidInput while there are no answers."""
    study = read_study(folder)
    given = answers.last_of_each(answers.read(folder / ANSWERS, study.digest))
    if not given:
        raise InvalidInput(f"nobody has answered yet: `esd human-study serve {folder}` shows the study")
    trials = {trial.number: trial for trial in study.trials}
    grouped = defaultdict(list)
    for answer in given:
        grouped[trials[answer.trial].question, trials[answer.trial].method].append(answer)
    people = {name: sum(a.participant == name for a in given) for name in {a.participant for a in given}}
    return Results(
        study=study.digest,
        title=study.title,
        participants=len(people),
        finished=sum(count == study.trials_per_participant for count in people.values()),
        answers=len(given),
        rows=tuple(_row(*group, grouped[group]) for group in study.groups if group in grouped),
    )


def _row(question: Question, method: str, given: Sequence[Answer]) -> Row:
    by_person = defaultdict(list)
    for answer in given:
        by_person[answer.participant].append(answer.rating)
    everything = [answer.rating for answer in given]
    one, two, three, four, five = (everything.count(rating) for rating in SCALE)
    return Row(
        question=question,
        method=method,
        mean=mean(everything),
        interval=interval(list(by_person.values())),
        ratings=(one, two, three, four, five),
        answers=len(given),
        participants=len(by_person),
        median_seconds=median(answer.seconds for answer in given),
    )


def write_results(folder: Path, results: Results) -> Path:
    """Write results.json and results.html; returns the latter."""
    digest.write_text(folder / RESULTS_JSON, results.model_dump_json(indent=2) + "\n")
    page = template("infra.human_study", "results.html.j2")
    digest.write_text(folder / RESULTS_HTML, page.render(results=results, questions=WHAT_IT_ASKS, scale=SCALE))
    return folder / RESULTS_HTML
