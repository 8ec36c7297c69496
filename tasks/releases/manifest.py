"""The manifest of a release, and the check of a folder against it. Needs no torch, no MLflow, no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.concepts import ErasureJob
from esd_core.errors import EsdError
from esd_core.faults import describe_faults
from tasks.approvals.approval_log import ApprovalRecord
from tasks.approvals.standing import lacking
from tasks.releases.layout import MANIFEST, SIGNATURE, WEIGHTS, file_key, is_plain_name
from tasks.releases.weights_check import faults_of_structure

SUFFIXES = (".safetensors", ".json", ".jsonl", ".html", ".png", ".md")  # nothing that a loader would unpickle or run
_PICKLE = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04|\x1f\x8b")  # pickle, zip (torch.save), gzip
MOST_BYTES = 16 << 20  # of a manifest

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ReleasedFile(BaseModel):
    """key: where it lies in the bucket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    size: int = Field(ge=0)  # bytes
    key: str


class Manifest(BaseModel):
    """What a release is made of, and who allowed it. Written last: a folder without it is no release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["esd-release/2"] = "esd-release/2"
    model: str
    version: int
    job: ErasureJob
    job_digest: Sha256
    code: str = ""  # version of what registered it
    weights_digest: Sha256
    evaluation: dict[str, float]  # summary; evaluation.json has it all
    policy: ApprovalPolicy  # that the approvals meet
    approvals: tuple[ApprovalRecord, ...] = Field(min_length=1)  # entries of the log
    files: dict[str, ReleasedFile]

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_manifest(content: bytes) -> tuple[Manifest | None, list[str]]:
    """The manifest, or None; and what is wrong with it."""
    if len(content) > MOST_BYTES:
        return None, [f"{MANIFEST} is not a release manifest: more than {MOST_BYTES} bytes"]
    try:
        raw = json.loads(content, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
        manifest = Manifest.model_validate_json(json.dumps(raw))
    except ValidationError as e:
        return None, [f"{MANIFEST} is not a release manifest: {describe_faults(e)[:500]}"]
    except EsdError as e:  # a job that contradicts itself
        return None, [f"{MANIFEST} is not a release manifest: {e}"]
    except (ValueError, RecursionError) as e:
        return None, [f"{MANIFEST} is not JSON: {e}"]
    return manifest, _contradictions(manifest)


def faults_of_folder(folder: Path) -> list[str]:
    """Everything that is wrong with a downloaded release but its signature; empty when it is whole and unaltered."""
    content = bytes_in(folder / MANIFEST, MOST_BYTES)
    if content is None:
        return [f"{MANIFEST} is missing: this is not a finished release"]
    manifest, faults = read_manifest(content)
    if manifest is None:
        return faults
    for name, expected in manifest.files.items():
        if is_plain_name(name):
            faults += faults_of_file(folder / name, expected)
    links = [name for name in (SIGNATURE,) if (folder / name).is_symlink()]
    alien = sorted(p.name for p in folder.iterdir() if p.name not in {MANIFEST, SIGNATURE, *manifest.files})
    faults += [f"{name} is a link, not a file" for name in links]
    return faults + [f"{name!r} is not in the manifest: remove it" for name in alien]


def bytes_in(path: Path, most: int) -> bytes | None:
    """A file's bytes, and one more than `most` of what has more; None for what is no file, or a link."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as f:
        return f.read(most + 1)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two entries of one name could show one to us and the other to somebody else."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} stands in it")


def _contradictions(manifest: Manifest) -> list[str]:
    """What the manifest says against itself."""
    checks: tuple[Callable[[Manifest], list[str]], ...] = (_faults_of_names, _faults_of_digests, _faults_of_approvals)
    return [fault for check in checks for fault in check(manifest)]


def _faults_of_names(manifest: Manifest) -> list[str]:
    bad = [name for name in manifest.files if not is_plain_name(name) or name in (MANIFEST, SIGNATURE)]
    if bad:
        return [f"{MANIFEST} names files outside the release: {', '.join(map(repr, bad))[:300]}"]
    kinds = [name for name in manifest.files if not name.endswith(SUFFIXES)]
    faults = [f"{MANIFEST} names files of kinds that no release has: {', '.join(kinds)[:300]}"] if kinds else []
    for name, file in manifest.files.items():
        if file.key != file_key(manifest.model, manifest.version, name, file.sha256):
            faults.append(f"{MANIFEST} says that {name} lies at {file.key!r}, where it does not belong")
    folded = {name.casefold() for name in manifest.files}
    return faults + (
        [f"{MANIFEST} names two files that some systems take for one"] if len(folded) < len(manifest.files) else []
    )


def _faults_of_digests(manifest: Manifest) -> list[str]:
    weights = manifest.files.get(WEIGHTS)
    checks = [
        (weights is not None, f"{MANIFEST} names no {WEIGHTS}"),
        (weights is None or weights.sha256 == manifest.weights_digest, f"{MANIFEST} names two digests of the weights"),
        (manifest.job.digest == manifest.job_digest, f"{MANIFEST}: the job is not the one of job_digest"),
    ]
    return [fault for good, fault in checks if not good]


def _faults_of_approvals(manifest: Manifest) -> list[str]:
    """Whether its approvals are of this version and these weights, and enough for the policy it names."""
    approvals = manifest.approvals
    ours = all((e.model, e.version) == (manifest.model, manifest.version) and e.approved for e in approvals)
    fitting = all(entry.weights_digest == manifest.weights_digest for entry in approvals)
    entries = [entry.entry for entry in approvals]
    silent = [e for e in approvals if not e.gates_passed and not e.override]
    missing = lacking(approvals, manifest.policy, manifest.weights_digest, approvals[-1].registered_digest)
    checks = [
        (ours and entries == sorted(set(entries)), f"{MANIFEST} holds no approval of this version"),
        (fitting, f"{MANIFEST}: other weights were approved"),
        (not silent, f"{MANIFEST}: approved against its gates without an override"),
        (missing is None or not (ours and fitting), f"{MANIFEST}: its approvals are not enough: {missing}"),
    ]
    return [fault for good, fault in checks if not good]


def faults_of_file(path: Path, expected: ReleasedFile) -> list[str]:
    """What is wrong with one file; links and wrong sizes are told before anything is read."""
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
    if path.suffix == ".safetensors":
        return faults_of_structure(path)
    with path.open("rb") as f:
        return [f"{path.name} is a pickle or an archive"] if _PICKLE.match(f.read(4)) else []
