"""Who allowed what: decisions on registered versions, written to the approval log and shown in MLflow.

The log counts (tasks/approvals/approval_log.py); MLflow's tags, aliases and descriptions mirror it, since anyone may
overwrite those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.errors import ApprovalError
from esd_core.evaluation.gates import Verdict
from tasks.approvals import approval_log
from tasks.approvals.approval_log import ApprovalRecord, Decision, Entry
from tasks.approvals.standing import BY_POLICY, State, name_key, standing_of, standings, strictest
from tasks.records import mirror, registry
from tasks.records.registry import RegisteredVersion
from tasks.s3.storage import open_bucket
from tasks.settings import get_settings

__all__ = ["ApprovalRecord", "Decision", "approve", "approve_by_policy", "reject"]


def approve(
    model: str,
    version: int,
    by: str,
    reason: str,
    policy: ApprovalPolicy = ApprovalPolicy.MANUAL,
    *,
    override: bool = False,
) -> ApprovalRecord:
    """Record that `by` allows the version to be published.

    override: although a gate was not passed; the entry says so for ever. Raises ApprovalError for a blank name or
    reason, for what failed a gate and is not overridden, and for what is released or withdrawn; RegistryError where
    MLflow's tags say something else of the gates than the verdict that was registered.
    """
    registered = registry.get_version(model, version)
    registry.require_verdict(registered)
    if not registered.passed and not override:
        raise ApprovalError(
            f"{model} version {version} did not pass its gates: look at its report, and if it is to be approved all "
            "the same, add --override and say in the reason why"
        )
    return _decide(registered, Decision.APPROVED, by, reason, policy, override=override and not registered.passed)


def reject(
    model: str, version: int, by: str, reason: str, policy: ApprovalPolicy = ApprovalPolicy.MANUAL
) -> ApprovalRecord:
    """Record that `by` does not allow the version to be published, whatever was decided before."""
    return _decide(registry.get_version(model, version), Decision.REJECTED, by, reason, policy)


def approve_by_policy(version: RegisteredVersion, verdict: Verdict, policy: ApprovalPolicy) -> ApprovalRecord | None:
    """The decision that counts for a version; under the policy `gates`, passed gates make one when nobody has yet.

    None: people have to decide. What a person decided is never overruled by the policy. MLflow shows an approval when
    the version is published, which follows.
    """
    if version.policy is not policy:
        registry.mark(version, {registry.POLICY_TAG: policy.value})
        version = version.model_copy(update={"policy": policy})
    log, required = read_log(), required_policy(version)
    standing = standing_of(log, version.model, version.version)
    if standing.decided:
        if not standing.decided.approved:
            mirror.show(open_bucket(), version.model, log)
        waits = standing.state is State.APPROVED and standing.lacks(
            required, version.weights_digest, version.registered_digest
        )
        return None if waits else standing.decided
    if required is not ApprovalPolicy.GATES or not verdict.passed:
        return None
    reason = "; ".join(verdict.reasons)[:200]
    name = f"{BY_POLICY}{policy.value}"
    return _decide(version, Decision.APPROVED, name, reason, policy, verdict=verdict)


def required_policy(version: RegisteredVersion) -> ApprovalPolicy:
    """What publishing a version demands: the stricter one of the settings and of the list it was made from."""
    return strictest(get_settings().approval_policy, version.policy)


def missing(model: str, version: int) -> str | None:
    """What approvals a version still lacks, in words; None when they are enough."""
    registered = registry.get_version(model, version)
    standing = standing_of(read_log(), model, version)
    return standing.lacks(required_policy(registered), registered.weights_digest, registered.registered_digest)


def approval_of(model: str, version: int) -> ApprovalRecord | None:
    """The latest entry on a version, read from the log; None while there is none."""
    return standing_of(read_log(), model, version).last


def decisions() -> dict[tuple[str, int], ApprovalRecord]:
    """The decision that counts for publishing, of every version that has one: approval, rejection or withdrawal."""
    return {key: standing.decided for key, standing in standings(read_log()).items() if standing.decided}


def read_log() -> list[ApprovalRecord]:
    """The whole log, oldest first; raises ApprovalError at the first place where the chain is broken."""
    return approval_log.read_log(open_bucket())


def _decide(
    version: RegisteredVersion,
    decision: Decision,
    by: str,
    reason: str,
    policy: ApprovalPolicy,
    *,
    override: bool = False,
    verdict: Verdict | None = None,
) -> ApprovalRecord:
    """Append a decision, and mirror a person's; the same by the same person for the same reason is not repeated."""
    require_text(by, "who decides (--by)", person=verdict is None)
    require_text(reason, "why (--reason)")
    wanted = Entry(
        model=version.model,
        version=version.version,
        decision=decision,
        by=by,
        reason=reason,
        policy=strictest(policy, required_policy(version)),
        weights_digest=version.weights_digest,
        registered_digest=version.registered_digest,
        gates_passed=verdict.passed if verdict else version.passed,
        gates_digest=digest.of_json(verdict.model_dump(mode="json")) if verdict else version.gates_digest,
        override=override,
    )
    bucket = open_bucket()
    record = approval_log.append(bucket, _unless_others_decide(wanted) if verdict is None else _unless_decided(wanted))
    if record and verdict:
        return record
    log = approval_log.read_log(bucket)
    standing = standing_of(log, version.model, version.version)
    if verdict is None:
        mirror.show(bucket, version.model, log)
        said = record or next((entry for entry in reversed(standing.entries) if says_the_same(entry, wanted)), None)
    else:
        said = standing.decided
    assert said is not None  # it was not appended because it is there
    return said


