"""The MLflow registry: one registered model per base and concept, one version per job.

A version is created last, in one call that carries its tags: a job is registered wholly or not at all. What a crash
leaves is at most a run under the job's digest, and the next attempt goes on with that run.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.concepts import ErasureJob
from esd_core.errors import RegistryError
from esd_core.evaluation.gates import Verdict
from esd_core.evaluation.results import EvaluationReport
from tasks.drawing import write_model_files
from tasks.records import runs, tracking
from tasks.records.model_card import version_description
from tasks.releases.layout import PlainName
from tasks.settings import get_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from esd_core.erasure import ErasureOutcome

log = logging.getLogger(__name__)

WEIGHTS, REPORT, GRID, EVALUATION = "weights.safetensors", "report.html", "grid.png", "evaluation.json"
FILES = (WEIGHTS, REPORT, GRID, EVALUATION)  # what every version is made of
VERDICT = "verdict.json"  # what its gates said, added when it is registered
CANDIDATE, APPROVED, RELEASED = "candidate", "approved", "released"  # aliases
POLICY_TAG = "esd.policy"
FORMAT = "1"  # of the tags below; other systems' versions do not carry it
_OURS = f"tags.`esd.format` = '{FORMAT}'"


class RegisteredVersion(BaseModel):
    """A version as the registry's tags tell it. `files`: SHA-256 of each artifact by name; `page`: its web page.

    gates_digest: of the verdict at registration. policy: who has to approve it, as its list says.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    run_id: str
    job: ErasureJob
    job_digest: str
    weights_digest: str
    status: str
    passed: bool  # every gate, at registration
    gates_digest: str | None = None
    policy: ApprovalPolicy = ApprovalPolicy.GATES
    files: dict[PlainName, str]
    artifacts: str  # address of the folder that holds the files
    page: str | None = None


def model_name(job: ErasureJob) -> str:
    """Name of the registered model: esd-BASE-CONCEPT."""
    return f"esd-{runs.base_name(job.base)}-{job.slug}" + (f"-from-{job.scope}" if job.scope else "")


def find_version(job_digest: str) -> RegisteredVersion | None:
    """The version that a job became, the latest if it was done again; None while it is not registered."""
    return next(reversed(_versions_of(job_digest)), None)


def _versions_of(job_digest: str) -> list[RegisteredVersion]:
    return _search(f"tags.`esd.job_digest` = '{job_digest}'")


def list_versions() -> list[RegisteredVersion]:
    """Every version of this system, by model name and version."""
    return _search(_OURS)


def survey() -> tuple[list[RegisteredVersion], dict[tuple[str, int], str]]:
    """Every version that can be read, and what is wrong with the others, by model and version."""
    readable, unreadable = [], {}
    with tracking.errors("the registry cannot be searched"):
        entries = list(tracking.search_versions(_OURS))
    for entry in entries:
        try:
            readable.append(_registered(entry))
        except RegistryError as e:
            unreadable[entry.name, int(entry.version)] = str(e)
    return sorted(readable, key=lambda v: (v.model, v.version)), unreadable


def get_version(model: str, version: int) -> RegisteredVersion:
    """One version; raises RegistryError when there is none, or when something else registered it."""
    with tracking.errors(f"{model} has no version {version}: `esd status` lists what there is"):
        return _registered(tracking.client().get_model_version(model, str(version)))


def register_version(
    job: ErasureJob,
    outcome: ErasureOutcome,
    report: EvaluationReport,
    verdict: Verdict,
    files: Mapping[str, Path],
    *,
    again: bool = False,
) -> RegisteredVersion:
    """Register what a job made; called again for the same job, the version that is there is returned.

    `files` by artifact name, at least those of FILES. again: the job was done again, and becomes another version if
    something else came out of it. Raises RegistryError when they are not the files of this job.
    """
    _check(outcome, report, files)
    known = _versions_of(job.digest)
    version = known[-1] if known else None
    changed = version and any(version.files[name] != digest.of_file(files[name]) for name in (WEIGHTS, EVALUATION))
    if version is None or (again and changed):
        with tracking.errors(f"job {job.digest[:12]} cannot be registered"), tempfile.TemporaryDirectory() as folder:
            made = write_model_files(Path(folder), prompt=f"a picture of {job.name}")
            made[VERDICT] = Path(folder) / VERDICT
            made[VERDICT].write_text(verdict.model_dump_json(indent=1), encoding="utf-8")
            client = tracking.client()
            run = runs.run_of(client, job, {v.run_id for v in known})
            runs.log_run(client, run, job, outcome, report)
            runs.log_files(client, run, {**files, **made})
            client.set_terminated(run.info.run_id)
            digests = {name: digest.of_file(path) for name, path in {**files, **made}.items()}
            version = _create_version(client, run, job, report, verdict, digests)
            mark(version, alias=CANDIDATE)
            return version
    if version.version == max(v.version for v in _search(f"name = '{version.model}' AND {_OURS}")):
        mark(version, alias=CANDIDATE)
    return version


