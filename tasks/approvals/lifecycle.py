"""What happens to a version after its approval: released, superseded, rolled back to, withdrawn.

Each is an entry of the approval log first; pointer and MLflow follow the log, and every attempt completes what an
earlier one, cut anywhere, has left.
"""

from __future__ import annotations

import getpass
import platform
from collections.abc import Sequence

from esd_core.errors import ApprovalError, ReleaseError
from tasks.approvals.approval import require_text
from tasks.approvals.approval_log import ApprovalRecord, Decision, Entry, append, read_log
from tasks.approvals.standing import State, current_release, standing_of, standings
from tasks.records import mirror
from tasks.releases.layout import release_folder
from tasks.releases.pointer import settle_pointer
from tasks.releases.verifying import verify
from tasks.s3.storage import Bucket, open_bucket


def record_release(bucket: Bucket, model: str, version: int, by: str, manifest_digest: str) -> None:
    """Record that an approved version is released, unless it was before; then let all else follow."""

    def released(records: Sequence[ApprovalRecord]) -> Entry | None:
        standing = standing_of(records, model, version)
        if standing.state is not State.APPROVED:
            return None
        names = ", ".join(dict.fromkeys(entry.by for entry in standing.approvals))
        return following(
            standing.approvals[-1], Decision.RELEASED, by, f"approved by {names}"[:200], manifest_digest=manifest_digest
        )

    append(bucket, released)
    settle(bucket, model, by)


def rollback(model: str, version: int, by: str, reason: str) -> str:
    """Let a model's pointer name an earlier release again, which is verified first; returns its address.

    Raises ApprovalError when the version was never released, or was withdrawn; ReleaseError when it is not whole.
    """
    require_text(by, "who decides (--by)", person=True)
    require_text(reason, "why (--reason)")
    bucket = open_bucket()
    uri = bucket.uri(release_folder(model, version))

    def again(records: Sequence[ApprovalRecord]) -> Entry | None:
        standing = standing_of(records, model, version)
        if standing.state is State.RELEASED:
            return None
        if standing.state is not State.SUPERSEDED or standing.released is None:
            raise ApprovalError(
                f"{model} version {version} is {standing.state.value}: only a release that another one took the place "
                "of can be rolled back to"
            )
        return following(standing.released, Decision.RELEASED, by, reason)

    again(read_log(bucket))
    faults = verify(uri)
    if faults:
        raise ReleaseError(f"{uri} cannot be rolled back to: {'; '.join(faults)}")
    append(bucket, again)
    settle(bucket, model, by)
    return uri


def withdraw(model: str, version: int, by: str, reason: str) -> ApprovalRecord:
    """Record that nobody shall use a released version any more; its objects stay, its pointer goes."""
    require_text(by, "who decides (--by)", person=True)
    require_text(reason, "why (--reason)")
    bucket = open_bucket()

    def withdrawn(records: Sequence[ApprovalRecord]) -> Entry | None:
        standing = standing_of(records, model, version)
        if standing.state is State.WITHDRAWN:
            return None
        if standing.released is None:
            raise ApprovalError(
                f"{model} version {version} is {standing.state.value}, not released: `esd reject` keeps it from that"
            )
        return following(standing.released, Decision.WITHDRAWN, by, reason)

    append(bucket, withdrawn)
    settle(bucket, model, by)
    record = standing_of(read_log(bucket), model, version).last
    assert record is not None
    return record


def following(
    entry: ApprovalRecord, decision: Decision, by: str, reason: str, *, manifest_digest: str | None = None
) -> Entry:
    """The next entry on the same version: what was judged stays what it was."""
    same = entry.model_dump(include=set(Entry.model_fields))
    changed = {"decision": decision, "by": by, "reason": reason}
    return Entry(**{**same, **changed, "manifest_digest": manifest_digest or entry.manifest_digest})


def settle(bucket: Bucket, model: str, by: str) -> None:
    """Let everything follow the log: other releases of the model are superseded, the pointer moves, MLflow shows it."""
    log = settle_pointer(bucket, model)
    while _superseded(log, model, by):
        append(bucket, lambda records: _superseded(records, model, by))
        log = read_log(bucket)
    mirror.show(bucket, model, log)


def _superseded(records: Sequence[ApprovalRecord], model: str, by: str) -> Entry | None:
    """That another version took the place of a release which is still recorded as one; None when there is none."""
    current = current_release(records, model)
    for (name, version), standing in standings(records).items():
        outdated = current and name == model and version != current.version and standing.state is State.RELEASED
        if current and outdated and standing.last:
            return following(standing.last, Decision.SUPERSEDED, by, f"version {current.version} took its place")
    return None


def operator() -> str:
    """The account this runs under, as people read it."""
    return f"{getpass.getuser()} on {platform.node() or 'this machine'}"[:200]
