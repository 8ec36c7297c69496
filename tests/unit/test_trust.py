"""Signatures with certificates, checked against root certificates; and Sigstore, as far as it goes with no network."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from esd_core.errors import InvalidInput, ServiceUnavailable
from tasks.releases.signing import make_key, sign
from tasks.releases.trust import Trust, faults_of_signature
from tasks.settings import Settings
from tests.certificates import Authority

MANIFEST = b'{"format": "esd-release/2"}\n'
ADA = "ada@example.org"
SIGSTORE = Trust(identity=ADA, issuer="https://accounts.example.org")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "root")


@pytest.fixture(scope="module")
def team(root: Authority) -> Authority:
    """An authority between the root and those who sign."""
    return Authority(root.folder, "team", parent=root)


def signed_by(files_of_signer: tuple[Path, Path]) -> bytes:
    key, certificate = files_of_signer
    made = sign(MANIFEST, Settings(signing_key=key, signing_certificate=certificate))
    assert made
    return made


@pytest.fixture(scope="module")
def signature(team: Authority) -> bytes:
    return signed_by(team.signer("Ada Lovelace", email=ADA))


def faults(signature: bytes, trust: Trust, manifest: bytes = MANIFEST) -> list[str]:
    return faults_of_signature(manifest, signature, trust, required=True)


@pytest.mark.parametrize("identity", [None, ADA, "Ada Lovelace"])
def test_who_has_a_certificate_under_the_root_is_trusted(
    root: Authority, signature: bytes, identity: str | None
) -> None:
    assert faults(signature, Trust(roots=root.pem, identity=identity)) == []


def test_another_name_is_not(root: Authority, signature: bytes) -> None:
    told = [f"manifest.sig was made by Ada Lovelace, {ADA}, not by grace@example.org"]
    assert faults(signature, Trust(roots=root.pem, identity="grace@example.org")) == told


def test_an_altered_manifest_is_noticed(root: Authority, signature: bytes) -> None:
    for i in range(0, len(MANIFEST), 3):
        altered = MANIFEST[:i] + bytes([MANIFEST[i] ^ 1]) + MANIFEST[i + 1 :]
        assert faults(signature, Trust(roots=root.pem), altered) == ["manifest.json is not the one that was signed"]


def test_a_certificate_under_another_root_is_refused(signature: bytes, tmp_path: Path) -> None:
    (fault,) = faults(signature, Trust(roots=Authority(tmp_path, "stranger").pem))
    assert fault.startswith("manifest.sig was made with a certificate that is not good under stranger.crt: ")


def test_one_that_was_made_for_something_else_is_refused(root: Authority, team: Authority) -> None:
    (fault,) = faults(signed_by(team.signer("web server", signs=False)), Trust(roots=root.pem))
    assert "cannot be used for signing" in fault


def test_a_signer_is_no_authority(root: Authority, team: Authority, tmp_path: Path) -> None:
    """Whoever may sign releases may not name others who may."""
    forger = Authority(tmp_path, "forger")
    key, certificate = team.signer("insider")
    forger.key = _key_of(key)
    forger.name, forger.parent = "insider", team
    forger.certificate = _certificate_of(certificate)
    assert faults(signed_by(forger.signer("Ada Lovelace", email=ADA)), Trust(roots=root.pem, identity=ADA))


def test_a_release_outlives_the_certificate_it_was_signed_with(root: Authority, team: Authority) -> None:
    assert faults(signed_by(team.signer("last year", days=(-300, -200))), Trust(roots=root.pem)) == []


def test_a_certificate_that_began_before_its_root_is_refused(root: Authority, team: Authority) -> None:
    assert faults(signed_by(team.signer("back-dated", days=(-4000, 10))), Trust(roots=root.pem))


def test_signatures_of_one_kind_are_none_of_another(root: Authority, signature: bytes, tmp_path: Path) -> None:
    public = make_key(tmp_path / "team.pem")
    with_key = sign(MANIFEST, Settings(signing_key=tmp_path / "team.pem"))
    assert with_key
    assert faults(with_key, Trust(roots=root.pem)) == ["manifest.sig was made with a key, not with a certificate"]
    assert faults(with_key, SIGSTORE) == ["manifest.sig was made with a key, not with Sigstore"]
    assert faults(signature, Trust(key=public)) == ["manifest.sig was made with a certificate, not with a key"]
    assert faults(b"{}", Trust(roots=root.pem))


def test_a_certificate_of_another_key_is_refused_at_signing(team: Authority) -> None:
    key, certificate = team.signer("one")[0], team.signer("two")[1]
    with pytest.raises(InvalidInput, match="does not match") as caught:
        sign(MANIFEST, Settings(signing_key=key, signing_certificate=certificate))
    assert "\n" not in str(caught.value)


def test_a_password_beside_a_certificate_is_refused(team: Authority) -> None:
    key, certificate = team.signer("three")
    given = {"signing_key": key, "signing_certificate": certificate, "signing_password": "x"}
    with pytest.raises(InvalidInput, match=r"ESD_SIGNING_PASSWORD: .* decrypt the key"):
        sign(MANIFEST, Settings.model_validate(given))


def test_what_is_no_root_is_one_line(signature: bytes, tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("no certificate")
    for name, message in (("roots.pem", r"is not root certificates \(PEM\)"), ("missing.pem", "is no file")):
        with pytest.raises(InvalidInput, match=f"{name} {message}") as caught:
            faults(signature, Trust(roots=tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"key": Path("a"), "roots": Path("b")}, "exclude each other"),
        ({"roots": Path("b"), "identity": ADA, "issuer": "https://a.b"}, "exclude each other"),
        ({"identity": ADA}, "counts under root certificates"),
        ({"issuer": "https://a.b"}, "give the identity"),
    ],
)
def test_who_is_trusted_must_be_clear(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Trust(**given)


def test_the_projects_own_command_verifies_a_certificate_too(root: Authority, signature: bytes, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "manifest.json").write_bytes(MANIFEST)
    (release / "manifest.sig").write_bytes(signature)
    command = [sys.executable, "-m", "model_signing", "verify", "certificate", str(release)]
    options = ["--signature", str(release / "manifest.sig"), "--certificate_chain", str(root.pem)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    (release / "manifest.json").write_bytes(MANIFEST + b" ")
    assert subprocess.run([*command, *options], check=False, capture_output=True).returncode != 0


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes out goes to a closed port of this machine."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("no_network")
def test_sigstore_without_a_network_is_one_line() -> None:
    with pytest.raises(ServiceUnavailable, match=r"^Sigstore is not to be reached: .*; try again with a network"):
        faults(b"{}", SIGSTORE)
    with pytest.raises(ServiceUnavailable, match=r"^Sigstore does not sign: .*; try again, or sign with a key$") as e:
        sign(MANIFEST, Settings.model_validate({"signing_sigstore": True, "signing_token": "marked-token"}))
    assert "marked-token" not in str(e.value)
    assert "\n" not in str(e.value)


def test_sigstore_asks_nobody_in_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises((InvalidInput, ServiceUnavailable), match="set ESD_SIGNING_TOKEN"):
        sign(MANIFEST, Settings(signing_sigstore=True))


class _Issuer(BaseHTTPRequestHandler):
    """What Sigstore's client wants to know of somebody who hands out tokens."""

    def do_GET(self) -> None:
        here = f"http://{self.headers['Host']}"
        content = json.dumps({"issuer": here, "authorization_endpoint": here, "token_endpoint": here}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def own_sigstore(tmp_path: Path) -> Iterator[Path]:
    """A trust configuration like the one that the library carries, with an issuer on this machine."""
    store = next(folder for folder in files("sigstore._store").iterdir() if folder.name.endswith("sigstore.dev"))
    root, config = (
        json.loads((store / f"{name}.json").read_text()) for name in ("trusted_root", "signing_config.v0.2")
    )
    path = tmp_path / "trust.json"
    with ThreadingHTTPServer(("127.0.0.1", 0), _Issuer) as issuer:
        threading.Thread(target=issuer.serve_forever, daemon=True).start()
        for known in config["oidcUrls"]:
            known["url"] = f"http://127.0.0.1:{issuer.server_address[1]}"
        media = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        path.write_text(json.dumps({"mediaType": media, "trustedRoot": root, "signingConfig": config}))
        yield path
        issuer.shutdown()


@pytest.mark.usefixtures("no_network")
def test_sigstores_check_refuses_what_it_did_not_sign(signature: bytes, own_sigstore: Path) -> None:
    trust = Trust(identity=ADA, issuer="https://accounts.example.org", sigstore=own_sigstore)
    for broken in (signature, b"{}", b"no signature", b'{"verificationMaterial": {"certificate": {}}}'):
        (fault,) = faults(broken, trust)
        assert fault.startswith("manifest.sig ")
        assert "\n" not in fault


@pytest.mark.usefixtures("no_network")
def test_a_token_that_sigstore_does_not_take_is_one_line(own_sigstore: Path) -> None:
    given = {"signing_sigstore": True, "signing_token": "marked-token", "sigstore_trust": own_sigstore}
    with pytest.raises(InvalidInput, match=r"^ESD_SIGNING_TOKEN: Sigstore does not take it: ") as caught:
        sign(MANIFEST, Settings.model_validate(given))
    assert "marked-token" not in str(caught.value)


def _key_of(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(path.read_bytes(), None)


def _certificate_of(path: Path) -> Any:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(path.read_bytes())
