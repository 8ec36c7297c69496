"""What there is: every registered version with its verdict, approval and release."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.approvals import approval
from tasks.approvals.standing import Standing, State, standings
from tasks.records import registry
from tasks.records.registry import RegisteredVersion
from tasks.releases import release


class StatusRow(BaseModel):
    """One version; empty text where nothing has happened yet."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    concept: str
    base: str
    subset: str
    verdict: str  # "gates passed" or "gates not passed"
    approval: str  # e.g. "approved by Ada Lovelace, superseded"
    release: str  # address in S3


def status() -> list[StatusRow]:
    """All versions by model and version, from the registry, the approval log and the bucket themselves."""
    known, releases = standings(approval.read_log()), release.released()
    rows = []
    for version in registry.list_versions():
        key = version.model, version.version
        standing = known.get(key, Standing())
        rows.append(
            StatusRow(
                model=version.model,
                version=version.version,
                concept=version.job.name,
                base=version.job.base,
                subset=version.job.method,
                verdict="gates passed" if version.passed else "gates not passed",
                approval=_told(version, standing),
                release=releases.get(key, ""),
            )
        )
    return rows


def _told(version: RegisteredVersion, standing: Standing) -> str:
    """Who decided what, what is still missing, and what became of it."""
    decided = standing.decided
    if decided is None:
        return ""
    told = [f"{decided.decision.value} by {decided.by}"]
    if standing.overridden:
        told.append("against its gates")
    required = approval.required_policy(version)
    missing = standing.lacks(required, version.weights_digest, version.registered_digest)
    if missing and standing.state is State.APPROVED:
        told.append(missing)
    if standing.state is State.SUPERSEDED:
        told.append("superseded")
    return ", ".join(told)
