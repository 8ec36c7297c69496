"""Who allowed what, when and why: an append-only log in S3, one numbered object per decision.

    s3://BUCKET/approvals/000001.json, 000002.json, ...

Every entry holds the SHA-256 of the one before, and is written on the condition that its number is free: nobody can
change, drop or reorder entries without breaking the chain. The latest entry of a version counts. MLflow's tags and
aliases only mirror it, since anyone may overwrite those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from esd_core import digest
from esd_core.concepts import ApprovalPolicy, Text
from esd_core.errors import ApprovalError, ServiceUnavailable
from esd_core.evaluation.gates import Verdict
from tasks import registry
from tasks.registry import RegisteredVersion
from tasks.storage import Bucket, open_bucket

FOLDER = "approvals/"
FIRST = "0" * 64  # what the first entry names as the one before
_READERS = 16
_ATTEMPTS = 50  # at a number that someone else takes first


class Decision(StrEnum):
    APPROVED = "approved"
    REJECTED = "rejected"


class ApprovalRecord(BaseModel):
    """One entry of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entry: int = Field(ge=1)
    model: str
    version: int
    decision: Decision
    by: Text
    at: AwareDatetime
    reason: Text
    policy: ApprovalPolicy
    weights_digest: str  # what was judged: SHA-256 of the weights file
    gates_passed: bool
    previous: str  # SHA-256 of the entry before

    @property
    def approved(self) -> bool:
        return self.decision is Decision.APPROVED

    @property
    def key(self) -> str:
        return f"{FOLDER}{self.entry:06d}.json"


def approve(
    model: str, version: int, by: str, reason: str, policy: ApprovalPolicy = ApprovalPolicy.MANUAL
) -> ApprovalRecord:
    """Record that `by` allows the version to be published; raises ApprovalError for a blank name or reason."""
    return _decide(registry.get_version(model, version), Decision.APPROVED, by, reason, policy)


def reject(
    model: str, version: int, by: str, reason: str, policy: ApprovalPolicy = ApprovalPolicy.MANUAL
) -> ApprovalRecord:
    """Record that `by` does not allow the version to be published, whatever was decided before."""
    return _decide(registry.get_version(model, version), Decision.REJECTED, by, reason, policy)


def approve_by_policy(version: RegisteredVersion, verdict: Verdict, policy: ApprovalPolicy) -> ApprovalRecord | None:
    """The decision that counts for a version; under the policy `gates`, passed gates make one when nobody has yet.

    None: a person has to decide. What a person decided is never overruled by the policy.
    """
    record = approval_of(version.model, version.version)
    if record is not None:
        _mirror(version, record)
        return record
    if policy is not ApprovalPolicy.GATES or not verdict.passed:
        return None
    reason = "; ".join(verdict.reasons)[:200]
    return _decide(version, Decision.APPROVED, f"policy {policy.value}", reason, policy, gates_passed=verdict.passed)


def approval_of(model: str, version: int) -> ApprovalRecord | None:
    """The latest decision on a version, read from the log; None while there is none."""
    return decisions().get((model, version))


def decisions() -> dict[tuple[str, int], ApprovalRecord]:
    """The latest decision on every version."""
    return {(record.model, record.version): record for record in read_log()}


def read_log() -> list[ApprovalRecord]:
    """The whole log, oldest first; raises ApprovalError at the first place where the chain is broken."""
    return _read(open_bucket())[0]


def _read(bucket: Bucket) -> tuple[list[ApprovalRecord], str]:
    """All entries, and the digest that the next one has to name. Entries never change, so each is fetched once."""
    listing = bucket.listing(FOLDER)
    with ThreadPoolExecutor(_READERS) as readers:
        contents = list(readers.map(lambda item: _fetch(bucket, *item), listing.items()))
    return _checked(bucket, list(listing), contents)


def _checked(bucket: Bucket, keys: Sequence[str], contents: Sequence[bytes]) -> tuple[list[ApprovalRecord], str]:
    records: list[ApprovalRecord] = []
    previous = FIRST
    for number, (key, content) in enumerate(zip(keys, contents, strict=True), start=1):
        where = f"approval log {bucket.uri(FOLDER)} is broken"
        if key != f"{FOLDER}{number:06d}.json":
            raise ApprovalError(
                f"{where}: expected entry {number:06d}, found {key!r}; restore it from the versions in S3"
            )
        try:
            record = ApprovalRecord.model_validate_json(content)
        except ValidationError as e:
            raise ApprovalError(f"{where}: {key} is not an approval record; restore it from the versions in S3") from e
        if record.entry != number or record.previous != previous:
            raise ApprovalError(f"{where} before {key}: an entry was altered; restore it from the versions in S3")
        records.append(record)
        previous = digest.of_bytes(content)
    return records, previous


@lru_cache(maxsize=100_000)
def _fetch(bucket: Bucket, key: str, _etag: str) -> bytes:
    content = bucket.get(key)
    if content is None:
        raise ApprovalError(f"approval log entry {bucket.uri(key)} has disappeared; restore it from the versions in S3")
    return content


def _decide(
    version: RegisteredVersion,
    decision: Decision,
    by: str,
    reason: str,
    policy: ApprovalPolicy,
    gates_passed: bool | None = None,
) -> ApprovalRecord:
    """Append a decision and mirror it; the same decision by the same person for the same reason is not repeated."""
    _require_text(by, "who decides (--by)")
    _require_text(reason, "why (--reason)")
    bucket = open_bucket()
    for _ in range(_ATTEMPTS):
        log, previous = _read(bucket)
        last = next((r for r in reversed(log) if (r.model, r.version) == (version.model, version.version)), None)
        if last and (last.decision, last.by, last.reason) == (decision, by.strip(), reason.strip()):
            _mirror(version, last)
            return last
        record = ApprovalRecord(
            entry=len(log) + 1,
            model=version.model,
            version=version.version,
            decision=decision,
            by=by,
            at=datetime.now(UTC),
            reason=reason,
            policy=policy,
            weights_digest=version.weights_digest,
            gates_passed=version.passed if gates_passed is None else gates_passed,
            previous=previous,
        )
        if bucket.put_new(record.key, record.model_dump_json(indent=1).encode()):
            _mirror(version, record)
            return record
    raise ServiceUnavailable(f"approval log {bucket.uri(FOLDER)} is too busy: try again")


def _mirror(version: RegisteredVersion, record: ApprovalRecord) -> None:
    """Show the decision in MLflow, or a later one that somebody made meanwhile."""
    record = approval_of(version.model, version.version) or record
    tags = {
        "esd.approval": record.decision.value,
        "esd.approval_by": record.by,
        "esd.approval_at": record.at.isoformat(timespec="seconds"),
        "esd.approval_reason": record.reason,
        "esd.approval_entry": f"{record.entry:06d}",
    }
    registry.mark(version, tags, alias=registry.APPROVED if record.approved else None)
    if not record.approved:
        registry.unmark(version, registry.APPROVED)


def _require_text(value: str, what: str) -> None:
    if not re.search(r"\S", value) or not value.strip().isprintable() or len(value.strip()) > 200:
        raise ApprovalError(f"an approval must say {what}, in one line of at most 200 characters; given: {value!r}")
