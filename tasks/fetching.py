"""Releases out of S3: verified, or refused with everything that is wrong. Needs neither torch nor MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esd_core import digest
from esd_core.base_model import resolve_base
from esd_core.concepts import MINIATURE
from esd_core.errors import InvalidInput, ReleaseError
from tasks.approval_log import ApprovalRecord, Decision, read_log
from tasks.download import download
from tasks.layout import MANIFEST, SIGNATURE, WEIGHTS, is_model_name, release_at, release_folder
from tasks.manifest import Manifest, ReleasedFile, faults_of_folder, read_manifest
from tasks.pointer import read_pointer
from tasks.settings import Signing, get_settings
from tasks.standing import Standing, State, current_release, standing_of
from tasks.storage import Bucket, open_bucket, parse_uri
from tasks.trust import Trust, faults_of_signature
from tasks.weights_check import faults_against_base


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
    if "://" not in place:
        folder = Path(place)
        if not folder.is_dir():
            raise InvalidInput(f"no such folder: {place}; give a release folder, or s3://BUCKET/releases/MODEL/VERSION")
        return _faults_on_disk(folder, trust, base)
    bucket_name, prefix = parse_uri(place)
    bucket, named = open_bucket(bucket_name), release_at(prefix)
    if named is None:
        bucket.check()
        raise InvalidInput(f"{place} is not where a release lies: expected s3://BUCKET/releases/MODEL/VERSION")
    found = look(bucket, *named, trust)
    if found.manifest is None:
        return found.faults
    faults = found.faults + _faults_of_log(found, read_log(bucket))
    with tempfile.TemporaryDirectory(prefix="esd-verify-") as folder_name:
        missing = _download(found, found.manifest, Path(folder_name))
        rest = _faults_of_content(Path(folder_name), found.manifest, base)
    told = {fault.partition(" ")[0] for fault in faults + missing}
    return faults + missing + [fault for fault in rest if fault.partition(" ")[0] not in told]


def fetch(reference: str, out: Path | None = None, trust: Trust | None = None, *, progress: bool = False) -> Path:
    """Fetch a release, verified, to `out` or into the cache; what is there already is not fetched again.

    reference: MODEL (its current release), MODEL@VERSION, or the release's address in S3. Raises ReleaseError when it
    was withdrawn, was never released, or is not whole and unaltered.
    """
    bucket, model, version = _resolve(reference)
    found = look(bucket, model, version, trust)
    log = read_log(bucket)
    standing = standing_of(log, model, version)
    _refuse_withdrawn(standing)
    if standing.state not in (State.RELEASED, State.SUPERSEDED):
        raise ReleaseError(f"{model} version {version} is {standing.state.value}, not released: see `esd status`")
    faults = found.faults or _faults_of_log(found, log)
    if found.manifest is None or faults:
        raise ReleaseError(f"{model} version {version} is not fetched: {'; '.join(faults)}")
    folder = out or get_settings().releases_folder / digest.of_bytes(found.content)
    faults = _download(found, found.manifest, folder, progress=progress)
    faults = faults or _faults_of_content(folder, found.manifest, None)
    if faults:
        raise ReleaseError(f"{folder} does not hold {model} version {version}: {'; '.join(faults)}")
    return folder


def look(bucket: Bucket, model: str, version: int, trust: Trust | None = None) -> Found:
    """A release's manifest and signature, checked; sizes and names of its objects, before any of them is read."""
    prefix = release_folder(model, version)
    content = bucket.get(prefix + MANIFEST)
    if content is None:
        return Found(
            bucket, model, version, None, b"", None, [f"{MANIFEST} is missing: this is not a finished release"]
        )
    manifest, faults = read_manifest(content)
    if manifest is None or faults:
        return Found(bucket, model, version, None, content, None, faults)
    signature, settings = bucket.get(prefix + SIGNATURE), get_settings()
    required = settings.signing is Signing.REQUIRED
    faults = faults_of_signature(content, signature, trust or Trust.of_settings(), required=required)
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


