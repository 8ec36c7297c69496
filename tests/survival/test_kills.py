"""SIGKILL in every stage of a concept: its work is dealt again, finished, and nothing is done twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.nights.runners import message_of
from tests.survival.conftest import LONG
from tests.survival.watching import engine_of, wait_for
from tests.survival.yard import Yard

pytestmark = [pytest.mark.survival, pytest.mark.timeout(1800)]
Parameters = Callable[..., dict[str, Any]]
RUNNER = "runner-1"


@pytest.fixture(scope="module", autouse=True)
def runner(yard: Yard) -> None:
    yard.start_worker(RUNNER, "esd-gpu")


def has(yard: Yard, pattern: str) -> bool:
    return any(yard.home(RUNNER).glob(pattern))


def is_registering(yard: Yard, concept: str) -> bool:
    """Whether MLflow has the run of a concept, and no version of it yet."""
    client = MlflowClient(yard.address("mlflow"))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`esd.concept` = '{concept}'")
    return bool(runs) and concept not in yard.versions


def is_publishing(yard: Yard, concept: str) -> bool:
    return any(f"-{concept}/" in key for key in yard.keys("releases/"))


# what is erased, how long for, and how its files or servers show that the stage is reached
STAGES: dict[str, tuple[str, dict[str, int], Callable[[Yard], bool]]] = {
    "bank": ("house", LONG, lambda yard: has(yard, "cache/banks/bank-*")),
    "training": ("sun", LONG, lambda yard: has(yard, "jobs/*/checkpoint.safetensors")),
    "evaluation": ("tree", {}, lambda yard: has(yard, "jobs/*/after/*")),
    "registration": ("boat", {}, lambda yard: is_registering(yard, "boat")),
    "publication": ("car", {}, lambda yard: is_publishing(yard, "car")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_engine_killed_in(yard: Yard, parameters: Parameters, stage: str) -> None:
    concept, length, reached = STAGES[stage]
    settings = {**length, "rollout_from": "frozen"}  # what is rolled out is kept in a bank
    night = yard.start_night(parameters(concept, **settings))
    wait_for(lambda: yard.children(night), 120, lambda: yard.story(night))
    first = yard.children(night)[0]
    wait_for(lambda: engine_of(first.id), 120, lambda: yard.story(night))
    engine = engine_of(first.id)
    assert engine
    wait_for(lambda: reached(yard), 300, lambda: yard.story(night), every=0.01)
    os.kill(engine, signal.SIGKILL)
    run = yard.end_of(night)
    assert run.state_name == "Completed", yard.story(night)
    assert [child.state_name for child in yard.children(night)] == ["Crashed", "Completed"]
    begun = ["Crashed"] if stage in ("registration", "publication") else []
    assert [own.state_name for own in yard.children(first.id)] == begun
    assert yard.versions[concept] == [1]
    assert concept in yard.released
    assert len(weights_of(yard, concept)) == 1
    again = yard.end_of(yard.start_night(parameters(concept, **settings)))
    assert "nothing had changed" in message_of(again)
    assert not yard.children(again.id)


def test_an_engine_killed_while_one_is_published_and_the_next_is_trained(yard: Yard, parameters: Parameters) -> None:
    quick, long = parameters("road"), parameters("church", **LONG)
    night = yard.start_night({**quick, "concepts": [*quick["concepts"], *long["concepts"]]})
    wait_for(lambda: is_publishing(yard, "road"), 300, lambda: yard.story(night), every=0.01)
    first = yard.children(night)[0]
    engine = engine_of(first.id)
    assert engine
    os.kill(engine, signal.SIGKILL)
    assert yard.end_of(night).state_name == "Completed", yard.story(night)
    assert [child.state_name for child in yard.children(night)] == ["Crashed", "Completed"]
    assert (yard.versions["road"], yard.versions["church"]) == ([1], [1])
    assert {"road", "church"} <= yard.released
    assert [len(weights_of(yard, concept)) for concept in ("road", "church")] == [1, 1]


def test_what_the_crash_damaged_is_named_and_made_again(yard: Yard, parameters: Parameters) -> None:
    night = yard.start_night(parameters("fish", **LONG, rollout_from="frozen"))
    wait_for(lambda: has(yard, "jobs/*/checkpoint.safetensors"), 300, lambda: yard.story(night))
    engine = engine_of(yard.children(night)[0].id)
    assert engine
    os.kill(engine, signal.SIGKILL)
    (checkpoint,) = yard.home(RUNNER).glob("jobs/*/checkpoint.safetensors")
    newest = max(yard.home(RUNNER).glob("cache/banks/bank-*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in (checkpoint, newest):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert yard.end_of(night).state_name == "Completed", yard.story(night)
    assert yard.said(f"bank {newest} is damaged: it is made again")
    assert yard.said(f"checkpoint {checkpoint} is damaged")
    assert yard.versions["fish"] == [1]


def weights_of(yard: Yard, concept: str) -> list[Path]:
    """Every weights file that the runner made of a concept."""
    outcomes = [path for path in yard.home(RUNNER).glob("jobs/*/outcome.json") if f'"{concept}"' in path.read_text()]
    return [path.with_name("weights.safetensors") for path in outcomes]
