"""The audit: all is well after honest work, and every tampering is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from esd_core import digest
from flows.cli import main
from tasks.approvals import approval, lifecycle
from tasks.approvals.approval_log import FIRST, ApprovalRecord, Decision
from tasks.approvals.audit import audit
from tasks.records import mirror, registry, tracking
from tasks.records.registry import RegisteredVersion
from tasks.releases.release import publish
from tasks.s3.storage import Bucket
from tests.integration.conftest import Made, read_json

pytestmark = pytest.mark.slow

Make = Callable[..., Made]
MODEL = "esd-miniature-sun"
RELEASE = f"releases/{MODEL}/2/"


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


def _version(number: int) -> RegisteredVersion:
    return registry.get_version(MODEL, number)


def _artifact(number: int, name: str) -> Path:
    return Path(_version(number).artifacts.removeprefix("file://")) / name


def _object(bucket: Bucket, name: str) -> str:
    manifest = read_json(bucket.get(f"{RELEASE}manifest.json"))
    assert isinstance(manifest["files"], dict)
    return str(manifest["files"][name]["key"])


def _tag(number: int, name: str, value: str) -> Callable[[Bucket], object]:
    return lambda _: registry.mark(_version(number), {name: value})


def _untagged(number: int, name: str) -> Callable[[Bucket], object]:
    return lambda _: tracking.client().delete_model_version_tag(MODEL, str(number), name)


def _alias(alias: str, number: int) -> Callable[[Bucket], object]:
    return lambda _: registry.mark(_version(number), alias=alias)


def _changed(name: str) -> Callable[[Bucket], object]:
    def change(bucket: Bucket) -> None:
        content = bucket.get(_object(bucket, name))
        assert content
        bucket.put(_object(bucket, name), content[:-1] + bytes([content[-1] ^ 1]))

    return change


def _removed(name: str) -> Callable[[Bucket], object]:
    return lambda b: b.client.delete_object(Bucket=b.name, Key=_object(b, name))


def _copied_release(bucket: Bucket) -> None:
    """A release of version 5, which nobody approved."""
    for key in bucket.listing(RELEASE):
        bucket.put(key.replace("/2/", "/5/"), bucket.get(key) or b"")


def _appended(bucket: Bucket, number: int, decision: Decision, **changes: object) -> None:
    """An entry that somebody with write access adds by himself, chained as it must be."""
    keys = list(bucket.listing("approvals/"))
    previous = digest.of_bytes(bucket.get(keys[-1]) or b"") if keys else FIRST
    last = ApprovalRecord.model_validate_json(bucket.get(keys[0]) or b"")
    place = {"entry": len(keys) + 1, "version": number, "decision": decision, "previous": previous}
    told = {**last.model_dump(), **place, "weights_digest": _version(number).weights_digest, **changes}
    record = ApprovalRecord.model_validate(told)
    bucket.put(record.key, record.to_bytes())


def _edited_page(_bucket: Bucket) -> None:
    _, page = mirror.page_of(_version(4))
    mirror.describe(_version(4), page.replace("towers lost", "all is well"))


def _edited_pointer(bucket: Bucket) -> None:
    key = f"releases/{MODEL}/latest.json"
    bucket.put(key, (bucket.get(key) or b"").replace(b'"version": 2', b'"version": 1'))


def _edited_log(bucket: Bucket) -> None:
    key = "approvals/000004.json"
    bucket.put(key, (bucket.get(key) or b"").replace(b"towers lost", b"towers kept"))


def _lost(bucket: Bucket) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key=f"releases/{MODEL}/latest.json")


TAMPERINGS: dict[str, tuple[Callable[[Bucket], object], str]] = {
    "tag of the decision": (
        _tag(4, "esd.approval", "approved"),
        "4: tag esd.approval says 'approved', the approval log 'rejected'",
    ),
    "tag of who decided": (
        _tag(1, "esd.approval_by", "Eve"),
        "1: tag esd.approval_by says 'Eve', the approval log 'Ada'",
    ),
    "tag where nothing was decided": (
        _tag(5, "esd.approval", "approved"),
        "5: tag esd.approval says 'approved', the approval log ''",
    ),
    "tag removed": (_untagged(2, "esd.state"), "2: tag esd.state says '', the approval log 'released'"),
    "tag of the gates": (_tag(5, "esd.gates", "failed"), "5: tag esd.gates or esd.gates_digest says something else"),
    "tag of the weights": (_tag(5, "esd.weights_digest", "0" * 64), "5: tag esd.weights_digest says '000"),
    "tag of the concept": (_tag(5, "esd.concept", "moon"), "5: tag esd.concept says 'moon', what was registered 'sun'"),
    "tag of the job": (
        _tag(5, "esd.job", "{}"),
        "5 was not registered by this system: its esd.* tags are missing or damaged",
    ),
    "tag of the files": (_tag(5, "esd.files", json.dumps({"../x": "0"})), "its esd.* tags are missing or damaged"),
    "tag that marks it as ours": (_untagged(2, "esd.format"), "2: is in the approval log, but not in the registry"),
    "page": (_edited_page, "4: its page tells another history than the approval log"),
    "alias released": (_alias("released", 1), "alias released names 1, it should name 2: moved without a record"),
    "alias approved": (_alias("approved", 4), "alias approved names 4, it should name 3: moved without a record"),
    "alias candidate": (_alias("candidate", 1), "alias candidate names 1, it should name 5"),
    "pointer": (_edited_pointer, "latest.json names version 1, the approval log version 2: moved without a record"),
    "pointer lost": (_lost, "latest.json names nothing, the approval log version 2"),
    "artifact changed": (
        lambda _: _artifact(5, "grid.png").write_bytes(b"x"),
        "5: artifact grid.png: grid.png of .* was altered",
    ),
    "artifact missing": (lambda _: _artifact(5, "report.html").unlink(), "5: artifact report.html: .* is missing"),
    "weights changed": (_changed("weights.safetensors"), "2: in S3: weights.safetensors was altered"),
    "weights missing": (_removed("weights.safetensors"), "2: in S3: weights.safetensors is missing"),
    "object changed": (_changed("report.html"), "2: in S3: report.html was altered"),
    "object missing": (_removed("grid.png"), "2: in S3: grid.png is missing"),
    "object added": (lambda b: b.put(f"{RELEASE}more.json", b"{}"), "2: in S3: 'more.json' is not in the manifest"),
    "object outside": (
        lambda b: b.put("releases/notes.txt", b"x"),
        "^in S3: 'releases/notes.txt' is part of no release$",
    ),
    "tag of the reason, at length": (
        _tag(4, "esd.approval_reason", "towers kept, " * 100),
        r"4: tag esd.approval_reason says 'towers kept, .*\.\.\.', the approval log 'towers lost': edited by hand",
    ),
    "manifest changed": (
        lambda b: b.put(f"{RELEASE}manifest.json", (b.get(f"{RELEASE}manifest.json") or b"") + b" "),
        "2: in S3: manifest.json is not the one that was released",
    ),
    "released without approval": (
        _copied_release,
        "5: released without approval: it lies in S3, but the approval log says nothing of it",
    ),
    "released in the log without approval": (
        lambda b: _appended(b, 5, Decision.RELEASED, manifest_digest="0" * 64),
        r"5: entry 8 of the approval log \(released by Ada\): released without approval: no person approved it",
    ),
    "other weights approved": (
        lambda b: _appended(b, 5, Decision.APPROVED, weights_digest="ab" * 32),
        "5: entry 8 of the approval log .* is about weights abababababab, registered are",
    ),
    "approved against its gates": (
        lambda b: _appended(b, 5, Decision.APPROVED, gates_passed=False),
        "5: entry 8 .*: approved against its gates without an override",
    ),
    "entry changed": (_edited_log, "approval log .* is broken before approvals/000005.json: an entry was altered"),
}


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
