"""Releases into S3: what was approved, published whole or not at all. tasks/releases/layout.py says where it lies."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esd_core import digest
from esd_core.errors import ApprovalError, ReleaseError
from esd_core.evaluation.results import EvaluationReport
from esd_core.faults import describe_faults
from tasks.approvals.approval import require_text, required_policy
from tasks.approvals.approval_log import ApprovalRecord, read_log
from tasks.approvals.lifecycle import operator, record_release
from tasks.approvals.standing import Standing, State, demanded, fits, standing_of, standings
from tasks.drawing import EXAMPLE, MODEL
from tasks.nights.jobs import JobFiles
from tasks.records import registry
from tasks.records.model_card import loading_config, model_card
from tasks.records.registry import RegisteredVersion
from tasks.releases import signing
from tasks.releases.layout import CARD, CONFIG, MANIFEST, RELEASES, SIGNATURE, WEIGHTS, file_key, release_folder
from tasks.releases.manifest import Manifest, ReleasedFile, faults_of_folder, read_manifest
from tasks.releases.verifying import verify
from tasks.releases.weights_check import shapes_in
from tasks.s3.storage import BINARY, JSON, Bucket, open_bucket
from tasks.s3.upload import upload_once
from tasks.settings import get_settings

__all__ = ["Release", "publish", "released", "verify"]

log = logging.getLogger(__name__)

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".json": JSON,
    ".md": "text/markdown; charset=utf-8",
}


class Release(BaseModel):
    """A published version. manifest_digest: SHA-256 of manifest.json, which names all else."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    uri: str
    manifest_digest: str
    weights_digest: str


def publish(model: str, version: int, by: str | None = None) -> Release:
    """Publish an approved version and let its model's pointer name it; what is published already stays as it is.

    Relies on nobody: reads the approval log itself, and checks every digest again. by: who publishes, by default the
    account this runs under. Raises ApprovalError when the version is not approved, ReleaseError when other content
    stands in its place.
    """
    if by is not None:
        require_text(by, "who publishes (--by)", person=True)
    registered, bucket = registry.get_version(model, version), open_bucket()
    standing = standing_of(read_log(bucket), model, version)
    _require_approval(registered, standing)
    published, recorded = _published(bucket, registered), standing.released
    if published and recorded and published.manifest_digest != recorded.manifest_digest:
        raise ReleaseError(f"{published.uri} is not what was released: its manifest was altered; see `esd audit`")
    if published is None or recorded is None:
        with tempfile.TemporaryDirectory(prefix="esd-publish-") as folder:
            published = _upload(bucket, registered, standing, Path(folder))
    record_release(bucket, model, version, by or operator(), published.manifest_digest)
    return published


def released() -> dict[tuple[str, int], str]:
    """Address of every release that is whole: its manifest is there, and the approval log says that it was released."""
    bucket = open_bucket()
    manifests = {key for key in bucket.listing(RELEASES) if key.endswith(f"/{MANIFEST}")}
    recorded = (place for place, standing in standings(read_log(bucket)).items() if standing.released)
    folders = {place: release_folder(*place) for place in recorded}
    return {place: bucket.uri(folder) for place, folder in folders.items() if folder + MANIFEST in manifests}


def _require_approval(version: RegisteredVersion, standing: Standing) -> None:
    """Raise ApprovalError unless exactly these weights are approved, by those whom the policy asks for."""
    name, last = f"{version.model} version {version.version}", standing.decided
    command = f"`esd approve {version.model} {version.version} --by NAME --reason TEXT`, after looking at its report"
    if last is None:
        raise ApprovalError(f"{name} is not approved: {command}")
    if not last.approved:
        remedy = (
            "publish another version" if standing.state is State.WITHDRAWN else "approve it again, or another version"
        )
        raise ApprovalError(f"{name} was {last.decision.value} by {last.by} ({last.reason}): {remedy}")
    if last.weights_digest != version.weights_digest:
        raise ApprovalError(f"{name} was approved with other weights than the registry now names: approve it again")
    if standing.state is not State.APPROVED:  # what is released was allowed by the policy of its day
        return
    policy = demanded(required_policy(version), _fitting(version, standing))
    missing = standing.lacks(policy, version.weights_digest, version.registered_digest)
    if missing:
        raise ApprovalError(f"{name} is not approved under the policy {policy.value}: {missing}; {command}")


def _fitting(version: RegisteredVersion, standing: Standing) -> tuple[ApprovalRecord, ...]:
    """The approvals of exactly what is registered; raises ApprovalError when there is none."""
    found = tuple(e for e in standing.approvals if fits(e, version.weights_digest, version.registered_digest))
    if not found:
        raise ApprovalError(
            f"{version.model} version {version.version} was approved with other files, figures or tags than the "
            "registry now names: see `esd audit`, and approve it again if all is well"
        )
    return found


