"""The approval log in S3: append-only, chained, and what MLflow shows of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.errors import ApprovalError, RegistryError
from tasks.approvals import approval
from tasks.approvals.approval import Decision
from tasks.approvals.lifecycle import withdraw
from tasks.records import registry, tracking
from tasks.records.registry import RegisteredVersion
from tasks.releases.release import publish
from tasks.s3.storage import Bucket
from tasks.settings import Settings
from tests.integration.conftest import Made, read_json

Make = Callable[..., Made]


def _tags_and_aliases(version: RegisteredVersion) -> tuple[dict[str, str], list[str]]:
    entry = tracking.client().get_model_version(version.model, str(version.version))
    return entry.tags, list(entry.aliases)


def test_an_approval_says_who_when_why_and_what(version: RegisteredVersion, bucket: Bucket) -> None:
    record = approval.approve(version.model, 1, "Ada Lovelace", "looked at the grid", ApprovalPolicy.MANUAL)
    stored = read_json(bucket.get("approvals/000001.json"))
    assert (stored["by"], stored["reason"], stored["decision"]) == ("Ada Lovelace", "looked at the grid", "approved")
    assert stored["weights_digest"] == version.weights_digest
    assert stored["gates_passed"] is True
    assert stored["previous"] == "0" * 64
    assert approval.approval_of(version.model, 1) == record
    assert record.approved
    tags, aliases = _tags_and_aliases(version)
    assert (tags["esd.approval"], tags["esd.approval_by"]) == ("approved", "Ada Lovelace")
    assert sorted(aliases) == ["approved", "candidate"]


def test_the_latest_decision_counts(version: RegisteredVersion) -> None:
    assert approval.approval_of(version.model, 1) is None
    approval.approve(version.model, 1, "Ada", "fine")
    approval.reject(version.model, 1, "Grace", "churches have lost their towers")
    record = approval.approval_of(version.model, 1)
    assert record
    assert (record.decision, record.by, record.entry) == (Decision.REJECTED, "Grace", 2)
    tags, aliases = _tags_and_aliases(version)
    assert tags["esd.approval"] == "rejected"
    assert aliases == ["candidate"]


def test_every_entry_holds_the_digest_of_the_one_before(version: RegisteredVersion, bucket: Bucket) -> None:
    for i in range(3):
        approval.approve(version.model, 1, "Ada", f"look number {i}")
    contents = [bucket.get(f"approvals/00000{i}.json") for i in (1, 2, 3)]
    chain = [read_json(content)["previous"] for content in contents]
    assert chain == ["0" * 64, *(digest.of_bytes(content) for content in contents[:2] if content)]


def test_deciding_the_same_again_is_no_new_entry(version: RegisteredVersion) -> None:
    first = approval.approve(version.model, 1, "Ada", "fine")
    assert approval.approve(version.model, 1, " Ada ", "fine") == first
    assert len(approval.read_log()) == 1


def _alter(bucket: Bucket, key: str, **changes: object) -> None:
    bucket.put(key, json.dumps({**read_json(bucket.get(key)), **changes}).encode())


@pytest.mark.parametrize(
    "tamper",
    [
        lambda b: _alter(b, "approvals/000001.json", decision="approved"),
        lambda b: _alter(b, "approvals/000002.json", entry=7),
        lambda b: b.put("approvals/000002.json", b"{}"),
        lambda b: b.put("approvals/000001b.json", b"{}"),
        lambda b: b.client.delete_object(Bucket=b.name, Key="approvals/000001.json"),
        lambda b: b.client.delete_object(Bucket=b.name, Key="approvals/000002.json"),
    ],
    ids=["altered", "renumbered", "emptied", "inserted", "first dropped", "middle dropped"],
)
def test_a_log_that_was_tampered_with_is_refused(
    version: RegisteredVersion, bucket: Bucket, tamper: Callable[[Bucket], object]
) -> None:
    approval.reject(version.model, 1, "Ada", "no")
    approval.reject(version.model, 1, "Ada", "still no")
    approval.approve(version.model, 1, "Ada", "after all")
    tamper(bucket)
    with pytest.raises(ApprovalError, match=r"approval log s3://.*/approvals/ is broken") as caught:
        approval.approval_of(version.model, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(ApprovalError, match="is broken"):
        approval.approve(version.model, 1, "Ada", "on top")


@pytest.mark.parametrize(("by", "reason"), [("", "fine"), ("  ", "fine"), ("Ada", ""), ("Ada", "two\nlines")])
def test_nobody_approves_without_name_and_reason(version: RegisteredVersion, by: str, reason: str) -> None:
    with pytest.raises(ApprovalError, match="the approval log must say"):
        approval.approve(version.model, 1, by, reason)
    assert approval.read_log() == []


@pytest.mark.usefixtures("bucket")
def test_what_is_not_registered_cannot_be_approved() -> None:
    with pytest.raises(RegistryError, match="esd-miniature-sun has no version 4"):
        approval.approve("esd-miniature-sun", 4, "Ada", "fine")


def test_the_gates_policy_approves_what_passed(version: RegisteredVersion, make: Make) -> None:
    verdict = make(seed=9).verdict
    record = approval.approve_by_policy(version, verdict, ApprovalPolicy.GATES)
    assert record
    assert (record.by, record.policy, record.gates_passed) == ("policy gates", ApprovalPolicy.GATES, True)
    assert "of its base rate" in record.reason
    assert approval.approve_by_policy(version, verdict, ApprovalPolicy.GATES) == record
    assert len(approval.read_log()) == 1


def test_the_gates_policy_leaves_to_people_what_did_not_pass(bucket: Bucket, make: Make) -> None:
    made = make(after=15)
    version = made.register()
    assert not version.passed
    assert approval.approve_by_policy(version, made.verdict, ApprovalPolicy.GATES) is None
    assert approval.approve_by_policy(version, make(seed=2).verdict, ApprovalPolicy.MANUAL) is None
    assert list(bucket.listing("approvals/")) == []
    with pytest.raises(ApprovalError, match=r"did not pass its gates: .* add --override"):
        approval.approve(version.model, version.version, "Ada", "good enough for a study")
    record = approval.approve(version.model, version.version, "Ada", "good enough for a study", override=True)
    assert (record.gates_passed, record.override) == (False, True)
    assert len(approval.read_log()) == 1


@pytest.mark.usefixtures("bucket")
def test_an_override_shows_for_ever(make: Make) -> None:
    version = make(after=15).register()
    approval.approve(version.model, 1, "Ada", "only for a study", override=True)
    approval.reject(version.model, 1, "Grace", "the study is over")
    page = tracking.client().get_model_version(version.model, "1")
    assert page.tags["esd.override"] == "approved although a gate was not passed"
    assert "approved against its gates" in (page.description or "")
    assert "| Grace | the study is over |" in (page.description or "")


def test_two_people_of_different_names_have_to_approve(version: RegisteredVersion, make: Make) -> None:
    verdict = make(seed=9).verdict
    assert approval.approve_by_policy(version, verdict, ApprovalPolicy.TWO_PERSON) is None
    assert approval.read_log() == []
    first = approval.approve(version.model, 1, "Ada Lovelace", "looked at the grid")
    assert first.policy is ApprovalPolicy.TWO_PERSON
    approval.approve(version.model, 1, "ada  LOVELACE", "looked again")
    version = registry.get_version(version.model, 1)
    assert approval.approve_by_policy(version, verdict, ApprovalPolicy.TWO_PERSON) is None
    with pytest.raises(ApprovalError, match=r"two people must approve it, so far only ada {1,2}LOVELACE did"):
        publish(version.model, 1)
    second = approval.approve(version.model, 1, "Grace Hopper", "neighbours are intact")
    assert approval.approve_by_policy(version, verdict, ApprovalPolicy.TWO_PERSON) == second
    publish(version.model, 1)


def test_the_house_may_ask_for_more_than_the_list(
    version: RegisteredVersion, make: Make, fresh_settings: Callable[..., Settings]
) -> None:
    verdict = make(seed=9).verdict
    assert approval.approve_by_policy(version, verdict, ApprovalPolicy.GATES)
    fresh_settings(approval_policy="manual")
    with pytest.raises(ApprovalError, match="not approved under the policy manual: no person approved it"):
        publish(version.model, 1)
    assert approval.approve_by_policy(version, verdict, ApprovalPolicy.GATES) is None
    approval.approve(version.model, 1, "Ada", "fine")
    publish(version.model, 1)


@pytest.mark.parametrize("name", ["policy gates", "Policy gates", " POLICY  gates"])
def test_nobody_takes_the_policys_name(version: RegisteredVersion, name: str) -> None:
    with pytest.raises(ApprovalError, match="the approval log must say who decides"):
        approval.approve(version.model, 1, name, "fine")


def test_what_is_released_is_not_decided_again(version: RegisteredVersion) -> None:
    approval.approve(version.model, 1, "Ada", "fine")
    publish(version.model, 1)
    for decide in (approval.approve, approval.reject):
        with pytest.raises(ApprovalError, match="is decided already, it was released"):
            decide(version.model, 1, "Grace", "second thoughts")
    withdraw(version.model, 1, "Grace", "second thoughts")
    with pytest.raises(ApprovalError, match=r"was withdrawn by Grace \(second thoughts\) and stays so"):
        approval.approve(version.model, 1, "Ada", "fine, really")
    with pytest.raises(ApprovalError, match=r"was withdrawn by Grace"):
        publish(version.model, 1)


def test_the_policy_never_overrules_a_person(version: RegisteredVersion, make: Make) -> None:
    rejected = approval.reject(version.model, 1, "Ada", "the sun is gone, and so are the beaches")
    assert approval.approve_by_policy(version, make(seed=9).verdict, ApprovalPolicy.GATES) == rejected
    assert not rejected.approved


def test_a_decision_whose_mirror_failed_is_mirrored_by_the_next_attempt(
    version: RegisteredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(tracking, "set_tags", lambda *_args, **_kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            approval.approve(version.model, 1, "Ada", "fine")
    approval.approve(version.model, 1, "Ada", "fine")
    assert len(approval.read_log()) == 1
    assert "approved" in _tags_and_aliases(version)[1]