def _unless_decided(wanted: Entry) -> Callable[[Sequence[ApprovalRecord]], Entry | None]:
    """What a policy appends: nothing once somebody has decided, be it a moment ago."""
    return lambda log: None if standing_of(log, wanted.model, wanted.version).decided else wanted


def _unless_others_decide(wanted: Entry) -> Callable[[Sequence[ApprovalRecord]], Entry | None]:
    """What a person appends; ApprovalError when, at the same moment, another one decided otherwise."""
    seen: list[ApprovalRecord | None] = []

    def decide(log: Sequence[ApprovalRecord]) -> Entry | None:
        last = standing_of(log, wanted.model, wanted.version).last
        seen.append(last)
        if last and last != seen[0] and last.decision is not wanted.decision:
            raise ApprovalError(
                f"{wanted.model} version {wanted.version} was {last.decision.value} by {last.by} at this moment "
                f"({last.reason}): nothing was added; look at that, and decide again"
            )
        return _unless_said(log, wanted)

    return decide


def _unless_said(log: Sequence[ApprovalRecord], wanted: Entry) -> Entry | None:
    """What is to be appended; None when it was said already; ApprovalError when it can no longer be said."""
    standing = standing_of(log, wanted.model, wanted.version)
    name, last = f"{wanted.model} version {wanted.version}", standing.last
    since = standing.approvals if wanted.decision is Decision.APPROVED else (last,) if last else ()
    if standing.state in (State.APPROVED, State.REJECTED) and any(says_the_same(e, wanted) for e in since):
        return None
    if last and standing.state is State.WITHDRAWN:
        raise ApprovalError(f"{name} was withdrawn by {last.by} ({last.reason}) and stays so: publish another version")
    if standing.state in (State.RELEASED, State.SUPERSEDED):
        remedy = "to take it back: `esd withdraw`" if wanted.decision is Decision.REJECTED else "see `esd rollback`"
        raise ApprovalError(f"{name} is decided already, it was {standing.state.value}: {remedy}")
    return wanted


def says_the_same(entry: Entry, wanted: Entry) -> bool:
    named = ("decision", "by", "reason", "weights_digest", "registered_digest", "override")
    return all(getattr(entry, name) == getattr(wanted, name) for name in named)


def require_text(value: str, what: str, *, person: bool = False) -> None:
    """Raise ApprovalError unless the value is one line of text; person: and no name that a policy uses."""
    text = value.strip()
    if not text or not text.isprintable() or len(text) > 200 or (person and name_key(text).startswith(BY_POLICY)):
        raise ApprovalError(
            f"the approval log must say {what}, in one line of at most 200 characters; given: {value!r}"[:300]
        )
