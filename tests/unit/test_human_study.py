"""The human study: what is shown to whom, what the page must not learn, answers that survive, and honest intervals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from scipy import stats

from esd_core.errors import EsdError, InvalidInput
from flows.cli import main
from infra.human_study import answers
from infra.human_study.answers import Answer
from infra.human_study.definition import read_definition
from infra.human_study.make import make_study
from infra.human_study.results import Unit, interval, read_results
from infra.human_study.server import PAGE, build_app, listen
from infra.human_study.study import ORIGINAL, REAL, SIMILAR, Question, Study, read_study
from tests.painted_study import DRAWN, ERASED, OTHER, REFERENCES, SECRET, SIMILAR_WORKS, WORKS, write_study

TRIALS = 2 * (WORKS + SIMILAR_WORKS + 2 * DRAWN)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("painted"))


@pytest.fixture
def folder(painted: Path, tmp_path: Path) -> Path:
    make_study(read_definition(painted), tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def page(folder: Path) -> TestClient:
    return TestClient(build_app(folder))


def answer_all(page: TestClient, participant: str, ratings: dict[str, int], study: Study) -> None:
    """Rate every image of each method as `ratings` says."""
    methods = {trial.number: trial.method for trial in study.trials}
    for trial in page.post("/participants", json={"participant": participant}).json()["trials"]:
        rating = ratings[methods[trial["number"]]]
        sent = {"participant": participant, "trial": trial["number"], "rating": rating, "seconds": 1.5}
        assert page.post("/answers", json=sent).status_code == 201


def test_every_image_is_asked_about_under_its_question(folder: Path) -> None:
    study = read_study(folder)
    assert len(study.trials) == TRIALS
    assert Counter((trial.question, trial.method) for trial in study.trials) == {
        (Question.RESEMBLANCE, REAL): 2 * WORKS,
        (Question.RESEMBLANCE, SIMILAR): 2 * SIMILAR_WORKS,
        (Question.RESEMBLANCE, ORIGINAL): 2 * DRAWN,
        (Question.REMOVAL, "ESD-x"): DRAWN,
        (Question.INTERFERENCE, "ESD-x"): DRAWN,
    }
    removed = {trial.artist for trial in study.trials if trial.question is Question.REMOVAL}
    kept = {trial.artist for trial in study.trials if trial.question is Question.INTERFERENCE}
    assert (removed, kept) == ({ERASED}, {OTHER})


def test_beside_an_image_stand_other_works_of_its_artist(folder: Path) -> None:
    study = read_study(folder)
    works: dict[str, set[str]] = {ERASED: set(), OTHER: set()}
    for trial in study.trials:
        if trial.method == REAL:
            works[trial.artist].add(trial.image)
    for trial in study.trials:
        assert len(set(trial.references)) == REFERENCES
        assert set(trial.references) <= works[trial.artist] - {trial.image}


def test_each_participant_has_an_order_of_their_own_that_stays(folder: Path) -> None:
    study = read_study(folder)
    ada = study.order_for("ada")
    assert ada == read_study(folder).order_for("ada")
    assert ada != study.order_for("grace")
    assert {trial.number for trial in ada} == {trial.number for trial in study.trials}


def test_who_sees_only_some_images_sees_as_many_of_each_method(painted: Path, tmp_path: Path) -> None:
    definition = read_definition(painted).model_copy(update={"trials_per_participant": 10})
    study = make_study(definition, tmp_path / "study")
    shares = Counter((trial.question, trial.method) for trial in study.order_for("ada"))
    assert shares == dict.fromkeys(study.groups, 2)


def test_the_page_cannot_tell_what_made_an_image(page: TestClient, folder: Path) -> None:
    study = read_study(folder)
    told = page.post("/participants", json={"participant": "Ada"}).text
    told += "".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir())
    secrets = {trial.method for trial in study.trials} | {ERASED, OTHER, *(f"{q.value}" for q in Question)}
    assert not [secret for secret in secrets if secret.lower() in told.lower()]
    shown = {name for trial in study.trials for name in (trial.image, *trial.references)}
    for name in shown:
        response = page.get(f"/images/{name}")
        assert response.headers["content-type"] == "image/png"
        assert SECRET.encode() not in response.content
        with Image.open(folder / "images" / name) as image:
            assert not image.info
    numbers = {method: [t.number for t in study.trials if t.method == method] for method in (REAL, ORIGINAL)}
    assert max(numbers[REAL]) > min(numbers[ORIGINAL])  # the numbers are shuffled


def test_works_are_shrunk_to_the_size_of_drawn_images(painted: Path, tmp_path: Path) -> None:
    big = tmp_path / "works" / ERASED / "0.jpg"
    big.parent.mkdir(parents=True)
    Image.new("RGBA", (3000, 1500), "red").convert("RGB").save(big)
    definition = read_definition(painted).model_copy(update={"similar": tmp_path / "works"})
    (tmp_path / "works" / OTHER).mkdir()
    study = make_study(definition, tmp_path / "study")
    (trial,) = (trial for trial in study.trials if trial.method == SIMILAR)
    with Image.open(tmp_path / "study" / "images" / trial.image) as image:
        assert (image.format, image.size) == ("PNG", (512, 256))


def test_the_page_fetches_nothing_from_elsewhere(page: TestClient) -> None:
    response = page.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for path in PAGE.iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text(encoding="utf-8"))
        assert page.get(f"/page/{path.name}").status_code == 200


@pytest.mark.parametrize("name", ["../study.json", "..%2Fstudy.json", "study.json", "0.png", "answers.jsonl"])
def test_only_images_are_served(page: TestClient, name: str) -> None:
    assert page.get(f"/images/{name}").status_code == 404
    assert page.get(f"/{name}").status_code == 404


def test_who_comes_back_continues(page: TestClient, folder: Path) -> None:
    first = page.post("/participants", json={"participant": "Ada"}).json()
    numbers = [trial["number"] for trial in first["trials"]]
    for number, rating in ((numbers[0], 4), (numbers[1], 2), (numbers[0], 5)):  # the first is changed
        sent = {"participant": "Ada", "trial": number, "rating": rating, "seconds": 0.8}
        assert page.post("/answers", json=sent).status_code == 201
    again = TestClient(build_app(folder)).post("/participants", json={"participant": " ada "}).json()
    assert again == {"trials": first["trials"], "answers": {str(numbers[0]): 5, str(numbers[1]): 2}}
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["rating"] for line in lines] == [4, 2, 5]
    assert {line["participant"] for line in lines} == {"ada"}
    assert all(line["seconds"] == 0.8 and line["answered_at"].endswith("Z") for line in lines)
    assert read_results(folder).answers == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"rating": 0},
        {"rating": 6},
        {"rating": "4.5"},
        {"trial": TRIALS + 1},
        {"seconds": -1},
        {"participant": " "},
        {"participant": "a\nb"},
        {"method": "ESD-x"},
    ],
)
def test_a_wrong_answer_is_not_stored(page: TestClient, folder: Path, wrong: dict[str, object]) -> None:
    sent = {"participant": "Ada", "trial": 1, "rating": 3, "seconds": 1.0, **wrong}
    assert page.post("/answers", json=sent).status_code == 422
    assert not (folder / "answers.jsonl").exists()


def test_a_line_torn_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    given = [Answer(study="s", participant="ada", trial=n, rating=n, seconds=1) for n in (1, 2, 3)]
    answers.append(path, given[0])
    answers.append(path, given[1])
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size - 20)
    answers.append(path, given[2])
    assert answers.read(path, "s") == [given[0], given[2]]
    assert answers.read(path, "another study") == []


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


def test_making_a_study_again_keeps_its_answers(painted: Path, folder: Path) -> None:
    made = read_study(folder)
    assert make_study(read_definition(painted), folder) == made
    other = read_definition(painted).model_copy(update={"seed": 1})
    with pytest.raises(InvalidInput, match="holds another study"):
        make_study(other, folder)


@pytest.mark.parametrize(
    ("fields", "spoil", "remedy"),
    [
        ({"methods": []}, None, "methods"),
        ({"methods": [{"name": REAL, "erased": ERASED, "images": "esd-x"}]}, None, "choose another name"),
        ({"methods": [{"name": "ESD-x", "erased": ERASED, "images": "esd-x"}] * 2}, None, "give each its own name"),
        ({"methods": [{"name": "ESD-x", "erased": "Hokusai", "images": "esd-x"}]}, None, "'Hokusai'"),
        ({"works": "nowhere"}, None, "needs a folder named as in the prompts file"),
        ({"original": "nowhere"}, None, "esd generate --out"),
        ({"original": "works"}, None, "no images named CASE_N.png"),
        ({"references": 6}, None, "add works until there are 7"),
        ({"referenzes": 6}, None, "referenzes"),
        ({}, "esd-x/1_1.png", "differ in 1 files, such as 1_1.png"),
        ({}, "prompts.csv", "prompts.csv"),
    ],
)
def test_a_faulty_study_is_refused_with_a_remedy(
    fields: dict[str, object], spoil: str | None, remedy: str, tmp_path: Path
) -> None:
    path = write_study(tmp_path, **fields)
    if spoil:
        (tmp_path / spoil).unlink()
    with pytest.raises(EsdError) as refused:
        make_study(read_definition(path), tmp_path / "study")
    assert remedy in str(refused.value)
    assert not (tmp_path / "study" / "study.json").exists()


def test_prompts_without_artists_are_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "prompts.csv").write_text("case_number,prompt,evaluation_seed\n0,a house,1\n1,a tree,1\n")
    with pytest.raises(InvalidInput, match="columns case_number and artist"):
        make_study(read_definition(path), tmp_path / "study")


@pytest.mark.parametrize("step", [(), ("make",), ("serve",), ("results",)])
def test_help_teaches_with_examples(step: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["human-study", *step, "--help"])
    assert end.value.code == 0
    assert re.search(rf"example:\n(  .*\n)*?  esd human-study {' '.join(step)}", capsys.readouterr().out)


def test_a_taken_port_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["human-study", "serve", str(folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "--port" in capsys.readouterr().err


def test_the_server_is_for_this_machine_unless_told_otherwise(folder: Path) -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
    command = [sys.executable, "-m", "flows.cli", "human-study", "serve", str(folder), "--port", "0"]
    for address, warned in (("127.0.0.1", False), ("127.0.0.2", True)):
        process = subprocess.Popen(
            [*command, "--address", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        said = [process.stdout.readline() for _ in range(3)]
        assert f"http://{address}:" in said[-1]
        os.kill(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
        assert process.returncode == 0
        assert ("without password" in complaint) is warned
