"""What MLflow shows of the approval log: tags, aliases and a history on each version's page.

Everything follows from the log, so that it can be written again at any time, and compared (tasks/approvals/audit.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.approvals.approval_log import ApprovalRecord, Decision
from tasks.approvals.standing import Standing, State, current_release, standing_of, standings
from tasks.records import registry, tracking
from tasks.records.model_card import cell
from tasks.records.registry import RegisteredVersion
from tasks.releases.layout import release_folder
from tasks.s3.storage import Bucket

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_logger = logging.getLogger(__name__)

HISTORY = "\n\n## Decisions\n\n"  # begins what is written here; what stands before it is left as it is
ALLOWED = (State.APPROVED, State.RELEASED, State.SUPERSEDED)


def show(bucket: Bucket, model: str, log: Sequence[ApprovalRecord]) -> None:
    """Let MLflow show where every version of a model stands; what it shows already is not written again."""
    with tracking.errors(f"what the log says of {model} cannot be shown"):
        pages = {int(page.version): page for page in tracking.search_versions(f"name = '{model}'")}
        for version in sorted({entry.version for entry in log if entry.model == model}):
            if version in pages:
                _show_version(bucket, pages[version], log)
            else:  # it was deleted from the registry: the log and S3 count
                _logger.warning("%s version %s is not in the registry any more", model, version)
        if pages:
            expected = expected_aliases(log, model)
            _show_aliases(model, {alias: number for alias, number in expected.items() if number in pages})


def _show_version(bucket: Bucket, page: ModelVersion, log: Sequence[ApprovalRecord]) -> None:
    model, version, description = page.name, int(page.version), page.description or ""
    expected = expected_tags(bucket, standing_of(log, model, version))
    tracking.set_tags(model, version, {n: value for n, value in expected.items() if page.tags.get(n) != value})
    told = description.partition(HISTORY)[0] + history(bucket, log, model, version)
    if told != description:
        tracking.writer().update_model_version(model, str(version), told)


def _show_aliases(model: str, expected: Mapping[str, int]) -> None:
    shown = aliases_of(model)
    for alias in (registry.APPROVED, registry.RELEASED):
        number = expected.get(alias)
        if number is None and alias in shown:
            tracking.delete_alias(model, alias)
        elif number is not None and shown.get(alias) != number:
            tracking.set_alias(model, alias, number)


def expected_tags(bucket: Bucket, standing: Standing) -> dict[str, str]:
    """The tags that a version must have, given its entries in the log; none while there are none."""
    decided, released = standing.decided, standing.released
    if standing.last is None or decided is None:
        return {}
    tags = {
        "esd.state": standing.state.value,
        "esd.approval": decided.decision.value,
        "esd.approval_by": decided.by,
        "esd.approval_at": decided.at.isoformat(timespec="seconds"),
        "esd.approval_reason": decided.reason,
        "esd.approval_entry": f"{decided.entry:06d}",
    }
    if any(entry.override for entry in standing.entries):
        tags["esd.override"] = "approved although a gate was not passed"
    if released:
        tags["esd.release"] = bucket.uri(release_folder(released.model, released.version))
        tags["esd.release_manifest"] = released.manifest_digest or ""
    return tags


def expected_aliases(log: Sequence[ApprovalRecord], model: str) -> dict[str, int]:
    """The versions that the aliases `approved` and `released` must name."""
    of_model = [entry for entry in log if entry.model == model]
    allowed = {version for (_, version), standing in standings(of_model).items() if standing.state in ALLOWED}
    approved = next((e.version for e in reversed(of_model) if e.approved and e.version in allowed), None)
    current = current_release(of_model, model)
    named = {registry.APPROVED: approved, registry.RELEASED: current.version if current else None}
    return {alias: number for alias, number in named.items() if number is not None}


def history(bucket: Bucket, log: Sequence[ApprovalRecord], model: str, version: int) -> str:
    """Markdown: every entry on a version, where it was released, and what it replaced."""
    entries = standing_of(log, model, version).entries
    if not entries:
        return ""
    rows = [
        f"| {e.entry} | {e.at:%Y-%m-%d %H:%M} | {e.decision.value}{' against its gates' if e.override else ''} "
        f"| {cell(e.by)} | {cell(e.reason)} |"
        for e in entries
    ]
    table = "\n".join(["| entry | when (UTC) | what | who | why |", "|---:|---|---|---|---|", *rows])
    return HISTORY + table + "".join(_places(bucket, log, entries))


def history_in(description: str) -> str:
    """The part of a version's page that tells its history; empty when it has none."""
    _, mark, told = description.partition(HISTORY)
    return mark + told


def _places(bucket: Bucket, log: Sequence[ApprovalRecord], entries: Sequence[ApprovalRecord]) -> list[str]:
    """Where a version was released, and what it took the place of, for each time it was released."""
    sentences = []
    for entry in entries:
        if entry.decision is Decision.RELEASED:
            before = current_release(log[: entry.entry - 1], entry.model)
            replaced = f"in place of version {before.version}" if before else "where no version was"
            uri = bucket.uri(release_folder(entry.model, entry.version))
            sentences.append(f"\n\nReleased by entry {entry.entry} at `{uri}`, {replaced}.")
    return sentences


def aliases_of(model: str) -> dict[str, int]:
    """Version number by alias."""
    with tracking.errors(f"there is no model {model}: `esd status` lists what there is"):
        aliases = tracking.client().get_registered_model(model).aliases
    return {alias: int(number) for alias, number in aliases.items()}  # a number or text, depending on the store


def page_of(version: RegisteredVersion) -> tuple[dict[str, str], str]:
    """A version's tags, and its description in Markdown."""
    with tracking.errors(f"{version.model} has no version {version.version}"):
        entry = tracking.client().get_model_version(version.model, str(version.version))
    return dict(entry.tags), entry.description or ""


def describe(version: RegisteredVersion, description: str) -> None:
    """Replace a version's description."""
    with tracking.errors(f"{version.model} version {version.version} cannot be described"):
        tracking.writer().update_model_version(version.model, str(version.version), description)
