"""Hostile signatures: whatever lies in manifest.sig, the answer is one line, and never that it is good."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.releases.signing import make_key, sign
from tasks.releases.trust import Trust, faults_of_signature
from tasks.settings import Settings
from tests.certificates import Authority
from tests.hostile.refusals import JSON, QUICK

MANIFEST = b'{"format": "esd-release/2"}\n'
Signed = tuple[bytes, Trust]


@pytest.fixture(scope="module", params=["key", "certificate"])
def signed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """A good signature, and who must have made it."""
    folder = tmp_path_factory.mktemp("signers")
    if request.param == "key":
        key = folder / "team.pem"
        settings, trust = Settings(signing_key=key), Trust(key=make_key(key))
    else:
        root = Authority(folder, "root")
        key, certificate = Authority(folder, "team", parent=root).signer("Ada", email="ada@example.org")
        settings = Settings(signing_key=key, signing_certificate=certificate)
        trust = Trust(roots=root.pem, identity="ada@example.org")
    made = sign(MANIFEST, settings)
    assert made
    assert faults_of_signature(MANIFEST, made, trust, required=True) == []
    return made, trust


def refuse(content: bytes, trust: Trust) -> None:
    faults = faults_of_signature(MANIFEST, content, trust, required=True)
    assert len(faults) == 1, faults
    assert "\n" not in faults[0]


@QUICK
@given(content=st.binary(max_size=300))
def test_no_bytes_are_a_signature(signed: Signed, content: bytes) -> None:
    refuse(content, signed[1])


@QUICK
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_no_byte_makes_checking_a_signature_fail(signed: Signed, place: float, byte: int) -> None:
    content, trust = signed
    at = int(place * len(content))
    faults = faults_of_signature(
        MANIFEST, content[:at] + bytes([byte]) + content[at + 1 :], trust, required=True
    )  # a byte that counts for nothing, such as a space, may be another
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize("signed", ["certificate"], indirect=True)
def test_a_certificate_with_any_byte_altered_is_refused(signed: Signed) -> None:
    content, trust = signed
    bundle = json.loads(content)
    certificate = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
    der = base64.b64decode(certificate["rawBytes"])
    for at in range(len(der)):
        altered = der[:at] + bytes([der[at] ^ 0x10]) + der[at + 1 :]
        certificate["rawBytes"] = base64.b64encode(altered).decode()
        refuse(json.dumps(bundle).encode(), trust)


def places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where in a JSON value something stands, the value itself excepted."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((*at, key), *places(part, (*at, key)))]


@QUICK
@given(data=st.data(), value=JSON)
def test_no_value_in_a_signature_makes_checking_it_fail(signed: Signed, data: st.DataObject, value: Any) -> None:
    content, trust = signed
    bundle = json.loads(content)
    *path, last = data.draw(st.sampled_from(places(bundle)))
    inner = bundle
    for key in path:
        inner = inner[key]
    inner[last] = value
    faults = faults_of_signature(MANIFEST, json.dumps(bundle).encode(), trust, required=True)
    assert all("\n" not in fault for fault in faults)


@pytest.mark.parametrize("content", [b"[" * 100_000, b" " * (2 << 20), b'{"verificationMaterial": 5}', b"null"])
def test_what_is_no_signature_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    refuse(content, Trust(key=make_key(tmp_path / "team.pem")))
