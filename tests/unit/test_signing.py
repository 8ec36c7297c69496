"""Signatures over manifests: made offline with a key, refused when anything was altered."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from esd_core.errors import InvalidInput, ReleaseError
from tasks.releases.signing import make_key, sign
from tasks.releases.trust import Trust, faults_of_signature
from tasks.settings import Settings, Signing

MANIFEST = b'{"format": "esd-release/2"}\n'


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "team.pem"
    make_key(path)
    return path


@pytest.fixture(scope="module")
def signature(key: Path) -> bytes:
    made = sign(MANIFEST, Settings(signing_key=key))
    assert made
    return made


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def owner(key: Path) -> Trust:
    return Trust(key=public(key))


NOBODY = Trust()


def test_a_signature_fits_its_manifest_and_key(key: Path, signature: bytes) -> None:
    assert faults_of_signature(MANIFEST, signature, owner(key), required=True) == []


def test_the_private_half_is_for_its_owner_and_never_overwritten(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    with pytest.raises(InvalidInput, match=r"team\.pem exists: keys are not overwritten"):
        make_key(key)
    assert key.read_bytes() == before


def test_a_key_is_made_with_both_its_halves_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "team.pem.pub").write_text("somebody's")
    with pytest.raises(InvalidInput, match=r"team\.pem\.pub exists: keys are not overwritten"):
        make_key(tmp_path / "team.pem")
    with pytest.raises(InvalidInput, match=r"no key can be written to .*; choose another name"):
        make_key(tmp_path / "team.pem.pub" / "below-a-file")
    assert [path.name for path in tmp_path.iterdir()] == ["team.pem.pub"]


def test_an_altered_manifest_is_noticed(key: Path, signature: bytes) -> None:
    for i in range(len(MANIFEST)):
        altered = MANIFEST[:i] + bytes([MANIFEST[i] ^ 1]) + MANIFEST[i + 1 :]
        assert faults_of_signature(altered, signature, owner(key), required=False)


def test_a_signature_of_somebody_else_is_noticed(signature: bytes, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other.pem")
    (fault,) = faults_of_signature(MANIFEST, signature, Trust(key=other), required=False)
    assert fault == "manifest.sig was made with another key than other.pem.pub"


def test_a_signature_whose_hint_was_changed_to_another_key_is_noticed(signature: bytes, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other.pem")
    theirs = sign(MANIFEST, Settings(signing_key=tmp_path / "other.pem"))
    assert theirs
    forged = json.loads(signature)
    forged["verificationMaterial"] = json.loads(theirs)["verificationMaterial"]
    (fault,) = faults_of_signature(MANIFEST, json.dumps(forged).encode(), Trust(key=other), required=False)
    assert fault == "manifest.sig was not made with other.pem.pub, or manifest.json was altered"


@pytest.mark.parametrize(
    "broken",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"verificationMaterial": 1}', b"[" * 100_000, b"x" * (2 << 20)],
)
def test_what_is_no_signature_is_one_line(key: Path, broken: bytes) -> None:
    (fault,) = faults_of_signature(MANIFEST, broken, owner(key), required=False)
    assert fault.startswith("manifest.sig ")
    assert "\n" not in fault


def test_every_cut_of_a_signature_is_one_line(key: Path, signature: bytes) -> None:
    for end in range(0, len(signature), 97):
        (fault,) = faults_of_signature(MANIFEST, signature[:end], owner(key), required=False)
        assert "\n" not in fault


def test_unsigned_is_allowed_unless_a_key_is_given_or_the_settings_forbid_it(key: Path, signature: bytes) -> None:
    assert faults_of_signature(MANIFEST, None, NOBODY, required=False) == []
    missing = ["manifest.sig is missing: the release is not signed"]
    assert faults_of_signature(MANIFEST, None, NOBODY, required=True) == missing
    assert faults_of_signature(MANIFEST, None, owner(key), required=False) == missing
    (fault,) = faults_of_signature(MANIFEST, signature, NOBODY, required=True)
    assert "cannot be checked without a key" in fault
    assert sign(MANIFEST, Settings()) is None
    with pytest.raises(ReleaseError, match="no key is set: set ESD_SIGNING_KEY"):
        sign(MANIFEST, Settings(signing=Signing.REQUIRED))


def test_a_password_is_asked_for_and_used(tmp_path: Path) -> None:
    public_half = make_key(tmp_path / "team.pem", password="open sesame")
    assert b"ENCRYPTED" in (tmp_path / "team.pem").read_bytes()
    signed = sign(
        MANIFEST, Settings.model_validate({"signing_key": tmp_path / "team.pem", "signing_password": "open sesame"})
    )
    assert faults_of_signature(MANIFEST, signed, Trust(key=public_half), required=True) == []
    for password in (None, "wrong"):
        settings = Settings.model_validate({"signing_key": tmp_path / "team.pem", "signing_password": password})
        with pytest.raises(InvalidInput, match=r"team\.pem cannot be used") as caught:
            sign(MANIFEST, settings)
        assert "open sesame" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_one_line(signature: bytes, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InvalidInput, match="is not a public EC key") as caught:
        faults_of_signature(MANIFEST, signature, Trust(key=tmp_path / "key"), required=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="cannot be used"):
        sign(MANIFEST, Settings(signing_key=tmp_path / "key"))


def test_the_projects_own_command_verifies_it_too(key: Path, signature: bytes, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "manifest.json").write_bytes(MANIFEST)
    (release / "manifest.sig").write_bytes(signature)
    (release / "README.md").write_text("not signed itself: the manifest names its SHA-256")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(release), "--public_key", str(public(key))]
    options = ["--signature", str(release / "manifest.sig"), "--ignore_unsigned_files"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    (release / "manifest.json").write_bytes(MANIFEST + b" ")
    assert subprocess.run([*command, *options], check=False, capture_output=True).returncode != 0