def _published(bucket: Bucket, version: RegisteredVersion) -> Release | None:
    """The release that stands in the version's place, if it is this version's; ReleaseError if it is another's."""
    prefix = release_folder(version.model, version.version)
    content = bucket.get(prefix + MANIFEST)
    if content is None:
        return None
    manifest, faults = read_manifest(content)
    if manifest is None or faults:
        raise ReleaseError(f"{bucket.uri(prefix)} is damaged: {faults[0]}; remove that folder and publish again")
    theirs = (manifest.model, manifest.version, manifest.job_digest, manifest.weights_digest)
    if theirs != (version.model, version.version, version.job_digest, version.weights_digest):
        raise ReleaseError(
            f"{bucket.uri(prefix)} is already published with other content "
            f"(weights {manifest.weights_digest[:12]}, not {version.weights_digest[:12]}): "
            "it stays as it is; publish to another bucket (ESD_S3_BUCKET), or a new version"
        )
    return _release(bucket, version, content)


def _upload(bucket: Bucket, version: RegisteredVersion, standing: Standing, folder: Path) -> Release:
    """Fetch, check and upload a version's files: the weights by their content, the manifest last."""
    manifest = _prepare(version, standing, folder)
    content, prefix = manifest.to_bytes(), release_folder(version.model, version.version)
    if standing.released and standing.released.manifest_digest != digest.of_bytes(content):
        raise ReleaseError(
            f"{bucket.uri(prefix + MANIFEST)} is gone, and what would be made now is not what was released: bring it "
            "back from the bucket's versions"
        )
    (folder / MANIFEST).write_bytes(content)
    faults = faults_of_folder(folder)
    if faults:
        raise ReleaseError(f"{version.model} version {version.version} cannot be published: {'; '.join(faults)}")
    signature = signing.sign(content, get_settings())
    upload_once(bucket, manifest.files[WEIGHTS].key, folder / WEIGHTS, progress=sys.stderr.isatty())
    for name in manifest.files.keys() - {WEIGHTS}:
        path = folder / name
        bucket.put(prefix + name, path.read_bytes(), CONTENT_TYPES.get(path.suffix, BINARY))
    if signature:
        bucket.put(prefix + SIGNATURE, signature, JSON)
    if not bucket.put_new(prefix + MANIFEST, content):
        other = _published(bucket, version)  # somebody else was faster with the same version, or ReleaseError
        if other is None:
            raise ReleaseError(f"{bucket.uri(prefix)} is being changed by somebody else: publish again")
        if other.manifest_digest != digest.of_bytes(content):
            raise ReleaseError(
                f"{bucket.uri(prefix)} holds another manifest than this version makes, and the approval log knows "
                "nothing of it: look at it, remove that folder and publish again"
            )
        return other
    log.info("published %s", bucket.uri(prefix))
    return _release(bucket, version, content)


def _prepare(version: RegisteredVersion, standing: Standing, folder: Path) -> Manifest:
    """All files of a release but its manifest, in `folder`, and that manifest. The same for whoever prepares it."""
    released = [name for name in version.files if name not in (MODEL, EXAMPLE)]  # those are for MLflow
    made = JobFiles.of(get_settings().jobs_folder, version.job).folder  # where this machine has them, if it made them
    files = {name: registry.download_artifact(version, name, folder, made) for name in released}
    if digest.of_file(files[WEIGHTS]) != version.weights_digest:
        raise ReleaseError(f"the weights of {version.model} version {version.version} are not those that were approved")
    report = _report(files[registry.EVALUATION])
    approvals = _fitting(version, standing)
    files[CARD], files[CONFIG] = folder / CARD, folder / CONFIG
    card = model_card(version.model, version.version, version.job, report, approvals, version.code_version)
    digest.write_text(files[CARD], card)
    digest.write_text(files[CONFIG], loading_config(version.job, version.weights_digest, shapes_in(files[WEIGHTS])))
    return Manifest(
        model=version.model,
        version=version.version,
        job=version.job,
        job_digest=version.job_digest,
        code=version.code_version,
        weights_digest=version.weights_digest,
        evaluation={name: value for name, value in report.metrics.items() if math.isfinite(value)},
        policy=demanded(required_policy(version), approvals),
        approvals=approvals,
        files={name: _released_file(version, name, path) for name, path in files.items()},
    )


def _released_file(version: RegisteredVersion, name: str, path: Path) -> ReleasedFile:
    sha256 = digest.of_file(path)
    key = file_key(version.model, version.version, name, sha256)
    return ReleasedFile(sha256=sha256, size=path.stat().st_size, key=key)


def _report(evaluation: Path) -> EvaluationReport:
    try:
        return EvaluationReport.model_validate_json(evaluation.read_bytes())
    except ValidationError as e:
        raise ReleaseError(f"{evaluation.name} is not an evaluation report: {describe_faults(e)}; register anew") from e


def _release(bucket: Bucket, version: RegisteredVersion, manifest: bytes) -> Release:
    return Release(
        model=version.model,
        version=version.version,
        uri=bucket.uri(release_folder(version.model, version.version)),
        manifest_digest=digest.of_bytes(manifest),
        weights_digest=version.weights_digest,
    )
