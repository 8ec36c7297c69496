"""Whether a release is whole, unaltered, approved and signed, in S3 or downloaded. Needs neither torch nor MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from esd_core import digest
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concepts import MINIATURE
from esd_core.errors import InvalidInput, ReleaseError
from tasks.approvals.approval_log import ApprovalRecord, read_log
from tasks.approvals.standing import Standing, State, standing_of
from tasks.releases.layout import MANIFEST, SIGNATURE, WEIGHTS, release_at, release_folder
from tasks.releases.manifest import MOST_BYTES, Manifest, ReleasedFile, bytes_in, faults_of_folder, read_manifest
from tasks.releases.trust import MOST_BYTES as MOST_OF_SIGNATURE
from tasks.releases.trust import Trust, faults_of_signature, names_in_certificate
from tasks.releases.weights_check import faults_against_base
from tasks.s3.download import download
from tasks.s3.storage import Bucket, open_bucket, parse_uri
from tasks.settings import Signing, get_settings


class Signed(StrEnum):
    GOOD = "signed"  # by whom it must be
    UNCHECKED = "signed, which was not checked"  # nobody is named who must have
    NOT = "not signed"


@dataclass(frozen=True)
class Verified:
    """What was found. faults: empty when nothing is wrong. standing: in the approval log; None for a folder on disk.

    manifest: None where it cannot be read. manifest_digest: SHA-256 of manifest.json, which names all else.
    signer: who signed it, where that was checked. base: whose tensors' names and shapes the weights were compared with;
    None: with nobody's.
    """

    faults: list[str]
    manifest: Manifest | None = None
    manifest_digest: str = ""
    signed: Signed = Signed.NOT
    signer: str = ""
    standing: Standing | None = None
    base: str | None = None

    @property
    def vouched_for(self) -> bool:
        """Whether something outside the release says that its manifest is the one that was released."""
        return self.standing is not None or self.signed is Signed.GOOD


@dataclass(frozen=True)
class Found:
    """A release in S3 as far as it is known before its files are fetched. faults: what is wrong already."""

    bucket: Bucket
    model: str
    version: int
    manifest: Manifest | None
    content: bytes  # of manifest.json
    signature: bytes | None
    faults: list[str]


def verify(place: str, trust: Trust | None = None, base: str | None = None) -> list[str]:
    """Faults of a release in S3 or of a downloaded one; empty when it is whole, unaltered, approved, and signed.

    trust: who must have signed it; default: as the settings say. base: base model whose tensors the weights must
    fit; by default looked at only for the bundled one.
    """
    return examine(place, trust, base).faults


def examine(place: str, trust: Trust | None = None, base: str | None = None) -> Verified:
    """The same, with what there is to tell of a release without faults."""
    trust = trust or Trust.of_settings()
    if "://" not in place:
        folder = Path(place)
        if not folder.is_dir():
            raise InvalidInput(f"no such folder: {place}; give a release folder, or s3://BUCKET/releases/MODEL/VERSION")
        return _on_disk(folder, trust, base)
    bucket_name, prefix = parse_uri(place)
    bucket, named = open_bucket(bucket_name), release_at(prefix)
    if named is None:
        bucket.check()
        raise InvalidInput(f"{place} is not where a release lies: expected s3://BUCKET/releases/MODEL/VERSION")
    return _in_s3(look(bucket, *named, trust), trust, base)


def _in_s3(found: Found, trust: Trust, base: str | None) -> Verified:
    if found.manifest is None:
        return Verified(found.faults)
    log = read_log(found.bucket)
    faults = found.faults + faults_of_log(found, log)
    with tempfile.TemporaryDirectory(prefix="esd-verify-") as folder_name:
        missing = download_found(found, found.manifest, Path(folder_name))
        compared = comparable_base(found.manifest, base)
        rest = faults_of_content(Path(folder_name), found.manifest, compared)
    told = {fault.partition(" ")[0] for fault in faults + missing}
    faults += missing + [fault for fault in rest if fault.partition(" ")[0] not in told]
    standing = standing_of(log, found.model, found.version)
    release = _verified(faults, found.manifest, found.content, found.signature, trust)
    return replace(release, standing=standing, base=compared.id if compared else None)


def _on_disk(folder: Path, trust: Trust, base: str | None) -> Verified:
    faults = faults_of_folder(folder)
    content = bytes_in(folder / MANIFEST, MOST_BYTES)
    if content is None:
        return Verified(faults)
    signature = bytes_in(folder / SIGNATURE, MOST_OF_SIGNATURE)
    faults = faults + faults_of_signature(content, signature, trust, required=_required())
    manifest, _ = read_manifest(content)
    compared = comparable_base(manifest, base) if manifest and not faults else None
    if manifest and compared:
        faults = faults_of_base(folder, manifest, compared)
    return replace(_verified(faults, manifest, content, signature, trust), base=compared.id if compared else None)


def _verified(
    faults: list[str], manifest: Manifest | None, content: bytes, signature: bytes | None, trust: Trust
) -> Verified:
    signed = Signed.NOT if signature is None else Signed.UNCHECKED if trust.anybody else Signed.GOOD
    signer = trust.name
    if signature and trust.roots and not faults:
        signer = f"{', '.join(names_in_certificate(signature))} under {signer}"
    return Verified(faults, manifest, digest.of_bytes(content), signed, signer)


def _required() -> bool:
    return get_settings().signing is Signing.REQUIRED


def look(bucket: Bucket, model: str, version: int, trust: Trust) -> Found:
    """A release's manifest and signature, checked; sizes and names of its objects, before any of them is read."""
    prefix = release_folder(model, version)
    try:
        content, signature = bucket.get(prefix + MANIFEST), bucket.get(prefix + SIGNATURE)
    except ReleaseError as e:
        return Found(bucket, model, version, None, b"", None, [str(e)])
    if content is None:
        return Found(
            bucket, model, version, None, b"", None, [f"{MANIFEST} is missing: this is not a finished release"]
        )
    manifest, faults = read_manifest(content)
    if manifest is None or faults:
        return Found(bucket, model, version, None, content, None, faults)
    faults = faults_of_signature(content, signature, trust, required=_required())
    if (manifest.model, manifest.version) != (model, version):
        faults.append(f"{MANIFEST} is that of {manifest.model} version {manifest.version}, which belongs elsewhere")
    else:
        faults += _faults_of_objects(bucket, prefix, manifest)
    return Found(bucket, model, version, manifest, content, signature, faults)


