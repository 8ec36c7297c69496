"""People and policies that decide on one version at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from esd_core.concept_list import ApprovalPolicy
from esd_core.errors import ApprovalError
from tasks.approvals import approval
from tasks.approvals.approval import Decision
from tasks.records.registry import RegisteredVersion
from tasks.s3.storage import JSON, Bucket
from tests.integration.conftest import Made

Make = Callable[..., Made]


def test_people_deciding_at_once_all_get_their_entry(version: RegisteredVersion) -> None:
    with ThreadPoolExecutor(4) as people:
        list(people.map(lambda i: approval.approve(version.model, 1, f"person {i}", "fine"), range(4)))
    log = approval.read_log()  # checks the chain
    assert sorted(record.by for record in log) == [f"person {i}" for i in range(4)]
    assert [record.entry for record in log] == [1, 2, 3, 4]


@contextmanager
def meanwhile(decide: Callable[[], object]) -> Iterator[None]:
    """Let somebody decide after the log was read and before the next entry is written."""
    original = Bucket.put_new
    waiting = [decide]

    def put_new(self: Bucket, key: str, content: bytes, content_type: str = JSON) -> bool:
        if waiting:
            waiting.pop()()
        return original(self, key, content, content_type)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "put_new", put_new)
        yield


def test_of_two_who_disagree_at_once_the_second_is_told(version: RegisteredVersion) -> None:
    refused = pytest.raises(
        ApprovalError, match=r"was rejected by Grace at this moment \(towers lost\): nothing was added"
    )
    with meanwhile(lambda: approval.reject(version.model, 1, "Grace", "towers lost")), refused:
        approval.approve(version.model, 1, "Ada", "fine")
    assert [(e.by, e.decision) for e in approval.read_log()] == [("Grace", Decision.REJECTED)]
    approval.approve(version.model, 1, "Ada", "fine all the same")  # now that she knows
    with meanwhile(lambda: approval.approve(version.model, 1, "Grace", "agreed")):
        approval.approve(version.model, 1, "Mary", "agreed")
    assert [e.by for e in approval.read_log()] == ["Grace", "Ada", "Grace", "Mary"]


def test_the_policy_does_not_overrule_a_person_of_the_same_moment(version: RegisteredVersion, make: Make) -> None:
    with meanwhile(lambda: approval.reject(version.model, 1, "Grace", "towers lost")):
        counting = approval.approve_by_policy(version, make(seed=9).verdict, ApprovalPolicy.GATES)
    assert counting == approval.approval_of(version.model, 1)
    assert [(e.by, e.decision) for e in approval.read_log()] == [("Grace", Decision.REJECTED)]
