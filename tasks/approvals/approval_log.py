"""The approval log: an append-only, hash-chained list of decisions in S3, one numbered object each.

    s3://BUCKET/approvals/000001.json, 000002.json, ...

Every entry holds the SHA-256 of the one before, and is written on the condition that its number is free: of two who
decide at once one gets the number, and the other decides again with that entry before his eyes. Nobody can change,
drop or reorder entries without breaking the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.concepts import Text
from esd_core.errors import ApprovalError, ReleaseError, ServiceUnavailable
from tasks.s3.connection import CONNECTIONS
from tasks.s3.storage import Bucket

FOLDER = "approvals/"
FIRST = "0" * 64  # what the first entry names as the one before
_ATTEMPTS = 50  # at a number that someone else takes first


class Decision(StrEnum):
    APPROVED = "approved"
    REJECTED = "rejected"
    RELEASED = "released"  # it is what its model's pointer names
    SUPERSEDED = "superseded"  # another version took its place
    WITHDRAWN = "withdrawn"  # nobody shall use it


class Entry(BaseModel):
    """What is decided. by: the name that was given; docs/approval.md says who vouches for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    decision: Decision
    by: Text
    reason: Text
    policy: ApprovalPolicy  # that was asked for
    weights_digest: str  # what was judged: SHA-256 of the weights file
    registered_digest: str | None = None  # and of all that was registered with it; None: not noted
    gates_passed: bool
    gates_digest: str | None = None  # SHA-256 of the verdict that was there
    override: bool = False  # approved although a gate was not passed
    manifest_digest: str | None = None  # of a release: SHA-256 of its manifest


class ApprovalRecord(Entry):
    """One entry of the log."""

    entry: int = Field(ge=1)
    at: AwareDatetime
    previous: str  # SHA-256 of the entry before

    @property
    def approved(self) -> bool:
        return self.decision is Decision.APPROVED

    @property
    def key(self) -> str:
        return f"{FOLDER}{self.entry:06d}.json"

    def to_bytes(self) -> bytes:
        """The entry as it lies in S3; the next one names the SHA-256 of this."""
        return self.model_dump_json(indent=1).encode()


def read_log(bucket: Bucket) -> list[ApprovalRecord]:
    """The whole log, oldest first; raises ApprovalError at the first place where the chain is broken."""
    return _read(bucket)[0]


def append(bucket: Bucket, decide: Callable[[Sequence[ApprovalRecord]], Entry | None]) -> ApprovalRecord | None:
    """Append what `decide` says, given the log as it is; it is asked again when somebody else was faster.

    None: it had nothing to add. What `decide` raises is raised.
    """
    for _ in range(_ATTEMPTS):
        log, previous = _read(bucket)
        entry = decide(log)
        if entry is None:
            return None
        record = ApprovalRecord(**entry.model_dump(), entry=len(log) + 1, at=datetime.now(UTC), previous=previous)
        if bucket.put_new(record.key, record.to_bytes()):
            return record
    raise ServiceUnavailable(f"approval log {bucket.uri(FOLDER)} is too busy: try again")


def _read(bucket: Bucket) -> tuple[list[ApprovalRecord], str]:
    """All entries, and the digest that the next one has to name. Entries never change, so each is fetched once."""
    listing = bucket.listing(FOLDER)
    with ThreadPoolExecutor(CONNECTIONS) as readers:
        contents = list(readers.map(lambda item: _fetch(bucket, item[0], item[1].etag), listing.items()))
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
    try:
        content = bucket.get(key)
    except ReleaseError as e:
        raise ApprovalError(f"approval log is broken: {e}; restore it from the versions in S3") from e
    if content is None:
        raise ApprovalError(f"approval log entry {bucket.uri(key)} has disappeared; restore it from the versions in S3")
    return content