def _download(found: Found, manifest: Manifest, folder: Path, *, progress: bool = False) -> list[str]:
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


def _faults_on_disk(folder: Path, trust: Trust | None, base: str | None) -> list[str]:
    faults, settings = faults_of_folder(folder), get_settings()
    path, signed = folder / MANIFEST, folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        return faults
    content = path.read_bytes()
    signature = signed.read_bytes() if signed.is_file() and not signed.is_symlink() else None
    required = settings.signing is Signing.REQUIRED
    faults = faults + faults_of_signature(content, signature, trust or Trust.of_settings(), required=required)
    manifest, _ = read_manifest(content)
    return faults if faults or manifest is None else _faults_of_base(folder, manifest, base)


def _faults_of_content(folder: Path, manifest: Manifest, base: str | None) -> list[str]:
    return faults_of_folder(folder) or _faults_of_base(folder, manifest, base)


def _faults_of_base(folder: Path, manifest: Manifest, base: str | None) -> list[str]:
    """Whether the weights' tensors are the base model's, where that is at hand or was given."""
    if base is None and manifest.job.base != MINIATURE:
        return []
    resolved = resolve_base(base or MINIATURE)
    if resolved.digest != manifest.job.base_digest:
        told = f"{base} has digest {resolved.digest[:12]}, but the weights edit {manifest.job.base_digest[:12]}"
        return [f"{WEIGHTS} belongs to another base model: {told}"] if base else []
    return [f"{WEIGHTS}: {fault}" for fault in faults_against_base(folder / WEIGHTS, resolved)]


def _faults_of_log(found: Found, log: Sequence[ApprovalRecord]) -> list[str]:
    """Whether the approval log says what the manifest says it says."""
    assert found.manifest is not None
    standing = standing_of(log, found.model, found.version)
    faults = [
        f"{MANIFEST}: entry {entry.entry} of the approval log says something else"
        for entry in found.manifest.approvals
        if entry not in standing.entries
    ]
    if standing.released and standing.released.manifest_digest != digest.of_bytes(found.content):
        faults.append(f"{MANIFEST} is not the one that was released: the approval log names another SHA-256")
    if standing.last and standing.state is State.WITHDRAWN:
        faults.append(f"withdrawn by {standing.last.by}: {standing.last.reason}")
    return faults


def _resolve(reference: str) -> tuple[Bucket, str, int]:
    """Bucket, model and version that a reference names."""
    if "://" in reference:
        name, prefix = parse_uri(reference)
        named = release_at(prefix)
        if named is None:
            raise InvalidInput(f"{reference} is not where a release lies: expected s3://BUCKET/releases/MODEL/VERSION")
        return open_bucket(name), *named
    model, at, number = reference.partition("@")
    if not is_model_name(model) or (at and not (number.isascii() and number.isdecimal())):
        raise InvalidInput(f"{reference[:200]!r} names no release: expected MODEL, MODEL@VERSION or s3://...")
    bucket = open_bucket()
    return bucket, model, int(number) if at else _current(bucket, model)


def _current(bucket: Bucket, model: str) -> int:
    """The version that a model's pointer names, provided that the log released it."""
    pointer, log = read_pointer(bucket, model), read_log(bucket)
    current = current_release(log, model)
    if pointer is None:
        withdrawn = next((e for e in reversed(log) if e.model == model and e.decision is Decision.WITHDRAWN), None)
        if withdrawn:
            _refuse_withdrawn(Standing((withdrawn,)))
        raise ReleaseError(f"{model} has no release: see `esd status`")
    if current is None or (pointer.version, pointer.entry) != (current.version, current.entry):
        raise ReleaseError(f"the pointer of {model} was moved without a record: see `esd audit`, or give MODEL@VERSION")
    return pointer.version


def _refuse_withdrawn(standing: Standing) -> None:
    last = standing.last
    if last and standing.state is State.WITHDRAWN:
        raise ReleaseError(
            f"{last.model} version {last.version} was withdrawn by {last.by} on {last.at:%Y-%m-%d}: {last.reason}"
        )
