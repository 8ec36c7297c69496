"""Real servers for the tests: ministack over HTTP once per session, MLflow on a fresh SQLite database per test."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import boto3
import numpy as np
import pytest
from safetensors.numpy import save_file

from esd_core import digest
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.evaluation.gates import Gates, Verdict, judge
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.recipe import ParameterSubset, Recipe
from esd_core.tuning import Check, Tuned
from infra.local_stack import embedded_s3
from infra.processes import free_port, locked, start, stop, wait_until_healthy
from infra.servers import mlflow_server
from tasks.approvals import approval
from tasks.records import registering
from tasks.records.registry import RegisteredVersion
from tasks.releases.release import publish
from tasks.s3.storage import Bucket, open_bucket
from tasks.settings import Settings, get_settings

if TYPE_CHECKING:
    from esd_core.erasure import ErasureOutcome

LOOK = Check(step=60, total=60, eta=1.0, remainder=-0.1, interference=0.4, settled=True)
TUNED = Tuned(concept="sun", learning_rate=2e-4, negative_guidance=1.0, iterations=60, reason="gone", checks=(LOOK,))


@dataclass(frozen=True)
class Made:
    """What an erasure and its evaluation hand to the registry."""

    job: ErasureJob
    outcome: ErasureOutcome
    report: EvaluationReport
    verdict: Verdict
    files: dict[str, Path]

    def register(self) -> RegisteredVersion:
        return registering.register_version(self.job, self.outcome, self.report, self.verdict, self.files)


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server over HTTP, on this machine only."""
    with embedded_s3(Settings(home=tmp_path_factory.mktemp("s3-home"))) as address:
        assert address
        yield address


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing else, made once: making the tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def mlflow_address(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """A real MLflow server over HTTP, started as `make up` starts it."""
    home = tmp_path_factory.mktemp("mlflow-home")
    shutil.copy(empty_database, home / "mlflow.db")
    server = mlflow_server(Settings(home=home, mlflow_port=free_port()))
    lock, log = home / "lock", home / "mlflow.log"
    with locked(lock):
        process = start(server, lock, log)
        try:
            wait_until_healthy(server, process, log, 120)
            yield server.address
        finally:
            stop(process)


@pytest.fixture
def fresh_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    """Set ESD_… variables for one test and read the settings anew."""
    monkeypatch.setenv("ESD_HOME", str(tmp_path / "home"))

    def read(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(f"ESD_{name.upper()}", value)
        get_settings.cache_clear()
        return get_settings()

    yield read
    get_settings.cache_clear()


@pytest.fixture
def settings(
    monkeypatch: pytest.MonkeyPatch,
    fresh_settings: Callable[..., Settings],
    s3_address: str,
    empty_database: Path,
    tmp_path: Path,
) -> Settings:
    """Settings of one test: a home, a database and a bucket of its own. Credentials come by AWS's default chain."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home" / "mlflow.db")
    fresh = fresh_settings(s3_endpoint_url=s3_address, s3_bucket=f"test-{uuid.uuid4().hex[:12]}")
    open_bucket().create()
    return fresh


@pytest.fixture
def bucket(settings: Settings) -> Bucket:
    return open_bucket(settings=settings)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Make the files of a job.

    after: images of 20 in which the erased concept is still seen. rows: of its tensor.
    drawable: weights to take instead.
    """

    def make_job(
        names: str | tuple[str, ...] = "sun", seed: int = 0, after: int = 1, rows: int = 2, drawable: Path | None = None
    ) -> Made:
        recipe = Recipe(subset=ParameterSubset.ESD_U, seed=seed)
        concepts = [Concept(name=n, kind=ConceptKind.GLOBAL) for n in ([names] if isinstance(names, str) else names)]
        erasures = tuple(Erasure(concept=concept, recipe=recipe) for concept in concepts)
        job = ErasureJob(base="miniature", base_digest=digest.of_bytes(b"base"), erasures=erasures)
        folder = tmp_path / "made" / f"{job.slug}-{seed}-{after}"
        folder.mkdir(parents=True)
        weights = folder / "edited.safetensors"  # not the name it has in the registry
        tensor = np.full((rows, 3), seed, np.float32)
        if drawable:
            shutil.copy(drawable, weights)
        else:
            save_file({"conv_in.weight": tensor}, weights, metadata={"job_digest": job.digest})
        report = _report(job, digest.of_file(weights), after)
        history = folder / "history.jsonl"
        history.write_text("".join(f'{{"step": {i}, "loss": {1 / i}}}\n' for i in range(1, 1201)))
        files = {"weights.safetensors": weights, "history.jsonl": history}
        for artifact, content in {
            "evaluation.json": report.model_dump_json(),
            "report.html": "<!doctype html><title>report</title>",
            "grid.png": "picture",
        }.items():
            files[artifact] = folder / artifact
            files[artifact].write_text(content)
        outcome = SimpleNamespace(
            job=job,
            weights=weights,
            weights_digest=digest.of_file(weights),
            history=history,
            final_loss=0.25,
            unet_evaluations=1234,
            forward_equivalents=2345.5,
            seconds=5.5,
            peak_memory=None,
            tuned=(TUNED,),
        )
        return Made(job, cast("ErasureOutcome", outcome), report, judge(report, Gates(sequential=False)), files)

    return make_job


@pytest.fixture
def version(bucket: Bucket, make: Callable[..., Made]) -> RegisteredVersion:
    """esd-miniature-sun 1, on which nobody has decided; the bucket is empty."""
    assert bucket.listing() == {}
    return make().register()


@pytest.fixture
def approved(version: RegisteredVersion) -> RegisteredVersion:
    approval.approve(version.model, version.version, "Ada Lovelace", "looked at the grid")
    return version


@pytest.fixture
def downloaded(approved: RegisteredVersion, settings: Settings, tmp_path: Path) -> Path:
    """A release fetched with the AWS SDK alone."""
    publish(approved.model, 1)
    folder, prefix = tmp_path / "downloaded", f"releases/{approved.model}/1/"
    folder.mkdir()
    s3 = boto3.client("s3", endpoint_url=settings.s3_endpoint_url, region_name="us-east-1")
    s3.download_file(settings.s3_bucket, f"{prefix}manifest.json", str(folder / "manifest.json"))
    for name, file in json.loads((folder / "manifest.json").read_text())["files"].items():
        s3.download_file(settings.s3_bucket, file["key"], str(folder / name))
    return folder


def _report(job: ErasureJob, weights_digest: str, after: int) -> EvaluationReport:
    def probe(name: str, concept: str, before: int, then: int) -> ProbeResult:
        both = min(before, then)
        counts = {"both": both, "only_before": before - both, "only_after": then - both}
        return ProbeResult(probe=name, concept=concept, implied=False, **counts, neither=20 - sum(counts.values()))

    return EvaluationReport(
        concept=job.name,
        base_digest=job.base_digest,
        base_licence="creativeml-openrail-m",
        weights_digest=weights_digest,
        suite_digest=digest.of_json("suite"),
        images_per_probe=20,
        erased=(probe(f"{job.name}, implied", job.name, 19, after),),
        others=(probe("house", "house", 20, 20), probe("a | b, c", "tree", 20, 19)),
    )


def read_json(content: bytes | None) -> dict[str, object]:
    assert content is not None
    value: dict[str, object] = json.loads(content)
    return value
