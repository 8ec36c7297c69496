"""Servers that go away for a minute, machines that vanish, people who cancel, nights that meet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.nights.runners import message_of
from tests.survival.conftest import LONG
from tests.survival.watching import engine_of, wait_for
from tests.survival.yard import Yard

pytestmark = [pytest.mark.survival, pytest.mark.timeout(1800)]
Parameters = Callable[..., dict[str, Any]]
RUNNER = "runner-1"
LONGER = {**LONG, "iterations": 600}
AWAY = 60.0  # seconds
A_STEP = 1.0  # seconds that a training step takes at most here


@pytest.fixture(scope="module", autouse=True)
def runner(yard: Yard) -> None:
    yard.start_worker(RUNNER, "esd-gpu")


def is_training(yard: Yard) -> bool:
    return any(yard.home(RUNNER).glob("jobs/*/checkpoint.safetensors"))


def test_mlflow_and_s3_away_for_a_minute_are_waited_for(yard: Yard, parameters: Parameters) -> None:
    night = yard.start_night(parameters("house", **LONG))
    wait_for(lambda: is_training(yard), 300, lambda: yard.story(night))
    yard.stop_server("mlflow")
    yard.stop_server("s3")
    began = time.monotonic()
    wait_for(lambda: any(yard.home(RUNNER).glob("jobs/*/report.html")), 200, lambda: yard.story(night))
    time.sleep(max(0.0, began + AWAY - time.monotonic(), 15))  # at least so long into the registration
    yard.start_servers("mlflow", "s3")
    assert yard.end_of(night).state_name == "Completed", yard.story(night)
    assert (yard.versions["house"], yard.released) == ([1], {"house"})
    assert len(yard.children(night)) == 1


def test_a_prefect_server_that_restarts_is_waited_for(yard: Yard, parameters: Parameters) -> None:
    night = yard.start_night(parameters("sun", "tree", **LONG))
    wait_for(lambda: is_training(yard), 300, lambda: yard.story(night))
    yard.stop_server("prefect")
    time.sleep(15)
    yard.start_servers("prefect")
    assert yard.end_of(night).state_name == "Completed", yard.story(night)
    assert (yard.versions["sun"], yard.versions["tree"]) == ([1], [1])


def test_two_nights_at_once_and_a_cancelled_one_stops_soon_and_is_resumed(yard: Yard, parameters: Parameters) -> None:
    night = yard.start_night(parameters("boat", **LONGER))
    wait_for(lambda: is_training(yard), 300, lambda: yard.story(night))
    second = yard.end_of(yard.start_night(parameters("boat", **LONGER)))
    assert second.state_name == "Cancelled"
    (child,) = yard.children(night)
    engine = engine_of(child.id)
    assert engine
    yard.cancel(night)
    began = time.monotonic()
    wait_for(lambda: not engine_of(child.id), 60, lambda: yard.story(night))
    took = time.monotonic() - began
    print(f"cancelled: its runner had ended after {took:.1f} s")
    assert yard.end_of(night).state_name == "Cancelled"
    assert yard.end_of(child.id).state_name == "Cancelled"
    assert took < 10 + A_STEP, took
    assert "boat" not in yard.versions
    again = yard.end_of(yard.start_night(parameters("boat", **LONGER)))
    assert again.state_name == "Completed", yard.story(again.id)
    assert yard.said("continuing boat from step")
    assert yard.versions["boat"] == [1]


def test_what_was_being_published_when_its_night_was_cancelled_is_whole_in_the_end(
    yard: Yard, parameters: Parameters
) -> None:
    quick, long = parameters("star"), parameters("church", **LONGER)
    both = {**quick, "concepts": [*quick["concepts"], *long["concepts"]]}
    night = yard.start_night(both)
    wait_for(lambda: any("-star/" in key for key in yard.keys("releases/")), 300, lambda: yard.story(night), every=0.01)
    (child,) = yard.children(night)
    yard.cancel(night)
    began = time.monotonic()
    wait_for(lambda: not engine_of(child.id), 60, lambda: yard.story(night))
    assert time.monotonic() - began < 10 + A_STEP
    assert yard.end_of(night).state_name == "Cancelled"
    again = yard.end_of(yard.start_night(both))
    assert again.state_name == "Completed", yard.story(again.id)
    assert (yard.versions["star"], yard.versions["church"]) == ([1], [1])
    assert {"star", "church"} <= yard.released


def test_a_second_night_waits_where_its_deployment_says_so(yard: Yard, parameters: Parameters) -> None:
    yard.let_nights_collide("ENQUEUE")
    first = yard.start_night(parameters("road", **LONG))
    wait_for(lambda: is_training(yard), 300, lambda: yard.story(first))
    second = yard.start_night(parameters("road", **LONG))
    wait_for(lambda: yard.run(second).state_name == "AwaitingConcurrencySlot", 30, lambda: yard.story(second))
    assert yard.end_of(first).state_name == "Completed", yard.story(first)
    assert "nothing had changed" in message_of(yard.end_of(second))
    assert yard.versions["road"] == [1]
    yard.let_nights_collide("CANCEL_NEW")


def test_a_runner_that_vanishes_with_its_worker_is_noticed_within_two_minutes(
    yard: Yard, parameters: Parameters
) -> None:
    night = yard.start_night(parameters("car", **LONG))
    wait_for(lambda: is_training(yard), 300, lambda: yard.story(night))
    yard.kill_worker(RUNNER)
    yard.kill_worker("nights")  # the night itself too
    began = time.monotonic()
    (child,) = yard.children(night)
    for run in (night, child.id):
        assert yard.end_of(run).state_name == "Crashed"
    assert time.monotonic() - began < 120
    for name, pool in (("nights", "esd"), (RUNNER, "esd-gpu")):
        yard.start_worker(name, pool)
    again = yard.end_of(yard.start_night(parameters("car", **LONG)))  # its slot is free
    assert again.state_name == "Completed", yard.story(again.id)
    assert yard.versions["car"] == [1]


def test_what_a_dead_nights_runner_is_still_at_is_waited_for(yard: Yard, parameters: Parameters) -> None:
    night = yard.start_night(parameters("fish", **LONGER))
    wait_for(lambda: is_training(yard), 300, lambda: yard.story(night))
    yard.kill_worker("nights")
    yard.end_of(night)
    yard.start_worker("nights", "esd")
    again = yard.start_night(parameters("fish", **LONGER))
    assert yard.end_of(again).state_name == "Completed", yard.story(again)
    assert not yard.children(again)
    assert yard.versions["fish"] == [1]
