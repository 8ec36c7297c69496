"""The manifest of a release, and the check of a folder against it. Needs no torch, no MLflow, no network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core import digest
from esd_core.concepts import ErasureJob, describe_faults
from tasks.approval import ApprovalRecord

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ReleasedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    size: int = Field(ge=0)  # bytes


class Manifest(BaseModel):
    """What a release is made of, and who allowed it. Written last: a folder without it is no release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["esd-release/1"] = "esd-release/1"
    model: str
    version: int
    job: ErasureJob
    job_digest: Sha256
    weights_digest: Sha256
    approval: ApprovalRecord
    files: dict[str, ReleasedFile]

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def is_plain_name(name: str) -> bool:
    """Whether a name stays in its folder on every system: no slash, no "..", no drive, nothing hidden."""
    return _PLAIN_NAME.fullmatch(name) is not None


def read_manifest(content: bytes) -> tuple[Manifest | None, list[str]]:
    """The manifest, or None; and what is wrong with it."""
    try:
        raw = json.loads(content, object_pairs_hook=_no_duplicates)
        manifest = Manifest.model_validate_json(json.dumps(raw))
    except ValidationError as e:
        return None, [f"{MANIFEST} is not a release manifest: {describe_faults(e)}"]
    except (ValueError, RecursionError) as e:
        return None, [f"{MANIFEST} is not JSON: {e}"]
    return manifest, _contradictions(manifest)


def faults_of_folder(folder: Path) -> list[str]:
    """Everything that is wrong with a downloaded release; empty when it is whole and unaltered."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return [f"{MANIFEST} is missing: this is not a finished release"]
    manifest, faults = read_manifest(path.read_bytes())
    if manifest is None:
        return faults
    for name, expected in manifest.files.items():
        if is_plain_name(name):
            faults += _faults_of_file(folder / name, expected)
    alien = sorted(path.name for path in folder.iterdir() if path.name not in {MANIFEST, *manifest.files})
    faults += [f"{name!r} is not in the manifest: remove it" for name in alien]
    return faults


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two entries of one name could show one to us and the other to somebody else."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


def _contradictions(manifest: Manifest) -> list[str]:
    """What the manifest says against itself."""
    approval = manifest.approval
    bad_names = [name for name in manifest.files if not is_plain_name(name) or name == MANIFEST]
    weights = manifest.files.get(WEIGHTS)
    same_version = (approval.model, approval.version) == (manifest.model, manifest.version)
    checks = [
        (not bad_names, f"{MANIFEST} names files outside the release: {', '.join(map(repr, bad_names))}"),
        (weights is not None, f"{MANIFEST} names no {WEIGHTS}"),
        (weights is None or weights.sha256 == manifest.weights_digest, f"{MANIFEST} names two digests of the weights"),
        (manifest.job.digest == manifest.job_digest, f"{MANIFEST}: the job is not the one of job_digest"),
        (approval.approved and same_version, f"{MANIFEST} holds no approval of this version"),
        (approval.weights_digest == manifest.weights_digest, f"{MANIFEST}: other weights were approved"),
    ]
    return [fault for good, fault in checks if not good]


def _faults_of_file(path: Path, expected: ReleasedFile) -> list[str]:
    if path.is_symlink():
        return [f"{path.name} is a link, not a file"]
    if not path.is_file():
        return [f"{path.name} is missing"]
    size = path.stat().st_size
    if size != expected.size:
        word = "truncated" if size < expected.size else "too long"
        return [f"{path.name} is {word}: {size} bytes, expected {expected.size}"]
    if digest.of_file(path) != expected.sha256:
        return [f"{path.name} was altered: its SHA-256 is not the manifest's"]
    return _faults_of_tensors(path) if path.suffix == ".safetensors" else []


def _faults_of_tensors(path: Path) -> list[str]:
    """Whether the header describes the file exactly: parsed and bounds-checked by safetensors, nothing is loaded."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            return [] if f.keys() else [f"{path.name} holds no tensors"]
    except (SafetensorError, OSError) as e:
        return [f"{path.name} is not safetensors: {e}"]