def mark(version: RegisteredVersion, tags: Mapping[str, str] | None = None, alias: str | None = None) -> None:
    """Set tags on a version, and let an alias of its model name it. Doing it twice changes nothing."""
    with tracking.errors(f"{version.model} version {version.version} cannot be marked"):
        tracking.set_tags(version.model, version.version, tags or {})
        if alias:
            tracking.set_alias(version.model, alias, version.version)


def download_artifacts(version: RegisteredVersion, folder: Path) -> dict[str, Path]:
    """A version's files in `folder`, fetched unless they are there; RegistryError unless each is as registered."""
    return {name: download_artifact(version, name, folder) for name in version.files}


def download_artifact(version: RegisteredVersion, name: str, folder: Path, near: Path | None = None) -> Path:
    """One of a version's files in `folder`, fetched unless it is there; RegistryError unless it is as registered.

    near: a folder of this machine that may hold it too; from there it is copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.is_file() or digest.of_file(path) != version.files[name]:
        with digest.whole_file(path, flush=False) as partial:
            if near and (near / name).is_file():
                shutil.copyfile(near / name, partial)
            if digest.of_file(partial) != version.files[name]:
                _fetch(version, name, partial)
    return path


def _fetch(version: RegisteredVersion, name: str, path: Path) -> None:
    """Fetch one file of a version to `path`, and check it."""
    what = f"{name} of {version.model} version {version.version}"
    with tempfile.TemporaryDirectory(prefix=".esd-fetch-", dir=path.parent) as folder:
        with tracking.errors(f"{what} is missing"):
            fetched = tracking.download(f"{version.artifacts.rstrip('/')}/{name}", Path(folder))
        if digest.of_file(fetched) != version.files[name]:
            raise RegistryError(f"{what} was altered after registration: reject the version and erase again")
        fetched.replace(path)


def _check(outcome: ErasureOutcome, report: EvaluationReport, files: Mapping[str, Path]) -> None:
    missing = [name for name in FILES if name not in files or not files[name].is_file()]
    if missing:
        raise RegistryError(f"cannot register {outcome.job.name}: missing {', '.join(missing)}")
    if not digest.of_file(files[WEIGHTS]) == outcome.weights_digest == report.weights_digest:
        raise RegistryError(
            f"cannot register {outcome.job.name}: {files[WEIGHTS]} is not what was made and evaluated; evaluate again"
        )


def _create_version(
    client: MlflowClient, run: Run, job: ErasureJob, report: EvaluationReport, verdict: Verdict, digests: dict[str, str]
) -> RegisteredVersion:
    model = model_name(job)
    tracking.ensure_model(client, model, f"{job.name} erased from {job.base}")
    tags = {
        "esd.format": FORMAT,
        "esd.job_digest": job.digest,
        "esd.job": job.model_dump_json(),
        "esd.concept": job.name,
        "esd.base": job.base,
        "esd.weights_digest": digests[WEIGHTS],
        "esd.suite_digest": report.suite_digest,
        "esd.code_version": runs.code_version(),
        "esd.gates": "passed" if verdict.passed else "failed",
        "esd.gates_digest": digest.of_json(verdict.model_dump(mode="json")),
        "esd.files": json.dumps(digests, sort_keys=True),
    }
    description = version_description(job, report, verdict, runs.code_version())
    source = str(run.info.artifact_uri)
    created = client.create_model_version(model, source, run.info.run_id, tags=tags, description=description)
    log.info("registered %s version %s", model, created.version)
    return _registered(created)


def _search(condition: str) -> list[RegisteredVersion]:
    with tracking.errors("the registry cannot be searched"):
        return sorted(map(_registered, tracking.search_versions(condition)), key=lambda v: (v.model, v.version))


def _registered(entry: ModelVersion) -> RegisteredVersion:
    tags = entry.tags
    page = f"{tracking.address().rstrip('/')}/#/models/{entry.name}/versions/{entry.version}"
    try:
        return RegisteredVersion(
            model=entry.name,
            version=int(entry.version),
            run_id=entry.run_id or "",
            job=ErasureJob.model_validate_json(tags["esd.job"]),
            job_digest=tags["esd.job_digest"],
            weights_digest=tags["esd.weights_digest"],
            status=str(entry.status),
            passed=tags["esd.gates"] == "passed",
            gates_digest=tags.get("esd.gates_digest"),
            policy=ApprovalPolicy(tags.get(POLICY_TAG, ApprovalPolicy.GATES)),
            files=json.loads(tags["esd.files"]),
            artifacts=entry.source or "",
            page=page if get_settings().mlflow_is_server else None,
        )
    except (KeyError, ValueError) as e:  # of JSON, of pydantic, of an unknown policy
        raise RegistryError(
            f"{entry.name} version {entry.version} was not registered by this system: "
            "its esd.* tags are missing or damaged"
        ) from e
