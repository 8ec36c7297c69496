"""Releases in S3: only what was approved, whole or not at all, and no alteration goes unseen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from esd_core import digest
from esd_core.errors import ApprovalError, InvalidInput, RegistryError, ReleaseError
from tasks.approvals import approval, overview
from tasks.records import registry, tracking
from tasks.records.registry import RegisteredVersion
from tasks.releases import release
from tasks.releases.release import publish, verify
from tasks.s3.storage import Bucket
from tests.integration.conftest import Made, read_json

Make = Callable[..., Made]
MADE = {"report.html", "grid.png", "evaluation.json", "verdict.json", "history.jsonl"}
BESIDE = MADE | {"README.md", "config.json", "manifest.json"}
FILES = BESIDE | {"weights.safetensors"}
MODEL, PREFIX, LATEST = "esd-miniature-sun", "releases/esd-miniature-sun/1/", "releases/esd-miniature-sun/latest.json"


def test_a_release_is_whole_and_verifies(approved: RegisteredVersion, bucket: Bucket) -> None:
    published = publish(approved.model, 1)
    assert published.uri == f"s3://{bucket.name}/{PREFIX}"
    assert {key.removeprefix(PREFIX) for key in bucket.listing(PREFIX)} == BESIDE
    assert list(bucket.listing("weights/")) == [f"weights/{approved.weights_digest}.safetensors"]
    manifest = bucket.get(f"{PREFIX}manifest.json")
    assert manifest
    assert published.manifest_digest == digest.of_bytes(manifest)
    content = json.loads(manifest)
    assert set(content["files"]) == FILES - {"manifest.json"}
    assert [approval["by"] for approval in content["approvals"]] == ["Ada Lovelace"]
    assert content["weights_digest"] == approved.weights_digest
    assert re.fullmatch(r"\d+\.\d+\.\d+, sources [0-9a-f]{12}", content["code"])
    assert verify(published.uri) == []
    entry = tracking.client().get_model_version(approved.model, "1")
    assert entry.tags["esd.release"] == published.uri
    assert "released" in entry.aliases
    pointer = read_json(bucket.get(LATEST))
    assert (pointer["version"], pointer["release"], pointer["entry"]) == (1, PREFIX, 2)
    assert pointer["manifest_digest"] == published.manifest_digest


def test_a_download_by_the_aws_sdk_alone_verifies(downloaded: Path) -> None:
    assert {path.name for path in downloaded.iterdir()} == FILES
    assert verify(str(downloaded)) == []
    assert set(load_file(downloaded / "weights.safetensors")) == {"conv_in.weight"}


def test_verifying_needs_neither_torch_nor_mlflow(downloaded: Path) -> None:
    code = (
        "import sys; from tasks.releases.release import verify; assert verify(sys.argv[1]) == [];"
        "heavy = {'torch', 'mlflow', 'prefect', 'boto3', 'diffusers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(downloaded)], check=True, cwd=Path(release.__file__).parents[2])


def test_publishing_again_returns_what_is_there(approved: RegisteredVersion, bucket: Bucket) -> None:
    first = publish(approved.model, 1)
    before = bucket.listing()
    assert publish(approved.model, 1) == first
    assert bucket.listing() == before


def test_what_nobody_approved_is_not_published(bucket: Bucket, make: Make) -> None:
    version = make().register()
    with pytest.raises(ApprovalError, match=r"version 1 is not approved: `esd approve esd-miniature-sun 1 --by NAME"):
        publish(version.model, 1)
    registry.mark(version, {"esd.approval": "approved"}, alias="approved")  # tags are not the record
    with pytest.raises(ApprovalError, match="is not approved"):
        publish(version.model, 1)
    assert list(bucket.listing()) == []


def test_what_was_rejected_is_not_published(approved: RegisteredVersion, bucket: Bucket) -> None:
    approval.reject(approved.model, 1, "Grace", "towers lost")
    with pytest.raises(ApprovalError, match=r"was rejected by Grace \(towers lost\)"):
        publish(approved.model, 1)
    assert list(bucket.listing("releases/")) == []


def test_other_weights_than_the_approved_are_not_published(approved: RegisteredVersion, bucket: Bucket) -> None:
    stored = Path(approved.artifacts.removeprefix("file://")) / "weights.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(RegistryError, match="was altered after registration"):
        publish(approved.model, 1)
    files = {**approved.files, "weights.safetensors": digest.of_file(stored)}
    registry.mark(
        approved, {"esd.weights_digest": digest.of_file(stored), "esd.files": json.dumps(files)}
    )  # tags follow the altered file
    with pytest.raises(ApprovalError, match="was approved with other weights"):
        publish(approved.model, 1)
    registry.mark(approved, {"esd.weights_digest": approved.weights_digest})
    with pytest.raises(ApprovalError, match="was approved with other files"):
        publish(approved.model, 1)
    assert list(bucket.listing("releases/")) == []


def test_a_release_of_other_content_stays_as_it_is(approved: RegisteredVersion, bucket: Bucket) -> None:
    publish(approved.model, 1)
    key = f"{PREFIX}manifest.json"
    theirs: Any = read_json(bucket.get(key))
    other = "ab" * 32
    for place in (theirs, theirs["approvals"][0]):
        place["weights_digest"] = other
    theirs["files"]["weights.safetensors"] |= {"sha256": other, "key": f"weights/{other}.safetensors"}
    content = json.dumps(theirs).encode()
    bucket.put(key, content)
    with pytest.raises(ReleaseError, match="is already published with other content") as caught:
        publish(approved.model, 1)
    assert "\n" not in str(caught.value)
    assert bucket.get(key) == content


@pytest.mark.parametrize("crash_at", [1, 3, 8])
def test_a_crash_while_publishing_leaves_no_release(
    approved: RegisteredVersion, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    with monkeypatch.context() as crash:
        puts = []

        def put(self: Bucket, key: str, *content: object) -> None:
            puts.append(key)
            if len(puts) == crash_at:
                raise KeyboardInterrupt
            original(self, key, *content)

        original: Callable[..., None] = Bucket.put
        crash.setattr(Bucket, "put", put)
        crash.setattr(Bucket, "put_new", put)
        with pytest.raises(KeyboardInterrupt):
            publish(approved.model, 1)
    uri = f"s3://{bucket.name}/{PREFIX}"
    assert any("not a finished release" in fault for fault in verify(uri))
    assert release.released() == {}
    assert verify(publish(approved.model, 1).uri) == []


def test_objects_whose_names_leave_the_folder_are_faults(approved: RegisteredVersion, bucket: Bucket) -> None:
    uri = publish(approved.model, 1).uri
    bucket.put(f"{PREFIX}sub/extra.txt", b"x")
    bucket.put(f"{PREFIX}extra.txt", b"x")
    faults = verify(uri)
    assert len(faults) == 2
    assert all("extra.txt' is not in the manifest" in fault for fault in faults)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("place", "message"), [("/no/such/folder", "no such folder"), ("s3://not-there/releases/x/1/", "does not exist")]
)
def test_what_cannot_be_looked_at_is_an_error_not_a_verdict(place: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        verify(place)


def test_the_model_card_tells_how_to_use_it_and_what_was_measured(downloaded: Path) -> None:
    card = (downloaded / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "diffusers"
    assert "concept-erasure" in matter["tags"]
    assert "| **sun, implied** | 20 | 95.0% | 5.0% (1% to 24%) |" in body
    assert re.search(r"approved by \| Ada Lovelace \(.*entry 1 of the log, policy manual\): looked at the grid", body)
    assert "its licence (creativeml-openrail-m)" in card
    for heading in ("## Load it", "## Intended use", "## Figures", "## Limits", "## Licences"):
        assert heading in body
    code = body.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 6
    compile(code, "card", "exec")


def test_status_tells_verdict_approval_and_release(approved: RegisteredVersion, make: Make) -> None:
    make(seed=5, after=15).register()
    uri = publish(approved.model, 1).uri
    rows = {row.version: row for row in overview.status()}
    assert (rows[1].verdict, rows[1].approval, rows[1].release) == ("gates passed", "approved by Ada Lovelace", uri)
    assert (rows[2].verdict, rows[2].approval, rows[2].release) == ("gates not passed", "", "")
