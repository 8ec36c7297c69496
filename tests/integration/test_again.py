"""What is done again: a whole list because a person asks for it, a step because memory ran out, an evaluation."""

from __future__ import annotations

import logging
import multiprocessing
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from esd_core.list_file import load_concept_list
from flows.cli import main
from flows.evaluate import evaluate
from flows.nightly import nightly_erasure, parameters
from tasks.nights.jobs import JobFiles
from tasks.nights.night import Night
from tasks.nights.plan import PlanStatus, plan_tonight
from tasks.records import registry, tracking
from tasks.s3.storage import Bucket
from tasks.settings import Settings
from tests.tiny_night import QUICK, write_list, write_suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"))


def run_night(**given: Any) -> Night:
    state: State[Any] = nightly_erasure(**given, return_state=True)
    assert state.is_completed(), state.message
    return Night.model_validate(state.result())


def made(settings: Settings, night: Night) -> dict[Path, int]:
    """Every weights file of a night, and when it was written."""
    files = [JobFiles.of(settings.jobs_folder, row.planned.job).weights for row in night.settled]
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_forced_night_does_all_again_and_what_came_out_the_same_is_no_other_version(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    wanted = parameters(load_concept_list(write_list(tmp_path, tiny_base, suite)))
    first = run_night(**wanted)
    written = made(settings, first)
    again = run_night(**wanted, force=True)
    assert [row.planned.changes for row in again.settled] == [("done again, as asked",)] * 2
    assert [row.version for row in again.settled] == [row.version for row in first.settled]
    assert all(when > written[path] for path, when in made(settings, again).items())
    assert [row.status for row in run_night(**wanted).settled] == [PlanStatus.UNCHANGED] * 2


def test_what_came_out_otherwise_becomes_another_version_and_the_first_stays_as_it_was(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    path = write_list(tmp_path, tiny_base, suite)
    wanted = parameters(load_concept_list(path))
    first = [row.planned.version for row in run_night(**wanted).settled]
    again = run_night(**{**wanted, "images_per_probe": 3, "sequential": False}, force=True)
    assert [row.outcome for row in again.settled] == ["published"] * 2
    assert [row.version.rpartition(" ")[2] for row in again.settled] == ["2", "2"]
    for version in first:
        assert version
        assert registry.download_artifacts(version, tmp_path / version.model).keys() == version.files.keys()
    assert [planned.version and planned.version.version for planned in plan_tonight(load_concept_list(path)).jobs] == [
        2,
        2,
    ]
    assert settings.jobs_folder.is_dir()


def test_a_runner_that_follows_one_of_the_same_night_goes_on_where_it_was(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "job")
    files.start_over("this night")
    files.weights.write_text("half of the work")
    files.start_over("this night")
    assert files.weights.is_file()
    files.start_over("the next night")
    assert not files.weights.exists()


@contextmanager
def little_memory_until_the_retry(megabytes: int) -> Iterator[list[str]]:
    """This process cannot have more memory than it has and so much, until a task says that it tries again."""
    said: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    class Lift(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Retry 1/1" in record.getMessage():
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
                said.append(record.getMessage())

    size = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    lift = Lift()
    logging.getLogger("prefect.task_runs").addHandler(lift)
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 10**6, hard))
    try:
        yield said
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        logging.getLogger("prefect.task_runs").removeHandler(lift)


def night_with_little_memory(suite: str) -> tuple[list[str], list[str]]:
    """What was said of retries, and the outcomes. The batch of 64 takes 700 MB, all else less than 300."""
    import esd_core.erasure  # noqa: F401 - its libraries take memory too, once

    house = {"name": "house", "kind": "object", **QUICK, "batch_size": 64, "iterations": 1}
    gates = {"erased_at_most": 1.0, "others_drop_at_most": 1.0}
    with little_memory_until_the_retry(450) as said:
        night = run_night(concepts=(house,), suite=suite, images_per_probe=1, approval="gates", **gates)
    return said, [row.outcome for row in night.settled]


@pytest.mark.usefixtures("settings")
def test_a_step_that_ran_out_of_memory_is_tried_once_more(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: one that has worked before has memory at hand that no limit takes from it."""
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # else every thread takes 64 MB more of what is limited
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
        (once,), outcomes = own.submit(night_with_little_memory, str(suite)).result()
    assert "out of memory" in once
    assert outcomes == ["published"]


def test_a_list_in_s3_is_read_by_a_night(
    bucket: Bucket, settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    path = write_list(tmp_path, tiny_base, suite)
    bucket.put("lists/tonight.yaml", path.read_bytes())
    night = run_night(concept_list=f"s3://{settings.s3_bucket}/lists/tonight.yaml")
    assert [row.outcome for row in night.settled] == ["published", "published"]
    state: State[Any] = nightly_erasure(concept_list=f"s3://{settings.s3_bucket}/none.yaml", return_state=True)
    assert f"there is no concept list at s3://{settings.s3_bucket}/none.yaml" in str(state.message)


def test_the_command_plans_a_list_in_s3(
    bucket: Bucket,
    settings: Settings,
    tiny_base: Path,
    suite: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bucket.put("tonight.yaml", write_list(tmp_path, tiny_base, suite).read_bytes())
    assert main(["run", f"s3://{settings.s3_bucket}/tonight.yaml", "--dry-run", "--force"]) == 0
    assert "2 new" in capsys.readouterr().out
    assert main(["run", f"s3://{settings.s3_bucket}/none.yaml"]) == 2
    assert f"there is no concept list at s3://{settings.s3_bucket}/none.yaml" in capsys.readouterr().err


def test_a_version_is_measured_anew_by_another_suite_and_stays_as_it_was(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    (house, _) = run_night(**parameters(load_concept_list(write_list(tmp_path, tiny_base, suite)))).settled
    version = house.planned.version
    assert version
    (tmp_path / "other").mkdir()
    other = write_suite(tmp_path / "other", ("house", "boat"))
    run = evaluate(version.model, version.version, suite=str(other), images_per_probe=3, sequential=False)
    found = tracking.client().get_run(run)
    assert found.data.tags["esd.evaluates"] == f"{version.model} {version.version}"
    assert {name.rpartition("/")[2] for name in found.data.metrics} >= {"erased_after", "others_after"}
    assert registry.get_version(version.model, version.version) == version
    assert settings.home.is_dir()
