"""The MLflow run of a job: what it was taught and measured with, and what the machine did meanwhile."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow.entities import Dataset

from esd_core import digest
from tasks.nights.night_record import keep_report
from tasks.records import system_metrics, tracking
from tasks.records.system_metrics import SAMPLES, watched
from tasks.settings import Settings
from tests.integration.conftest import Made

Make = Callable[..., Made]


def inputs_of(run: str) -> dict[str, Dataset]:
    """By what they are for."""
    inputs = tracking.client().get_run(run).inputs
    assert inputs
    return {given.tags[0].value: given.dataset for given in inputs.dataset_inputs}


@pytest.mark.usefixtures("settings")
def test_a_run_names_what_it_was_taught_and_measured_with(make: Make) -> None:
    made = make()
    found = inputs_of(made.register().run_id)
    assert found.keys() == {"training", "evaluation"}
    assert found["evaluation"].digest == made.report.suite_digest[:36]
    assert made.report.suite_digest in found["evaluation"].source
    taught = digest.of_json([concept.model_dump(mode="json") for concept in made.job.concepts])
    assert taught in found["training"].source
    assert inputs_of(make(seed=1).register().run_id) == found  # another recipe, the same prompts
    assert inputs_of(make("car").register().run_id)["training"] != found["training"]


@pytest.mark.usefixtures("settings")
def test_a_run_shows_what_the_machine_did(make: Make) -> None:
    made = make()
    folder, started = made.files["history.jsonl"].parent, time.time()
    with watched(folder, pause=0.05):
        busy = time.process_time() + 0.3
        while time.process_time() < busy:
            pass
    run = made.register().run_id
    client, prefix = tracking.client(), "system/"
    seen = {name: value for name, value in client.get_run(run).data.metrics.items() if name.startswith(prefix)}
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert 0 < seen["system/system_memory_usage_megabytes"] < installed
    assert 0 <= seen["system/cpu_utilization_percentage"] <= 100  # a sandbox whose /proc/stat stands still shows 0
    samples = client.get_metric_history(run, "system/cpu_utilization_percentage")
    assert [sample.step for sample in samples] == list(range(len(samples)))
    assert len(samples) > 1  # along the way, however loaded the machine
    assert all(started <= sample.timestamp / 1000 <= time.time() for sample in samples)


@pytest.mark.usefixtures("settings")
def test_what_a_killed_attempt_saw_is_kept_and_its_last_line_may_be_cut(make: Make) -> None:
    made = make()
    folder = made.files["history.jsonl"].parent
    for _ in range(2):
        with watched(folder):
            pass
    whole = (folder / SAMPLES).read_bytes()
    (folder / SAMPLES).write_bytes(whole + whole[:40])
    assert {metric.step for metric in system_metrics.metrics_of(folder)} == {0, 1}
    made.register()


def test_watching_ends_with_the_work_also_when_that_fails(make: Make) -> None:
    folder = make().files["history.jsonl"].parent
    with pytest.raises(ZeroDivisionError), watched(folder, pause=0.01):
        print(1 / 0)
    size = (folder / SAMPLES).stat().st_size
    time.sleep(0.1)
    assert (folder / SAMPLES).stat().st_size == size > 0


@pytest.mark.parametrize("password", ["", "somebody:secret@"])
def test_a_nights_report_and_its_concepts_are_found_together_and_no_password_in_links(
    settings: Settings,
    fresh_settings: Callable[..., Settings],
    mlflow_address: str,
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
) -> None:
    assert not settings.mlflow_is_server
    importlib.import_module("prefect.flows")  # as in any flow run
    night = str(uuid4())
    for name, value in {"id": str(uuid4()), "root_flow_run_id": night, "ui_url": "http://prefect/runs"}.items():
        monkeypatch.setenv(f"PREFECT__RUNTIME__FLOW_RUN__{name.upper()}", value)
    fresh_settings(mlflow_tracking_uri=mlflow_address.replace("//", f"//{password}"))
    version = make("moon", seed=len(password)).register()
    (tmp_path / "report.html").write_text("<!doctype html>")
    place = keep_report(tmp_path / "report.html", "miniature", "night of 2026-11-23")
    client = tracking.client()
    parent = client.get_run(client.get_run(version.run_id).data.tags["mlflow.parentRunId"])
    assert (parent.info.run_name, parent.data.tags["esd.night"]) == ("night of 2026-11-23", night)
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.name == "concept erasure: miniature"
    run = f"experiments/{experiment.experiment_id}/runs/{parent.info.run_id}"
    assert place == f"{mlflow_address}/#/{run}/artifacts/report.html"
    assert version.page == f"{mlflow_address}/#/models/{version.model}/versions/{version.version}"
