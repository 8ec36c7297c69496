"""The MLflow registry: one registered model per base and concept, one version per job, and its files.

How a version comes into it: tasks/records/registering.py.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.concepts import ErasureJob
from esd_core.errors import EsdError, RegistryError
from esd_core.evaluation.gates import Verdict
from tasks.records import runs, tracking
from tasks.releases.layout import PlainName
from tasks.settings import get_settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

WEIGHTS, REPORT, GRID, EVALUATION = "weights.safetensors", "report.html", "grid.png", "evaluation.json"
FILES = (WEIGHTS, REPORT, GRID, EVALUATION)  # what every version is made of
VERDICT = "verdict.json"  # what its gates said, added when it is registered
CANDIDATE, APPROVED, RELEASED = "candidate", "approved", "released"  # aliases
POLICY_TAG = "esd.policy"
FORMAT = "1"  # of the tags below; other systems' versions do not carry it
MOST_VERSIONS = 10**9  # of a model; databases count no further than a few of these
OURS = f"tags.`esd.format` = '{FORMAT}'"
PAGE_TAG = "esd.page_digest"
REGISTERED_TAGS = (  # written once, when a version is registered
    *("esd.job", "esd.job_digest", "esd.concept", "esd.base", "esd.code_version", "esd.weights_digest", "esd.files"),
    *("esd.suite_digest", "esd.gates", "esd.gates_digest", PAGE_TAG),
)


class RegisteredVersion(BaseModel):
    """A version as the registry's tags tell it. `files`: SHA-256 of each artifact by name; `page`: its web page.

    gates_digest: of the verdict at registration. policy: who has to approve it, as its list says. registered_digest: of
    all tags that were written at registration, which name files, figures and page: approvals are of that.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    run_id: str
    job: ErasureJob
    job_digest: str
    weights_digest: str
    code_version: str = ""  # of what registered it
    status: str
    passed: bool  # every gate, at registration
    gates_digest: str | None = None
    policy: ApprovalPolicy = ApprovalPolicy.GATES
    files: dict[PlainName, str]
    artifacts: str  # address of the folder that holds the files
    page: str | None = None
    registered_digest: str | None = None


def model_name(job: ErasureJob) -> str:
    """Name of the registered model: esd-BASE-CONCEPT."""
    return f"esd-{runs.base_name(job.base)}-{job.slug}" + (f"-from-{job.scope}" if job.scope else "")


def find_version(job_digest: str) -> RegisteredVersion | None:
    """The version that a job became, the latest if it was done again; None while it is not registered."""
    return next(reversed(versions_of(job_digest)), None)


def versions_of(job_digest: str) -> list[RegisteredVersion]:
    return search(f"tags.`esd.job_digest` = '{job_digest}'")


def list_versions() -> list[RegisteredVersion]:
    """Every version of this system, by model name and version."""
    return search(OURS)


def survey(condition: str = OURS) -> tuple[list[RegisteredVersion], dict[tuple[str, int], str]]:
    """Every version that can be read, and what is wrong with the others, by model and version."""
    readable, unreadable = [], {}
    with tracking.errors("the registry cannot be searched"):
        entries = list(tracking.search_versions(condition))
    for entry in entries:
        try:
            readable.append(registered_in(entry))
        except RegistryError as e:
            unreadable[entry.name, int(entry.version)] = str(e)
    return sorted(readable, key=lambda v: (v.model, v.version)), unreadable


def get_version(model: str, version: int) -> RegisteredVersion:
    """One version; raises RegistryError when there is none, or when something else registered it."""
    absent = f"{model} has no version {version}: `esd status` lists what there is"
    if version > MOST_VERSIONS:
        raise RegistryError(absent)
    with tracking.errors(absent):
        return registered_in(tracking.client().get_model_version(model, str(version)))


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


def require_verdict(version: RegisteredVersion) -> None:
    """Raise RegistryError unless its tags say of the gates what the verdict says that was registered with it."""
    if VERDICT in version.files:
        with tempfile.TemporaryDirectory(prefix="esd-verdict-") as folder:
            path = download_artifact(version, VERDICT, Path(folder))
            try:
                check_verdict(version, path)
            except RegistryError as e:
                raise RegistryError(f"{version.model} version {version.version}: {e}; see `esd audit`") from e


def check_verdict(version: RegisteredVersion, path: Path) -> None:
    """Raise RegistryError unless the verdict at `path` is what the version's tags say."""
    try:
        verdict = Verdict.model_validate_json(path.read_bytes())
    except ValidationError as e:
        raise RegistryError(f"artifact {path.name} is no verdict") from e
    told = verdict.passed, digest.of_json(verdict.model_dump(mode="json"))
    if told != (version.passed, version.gates_digest):
        raise RegistryError(f"tag esd.gates or esd.gates_digest says something else than {path.name}: edited by hand")


def _fetch(version: RegisteredVersion, name: str, path: Path) -> None:
    """Fetch one file of a version to `path`, and check it."""
    what = f"{name} of {version.model} version {version.version}"
    with tempfile.TemporaryDirectory(prefix=".esd-fetch-", dir=path.parent) as folder:
        with tracking.errors(f"{what} is missing"):
            fetched = tracking.download(f"{version.artifacts.rstrip('/')}/{name}", Path(folder))
        if not fetched.is_file() or digest.of_file(fetched) != version.files[name]:
            raise RegistryError(f"{what} was altered after registration: reject the version and erase again")
        fetched.replace(path)


def search(condition: str) -> list[RegisteredVersion]:
    """The versions that meet a condition, by model and version; one whose tags are damaged is left out, and logged."""
    readable, unreadable = survey(condition)
    for fault in unreadable.values():
        log.warning("%s; it is left out: see `esd audit`", fault)
    return readable


def registered_in(entry: ModelVersion) -> RegisteredVersion:
    """A version as its tags tell it; raises RegistryError where they cannot be read or belong to another model."""
    version = _read(entry)
    if version.model != model_name(version.job):
        raise RegistryError(
            f"{version.model} version {version.version} holds the job of {model_name(version.job)}: its tags were "
            "edited by hand, or it was put there by somebody else"
        )
    return version


def _read(entry: ModelVersion) -> RegisteredVersion:
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
            code_version=tags.get("esd.code_version", ""),
            status=str(entry.status),
            passed=tags["esd.gates"] == "passed",
            gates_digest=tags.get("esd.gates_digest"),
            policy=ApprovalPolicy(tags.get(POLICY_TAG, ApprovalPolicy.GATES)),
            files=_files_in(tags["esd.files"]),
            artifacts=entry.source or "",
            page=page if get_settings().mlflow_is_server else None,
            registered_digest=digest.of_json({name: tags.get(name, "") for name in REGISTERED_TAGS}),
        )
    except (KeyError, ValueError, RecursionError, EsdError) as e:  # of JSON, of pydantic, of a job, an unknown policy
        raise RegistryError(
            f"{entry.name} version {entry.version} was not registered by this system: "
            "its esd.* tags are missing or damaged"
        ) from e


def _files_in(tag: str) -> dict[str, str]:
    """SHA-256 by name, as the tag lists them; raises ValueError where one is missing that every version has."""
    files = json.loads(tag)
    if not isinstance(files, dict) or not files.keys() >= set(FILES):
        raise ValueError(f"not all of {FILES}")
    return files
