"""Where a version stands, as the approval log tells it: pure functions of its entries.

    candidate -> approved | rejected;  approved -> released -> superseded | withdrawn

What was rejected may be approved after all, what was superseded may be released again (a rollback); what was withdrawn
stays withdrawn.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from esd_core.concept_list import ApprovalPolicy
from tasks.approvals.approval_log import ApprovalRecord, Decision

BY_POLICY = "policy "  # how the name of one who is no person begins
_STRICTNESS = (ApprovalPolicy.GATES, ApprovalPolicy.MANUAL, ApprovalPolicy.TWO_PERSON)


class State(StrEnum):
    CANDIDATE = "candidate"
    APPROVED = "approved"
    REJECTED = "rejected"
    RELEASED = "released"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Standing:
    """entries: all of this version, oldest first. approvals: since it was last rejected."""

    entries: tuple[ApprovalRecord, ...] = ()

    @property
    def last(self) -> ApprovalRecord | None:
        return self.entries[-1] if self.entries else None

    @property
    def state(self) -> State:
        """An approval alone makes it approved; whether it is enough says `lacks`."""
        return State(self.last.decision.value) if self.last else State.CANDIDATE

    @property
    def approvals(self) -> tuple[ApprovalRecord, ...]:
        rejected = max((i for i, e in enumerate(self.entries) if e.decision is Decision.REJECTED), default=-1)
        return tuple(entry for entry in self.entries[rejected + 1 :] if entry.approved)

    @property
    def decided(self) -> ApprovalRecord | None:
        """The decision that counts for publishing: the last approval, rejection or withdrawal."""
        counting = (Decision.APPROVED, Decision.REJECTED, Decision.WITHDRAWN)
        return next((entry for entry in reversed(self.entries) if entry.decision in counting), None)

    @property
    def released(self) -> ApprovalRecord | None:
        """The latest entry that released it."""
        return next((entry for entry in reversed(self.entries) if entry.decision is Decision.RELEASED), None)

    @property
    def overridden(self) -> bool:
        return any(entry.override for entry in self.approvals)

    def lacks(self, policy: ApprovalPolicy, weights_digest: str, registered_digest: str | None) -> str | None:
        """What approvals of this are still missing under a policy, in words; None when they are enough."""
        return lacking(self.approvals, policy, weights_digest, registered_digest)


def fits(entry: ApprovalRecord, weights_digest: str, registered_digest: str | None) -> bool:
    """Whether an entry is about these weights, and about what was registered with them, where both sides noted it."""
    noted = entry.registered_digest and registered_digest
    return entry.weights_digest == weights_digest and (not noted or entry.registered_digest == registered_digest)


def lacking(
    approvals: Iterable[ApprovalRecord], policy: ApprovalPolicy, weights_digest: str, registered_digest: str | None
) -> str | None:
    """What is missing under a policy, or under a stricter one that an approval was asked for by; None when nothing is.

    What was asked for once cannot be lowered by a tag in MLflow.
    """
    fitting = [entry for entry in approvals if fits(entry, weights_digest, registered_digest)]
    policy = demanded(policy, fitting)
    people = {name_key(entry.by) for entry in fitting if not entry.by.startswith(BY_POLICY)}
    if policy is ApprovalPolicy.GATES:
        return None if fitting else "nobody approved it"
    if policy is ApprovalPolicy.MANUAL:
        return None if people else "no person approved it"
    if len(people) < 2:
        only = next((entry.by for entry in reversed(fitting) if not entry.by.startswith(BY_POLICY)), None)
        return f"two people must approve it, so far only {only} did" if only else "two people must approve it"
    return None


def demanded(policy: ApprovalPolicy, approvals: Iterable[ApprovalRecord]) -> ApprovalPolicy:
    """The policy that counts: the one given, or a stricter one that an approval was asked for by."""
    return strictest(policy, *(entry.policy for entry in approvals))


def name_key(name: str) -> str:
    """A name as it is compared: "Ada  Lovelace" and "ada lovelace" are one person."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def strictest(*policies: ApprovalPolicy) -> ApprovalPolicy:
    return max(policies, key=_STRICTNESS.index)


def standing_of(log: Iterable[ApprovalRecord], model: str, version: int) -> Standing:
    return Standing(tuple(entry for entry in log if (entry.model, entry.version) == (model, version)))


def standings(log: Iterable[ApprovalRecord]) -> dict[tuple[str, int], Standing]:
    """Where every version stands that the log knows."""
    entries: dict[tuple[str, int], list[ApprovalRecord]] = {}
    for entry in log:
        entries.setdefault((entry.model, entry.version), []).append(entry)
    return {key: Standing(tuple(found)) for key, found in entries.items()}


def current_release(log: Iterable[ApprovalRecord], model: str) -> ApprovalRecord | None:
    """The entry that released what a model's pointer must name; None before the first and after a withdrawal."""
    current: ApprovalRecord | None = None
    for entry in log:
        if entry.model != model:
            continue
        if entry.decision is Decision.RELEASED:
            current = entry
        elif entry.decision is Decision.WITHDRAWN and current and current.version == entry.version:
            current = None
    return current
