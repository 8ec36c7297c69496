"""What the audit compares. Each function returns what disagrees, one sentence each; nothing is changed or mended."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from esd_core import digest
from esd_core.errors import EsdError, RegistryError, ReleaseError
from tasks.approvals.approval_log import ApprovalRecord, Decision
from tasks.approvals.standing import State, current_release, fits, lacking, standing_of
from tasks.records import mirror, registry
from tasks.records.registry import RegisteredVersion
from tasks.releases.layout import MANIFEST, POINTER, release_at, weights_key
from tasks.releases.manifest import Manifest
from tasks.releases.pointer import Pointer, read_pointer
from tasks.releases.verifying import Verified
from tasks.s3.storage import Bucket

MIRRORED = (
    *("esd.state", "esd.approval", "esd.approval_by", "esd.approval_at", "esd.approval_reason", "esd.approval_entry"),
    *("esd.override", "esd.release", "esd.release_manifest"),
)


def faults_of_tags(bucket: Bucket, log: Sequence[ApprovalRecord], version: RegisteredVersion) -> list[str]:
    """Whether MLflow's tags say what the log says, and what was registered."""
    tags, description = mirror.page_of(version)
    logged = mirror.expected_tags(bucket, standing_of(log, version.model, version.version))
    registered = {
        "esd.job_digest": version.job.digest,
        "esd.concept": version.job.name,
        "esd.base": version.job.base,
        "esd.weights_digest": version.files.get(registry.WEIGHTS, ""),
    }
    faults = [
        f"tag {name} says {_short(tags.get(name, ''))}, the approval log {_short(logged.get(name, ''))}: edited by hand"
        for name in MIRRORED
        if tags.get(name) != logged.get(name)
    ]
    faults += [
        f"tag {name} says {_short(tags.get(name, ''))}, what was registered {_short(value)}: edited by hand"
        for name, value in registered.items()
        if tags.get(name) != value
    ]
    shown = tags.get("esd.approval_entry", "")
    if re.fullmatch("[0-9]{1,9}", shown) and int(shown) > len(log):
        faults.append(f"MLflow shows entry {int(shown)}, but the approval log ends at {len(log)}: it was cut off")
    page, _, _ = description.partition(mirror.HISTORY)
    if tags.get(registry.PAGE_TAG, "") not in ("", digest.of_bytes(page.encode())):
        faults.append("its page does not say what was registered: edited by hand")
    if mirror.history(bucket, log, version.model, version.version) != mirror.history_in(description):
        faults.append("its page tells another history than the approval log: edited by hand")
    return faults


def _short(value: str, most: int = 60) -> str:
    return repr(value if len(value) <= most else f"{value[: most - 3]}...")


def faults_of_files(version: RegisteredVersion) -> list[str]:
    """Whether its artifacts are what was registered: each is fetched, and its digest made again."""
    with tempfile.TemporaryDirectory(prefix="esd-audit-") as folder_name:
        folder, faults = Path(folder_name), []
        for name in sorted(version.files):
            try:
                registry.download_artifact(version, name, folder)
            except EsdError as e:  # an artifact store that does not answer is named too: anybody may have entered it
                faults.append(f"artifact {name}: {e}")
        return faults + _faults_of_verdict(version, folder / registry.VERDICT)


def _faults_of_verdict(version: RegisteredVersion, path: Path) -> list[str]:
    """Whether the tag of the gates says what the verdict says that was registered with it."""
    try:
        if path.is_file():
            registry.check_verdict(version, path)
    except RegistryError as e:
        return [str(e)]
    return []


def faults_of_entries(log: Sequence[ApprovalRecord], version: RegisteredVersion) -> list[str]:
    """Whether the log judged these weights, allowed what failed only openly, and released only what was allowed."""
    faults = []
    for entry in standing_of(log, version.model, version.version).entries:
        what = f"entry {entry.entry} of the approval log ({entry.decision.value} by {entry.by})"
        if entry.weights_digest != version.weights_digest:
            faults.append(
                f"{what} is about weights {entry.weights_digest[:12]}, registered are {version.weights_digest[:12]}"
            )
        elif entry.approved and not fits(entry, version.weights_digest, version.registered_digest):
            told = "other files, figures or tags than are registered now"
            faults.append(f"{what} is about {told}: something was changed since")
        if entry.approved and not entry.gates_passed and not entry.override:
            faults.append(f"{what}: approved against its gates without an override")
        before = standing_of(log[: entry.entry - 1], version.model, version.version)
        missing = lacking(before.approvals, entry.policy, entry.weights_digest, entry.registered_digest)
        if entry.decision is Decision.RELEASED and missing:
            faults.append(f"{what}: released without approval: {missing}")
    return faults


