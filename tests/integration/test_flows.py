"""The nightly flow against real servers: Prefect, MLflow on SQLite, S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import raise_state_exception
from prefect.testing.utilities import prefect_test_harness

from esd_core.concept_list import ListMode
from esd_core.concepts import ConceptKind
from esd_core.list_file import load_concept_list
from esd_core.studies.request import Protocol
from esd_core.weights import read_weights
from flows.approve import approve
from flows.nightly import nightly_erasure, parameters
from flows.publish import publish
from flows.study import study
from tasks.approvals import overview
from tasks.nights.jobs import JobFiles
from tasks.nights.night import Night, NightFailed, night_of
from tasks.nights.plan import PlanStatus, plan_tonight
from tasks.records import runs, tracking
from tasks.releases import release
from tasks.settings import Settings
from tests.tiny_night import write_list, write_suite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"))


def run_night(concept_list: Path) -> tuple[State[Any], Night]:
    state = nightly_erasure(**parameters(load_concept_list(concept_list)), return_state=True)
    return state, night_of(state)


def artifact(key: str) -> dict[str, Any]:
    """The latest Prefect artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={"artifacts": {"key": {"any_": [key]}}})
    latest: dict[str, Any] = found.json()[0]
    return latest


def test_a_night_publishes_and_the_next_one_finds_nothing_to_do(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    concept_list = write_list(tmp_path, tiny_base, suite)
    state, night = run_night(concept_list)

    assert state.is_completed()
    assert [row.outcome for row in night.settled] == ["published", "published"]
    for row in night.settled:
        assert row.release
        assert release.verify(row.release) == []
    assert night.report
    report = night.report.read_text(encoding="utf-8")
    assert 'id="house"' in report
    assert "<h3>Against esd-x</h3>" in report
    assert "published" in artifact("night")["data"]
    assert [row.release for row in overview.status()] == [row.release for row in night.settled if row.release]

    weights = [JobFiles.of(settings.jobs_folder, row.planned.job).weights for row in night.settled]
    written = [path.stat().st_mtime_ns for path in weights]
    state, again = run_night(concept_list)
    assert state.is_completed()
    assert [row.status for row in again.settled] == [PlanStatus.UNCHANGED] * 2
    assert [row.version for row in again.settled] == [row.version for row in night.settled]
    assert [path.stat().st_mtime_ns for path in weights] == written
    assert "nothing had changed" in str(state.message)


@pytest.mark.parametrize("mode", [ListMode.JOINT, ListMode.MERGED])
def test_a_list_in_one_model_is_published_without_all_its_concepts(
    mode: ListMode, settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    concept_list = write_list(tmp_path, tiny_base, suite, mode=mode.value)
    state, night = run_night(concept_list)
    assert state.is_completed()
    (row,) = night.settled
    assert (row.concept, row.outcome) == ("house + sun", "published")
    assert row.findings
    assert [probe.concept for probe in row.findings.report.erased] == ["house", "sun"]
    assert [probe.concept for probe in row.findings.report.others] == ["tree"]
    assert row.release
    assert release.verify(row.release) == []
    names = read_weights(JobFiles.of(settings.jobs_folder, row.planned.job).weights).tensors
    assert "conv_in.weight" in names
    assert not any(".attn2." in name for name in names)
    assert plan_tonight(load_concept_list(concept_list)).all_unchanged
    separate = plan_tonight(load_concept_list(write_list(tmp_path, tiny_base, suite)))
    assert [planned.status for planned in separate.jobs] == [PlanStatus.NEW] * 2


def test_what_another_machine_registered_is_recalled_and_reported(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    concept_list = write_list(tmp_path, tiny_base, suite)
    run_night(concept_list)
    settings.jobs_folder.rename(tmp_path / "the other machine")
    state, night = run_night(concept_list)
    assert state.is_completed()
    assert night.report
    assert all(JobFiles.of(settings.jobs_folder, row.planned.job).complete for row in night.settled)
    assert 'id="house"' in night.report.read_text(encoding="utf-8")


def test_a_concept_that_fails_alone_stops_nobody_and_the_night_says_so(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    concept_list = write_list(tmp_path, tiny_base, suite)
    house = plan_tonight(load_concept_list(concept_list)).jobs[0]
    settings.jobs_folder.mkdir(parents=True)
    JobFiles.of(settings.jobs_folder, house.job).folder.write_text("a file where the job's folder should be")

    state, night = run_night(concept_list)
    assert state.is_failed()
    assert state.message == "2 concepts: 1 failed, 1 published"
    with pytest.raises(NightFailed, match="1 failed"):  # as a worker's process ends
        raise_state_exception(state)
    assert [row.outcome for row in night.settled] == ["failed", "published"]
    assert "File exists" in str(night.settled[0].error)

    JobFiles.of(settings.jobs_folder, house.job).folder.unlink()
    state, night = run_night(concept_list)
    assert state.is_completed()
    assert [row.status for row in night.settled] == [PlanStatus.NEW, PlanStatus.UNCHANGED]


def check_runs(night: Night) -> None:
    """The MLflow runs of a night lie under one, and say what the machine did; they and Prefect lead to each other."""
    client = tracking.client()
    found = client.search_runs([runs.experiment_of(client, night.base)])
    assert [e.name for e in client.search_experiments()] == [
        "concept erasure: " + runs.base_name(night.base),
        "Default",
    ]
    (parent,) = (run for run in found if "esd.night" in run.data.tags)
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    registered = {row.findings.version.run_id for row in night.settled if row.findings}
    assert {run.info.run_id for run in children} == registered
    assert parent.info.status == "FINISHED"
    assert all(run.data.tags["esd.prefect"] for run in children)
    assert all(run.data.tags["esd.prefect"] in run.data.tags["mlflow.note.content"] for run in children)
    assert all(run.data.metrics["system/cpu_utilization_percentage"] >= 0 for run in children)
    assert parent.data.tags["esd.prefect"].endswith(parent.data.tags["esd.night"])
    for row in night.settled:
        assert row.version in artifact(f"grid-{row.planned.slug}")["description"].replace(" version", "")


def test_what_the_gates_refuse_waits_for_a_person(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    concept_list = write_list(tmp_path, tiny_base, suite, erased_at_most=0.5)
    state, night = run_night(concept_list)
    assert state.is_completed()
    assert [row.outcome for row in night.settled] == ["gates not passed", "gates not passed"]
    assert not any(row.release for row in overview.status())
    check_runs(night)

    findings = night.settled[0].findings
    assert findings
    version = findings.version
    approve(version.model, version.version, by="Ada", reason="looked at the grid", override=True)
    uri = publish(version.model, version.version)
    assert release.verify(uri) == []
    assert settings.s3_bucket in uri

    _, again = run_night(concept_list)
    assert [row.outcome for row in again.settled] == ["published", "gates not passed"]


def test_other_gates_redo_the_verdict_and_nothing_else(
    settings: Settings, tiny_base: Path, suite: Path, tmp_path: Path
) -> None:
    _, night = run_night(write_list(tmp_path, tiny_base, suite, erased_at_most=0.5))
    assert [row.outcome for row in night.settled] == ["gates not passed", "gates not passed"]
    made = {
        path: path.stat().st_mtime_ns for path in settings.home.rglob("*") if path.suffix in (".safetensors", ".png")
    }
    assert made

    _, night = run_night(write_list(tmp_path, tiny_base, suite, erased_at_most=1.0))
    assert [row.tonight for row in night.settled] == ["skipped", "skipped"]
    assert [row.outcome for row in night.settled] == ["published", "published"]
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())


def test_a_study_shows_its_tables_and_charts(settings: Settings, tiny_base: Path, suite: Path) -> None:
    measured: dict[str, Any] = {"base": str(tiny_base), "suite": str(suite), "images": 2, "others": 1}
    erased: dict[str, Any] = {"concepts": ["house"], "kind": ConceptKind.OBJECT, "iterations": 2, "learning_rate": 1e-4}
    folder = study(Protocol.ETA, etas=[1, 2], **measured, **erased)
    assert folder.parent == settings.home / "studies"
    assert (folder / "study.html").is_file()
    assert "| η 2 |" in artifact("study-eta")["data"]
    assert artifact("eta")["data"].startswith("data:image/webp")
