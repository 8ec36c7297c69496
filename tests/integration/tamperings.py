"""Tamperings, and for each the sentence that the audit must name it with."""

from __future__ import annotations

import json
from collections.abc import Callable

from tasks.approvals.approval_log import Decision
from tasks.s3.storage import Bucket
from tests.integration.mischief import (
    MODEL,
    POINTER,
    RELEASE,
    alias,
    appended,
    artifact,
    artifact_as_folder,
    changed,
    copied_release,
    cut_off,
    edited,
    edited_figures,
    edited_page,
    files,
    lost,
    misplaced_version,
    planted_version,
    removed,
    report_and_tag,
    tag,
    untagged,
)

TAMPERINGS: dict[str, tuple[Callable[[Bucket], object], str]] = {
    "tag of the decision": (
        tag(4, "esd.approval", "approved"),
        "4: tag esd.approval says 'approved', the approval log 'rejected'",
    ),
    "tag of who decided": (
        tag(1, "esd.approval_by", "Eve"),
        "1: tag esd.approval_by says 'Eve', the approval log 'Ada'",
    ),
    "tag where nothing was decided": (
        tag(5, "esd.approval", "approved"),
        "5: tag esd.approval says 'approved', the approval log ''",
    ),
    "tag removed": (untagged(2, "esd.state"), "2: tag esd.state says '', the approval log 'released'"),
    "tag of the gates": (tag(5, "esd.gates", "failed"), "5: tag esd.gates or esd.gates_digest says something else"),
    "tag of the weights": (tag(5, "esd.weights_digest", "0" * 64), "5: tag esd.weights_digest says '000"),
    "tag of the concept": (tag(5, "esd.concept", "moon"), "5: tag esd.concept says 'moon', what was registered 'sun'"),
    "tag of the job": (
        tag(5, "esd.job", "{}"),
        "5 was not registered by this system: its esd.* tags are missing or damaged",
    ),
    "tag of the files": (tag(5, "esd.files", json.dumps({"../x": "0"})), "its esd.* tags are missing or damaged"),
    "tag that marks it as ours": (untagged(2, "esd.format"), "2: is in the approval log, but not in the registry"),
    "page": (edited_page, "4: its page tells another history than the approval log"),
    "alias released": (alias("released", 1), "alias released names 1, it should name 2: moved without a record"),
    "alias approved": (alias("approved", 4), "alias approved names 4, it should name 3: moved without a record"),
    "alias candidate": (alias("candidate", 1), "alias candidate names 1, it should name 5"),
    "pointer": (
        edited(POINTER, '"version": 2', '"version": 1'),
        "latest.json names version 1, the approval log version 2: moved without a record",
    ),
    "pointer lost": (lost, "latest.json names nothing, the approval log version 2"),
    "tag of the job, nested without end": (tag(5, "esd.files", "[" * 4000), "5 was not registered by this system"),
    "tag of the files, without weights": (
        lambda b: files(b, 5, lambda files: files.pop("weights.safetensors")),
        "5 was not registered by this system",
    ),
    "tag of the code, after the approval": (
        tag(3, "esd.code_version", "9"),
        r"3: entry 3 .*\(approved by Ada\) is about other files, figures or tags than are registered now",
    ),
    "report and its tag, after the approval": (
        lambda b: report_and_tag(b, 3),
        r"3: entry 3 .*\(approved by Ada\) is about other files, figures or tags than are registered now",
    ),
    "report and its tag, after the release": (
        lambda b: report_and_tag(b, 2),
        r"2: in S3: report\.html is another than the registered one",
    ),
    "figures on the page": (edited_figures, "5: its page does not say what was registered: edited by hand"),
    "pointer to another folder": (
        edited(POINTER, RELEASE, RELEASE.replace("/2/", "/1/")),  # what a consumer with boto3 alone follows
        "latest.json names the right version, but another release than the approval log: edited by hand",
    ),
    "artifact that is a folder": (artifact_as_folder, "5: artifact grid.png: grid.png of .* was altered"),
    "version of somebody else's server": (planted_version, r"6: artifact report\.html: http://\S+ cannot be read"),
    "version under another model's name": (
        misplaced_version,
        f"esd-miniature-moon 1: esd-miniature-moon version 1 holds the job of {MODEL}: its tags were edited by hand",
    ),
    "tag of the entry, of five thousand digits": (
        tag(4, "esd.approval_entry", "9" * 5000),
        "4: tag esd.approval_entry says '999",
    ),
    "log cut off": (cut_off, "4: MLflow shows entry 4, but the approval log ends at 3: it was cut off"),
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
        lambda _: artifact(5, "grid.png").write_bytes(b"x"),
        "5: artifact grid.png: grid.png of .* was altered",
    ),
    "artifact missing": (lambda _: artifact(5, "report.html").unlink(), "5: artifact report.html: .* is missing"),
    "weights changed": (changed("weights.safetensors"), "2: in S3: weights.safetensors was altered"),
    "weights missing": (removed("weights.safetensors"), "2: in S3: weights.safetensors is missing"),
    "object changed": (changed("report.html"), "2: in S3: report.html was altered"),
    "object missing": (removed("grid.png"), "2: in S3: grid.png is missing"),
    "object added": (lambda b: b.put(f"{RELEASE}more.json", b"{}"), "2: in S3: 'more.json' is not in the manifest"),
    "object outside": (
        lambda b: b.put("releases/notes.txt", b"x"),
        "^in S3: 'releases/notes.txt' is part of no release$",
    ),
    "tag of the reason, at length": (
        tag(4, "esd.approval_reason", "towers kept, " * 100),
        r"4: tag esd.approval_reason says 'towers kept, .*\.\.\.', the approval log 'towers lost': edited by hand",
    ),
    "manifest changed": (
        lambda b: b.put(f"{RELEASE}manifest.json", (b.get(f"{RELEASE}manifest.json") or b"") + b" "),
        "2: in S3: manifest.json is not the one that was released",
    ),
    "released without approval": (
        copied_release,
        "5: released without approval: it lies in S3, but the approval log says nothing of it",
    ),
    "released in the log without approval": (
        lambda b: appended(b, 5, Decision.RELEASED, manifest_digest="0" * 64),
        r"5: entry 8 of the approval log \(released by Ada\): released without approval: no person approved it",
    ),
    "other weights approved": (
        lambda b: appended(b, 5, Decision.APPROVED, weights_digest="ab" * 32),
        "5: entry 8 of the approval log .* is about weights abababababab, registered are",
    ),
    "approved against its gates": (
        lambda b: appended(b, 5, Decision.APPROVED, gates_passed=False),
        "5: entry 8 .*: approved against its gates without an override",
    ),
    "entry changed": (
        edited("approvals/000004.json", "towers lost", "towers kept"),
        "approval log .* is broken before approvals/000005.json: an entry was altered",
    ),
}
