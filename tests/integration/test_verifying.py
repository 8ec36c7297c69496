"""What `esd verify` and `esd publish` say to somebody who must be able to rely on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from esd_core.concepts import ErasureJob
from esd_core.errors import ApprovalError, ReleaseError
from flows.cli import main
from tasks.approvals import approval
from tasks.approvals.approval_log import read_log
from tasks.releases.fetching import fetch
from tasks.releases.release import publish
from tasks.releases.signing import make_key
from tasks.s3.storage import Bucket
from tasks.settings import Settings
from tests.certificates import Authority
from tests.hostile.releases import GOOD, write_release
from tests.integration.conftest import Made

Make = Callable[..., Made]
Say = Callable[..., tuple[int, str]]
MODEL = "esd-miniature-sun"
PLACE = f"releases/{MODEL}/1/"
ADA = "ada@example.org"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Exit code and all output of a command."""

    def run(*command: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(part) for part in command])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


@pytest.fixture
def approved(bucket: Bucket, make: Make) -> Bucket:
    make().register()
    approval.approve(MODEL, 1, "Ada Lovelace", "looked at the grid")
    return bucket


def forge(folder: Path) -> None:
    """Another name under the approval, and a manifest that fits."""
    path = folder / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("Ada Lovelace", "Mallory"), encoding="utf-8")


def test_a_release_in_s3_says_what_it_is_and_who_allowed_it(approved: Bucket, say: Say) -> None:
    published = publish(MODEL, 1)
    code, told = say("verify", approved.uri(PLACE))
    assert code == 0
    assert told.startswith(f"{approved.uri(PLACE)}: whole and unaltered\n")
    for line in (
        rf"model +{MODEL} version 1",
        r"erased +sun, from miniature, with esd-u",
        rf"weights +SHA-256 {published.weights_digest}",
        rf"manifest +SHA-256 {published.manifest_digest}",
        r"approved +by Ada Lovelace on \d{4}-\d\d-\d\d, entry 1: looked at the grid",
        r"tensors +names and shapes not compared: the bundled model is another one than the weights edit",
        r"signed +by nobody",
        r"log +says the same; this version is released",
    ):
        assert re.search(rf"^  {line}$", told, re.MULTILINE), line


@pytest.mark.usefixtures("approved")
def test_a_folder_that_nothing_vouches_for_is_never_called_unaltered(tmp_path: Path, say: Say) -> None:
    publish(MODEL, 1)
    folder = fetch(MODEL, tmp_path / "out")
    for change in (lambda _: None, forge):
        change(folder)
        code, told = say("verify", folder)
        assert (code, told.splitlines()[0]) == (0, f"{folder}: whole, but nothing vouches for its manifest")
    assert "by Mallory" in told
    assert "  log       not asked: not in S3" in told


