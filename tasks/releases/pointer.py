"""The pointer of a model, releases/MODEL/latest.json: which version to use. It follows from the approval log.

It is read before the log and moved with If-Match, so that of two who move it at once the one who knows less fails and
looks again: what stands in the end is what the log says.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core.errors import ReleaseError, ServiceUnavailable
from tasks.approvals.approval_log import ApprovalRecord, read_log
from tasks.approvals.standing import current_release
from tasks.releases.layout import pointer_key, release_folder
from tasks.s3.storage import Bucket

_ATTEMPTS = 20  # at a pointer that others move


class Pointer(BaseModel):
    """entry: of the approval log, that released the version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["esd-latest/1"] = "esd-latest/1"
    model: str
    version: int = Field(ge=1)
    release: str  # folder in the bucket
    manifest_digest: str
    entry: int

    @classmethod
    def of(cls, entry: ApprovalRecord) -> Pointer:
        folder = release_folder(entry.model, entry.version)
        told = {"model": entry.model, "version": entry.version, "entry": entry.entry}
        return cls(release=folder, manifest_digest=entry.manifest_digest or "", **told)

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(), indent=1).encode() + b"\n"


def read_pointer(bucket: Bucket, model: str) -> Pointer | None:
    """What a model's pointer names; None when it has none. Raises ReleaseError when it cannot be read."""
    content = bucket.get(pointer_key(model))
    if content is None:
        return None
    try:
        return Pointer.model_validate_json(content)
    except ValidationError as e:
        raise ReleaseError(f"{bucket.uri(pointer_key(model))} is damaged: publish or roll back once more") from e


def settle_pointer(bucket: Bucket, model: str) -> list[ApprovalRecord]:
    """Let the pointer name what the log says, or let there be none; returns that log."""
    key = pointer_key(model)
    for _ in range(_ATTEMPTS):
        found = bucket.fetch(key)
        log = read_log(bucket)
        current = current_release(log, model)
        wanted = Pointer.of(current).to_bytes() if current else None
        if (found.content if found else None) == wanted:
            return log
        if wanted is None:
            assert found is not None
            moved = bucket.remove(key, found.etag)
        else:
            moved = bucket.put_over(key, wanted, found.etag if found else None)
        if moved:
            return log
    raise ServiceUnavailable(f"{bucket.uri(key)} is being moved by others: try again")
