"""How a job's result comes into the registry: its run first, and last its version.

A version is created in one call that carries its tags: a job is registered wholly or not at all. What a crash leaves is
at most a run under the job's digest, and the next attempt goes on with that run.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from esd_core import digest
from esd_core.concepts import ErasureJob
from esd_core.errors import RegistryError
from esd_core.evaluation.gates import Verdict
from esd_core.evaluation.results import EvaluationReport
from tasks.drawing import write_model_files
from tasks.records import registry, runs, tracking
from tasks.records.model_card import version_description
from tasks.records.registry import EVALUATION, FILES, VERDICT, WEIGHTS, RegisteredVersion, registered_in

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from esd_core.erasure import ErasureOutcome

log = logging.getLogger(__name__)


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
    known = registry.versions_of(job.digest)
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
            registry.mark(version, alias=registry.CANDIDATE)
            return version
    if version.version == max(v.version for v in registry.search(f"name = '{version.model}' AND {registry.OURS}")):
        registry.mark(version, alias=registry.CANDIDATE)
    return version


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
    model = registry.model_name(job)
    tracking.ensure_model(client, model, f"{job.name} erased from {job.base}")
    description = version_description(job, report, verdict, runs.code_version())
    tags = {
        "esd.format": registry.FORMAT,
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
        registry.PAGE_TAG: digest.of_bytes(description.encode()),
    }
    source = str(run.info.artifact_uri)
    created = client.create_model_version(model, source, run.info.run_id, tags=tags, description=description)
    log.info("registered %s version %s", model, created.version)
    return registered_in(created)
