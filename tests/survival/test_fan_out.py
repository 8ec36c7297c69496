"""A night on two runners that share no disk with it, nor with each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tests.survival.conftest import LONG
from tests.survival.watching import engine_of, loads_torch, wait_for
from tests.survival.yard import Yard

pytestmark = [pytest.mark.survival, pytest.mark.timeout(1800)]
Parameters = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def runners(yard: Yard) -> None:
    for name in ("runner-1", "runner-2"):
        yard.start_worker(name, "esd-gpu")


def table(yard: Yard) -> dict[str, dict[str, str]]:
    """The night's table as Prefect shows it, by concept."""
    return {row["concept"]: row for row in json.loads(yard.artifacts("night")[0]["data"])}


def test_two_runners_share_a_night_and_the_parent_loads_no_torch(yard: Yard, parameters: Parameters) -> None:
    (yard.home("runner-1") / "jobs").mkdir(parents=True)
    night = yard.start_night(parameters("house", "sun", "tree", "boat", runners=2))
    wait_for(lambda: engine_of(night), 60, lambda: yard.story(night))
    parent, ours, theirs = engine_of(night), False, False
    assert parent
    while not yard.ended(night):
        ours |= loads_torch(parent)
        theirs |= any(loads_torch(pid) for child in yard.children(night) if (pid := engine_of(child.id)))
    assert yard.end_of(night).state_name == "Completed", yard.story(night)
    assert theirs
    assert not ours
    children = yard.children(night)
    assert [len(child.parameters["concepts"]) for child in children] == [2, 2]
    assert yard.versions == {name: [1] for name in ("house", "sun", "tree", "boat")}
    assert yard.released == {"house", "sun", "tree", "boat"}
    rows = table(yard)
    assert {row["tonight"] for row in rows.values()} == {"done"}
    assert {row["outcome"] for row in rows.values()} == {"published"}
    made = {name: len(list(yard.home(name).glob("jobs/*/weights.safetensors"))) for name in ("runner-1", "runner-2")}
    assert made == {"runner-1": 2, "runner-2": 2}
    link = yard.artifacts("report")[0]["data"]
    assert yard.address("mlflow") in link
    assert link.endswith("/artifacts/report.html)")
    report = (yard.home("nights") / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in report for name in rows)


def test_a_command_deals_its_work_to_the_runners(yard: Yard, parameters: Parameters, tmp_path: Path) -> None:
    given = parameters("star", "church", runners=2)
    gates = {name: given.pop(name) for name in ("erased_at_most", "others_drop_at_most")}
    runners = given.pop("runners")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({**given, "gates": gates}))
    command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "list.yaml"), "--runners", str(runners)]
    environment = {**yard.environment, "ESD_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2 concepts: 2 published" in done.stdout
    assert {"star", "church"} <= yard.released
    assert not list((tmp_path / "home").glob("jobs/*/weights.safetensors"))


def test_what_a_dead_runner_had_not_finished_is_dealt_again(yard: Yard, parameters: Parameters) -> None:
    quick, long = parameters("car"), parameters("fish", **LONG)
    both = {**quick, "concepts": [*quick["concepts"], *long["concepts"]]}
    night = yard.start_night(both)
    wait_for(lambda: "car" in yard.versions and yard.children(night), 120, lambda: yard.story(night))
    (first,) = yard.children(night)
    (car,) = yard.children(first.id)
    yard.end_of(car.id, 60)
    engine = engine_of(first.id)
    assert engine
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: len(yard.children(night)) == 2, 60, lambda: yard.story(night))
    first, second = yard.children(night)
    assert first.state_name == "Crashed"
    assert [row["name"] for row in second.parameters["concepts"]] == ["fish"]
    assert yard.end_of(night, 600).state_name == "Completed", yard.story(night)
    assert (yard.versions["car"], yard.versions["fish"]) == ([1], [1])


def test_a_registered_version_is_measured_anew_by_a_runner(yard: Yard, parameters: Parameters, suite: Path) -> None:
    night = yard.start_night(parameters("car"))
    assert yard.end_of(night).state_name == "Completed", yard.story(night)
    mlflow = MlflowClient(yard.address("mlflow"))
    (version,) = (v for v in mlflow.search_model_versions() if v.tags["esd.concept"] == "car")
    strict = {"suite": str(suite), "images_per_probe": 3, "erased_at_most": 0.5}
    asked = {"model": version.name, "version": int(version.version), **strict}
    run = yard.start("evaluate/evaluate", asked)
    assert yard.end_of(run).state_name == "Completed", yard.story(run)
    assert "gates not passed" in yard.artifacts("grid-car")[0]["description"]
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    (found,) = mlflow.search_runs(experiments, f"tags.`esd.evaluates` = '{version.name} {version.version}'")
    assert found.data.metrics["erased_after"] == 1.0
    assert {item.path for item in mlflow.list_artifacts(found.info.run_id)} == {"evaluation.json", "grid.png"}
    assert mlflow.get_model_version(version.name, version.version).tags == version.tags


def test_a_study_is_done_by_a_runner(yard: Yard, tiny_base: Path, suite: Path) -> None:
    erased = {"concepts": ["house"], "kind": "object", "iterations": 3, "learning_rate": 2e-4, "etas": [1, 2]}
    measured = {"base": str(tiny_base), "suite": str(suite), "images": 2, "others": 2}
    run = yard.start("study/study", {"protocol": "eta", **erased, **measured})
    assert yard.end_of(run).state_name == "Completed", yard.story(run)
    assert "| η 2 |" in yard.artifacts("study-eta")[0]["data"]
    (page,) = yard.folder.glob("home of */studies/eta-*/study.html")
    assert "η" in page.read_text(encoding="utf-8")


def test_a_bad_concept_fails_alone_and_the_night_says_so(yard: Yard, parameters: Parameters) -> None:
    night = parameters("road", "house", runners=2)
    night["concepts"][0]["learning_rate"] = 1.0
    night["concepts"][0]["iterations"] = 60
    run = yard.end_of(yard.start_night(night))
    assert run.state_name == "Failed"
    rows = table(yard)
    assert (rows["road"]["tonight"], rows["house"]["tonight"]) == ("failed", "skipped")
    assert "loss" in rows["road"]["why"]
    assert "1 failed" in str(run.state and run.state.message)
