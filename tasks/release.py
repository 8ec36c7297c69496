"""Releases in S3: what was approved, published whole or not at all, and verified by anyone.

s3://BUCKET/releases/MODEL/VERSION/
    weights.safetensors  report.html  grid.png  evaluation.json  README.md    then, last:
    manifest.json        SHA-256 and size of each, job, approval
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esd_core import digest
from esd_core.concepts import describe_faults
from esd_core.errors import ApprovalError, InvalidInput, ReleaseError
from esd_core.evaluation.results import EvaluationReport
from tasks import approval, registry
from tasks.approval import ApprovalRecord
from tasks.manifest import MANIFEST, WEIGHTS, Manifest, ReleasedFile, faults_of_folder, is_plain_name, read_manifest
from tasks.model_card import model_card
from tasks.registry import RegisteredVersion
from tasks.storage import Bucket, open_bucket, parse_uri

log = logging.getLogger(__name__)

FOLDER = "releases/"
CARD = "README.md"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".json": "application/json",
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


def publish(model: str, version: int) -> Release:
    """Publish an approved version; what is published already is returned as it is.

    Relies on nobody: reads the approval log itself, and checks every digest again. Raises ApprovalError when the
    version is not approved, ReleaseError when other content stands in its place.
    """
    registered = registry.get_version(model, version)
    record = _require_approval(registered)
    bucket = open_bucket()
    published = _published(bucket, registered)
    if published is None:
        with tempfile.TemporaryDirectory(prefix="esd-publish-") as folder:
            published = _upload(bucket, registered, record, Path(folder))
    tags = {"esd.release": published.uri, "esd.release_manifest": published.manifest_digest}
    registry.mark(registered, tags, alias=registry.RELEASED)
    return published


def verify(uri_or_dir: str) -> list[str]:
    """Faults of a release in S3 or of a downloaded one; empty when it is whole and unaltered."""
    if "://" not in uri_or_dir:
        folder = Path(uri_or_dir)
        if not folder.is_dir():
            raise InvalidInput(f"no such folder: {uri_or_dir}; give a release folder, or s3://BUCKET/FOLDER")
        return faults_of_folder(folder)
    name, prefix = parse_uri(uri_or_dir)
    with tempfile.TemporaryDirectory(prefix="esd-verify-") as folder_name:
        return _download(open_bucket(name), prefix, Path(folder_name)) + faults_of_folder(Path(folder_name))


def released() -> dict[tuple[str, int], str]:
    """Address of every finished release in the bucket, by model and version."""
    bucket = open_bucket()
    found = {}
    for key in bucket.listing(FOLDER):
        parts = key.split("/")
        if len(parts) == 4 and parts[3] == MANIFEST and parts[2].isdecimal():
            found[parts[1], int(parts[2])] = bucket.uri(key.removesuffix(MANIFEST))
    return found


def _require_approval(version: RegisteredVersion) -> ApprovalRecord:
    """The approval of exactly these weights."""
    name = f"{version.model} version {version.version}"
    record = approval.approval_of(version.model, version.version)
    if record is None:
        raise ApprovalError(
            f"{name} is not approved: "
            f"`esd approve {version.model} {version.version} --by NAME --reason TEXT`, after looking at its report"
        )
    if not record.approved:
        raise ApprovalError(
            f"{name} was rejected by {record.by} ({record.reason}): approve it again, or another version"
        )
    if record.weights_digest != version.weights_digest:
        raise ApprovalError(f"{name} was approved with other weights than the registry now names: approve it again")
    return record


def _published(bucket: Bucket, version: RegisteredVersion) -> Release | None:
    """The release that stands in the version's place, if it is this version's; ReleaseError if it is another's."""
    prefix = _prefix(version)
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


def _upload(bucket: Bucket, version: RegisteredVersion, record: ApprovalRecord, folder: Path) -> Release:
    """Fetch, check and upload a version's files, the manifest last."""
    files = registry.download_artifacts(version, folder)
    if digest.of_file(files[WEIGHTS]) != record.weights_digest:
        raise ReleaseError(f"the weights of {version.model} version {version.version} are not those that were approved")
    files[CARD] = _write_card(version, record, files[registry.EVALUATION], folder / CARD)
    manifest = Manifest(
        model=version.model,
        version=version.version,
        job=version.job,
        job_digest=version.job_digest,
        weights_digest=version.weights_digest,
        approval=record,
        files={n: ReleasedFile(sha256=digest.of_file(p), size=p.stat().st_size) for n, p in files.items()},
    )
    content, prefix = manifest.to_bytes(), _prefix(version)
    (folder / MANIFEST).write_bytes(content)
    faults = faults_of_folder(folder)
    if faults:
        raise ReleaseError(f"{version.model} version {version.version} cannot be published: {'; '.join(faults)}")
    for name, path in files.items():
        bucket.put(prefix + name, path, CONTENT_TYPES.get(path.suffix, "application/octet-stream"))
    if not bucket.put_new(prefix + MANIFEST, content):
        other = _published(bucket, version)  # somebody else was faster with the same version, or ReleaseError
        if other is None:
            raise ReleaseError(f"{bucket.uri(prefix)} is being changed by somebody else: publish again")
        return other
    log.info("published %s", bucket.uri(prefix))
    return _release(bucket, version, content)


def _write_card(version: RegisteredVersion, record: ApprovalRecord, evaluation: Path, path: Path) -> Path:
    try:
        report = EvaluationReport.model_validate_json(evaluation.read_bytes())
    except ValidationError as e:
        raise ReleaseError(f"{evaluation.name} is not an evaluation report: {describe_faults(e)}; register anew") from e
    card = model_card(
        version.model,
        version.version,
        version.job,
        report,
        approved_by=record.by,
        reason=record.reason,
        policy=record.policy.value,
    )
    path.write_text(card, encoding="utf-8")
    return path


def _download(bucket: Bucket, prefix: str, folder: Path) -> list[str]:
    """Fetch a release; objects whose names would leave the folder are faults, and stay where they are."""
    faults = []
    for key in bucket.listing(prefix):
        name = key.removeprefix(prefix)
        if is_plain_name(name):
            bucket.download(key, folder / name)
        else:
            faults.append(f"{name!r} is not in the manifest: remove it")
    return faults


def _release(bucket: Bucket, version: RegisteredVersion, manifest: bytes) -> Release:
    return Release(
        model=version.model,
        version=version.version,
        uri=bucket.uri(_prefix(version)),
        manifest_digest=digest.of_bytes(manifest),
        weights_digest=version.weights_digest,
    )


def _prefix(version: RegisteredVersion) -> str:
    return f"{FOLDER}{version.model}/{version.version}/"
