"""The audit: all is well after honest work, and every tampering is named."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from flows.cli import main
from tasks.approvals import approval, lifecycle
from tasks.approvals.audit import audit
from tasks.releases.release import publish
from tasks.s3.storage import Bucket
from tests.integration.conftest import Made
from tests.integration.tamperings import MODEL, TAMPERINGS

pytestmark = pytest.mark.slow

Make = Callable[..., Made]


@pytest.fixture
def history(bucket: Bucket, make: Make) -> Bucket:
    """1 superseded, 2 released, 3 approved, 4 rejected, 5 a candidate."""
    for seed in (1, 2, 3, 4, 5):
        make(seed=seed).register()
    for version in (1, 2, 3):
        approval.approve(MODEL, version, "Ada", "fine")
    approval.reject(MODEL, 4, "Grace", "towers lost")
    publish(MODEL, 1)
    publish(MODEL, 2)
    return bucket


def found() -> list[str]:
    return [disagreement.sentence for disagreement in audit().disagreements]


def test_honest_work_agrees(history: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert history.name
    assert found() == []
    assert main(["audit"]) == 0
    looked_at = "5 versions, 2 releases (2 not signed) and 7 entries of the approval log"
    assert capsys.readouterr().out == f"looked at {looked_at}: everything agrees\n"
    lifecycle.rollback(MODEL, 1, "Grace", "grey skies")
    lifecycle.withdraw(MODEL, 1, "Grace", "grey, too")
    assert found() == []


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_every_tampering_is_named(history: Bucket, tampering: str, capsys: pytest.CaptureFixture[str]) -> None:
    tamper, sentence = TAMPERINGS[tampering]
    tamper(history)
    assert main(["audit"]) == 1
    told = capsys.readouterr()
    named = [line for line in told.err.splitlines() if re.search(sentence, line)]
    assert named, told.err
    assert re.search(r": \d+ disagreements?$", told.out)
    assert all(len(line) < 400 for line in told.err.splitlines())
