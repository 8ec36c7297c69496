"""The MLflow registry on SQLite, and once over HTTP: a job is registered wholly, once, or not at all."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.orm import Session

from esd_core import digest
from esd_core.errors import RegistryError, ServiceUnavailable
from infra.processes import free_port
from tasks.records import registry, runs, tracking
from tasks.records.registry import RegisteredVersion
from tasks.settings import Settings
from tests.integration.conftest import Made

Make = Callable[..., Made]
ADDED = {"verdict.json", "MLmodel", "input_example.json"}


def _client(settings: Settings) -> MlflowClient:
    return MlflowClient(tracking_uri=settings.mlflow_tracking_uri, registry_uri=settings.mlflow_tracking_uri)


def test_a_version_carries_all_an_auditor_needs(settings: Settings, make: Make) -> None:
    made = make()
    version = made.register()
    entry = _client(settings).get_model_version(version.model, "1")
    run = _client(settings).get_run(version.run_id)

    assert (version.model, version.version, version.passed) == ("esd-miniature-sun", 1, True)
    assert version.job == made.job
    assert version.weights_digest == digest.of_file(made.files["weights.safetensors"])
    assert entry.status == "READY"
    assert entry.aliases == ["candidate"]
    assert entry.description
    assert "| **sun, implied** | 20 | 95.0% | 5.0% (1% to 24%) |" in entry.description
    assert "| a \\| b, c | 20 | 100.0% | 95.0% (76% to 99%) |" in entry.description
    assert "all gates passed" in entry.description

    assert run.info.status == "FINISHED"
    assert run.data.params["subset"] == "esd-u"
    assert run.data.metrics["erased_after"] == pytest.approx(0.05)
    assert run.data.metrics["before/sun implied"] == pytest.approx(0.95)
    assert run.data.metrics["unet_evaluations"] == 1234
    assert run.data.metrics["tuned/sun/learning_rate"] == pytest.approx(2e-4)
    looks = _client(settings).get_metric_history(version.run_id, "tuned/sun/remainder")
    assert [(look.step, look.value) for look in looks] == [(60, -0.1)]
    losses = _client(settings).get_metric_history(version.run_id, "loss")
    assert [point.step for point in losses] == list(range(1, 1201))
    names = {item.path for item in _client(settings).list_artifacts(version.run_id)}
    assert names == {*made.files, *ADDED}


def test_a_job_is_found_by_its_digest(settings: Settings, make: Make) -> None:
    made = make()
    assert registry.find_version(made.job.digest) is None
    version = made.register()
    assert registry.find_version(made.job.digest) == version == registry.get_version(version.model, 1)
    assert registry.list_versions() == [version]
    assert version.artifacts.startswith(settings.artifacts_folder.as_uri())


@pytest.mark.usefixtures("settings")
def test_registering_twice_changes_nothing(make: Make) -> None:
    made = make()
    assert made.register() == made.register()
    client = tracking.client()
    assert len(client.search_runs([runs.experiment_of(client, "miniature")])) == 1
    assert len(registry.list_versions()) == 1


@pytest.mark.usefixtures("settings")
def test_each_job_of_a_concept_is_a_version_and_the_newest_is_the_candidate(make: Make) -> None:
    first, second = make(seed=1), make(seed=2)
    assert [first.register().version, second.register().version, first.register().version] == [1, 2, 1]
    assert int(tracking.client().get_model_version_by_alias("esd-miniature-sun", "candidate").version) == 2


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("crash_in", ["log_artifact", "set_terminated", "create_model_version"])
def test_a_crash_leaves_no_half_version_and_the_next_attempt_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch, crash_in: str
) -> None:
    made = make()
    with monkeypatch.context() as crash:
        crash.setattr(MlflowClient, crash_in, lambda *_args, **_kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.register()
    assert registry.find_version(made.job.digest) is None
    assert registry.list_versions() == []

    version = made.register()
    client = tracking.client()
    assert [run.info.run_id for run in client.search_runs([runs.experiment_of(client, "miniature")])] == [
        version.run_id
    ]
    assert version.version == 1
    assert len(client.get_metric_history(version.run_id, "loss")) == 1200


@pytest.mark.usefixtures("settings")
def test_a_crash_before_the_alias_is_made_good(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make()
    with monkeypatch.context() as crash:
        crash.setattr(registry, "mark", lambda *_args, **_kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.register()
    made.register()
    assert int(tracking.client().get_model_version_by_alias("esd-miniature-sun", "candidate").version) == 1


@pytest.fixture
def collision() -> Iterator[None]:
    """The first two writes to the database have both looked before either of them writes."""
    meeting = threading.Barrier(2)
    met = itertools.count()

    def wait(*_: object) -> None:
        if next(met) < 2:
            meeting.wait(timeout=30)

    event.listen(Session, "before_flush", wait)
    yield
    event.remove(Session, "before_flush", wait)


@pytest.mark.parametrize(
    "write",
    [
        lambda version: registry.mark(version, alias="approved"),
        lambda version: registry.mark(version, {"esd.approval": "approved"}),
        lambda version: tracking.delete_alias(version.model, "candidate"),
    ],
    ids=["alias", "tag", "alias taken away"],
)
def test_two_who_write_the_same_at_once_both_succeed(
    settings: Settings, make: Make, request: pytest.FixtureRequest, write: Callable[[RegisteredVersion], None]
) -> None:
    version = make().register()
    request.getfixturevalue("collision")
    with ThreadPoolExecutor(2) as people:
        list(people.map(write, [version, version]))
    entry = _client(settings).get_model_version(version.model, "1")
    if "esd.approval" in entry.tags:
        assert entry.tags["esd.approval"] == "approved"
    else:
        assert sorted(entry.aliases) in (["approved", "candidate"], [])


@pytest.mark.usefixtures("settings")
def test_files_of_another_job_are_refused(make: Make) -> None:
    made, other = make(seed=1), make(seed=2)
    made.files["weights.safetensors"] = other.files["weights.safetensors"]
    with pytest.raises(RegistryError, match="is not what was made and evaluated"):
        made.register()
    del made.files["grid.png"]
    with pytest.raises(RegistryError, match=r"missing grid\.png"):
        made.register()
    assert registry.list_versions() == []


@pytest.mark.usefixtures("settings")
def test_artifacts_come_back_checked(make: Make, tmp_path: Path) -> None:
    made = make()
    version = made.register()
    files = registry.download_artifacts(version, tmp_path / "whole")
    assert set(files) == {*made.files, *ADDED}
    assert all(files[name].read_bytes() == path.read_bytes() for name, path in made.files.items())
    stored = Path(version.artifacts.removeprefix("file://")) / "weights.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(RegistryError, match=r"weights\.safetensors of esd-miniature-sun version 1 was altered"):
        registry.download_artifacts(version, tmp_path / "altered")
    assert {path.name for path in (tmp_path / "altered").iterdir()} <= set(files) - {"weights.safetensors"}
    assert registry.download_artifacts(version, tmp_path / "whole") == files  # what is there is not fetched again
    stored.unlink()
    with pytest.raises(RegistryError, match=r"weights\.safetensors of .* is missing"):
        registry.download_artifacts(version, tmp_path / "missing")


def test_what_others_registered_is_not_ours(settings: Settings, make: Make) -> None:
    client = _client(settings)
    client.create_registered_model("esd-miniature-sun")
    client.create_model_version("esd-miniature-sun", str(settings.home))
    with pytest.raises(RegistryError, match="was not registered by this system"):
        registry.get_version("esd-miniature-sun", 1)
    assert make().register().version == 2
    assert [version.version for version in registry.list_versions()] == [2]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("model", "version"), [("nothing", 1), ("esd-miniature-sun", 7), ("esd-miniature-sun", 10**20)]
)
def test_an_unknown_version_is_one_line(make: Make, model: str, version: int) -> None:
    make().register()
    with pytest.raises(RegistryError, match=f"^{model} has no version {version}: `esd status` lists what there is$"):
        registry.get_version(model, version)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_down_is_named_at_once(fresh_settings: Callable[..., Settings], scheme: str) -> None:
    fresh_settings(mlflow_tracking_uri=f"{scheme}://somebody:secret@127.0.0.1:{free_port()}/db")
    started = time.monotonic()
    with pytest.raises(
        ServiceUnavailable, match=rf"MLflow at {scheme}\S*://127\.0\.0\.1:\d+/db does not answer"
    ) as caught:
        registry.find_version("0" * 64)
    assert time.monotonic() - started < 20  # imports included
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_over_http(
    settings: Settings, fresh_settings: Callable[..., Settings], mlflow_address: str, make: Make, tmp_path: Path
) -> None:
    assert settings.mlflow_tracking_uri.startswith("sqlite:")
    fresh_settings(mlflow_tracking_uri=mlflow_address)
    made = make(seed=3)
    version = made.register()
    assert version == made.register()
    assert version.page == f"{mlflow_address}/#/models/esd-miniature-sun/versions/1"
    registry.mark(version, {"esd.note": "x"}, alias="approved")
    tracking.delete_alias(version.model, "approved")
    assert tracking.client().get_model_version(version.model, "1").aliases == ["candidate"]
    assert set(registry.download_artifacts(version, tmp_path / "files")) == {*made.files, *ADDED}
    with pytest.raises(RegistryError, match="has no version 9"):
        registry.get_version(version.model, 9)


def test_a_joint_job_of_many_concepts_is_registered(make: Callable[..., Made]) -> None:
    """More settings than MLflow takes in one request."""
    names = tuple(f"thing {number}" for number in range(12))
    version = make(names).register()
    params = tracking.client().get_run(version.run_id).data.params
    assert {params[f"{erasure.concept.slug}.name"] for erasure in version.job.erasures} == set(names)
    assert version.job.concepts == make(names, after=2).job.concepts
    assert version.model.startswith("esd-miniature-joint-")