def faults_of_release(release: Verified, registered: RegisteredVersion | None) -> list[str]:
    """What is wrong with a release in S3, by itself and beside what was registered.

    That it was withdrawn is no disagreement.
    """
    last = release.standing.last if release.standing else None
    withdrawn = f"withdrawn by {last.by}: {last.reason}" if last and last.decision is Decision.WITHDRAWN else None
    others = _other_files(release.manifest, registered) if release.manifest and registered else []
    return [f"in S3: {fault}" for fault in (*release.faults, *others) if fault != withdrawn]


def _other_files(manifest: Manifest, registered: RegisteredVersion) -> list[str]:
    """What a release holds that was registered otherwise. Its card and config.json are made when it is published."""
    files = [n for n, f in manifest.files.items() if n in registered.files and f.sha256 != registered.files[n]]
    told = [f"{name} is another than the registered one" for name in sorted(files)]
    return told + ["its job is another than the registered one"] * (manifest.job != registered.job)


def faults_of_aliases(log: Sequence[ApprovalRecord], model: str, versions: Iterable[int]) -> list[str]:
    """Whether MLflow's aliases name what the log says, and the candidate is the newest version."""
    shown = mirror.aliases_of(model)
    expected = mirror.expected_aliases(log, model) | {registry.CANDIDATE: max(versions)}
    return [
        f"alias {alias} names {shown.get(alias, 'nothing')}, it should name {expected.get(alias, 'nothing')}: "
        "moved without a record"
        for alias in (registry.CANDIDATE, registry.APPROVED, registry.RELEASED)
        if shown.get(alias) != expected.get(alias)
    ]


def faults_of_pointer(bucket: Bucket, log: Sequence[ApprovalRecord], model: str) -> list[str]:
    """Whether latest.json names the release that the log says."""
    current = current_release(log, model)
    try:
        pointer = read_pointer(bucket, model)
    except ReleaseError as e:
        return [str(e)]
    wanted = Pointer.of(current) if current else None
    if pointer == wanted:
        return []
    if pointer and wanted and pointer.version == wanted.version:
        fields = ", ".join(n for n, value in pointer.model_dump().items() if value != wanted.model_dump()[n])
        return [f"latest.json names the right version, but another {fields} than the approval log: edited by hand"]
    shown, right = (f"version {p.version}" if p else "nothing" for p in (pointer, wanted))
    return [f"latest.json names {shown}, the approval log {right}: moved without a record"]


def faults_of_places(log: Sequence[ApprovalRecord], keys: Iterable[str]) -> dict[tuple[str, int], str]:
    """Manifests in the bucket that the log does not account for, by version."""
    found: dict[tuple[str, int], str] = {}
    for key in keys:
        place = release_at(key.removesuffix(MANIFEST)) if key.endswith(f"/{MANIFEST}") else None
        standing = standing_of(log, *place) if place else None
        if place is None or standing is None or standing.released:
            continue
        if standing.state is State.APPROVED:
            found[place] = "published, but never recorded as released: publish it again, which completes it"
        else:
            told = f"has it as {standing.state.value}" if standing.entries else "says nothing of it"
            found[place] = f"released without approval: it lies in S3, but the approval log {told}"
    return found


def faults_of_keys(keys: Iterable[str]) -> list[str]:
    """Objects beside the releases that are part of none, nor a model's pointer."""
    return [
        f"in S3: {key!r} is part of no release"
        for key in keys
        if not release_at(key[: key.rfind("/") + 1]) and not (key.endswith(f"/{POINTER}") and key.count("/") == 2)
    ]


def faults_of_weights(log: Sequence[ApprovalRecord], keys: Iterable[str]) -> list[str]:
    """Weights that no version has which the log knows."""
    known = {weights_key(entry.weights_digest) for entry in log}
    return [f"in S3: {key!r} is of no version that the approval log knows" for key in keys if key not in known]
