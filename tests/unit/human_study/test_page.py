"""The page's server: what the page must not learn, and answers that survive."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from flows.cli import main
from infra.human_study import answers
from infra.human_study.answers import Answer
from infra.human_study.results import read_results
from infra.human_study.server import PAGE, build_app, listen
from infra.human_study.study import ORIGINAL, REAL, Question, read_study
from tests.painted_study import (
    ERASED,
    OTHER,
    SECRET,
    TRIALS,
)


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
