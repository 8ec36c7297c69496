"""What there is: every registered version with its verdict, approval and release."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks import approval, registry, release


class StatusRow(BaseModel):
    """One version; empty text where nothing has happened yet."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    concept: str
    base: str
    subset: str
    verdict: str  # "gates passed" or "gates not passed"
    approval: str  # e.g. "approved by Ada Lovelace"
    release: str  # address in S3


def status() -> list[StatusRow]:
    """All versions by model and version, from the registry, the approval log and the bucket themselves."""
    decisions, releases = approval.decisions(), release.released()
    rows = []
    for version in registry.list_versions():
        key = version.model, version.version
        record = decisions.get(key)
        rows.append(
            StatusRow(
                model=version.model,
                version=version.version,
                concept=version.job.name,
                base=version.job.base,
                subset=version.job.method,
                verdict="gates passed" if version.passed else "gates not passed",
                approval=f"{record.decision.value} by {record.by}" if record else "",
                release=releases.get(key, ""),
            )
        )
    return rows
