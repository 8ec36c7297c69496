"""The audit: registry, artifacts, S3 and the approval log compared with each other, every digest made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict

from esd_core.errors import ApprovalError
from tasks.approvals import audit_checks
from tasks.approvals.approval_log import ApprovalRecord, read_log
from tasks.approvals.standing import standings
from tasks.records import registry
from tasks.records.registry import RegisteredVersion
from tasks.releases.layout import POINTER, RELEASES, WEIGHTS_FOLDER, release_folder
from tasks.releases.trust import Trust
from tasks.releases.verifying import Signed, examine
from tasks.s3.storage import Bucket, open_bucket

AT_ONCE = 4  # versions whose files are fetched at a time

Place = tuple[str, int]


class Disagreement(BaseModel):
    """What does not agree. version: None for what concerns a whole model; model: empty for the log as a whole."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int | None
    what: str

    @property
    def sentence(self) -> str:
        place = f"{self.model} {self.version}" if self.version else self.model
        return f"{place}: {self.what}" if place else self.what


class Audit(BaseModel):
    """How much was looked at, and all that disagrees, model by model. entries: None where the log is broken."""

    model_config = ConfigDict(frozen=True)

    versions: int
    releases: dict[Signed, int]  # by how they are signed
    entries: int | None
    disagreements: tuple[Disagreement, ...]


def audit(trust: Trust | None = None) -> Audit:
    """Compare everything. trust: who must have signed the releases; default: as the settings say.

    A log whose chain is broken is one disagreement; what follows from the log is then not looked at.
    """
    bucket, (versions, unreadable) = open_bucket(), registry.survey()
    found = [_at(place, what) for place, what in unreadable.items()]
    found += _each(versions, audit_checks.faults_of_files)
    try:
        log = read_log(bucket)
    except ApprovalError as e:
        broken = Disagreement(model="", version=None, what=str(e))
        return Audit(versions=len(versions), releases={}, entries=None, disagreements=(broken, *found))
    released = sorted(place for place, standing in standings(log).items() if standing.released)
    found += _each(versions, lambda version: audit_checks.faults_of_tags(bucket, log, version))
    found += _each(versions, lambda version: audit_checks.faults_of_entries(log, version))
    with ThreadPoolExecutor(AT_ONCE) as readers:
        examined = list(readers.map(lambda place: examine(bucket.uri(release_folder(*place)), trust), released))
    registered = {(version.model, version.version): version for version in versions}
    for place, release in zip(released, examined, strict=True):
        found += [_at(place, what) for what in audit_checks.faults_of_release(release, registered.get(place))]
    found += _models(bucket, log, versions)
    found += _strays(bucket, log, versions)
    signed = Counter(release.signed for release in examined)
    in_order = sorted(found, key=lambda d: (d.model, d.version or 0))
    return Audit(versions=len(versions), releases=signed, entries=len(log), disagreements=tuple(in_order))


def _each(versions: Iterable[RegisteredVersion], check: Callable[[RegisteredVersion], list[str]]) -> list[Disagreement]:
    versions = list(versions)
    with ThreadPoolExecutor(AT_ONCE) as readers:
        faults = readers.map(check, versions)
        return [_at((v.model, v.version), what) for v, found in zip(versions, faults, strict=True) for what in found]


def _models(bucket: Bucket, log: Sequence[ApprovalRecord], versions: Iterable[RegisteredVersion]) -> list[Disagreement]:
    """Aliases and pointers, of every model that the registry, the log or the bucket knows."""
    numbers: dict[str, list[int]] = {}
    for version in versions:
        numbers.setdefault(version.model, []).append(version.version)
    pointers = {key.split("/")[1] for key in bucket.listing(RELEASES) if key.endswith(f"/{POINTER}")}
    found = []
    for model in sorted(numbers.keys() | pointers | {entry.model for entry in log}):
        aliases = audit_checks.faults_of_aliases(log, model, numbers[model]) if model in numbers else []
        faults = aliases + audit_checks.faults_of_pointer(bucket, log, model)
        found += [Disagreement(model=model, version=None, what=what) for what in faults]
    return found


def _strays(bucket: Bucket, log: Sequence[ApprovalRecord], versions: Iterable[RegisteredVersion]) -> list[Disagreement]:
    """What the log knows and the registry does not, and what lies in S3 and the log does not account for."""
    registered = {(version.model, version.version) for version in versions}
    lost = sorted(standings(log).keys() - registered)
    what = "is in the approval log, but not in the registry: deleted, or its tag esd.format was edited by hand"
    keys = bucket.listing(RELEASES)
    found = [_at(place, what) for place in lost]
    found += [_at(place, what) for place, what in audit_checks.faults_of_places(log, keys).items()]
    others = audit_checks.faults_of_keys(keys) + audit_checks.faults_of_weights(log, bucket.listing(WEIGHTS_FOLDER))
    return found + [Disagreement(model="", version=None, what=what) for what in others]


def _at(place: Place, what: str) -> Disagreement:
    return Disagreement(model=place[0], version=place[1], what=what)
