"""What somebody with write access may do to registry, artifacts, S3 and log behind our back.

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


def version(number: int) -> RegisteredVersion:
    return registry.get_version(MODEL, number)


def artifact(number: int, name: str) -> Path:
    return Path(version(number).artifacts.removeprefix("file://")) / name


def key_of(bucket: Bucket, name: str) -> str:
    manifest = read_json(bucket.get(f"{RELEASE}manifest.json"))
    assert isinstance(manifest["files"], dict)
    return str(manifest["files"][name]["key"])


def tag(number: int, name: str, value: str) -> Callable[[Bucket], object]:
    return lambda _: registry.mark(version(number), {name: value})


def untagged(number: int, name: str) -> Callable[[Bucket], object]:
    return lambda _: tracking.client().delete_model_version_tag(MODEL, str(number), name)


def alias(alias: str, number: int) -> Callable[[Bucket], object]:
    return lambda _: registry.mark(version(number), alias=alias)


def changed(name: str) -> Callable[[Bucket], object]:
    def change(bucket: Bucket) -> None:
        content = bucket.get(key_of(bucket, name))
        assert content
        bucket.put(key_of(bucket, name), content[:-1] + bytes([content[-1] ^ 1]))

    return change


def removed(name: str) -> Callable[[Bucket], object]:
    return lambda b: b.client.delete_object(Bucket=b.name, Key=key_of(b, name))


def copied_release(bucket: Bucket) -> None:
    """A release of version 5, which nobody approved."""
    for key in bucket.listing(RELEASE):
        bucket.put(key.replace("/2/", "/5/"), bucket.get(key) or b"")


def appended(bucket: Bucket, number: int, decision: Decision, **changes: object) -> None:
    """An entry that somebody adds by himself, chained as it must be."""
    keys = list(bucket.listing("approvals/"))
    previous = digest.of_bytes(bucket.get(keys[-1]) or b"") if keys else FIRST
    last = ApprovalRecord.model_validate_json(bucket.get(keys[0]) or b"")
    place = {"entry": len(keys) + 1, "version": number, "decision": decision, "previous": previous}
    told = {**last.model_dump(), **place, "weights_digest": version(number).weights_digest, **changes}
    record = ApprovalRecord.model_validate(told)
    bucket.put(record.key, record.to_bytes())


def files(_bucket: Bucket, number: int, change: Callable[[dict[str, str]], object]) -> None:
    files = dict(version(number).files)
    change(files)
    registry.mark(version(number), {"esd.files": json.dumps(files, sort_keys=True)})


def report_and_tag(bucket: Bucket, number: int) -> None:
    """Another report, and a tag that fits it: what somebody with write access to all of MLflow does."""
    report = artifact(number, "report.html")
    report.write_text("<!doctype html><title>all is well</title>")
    files(bucket, number, lambda files: files.update({"report.html": digest.of_file(report)}))


def artifact_as_folder(_bucket: Bucket) -> None:
    path = artifact(5, "grid.png")
    path.unlink()
    (path / "inside").mkdir(parents=True)


def copied(number: int, model: str, artifacts: str) -> None:
    """A version with all tags of one of ours."""
    tags, page = mirror.page_of(version(number))
    tracking.client().create_model_version(model, artifacts, tags=tags, description=page)


def planted_version(_bucket: Bucket) -> None:
    """One whose files nobody serves."""
    copied(5, MODEL, f"http://127.0.0.1:{free_port()}/files")


def misplaced_version(_bucket: Bucket) -> None:
    tracking.client().create_registered_model("esd-miniature-moon")
    copied(5, "esd-miniature-moon", version(5).artifacts)


def edited_page(_bucket: Bucket) -> None:
    _, page = mirror.page_of(version(4))
    mirror.describe(version(4), page.replace("towers lost", "all is well"))


def edited(key: str, old: str, new: str) -> Callable[[Bucket], object]:
    return lambda b: b.put(key, (b.get(key) or b"").replace(old.encode(), new.encode()))


def edited_figures(_bucket: Bucket) -> None:
    _, page = mirror.page_of(version(5))
    assert "95.0%" in page
    mirror.describe(version(5), page.replace("95.0%", "99.9%"))


def cut_off(bucket: Bucket) -> None:
    for number in range(4, 8):
        bucket.client.delete_object(Bucket=bucket.name, Key=f"approvals/{number:06d}.json")


def lost(bucket: Bucket) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key=POINTER)
