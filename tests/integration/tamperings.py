"""What somebody may do to registry, artifacts, S3 and log behind our back, and the sentence that must name it.

Of the history that test_audit makes: 1 superseded, 2 released, 3 approved, 4 rejected, 5 a candidate.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from esd_core import digest
from infra.processes import free_port
from tasks.approvals.approval_log import FIRST, ApprovalRecord, Decision
from tasks.records import mirror, registry, tracking
from tasks.records.registry import RegisteredVersion
from tasks.s3.storage import Bucket
from tests.integration.conftest import read_json

MODEL = "esd-miniature-sun"
RELEASE = f"releases/{MODEL}/2/"
POINTER = f"releases/{MODEL}/latest.json"


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


def _files(_bucket: Bucket, number: int, change: Callable[[dict[str, str]], object]) -> None:
    files = dict(_version(number).files)
    change(files)
    registry.mark(_version(number), {"esd.files": json.dumps(files, sort_keys=True)})


def _report_and_tag(bucket: Bucket, number: int) -> None:
    """Another report, and a tag that fits it: what somebody with write access to all of MLflow does."""
    report = _artifact(number, "report.html")
    report.write_text("<!doctype html><title>all is well</title>")
    _files(bucket, number, lambda files: files.update({"report.html": digest.of_file(report)}))


def _artifact_as_folder(_bucket: Bucket) -> None:
    path = _artifact(5, "grid.png")
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _copied(number: int, model: str, artifacts: str) -> None:
    """A version with all tags of one of ours."""
    tags, page = mirror.page_of(_version(number))
    tracking.client().create_model_version(model, artifacts, tags=tags, description=page)


def _planted_version(_bucket: Bucket) -> None:
    """One whose files nobody serves."""
    _copied(5, MODEL, f"http://127.0.0.1:{free_port()}/files")


def _misplaced_version(_bucket: Bucket) -> None:
    tracking.client().create_registered_model("esd-miniature-moon")
    _copied(5, "esd-miniature-moon", _version(5).artifacts)


def _edited_page(_bucket: Bucket) -> None:
    _, page = mirror.page_of(_version(4))
    mirror.describe(_version(4), page.replace("towers lost", "all is well"))


def _edited(key: str, old: str, new: str) -> Callable[[Bucket], object]:
    return lambda b: b.put(key, (b.get(key) or b"").replace(old.encode(), new.encode()))


def _edited_figures(_bucket: Bucket) -> None:
    _, page = mirror.page_of(_version(5))
    assert "95.0%" in page
    mirror.describe(_version(5), page.replace("95.0%", "99.9%"))


def _lost(bucket: Bucket) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key=POINTER)


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
    "pointer": (
        _edited(POINTER, '"version": 2', '"version": 1'),
        "latest.json names version 1, the approval log version 2: moved without a record",
    ),
    "pointer lost": (_lost, "latest.json names nothing, the approval log version 2"),
    "tag of the job, nested without end": (_tag(5, "esd.files", "[" * 4000), "5 was not registered by this system"),
    "tag of the files, without weights": (
        lambda b: _files(b, 5, lambda files: files.pop("weights.safetensors")),
        "5 was not registered by this system",
    ),
    "tag of the code, after the approval": (
        _tag(3, "esd.code_version", "9"),
        r"3: entry 3 .*\(approved by Ada\) is about other files, figures or tags than are registered now",
    ),
    "report and its tag, after the approval": (
        lambda b: _report_and_tag(b, 3),
        r"3: entry 3 .*\(approved by Ada\) is about other files, figures or tags than are registered now",
    ),
    "report and its tag, after the release": (
        lambda b: _report_and_tag(b, 2),
        r"2: in S3: report\.html is another than the registered one",
    ),
    "figures on the page": (_edited_figures, "5: its page does not say what was registered: edited by hand"),
    "pointer to another folder": (
        _edited(POINTER, RELEASE, RELEASE.replace("/2/", "/1/")),  # what a consumer with boto3 alone follows
        "latest.json names the right version, but another release than the approval log: edited by hand",
    ),
    "artifact that is a folder": (_artifact_as_folder, "5: artifact grid.png: grid.png of .* was altered"),
    "version of somebody else's server": (_planted_version, r"6: artifact report\.html: http://\S+ cannot be read"),
    "version under another model's name": (
        _misplaced_version,
        f"esd-miniature-moon 1: esd-miniature-moon version 1 holds the job of {MODEL}: its tags were edited by hand",
    ),
    "weights of nobody": (
        lambda b: b.put("weights/abc.safetensors", b"x"),
        "^in S3: 'weights/abc.safetensors' is of no version that the approval log knows$",
    ),
    "manifest of 17 MiB": (
        lambda b: b.put(f"{RELEASE}manifest.json", b" " * (17 << 20)),
        "2: in S3: s3://.*/manifest.json is none of ours: 17825792 bytes",
    ),
    "entry of 17 MiB": (
        lambda b: b.put("approvals/000004.json", b" " * (17 << 20)),
        "^approval log is broken: s3://.*/approvals/000004.json is none of ours: 17825792 bytes",
    ),
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
    "entry changed": (
        _edited("approvals/000004.json", "towers lost", "towers kept"),
        "approval log .* is broken before approvals/000005.json: an entry was altered",
    ),
}
