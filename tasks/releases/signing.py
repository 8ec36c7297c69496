"""Signatures of releases: a detached OpenSSF Model Signing signature over manifest.json, which names all else.

Signed offline with an elliptic-curve key, which may have a certificate, or with Sigstore. manifest.sig is a Sigstore
bundle, which the `model_signing` command of that project verifies too. No key is ever kept here: settings name its
file. Whose signature counts: tasks/releases/trust.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from esd_core.errors import InvalidInput, ReleaseError, ServiceUnavailable
from tasks.releases.layout import MANIFEST, SIGNATURE
from tasks.settings import Settings, Signing

if TYPE_CHECKING:
    from model_signing.signing import Config

PUBLIC_SUFFIX = ".pub"


def make_key(path: Path, password: str | None = None) -> Path:
    """Make a development key: the private half at `path`, for the owner only, the public half beside it as .pub."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(path.name + PUBLIC_SUFFIX)
    there = next((half for half in (path, public) if half.exists() or half.is_symlink()), None)
    if there:
        raise InvalidInput(f"{there} exists: keys are not overwritten; choose another name")
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    _write_new(path, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, form), 0o600)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    _write_new(public, key.public_key().public_bytes(pem, info), 0o644)
    return public


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as e:
        raise InvalidInput(f"no key can be written to {path}: {e.strerror}; choose another name") from e
    with os.fdopen(handle, "wb") as f:
        f.write(content)


def sign(manifest: bytes, settings: Settings) -> bytes | None:
    """The signature of a manifest; None where nothing to sign with is set and none is required.

    Raises InvalidInput when what is set cannot be used, ServiceUnavailable when Sigstore does not answer.
    """
    if not (settings.signing_key or settings.signing_sigstore):
        if settings.signing is Signing.REQUIRED:
            raise ReleaseError("releases must be signed (ESD_SIGNING), but no key is set: set ESD_SIGNING_KEY")
        return None
    if settings.signing_sigstore:
        with _errors_of_sigstore():
            return _signature(manifest, _with_sigstore(settings))
    return _signature(manifest, _with_key(settings))


def _signature(manifest: bytes, config: Config) -> bytes:
    with alone(manifest) as folder:
        signature = folder.with_name(SIGNATURE)
        config.sign(folder, signature)
        return signature.read_bytes()


def _with_key(settings: Settings) -> Config:
    """Signing with a key, or with a key and its certificate, which the signature then carries."""
    from model_signing.signing import Config

    key, certificate = settings.signing_key, settings.signing_certificate
    assert key
    password = settings.signing_password.get_secret_value() if settings.signing_password else None
    if certificate and password:
        raise InvalidInput("ESD_SIGNING_PASSWORD: keys with a certificate are read without one: decrypt the key")
    try:
        if certificate:  # of a file that begins with it, the library reads the first, and as the chain all
            return Config().use_certificate_signer(
                private_key=key, signing_certificate=certificate, certificate_chain=[certificate]
            )
        return Config().use_elliptic_key_signer(private_key=key, password=_bytes(password))
    except (OSError, ValueError, TypeError) as e:
        told = f"ESD_SIGNING_KEY: {key}" + (f" with ESD_SIGNING_CERTIFICATE {certificate}" if certificate else "")
        raise InvalidInput(f"{told} cannot be used: {one_line(e)}") from e


def _with_sigstore(settings: Settings) -> Config:
    """Signing as somebody whom Sigstore knows. Never asks in a browser: nobody sits before a night."""
    from model_signing.signing import Config
    from sigstore.oidc import detect_credential

    given = settings.signing_token
    token = given.get_secret_value() if given else detect_credential()
    if not token:
        raise InvalidInput(
            "ESD_SIGNING_SIGSTORE: this machine has no identity of its own (as CI services and clouds give): "
            "set ESD_SIGNING_TOKEN"
        )
    return Config().use_sigstore_signer(identity_token=token, trust_config=settings.sigstore_trust)


@contextmanager
def _errors_of_sigstore() -> Iterator[None]:
    from sigstore.oidc import IdentityError

    try:
        yield
    except InvalidInput:
        raise
    except IdentityError as e:
        raise InvalidInput(f"ESD_SIGNING_TOKEN: Sigstore does not take it: {one_line(e)}") from e
    except Exception as e:  # each of Sigstore's clients has exceptions of its own
        raise ServiceUnavailable(f"Sigstore does not sign: {one_line(e)}; try again, or sign with a key") from e


def _bytes(password: str | None) -> str | None:
    """What the library hands on to cryptography, which wants bytes; its annotation says str."""
    return password.encode() if password else None  # type: ignore[return-value]


@contextmanager
def alone(manifest: bytes) -> Iterator[Path]:
    """A folder that holds the manifest and nothing else: so much is signed, and nothing less can be."""
    with tempfile.TemporaryDirectory(prefix="esd-signing-") as folder:
        alone = Path(folder) / "release"
        alone.mkdir()
        (alone / MANIFEST).write_bytes(manifest)
        yield alone


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