def _faults_of_objects(bucket: Bucket, prefix: str, manifest: Manifest) -> list[str]:
    """Whether objects are missing, of another size, or too many, as S3 lists them."""
    listed = bucket.listing(prefix)
    faults = [
        f"{key.removeprefix(prefix)!r} is not in the manifest: remove it"
        for key in listed
        if key not in {prefix + MANIFEST, prefix + SIGNATURE, *(file.key for file in manifest.files.values())}
    ]
    listed |= bucket.listing(manifest.files[WEIGHTS].key)
    for name, file in manifest.files.items():
        there = listed.get(file.key)
        if there is None:
            faults.append(f"{name} is missing")
        elif there.size != file.size:
            word = "truncated" if there.size < file.size else "too long"
            faults.append(f"{name} is {word}: {there.size} bytes, expected {file.size}")
    return faults


def download_found(found: Found, manifest: Manifest, folder: Path, *, progress: bool = False) -> list[str]:
    """Fetch all that has no fault yet, the manifest last; returns what is wrong with the rest."""
    faults, bad = [], {fault.partition(" ")[0] for fault in found.faults}
    for name, file in manifest.files.items():
        if name in bad:
            continue
        try:
            _download_file(found.bucket, folder / name, file, progress)
        except ReleaseError as e:
            faults.append(str(e))
    if found.signature is not None:
        with digest.whole_file(folder / SIGNATURE) as partial:
            partial.write_bytes(found.signature)
    with digest.whole_file(folder / MANIFEST) as partial:
        partial.write_bytes(found.content)
    return faults


def _download_file(bucket: Bucket, path: Path, file: ReleasedFile, progress: bool) -> None:
    if path.is_symlink():
        raise ReleaseError(f"{path.name} is a link, not a file")
    download(bucket, file.key, path, size=file.size, sha256=file.sha256, progress=progress)


def faults_of_content(folder: Path, manifest: Manifest, base: ResolvedBase | None) -> list[str]:
    return faults_of_folder(folder) or (faults_of_base(folder, manifest, base) if base else [])


def comparable_base(manifest: Manifest, base: str | None) -> ResolvedBase | None:
    """The base model to compare the weights' tensors with: the one given, or the bundled one if they edit that."""
    if base is not None:
        return resolve_base(base)
    bundled = resolve_base(MINIATURE) if manifest.job.base == MINIATURE else None
    return bundled if bundled and bundled.digest == manifest.job.base_digest else None


def faults_of_base(folder: Path, manifest: Manifest, base: ResolvedBase) -> list[str]:
    """Whether the weights' tensors have names and shapes of this base model, which must be the one that they edit."""
    if base.digest != manifest.job.base_digest:
        told = f"{base.id} has digest {base.digest[:12]}, but the weights edit {manifest.job.base_digest[:12]}"
        return [f"{WEIGHTS} belongs to another base model: {told}"]
    return [f"{WEIGHTS}: {fault}" for fault in faults_against_base(folder / WEIGHTS, base)]


def faults_of_log(found: Found, log: Sequence[ApprovalRecord]) -> list[str]:
    """Whether the approval log says what the manifest says it says."""
    assert found.manifest is not None
    standing = standing_of(log, found.model, found.version)
    faults = [
        f"{MANIFEST}: entry {entry.entry} of the approval log says something else"
        for entry in found.manifest.approvals
        if entry not in standing.entries
    ]
    if standing.released is None:
        faults.append("the approval log does not have it as released: publish it again, or find out who put it there")
    elif standing.released.manifest_digest != digest.of_bytes(found.content):
        faults.append(f"{MANIFEST} is not the one that was released: the approval log names another SHA-256")
    if standing.last and standing.state is State.WITHDRAWN:
        faults.append(f"withdrawn by {standing.last.by}: {standing.last.reason}")
    return faults