def test_a_manifest_cannot_steer_the_terminal(approved: Bucket, tmp_path: Path, say: Say) -> None:
    publish(MODEL, 1)
    folder = fetch(MODEL, tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["job"]["base"] = "\x1b[2Jminiature: whole and unaltered"
    manifest["job_digest"] = ErasureJob.model_validate(manifest["job"]).digest
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    code, told = say("verify", folder)
    assert code == 0
    assert "?[2Jminiature" in told
    assert all(line.isprintable() for line in told.splitlines())

    renamed = json.dumps(manifest).replace(MODEL, r"\u001b[2Jmodel").encode()
    approved.put(f"{PLACE}manifest.json", renamed)
    for command in (("verify", approved.uri(PLACE)), ("fetch", MODEL), ("audit",)):
        code, told = say(*command)
        assert code != 0
        assert "is that of ?[2Jmodel" in told
        assert all(line.isprintable() for line in told.splitlines())


@pytest.mark.usefixtures("approved")
def test_a_signature_vouches_for_a_folder_where_it_is_checked(
    tmp_path: Path, say: Say, fresh_settings: Callable[..., Settings]
) -> None:
    public = make_key(tmp_path / "team.pem")
    fresh_settings(signing_key=str(tmp_path / "team.pem"))
    publish(MODEL, 1)
    folder = fetch(MODEL, tmp_path / "out")
    _, unchecked = say("verify", folder)
    assert "nothing vouches" in unchecked
    assert "signed    by somebody; to check by whom, add --key, --roots or --issuer" in unchecked
    code, told = say("verify", folder, "--key", public)
    assert code == 0
    assert told.startswith(f"{folder}: whole and unaltered\n")
    assert "  signed    by team.pem.pub\n" in told
    forge(folder)
    code, told = say("verify", folder, "--key", public)
    assert (code, told) == (1, f"{folder}: manifest.json is not the one that was signed\n")


@pytest.mark.usefixtures("approved")
def test_a_certificate_vouches_from_publishing_to_the_audit(
    tmp_path: Path, say: Say, fresh_settings: Callable[..., Settings]
) -> None:
    root = Authority(tmp_path, "root")
    key, certificate = Authority(tmp_path, "team", parent=root).signer("Ada Lovelace", email=ADA)
    fresh_settings(signing="required", signing_key=str(key), signing_certificate=str(certificate))
    uri = publish(MODEL, 1).uri
    trusted = ("--roots", root.pem, "--identity", ADA)
    code, told = say("verify", uri, *trusted)
    assert code == 0
    assert f"  signed    by Ada Lovelace, {ADA} under root.crt\n" in told
    assert say("fetch", MODEL, "--out", tmp_path / "out", *trusted)[0] == 0
    code, told = say("audit", *trusted)
    assert (code, told) == (
        0,
        "looked at 1 version, 1 release (1 signed) and 2 entries of the approval log: everything agrees\n",
    )
    fresh_settings(verifying_roots=str(root.pem), verifying_identity="grace@example.org")
    code, told = say("verify", uri)
    assert (code, told) == (1, f"{uri}: manifest.sig was made by Ada Lovelace, {ADA}, not by grace@example.org\n")
    assert say("verify", uri, "--key", root.pem, *trusted)[0] == 2


def test_what_stands_in_the_place_of_an_unrecorded_release_is_not_recorded(
    approved: Bucket, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    """Whoever may write releases, but not approve, cannot have his manifest taken for the publisher's."""
    with monkeypatch.context() as crash:
        crash.setattr("tasks.releases.release.record_release", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(MODEL, 1)
    honest = approved.get(f"{PLACE}manifest.json") or b""
    manifest = json.loads(honest)
    manifest["evaluation"]["erased_after"] = 0.0
    approved.put(f"{PLACE}manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ReleaseError, match="holds another manifest than this version makes"):
        publish(MODEL, 1)
    assert read_log(approved)[-1].decision.value == "approved"
    code, told = say("verify", approved.uri(PLACE))
    assert (code, told.split(": ")[1]) == (1, "the approval log does not have it as released")
    approved.put(f"{PLACE}manifest.json", honest)
    publish(MODEL, 1)
    approved.put(f"{PLACE}manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ReleaseError, match="is not what was released: its manifest was altered; see `esd audit`"):
        publish(MODEL, 1)


def test_what_was_not_compared_with_a_base_is_said(tmp_path: Path, say: Say) -> None:
    base = "CompVis/stable-diffusion-v1-4@" + "0" * 40
    folder = write_release(tmp_path / "release", GOOD, base)
    code, told = say("verify", folder)
    assert code == 0
    assert f"  tensors   names and shapes not compared with {base}'s: add --base {base}\n" in told
    code, told = say("verify", folder, "--base", "miniature")
    assert (code, "weights.safetensors belongs to another base model: miniature has digest" in told) == (1, True)


def test_nobody_publishes_under_no_name(approved: Bucket) -> None:
    for name in ("  ", "two\nlines", "policy gates"):
        with pytest.raises(ApprovalError, match="the approval log must say who publishes"):
            publish(MODEL, 1, name)
    assert approved.listing("releases/") == {}


@pytest.mark.usefixtures("approved")
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, say: Say) -> None:
    publish(MODEL, 1)
    (tmp_path / "file").write_text("mine")
    code, told = say("fetch", MODEL, "--out", tmp_path / "file")
    assert code == 2
    assert told.endswith("file cannot be written to: File exists; choose another with --out, or ESD_HOME\n")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("approved")
def test_a_version_that_nobody_decided_on_is_said_to_be_that() -> None:
    with pytest.raises(ReleaseError, match="version 7 is one that nobody has decided on, not released"):
        fetch(f"{MODEL}@7")
